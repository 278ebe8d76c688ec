# SPDX-License-Identifier: LGPL-2.1-or-later
"""What dies, and who notices: daemons killed, guests reset, QEMU killed, while data flows."""

import time

import pytest

from lab import story
from lab.world import enable_at_boot


def messages(world):
    event = story.last_event(world.ivi, "dashboard", "progress")
    return event["messages"] if event else 0


def goes_on(world):
    """The dashboard gets more messages than it has now."""
    before = messages(world)
    world.wait_until(lambda: messages(world) > before, "more messages at the dashboard", 30)
    assert not story.last_event(world.ivi, "dashboard", "corrupt")


@pytest.fixture
def stream(world):
    """sensor streams to dashboard; everything is given back at the end."""
    story.restart_demo_services(world)
    story.wait_event(world, world.rtos, "sensor", "connected")
    channel = story.running_channel(world)
    goes_on(world)
    yield channel
    story.stop_demo_services(world)


def host_restarts(world):
    return int(world.host.run("systemctl show -P NRestarts sivshm-cad", check=True)[1])


def vms(world):
    return {row[0]: dict(zip("uid control hello devices of".split(), row[1:6])) for row in world.bus.call("ListVMs")[0]}


def host_is_whole(world):
    """Every VM has its device and its daemon, as seen by the host."""
    try:
        return all(vm["control"] and vm["hello"] and vm["devices"] == vm["of"] for vm in vms(world).values())
    except world.bus.glib.Error:
        return False


def test_host_daemon_killed(world, stream, figures):
    """SIGKILL three times: no VM loses its device, no channel is lost, the next request is answered."""
    times = []
    for _ in range(3):
        before = host_restarts(world)
        world.host.run("systemctl kill -s KILL sivshm-cad", check=True)
        began = time.monotonic()
        world.wait_until(lambda: host_restarts(world) > before and host_is_whole(world),
                         "the host daemon is back with every VM", 30)
        times.append(round((time.monotonic() - began) * 1000))
    figures["back_ms"] = times
    assert [c["id"] for c in world.channels()] == [stream["id"]]
    goes_on(world)
    assert story.revoke_and_wait(world, stream) < 5000
    story.wait_event(world, world.rtos, "sensor", "revoked")
    story.wait_event(world, world.ivi, "dashboard", "revoked")


def test_new_connection_after_the_host_daemon_was_killed(world):
    with story.echo(world):
        before = host_restarts(world)
        world.host.run("systemctl kill -s KILL sivshm-cad", check=True)
        world.wait_until(lambda: host_restarts(world) > before and host_is_whole(world)
                         and story.listening(world, "ivi", "dashboard"), "the listener is known again", 30)
        story.connect_many(world, 2)
    world.wait_channels(0)


def test_host_configuration_broken(world, stream):
    """A mistake in a file and a crash at the wrong moment cut no machine off."""
    path = "/etc/sivshm-ca/vm.d/99-wrong.conf"
    world.host.put_file(path, "[VM wrong]\nUsr=1\n")
    try:
        assert world.host.run("systemctl reload sivshm-cad")[0] != 0
        assert host_is_whole(world)
        world.host.run("systemctl kill -s KILL sivshm-cad", check=True)
        world.wait_until(lambda: f"{path}:2" in world.host.journal("-u", "sivshm-cad"), "file and line in the journal")
        goes_on(world)
    finally:
        world.host.run(f"rm {path}", check=True)
    world.wait_until(lambda: host_is_whole(world), "the host daemon is back with every VM", 30)
    assert [c["id"] for c in world.channels()] == [stream["id"]]


def test_guest_daemon_killed(world, stream):
    """The channel lives on in the kernel, and the next daemon adopts it."""
    for guest in (world.rtos, world.ivi):
        guest.run("systemctl kill -s KILL sivshmd", check=True)
        world.wait_connected(guest)
        rows = world.guest_json(guest, "sivshmctl --json list")
        assert [row["state"] for row in rows] == ["active"]
    goes_on(world)
    assert [c["id"] for c in world.channels()] == [stream["id"]]


def test_revocation_without_a_guest_daemon(world, stream):
    """The doorbell is enough: the kernel takes the windows back with nobody's help."""
    world.ivi.run("systemctl stop sivshmd", check=True)
    try:
        world.bus.call("RevokeChannel", "ss", stream["id"], "no daemon")
        story.wait_event(world, world.ivi, "dashboard", "revoked")
        # its windows stay in quarantine until somebody can say that nobody maps them
        assert [c["id"] for c in world.channels()] == [stream["id"]]
    finally:
        world.ivi.run("systemctl start sivshmd", check=True)
        world.wait_connected(world.ivi)
    story.stop_demo_services(world)


def test_guest_reset(world, stream):
    """The reset button: the peer sees the end, and the guest is as good as new afterwards."""
    world.ivi.reset()
    world.ivi.wait_up()
    world.start_daemon(world.ivi)
    event = world.wait_until(lambda: [e for e in story.events(world.rtos, "sensor") if e["event"] in ("revoked", "closed")],
                             "the sensor sees the end", 30)[-1]
    assert event["error"] in ("ENOLINK", "EPIPE")
    world.wait_channels(0)
    with story.echo(world):
        story.connect_many(world, 2)


@pytest.mark.parametrize("target", [None, "multi-user.target"], ids=["enabled", "wanted"])
def test_started_by_the_boot(world, tmp_path, target):
    """By the port's device, as when enabled; and by something that wants it before any driver was looked for."""
    enable_at_boot(tmp_path / "ivi", target)
    world.overlay = tmp_path
    try:
        world.replace_guest("ivi", start=False)
        world.wait_connected(world.ivi)
    finally:
        world.overlay = None
    with story.echo(world):
        story.connect_many(world, 2)
    world.wait_channels(0)


def test_qemu_killed(world, stream, figures):
    """SIGKILL to the peer's QEMU: the end is seen at once; a new QEMU takes the VM's place, more than once."""
    began = time.monotonic()
    world.ivi.kill()
    world.wait_channels_gone_at(world.rtos)
    figures["seen_ms"] = round((time.monotonic() - began) * 1000)
    event = world.wait_until(lambda: [e for e in story.events(world.rtos, "sensor") if e["event"] in ("revoked", "closed")],
                             "the sensor sees the end", 30)[-1]
    assert event["error"] in ("ENOLINK", "EPIPE")
    world.replace_guest("ivi")
    world.ivi.kill()
    world.replace_guest("ivi")
    with story.echo(world):
        story.connect_many(world, 2)
