# SPDX-License-Identifier: LGPL-2.1-or-later
"""The relay: every refusal, every way to fail half-way, and that nothing is left of it."""

import os
import time

import pytest

pytest.importorskip("gi")

from cad import CONFIG, UID_A, UID_B, UID_C, wait_for  # noqa: E402
from cad_fixtures import cad, cad_binary, pair, private_bus  # noqa: E402, F401
from fake_vm import ACTIVE, Handshake, RpcError, Vm, b64, spiffe  # noqa: E402

HOST, PEER, NO_PEER, NOT_LISTENING, FAILED, QUOTA = -32002, -32003, -32004, -32005, -32006, -32007
NOT_AUTHORIZED, NOT_READY, TIMED_OUT, CLOSED, REVOKED, NO_OBJECT = -32001, -32010, -32011, -32012, -32013, -32014


@pytest.fixture
def listening(pair):
    cad, a, b = pair
    b.daemon.call("Listen", service="dashboard")
    return pair


def refused(code, action, word=""):
    with pytest.raises(RpcError) as caught:
        action()
    assert caught.value.code == code, caught.value
    assert word in caught.value.text, caught.value


def connect(vm, source="sensor", to="b/dashboard", ring=4096):
    return vm.daemon.call("Connect", **{"from": source}, to=to, ringSize=ring, flight=b64(b"hello"))


def nothing_left(cad, *vms):
    wait_for(lambda: not cad.channels(), what="channels are gone")
    assert all(m["granted"] == m["quarantined"] == 0 for m in cad.members().values())
    for vm in vms:
        assert vm.table.states() == {}


# refusals, in the order in which they are asked

def test_refused_before_the_peer_hears_of_it(pair):
    cad, a, b = pair
    refused(NOT_AUTHORIZED, lambda: connect(a, "dashboard"), "Services=")
    refused(HOST, lambda: connect(a, to="c/x"), "[Allow a/sensor c/x]")
    refused(HOST, lambda: connect(a, to="b/other"), "[Allow a/sensor b/other]")
    refused(HOST, lambda: connect(a, to="a/camera"), "[Allow a/sensor a/camera]")
    refused(HOST, lambda: connect(a, "camera"), "[Allow a/camera b/dashboard]")
    refused(HOST, lambda: connect(b, "dashboard", "a/sensor"), "policy.d")
    refused(HOST, lambda: connect(a, ring=128 * 1024), "MaxRingSize")
    refused(NOT_LISTENING, lambda: connect(a), "does not listen")
    refused(-32602, lambda: connect(a, ring=5000))
    refused(-32602, lambda: connect(a, ring=2048))
    refused(-32602, lambda: connect(a, to="dashboard"))
    assert not b.daemon.heard("Incoming", 0.1)
    assert cad.signal("Refused")[2] == "NotAuthorized"
    b.daemon.close()
    wait_for(lambda: not cad.vms()["b"]["control"], what="b's port is free")
    refused(NOT_LISTENING, lambda: connect(a), "sivshmd")
    cad.call("RevokeVM", "ss", "b", "stolen")
    refused(REVOKED, lambda: connect(a), "stolen")
    refused(HOST, lambda: connect(a, "camera"), "[Allow a/camera b/dashboard]")  # a stranger hears nothing of it


def test_device_is_not_plugged(pair):
    cad, a, b = pair
    b.daemon.call("Listen", service="dashboard")
    a.unplug()
    wait_for(lambda: not cad.vms()["a"]["connected"], what="a's device is gone")
    refused(NOT_READY, lambda: connect(a), "devices")


def test_no_region_joins_them(cad):
    cad.configure({**CONFIG, "vm.d/30-c.conf": f"[VM c]\nUser={UID_C}\nServices=logger\n",
                   "policy.d/20-c.conf": "[Allow a/sensor c/logger]\n"})
    cad.start()
    a = Vm(cad, "a", UID_A).boot()
    refused(NO_PEER, lambda: connect(a, to="c/logger"), "no region")
    assert cad.call("ExplainPolicy", "ss", "a/sensor", "c/logger")[0] is False
    a.close()


def test_refusals_are_not_a_flood(listening):
    cad, a, b = listening
    for _ in range(300):
        refused(HOST, lambda: connect(a, "camera"))
    assert len(cad.log().splitlines()) < 200
    Handshake(a, b).run()


# the other side says no, or nonsense, or nothing

@pytest.mark.parametrize("theirs, ours", [(PEER, PEER), (QUOTA, QUOTA), (FAILED, FAILED), (REVOKED, FAILED),
                                          (-32601, FAILED), (-1, FAILED)])
