# SPDX-License-Identifier: LGPL-2.1-or-later
"""What sivshmd does when the host, the kernel, the policy or itself goes and comes again."""

import base64
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

pytest.importorskip("gi")

from fake_host import NOTHING, Error  # noqa: E402
from guest_daemon import CHANNEL, LISTENER, MANAGER, PATH, Async, Refused, wait_for  # noqa: E402
from lab import paths  # noqa: E402
from sivshmd_world import HERE, IVI, RTOS, UID, pair, preload, sivshmd, world  # noqa: E402, F401
from test_sivshmd import nothing_left, refused, stall  # noqa: E402


def joined(pair):
    """A channel, both ends held by the test."""
    server, client = pair.ivi.client(), pair.rtos.client()
    listener = server.listen("dashboard")
    fd, path, _ = client.connect("sensor", "ivi/dashboard")
    peer_fd, peer_path, _ = server.accept(listener)
    wait_for(lambda: not pair.host.sessions, what="Opened")
    return client, fd, path, server, peer_fd, peer_path


# The host


def test_host_revokes(pair):
    client, fd, path, server, peer_fd, peer_path = joined(pair)
    seen = client.signals(interface="org.freedesktop.DBus.Properties", path=path)
    pair.host.revoke(pair.host.channels[0])
    wait_for(lambda: client.get("State", path, CHANNEL) == "revoked", what="revoked")
    wait_for(lambda: server.get("State", peer_path, CHANNEL) == "revoked", what="revoked there")
    wait_for(lambda: seen, what="PropertiesChanged")
    assert seen[0][2] == (CHANNEL, {"State": "revoked"}, [])
    gone = client.signals(interface=MANAGER)
    os.close(fd)
    wait_for(lambda: gone == [("ChannelRemoved", PATH, (path, "revoked"))], what="removed")
    os.close(peer_fd)
    nothing_left(pair)


def test_host_revokes_without_the_kernel_noticing(pair):
    """The doorbell was lost: the notification alone takes the channel from its holder."""
    client, fd, path, *_ = joined(pair)
    slot, channel = next(iter(pair.rtos.kernel.channels.items()))
    pair.host.connections["rtos"].notify("Revoked", slot=slot, generation=channel.generation, reason="test")
    wait_for(lambda: client.get("State", path, CHANNEL) == "revoked", what="revoked")
    os.close(fd)


def test_revoked_before_accept(pair):
    server, client = pair.ivi.client(), pair.rtos.client()
    listener = server.listen("dashboard")
    fd, _, _ = client.connect("sensor", "ivi/dashboard")
    wait_for(lambda: server.get("Waiting", listener, LISTENER) == 1, what="waiting")
    pair.host.revoke(pair.host.channels[0])
    wait_for(lambda: server.get("Waiting", listener, LISTENER) == 0, what="dropped")
    refused("TimedOut", server.accept, listener, timeout_usec=0)
    os.close(fd)
    nothing_left(pair)


def test_certificate_revoked(pair):
    client, fd, *_ = joined(pair)
    assert client.get("Certificates")
    pair.host.connections["rtos"].notify("CertificateRevoked", service="sensor")
    wait_for(lambda: not client.get("Certificates"), what="forgotten")

    def refuse(host, vm, params):
        raise Error("Revoked", "service rtos/sensor is revoked")
    pair.host.hooks["rtos", "IssueCertificate"] = refuse
    refused("Revoked", client.connect, "sensor", "ivi/dashboard")


def test_host_restarts(pair):
    """A new connection: listeners and channels are told again, and go on."""
    client, fd, path, server, peer_fd, peer_path = joined(pair)
    listener = server.manager("ListListeners")[0][0][0]
    changed = client.signals(interface="org.freedesktop.DBus.Properties", path=PATH)
    for vm in ("rtos", "ivi"):
        pair.host.stop_listening(vm)
    wait_for(lambda: not client.get("HostConnected"), what="lost")
    refused("HostUnavailable", client.connect, "sensor", "ivi/dashboard")
    assert client.get("State", path, CHANNEL) == "active"
    os.close(fd)  # while nobody can be told
    wait_for(lambda: not pair.rtos.kernel.channels, what="released")
    for vm in ("rtos", "ivi"):
        pair.host.start_listening(vm)
    wait_for(lambda: client.get("HostConnected") and server.get("HostConnected"), what="back")
    wait_for(lambda: "dashboard" in pair.host.listening["ivi"], what="listening again")
    assert pair.host.params("rtos", "Hello")[-1]["channels"] == []
    assert len(pair.host.params("ivi", "Hello")[-1]["channels"]) == 1
    fd, _, _ = client.connect("sensor", "ivi/dashboard")
    second = server.accept(listener)
    os.close(fd)
    os.close(second[0])
    os.close(peer_fd)
    nothing_left(pair)
    states = [c["HostConnected"] for _, _, (_, c, _) in changed if "HostConnected" in c]
    assert states == [False, True]


