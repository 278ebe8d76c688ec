# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest whose kernel attacks the other guest: by what it writes into its section, and by doorbells."""

import json
import re
import signal
import time

import pytest

import hostile
from lab import mutant, paths, story
from lab.attack import KERNEL, attack
from test_kernel_ring import NO_LENGTH

STORM = "5a0f1c8e8d5b4d0fb7c2c4a6d1b7e30c"  # MESSAGE_ID, sivshmd(8)
LOW_LIMIT = 50  # an emulated CPU is not stormed faster than some hundred to thousand times a second


# the ring

def duel(world, seconds, binary=hostile.PROGRAM):
    """rtos' kernel writes, ivi's service reads. Returns the end of the reader and what both counted."""
    with hostile.kernel(world, "rtos", "ivi"):
        reader = world.ivi.run_bg(story.as_user("dashboard", binary, "read", "dashboard", str(seconds + 15)))
        world.wait_until(lambda: story.listening(world, "ivi", "dashboard"), "the reader listens")
        rc, out, err = world.rtos.run([hostile.PROGRAM, "write", "sensor", "ivi/dashboard", "sensor", str(seconds),
                                       f"{hostile.PARAMETERS}/scribble"], timeout=seconds + 120)
        assert rc == 0, out[-500:] + err
        end, text, _ = world.ivi.wait(reader, seconds + 120, "the reader")
    world.wait_channels(0)
    return end, json.loads(text) if text else {}, out


def attack_reader(world, figures, control, seconds):
    end, seen, told = duel(world, seconds)
    figures.update(seen)
    assert end == 0, f"the reader ended with {end}; {told}"
    assert seen["channels"] >= 3 and seen["first_proto"] >= 1, told
    assert all(seen[kind] for kind in ("messages", "sent", "empty", "full", "proto", "closed")), told
    assert seen["longest_ms"] < 10_000  # each call waits 2 ms at most; the rest is this machine
    handshake_and_ping(world)
    broken = mutant.program("tests/progs/hostile-peer", NO_LENGTH)
    world.ivi.put_file("/run/hostile-peer", broken.read_bytes(), mode=0o755)
    # it takes as many states as a second has; on a busy machine a few seconds may not have them
    control.seen(any(duel(world, 8, "/run/hostile-peer")[0] == -signal.SIGSEGV for _ in range(4)))


rewrites = attack(KERNEL, "rewrites its section at full rate, header and grown windows included, while the peer's service reads",
                  stops="`src/client/ring.c`, `ring.h`: the service gets EPROTO and connects anew; the module reads nothing there",
                  control="a service with a ring that does not check lengths crashes")


@rewrites
def test_section_rewritten(world, figures, control):
    attack_reader(world, figures, control, 45)


@rewrites
@pytest.mark.slow
def test_section_for_minutes(world, figures, control):
    attack_reader(world, figures, control, 600)


# doorbells

def handshake_and_ping(world):
    """Milliseconds of a whole connection, and a message there and back on it."""
    with story.echo(world):
        answer = story.connect_many(world, 1, "hold")
    assert answer["channels"] == 1
    world.wait_channels(0)
    return round(answer["calls"][0]["ms"], 1)


def storm_lines(guest):
    """What the daemon that runs now has told: a quick machine can reach the limit of the one before, too."""
    return guest.run("journalctl -b -q --no-pager -o short-precise _PID=$(systemctl show -P MainPID sivshmd)"
                     f" MESSAGE_ID={STORM}")[1].splitlines()


@attack(KERNEL, "rings every vector of the peer without a pause",
        stops="doorbells merge on their way; what still storms is masked and polled, `src/kmod/bell.c`; told once a minute",
        control="with a limit out of reach several times as many interrupts are served")
