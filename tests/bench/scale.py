# SPDX-License-Identifier: LGPL-2.1-or-later
"""What one channel costs when there are many: handshake, wake-up, memory."""

import contextlib
import json
import re
import shutil
import statistics
import time

from lab import story

from . import stats
from .datapath import PAUSE_SLEEP_US, SLEEP_ROUNDS, Turns, times_row
from .guests import BenchWorld

TITLE = "1, 16, 256 and 1024 channels open: handshake, wake-up, memory"
COUNTS = [1, 16, 256, 1024]
SLOTS = 1100
MANY = f"{story.TESTS}/many"
RING = 65536
WAKES = 100

# Laid over the example: the channels that sleep are camera's with recorder, the measured ones sensor's with
# dashboard, so that other processes hold them. 64 vectors: as many as there can be.
FILES = {
    "host/etc/sivshm-ca/vm.d/10-rtos.conf": f"""[VM rtos]
User=61001
Group=61001
Services=sensor camera
Channels={SLOTS}
""",
    "host/etc/sivshm-ca/vm.d/20-ivi.conf": f"""[VM ivi]
User=61002
Group=61002
Services=dashboard recorder
Channels={SLOTS}
""",
    "host/etc/sivshm-ca/region.d/10-cockpit.conf": """[Region cockpit]
Members=rtos ivi
SectionSize=16M
Vectors=64
""",
    "host/etc/sivshm-ca/policy.d/10-cockpit.conf": f"""[Allow rtos/sensor ivi/dashboard]
Channels=16
[Allow rtos/camera ivi/recorder]
Channels={SLOTS}
""",
    "rtos/etc/sivshm/policy.d/10-cockpit.conf": f"""[Service sensor]
User=sensor
Connect=ivi/dashboard
Channels=16
[Service camera]
User=camera
Connect=ivi/recorder
Channels={SLOTS}
""",
    "ivi/etc/sivshm/policy.d/10-cockpit.conf": f"""[Service dashboard]
User=dashboard
Accept=rtos/sensor
Channels=16
[Service recorder]
User=recorder
Accept=rtos/camera
Channels={SLOTS}
""",
}
VECTORS = 64


def make_overlay(bench):
    folder = bench.folder / "scale-config"
    shutil.rmtree(folder, ignore_errors=True)
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


class Sleeper:
    """One process with channels in an epoll set: tests/progs/many.c."""

    numbers = iter(range(1 << 30))

    def __init__(self, guest, user, *command):
        self.guest, self.path = guest, f"/tmp/many-{next(self.numbers)}.json"
        self.pid = guest.run_bg(story.as_user(user, MANY, *command, self.path))

    def report(self, timeout=20, ask=True):
        if ask:
            self.guest.run(f"rm -f {self.path}; kill -USR1 {self.pid}", check=True)
        end = time.monotonic() + timeout
        while True:
            rc, out, _ = self.guest.run(["/bin/cat", self.path])
            if rc == 0:
                return json.loads(out)
            status = self.guest.ask("guest-exec-status", pid=self.pid)
            if status["exited"] or time.monotonic() > end:
                raise RuntimeError(f"{self.guest.name}: many: {self.guest.wait(self.pid) if status['exited'] else 'slow'}")
            time.sleep(0.1)

    def end(self):
        self.guest.run(f"kill -TERM {self.pid}")
        rc, _, err = self.guest.wait(self.pid, 60)
        if rc:
            raise RuntimeError(f"{self.guest.name}: many: exit {rc}: {err}")


class Crowd:
    """The channels that sleep. At each count a process more holds what came to it."""

    def __init__(self, world):
        self.world, self.holders, self.counts = world, [], []
        self.listener = Sleeper(world.ivi, "recorder", "listen", "recorder")
        world.wait_until(lambda: story.listening(world, "ivi", "recorder"), "ivi/recorder listens")

    def become(self, count):
        """Opens or closes until *count* channels sleep; the counts between are those of COUNTS, less one."""
        while self.counts and sum(self.counts) > count:
            self.counts.pop()
            self.holders.pop().end()
        missing = count - sum(self.counts)
        if missing > 0:
            self.holders.append(Sleeper(self.world.rtos, "camera", "connect", "camera", "ivi/recorder", str(missing)))
            self.counts.append(missing)
            self.holders[-1].report(timeout=60 + missing, ask=False)
        self.world.wait_channels(count, timeout=60)

    def reports(self):
        return [sleeper.report() for sleeper in self.holders], [self.listener.report()]