@pytest.mark.parametrize("how", ["Reset", "hang-up"])
@pytest.mark.parametrize("step", ["IssueCertificate", "Connect", "Confirm"])
def test_host_lost_during_handshake(pair, how, step):
    server, client = pair.ivi.client(), pair.rtos.client()
    server.listen("dashboard")
    seen, go = stall(pair.host, ("rtos", step))
    call = Async(client.connect, "sensor", "ivi/dashboard")
    assert seen.wait(5)
    began = time.monotonic()
    if how == "Reset":
        pair.host.connections["rtos"].notify("Reset")
    else:
        pair.host.connections["rtos"].close()
    with pytest.raises(Refused) as info:
        call.result()
    assert info.value.name == "HostUnavailable" and time.monotonic() - began < 5
    pair.host.hooks.clear()
    wait_for(lambda: pair.host.epochs["rtos"] == (2 if how == "Reset" else 3), what="Hello")
    go.set()
    wait_for(lambda: client.get("HostConnected"), what="host")
    nothing_left(pair)
    client.connect("sensor", "ivi/dashboard")


def test_nothing_is_heard_before_welcome(world):
    """Stale messages of a former time: dropped, not answered, not acted on."""
    host = world.host
    answers = []

    def hello(h, vm, params):
        connection = h.connections[vm]
        connection.send({"id": 77, "method": "Incoming", "params": {}})
        connection.send({"id": 999999, "result": {"nonce": "0" * 32}})
        connection.notify("Granted", session="0" * 32, slot=0, generation=1)
        return None
    host.hooks["rtos", "Hello"] = hello
    world.rtos.start()
    connection = host.connections["rtos"]
    connection.calls[77] = answers  # would be filled
    time.sleep(0.2)
    assert host.methods("rtos") == ["Hello"]
    world.ivi.start()


@pytest.mark.parametrize("wrong", ["nonce", "version", "bundle", "name", "silence"])
def test_wrong_welcome(world, wrong):
    def hello(h, vm, params):
        if world.host.methods("rtos").count("Hello") > 1:
            return None
        if wrong == "silence":
            h.connections[vm].notify("Reset")
            return NOTHING
        welcome = h.on_Hello(h.connections[vm], vm, params)
        welcome.update({"nonce": {"nonce": "0" * 32}, "version": {"version": 2}, "bundle": {"trustBundle": "x"},
                        "name": {"vm": "No/Name"}}[wrong])
        return welcome
    world.host.hooks["rtos", "Hello"] = hello
    world.rtos.start()
    first, second = world.host.params("rtos", "Hello")[:2]
    assert first["nonce"] != second["nonce"]
    world.ivi.start()