def test_doorbell_storm(world, figures, control):
    ivi = world.ivi
    with hostile.kernel(world, "rtos", "ivi") as attacker:
        # what the host's scheduler takes from two guests that are busy is no doing of doorbells
        with hostile.thread(attacker, "spin"):
            idle = hostile.work(ivi, 4)
        with hostile.thread(attacker, "ring"):
            rung = hostile.rung(attacker)
            busy = hostile.work(ivi, 4)
            rung = hostile.rung(attacker) - rung
            figures["handshake_in_storm_ms"] = handshake_and_ping(world)
        with hostile.storm_limit(world, "ivi", LOW_LIMIT), hostile.thread(attacker, "ring"):
            masked = hostile.work(ivi, 4)
            figures["handshake_while_masked_ms"] = handshake_and_ping(world)
            lines = world.wait_until(lambda: storm_lines(ivi), "the storm is told")
    for name, part in (("idle", idle), ("storm", busy), ("masked", masked)):
        figures[name] = {key: round(value, 1) for key, value in part.items()}
    figures["rung"] = rung
    figures["cpu_lost_to_interrupts"] = round(1 - busy["rounds_per_cpu_second"] / idle["rounds_per_cpu_second"], 3)
    figures["cpu_lost_in_all"] = round(1 - busy["rounds_per_second"] / idle["rounds_per_second"], 3)
    assert rung > 10_000 and idle["interrupts_per_second"] == 0 < busy["interrupts_per_second"]
    assert figures["cpu_lost_to_interrupts"] < 0.5
    assert max(busy["longest_gap_ms"], masked["longest_gap_ms"]) < 10_000
    # a tenth of the limit and one for each vector, then a tenth of a second of silence at least
    most = 10 * (LOW_LIMIT / 10 + 8)
    assert masked["interrupts_per_second"] < 1.2 * most
    assert len(lines) == 1, lines
    control.seen(busy["interrupts_per_second"] > 1.2 * most)


# the control port

PORT = "/dev/virtio-ports/org.sivshm.control.0"
SCRIPT = "/root/control_acts.py"


def cad_memory(world):
    """KiB of the host's daemon."""
    pid = world.host.run("systemctl show -P MainPID sivshm-cad", check=True)[1].strip()
    return int(re.search(r"VmRSS:\s+(\d+)", world.host.run(f"cat /proc/{pid}/status", check=True)[1])[1])


def timed(action):
    began = time.monotonic()
    action()
    return round((time.monotonic() - began) * 1000, 1)


def others(world):
    """Milliseconds of what the host is asked meanwhile: by the other guest's daemon, and by its own bus."""
    def listen():
        listener = world.ivi.run_bg(story.as_user("dashboard", hostile.PROGRAM, "read", "dashboard", "0"))
        assert world.ivi.wait(listener, 60, "listen")[0] == 0
    return {"guest": timed(listen), "bus": timed(lambda: world.bus.call("ListVMs", timeout=20))}


def speak(world, name, seconds):
    """rtos writes that to its port as long as *seconds*; the daemon there is stopped."""
    return world.rtos.run_bg(["/usr/bin/python3", SCRIPT, PORT, name, str(seconds)])


@attack(KERNEL, "speaks on its virtio port itself: garbage, endless frames, floods, questions whose answers it does not read",
        stops="bounds on frames, queues and patience, and turns, as the rows on the control port say; QEMU between them changes nothing",
        control="its bytes arrive: a Hello by hand on the same port is welcome, and the host names what it dropped")
def test_control_port(world, figures, control):
    world.rtos.put_file(SCRIPT, (paths.ROOT / "tests/attack/control_acts.py").read_bytes())
    world.rtos.run("systemctl stop sivshmd", check=True)
    since = world.host.run("date +%s", check=True)[1].strip()
    quiet, before = others(world), cad_memory(world)
    try:
        for name in ("no json", "deep", "huge number", "hello", "listen", "endless", "unread"):
            pid = speak(world, name, 4)
            meanwhile = others(world)
            rc, out, err = world.rtos.wait(pid, 60, name)
            assert rc == 0, err
            figures[name] = {**meanwhile, **json.loads(out)}
            assert max(meanwhile.values()) < 10_000, figures
            assert figures[name]["written"] > 100
        figures.update(quiet=quiet, grown_kib=cad_memory(world) - before)
        assert figures["grown_kib"] < 16 << 10
        rc, out, err = world.rtos.wait(speak(world, "hello by hand", 0), 60)
        assert rc == 0, err
        log = world.host.journal("-u", "sivshm-cad", "--since", f"@{since}")
        control.seen(json.loads(out)["result"]["vm"] == "rtos"
                     and "VM rtos: control port dropped: too many malformed messages" in log)
        assert "VM ivi: control port" not in log
    finally:
        world.rtos.run("systemctl start sivshmd", check=True)
        world.wait_connected(world.rtos)
    figures["handshake_after_ms"] = handshake_and_ping(world)