def private_kib(run, unit):
    """Private memory of a unit's main process, in KiB."""
    text = run(f"cat /proc/$(systemctl show -P MainPID {unit})/smaps_rollup", check=True)[1]
    return sum(int(n) for n in re.findall(r"^(?:Private_Clean|Private_Dirty):\s+(\d+) kB", text, re.M))


def charged_kib(guest):
    """What the kernel keeps for the channels that sivshmd opened: it is charged to the daemon's control group."""
    text = guest.run("cat /sys/fs/cgroup/system.slice/sivshmd.service/memory.stat", check=True)[1]
    return int(re.search(r"^kernel (\d+)$", text, re.M)[1]) / 1024


def memory(world):
    """KiB of each daemon, and of each kernel on behalf of channels."""
    out = {"sivshm-cad": private_kib(world.host.run, "sivshm-cad")}
    for name, guest in world.guests.items():
        meminfo = dict(re.findall(r"^(\w+):\s+(\d+) kB", guest.run("cat /proc/meminfo", check=True)[1], re.M))
        out[f"sivshmd {name}"] = private_kib(guest.run, "sivshmd")
        out[f"kernel {name}"] = charged_kib(guest)
        out[f"slab {name}"] = int(meminfo["Slab"])
        out[f"available {name}"] = int(meminfo["MemAvailable"])
    return out


def spurious_by_vector(before, after, slot):
    """Wake-ups for nothing of the sleepers: (of channels on the vector of *slot*, of all others)."""
    old = {s: n for report in before for s, n in report["spurious"]}
    same = other = 0
    for s, n in ((s, n) for report in after for s, n in report["spurious"]):
        if (s - slot) % (VECTORS - 1) == 0:
            same += n - old.get(s, 0)
        else:
            other += n - old.get(s, 0)
    return same, other


def cpu_us(reports):
    return sum(report["cpu_us"] for report in reports)


def wake(world, crowd):
    """What round trips on one channel cost those that sleep on others."""
    with story.echo(world):
        before = crowd.reports()
        pid = world.rtos.run_bg(story.as_user("sensor", MANY, "wake", "sensor", "ivi/dashboard", str(WAKES)))
        channel = story.running_channel(world)
        rc, _, err = world.rtos.wait(pid, 60)
        after = crowd.reports()
    if rc:
        raise RuntimeError(f"many wake: exit {rc}: {err}")
    facts = {}
    for name, side, slot in (("rtos", 0, channel["from_slot"]), ("ivi", 1, channel["to_slot"])):
        same, other = spurious_by_vector(before[side], after[side], slot)
        facts[f"{name} neighbours woken"] = same
        facts[f"{name} others woken"] = other
        facts[f"{name} sleepers cpu us"] = cpu_us(after[side]) - cpu_us(before[side])
    return facts


def daemon_us(world):
    """CPU time that each daemon has had, by the scheduler's own count."""
    read = "cut -d' ' -f1 /proc/$(systemctl show -P MainPID {})/schedstat"
    runs = {"sivshm-cad": world.host.run, **{f"sivshmd {name}": guest.run for name, guest in world.guests.items()}}
    return {name: int(run(read.format(name.split()[0]), check=True)[1]) / 1000 for name, run in runs.items()}


@contextlib.contextmanager
def working(world):
    """The service of ivi that takes channels and, for the control, does the same work as its peer."""
    worker = Sleeper(world.ivi, "dashboard", "work", "dashboard")
    try:
        world.wait_until(lambda: story.listening(world, "ivi", "dashboard"), "ivi/dashboard listens")
        yield
    finally:
        worker.end()


def handshakes(world, rounds):
    """Times of D-Bus call to fd, and of other work in turns with them; CPU time of the daemons for each."""
    with working(world):
        before = daemon_us(world)
        rc, out, err = world.rtos.run(story.as_user("sensor", MANY, "handshake", "sensor", "ivi/dashboard", str(rounds)),
                                      timeout=60 + 2 * rounds)
        after = daemon_us(world)
    if rc:
        raise RuntimeError(f"many handshake: exit {rc}: {err}")
    return json.loads(out), {key: (after[key] - before[key]) / (rounds + 2) for key in before}