def test_garbage_from_the_host(pair):
    """Whatever it says, sivshmd lives, answers what asks, and works afterwards."""
    client, fd, path, *_ = joined(pair)
    connection = pair.host.connections["rtos"]
    session = "0" * 32
    flight = base64.b64encode(b"x" * 100).decode()
    with pytest.raises(Error) as info:
        connection.call("Finish", session=session, flight=flight)
    assert info.value.code == -32012
    with pytest.raises(Error) as info:
        connection.call("Bogus")
    assert info.value.code == -32601
    for method in ("Incoming", "Finish"):
        with pytest.raises(Error) as info:
            connection.call(method, nonsense=1)
        assert info.value.code == -32602
    with pytest.raises(Error) as info:
        connection.call("Incoming", session=session, to="radio", flight=flight, ringSize=4096,
                        **{"from": "ivi/dashboard"})
    assert info.value.code == -32005
    connection.notify("Granted", session=session, slot=0, generation=1)
    wait_for(lambda: {"session": session} in pair.host.params("rtos", "Cancel"), what="Cancel")
    connection.notify("Abort", session=session, error={"code": -1, "message": "x"})
    connection.notify("Revoked", slot=9999, generation=1, reason="x")
    connection.notify("Revoked", slot=3, generation=77, reason="x")
    connection.notify("Nothing")
    for text in (b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"jsonrpc":"2.0"}', b"[" * 3000, b"x" * 200_000):
        connection.send_bytes(text + b"\0")
    rng = random.Random(1)
    for _ in range(8):
        connection.send_bytes(bytes(rng.randrange(1, 256) for _ in range(300)) + b"\0")
    wait_for(lambda: client.get("HostConnected"), what="host")
    assert client.get("State", path, CHANNEL) == "active"
    wait_for(lambda: connected_again(client), what="works")
    os.close(fd)


def connected_again(client):
    try:
        os.close(client.connect("sensor", "ivi/dashboard")[0])
        return True
    except Refused as e:
        assert e.name in ("HostUnavailable", "Closed", "PeerNotListening"), e
        return False


def test_session_twice(pair):
    """The host gives a second handshake the id of one that is under way."""
    pair.ivi.client().listen("dashboard")
    seen, go = stall(pair.host, ("rtos", "Confirm"))
    call = Async(pair.rtos.client().connect, "sensor", "ivi/dashboard")
    assert seen.wait(5)
    session = next(iter(pair.host.sessions))
    params = pair.host.params("rtos", "Connect")[0]
    with pytest.raises(Error, match="exists already"):
        pair.host.connections["ivi"].call("Incoming", session=session, to="dashboard", flight=params["flight"],
                                          ringSize=4096, **{"from": "rtos/sensor"})
    # Granted before Finish ends the session
    pair.host.connections["ivi"].notify("Granted", session=session, slot=1, generation=1)
    wait_for(lambda: "Cancel" in pair.host.methods("ivi"), what="Cancel")
    pair.host.hooks.clear()
    go.set()
    with pytest.raises(Refused):
        call.result()
    nothing_left(pair)


def test_replayed_finish(pair):
    pair.ivi.client().listen("dashboard")
    answers = []

    def confirm(h, vm, params):
        session = h.sessions[params["session"]]
        b = h.connections[session["b"]]
        first = b.call("Finish", session=params["session"], flight=params["flight"])
        try:
            b.call("Finish", session=params["session"], flight=params["flight"])
        except Error as e:
            answers.append(e.code)
        raise Error("HandshakeFailed", "replayed") if first else None
    pair.host.hooks["rtos", "Confirm"] = confirm
    refused("HandshakeFailed", pair.rtos.client().connect, "sensor", "ivi/dashboard")
    assert answers == [-32006]
    nothing_left(pair)


def test_certificates_are_renewed(world):
    """The host's clock, not this machine's, says how old a certificate is."""
    world.host.time_shift = 86400 - 12  # certificates live a day
    world.rtos.start()
    world.ivi.start()
    world.ivi.client().listen("dashboard")
    client = world.rtos.client()
    os.close(client.connect("sensor", "ivi/dashboard")[0])
    first = client.get("Certificates")[0][2]

    def renewed():
        return client.get("Certificates") and client.get("Certificates")[0][2] != first
    world.host.hooks["rtos", "IssueCertificate"] = world.host.hooks["ivi", "IssueCertificate"] = \
        lambda h, vm, p: {"certificate": h.ca.issue(p["csr"], h.id_of(vm, p["service"]), days=2),
                          "notAfter": int(time.time()) + 2 * 86400}
    wait_for(renewed, timeout=11, what="renewal")
    os.close(client.connect("sensor", "ivi/dashboard")[0])
    assert world.host.methods("rtos").count("IssueCertificate") == 2


