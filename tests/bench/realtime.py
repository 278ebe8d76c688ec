# SPDX-License-Identifier: LGPL-2.1-or-later
"""The worst case: round trips between two real-time services on Debian's PREEMPT_RT kernel, beside the plain baselines.

Each guest is set up as such guests are: one CPU for the service alone, doorbells' interrupts on it with threads above
the service, no share of the CPU kept for others, memory locked.
"""

import statistics

from lab import paths, rt_kernel

from .guests import BenchWorld

TITLE = "worst case of round trips on the PREEMPT_RT kernel, real-time scheduling, beside plain ivshmem and UIO"

SERVICE, INTERRUPT = 80, 85  # SCHED_FIFO
SIZE, RING = 64, 256 << 10
BASELINES = {"sleep": "uio", "poll": "plain"}
# rounds of a block; so many µs before a round, so that the receiver sleeps
BLOCK, PAUSE_US = {"sleep": 500, "poll": 2000}, {"sleep": 50, "poll": 0}
QUANTILES = {"p50": 50, "p99": 99, "p999": 99.9, "p9999": 99.99}
BY_BLOCK = ("p50", "p99", "max")
PREFIX = ["/usr/bin/prlimit", "--memlock=unlimited", "taskset", "-c", "1", "chrt", "-f", str(SERVICE)]

SETUP = f"""
set -e
sysctl -qw kernel.sched_rt_runtime_us=-1
for dir in /proc/irq/*/sivshm-* /proc/irq/*/ivshmem_uio; do
    echo 1 > ${{dir%/*}}/smp_affinity_list
done
ps -eo pid=,comm= | while read pid name; do
    case $name in irq/*-sivshm*|irq/*-ivshmem*) chrt -f -p {INTERRUPT} $pid ;; esac
done
ps -eo rtprio=,comm= | grep -c '{INTERRUPT} irq/.*ivshm'
"""


class RealtimeWorld(BenchWorld):
    def make_guest(self, vm):
        guest = super().make_guest(vm)
        guest.args += ["-smp", "2"]
        guest.append += " isolcpus=domain,managed_irq,1 irqaffinity=0 rcu_nocbs=1"
        return guest

    def prepare(self, guest):
        super().prepare(guest)
        guest.run(SETUP, check=True)

    def data_options(self, guest):
        return [*super().data_options(guest), "--lock", "--histogram"]


class Times:
    """All times of one kind: quantiles out of a histogram whose steps are 2 % wide, the worst one exact."""

    def __init__(self, answers):
        self.counts = {}
        for answer in answers:
            for low, count in answer["histogram"]:
                self.counts[low] = self.counts.get(low, 0) + count
        self.n = sum(self.counts.values())
        self.blocks = answers
        self.worst = max(answer["max"] for answer in answers)
        self.least = min(answer["min"] for answer in answers)

    def quantile(self, percent):
        left = -(-self.n * percent // 100)
        for low in sorted(self.counts):
            left -= self.counts[low]
            if left <= 0:
                return low
        raise ValueError("no times")

    def row(self, **names):
        values = {"min": self.least, **{q: self.quantile(p) for q, p in QUANTILES.items()}, "max": self.worst}
        return {**names, "rounds": self.n, **{f"{q}_us": round(value / 1000, 2) for q, value in values.items()}}

    def octaves(self):
        out = {}
        for low, count in self.counts.items():
            octave = int(low).bit_length() - 1
            out[octave] = out.get(octave, 0) + count
        return out


def measure(world, mode, baseline, rounds):
    """Blocks in turns. The first turn is not counted: pages are touched, caches filled."""
    kinds = ("sivshm", baseline)
    turns = [f"rtt {kind} {mode} {SIZE} {BLOCK[mode]} {PAUSE_US[mode]}" for kind in kinds]
    answers = world.measure([f"ring {RING}", *turns * (1 + rounds // BLOCK[mode])], prefix=PREFIX, timeout=7200)[1:]
    return [Times(answers[len(kinds) + i::len(kinds)]) for i in range(len(kinds))]


def compare(ours, theirs):
    """The tails of all rounds; and of pairs of blocks the middle one, which a machine that does other things too
    moves less than the one worst round of a million."""
    pairs = list(zip(ours.blocks, theirs.blocks, strict=True))
    return {"max": ours.worst / theirs.worst,
            **{name: ours.quantile(QUANTILES[name]) / theirs.quantile(QUANTILES[name]) for name in ("p9999", "p999")},
            **{f"block_{name}": statistics.median(a[name] / b[name] for a, b in pairs) for name in BY_BLOCK}}


def run(bench):
    rt = rt_kernel.ensure(bench.image(), bench.say)
    rows, steps, figures = [], [], {}
    dest = rt_kernel.destdir(rt, bench.destdir())
    with RealtimeWorld(dest, rt, log_dir=paths.BUILD / "logs", progress=bench.say) as world:
        for mode, baseline in BASELINES.items():
            ours, theirs = measure(world, mode, baseline, bench.pick(20_000, 1_000_000))
            found = compare(ours, theirs)
            figures |= {f"{mode}_{name}_ratio": round(value, 4) for name, value in found.items()}
            rows += [times.row(mode=mode, kind=kind, kernel=rt.kver) for kind, times in (("sivshm", ours), (baseline, theirs))]
            both = [times.octaves() for times in (ours, theirs)]
            steps += [{"mode": mode, "from_us": round(2 ** octave / 1000, 3), "sivshm": both[0].get(octave, 0),
                       "baseline": both[1].get(octave, 0)} for octave in sorted({*both[0], *both[1]})]
            bench.say(f"  {mode}, against {baseline}: worst {rows[-2]['max_us']} and {rows[-1]['max_us']} us, "
                      f"ratios " + ", ".join(f"{name} {value:.3f}" for name, value in found.items()))
        for guest in world.guests.values():
            guest.assert_kernel_clean()
    bench.figure("realtime", {**figures, "rounds": rows[0]["rounds"]})
    bench.table("realtime", rows)
    bench.table("realtime_histogram", steps)
