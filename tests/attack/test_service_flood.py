# SPDX-License-Identifier: LGPL-2.1-or-later
"""One user floods the bus. What must stay: another user's connection succeeds within 30 s (the figures say how much
sooner), the daemon's memory grows by less than 4 MiB, the daemon lives on, nothing is left behind, and who is refused
hears of a named quota.

The limits that do it are taken out of a second daemon, which lets the same calls through. What no daemon can stop is a
queue in the bus itself: whoever has thousands of calls in it is before others for as long as these take.
"""

import contextlib
import json
import time

import pytest

from lab import mutant, story, swap
from lab.attack import SERVICE, attack
from lab.mutant import Edit

FLOOD = f"{story.TESTS}/bus-flood"
MANAGER = ["/org/sivshm1", "org.sivshm1.Manager"]
CONNECT = [*MANAGER, "Connect", "ssa{sv}", "sensor", "ivi/dashboard"]
QUOTA, LIMITS = "org.sivshm1.Error.QuotaExceeded", "org.freedesktop.DBus.Error.LimitsExceeded"
NOT_AUTHORIZED = "org.sivshm1.Error.NotAuthorized"
TIMED_OUT = "org.sivshm1.Error.TimedOut"  # a handshake that took 10 s, on a busy machine
PATIENCE_MS, GROWTH_KIB = 30_000, 4 * 1024

NO_LIMITS = [
    Edit("src/sivshmd/quota.c", "if (a && a->used[kind] >= limits[kind].limit)",
         "if (0 && a && a->used[kind] >= limits[kind].limit)"),
    Edit("src/common/bus-access.c", "return n < BUS_ACCESS_MAX_PER_SENDER;", "return n < 1000000;"),
    Edit("src/sivshmd/channel.c", "if (n == 0 || n + quota_used(", "if (1 || n + quota_used("),
]
HOARD = Edit("src/common/bus-access.c", "\tsd_bus_message_unref(q->message);\n", "")

LISTENERS, FEWER = 1000, 6000  # FEWER calls are enough to grow too large
HOST_VM = "/etc/sivshm-ca/vm.d/20-ivi.conf"
IVI_POLICY = "/etc/sivshm/policy.d/50-attack.conf"


# the others

@contextlib.contextmanager
def serving(world):
    """camera in rtos and recorder in ivi, who have nothing to do with the flood; and dashboard, who has."""
    with (story.echo(world), story.unit(world.rtos, "camera", "camera", ["/usr/bin/sleep", "600"]),
          story.unit(world.ivi, "recorder", "recorder", [f"{story.TESTS}/handshake-bench", "listen", "recorder"])):
        world.wait_until(lambda: story.listening(world, "ivi", "recorder"), "ivi/recorder listens")
        others(world)  # their certificates are there from now on
        yield


def others(world):
    """A connection of camera with a message through it; the milliseconds that Connect took."""
    script = 'echo $$ > /sys/fs/cgroup/system.slice/camera.service/cgroup.procs; exec "$@"'
    rc, out, err = world.rtos.run(["/bin/sh", "-c", script, "sh", *story.as_user(
        "camera", f"{story.TESTS}/handshake-bench", "connect", "camera", "ivi/recorder", "1", "hold")])
    assert rc == 0, f"another user cannot connect: {err}"
    [answer] = json.loads(out)["calls"]
    return answer["ms"]


def are_others_served(world):
    """Whether one of them gets a channel within 15 s."""
    script = 'echo $$ > /sys/fs/cgroup/system.slice/camera.service/cgroup.procs; exec timeout 15 "$@"'
    return world.rtos.run(["/bin/sh", "-c", script, "sh", *story.as_user(
        "camera", f"{story.TESTS}/handshake-bench", "connect", "camera", "ivi/recorder", "1")])[0] == 0


# the daemon

def vital(guest):
    """Main pid and peak of its memory in KiB since the last look."""
    out = guest.run("pid=$(systemctl show -P MainPID sivshmd); echo $pid; awk '/^VmHWM/ {print $2} /^VmRSS/ {print $2}'"
                    " /proc/$pid/status; echo 5 > /proc/$pid/clear_refs", check=True)[1]
    pid, peak, now = map(int, out.split())
    return pid, peak, now


def flood(guest, user, *command):
    """Starts it. Returns what waits for its answer."""
    pid = guest.run_bg(story.as_user(user, FLOOD, *command))

    def answer():
        rc, out, err = guest.wait(pid, 400, "bus-flood")
        assert rc == 0, f"bus-flood: exit {rc}: {err}"
        return json.loads(out)
    return answer


