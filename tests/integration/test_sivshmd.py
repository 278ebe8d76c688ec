# SPDX-License-Identifier: LGPL-2.1-or-later
"""sivshmd for real, two of them, each on its own bus, joined by a fake host over fake kernels."""

import errno
import os
import socket
import subprocess
import sys
import time

import pytest

pytest.importorskip("gi")

from gi.repository import GLib  # noqa: E402

from fake_host import NOTHING, Authority, Error  # noqa: E402
from fake_kernel import Grant  # noqa: E402
from guest_daemon import (CHANNEL, LISTENER, MANAGER, PATH, Async, Client, Refused, wait_for)  # noqa: E402
from sivshmd_world import HERE, IVI, RTOS, UID, pair, preload, sivshmd, world  # noqa: E402, F401

ENDS = [("rtos", "sensor"), ("ivi", "dashboard")]


def refused(name, function, *arguments, **kw):
    with pytest.raises(Refused) as info:
        function(*arguments, **kw)
    assert info.value.name == name, info.value
    return info.value.text


def invalid(function, *arguments, **kw):
    return refused("org.freedesktop.DBus.Error.InvalidArgs", function, *arguments, **kw)


def nothing_left(world):
    """No session, grant, channel or half-done call at any place."""
    host = world.host
    wait_for(lambda: not host.sessions and not host.channels, what="host free")
    for guest in (world.rtos, world.ivi):
        wait_for(lambda: not guest.kernel.channels, what="kernel free")
        if guest.process.poll() is None:
            wait_for(lambda: not guest.client().manager("ListChannels")[0], what="no channel objects")


# The main path


def test_connect_and_accept(pair):
    server, client = pair.ivi.client(), pair.rtos.client()
    warm_up(pair)
    before = [g.fds() for g in (pair.rtos, pair.ivi)]
    listener = server.listen("dashboard")
    accepted = Async(server.accept, listener)
    fd, path, identity = client.connect("sensor", "ivi/dashboard", ring=8192)
    peer_fd, peer_path, peer_identity = accepted.result()

    assert identity["Peer"] == "ivi/dashboard" and identity["Local"] == "sensor"
    assert identity["PeerSPIFFE"] == "spiffe://test.example/vm/ivi/service/dashboard"
    assert identity["LocalSPIFFE"] == "spiffe://test.example/vm/rtos/service/sensor"
    assert peer_identity["Peer"] == "rtos/sensor" and peer_identity["RingSize"] == 8192
    assert identity["Certificate"].startswith("-----BEGIN CERTIFICATE-----")
    assert [s for s, _ in identity["Steps"]] == ["caller", "policy", "client-hello", "certificate", "server-hello",
                                                 "server-verified", "granted", "opened"]
    assert [s for s, _ in peer_identity["Steps"]] == ["policy", "certificate", "server-hello", "client-finished",
                                                      "client-verified", "granted", "opened"]
    times = [t for _, t in identity["Steps"]]
    assert times == sorted(times) and times[-1] <= identity["HandshakeUSec"] < 10_000_000

    for guest, who, p, (vm, service) in ((pair.rtos, client, path, ENDS[0]), (pair.ivi, server, peer_path, ENDS[1])):
        (slot, channel), = guest.kernel.channels.items()
        assert channel.uid == UID and channel.cgroup == os.stat(cgroup_path()).st_ino
        assert who.get("Local", p, CHANNEL) == service and who.get("State", p, CHANNEL) == "active"
        assert who.get("Slot", p, CHANNEL) == slot and who.get("UID", p, CHANNEL) == UID
        assert who.get("RingSize", p, CHANNEL) == 8192
        row, = who.manager("ListChannels")[0]
        assert row[:6] == (p, slot, channel.generation, service,
                           "ivi/dashboard" if vm == "rtos" else "rtos/sensor", "active")
    wait_for(lambda: not pair.host.sessions, what="both Opened")

    os.close(fd)
    os.close(peer_fd)
    nothing_left(pair)
    server.call(listener, LISTENER, "Close")
    wait_for(lambda: [g.fds() for g in (pair.rtos, pair.ivi)] == before, what="fds as before")


def warm_up(pair):
    """The first handshake opens what stays open: a timer's fd, and such."""
    server = pair.ivi.client()
    server.listen("dashboard")
    os.close(pair.rtos.client().connect("sensor", "ivi/dashboard")[0])
    server.close()
    nothing_left(pair)


def cgroup_path():
    line = next(line for line in open("/proc/self/cgroup") if line.startswith("0::"))
    unified = "/sys/fs/cgroup/unified" if os.path.isdir("/sys/fs/cgroup/unified") else "/sys/fs/cgroup"
    return unified + line[3:].strip()


