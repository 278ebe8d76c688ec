# SPDX-License-Identifier: LGPL-2.1-or-later
"""The relay of test_middle between booted guests and the host's unit: QEMU's chardev is led to it while they run.

Few cases, for the breadth is there; what is new here is the real kernel, which keeps the grants.
"""

import os
import ssl
import tempfile

import pytest

import tls_forge as forge
from lab import mutant, story, swap
from lab.attack import RELAY, attack
from lab.relay import Relay, change, exchanged, flight
from lab.world import RUNTIME, UIDS
from test_middle import ANY_EXPORTER, ANY_GRANT, OWN_UNCHECKED, other_bits


def lead(guest, path):
    """QEMU gives the control port up and connects there; the guest sees its host go and come."""
    address = {"type": "unix", "data": {"path": str(path)}}
    guest.qmp.command("chardev-change", id="sivshm-control", backend={
        "type": "socket", "data": {"addr": address, "server": False, "reconnect": 1}})


def used(world):
    """What is there after the right ones have connected, which leaves a certificate at each end."""
    with story.echo(world):
        story.connect_many(world, 1)
    return world.settled()


@pytest.fixture(scope="module")
def relay(shared_world):
    paths = {vm: RUNTIME / "vm" / vm / "control.sock" for vm in UIDS}
    with tempfile.TemporaryDirectory(prefix="sivshm-relay.") as folder:
        os.chmod(folder, 0o755)
        relay = Relay(folder, {vm: (path, UIDS[vm]) for vm, path in paths.items()})
        for vm in UIDS:
            lead(shared_world.guests[vm], relay.path(vm))
            relay.await_message(f"{vm}:Hello=")
        shared_world.each(shared_world.wait_connected)
        yield relay
        for vm, path in paths.items():
            lead(shared_world.guests[vm], path)
        relay.close()
        shared_world.each(shared_world.wait_connected)


@pytest.fixture(scope="module")
def baseline(shared_world, relay):
    return used(shared_world)


@pytest.fixture(autouse=True)
def given_back(world, relay, baseline):
    relay.forget()
    world.each(story.forget_certificates)
    yield
    relay.forget()
    world.each(story.forget_certificates)
    world.wait_channels(0)
    world.wait_until(lambda: used(world) == baseline, f"everything is given back: {baseline}", 40)


def said_at(guest, since):
    return guest.run(["/usr/bin/journalctl", "--no-pager", "-o", "cat", "-u", "sivshmd", f"--after-cursor={since}"],
                     check=True)[1]


def cursor(guest):
    return guest.run("journalctl -n 0 --show-cursor -q | sed -n 's/^-- cursor: //p'", check=True)[1].strip()


def attempt(world):
    """sensor connects to the dashboard: (exit code, what it was told, what ivi's daemon said)."""
    since = cursor(world.ivi)
    with story.echo(world):
        rc, out, err = world.rtos.run(story.as_user("sensor", "/usr/bin/sivshmctl", "connect", "--as", "sensor",
                                                    "ivi/dashboard"), input="")
        if rc:
            world.wait_until(lambda: "rtos/sensor" in said_at(world.ivi, since), "ivi names an error")
        return rc, err or out, said_at(world.ivi, since)


def refused(world, name, text):
    rc, told, at_b = attempt(world)
    assert rc != 0 and text in told, told
    assert f"dashboard and rtos/sensor: {name}: " in at_b, at_b
    world.wait_channels(0)


def connects(world):
    return attempt(world)[0] == 0


@attack(RELAY, "between booted guests: offers a TLS 1.2 hello", stops="TLS 1.3 alone, `src/common/handshake.c`",
        control="with the true hello the same relay gives a channel")
def test_tls_1_2(world, relay, control):
    control.seen(connects(world))
    relay.on("ivi:Incoming", flight(forge.client_hello(version=ssl.TLSVersion.TLSv1_2)), 1)
    refused(world, "HandshakeFailed", "unsupported protocol")


@attack(RELAY, "between booted guests: gives a service the certificate of another one of its VM",
        stops="a daemon verifies its own certificate, `src/sivshmd/keypair.c`; the peer's verifies it again, "
              "`src/common/handshake-verify.c`",
        control="a daemon that does not verify its own is refused by the peer instead")
def test_certificate(world, relay, control):
    relay.on("rtos:IssueCertificate", change(service="camera"))
    refused(world, "Closed", "is not for spiffe://cockpit.example/vm/rtos/service/sensor")
    with swap.daemon(world, world.rtos, mutant.daemon("sivshmd", OWN_UNCHECKED)):
        rc, told, at_b = attempt(world)
        control.seen(rc != 0 and "certificate is another service's" in told and "HandshakeFailed" in at_b)


@attack(RELAY, "between booted guests: changes an exporter value",
        stops="the host compares them, `src/sivshm-cad/session-relay.c`", control="a host that does not: a channel")
def test_exporter(world, relay, control):
    relay.on("ivi:Finish=", change(exporter=other_bits))
    refused(world, "HandshakeFailed", "not in the same handshake")
    with swap.host(world, mutant.daemon("sivshm-cad", ANY_EXPORTER)):
        control.seen(connects(world))


def two_at_once(world, relay):
    """Two Connects whose grants the relay exchanges at the listening guest; whether each was opened there."""
    relay.on("ivi:Granted", exchanged("slot", "generation"), 2)
    since = cursor(world.ivi)
    with story.echo(world):
        pids = [world.rtos.run_bg(story.as_user("sensor", "/usr/bin/sivshmctl", "connect", "--as", "sensor",
                                                "ivi/dashboard")) for _ in range(2)]
        relay.await_message("ivi:Granted", 2, 30)
        world.wait_until(lambda: said_at(world.ivi, since).count("rtos/sensor: ") >= 2, "both were decided")
        said = said_at(world.ivi, since)
        for pid in pids:
            world.rtos.run(f"kill {pid}")
            world.rtos.wait(pid)
    world.wait_channels(0)
    return said


@attack(RELAY, "between booted guests: exchanges the slots of two sessions",
        stops="the grant in the kernel names its session, `src/sivshmd/opener.c`",
        control="a daemon that does not compare opens both")
def test_slots(world, relay, control):
    said = two_at_once(world, relay)
    assert said.count("dashboard and rtos/sensor: HandshakeFailed: the grant in that slot is another session's") == 2
    assert "dashboard with rtos/sensor: open" not in said
    with swap.daemon(world, world.ivi, mutant.daemon("sivshmd", ANY_GRANT)):
        relay.forget()
        said = two_at_once(world, relay)
        control.seen(said.count("dashboard with rtos/sensor: open") == 2)


@attack(RELAY, "between booted guests: announces a grant of another generation",
        stops="the kernel compares it with the host's table, `src/kmod/grant.c`",
        control="the true announcement through the same relay gives a channel")
def test_generation(world, relay, control):
    control.seen(connects(world))
    relay.on("rtos:Confirm=", change(generation=lambda g: g + 1), 1)
    rc, told, _ = attempt(world)
    assert rc != 0 and "the host took the grant back" in told, told
