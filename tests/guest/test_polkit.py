# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who may manage: Debian's polkit, with rules as an administrator writes them, on the host and in a guest."""

import contextlib
import time

import pytest

from lab import story

USER = "clerk"
RULES = "/etc/polkit-1/rules.d/10-clerk.rules"
RULE = """polkit.addRule(function(action, subject) {{
    if (action.id == "{action}" && subject.user == "clerk")
        return polkit.Result.YES;
}});
"""
DENIED = "org.freedesktop.DBus.Error.AccessDenied"
BUS_POLICY = "/etc/dbus-1/system.d/clerk.conf"
LET_IN = """<busconfig><policy user="clerk"><allow send_destination="org.sivshm.ca1"/></policy></busconfig>
"""
REVOKE = ("revoke", "channel", "0123456789abcdef0123456789abcdef")


class Side:
    """The host or a guest, and what its daemon is called."""

    def __init__(self, machine, name, action, reload):
        self.machine, self.name, self.action, self.reload = machine, name, action, reload

    def run(self, command, check=True, timeout=60):
        return self.machine.run(command, timeout, check=check)

    def ctl(self, *words, user=USER, timeout=60):
        command = ["/usr/bin/sivshmctl", *words]
        rc, _, err = self.run(command if user == "root" else story.as_user(user, *command), False, timeout)
        return rc, err

    def allow(self):
        """polkitd sees the file by itself, sometime."""
        self.machine.put_file(RULES, RULE.format(action=self.action))
        end = time.monotonic() + 20
        while self.ctl(*self.reload)[0] != 0:
            assert time.monotonic() < end, self.ctl(*self.reload)
            time.sleep(0.1)

    def refused(self, *words, why):
        """Denied by the name that the interface documents, with the reason, and soon."""
        began = time.monotonic()
        rc, err = self.ctl(*words)
        assert rc == 3 and DENIED in err and why in err and f"see {self.name}(8)" in err
        assert time.monotonic() - began < 10

    def read_again(self):
        """How often the daemon has read its files so far."""
        self.run("journalctl --sync")
        text = {"sivshmd": "Policy names", "sivshm-cad": "configuration read"}[self.name]
        return self.run(f"journalctl -u {self.name} -o cat --no-pager | grep -c '{text}'", False)[1].strip()


@contextlib.contextmanager
def clerk_on(side):
    side.run(f"useradd {USER}")
    try:
        yield side
    finally:
        side.run("systemctl unmask --runtime polkit; systemctl kill -s CONT polkit", False)
        side.run(f"rm -f {RULES}; systemctl stop polkit; userdel {USER}")


@pytest.fixture
def host(world):
    """On the host the bus has to let the user in first: as shipped root alone may talk to the daemon."""
    with clerk_on(Side(world.host, "sivshm-cad", "org.sivshm.ca1.manage", ("--host", "reload"))) as side:
        rc, err = side.ctl("vms")
        assert rc == 3 and DENIED in err
        world.host.put_file(BUS_POLICY, LET_IN)
        world.host.run("systemctl reload dbus", check=True)
        yield side
        world.host.run(f"rm {BUS_POLICY}; systemctl reload dbus", check=True)


@pytest.fixture
def guest(world):
    with clerk_on(Side(world.rtos, "sivshmd", "org.sivshm1.reload", ("reload",))) as side:
        yield side


@pytest.fixture(params=["host", "guest"])
def side(request):
    return request.getfixturevalue(request.param)


def test_without_a_rule(side):
    before = side.read_again()
    side.refused(*side.reload, why="polkit wants an administrator's password")
    assert side.read_again() == before
    assert side.ctl(*side.reload, user="root") == (0, "")
    assert side.read_again() != before


def test_with_a_rule(side):
    """The rule lets this user in and no other."""
    side.allow()
    before = side.read_again()
    assert side.ctl(*side.reload) == (0, "")
    assert side.read_again() != before
    rc, err = side.ctl(*side.reload, user="daemon")
    assert rc == 3 and DENIED in err


def test_rule_that_says_no(side):
    side.machine.put_file(RULES, RULE.format(action=side.action).replace("YES", "NO"))
    side.run("systemctl restart polkit")
    side.refused(*side.reload, why="polkit does not allow this")
    assert side.ctl(*side.reload, user="root") == (0, "")


def test_stopped(side):
    """It is started again by the first question."""
    side.allow()
    side.run("systemctl stop polkit")
    assert side.ctl(*side.reload) == (0, "")


def test_masked(side):
    side.allow()
    side.run("systemctl mask --runtime --now polkit")
    side.refused(*side.reload, why="only root may do this (polkit gave no answer: Unit polkit.service is masked.)")
    assert side.ctl(*side.reload, user="root") == (0, "")


def test_hangs(host, world, figures):
    """A polkit that never answers costs its own caller 20 s, and nobody else anything."""
    host.allow()
    host.run("systemctl kill -s STOP polkit")
    began = time.monotonic()
    waiting = world.host.run_bg(story.as_user(
        USER, "/usr/bin/dbus-send", "--system", "--print-reply", "--dest=org.sivshm.ca1", "/org/sivshm/ca1",
        "org.sivshm.ca1.Manager.Reload"), stdout=-1, stderr=-1, text=True)
    assert host.ctl(*host.reload, user="root") == (0, "")
    assert time.monotonic() - began < 5
    _, err = waiting.communicate(timeout=40)
    figures["seconds"] = round(time.monotonic() - began, 1)
    assert waiting.returncode != 0 and DENIED in err and "polkit gave no answer" in err
    assert figures["seconds"] < 25
    host.run("systemctl kill -s CONT polkit")
    assert host.ctl(*host.reload) == (0, "")


def test_revocation(host, world):
    """The methods that end a channel ask the same question, before anything is looked up or done."""
    story.restart_demo_services(world)
    story.wait_event(world, world.rtos, "sensor", "connected")
    channel = story.running_channel(world)
    for words in (("revoke", "channel", channel["id"]), REVOKE, ("revoke", "service", "rtos/sensor"),
                  ("revoke", "vm", "rtos"), ("restore", "rtos")):
        host.refused(*words, why="polkit wants an administrator's password")
    assert [c["id"] for c in world.channels()] == [channel["id"]]
    host.allow()
    assert host.ctl("revoke", "channel", channel["id"], "--reason", "test") == (0, "")
    story.wait_event(world, world.rtos, "sensor", "revoked")
    rc, err = host.ctl(*REVOKE)
    assert rc == 1 and "org.sivshm.ca1.Error.NoSuchChannel" in err
    story.stop_demo_services(world)


def test_certificates_are_forgotten(guest, world):
    """The guest daemon's other method."""
    call = ["/usr/bin/busctl", "call", "org.sivshm1", "/org/sivshm1", "org.sivshm1.Manager", "ForgetCertificates"]
    with story.echo(world):
        story.connect_many(world, 1)
    have = "sivshmctl --json status"
    assert world.guest_json(world.rtos, have)["certificates"]
    assert guest.run(story.as_user(USER, *call), False)[0] != 0
    assert world.guest_json(world.rtos, have)["certificates"]
    guest.allow()
    guest.run(story.as_user(USER, *call))
    assert not world.guest_json(world.rtos, have)["certificates"]
    world.wait_channels(0)