def test_no_key_serves_twice(world):
    """Made ahead or at once: each request has a key of its own."""
    requests = []

    def issue(host, vm, params):
        requests.append(params["csr"])
        return {"certificate": host.ca.issue(params["csr"], host.id_of(vm, params["service"])),
                "notAfter": int(time.time()) + 86400}
    world.host.hooks["rtos", "IssueCertificate"] = world.host.hooks["ivi", "IssueCertificate"] = issue
    world.rtos.start()
    world.ivi.start()
    world.ivi.client().listen("dashboard")
    client = world.rtos.client()
    for pause in (0, 0, 0.3, 2.5, 0.3):  # before one could be made ahead, and after
        time.sleep(pause)
        os.close(client.connect("sensor", "ivi/dashboard")[0])
        client.manager("ForgetCertificates")
    assert len(requests) == 6
    keys = [subprocess.run(["openssl", "req", "-verify", "-noout", "-pubkey"], input=request, text=True, check=True,
                           capture_output=True).stdout for request in requests]
    assert len(set(keys)) == 6


# The kernel


def test_denied(pair):
    client, fd, path, *_ = joined(pair)
    seen = client.signals(interface=MANAGER, member="Refused")
    slot, channel = next(iter(pair.rtos.kernel.channels.items()))
    pair.rtos.kernel.event("denied", slot, channel.generation, op=1, pid=4711, uid=1234, cgroup=99, count=3)
    wait_for(lambda: seen, what="Refused")
    assert seen == [("Refused", PATH, ("sensor", "ivi/dashboard", "NotAuthorized", 1234))]
    assert "Process 4711 of uid 1234, not the holder, tried to mmap" in pair.rtos.log()
    pair.rtos.kernel.event("storm", count=1)
    wait_for(lambda: "doorbell was masked" in pair.rtos.log(), what="log")
    os.close(fd)


def test_flood_of_denials(pair):
    """One uid's attempts are told 32 times in ten seconds; another's attempt is not lost among them."""
    client, fd, _, *_ = joined(pair)
    seen = client.signals(interface=MANAGER, member="Refused")
    slot, channel = next(iter(pair.rtos.kernel.channels.items()))
    for _ in range(500):
        pair.rtos.kernel.event("denied", slot, channel.generation, op=1, pid=4711, uid=1234, cgroup=99)
    pair.rtos.kernel.event("denied", slot, channel.generation, op=1, pid=4712, uid=1235, cgroup=99)
    wait_for(lambda: seen and seen[-1][2][3] == 1235, what="the other uid's refusal")
    assert len(seen) == 33
    assert pair.rtos.log().count("tried to mmap") == 33
    os.close(fd)


def test_refusals_do_not_hide_a_denial(pair):
    """What a uid is refused on the bus uses up no part of what is told of its attempts with a stolen fd."""
    client, fd, *_ = joined(pair)
    for _ in range(40):
        refused("NotAuthorized", client.connect, "sensor", "ivi/nobody")
    slot, channel = next(iter(pair.rtos.kernel.channels.items()))
    pair.rtos.kernel.event("denied", slot, channel.generation, op=1, pid=4711, uid=os.getuid(), cgroup=99)
    wait_for(lambda: "tried to mmap" in pair.rtos.log(), what="the denial is told")
    os.close(fd)


def test_odd_events(pair):
    client, fd, path, *_ = joined(pair)
    for slot, generation in ((0, 0), (9999, 1), (0xffffffff, 0xffffffff), (0, 77)):
        for name in ("released", "revoked", "draining", "denied"):
            pair.rtos.kernel.event(name, slot, generation)
    wait_for(lambda: pair.host.methods("rtos").count("Released") == 4, what="Released")
    assert client.get("State", path, CHANNEL) == "active"
    os.close(fd)


def test_device_breaks(pair):
    """The device is lost and comes again: what the kernel still has is adopted."""
    client, fd, path, *_ = joined(pair)
    with pair.rtos.kernel.lock:
        pair.rtos.kernel.owner.shutdown(2)
    wait_for(lambda: pair.rtos.kernel.opened == 2, what="opened again")
    wait_for(lambda: client.manager("ListChannels")[0], what="adopted")
    assert client.get("State", path, CHANNEL) == "active"
    os.close(fd)
    wait_for(lambda: not client.manager("ListChannels")[0], what="released")


# Itself