def test_peer_refuses(listening, theirs, ours):
    cad, a, b = listening
    h = Handshake(a, b).connect()
    h.incoming()
    b.daemon.fail(h.request, theirs, "no\x1b[31m way é")
    refused(ours, lambda: a.daemon.answer(h.asked), "no")
    assert b.daemon.await_method("Abort")["params"]["error"]["code"] == ours
    nothing_left(cad, a, b)


@pytest.mark.parametrize("result", [{}, {"flight": "%%"}, {"flight": b64(b"x"), "more": 1}, {"flight": 7}])
def test_peer_answers_nonsense(listening, result):
    cad, a, b = listening
    h = Handshake(a, b).connect()
    h.incoming()
    b.daemon.reply(h.request, **result)
    refused(FAILED, lambda: a.daemon.answer(h.asked))
    assert b.daemon.await_method("Abort")["params"]["error"]["code"] == FAILED
    Handshake(a, b).run()


@pytest.mark.parametrize("who", ["a", "b"])
def test_wrong_identity(listening, who):
    cad, a, b = listening
    h = Handshake(a, b).connect()
    h.incoming()
    h.offer()
    if who == "a":
        h.confirm(peer=spiffe("b/recorder"))
    else:
        h.confirm()
        h.finish(peer=spiffe("a/camera"))
    refused(FAILED, lambda: a.daemon.answer(h.asked), "identity")
    assert b.daemon.await_method("Abort")["params"]["session"] == h.session
    assert cad.signal("Refused") [:3] == ("a/sensor", "b/dashboard", "HandshakeFailed")
    nothing_left(cad, a, b)


def test_exporters_differ(listening):
    cad, a, b = listening
    h = Handshake(a, b).connect()
    h.incoming()
    h.offer()
    h.confirm()
    h.finish(exporter=b64(bytes(31) + b"\1"))
    refused(FAILED, lambda: a.daemon.answer(h.asked), "same handshake")
    b.daemon.await_method("Abort")
    nothing_left(cad, a, b)


def test_peer_fails_finish(listening):
    cad, a, b = listening
    h = Handshake(a, b).connect()
    h.incoming()
    h.offer()
    h.confirm()
    b.daemon.fail(b.daemon.await_method("Finish"), FAILED, "bad certificate")
    refused(FAILED, lambda: a.daemon.answer(h.asked), "bad certificate")
    nothing_left(cad, a, b)


@pytest.mark.parametrize("step", ["incoming", "offer", "finish"])
def test_timeout(listening, step):
    cad, a, b = listening
    h = Handshake(a, b).connect()
    h.incoming()
    if step != "incoming":
        h.offer()
    if step == "finish":
        h.confirm()
        b.daemon.await_method("Finish")
    if step == "offer":
        assert a.daemon.await_method("Abort")["params"] == {
            "session": h.session, "error": {"code": TIMED_OUT, "message": "the handshake was not finished in time"}}
    else:
        refused(TIMED_OUT, lambda: a.daemon.answer(h.asked))
    assert b.daemon.await_method("Abort")["params"]["error"]["code"] == TIMED_OUT
    nothing_left(cad, a, b)


def test_not_opened(listening):
    cad, a, b = listening
    h = Handshake(a, b).connect()
    h.incoming()
    h.offer()
    h.confirm()
    h.finish()
    h.granted()
    a.daemon.notify("Opened", session=h.session, **h.at_a)
    b.daemon.notify("Opened", session=h.session, slot=h.at_b["slot"], generation=h.at_b["generation"] + 1)
    b.daemon.notify("Opened", session="00" * 16, **h.at_b)
    for vm, ref in ((a, h.at_a), (b, h.at_b)):
        assert vm.daemon.await_method("Revoked")["params"] == {**ref, "reason": "not-opened"}
    assert cad.signal("ChannelClosed")[1] == "not-opened"
    a.daemon.call("Released", **h.at_a)
    assert cad.members()["a"]["quarantined"] == 8192
    b.daemon.call("Released", **h.at_b)
    nothing_left(cad, a, b)


# somebody goes away, at every step

STEPS = ["connect", "incoming", "offer", "confirm", "finish_asked", "granted", "opened"]