@contextlib.contextmanager
def endured(world, guest, figures, growth=GROWTH_KIB):
    """The flood is inside. Other users are served meanwhile, and the daemon is the same with little more memory."""
    guest.mark(mark := f"flood {time.monotonic()}")
    pid, _, before = vital(guest)
    times = []
    yield lambda: times.append(others(world))
    after, peak, _ = vital(guest)
    guest.assert_kernel_clean(since=mark)
    figures["flood"] = {"others_ms": [round(ms) for ms in times], "before_kib": before, "peak_kib": peak}
    assert after == pid, "the daemon died"
    assert times and max(times) < PATIENCE_MS, times
    assert peak - before < growth, (before, peak)


# the floods

def calls_without_policy(guest, calls):
    return flood(guest, "daemon", "--calls", str(calls), "--window", "100", *CONNECT)


def calls_of_a_service(guest):
    return flood(guest, "sensor", "--calls", "600", "--connections", "200", "--window", "1", *CONNECT)


@contextlib.contextmanager
def held(guest, user, *command):
    """A flood that keeps what it has until the end. Gives what asks for its answer."""
    out, line = "/run/flood.json", " ".join(f"'{word}'" for word in (FLOOD, "--hold", *command))
    guest.run(["/bin/rm", "-f", out], check=True)
    guest.run(["/usr/bin/systemd-run", "--quiet", "--collect", "--unit=flood", f"--uid={user}",
               "-p", f"StandardOutput=file:{out}", "/bin/sh", "-c", f"sleep 900 | {line}"], check=True)

    def answer():
        end = time.monotonic() + 400
        while not (text := guest.run(["/bin/cat", out], check=True)[1]).endswith("\n"):
            assert time.monotonic() < end, "the flood has no end"
            time.sleep(0.2)
        return json.loads(text)
    try:
        yield answer
    finally:
        guest.run("systemctl stop flood")


def listeners(guest, calls):
    return held(guest, "recorder", "--calls", str(calls), "--connections", "16", "--window", "8", *MANAGER,
                "Listen", "sa{sv}", "l%u")


def deaf(guest):
    """Answers of some kilobytes, which do not fit the sockets of those who never read them."""
    return held(guest, "daemon", "--deaf", "--pause", "1", "--calls", "2000", "--connections", "8", MANAGER[0],
                "org.freedesktop.DBus.Introspectable", "Introspect", "")


@contextlib.contextmanager
def unread_channels(world):
    """sensor asks for as many channels as it may have, and reads no answer; what fills its socket comes first."""
    with held(world.rtos, "sensor", "--deaf", "--fill", "100", "--pause", "120", "--calls", "110",
              *CONNECT) as answer:
        answer()
        time.sleep(2)
        yield len(world.channels())
    world.wait_channels(0)


def bus_memory(guest):
    """KiB of the bus's daemon."""
    return int(guest.run("awk '/^VmRSS/ {print $2}' /proc/$(systemctl show -P MainPID dbus)/status", check=True)[1])


@contextlib.contextmanager
def stuck(world):
    """The host's daemon hangs, so that what is begun stays begun."""
    world.host.run("systemctl kill --kill-who=main -s STOP sivshm-cad", check=True)
    try:
        yield
    finally:
        world.host.run("systemctl kill --kill-who=main -s CONT sivshm-cad", check=True)


def calls_that_wait(world):
    """How many of 100 Connect calls of one user are under way while the host hangs; the others are refused."""
    with stuck(world):
        answers = flood(world.rtos, "sensor", "--calls", "100", "--connections", "10", "--window", "10",
                        "--settle", "4000", *CONNECT)()["answers"]
    assert set(answers) == {QUOTA}, answers
    world.wait_channels(0)
    return 100 - answers[QUOTA]


@contextlib.contextmanager
def many_services(world):
    """ivi's recorder may be a thousand services, for its guest and for the host."""
    names = [f"l{i}" for i in range(LISTENERS)]
    world.host.run(["/bin/sh", "-c", f"cp {HOST_VM} /root/vm; sed -i 's/^Services=.*/& {' '.join(names)}/' {HOST_VM}"],
                   check=True)
    world.bus.call("Reload")
    world.ivi.put_file(IVI_POLICY, "".join(f"[Service {name}]\nUser=recorder\nAccept=rtos/camera\n"
                                           for name in names))
    world.ivi.run("sivshmctl reload", check=True)
    try:
        yield
    finally:
        world.ivi.run(f"rm {IVI_POLICY} && sivshmctl reload", check=True)
        world.host.run(["/bin/sh", "-c", f"mv /root/vm {HOST_VM}"], check=True)
        world.bus.call("Reload")


