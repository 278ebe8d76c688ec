# SPDX-License-Identifier: LGPL-2.1-or-later
"""The whole path for real: host unit, two guests, every claim of the main job."""

import re
import time
import xml.etree.ElementTree as ET

import pytest

from lab import grants, paths, story
from lab.world import SECTION_SIZE


@pytest.fixture(autouse=True)
def nothing_left(world):
    """Every case ends with no channel on the host."""
    yield
    world.wait_channels(0)


def test_qemu_runs_as_its_own_user(world):
    for vm, guest in world.guests.items():
        status = open(f"/proc/{guest.process.pid}/status").read()
        uids = re.search(r"^Uid:\s+(.*)$", status, re.M)[1].split()
        assert set(uids) == {str(guest.uid)} and guest.uid != 0
        assert re.search(r"^CapEff:\s+0+$", status, re.M)


def test_host_is_a_real_unit(world):
    out = world.host.run("systemctl show sivshm-cad -p ActiveState,SubState,Type,NRestarts", check=True)[1]
    assert "ActiveState=active" in out and "Type=notify" in out and "NRestarts=0" in out


def test_busctl_shows_the_documented_interface(world):
    """Each member that the XML documents is there, with the same signature; and nothing else."""
    tree = ET.parse(paths.ROOT / "dbus/org.sivshm1.xml")
    manager = tree.find("interface[@name='org.sivshm1.Manager']")
    want = set()
    for kind in ("method", "signal"):
        for member in manager.findall(kind):
            args = {d: "".join(a.get("type") for a in member.findall("arg") if a.get("direction", "in") == d)
                    for d in ("in", "out")}
            want.add((f".{member.get('name')}", kind, args["in"] or "-", args["out"] or "-"))
    for member in manager.findall("property"):
        want.add((f".{member.get('name')}", "property", member.get("type")))
    out = world.rtos.run("busctl introspect --no-legend org.sivshm1 /org/sivshm1", check=True)[1]
    rows = [line.split() for line in out.split("org.sivshm1.Manager", 1)[1].splitlines()[1:]]
    got = {tuple(row[:3] if row[1] == "property" else row[:4]) for row in rows if row and row[0].startswith(".")}
    assert got == want


def test_stream_and_revocation(world, figures):
    facts = story.stream(world)
    figures["messages"] = facts["messages"]
    facts = story.revoke_stream(world)
    figures["revocation_ms"] = facts["revocation_ms"]
    story.stop_demo_services(world)
    assert facts["revocation_ms"] < 2000


def test_refusals(world, figures):
    cases = story.refusals(world)
    figures["refusals"] = {case["name"]: case["error"][:80] for case in cases}
    assert [case["name"] for case in cases if not case["refused"]] == []


def test_64_channels_at_once(world):
    """Each carries a message of its own; in each section no two windows share a byte, and ends agree."""
    with story.echo(world):
        pid = world.rtos.run_bg(story.as_user("sensor", f"{story.TESTS}/handshake-bench", "connect", "sensor",
                                              "ivi/dashboard", "64", "stay"))
        world.wait_until(lambda: len(world.channels()) == 64, "64 channels on the host", 60)
        rtos, ivi = (grants.active(vm) for vm in ("rtos", "ivi"))
        world.rtos.run(f"kill -TERM {pid}", check=True)
        rc, out, err = world.rtos.wait(pid, 60)
    assert rc == 0, out[-300:] + err
    assert len(rtos) == len(ivi) == 64
    assert {(g["channel"], g["tx"], g["rx"]) for g in rtos} == {(g["channel"], g["rx"], g["tx"]) for g in ivi}
    for side in (rtos, ivi):
        windows = sorted(g["tx"] for g in side)
        assert all(a[0] + a[1] <= b[0] for a, b in zip(windows, windows[1:]))
        assert windows[0][0] >= 4096 and windows[-1][0] + windows[-1][1] <= SECTION_SIZE


def test_two_services_each(world):
    """sensor with dashboard and camera with recorder, at the same time."""
    world.rtos.put_file("/run/systemd/system/camera.service",
                        "[Service]\nUser=camera\nExecStart=/usr/libexec/sivshm/demo-sensor --as camera --to ivi/recorder\n")
    world.ivi.put_file("/run/systemd/system/recorder.service",
                       "[Service]\nUser=recorder\nExecStart=/usr/libexec/sivshm/demo-dashboard --as recorder\n")
    world.each(lambda guest: guest.run("systemctl daemon-reload", check=True))
    story.restart_demo_services(world)
    world.ivi.run("systemctl start recorder", check=True)
    world.rtos.run("systemctl start camera", check=True)
    try:
        for name in ("dashboard", "recorder"):
            event = world.wait_until(lambda: (e := story.last_event(world.ivi, name, "progress"))
                                     and e["messages"] > 500 and e, f"{name} gets messages", 60)
            assert event["messages"] > 500 and not story.last_event(world.ivi, name, "corrupt")
        assert len(world.channels()) == 2
    finally:
        # other tests of these guests have transient units of the same names
        for guest, name in ((world.rtos, "camera"), (world.ivi, "recorder")):
            guest.run(f"systemctl stop {name}; rm /run/systemd/system/{name}.service; systemctl daemon-reload")
        story.stop_demo_services(world)