def test_own_service_may_be_left_out(pair):
    pair.ivi.client().listen("")
    _, _, identity = pair.rtos.client().connect("", "ivi/dashboard")
    assert identity["Local"] == "sensor"


def test_warm_connect_needs_no_certificate(pair):
    pair.ivi.client().listen("dashboard")
    client = pair.rtos.client()
    for _ in range(3):
        client.connect("sensor", "ivi/dashboard")
    assert pair.host.methods("rtos").count("IssueCertificate") == 1
    assert pair.host.methods("ivi").count("IssueCertificate") == 1
    (service, spiffe, serial, not_after), = client.get("Certificates")
    assert (service, spiffe) == ("sensor", "spiffe://test.example/vm/rtos/service/sensor")
    assert int(serial, 16) > 4096 and time.time() < not_after < time.time() + 90000
    client.manager("ForgetCertificates")
    assert client.get("Certificates") == []
    client.connect("sensor", "ivi/dashboard")
    assert pair.host.methods("rtos").count("IssueCertificate") == 2


def test_connections_wait_for_accept(pair):
    server, client = pair.ivi.client(), pair.rtos.client()
    listener = server.listen("dashboard", backlog=3)
    seen, other = server.signals(interface=LISTENER), pair.ivi.client().signals(interface=LISTENER)
    paths = [client.connect("sensor", "ivi/dashboard")[1] for _ in range(3)]
    wait_for(lambda: server.get("Waiting", listener, LISTENER) == 3, what="three waiting")
    assert "backlog" in refused("QuotaExceeded", client.connect, "sensor", "ivi/dashboard")
    wait_for(lambda: len(seen) == 3, what="Incoming")
    assert seen[0] == ("Incoming", listener, ("rtos/sensor",))
    assert server.manager("ListListeners")[0] == [(listener, "dashboard", UID, "", 3, 3)]
    first = server.accept(listener)
    assert server.get("Waiting", listener, LISTENER) == 2
    assert other == [], "Incoming is for the creator alone"
    # closing the listener ends those that nobody has accepted, not the accepted one
    server.call(listener, LISTENER, "Close")
    wait_for(lambda: len(pair.ivi.kernel.channels) == 1, what="waiting ones closed")
    assert server.get("State", first[1], CHANNEL) == "active"
    assert len(paths) == 3


def test_one_peer_does_not_fill_the_backlog(pair):
    """Handshakes that a peer begins and never ends give way when another peer comes; its own do not."""
    server, client = pair.ivi.client(), pair.rtos.client()
    listener = server.listen("dashboard", backlog=2)
    client.connect("sensor", "ivi/dashboard")
    server.accept(listener)
    flight = pair.host.params("rtos", "Connect")[0]["flight"]

    def begin(peer):
        session = os.urandom(16).hex()
        pair.host.connections["ivi"].call("Incoming", session=session, to="dashboard", flight=flight, ringSize=4096,
                                          **{"from": peer})
        return session
    sessions = [begin("rtos/sensor") for _ in range(2)]
    with pytest.raises(Error) as refusal:
        begin("rtos/sensor")
    assert "backlog" in str(refusal.value)
    begin("rtos/other")
    wait_for(lambda: {"session": sessions[0]} in pair.host.params("ivi", "Cancel"), what="the oldest one goes")
    with pytest.raises(Error):
        begin("rtos/other")  # nobody has more than half now


def test_listener_whose_end_the_bus_did_not_tell(pair):
    """A bus that has too much for the daemon drops what it has to tell it. Who wants the service finds out."""
    server, client = pair.ivi.client(), pair.ivi.client()
    server.listen("dashboard")
    config = pair.ivi.folder / "bus.conf"
    before = config.read_text()

    def reload(text):
        config.write_text(text)
        client.bus.call_sync("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "ReloadConfig",
                             None, None, 0, 5000, None)
    reload(before.replace("  </policy>", '<deny receive_sender="org.freedesktop.DBus" '
                                         'receive_interface="org.freedesktop.DBus" receive_member="NameOwnerChanged"/></policy>'))
    server.close()
    time.sleep(0.3)
    assert len(client.manager("ListListeners")[0]) == 1
    assert "has a listener already" in refused("QuotaExceeded", client.listen, "dashboard")
    wait_for(lambda: client.manager("ListListeners")[0] == [], what="the listener's end")
    reload(before)
    client.listen("dashboard")
    assert "has a listener already" in refused("QuotaExceeded", pair.ivi.client().listen, "dashboard")
    time.sleep(0.3)
    assert len(client.manager("ListListeners")[0]) == 1, "its owner is there"


