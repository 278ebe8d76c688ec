# SPDX-License-Identifier: LGPL-2.1-or-later
"""The daemon dies and comes back: with systemd's fd store, without it, and in the middle of things."""

import os
import select
import signal
import struct
import time

import pytest

pytest.importorskip("gi")

from cad import CONFIG, UID_A, UID_B, UID_C, wait_for  # noqa: E402
from cad_fixtures import cad, cad_binary, pair, private_bus  # noqa: E402, F401
from fake_vm import ACTIVE, DRAINING, FREE, REVOKED, Handshake, Vm  # noqa: E402


@pytest.fixture
def channel(pair):
    cad, a, b = pair
    b.daemon.call("Listen", service="dashboard")
    h = Handshake(a, b).run()
    quiet(a, b)
    return cad, a, b, h


def quiet(*vms):
    for vm in vms:
        while vm.device.bell(timeout=0):
            pass


def hello_again(vm, *refs):
    vm.daemon.await_method("Reset")
    vm.daemon.hello([(r["slot"], r["generation"]) for r in refs])


def set_state(cad, vm, slot, state):
    """Edit the table as if the daemon had died right there."""
    with open(cad.runtime / "vm" / vm / "grants", "r+b") as f:
        f.seek(4096 + slot * 256)
        f.write(struct.pack("<I", state))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_lost(channel, how):
    cad, a, b, h = channel
    for round in range(3):
        cad.restart(how)
        hello_again(a, h.at_a)
        hello_again(b, h.at_b)
        vms = cad.vms()
        assert all(vms[n]["connected"] == 1 and vms[n]["control"] and vms[n]["hello"] for n in "ab")
        (kept,) = cad.channels()
        assert (kept["state"], kept["from"], kept["to"], kept["ring"]) == ("active", "a/sensor", "b/dashboard", 4096)
        assert a.table.grant(h.at_a["slot"])["state"] == ACTIVE
    b.daemon.call("Listen", service="dashboard")
    second = Handshake(a, b).run()  # in a window of its own
    one, two = (a.table.grant(x.at_a["slot"]) for x in (h, second))
    assert two["tx_offset"] >= one["tx_offset"] + one["tx_size"]
    assert a.device.bell() and b.device.bell()
    cad.call("RevokeChannel", "ss", kept["id"], "test")
    assert a.device.bell()
    assert a.daemon.await_method("Revoked")["params"]["reason"] == "revoked: test"


def test_ready_comes_last(channel):
    cad, *_ = channel
    cad.restart()
    assert cad.vms()  # the name is on the bus
    assert cad.store.states[-1].get("READY") or any(s.get("READY") for s in cad.store.states)


def test_store_holds_everything_once(channel):
    cad, a, b, _ = channel
    want = {"L.a", "L.b", "C.a", "C.b", "d1"} | {f"{k}1.{m}" for k in "lc" for m in (0, 1)} | {
        f"e1.{m}.{v}" for m in (0, 1) for v in range(8)}
    assert sorted(cad.store.names()) == sorted(want)
    cad.restart()
    assert sorted(cad.store.names()) == sorted(want)
    assert sum(map(len, want)) + len(want) < 128 * 1024
    b.close()
    wait_for(lambda: not cad.vms()["b"]["connected"] and not cad.vms()["b"]["control"], what="b is gone")
    assert set(cad.store.names()) == want - {"C.b", "c1.1"}
    b.boot()
    assert sorted(cad.store.names()) == sorted(want)


def test_user_of_a_vm_is_another_one(channel):
    """The process that was this VM knows its memory and doorbells: it loses both, and the next one gets others."""
    cad, a, b, h = channel
    stat = os.stat(cad.runtime / "region/demo/a")
    cad.configure({**CONFIG, "vm.d/10-a.conf": f"[VM a]\nUser={UID_C}\nServices=sensor camera\n"})
    cad.restart()
    assert f"VM a: its device is not of uid {UID_C}, region demo is made anew" in cad.log()
    assert f"VM a: a process that is not uid {UID_C} tried its control port" in cad.log()
    assert not cad.channels() and not any(v["connected"] or v["control"] for k, v in cad.vms().items() if k == "a")
    with pytest.raises(EOFError):
        a.device.receive()
    new = Vm(cad, "a", UID_C).boot()
    now = os.stat(cad.runtime / "region/demo/a")
    assert (now.st_dev, now.st_ino) != (stat.st_dev, stat.st_ino)
    a.device.map[:4] = b"late"
    os.eventfd_write(a.device.peers[a.device.id][1], 1)
    assert new.device.map[:4] != b"late" and not new.device.bell(1, timeout=0.2)
    new.close()


