# SPDX-License-Identifier: LGPL-2.1-or-later
"""A user of the host without rights: every method and property of org.sivshm.ca1, its name, its signals, floods."""

import contextlib
import json
import subprocess
import time

import pytest

pytest.importorskip("gi")

from lab import story  # noqa: E402
from lab.attack import HOST_BUS, attack  # noqa: E402

from cads import BASE, Edit, broken, cad, pair, sound  # noqa: E402
from fake_vm import Handshake  # noqa: E402
from host_bus import (  # noqa: E402
    ADMINISTRATOR, CLERK, DENIED, LIMITS, MANAGER, METHODS, OTHER_CALLS, STRANGER, Host, method_call, property_calls,
    script)

BUS_POLICY = "/etc/dbus-1/system.d/attack.conf"
LET_IN = """<busconfig><policy user="www-data"><allow send_destination="org.sivshm.ca1"/></policy></busconfig>
"""
QUESTIONS = ("List", "Explain", "Get")  # how methods are called that change nothing


@pytest.fixture
def host(world):
    return Host(world)


@contextlib.contextmanager
def let_in(host):
    """An administrator lets the clerk talk to the daemon, for the lists."""
    host.world.host.put_file(BUS_POLICY, LET_IN)
    host.run("systemctl reload dbus")
    try:
        yield
    finally:
        host.run(f"rm {BUS_POLICY}; systemctl reload dbus; systemctl unmask --runtime polkit; systemctl stop polkit")


def root_may(host):
    """Root's same calls get past the door, all of them; what they did is undone."""
    calls = [method_call(name, host.values) for name in METHODS if name != "Restore"]
    calls += [method_call("Restore", {**host.values, "name": name}) for name in ("rtos/sensor", "rtos")]
    calls += property_calls() + OTHER_CALLS
    answers = host.attack(0, "calls", calls=calls)
    refused = [(call[:2], answer) for call, answer in zip(calls, answers) if answer]
    # a channel that is not there, properties that nobody may set, an interface that it has not
    return DENIED not in answers and {call[1] for call, _ in refused} <= {"RevokeChannel", "Set", "GetManagedObjects"}


@attack(HOST_BUS, "calls every method, reads and sets every property of `org.sivshm.ca1`, as shipped",
        stops="the bus lets root alone talk to the name, `org.sivshm.ca1.conf`",
        control="root's same calls are carried out")
def test_as_shipped(host, control):
    before = host.state()
    calls = host.every_call() + property_calls() + OTHER_CALLS
    assert set(host.attack(STRANGER, "calls", calls=calls)) == {DENIED}
    assert host.state() == before
    control.seen(root_may(host))


@attack(HOST_BUS, "calls each administrator's method, let in by the bus for the lists",
        stops="polkit, or root alone where it gives no answer, `bus-access.c`, `src/sivshm-cad/manager-bus.c`",
        control="root's same calls are carried out")
@pytest.mark.parametrize("polkit", ["with polkit", "without polkit"])
def test_let_in(host, control, polkit):
    assert len(ADMINISTRATOR) >= 5 and all(name in ADMINISTRATOR or name.startswith(QUESTIONS) for name in METHODS)
    with let_in(host):
        if polkit == "without polkit":
            host.run("systemctl mask --runtime --now polkit")
        before = host.state()
        answers = dict(zip(METHODS, host.attack(CLERK, "calls", calls=host.every_call())))
        assert host.state() == before
        assert {name for name, error in answers.items() if error == DENIED} == set(ADMINISTRATOR), answers
        assert not [error for name, error in answers.items() if name not in ADMINISTRATOR and error]
        sets = [call for call in property_calls() if call[1] == "Set"]
        assert None not in host.attack(CLERK, "calls", calls=sets)
        control.seen(root_may(host))


IS_ROOT = "if (!q->action || q->sender.uid == 0)"
ANYBODY = Edit("src/common/bus-access.c", IS_ROOT, "if (!q->action || q->sender.uid != 4242)")


@attack(HOST_BUS, "calls each administrator's method on a bus that lets everybody talk to everybody",
        stops="the daemon asks by itself who calls, `bus-access.c`",
        control="a build that does not ask carries all of them out")
@pytest.mark.parametrize("name", ADMINISTRATOR)
def test_open_bus(name, control):
    values = {"vm": "alpha", "service": "alpha/sensor", "name": "alpha", "reason": "attack"}

    def state(daemon):
        return daemon.vms(), daemon.channels(), daemon.log().count("configuration read")

    def attempt(daemon):
        """Did it do what it says?"""
        alpha, bravo = pair(daemon)
        Handshake(alpha, bravo).run()
        if name == "Restore":
            daemon.call("RevokeVM", "ss", "alpha", "test")
        before = state(daemon)
        call = method_call(name, {**values, "id": (daemon.channels() or [{"id": ""}])[0]["id"]})
        done = subprocess.run(
            story.as_user(STRANGER, *script("bus_attack.py")), text=True,
            env={"DBUS_SYSTEM_BUS_ADDRESS": daemon.bus_address, "LANG": "C.UTF-8"}, capture_output=True,
            input=json.dumps({"do": "calls", "calls": [call]}) + "\n", timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)[0], state(daemon) != before

    with cad(sound(), BASE) as daemon:
        assert attempt(daemon) == (DENIED, False)
    with cad(broken(ANYBODY), BASE) as daemon:
        control.seen(attempt(daemon) == (None, True))