def test_signals(pair):
    server, client = pair.ivi.client(), pair.rtos.client()
    server.listen("dashboard")
    seen, channel_seen = client.signals(interface=MANAGER), client.signals(interface=CHANNEL)
    fd, path, _ = client.connect("sensor", "ivi/dashboard")
    os.close(fd)
    wait_for(lambda: len(seen) == 2, what="signals")
    assert seen == [("ChannelAdded", PATH, (path, "sensor", "ivi/dashboard")),
                    ("ChannelRemoved", PATH, (path, "closed"))]
    wait_for(lambda: channel_seen, what="Closed")
    assert channel_seen == [("Closed", path, ("closed",))]


def test_channel_close(pair):
    server, client = pair.ivi.client(), pair.rtos.client()
    listener = server.listen("dashboard")
    fd, path, _ = client.connect("sensor", "ivi/dashboard")
    peer_fd, peer_path, _ = server.accept(listener)
    seen = client.signals(interface=MANAGER)
    client.call(path, CHANNEL, "Close")
    wait_for(lambda: client.get("State", path, CHANNEL) == "revoked", what="revoked")
    assert server.get("State", peer_path, CHANNEL) == "active"
    os.close(fd)
    wait_for(lambda: seen == [("ChannelRemoved", PATH, (path, "closed"))], what="removed")
    wait_for(lambda: server.get("State", peer_path, CHANNEL) == "draining", what="draining")
    os.close(peer_fd)
    nothing_left(pair)
    refused("org.freedesktop.DBus.Error.UnknownObject", client.call, path, CHANNEL, "Close")


# Refusals


def test_arguments(pair):
    client = pair.rtos.client()
    v = GLib.Variant

    def connect(service, peer, **options):
        return client.call(PATH, MANAGER, "Connect", "(ssa{sv})", service, peer, options)

    assert "no service name" in invalid(connect, "Sensor", "ivi/dashboard")
    for peer in ("", "ivi", "ivi/", "/dashboard", "ivi/a/b", "IVI/x", "ivi/" + "x" * 200):
        assert "no peer" in invalid(connect, "sensor", peer)
    assert "no option 'Colour'" in invalid(connect, "sensor", "ivi/dashboard", Colour=v("s", "red"))
    assert "has type t" in invalid(connect, "sensor", "ivi/dashboard", RingSize=v("u", 4096))
    for size in (0, 4095, 5000, 1 << 31, 1 << 63):
        invalid(connect, "sensor", "ivi/dashboard", RingSize=v("t", size))
    for timeout in (0, 60_000_001):
        invalid(connect, "sensor", "ivi/dashboard", TimeoutUSec=v("t", timeout))
    invalid(client.listen, "sensor", backlog=0)
    invalid(client.listen, "sensor", backlog=65)
    invalid(client.listen, "sensor", max_ring=5000)
    invalid(client.manager, "Explain", "(ss)", "sensor", "nonsense")
    assert pair.host.methods("rtos") == ["Hello"]


def test_guest_policy(pair):
    client = pair.rtos.client()
    seen = client.signals(interface=MANAGER)
    assert "no section [Service radio]" in refused("NotAuthorized", client.connect, "radio", "ivi/dashboard")
    assert "does not name ivi/camera" in refused("NotAuthorized", client.connect, "sensor", "ivi/camera")
    text = refused("NotAuthorized", client.connect, "sensor", "ivi/dashboard", ring=512 * 1024)
    assert "test.conf:7: MaxRingSize=" in text
    assert "[Service radio]" in refused("NotAuthorized", client.listen, "radio")
    assert "test.conf" in refused("NotAuthorized", client.connect, "stranger", "ivi/dashboard")
    wait_for(lambda: len(seen) == 5, what="Refused")
    assert seen[0] == ("Refused", PATH, ("radio", "ivi/dashboard", "NotAuthorized", UID))
    assert pair.host.methods("rtos") == ["Hello"]
    assert "sensor and ivi/camera: NotAuthorized" in pair.rtos.log()


def test_explain(pair):
    client = pair.rtos.client()

    def explain(service, peer):
        return client.manager("Explain", "(ss)", service, peer)

    allowed, text = explain("sensor", "ivi/dashboard")
    assert allowed and text.endswith("test.conf:4: Connect=ivi/dashboard"), text
    allowed, text = explain("", "ivi/dashboard")
    assert allowed
    allowed, text = explain("sensor", "ivi/camera")
    assert not allowed and "test.conf:2" in text
    allowed, text = explain("sensor", "")
    assert allowed and "may listen" in text
    allowed, text = explain("mute", "")
    assert not allowed and "belongs to unit mute.service" in text
    allowed, text = explain("stranger", "")
    assert not allowed and "belongs to uid 65534" in text
    allowed, text = explain("elsewhere", "")
    assert not allowed and "belongs to unit elsewhere.service" in text