def test_doorbells_that_were_not_kept(channel):
    """New ones for the whole region, so its devices are lost: nobody's doorbell leads into the void."""
    cad, a, b, h = channel
    cad.stop(signal.SIGKILL)
    lost = next(entry for entry in cad.store.fds if entry[0] == "e1.1.5")
    cad.store.fds.remove(lost)
    os.close(lost[1])
    cad.start(restore=True)
    assert [cad.vms()[n]["connected"] for n in "ab"] == [0, 0]
    assert cad.store.names().count("e1.1.5") == 1
    a.device.close(), b.device.close()
    a.plug(), b.plug()
    os.eventfd_write(a.device.peers[1][5], 1)
    assert b.device.bell(5)


def test_doorbell_that_was_brought_to_an_error(channel):
    """A full eventfd that is signalled once more polls as an error; without FDPOLL=0 systemd drops it."""
    cad, a, b, h = channel
    bell = a.device.peers[a.device.id][0]
    os.eventfd_write(bell, 2**64 - 2)
    cad.call("RevokeChannel", "ss", a.table.grant(h.at_a["slot"])["channel"].hex(), "test")
    assert b.daemon.await_method("Revoked")
    poll = select.poll()
    poll.register(bell, 0)
    assert poll.poll(0) == [(bell, select.POLLERR)]
    cad.restart(signal.SIGKILL)
    assert [cad.vms()[n]["connected"] for n in "ab"] == [1, 1]


def test_vm_dies_while_the_daemon_is_dead(channel):
    cad, a, b, h = channel
    cad.stop(signal.SIGKILL)
    b.close()
    cad.start(restore=True)
    a.device.assert_quiet(0)
    assert a.device.bell()
    assert a.table.grant(h.at_a["slot"])["state"] == REVOKED
    assert b.table.states() == {}
    hello_again(a, h.at_a)
    assert a.daemon.await_method("Revoked")
    a.daemon.call("Released", **h.at_a)
    b.boot()
    b.daemon.call("Listen", service="dashboard")
    a.daemon.inbox.clear()
    Handshake(a, b).run()


def test_vm_starts_while_the_daemon_is_dead(cad):
    """Its QEMU waits in the queue of the socket that systemd kept."""
    cad.start()
    a = Vm(cad, "a", UID_A).boot()
    cad.stop(signal.SIGKILL)
    from fake_vm import Device
    early = Device(cad.runtime / "vm/b/demo.sock", UID_B)
    cad.start(restore=True)
    early.setup(8)
    assert set(early.peers) == set(a.device.peers) == {0, 1}
    early.close(), a.close()


def test_released_while_the_daemon_is_dead(channel):
    cad, a, b, h = channel
    cad.stop(signal.SIGKILL)
    cad.start(restore=True)
    hello_again(b, h.at_b)
    hello_again(a)  # its kernel has let go meanwhile
    assert a.table.states() == {}
    assert b.table.grant(h.at_b["slot"])["state"] == DRAINING
    assert b.daemon.await_method("Revoked")["params"]["reason"] == "closed"


@pytest.mark.parametrize("state_a, state_b, after", [
    (ACTIVE, FREE, (REVOKED, FREE)), (FREE, ACTIVE, (FREE, REVOKED)),  # half-granted, half-closed
    (ACTIVE, REVOKED, (REVOKED, REVOKED)), (REVOKED, ACTIVE, (REVOKED, REVOKED)),  # half-revoked
    (DRAINING, FREE, (DRAINING, FREE)), (FREE, DRAINING, (FREE, DRAINING)),
    (REVOKED, FREE, (REVOKED, FREE)), (REVOKED, REVOKED, (REVOKED, REVOKED)),
])
def test_half_made_is_withdrawn(channel, state_a, state_b, after):
    cad, a, b, h = channel
    cad.stop(signal.SIGKILL)
    set_state(cad, "a", h.at_a["slot"], state_a)
    set_state(cad, "b", h.at_b["slot"], state_b)
    cad.start(restore=True)
    states = [vm.table.grant(ref["slot"])["state"] for vm, ref in ((a, h.at_a), (b, h.at_b))]
    assert tuple(states) == after
    assert cad.members()["a"]["granted"] + cad.members()["a"]["quarantined"] == 8192  # nobody else's yet
    if DRAINING in after:
        wait_for(lambda: REVOKED in (a.table.grant(h.at_a["slot"])["state"], b.table.grant(h.at_b["slot"])["state"]),
                 what="drained")
    hello_again(a), hello_again(b)
    assert not cad.channels()
    assert all(m["granted"] == m["quarantined"] == 0 for m in cad.members().values())