@pytest.fixture(scope="module")
def limitless(shared_world):
    """What the floods do to a daemon without limits that forgets no call."""
    world, rtos, ivi = shared_world, shared_world.rtos, shared_world.ivi
    binary = mutant.daemon("sivshmd", *NO_LIMITS, HOARD)
    found = {}
    with swap.daemon(world, rtos, binary), swap.daemon(world, ivi, binary), serving(world):
        _, _, before = vital(rtos)
        found["calls"] = calls_without_policy(rtos, FEWER)()["answers"]
        found["growth"] = vital(rtos)[1] - before
        found["waiting"] = calls_that_wait(world)
        with unread_channels(world) as channels:
            found["unread"] = channels, are_others_served(world)
        # no more than that: each has a certificate, of which the VM gets 600 a minute
        with many_services(world), listeners(ivi, 300) as answer:
            found["listeners"] = answer()["answers"]
    world.wait_channels(0)
    return found


@pytest.fixture(scope="module")
def served(shared_world, limitless):
    with serving(shared_world):
        yield shared_world


@attack(SERVICE, "floods: 10,000 Connect calls that no policy allows, 100 at a time",
        stops="calls under way of a connection are limited, the error says so, `src/common/bus-access.c`",
        control="a daemon without the limit refuses none for it, and grows beyond the bound if it forgets no call")
def test_calls_without_policy(served, world, limitless, figures, control):
    with endured(world, world.rtos, figures) as look:
        answer = calls_without_policy(world.rtos, 10_000)
        look(), look()
        answers = answer()["answers"]
    figures["answers"] = answers
    assert set(answers) == {NOT_AUTHORIZED, LIMITS} and sum(answers.values()) == 10_000
    control.seen(limitless["calls"] == {NOT_AUTHORIZED: FEWER})
    control.seen(limitless["growth"] > GROWTH_KIB)


@attack(SERVICE, "floods: 600 Connect calls that are allowed, on 200 connections",
        stops="Connect calls under way of a uid are limited: QuotaExceeded, `src/sivshmd/quota.c`",
        control="while the host hangs a daemon without the quota has 64 of 100 calls under way, this one 16")
def test_calls_of_a_service(served, world, limitless, figures, control):
    with endured(world, world.rtos, figures) as look:
        answer = calls_of_a_service(world.rtos)
        look(), look()
        answers = answer()["answers"]
    figures["answers"] = answers
    assert {"ok", QUOTA} <= set(answers) <= {"ok", QUOTA, TIMED_OUT} and sum(answers.values()) == 600
    world.wait_channels(0)
    assert calls_that_wait(world) <= 16  # on a busy machine the flood's last ones still count
    control.seen(limitless["waiting"] == 64)  # Channels= of the service


@attack(SERVICE, "floods: clients that call and never read an answer, until their queues are full",
        stops="answers go to the bus, which holds them at the client's account, `src/sivshmd/manager-bus.c`",
        control="their sockets are full of answers, and the bus keeps the rest")
def test_deaf_clients(served, world, figures, control):
    # the daemon may be faster than the bus takes its answers, some megabytes
    with endured(world, world.rtos, figures, growth=4 * GROWTH_KIB) as look:
        with deaf(world.rtos) as answer:
            unread = answer()["unread"]
            look(), look()
            figures["bus_kib"] = bus_memory(world.rtos)
    figures["unread_kib"] = unread >> 10
    control.seen(unread > 8 * 65536)


@attack(SERVICE, "asks for 64 channels and reads no answer: the bus carries no more than 64 fds of the daemon",
        stops="16 channels of a uid that it has not used: QuotaExceeded, `src/sivshmd/channel.c`",
        control="a daemon without the quota: the bus reads nothing of it any more, and nobody gets a channel")
def test_unread_channels(served, world, limitless, figures, control):
    with endured(world, world.rtos, figures) as look:
        with unread_channels(world) as channels:
            look(), look()
    assert channels <= 16
    channels, are_served = limitless["unread"]
    figures["without"] = channels
    control.seen(channels > 16 and not are_served)


@attack(SERVICE, "floods: 1,000 listeners, each a service that the policy allows",
        stops="64 listeners of a uid: QuotaExceeded, `src/sivshmd/quota.c`",
        control="a daemon without the quota takes them until the host's ListenersPerVM=256")
def test_listeners(served, world, limitless, figures, control):
    with many_services(world), endured(world, world.ivi, figures) as look:
        with listeners(world.ivi, LISTENERS) as answer:
            look()
            answers = answer()["answers"]
            look()
    figures["answers"] = answers
    assert answers == {"ok": 63, QUOTA: LISTENERS - 63}  # recorder itself is the 64th
    control.seen(limitless["listeners"]["ok"] > 200)