def test_host_refuses(pair):
    client = pair.rtos.client()
    refused("NoSuchPeer", client.connect, "sensor", "nowhere/dashboard")
    refused("PeerNotListening", client.connect, "sensor", "ivi/dashboard")
    pair.ivi.client().listen("dashboard")
    for name in ("RefusedByHost", "Revoked", "NoMemory", "QuotaExceeded", "Failed"):
        def refuse(host, vm, params):
            raise Error(name, "no, says the host")
        pair.host.hooks["rtos", "Connect"] = refuse
        assert refused(name, client.connect, "sensor", "ivi/dashboard") == "no, says the host"
        del pair.host.hooks["rtos", "Connect"]
        pair.host.hooks["rtos", "Confirm"] = refuse
        assert refused(name, client.connect, "sensor", "ivi/dashboard") == "no, says the host"
        del pair.host.hooks["rtos", "Confirm"]
    pair.host.hooks["rtos", "Listen"] = refuse
    refused("Failed", client.listen, "sensor")
    assert client.manager("ListListeners")[0] == []
    nothing_left(pair)


def test_certificate_refused(pair):
    client = pair.rtos.client()
    pair.ivi.client().listen("dashboard")

    def refuse(host, vm, params):
        raise Error("RefusedByHost")
    pair.host.hooks["rtos", "IssueCertificate"] = refuse
    refused("RefusedByHost", client.connect, "sensor", "ivi/dashboard")
    nothing_left(pair)


@pytest.mark.parametrize("what", ["garbage", "other key", "other name", "other ca", "expired", "two names"])
def test_wrong_certificate(pair, what, tmp_path):
    host, client = pair.host, pair.rtos.client()
    pair.ivi.client().listen("dashboard")
    other = Authority(str(tmp_path), "other")
    own_id = host.id_of("rtos", "sensor")

    def issue(_, vm, params):
        csr = params["csr"]
        if what == "garbage":
            pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
        elif what == "other key":
            csr = subprocess.run(["openssl", "req", "-new", "-key", other.key, "-subj", "/CN=x"], check=True,
                                 capture_output=True, text=True).stdout
            pem = host.ca.issue(csr, own_id)
        elif what == "other name":
            pem = host.ca.issue(csr, host.id_of("rtos", "radio"))
        elif what == "other ca":
            pem = other.issue(csr, own_id)
        elif what == "expired":
            pem = host.ca.issue(csr, own_id, days=-1)
        else:
            pem = host.ca.issue(csr, own_id + ",URI:" + host.id_of("rtos", "radio"))
        return {"certificate": pem, "notAfter": int(time.time()) + 86400}

    host.hooks["rtos", "IssueCertificate"] = issue
    refused("HandshakeFailed", client.connect, "sensor", "ivi/dashboard")
    assert client.get("Certificates") == []
    assert "Confirm" not in host.methods("rtos")
    nothing_left(pair)


def test_peer_guest_refuses(pair):
    server, client = pair.ivi.client(), pair.rtos.client()
    server.listen("dashboard", max_ring=65536)
    text = refused("RefusedByPeer", client.connect, "sensor", "ivi/dashboard", ring=128 * 1024)
    assert "at most 65536" in text
    pair.ivi.policy_file.write_text(IVI.replace("rtos/sensor rtos/other", "rtos/other"))
    server.manager("Reload")
    text = refused("RefusedByPeer", client.connect, "sensor", "ivi/dashboard")
    assert "test.conf" not in text, "a peer is not told of our files"
    nothing_left(pair)