def test_rubbish_in_the_tables(channel):
    """Nobody but us writes there; still no start without an end."""
    cad, a, b, h = channel
    cad.stop(signal.SIGKILL)
    with open(cad.runtime / "vm/a/grants", "r+b") as f:
        for slot in range(1, 200):
            f.seek(4096 + slot * 256)
            f.write(struct.pack("<I", slot % 7) + os.urandom(252))
    cad.start(restore=True)
    assert a.table.grant(h.at_a["slot"])["state"] == ACTIVE
    assert [c["state"] for c in cad.channels()].count("active") == 1
    hello_again(a, h.at_a), hello_again(b, h.at_b)
    b.daemon.call("Listen", service="dashboard")
    Handshake(a, b).run()


def test_without_fd_store(channel):
    """Stopped and started: the connections are lost, so the machines count as gone; the files are reused."""
    cad, a, b, h = channel
    inode = os.stat(cad.runtime / "region/demo/a").st_ino
    cad.restart(signal.SIGTERM, restore=False)
    with pytest.raises(EOFError):
        a.device.receive()
    assert not cad.channels()
    assert a.table.states() == b.table.states() == {}
    assert not any(vm["connected"] or vm["control"] for vm in cad.vms().values())
    a.close(), b.close()
    a.boot(), b.boot()
    assert os.stat(cad.runtime / "region/demo/a").st_ino == inode
    b.daemon.call("Listen", service="dashboard")
    assert Handshake(a, b).run().at_a["generation"] == h.at_a["generation"] + 1


def test_configuration_that_a_running_vm_does_not_fit(channel):
    cad, a, b, h = channel
    cad.stop(signal.SIGKILL)
    for changed in ("Members=b a\nSectionSize=1M\n", "Members=a b\nSectionSize=2M\n",
                    "Members=a b\nSectionSize=1M\nVectors=4\n"):
        cad.configure({**CONFIG, "region.d/10-demo.conf": "[Region demo]\n" + changed})
        cad.spawn(True)
        _, status = os.waitpid(cad.pid, 0)
        cad.pid = None
        assert os.waitstatus_to_exitcode(status) == 1
        assert "10-demo.conf:1: VM a runs with region demo as it was" in cad.log()
    cad.configure(CONFIG)
    cad.start(restore=True)
    hello_again(a, h.at_a), hello_again(b, h.at_b)
    assert cad.channels()[0]["state"] == "active"


def test_ca_and_certificates_stay(channel):
    from test_cad_control import make_csr
    cad, a, _, _ = channel
    a.daemon.call("IssueCertificate", service="sensor", csr=make_csr())
    before = cad.call("ListCertificates"), cad.property("TrustBundle")
    cad.restart()
    assert (cad.call("ListCertificates"), cad.property("TrustBundle")) == before
    assert len(before[0][0]) == 1


def test_handshake_under_way_fails_cleanly(pair):
    cad, a, b = pair
    b.daemon.call("Listen", service="dashboard")
    h = Handshake(a, b).connect()
    h.incoming()
    h.offer()
    h.confirm()
    b.daemon.await_method("Finish")
    cad.restart()
    hello_again(a), hello_again(b)
    assert not cad.channels()
    b.daemon.call("Listen", service="dashboard")
    Handshake(a, b).run()


def test_time_to_come_back(channel, figures):
    cad, a, _, h = channel
    times = []
    for _ in range(5):
        began = time.monotonic()
        cad.stop(signal.SIGKILL)
        cad.start(restore=True)
        times.append(time.monotonic() - began)
        hello_again(a, h.at_a)
    figures["restart_ms"] = round(sorted(times)[2] * 1000, 1)