def test_another_dbus_library_gets_an_fd_and_talks(world):
    """Python's GDBus, written from docs/channel-abi.md and the XML alone."""
    with story.echo(world):
        rc, out, err = world.rtos.run(story.as_user(
            "sensor", "/usr/bin/python3", f"{story.TESTS}/gdbus_client.py", "connect", "sensor", "ivi/dashboard"),
            timeout=60)
    assert rc == 0, f"{out}{err}"


def test_another_dbus_library_listens(world):
    """The same from the other side: Python accepts and echoes, the C library connects and compares."""
    with story.unit(world.ivi, "gdbus", "dashboard",
                    ["/usr/bin/python3", f"{story.TESTS}/gdbus_client.py", "listen", "dashboard"]):
        world.wait_until(lambda: story.listening(world, "ivi", "dashboard"), "the Python client listens")
        assert story.connect_many(world, 1, "hold")["channels"] == 1


# Nothing is left, wherever a client dies

def test_client_killed_at_any_moment(world, figures):
    """SIGKILL after more and more of the time that a connection takes."""
    with story.echo(world):
        warm = story.handshakes(world, 5, False)
        span = warm["p99"] * 2 + 40
        before = world.settled()
        for step in range(25):
            delay = span * step / 24 / 1000
            world.rtos.run(story.as_user("sensor", "/usr/bin/timeout", "-s", "KILL", f"{delay + 0.001:.4f}",
                                         "/usr/bin/sivshmctl", "connect", "--as", "sensor", "ivi/dashboard"))
        after = world.settled()
    figures["span_ms"] = round(span)
    assert after == before


@pytest.mark.parametrize("who", ["sivshmd of the client", "host", "sivshmd of the peer"])
def test_client_killed_while_somebody_hangs(world, who):
    """The client dies while the request waits at each of the three stations."""
    def signal(name):
        if who == "host":
            world.host.run(f"systemctl kill -s {name} sivshm-cad", check=True)
        else:
            guest = world.rtos if who.endswith("client") else world.ivi
            guest.run(f"systemctl kill -s {name} sivshmd", check=True)
    with story.echo(world):
        story.connect_many(world, 1)
        before = world.settled()
        signal("STOP")
        try:
            world.rtos.run(story.as_user("sensor", "/usr/bin/timeout", "-s", "KILL", "0.7",
                                         "/usr/bin/sivshmctl", "connect", "--as", "sensor", "ivi/dashboard"))
        finally:
            signal("CONT")
        assert world.settled() == before
        story.connect_many(world, 1)


# What a user sees who makes a mistake

def mistake(world, *command, user="sensor"):
    rc, out, err = world.rtos.run(story.as_user(user, "/usr/bin/sivshmctl", *command), input="")
    assert rc != 0
    return err


def test_mistake_peer_missing(world):
    assert "ivi/dashboard" in mistake(world, "connect", "--as", "sensor", "ivi/dashboard")


def test_mistake_daemon_not_running(world):
    world.rtos.run("systemctl mask --runtime --now sivshmd", check=True)
    try:
        assert "systemctl start sivshmd" in mistake(world, "connect", "--as", "sensor", "ivi/dashboard")
    finally:
        world.rtos.run("systemctl unmask --runtime sivshmd; systemctl start sivshmd", check=True)
        world.wait_connected(world.rtos)


def test_mistake_wrong_policy(world):
    world.rtos.put_file("/etc/sivshm/policy.d/99-wrong.conf", "[Service extra]\nUsr=sensor\n")
    rc, out, err = world.rtos.run("sivshmctl reload")
    world.rtos.run("rm /etc/sivshm/policy.d/99-wrong.conf; sivshmctl reload", check=True)
    assert rc != 0 and "99-wrong.conf:2" in err and "Usr" in err


def test_mistake_policy_wrong_at_start(world):
    """The daemon says file and line, and is not started again and again."""
    path = "/etc/sivshm/policy.d/99-wrong.conf"
    world.rtos.put_file(path, "[Service extra]\nUsr=sensor\n")
    try:
        assert world.rtos.run("systemctl restart sivshmd")[0] != 0
        time.sleep(1)
        out = world.rtos.run("systemctl show sivshmd -p ActiveState,ExecMainStatus,NRestarts", check=True)[1]
        assert "ActiveState=failed" in out and "ExecMainStatus=78" in out
        assert f"{path}:2" in story.journal(world.rtos, "sivshmd")
        assert "sivshmd" in mistake(world, "connect", "--as", "sensor", "ivi/dashboard")
    finally:
        world.rtos.run(f"rm {path}; systemctl start sivshmd", check=True)
        world.wait_connected(world.rtos)