def test_restart_while_the_host_writes(pair):
    """An entry that cannot be read just now hides no channel: what Hello does not name is granted to others."""
    client, fd, path, *_ = joined(pair)
    second_fd, second_path, _ = client.connect("sensor", "ivi/dashboard")
    wait_for(lambda: not pair.host.sessions, what="Opened")  # else this host takes the session with the daemon
    rows = sorted(client.manager("ListChannels")[0])
    pair.rtos.kill()
    first, second = sorted(row[1] for row in rows)
    # soon over; and longer than anybody asks, in a slot without a channel before one that has
    pair.rtos.kernel.busy += 3 * [first] + 1000 * [s for s in range(second) if s != first]
    pair.rtos.start()
    wait_for(lambda: sorted(client.manager("ListChannels")[0]) == rows, what="adopted")
    told = pair.host.params("rtos", "Hello")[-1]["channels"]
    assert sorted(c["slot"] for c in told) == [first, second]
    os.close(fd), os.close(second_fd)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_restart(pair, how):
    """Channels outlive the daemon; the next one knows them by the same names."""
    client, fd, path, server, peer_fd, peer_path = joined(pair)
    rows = client.manager("ListChannels")[0]
    second_fd, second_path, _ = client.connect("sensor", "ivi/dashboard")
    pair.rtos.kill(how)
    os.close(second_fd)  # while nobody looks
    pair.rtos.start()
    wait_for(lambda: len(client.manager("ListChannels")[0]) == 1, what="adopted")
    assert client.manager("ListChannels")[0] == rows
    assert client.get("Peer", path, CHANNEL) == "ivi/dashboard"
    assert client.get("PeerSPIFFE", path, CHANNEL) == "spiffe://test.example/vm/ivi/service/dashboard"
    slot, generation = rows[0][1:3]
    assert pair.host.params("rtos", "Hello")[-1]["channels"] == [{"slot": slot, "generation": generation}]
    third = client.connect("sensor", "ivi/dashboard")
    os.close(third[0])
    client.call(path, CHANNEL, "Close")
    os.close(fd)
    os.close(peer_fd)
    server.close()
    nothing_left(pair)


@pytest.mark.parametrize("step", ["IssueCertificate", "Connect", "Confirm"])
def test_killed_during_handshake(pair, step):
    server, client = pair.ivi.client(), pair.rtos.client()
    listener = server.listen("dashboard")
    seen, go = stall(pair.host, ("rtos", step))
    call = Async(client.connect, "sensor", "ivi/dashboard")
    assert seen.wait(5)
    pair.rtos.kill()
    with pytest.raises(Refused):
        call.result()
    pair.host.hooks.clear()
    go.set()
    pair.rtos.start()
    wait_for(lambda: pair.rtos.client().get("HostConnected"), what="host")
    server.call(listener, LISTENER, "Close")
    nothing_left(pair)


def test_end_is_told(pair):
    server = pair.ivi.client()
    listener = server.listen("dashboard")
    accept = Async(server.accept, listener)
    time.sleep(0.1)
    assert pair.ivi.kill(signal.SIGTERM) == 0
    with pytest.raises(Refused) as info:
        accept.result()
    assert info.value.name == "Closed"
    wait_for(lambda: "Unlisten" in pair.host.methods("ivi"), what="Unlisten")
    pair.ivi.start()


def test_systemd_is_told(world):
    """READY comes with the host; without one soon enough, so that a boot does not wait."""
    world.rtos.start()
    wait_for(lambda: "READY=1" in world.rtos.notified(), what="READY")
    world.host.stop_listening("rtos")
    wait_for(lambda: "STATUS=Waiting for the host" in world.rtos.notified(), what="status")
    world.host.stop_listening("ivi")
    began = time.monotonic()
    world.ivi.start(wait=False)
    told = []

    def is_told():
        told.extend(world.ivi.notified())
        return "READY=1" in told
    wait_for(is_told, what="READY")
    assert 1.5 < time.monotonic() - began < 6
    assert told == ["STATUS=Waiting for the host", "READY=1"]
    world.host.start_listening("ivi")
    wait_for(lambda: "STATUS=Serving VM ivi of test.example" in world.ivi.notified(), what="status")
    world.host.start_listening("rtos")
    world.ivi.kill(signal.SIGTERM)
    assert "STOPPING=1" in world.ivi.notified()
    world.ivi.start()


# Policy