# the name and signals

@attack(HOST_BUS, "takes the name of the daemon, or of a guest's, to be asked in its place",
        stops="the bus gives it to root (and sivshmd's user) alone, `org.sivshm.ca1.conf`, `org.sivshm1.conf`",
        control="root gets the name that is free")
def test_names(host, control):
    names = ["org.sivshm.ca1", "org.sivshm1", "org.sivshm.ca1.Manager"]
    for uid in (STRANGER, CLERK):
        assert set(host.attack(uid, "own", names=names)) == {DENIED}
    control.seen(host.attack(0, "own", names=["org.sivshm1"]) == [None] * 4)


def open_and_close(world):
    """A channel, and with it two signals of the daemon's."""
    with story.echo(world):
        story.connect_many(world, 1)
    world.wait_channels(0)


@attack(HOST_BUS, "listens to the daemon's signals, as a match, by eavesdropping, or as a monitor",
        stops="who may not ask the daemon does not hear it, `org.sivshm.ca1.conf`; the bus's own rules",
        control="root hears of the channel that was opened and closed meanwhile")
def test_listening(host, control, world):
    with host.attacking(STRANGER, "hear", monitor=True) as stranger, host.attacking(0, "hear") as root:
        open_and_close(world)
        world.bus.call("ListVMs")
    assert stranger[0]["monitor"] == DENIED
    assert not [message for message in stranger[0]["heard"] if message[1] == MANAGER], stranger
    heard = {message[2] for message in root[0]["heard"] if message[1] == MANAGER}
    control.seen({"ChannelOpened", "ChannelClosed"} <= heard)


FORGED = [["org.freedesktop.DBus.Local", "Disconnected", "", []],
          ["org.freedesktop.DBus", "NameOwnerChanged", "sss", ["org.sivshm.ca1", ":1.1", ""]],
          ["org.freedesktop.DBus", "NameLost", "s", ["org.sivshm.ca1"]],
          ["org.freedesktop.PolicyKit1.Authority", "Changed", "", []],
          [MANAGER, "ChannelClosed", "ss", ["0" * 32, "forged"]]]


@attack(HOST_BUS, "sends the daemon signals in the name of the bus: its end, another owner of its name",
        stops="the bus sends `Local` to nobody; the daemon believes nothing else, `src/sivshm-cad/manager-bus.c`",
        control="a listener that does not look at the sender hears the forged ones")
@pytest.mark.parametrize("uid", [STRANGER, CLERK], ids=["stranger", "let in"])
def test_forged_signals(host, control, uid):
    with let_in(host):
        before, count = host.state(), "journalctl -u sivshm-cad -o cat --no-pager | grep -c 'bus went away'"
        went_away = host.run(count, False)
        owner = host.attack(uid, "signals", signals=FORGED)
        with host.attacking(0, "hear") as root:
            assert host.attack(uid, "signals", signals=FORGED) == owner  # still the same connection
        assert host.state() == before and host.run(count, False) == went_away
        control.seen([m for m in root[0]["heard"] if m[1:3] == [MANAGER, "ChannelClosed"] and m[3] != owner])


# floods

def daemon_memory(host):
    pid = host.run("systemctl show -P MainPID sivshm-cad").strip()
    return int(host.run(f"grep VmRSS /proc/{pid}/status").split()[1])


@attack(HOST_BUS, "floods the daemon with calls, on several connections, and never reads an answer",
        stops="questions are charged to the sender, and to all, `bus-access.c`; the bus bounds its queues",
        control="a caller that reads gets its answers, and the quota's error by name")
@pytest.mark.parametrize("method", ["ListVMs", "Reload"])
def test_flood(host, control, method, figures):
    order = {"method": method, "signature": "", "arguments": [], "calls": 1000}
    with let_in(host):
        host.run("systemctl mask --runtime --now polkit")  # its answer to each costs the machine more than the flood
        before = daemon_memory(host)
        with host.attacking(CLERK, "flood", connections=10, read=False, **order):
            began = time.monotonic()
            host.world.bus.call("ListVMs", timeout=30)
            host.world.bus.call("Reload", timeout=30)
            figures["root waits ms"] = round((time.monotonic() - began) * 1000)
            figures["memory grows KiB"] = daemon_memory(host) - before
        assert figures["memory grows KiB"] < 64 * 1024
        answers = host.attack(CLERK, "flood", connections=1, read=True, **order)["answers"]
        assert sum(answers.values()) == 1000, answers
        # the bus has a quota of its own for calls that wait for an answer
        control.seen({"ListVMs": "", "Reload": LIMITS}[method] in answers and set(answers) <= {"", DENIED, LIMITS})