class Point:
    """All that was measured with so many channels, visit by visit."""

    def __init__(self):
        self.handshake, self.wakeup, self.memory, self.others, self.cpu = [], [], [], [], []
        self.ratios = {"handshake": [], "wakeup": []}

    def visit(self, world, crowd, rounds, blocks):
        times, cpu = handshakes(world, rounds)
        self.cpu.append(cpu)
        self.handshake += [ns / 1e6 for ns in times["ns"]]
        self.ratios["handshake"] += [a / b for a, b in zip(times["ns"], times["control_ns"], strict=True)]
        turns = Turns(world, RING, {kind: f"rtt {kind} sleep 64 {SLEEP_ROUNDS} {PAUSE_SLEEP_US}"
                                    for kind in ("sivshm", "uio")}, blocks)
        self.wakeup += turns["sivshm"]
        self.ratios["wakeup"] += [a["p50"] / b["p50"] for a, b in zip(turns["sivshm"], turns["uio"], strict=True)]
        self.others.append(wake(world, crowd))
        self.memory.append(memory(world))

    def middle(self, what):
        return statistics.median(self.ratios[what])


def ratio_columns(points, count, what):
    middle = points[count].middle(what)
    return {"to_control": round(middle, 3), "to_one": round(middle / points[COUNTS[0]].middle(what), 3)}


def handshake_rows(points):
    return [{"channels": count, **stats.summary(point.handshake), **ratio_columns(points, count, "handshake")}
            for count, point in points.items()]


def wakeup_rows(points):
    """Each percentile is the middle one of all blocks."""
    keys = {"p50_us": "p50", "p99_us": "p99", "p999_us": "p999", "rings_per_round": "rings", "sleeps_per_round": "sleeps",
            "rounds": "n"}
    rows = {count: times_row(point.wakeup) for count, point in points.items()}
    return [{"channels": count, **{name: row[key] for key, name in keys.items()}, **ratio_columns(points, count, "wakeup")}
            for count, row in rows.items()]


def cpu_rows(points):
    """Microseconds of each daemon for one handshake and its end: the quietest visit."""
    return [{"channels": count, **{key: round(min(visit[key] for visit in point.cpu)) for key in point.cpu[0]}}
            for count, point in points.items()]


def memory_rows(points):
    """KiB at each count, and per channel between the first count and the last: the median of the visits."""
    at = {count: {key: statistics.median(visit[key] for visit in point.memory) for key in point.memory[0]}
          for count, point in points.items()}
    return [{"what": key, **{f"KiB at {count}": round(values[key], 1) for count, values in at.items()},
             "bytes per channel": round(1024 * (at[COUNTS[-1]][key] - at[COUNTS[0]][key])
                                        / (COUNTS[-1] - COUNTS[0]))} for key in at[COUNTS[0]]]


def other_rows(points):
    """Per round trip, which rings each guest once."""
    return [{"channels": count, **{key: round(statistics.median(visit[key] for visit in point.others) / WAKES, 3)
                                   for key in point.others[0]}} for count, point in points.items()]


def report(bench, points):
    bench.figure("channels_1024_ratio", {what: round(points[COUNTS[-1]].middle(what) / points[COUNTS[0]].middle(what), 3)
                                         for what in ("handshake", "wakeup")})
    bench.table("channels_handshake_ms", handshake_rows(points))
    bench.table("channels_wakeup_us", wakeup_rows(points))
    bench.table("channels_cpu_us", cpu_rows(points))
    bench.table("channels_memory", memory_rows(points))
    bench.table("channels_others", other_rows(points))


def run(bench):
    rounds, blocks = bench.pick(25, 100), bench.pick(12, 60)
    order = [*COUNTS, *COUNTS[-2::-1]]  # up and down again: what drifts shows at the first count as well
    if not bench.quick:
        order += order[1:]
    points = {count: Point() for count in COUNTS}
    with bench.world(BenchWorld, overlay=make_overlay(bench)) as world:
        crowd = Crowd(world)
        handshakes(world, 5)  # both ends get their certificates
        for count in order:
            crowd.become(count - 1)
            # of the last count there is one visit where the others have two
            times = 2 if count == COUNTS[-1] else 1
            points[count].visit(world, crowd, times * rounds, times * blocks)
            bench.say(f"  {count} channels: " + ", ".join(
                f"{what} {points[count].middle(what):.3f} times the control" for what in points[count].ratios))
        crowd.become(0)
    report(bench, points)