def test_reload(pair):
    client, fd, path, server, peer_fd, peer_path = joined(pair)
    gone = client.signals(interface=MANAGER, member="ChannelRemoved")
    pair.rtos.policy_file.write_text(RTOS + "\n[Service sensor2]\nUsr=0\n")
    text = refused("Failed", client.manager, "Reload")
    line = RTOS.count("\n") + 3
    assert f"test.conf:{line}: " in text and "Usr" in text
    assert client.get("State", path, CHANNEL) == "active"
    client.connect("sensor", "ivi/dashboard")  # the old policy is in force
    pair.rtos.policy_file.write_text(RTOS)
    client.manager("Reload")
    assert client.get("State", path, CHANNEL) == "active"
    pair.rtos.policy_file.write_text(RTOS.replace("Connect=ivi/dashboard", "Connect=ivi/camera"))
    client.manager("Reload")
    wait_for(lambda: client.get("State", path, CHANNEL) == "revoked", what="closed")
    refused("NotAuthorized", client.connect, "sensor", "ivi/dashboard")
    os.close(fd)
    wait_for(lambda: (("ChannelRemoved", PATH, (path, "policy"))) in gone, what="removed")


def test_reload_ends_what_is_under_way(pair):
    server, client = pair.ivi.client(), pair.rtos.client()
    listener = server.listen("dashboard")
    accept = Async(server.accept, listener)
    seen, go = stall(pair.host, ("rtos", "Confirm"))
    call = Async(client.connect, "sensor", "ivi/dashboard")
    assert seen.wait(5)
    pair.rtos.policy_file.write_text("")
    client.manager("Reload")
    with pytest.raises(Refused) as info:
        call.result()
    assert info.value.name == "NotAuthorized"
    wait_for(lambda: "Cancel" in pair.host.methods("rtos"), what="Cancel")
    time.sleep(0.1)
    go.set()
    pair.ivi.policy_file.unlink()
    server.manager("Reload")
    with pytest.raises(Refused) as info:
        accept.result()
    assert info.value.name == "Closed"
    assert server.manager("ListListeners")[0] == []
    pair.host.hooks.clear()
    nothing_left(pair)


BAD_POLICIES = [
    ("[Service a]\n", 1, "User="),
    ("[Service A]\nUser=0\n", 1, "service name"),
    ("[Server a]\nUser=0\n", 1, "unknown section"),
    ("User=0\n", 1, ""),
    ("[Service a]\nUser=0\nUser=1\n", 3, ""),
    ("[Service a]\nUser=0\n[Service a]\nUser=0\n", 3, ""),
    ("[Service a]\nUser=no-such-user-here\n", 2, "no such user"),
    ("[Service a]\nUser=0\nConnect=ivi\n", 3, "vm/service"),
    ("[Service a]\nUser=0\nAccept=ivi/x ivi/x\n", 3, "twice"),
    ("[Service a]\nUser=0\nChannels=0\n", 3, "Channels"),
    ("[Service a]\nUser=0\nChannels=2033\n", 3, "Channels"),
    ("[Service a]\nUser=0\nMaxRingSize=5000\n", 3, "power of two"),
    ("[Service a]\nUser=0\nUnit=foo\n", 3, "Unit"),
    ("[Service a]\nUser=0\nUnit=user.slice\n", 3, "Unit"),
]


def test_check_config(sivshmd, tmp_path):
    config = tmp_path / "etc/sivshm/policy.d/a.conf"
    config.parent.mkdir(parents=True)

    def check():
        return subprocess.run([sivshmd, "--check-config", f"--config-root={tmp_path}"], capture_output=True, text=True)
    assert check().stdout == "0 services\n"
    for text, line, what in BAD_POLICIES:
        config.write_text(text)
        done = check()
        assert done.returncode == 1 and f"a.conf:{line}: " in done.stderr and what in done.stderr, (text, done)
        refused_start = subprocess.run([sivshmd, f"--config-root={tmp_path}", "--no-module", "--bus=unix:path=/nowhere"],
                                       capture_output=True, text=True, timeout=20)
        assert refused_start.returncode == 78 and f"a.conf:{line}: " in refused_start.stderr
    config.write_text(RTOS)
    assert check().stdout == "4 services\n"