@pytest.mark.parametrize("step", ["Connect", "Incoming", "Finish"])
@pytest.mark.parametrize("how", ["garbage", "flip", "empty"])
def test_broken_flights(pair, step, how):
    """A relay that touches a flight: never a channel, an error at the caller, everything given back."""
    import base64
    host = pair.host
    server, client = pair.ivi.client(), pair.rtos.client()
    server.listen("dashboard")

    def spoil(flight):
        data = bytearray(base64.b64decode(flight))
        if how == "garbage":
            data = bytearray(os.urandom(len(data)))
        elif how == "flip":
            data[len(data) // 2] ^= 1
        else:
            data = bytearray(b"\x16")
        return base64.b64encode(data).decode()

    if step == "Connect":  # the answer, SH..SF
        host.hooks["rtos", "Connect"] = lambda h, vm, p: {
            **(a := h.on_Connect(None, vm, p)), "flight": spoil(a["flight"])}
    else:  # CH or CC..CF on their way to the listener
        method = "Connect" if step == "Incoming" else "Confirm"
        host.hooks["rtos", method] = lambda h, vm, p: getattr(h, "on_" + method)(
            None, vm, {**p, "flight": spoil(p["flight"])})
    refused("HandshakeFailed", client.connect, "sensor", "ivi/dashboard")
    assert host.channels == []
    host.hooks.clear()
    nothing_left(pair)
    client.connect("sensor", "ivi/dashboard")


def test_peer_with_another_name(pair):
    """The host joins the caller to a service that is not the one it asked for."""
    host = pair.host
    pair.ivi.client().listen("dashboard")
    pair.rtos.policy_file.write_text(RTOS.replace("Connect=ivi/dashboard", "Connect=ivi/camera ivi/dashboard2"))
    client = pair.rtos.client()
    client.manager("Reload")
    host.hooks["rtos", "Connect"] = lambda h, vm, p: h.on_Connect(None, vm, {**p, "to": "ivi/dashboard"})
    refused("HandshakeFailed", client.connect, "sensor", "ivi/camera")
    nothing_left(pair)


def test_kernel_refuses(pair):
    server, client = pair.ivi.client(), pair.rtos.client()
    listener = server.listen("dashboard")
    for error, name in ((errno.ESTALE, "Revoked"), (errno.EBADMSG, "Failed"), (errno.ENXIO, "NotReady"),
                        (errno.EMFILE, "Failed")):
        pair.rtos.kernel.open_errors = [error]
        refused(name, client.connect, "sensor", "ivi/dashboard")
        wait_for(lambda: not pair.host.channels, what="grant withdrawn")
    nothing_left(pair)
    assert server.get("Waiting", listener, LISTENER) == 0
    # the other end: this one hears of it before it has answered its caller, or after
    pair.ivi.kernel.open_errors = [errno.EBADMSG]
    try:
        fd, path, _ = client.connect("sensor", "ivi/dashboard")
        wait_for(lambda: client.get("State", path, CHANNEL) == "revoked", what="withdrawn at both ends")
        os.close(fd)
    except Refused as e:
        assert e.name == "Closed"
    nothing_left(pair)


def test_kernel_wants_to_be_asked_again(pair):
    server, client = pair.ivi.client(), pair.rtos.client()
    listener = server.listen("dashboard")
    pair.rtos.kernel.open_errors = [errno.EAGAIN] * 5
    pair.ivi.kernel.open_errors = [errno.EBUSY] * 3
    client.connect("sensor", "ivi/dashboard")
    server.accept(listener)
    pair.rtos.kernel.open_errors = [errno.EAGAIN] * 500
    refused("Failed", client.connect, "sensor", "ivi/dashboard")


# Not ready


def test_nothing_is_there(world):
    """No device and no host: the bus answers, and things come up when they come."""
    guest = world.rtos
    world.host.stop_listening("rtos")
    guest.kernel.has_table = False
    os.rename(guest.kernel.path, guest.kernel.path + ".away")
    guest.start(wait=False)
    client = guest.client()
    wait_for(lambda: answers(client), what="bus name")
    assert client.get("HostConnected") is False and client.get("VM") == "" and client.get("KernelABI") == 0
    assert client.get("Sections") == []
    assert "no kernel module" in refused("NotReady", client.connect, "sensor", "ivi/dashboard")
    refused("NotReady", client.listen, "sensor")
    os.rename(guest.kernel.path + ".away", guest.kernel.path)
    wait_for(lambda: client.get("KernelABI") == 1, what="device")
    assert "grant table" in refused("NotReady", client.connect, "sensor", "ivi/dashboard")
    guest.kernel.has_table = True
    guest.kernel.event("table")
    refused("HostUnavailable", client.connect, "sensor", "ivi/dashboard")
    refused("HostUnavailable", client.listen, "sensor")
    world.host.start_listening("rtos")
    wait_for(lambda: client.get("HostConnected"), what="host")
    assert client.get("VM") == "rtos" and client.get("TrustDomain") == "test.example"
    assert client.get("Sections") == [("cockpit", "rtos", True, 16 << 20, "write-back", True),
                                      ("cockpit", "peer", False, 16 << 20, "write-back", True)]
    world.ivi.start()


def answers(client):
    try:
        return client.get("Version")
    except Refused:
        return False


def test_wrong_module(world):
    world.rtos.kernel.abi = 2
    world.rtos.start(wait=False)
    client = world.rtos.client()
    wait_for(lambda: answers(client), what="bus name")
    refused("NotReady", client.connect, "sensor", "ivi/dashboard")
    wait_for(lambda: "this sivshmd needs 1" in world.rtos.log(), what="log")
    assert world.host.methods("rtos") == []
    world.ivi.start()


# Somebody leaves


def stall(host, key):
    """The host holds its answer to @key back until the returned event is set."""
    import threading
    go, seen = threading.Event(), threading.Event()

    def wait(h, vm, params):
        seen.set()
        go.wait(20)
    host.hooks[key] = wait
    return seen, go


@pytest.mark.parametrize("step", ["IssueCertificate", "Connect", "Confirm"])
@pytest.mark.parametrize("how", ["leave", "timeout"])
def test_caller_gives_up(pair, step, how):
    host = pair.host
    server, client = pair.ivi.client(), pair.rtos.client()
    warm_up(pair)
    client.manager("ForgetCertificates")
    listener = server.listen("dashboard")
    seen, go = stall(host, ("rtos", step))
    before = pair.rtos.fds()
    began = time.monotonic()
    call = Async(client.connect, "sensor", "ivi/dashboard", timeout_usec=10_000_000 if how == "leave" else 300_000)
    assert seen.wait(5)
    if how == "leave":
        client.close()
    else:
        refused("TimedOut", call.result)
        assert 0.25 < time.monotonic() - began < 5
    time.sleep(0.1)
    go.set()  # the answer comes when nobody waits any more
    host.hooks.clear()
    nothing_left(pair)
    wait_for(lambda: "Cancel" in host.methods("rtos"), what="Cancel")
    assert server.get("Waiting", listener, LISTENER) == 0
    other = pair.rtos.client()
    other.connect("sensor", "ivi/dashboard")
    server.accept(listener)
    wait_for(lambda: pair.rtos.fds() <= before, what="descriptors are given back")


def test_caller_leaves_right_before_the_fd(pair):
    """The reply finds nobody: the bus drops the fd, the kernel says RELEASED, both ends are free."""
    server = pair.ivi.client()
    server.listen("dashboard")
    for delay in (0, 0.002, 0.005, 0.01, 0.02):
        client = pair.rtos.client()
        call = Async(client.connect, "sensor", "ivi/dashboard")
        time.sleep(delay)
        client.close()
        call.thread.join()
        if call.value:
            os.close(call.value[0])
    nothing_left_but_waiting(pair, server)


def nothing_left_but_waiting(pair, server):
    server.close()  # what waits at its listener goes with it
    nothing_left(pair)


@pytest.mark.parametrize("step", ["IssueCertificate", "Listen"])
def test_listener_leaves_early(pair, step):
    seen, go = stall(pair.host, ("ivi", step))
    server = pair.ivi.client()
    Async(server.listen, "dashboard")
    assert seen.wait(5)
    server.close()
    go.set()
    pair.host.hooks.clear()
    wait_for(lambda: "Unlisten" in pair.host.methods("ivi"), what="Unlisten")
    other = pair.ivi.client()
    other.listen("dashboard")
    pair.rtos.client().connect("sensor", "ivi/dashboard")


@pytest.mark.parametrize("step", ["Confirm", "Granted"])
def test_listener_leaves_during_handshake(pair, step):
    host, server, client = pair.host, pair.ivi.client(), pair.rtos.client()
    listener = server.listen("dashboard")
    if step == "Confirm":
        seen, go = stall(host, ("rtos", "Confirm"))
        call = Async(client.connect, "sensor", "ivi/dashboard")
        assert seen.wait(5)
        server.call(listener, LISTENER, "Close")
        go.set()
        with pytest.raises(Refused) as info:
            call.result()
        assert info.value.name == "Closed"
    else:  # the grant is on its way: the channel is made, and taken back
        pair.ivi.kernel.open_errors = [errno.EAGAIN] * 30
        fd, path, _ = client.connect("sensor", "ivi/dashboard")
        server.close()
        wait_for(lambda: client.get("State", path, CHANNEL) in ("revoked", "draining"), what="withdrawn")
        os.close(fd)
    host.hooks.clear()
    nothing_left(pair)


def test_accept(pair):
    server, client, other = pair.ivi.client(), pair.rtos.client(), pair.ivi.client()
    listener = server.listen("dashboard", backlog=2)
    refused("TimedOut", server.accept, listener, timeout_usec=0)
    began = time.monotonic()
    refused("TimedOut", server.accept, listener, timeout_usec=100_000)
    assert 0.1 <= time.monotonic() - began < 5
    assert "connection that called Listen" in refused("NotAuthorized", other.accept, listener)
    waiting = [Async(server.accept, listener) for _ in range(2)]
    time.sleep(0.1)
    assert "backlog is 2" in refused("QuotaExceeded", server.accept, listener)
    client.connect("sensor", "ivi/dashboard")
    wait_for(lambda: any(w.done() for w in waiting), what="one accepted")
    server.call(listener, LISTENER, "Close")
    answers = [w.error.name if w.error else "fd" for w in waiting if w.thread.join() is None]
    assert sorted(answers) == ["Closed", "fd"]
    refused("org.freedesktop.DBus.Error.UnknownObject", server.accept, listener)


def test_one_listener_for_a_service(pair):
    server = pair.ivi.client()
    server.listen("dashboard")
    assert "has a listener already" in refused("QuotaExceeded", pair.ivi.client().listen, "dashboard")


# Quotas


def test_quota_of_connects(pair):
    pair.host.hooks["rtos", "Connect"] = lambda h, vm, p: NOTHING
    pair.rtos.policy_file.write_text(RTOS.replace("Channels=4", "Channels=100"))
    client = pair.rtos.client()
    client.manager("Reload")
    clients = [pair.rtos.client() for _ in range(2)]
    calls = [Async(clients[i % 2].connect, "sensor", "ivi/dashboard", timeout_usec=2_000_000) for i in range(16)]
    wait_for(lambda: pair.host.methods("rtos").count("Connect") == 16, what="16 under way")
    assert f"uid {UID} has 16 Connect calls" in refused("QuotaExceeded", client.connect, "sensor", "ivi/dashboard")
    for c in calls:
        with pytest.raises(Refused) as info:
            c.result()
        assert info.value.name == "TimedOut"
    # the host may still answer and make sessions: the charge stays until it has
    refused("QuotaExceeded", client.connect, "sensor", "ivi/dashboard")
    pair.host.connections["rtos"].notify("Reset")
    del pair.host.hooks["rtos", "Connect"]
    pair.ivi.client().listen("dashboard")
    wait_for(lambda: pair.host.methods("rtos").count("Hello") == 2, what="Hello")
    wait_for(lambda: client.get("HostConnected"), what="host")
    client.connect("sensor", "ivi/dashboard")


def test_quota_of_channels(pair):
    server, client = pair.ivi.client(), pair.rtos.client()
    server.listen("dashboard")
    fds = [client.connect("sensor", "ivi/dashboard")[0] for _ in range(4)]
    assert "Channels= allows no more" in refused("QuotaExceeded", client.connect, "sensor", "ivi/dashboard")
    os.close(fds.pop())
    wait_for(lambda: len(client.manager("ListChannels")[0]) == 3, what="one less")
    client.connect("sensor", "ivi/dashboard")


@pytest.fixture
def roomy(pair):
    """Policies and tables that allow more channels than the bus carries unread."""
    for guest, text, few in ((pair.rtos, RTOS, "Channels=4"), (pair.ivi, IVI, "Channels=8")):
        guest.kernel.grants += [Grant() for _ in range(16)]
        guest.policy_file.write_text(text.replace(few, "Channels=100"))
        guest.client().manager("Reload")
    return pair


def test_quota_of_unread_connects(roomy):
    """The bus carries 64 fds of a daemon, unread ones included: one uid has 16 of them at most."""
    roomy.rtos.kernel.used = False
    server, client = roomy.ivi.client(), roomy.rtos.client()
    server.listen("dashboard", backlog=64)
    fds = [client.connect("sensor", "ivi/dashboard")[0] for _ in range(16)]
    assert "16 channels that it has not used" in refused("QuotaExceeded", client.connect, "sensor", "ivi/dashboard")
    os.close(fds.pop())
    wait_for(lambda: len(client.manager("ListChannels")[0]) == 15, what="one less")
    fds.append(client.connect("sensor", "ivi/dashboard")[0])
    refused("QuotaExceeded", client.connect, "sensor", "ivi/dashboard")
    for channel in roomy.rtos.kernel.channels.values():
        channel.used = True
    client.connect("sensor", "ivi/dashboard")


def test_quota_of_unread_accepts(roomy):
    roomy.ivi.kernel.used = False
    server, client = roomy.ivi.client(), roomy.rtos.client()
    listener = server.listen("dashboard", backlog=64)
    keep = [(client.connect("sensor", "ivi/dashboard")[0], server.accept(listener)[0]) for _ in range(16)]
    keep.append(client.connect("sensor", "ivi/dashboard")[0])
    for timeout in (0, 300_000):
        assert "16 channels that it has not used" in refused("QuotaExceeded", server.accept, listener, timeout)
    accepted = Async(server.accept, listener)  # without a timeout it waits, as the connection does
    time.sleep(0.5)
    assert not accepted.done()
    for channel in roomy.ivi.kernel.channels.values():
        channel.used = True
    keep.append(accepted.result(5)[0])
    assert "nobody connected" in refused("TimedOut", server.accept, listener, 100_000)


def test_flood(pair):
    """Thousands of calls, none read: others are served, memory does not grow."""
    def rss():
        return int(open(f"/proc/{pair.rtos.process.pid}/statm").read().split()[1]) * 4096
    pair.ivi.client().listen("dashboard")
    noisy = [Client(pair.rtos.bus) for _ in range(4)]
    before = rss()
    body = GLib.Variant("(ssa{sv})", ("sensor", "ivi/nobody", {}))
    for _ in range(1500):
        for n in noisy:
            n.bus.call("org.sivshm1", PATH, MANAGER, "Connect", body, None, 0, -1, None, None)
    client = pair.rtos.client()
    began = time.monotonic()
    assert client.connect("sensor", "ivi/dashboard")[2]["Peer"] == "ivi/dashboard"
    assert time.monotonic() - began < 15
    for n in noisy:
        n.close()
    assert rss() - before < 64 << 20
    lines = pair.rtos.log().count("NotAuthorized")
    assert lines < 200, "refusals of one uid are logged at a bounded rate"


def test_huge_arguments(pair):
    """Megabytes in a name or option are refused at once, and not kept while the bus is asked who calls."""
    def peak():
        return next(int(line.split()[1]) for line in open(f"/proc/{pair.rtos.process.pid}/status")
                    if line.startswith("VmHWM")) * 1024
    client = pair.rtos.client()
    big = "x" * (4 << 20)
    before = peak()
    noisy = [Client(pair.rtos.bus) for _ in range(5)]
    v = GLib.Variant
    for n in noisy:
        for body in (v("(ssa{sv})", (big, "ivi/dashboard", {})), v("(ssa{sv})", ("sensor", big, {})),
                     v("(ssa{sv})", ("sensor", "ivi/dashboard", {big: v("s", "x")})),
                     v("(ssa{sv})", ("sensor", "ivi/dashboard", {"RingSize": v("s", big)}))):
            n.bus.call("org.sivshm1", PATH, MANAGER, "Connect", body, None, 0, -1, None, None)
    assert len(invalid(client.connect, big, "ivi/dashboard")) < 300
    assert len(invalid(client.connect, "sensor", big)) < 300
    assert peak() - before < 50 << 20
    for n in noisy:
        n.close()


CHILD = """
import sys
sys.path.insert(0, {here!r})
from guest_daemon import Client, Refused, CHANNEL, LISTENER
class bus: address = {address!r}
client = Client(bus)
def attempt(function, *arguments, **kw):
    try:
        return function(*arguments, **kw)
    except Refused as e:
        return e.name
"""


def as_user(guest, uid, code):
    """Runs Python as another user, a client of the same bus."""
    done = subprocess.run([sys.executable, "-c", CHILD.format(here=str(HERE), address=guest.bus.address) + code],
                          user=uid, group=uid, extra_groups=[], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.skipif(UID != 0, reason="needs root to be other users")
def test_other_users(pair):
    server, client = pair.ivi.client(), pair.rtos.client()
    listener = server.listen("dashboard")
    fd, path, _ = client.connect("sensor", "ivi/dashboard")
    code = f"""
print(attempt(client.connect, "sensor", "ivi/dashboard"))
print(attempt(client.connect, "", "ivi/dashboard"))
print(attempt(client.listen, "sensor"))
print(attempt(client.call, {path!r}, CHANNEL, "Close"))
print(attempt(client.manager, "Reload"))
print(attempt(client.manager, "ForgetCertificates"))
print([row[3] for row in client.manager("ListChannels")[0]])
print(client.manager("Explain", "(ss)", "sensor", "ivi/dashboard")[0])
print(client.connect("stranger", "ivi/dashboard")[2]["Local"])
"""
    pair.rtos.policy_file.write_text(RTOS.replace("Connect=ivi/none", "Connect=ivi/dashboard"))
    pair.ivi.policy_file.write_text(IVI.replace("rtos/other", "rtos/stranger"))
    client.manager("Reload"), server.manager("Reload")
    denied = "org.freedesktop.DBus.Error.AccessDenied"
    lines = as_user(pair.rtos, 65534, code).splitlines()
    assert lines[0] == lines[2] == lines[3] == "NotAuthorized"
    assert "stranger" in lines[1]
    assert lines[4:] == [denied, denied, "['stranger']", "False", "stranger"]
    code = f"print(attempt(client.call, {listener!r}, LISTENER, 'Close'))\n" \
           f"print(attempt(client.accept, {listener!r}))\nprint(client.manager('ListListeners'))"
    assert as_user(pair.ivi, 65534, code).splitlines() == ["NotAuthorized", "NotAuthorized", "([],)"]
    assert client.get("State", path, CHANNEL) == "active"
    os.close(fd)