def advance(h, until):
    """Run the handshake up to and with that step."""
    h.connect()
    if until == "connect":
        return
    h.incoming()
    if until == "incoming":
        return
    h.offer()
    if until == "offer":
        return
    h.confirm()
    if until == "confirm":
        return
    request = h.b.daemon.await_method("Finish")
    if until == "finish_asked":
        return
    h.b.daemon.reply(request, peer=spiffe("a/sensor"), exporter=b64(bytes(32)))
    h.granted()
    if until == "opened":
        h.opened()


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("who", ["a", "b"])
@pytest.mark.parametrize("how", ["hello", "port", "vm"])
def test_somebody_dies(listening, step, who, how):
    cad, a, b = listening
    victim, other = (a, b) if who == "a" else (b, a)
    fds = len(os.listdir(f"/proc/{cad.pid}/fd"))
    h = Handshake(a, b)
    advance(h, step)
    if how == "hello":  # a new daemon, or a guest that was reset
        victim.daemon.hello()
    elif how == "port":
        victim.daemon.close()
        wait_for(lambda: not cad.vms()[who]["control"], what="port is free")
        victim.start_daemon()
    else:
        victim.close()
        wait_for(lambda: not cad.vms()[who]["connected"], what="device is gone")
        victim.boot()
    for slot, state in other.table.states().items():
        other.daemon.call("Released", slot=slot, generation=other.table.grant(slot)["generation"])
    nothing_left(cad, a, b)
    assert len(os.listdir(f"/proc/{cad.pid}/fd")) == fds
    b.daemon.call("Listen", service="dashboard")
    for vm in (a, b):
        vm.daemon.inbox.clear()
    Handshake(a, b).run()


@pytest.mark.parametrize("step", STEPS[1:])
@pytest.mark.parametrize("who", ["a", "b"])
def test_cancel(listening, step, who):
    cad, a, b = listening
    victim, other = (a, b) if who == "a" else (b, a)
    h = Handshake(a, b)
    advance(h, step)
    session = h.session or h.request["params"]["session"]
    other.daemon.call("Unlisten", service="nothing")  # what it said before has been heard
    if step == "opened":
        refused(NO_OBJECT, lambda: victim.daemon.call("Cancel", session=session))
        return
    assert victim.daemon.call("Cancel", session=session) == {}
    if other is a and step not in ("offer", "granted"):
        refused(CLOSED, lambda: a.daemon.answer(h.asked))
    else:
        assert other.daemon.await_method("Abort")["params"]["session"] == session
    for vm in (a, b):
        for slot in vm.table.states():
            vm.daemon.call("Released", slot=slot, generation=vm.table.grant(slot)["generation"])
    nothing_left(cad, a, b)


def test_sessions_of_others_are_out_of_reach(cad):
    cad.configure({**CONFIG, "vm.d/30-c.conf": f"[VM c]\nUser={UID_C}\nServices=logger\n",
                   "region.d/10-demo.conf": "[Region demo]\nMembers=a b c\nSectionSize=1M\n"})
    cad.start()
    a, b, c = (Vm(cad, name, uid).boot() for name, uid in (("a", UID_A), ("b", UID_B), ("c", UID_C)))
    b.daemon.call("Listen", service="dashboard")
    h = Handshake(a, b).connect()
    h.incoming()
    h.offer()
    confirm = {"session": h.session, "flight": b64(b"x"), "peer": spiffe("b/dashboard"), "exporter": b64(bytes(32))}
    refused(NO_OBJECT, lambda: c.daemon.call("Cancel", session=h.session))
    refused(NO_OBJECT, lambda: c.daemon.call("Confirm", **confirm))
    refused(NO_OBJECT, lambda: b.daemon.call("Confirm", **confirm))  # the listening side cannot either
    refused(NO_OBJECT, lambda: a.daemon.call("Confirm", **{**confirm, "session": "11" * 16}))
    h.confirm()
    refused(NO_OBJECT, lambda: a.daemon.call("Confirm", **confirm))  # twice
    h.finish()
    h.granted().opened()
    assert c.table.states() == {}
    c.daemon.call("Released", **h.at_a)  # c's own slot of that number, which is free
    assert a.table.grant(h.at_a["slot"])["state"] == ACTIVE
    for vm in (a, b, c):
        vm.close()


# quotas

def test_session_quota(cad):
    cad.configure({**CONFIG, "ca.conf": "[CA]\nTrustDomain=test.example\n[Limits]\nSessionsPerVM=2\n"})
    cad.start()
    a, b = Vm(cad, "a", UID_A).boot(), Vm(cad, "b", UID_B).boot()
    b.daemon.call("Listen", service="dashboard")
    for _ in range(2):
        Handshake(a, b).connect().incoming()
    refused(QUOTA, lambda: connect(a), "SessionsPerVM=2")
    a.daemon.hello()
    Handshake(a, b).connect()
    a.close(), b.close()


def flood(vm, count):
    """Connects with the largest flight there is, not waiting for answers."""
    return [vm.daemon.request("Connect", **{"from": "sensor"}, to="b/dashboard", ringSize=4096,
                              flight=b64(bytes(24576))) for _ in range(count)]