def test_command_line(sivshmd):
    def run(*argv):
        return subprocess.run([sivshmd, *argv], capture_output=True, text=True, timeout=20)
    assert run("--help").returncode == 0 and "--port=PATH" in run("--help").stdout
    assert re.fullmatch(r"sivshmd \d+\.\d+\.\d+\n", run("--version").stdout)
    assert run("--bogus").returncode == 1
    assert run("extra").returncode == 1 and "'extra'" in run("extra").stderr


# Who calls

UNIFIED = Path("/sys/fs/cgroup/unified" if os.path.isdir("/sys/fs/cgroup/unified") else "/sys/fs/cgroup")

IN_UNIT = """
import os, sys
open({procs!r}, "w").write(str(os.getpid()))
sys.path.insert(0, {here!r})
from guest_daemon import Client, Refused
class bus: address = {address!r}
client = Client(bus)
try:
    print(client.connect({service!r}, "ivi/dashboard")[2]["Local"], client.manager("ListChannels")[0][0][7])
except Refused as e:
    print(e.name, e.text)
"""


@pytest.fixture
def slice_folder():
    folder = UNIFIED / f"sivshmtest-{os.getpid()}.slice"
    try:
        folder.mkdir()
    except OSError as e:
        pytest.skip(f"no control group can be made: {e}")
    yield folder
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            path.rmdir()
    folder.rmdir()


def run_in(guest, group, service):
    group.mkdir(parents=True, exist_ok=True)
    code = IN_UNIT.format(procs=str(group / "cgroup.procs"), here=str(HERE), address=guest.bus.address,
                          service=service)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_units(pair, slice_folder):
    pair.ivi.client().listen("dashboard")
    pair.ivi.policy_file.write_text(IVI.replace("rtos/other", "rtos/mute"))
    pair.ivi.client().manager("Reload")
    pair.rtos.policy_file.write_text(RTOS.replace("Unit=mute.service", "Unit=mute.service\nConnect=ivi/dashboard"))
    pair.rtos.client().manager("Reload")
    unit = slice_folder / "mute.service"
    assert run_in(pair.rtos, unit, "mute") == "mute mute.service"
    assert run_in(pair.rtos, unit / "below", "mute") == "mute mute.service"
    other = run_in(pair.rtos, slice_folder / "other.service", "mute")
    assert other.startswith("NotAuthorized") and "the caller is in other.service" in other
    # a unit cannot pass for another by naming a group of its own like one
    inside = run_in(pair.rtos, slice_folder / "other.service" / "mute.service", "mute")
    assert inside.startswith("NotAuthorized") and "the caller is in other.service" in inside
    assert run_in(pair.rtos, slice_folder / "more.slice" / "mute.service", "mute") == "mute mute.service"


# The contract


def tree(text):
    """An interface description as something to compare: without comments, in any order."""
    out = {}
    for interface in ElementTree.fromstring(text).findall("interface"):
        if not interface.get("name").startswith("org.sivshm1."):
            continue
        members = out[interface.get("name")] = {}
        for member in interface:
            notes = {a.get("name"): a.get("value") for a in member.findall("annotation")}
            arguments = [(a.get("name"), a.get("type"), a.get("direction") or "") for a in member.findall("arg")]
            members[member.tag, member.get("name")] = (member.get("type"), member.get("access"), arguments, notes)
    return out


def introspect(client, path):
    return client.call(path, "org.freedesktop.DBus.Introspectable", "Introspect")[0].unpack()[0]


def test_introspection(pair):
    client, fd, path, server, peer_fd, peer_path = joined(pair)
    listener = server.manager("ListListeners")[0][0][0]
    real = {**tree(introspect(client, PATH)), **tree(introspect(client, path)), **tree(introspect(server, listener))}
    assert real == tree((paths.ROOT / "dbus/org.sivshm1.xml").read_text())
    nodes = re.findall(r'<node name="([^"]+)"', introspect(client, "/org/sivshm1/channel"))
    assert nodes == [path.rpartition("/")[2]]
    with pytest.raises(Refused):
        client.call(PATH, "org.freedesktop.DBus.Properties", "Set", "(ssv)", MANAGER, "VM",
                    __import__("gi").repository.GLib.Variant("s", "x"))
    os.close(fd)