def test_flood_of_flights(cad):
    """To a VM that does not answer: a caller has its share and is told, another still gets through. All shares
    together leave the VM its port."""
    callers = {"a": UID_A, "c": UID_C, "d": UID_C + 1, "e": UID_C + 2}
    cad.configure({**CONFIG,
                   "vm.d/30-more.conf": "".join(f"[VM {n}]\nUser={u}\nServices=sensor\n" for n, u in callers.items()
                                                if n != "a"),
                   "region.d/10-demo.conf": "[Region demo]\nMembers=a b c d e\nSectionSize=1M\n",
                   "policy.d/10-demo.conf": "".join(f"[Allow {n}/sensor b/dashboard]\nChannels=64\n" for n in callers)})
    cad.start()
    b = Vm(cad, "b", UID_B).boot()
    a, c, d, e = vms = [Vm(cad, n, u).boot() for n, u in callers.items()]
    b.daemon.call("Listen", service="dashboard")
    asked = flood(a, 20)
    refused(QUOTA, lambda: a.daemon.answer(asked[-1]), "VM a has too many handshakes")
    incoming = [b.daemon.await_method("Incoming") for _ in range(8)]
    Handshake(c, b).run()
    for request in incoming:  # answered: the share is free again
        b.daemon.fail(request, NOT_LISTENING, "no")
    for ident in asked[:8]:
        refused(NOT_LISTENING, lambda i=ident: a.daemon.answer(i))
    Handshake(a, b).run()
    asked = [flood(vm, 9)[-1] for vm in vms]
    for vm, ident in zip((a, c, d), asked):
        refused(QUOTA, lambda: vm.daemon.answer(ident))
    refused(NOT_READY, lambda: e.daemon.answer(asked[3]), "VM b has too many handshakes")
    assert cad.vms()["b"]["hello"]
    for vm in (*vms, b):
        vm.close()


def test_rule_quota_counts_what_is_not_free(listening):
    """Channels that the peer closed but this VM's kernel has not let go of are still charged."""
    cad, a, b = listening
    done = [Handshake(a, b).run() for _ in range(4)]
    refused(QUOTA, lambda: connect(a), "Channels=4")
    for h in done:
        b.daemon.call("Released", **h.at_b)
    refused(QUOTA, lambda: connect(a), "Channels=4")
    for h in done:
        a.daemon.call("Released", **h.at_a)
    Handshake(a, b).run()
    handshakes = [Handshake(a, b).connect() for _ in range(3)]
    for h in handshakes:
        h.incoming()
    refused(QUOTA, lambda: connect(a), "Channels=4")  # handshakes count as well


def test_slot_quota(cad):
    cad.configure({**CONFIG, "vm.d/20-b.conf": f"[VM b]\nUser={UID_B}\nServices=dashboard\nChannels=2\n"})
    cad.start()
    a, b = Vm(cad, "a", UID_A).boot(), Vm(cad, "b", UID_B).boot()
    b.daemon.call("Listen", service="dashboard")
    for _ in range(2):
        Handshake(a, b).run()
    h = Handshake(a, b).connect()
    h.incoming()
    h.offer()
    h.confirm()
    h.finish()
    refused(QUOTA, lambda: a.daemon.answer(h.asked), "Channels=2 of VM b")
    assert len(cad.channels()) == 2
    assert cad.members()["a"]["granted"] == 2 * 8192
    a.close(), b.close()


def test_memory_runs_out(cad):
    cad.configure({**CONFIG, "policy.d/10-demo.conf": "[Allow a/sensor b/dashboard]\nChannels=64\nMaxRingSize=512K\n"})
    cad.start()
    a, b = Vm(cad, "a", UID_A).boot(), Vm(cad, "b", UID_B).boot()
    b.daemon.call("Listen", service="dashboard")
    first = Handshake(a, b, ring=512 * 1024).run()
    h = Handshake(a, b, ring=512 * 1024).connect()
    h.incoming()
    h.offer()
    h.confirm()
    h.finish()
    refused(-32008, lambda: a.daemon.answer(h.asked), "SectionSize=")
    b.daemon.await_method("Abort")
    small = Handshake(a, b, ring=65536).run()
    assert a.table.grant(small.at_a["slot"])["tx_offset"] == 4096 + 4096 + 512 * 1024
    assert len(cad.channels()) == 2 and first
    a.close(), b.close()


def test_time_of_the_relay(listening, figures):
    """What the host adds to a handshake, with both daemons answering at once."""
    cad, a, b = listening
    times = []
    for _ in range(50):
        began = time.monotonic()
        h = Handshake(a, b).run()
        times.append(time.monotonic() - began)
        a.daemon.call("Released", **h.at_a)
        b.daemon.call("Released", **h.at_b)
    times.sort()
    figures["relay_ms_p50"], figures["relay_ms_max"] = (round(t * 1000, 2) for t in (times[25], times[-1]))
    assert times[25] < 0.05
    nothing_left(cad, a, b)
