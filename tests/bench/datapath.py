# SPDX-License-Identifier: LGPL-2.1-or-later
"""Round trips and bandwidth between two guests, in turns with plain ivshmem, ivshmem over UIO, and TCP."""

import math
import statistics

from . import stats
from .guests import BenchWorld

TITLE = "round trips and bandwidth between two guests, beside plain ivshmem, UIO and TCP"

RTT_SIZES = [8, 64, 512, 4096, 16384, 65536]
SLEEP_SIZES = [64, 4096]
STREAM_SIZES = [64, 256, 1024, 4096, 16384, 65536, 262144, 1048576]
RTT_RING, STREAM_RING = 256 << 10, 4 << 20
KEY_SIZE = 64
RECORD_HEADER = 8
SLEEP_ROUNDS = 120
# so long that the receiver has gone to sleep: the library looks for a moment before it does, by default for longer
PAUSE_SLEEP_US, PAUSE_DEFAULT_US = 100, 400


class Turns:
    """Cases taken in turns, block after block; each case is an order for bench-data.

    A process has its addresses for life, and an emulator finds code and pages by them: where two that are needed all the
    time fall together, one case can be slow by a tenth in one process and not in the next. So where a few percent
    count, the blocks are spread over several processes.
    """

    def __init__(self, world, ring, cases, blocks, processes=1, idle=1):
        """cases: {name: order}; *blocks* are those of one process, behind *idle* turns that are not counted: pages are
        touched, caches filled, clocks set. The host has cleared what it gave, so its guests' emulators touch it anew."""
        self.answers = {name: [] for name in cases}
        # there and back, so that who comes behind whom is in no ratio
        order = [case for turn in range(idle + blocks) for case in (reversed(cases) if turn % 2 else cases)]
        for _ in range(processes):
            answers = world.measure([f"ring {ring}", *(cases[name] for name in order)], timeout=1200)
            for name, answer in list(zip(order, answers[1:], strict=True))[idle * len(cases):]:
                self.answers[name].append(answer)

    def __getitem__(self, name):
        return self.answers[name]

    def ratios(self, ours, theirs, keys):
        return stats.ratios(self[ours], self[theirs], keys)

    def rates(self, ours, theirs):
        """Of streams: how many times as fast as theirs, over the blocks."""
        return stats.spread([b["ns"] / a["ns"] for a, b in zip(self[ours], self[theirs], strict=True)])


def times_row(answers, **row):
    """One case over all its blocks: the middle of each percentile, in µs; doorbells and sleeps of both ends."""
    middle = {key: round(statistics.median(a[key] for a in answers) / 1000, 3) for key in ("p50", "p99", "p999", "max")}
    rounds = sum(a["n"] for a in answers)
    per = {key: round(sum(a[key] + a[f"peer_{key}"] for a in answers) / rounds, 3) for key in ("rings", "sleeps")}
    return {**row, **{f"{key}_us": value for key, value in middle.items()},
            "p50_low_us": round(min(a["p50"] for a in answers) / 1000, 3),
            "p50_high_us": round(max(a["p50"] for a in answers) / 1000, 3),
            "rings_per_round": per["rings"], "sleeps_per_round": per["sleeps"], "rounds": rounds}


def ratio_row(found, **row):
    out = dict(row)
    for key, spread in found.items():
        out |= {key: spread["median"], f"{key}_low": spread["low"], f"{key}_high": spread["high"]}
    return out


def poll(bench, world):
    """The same ring on plain ivshmem, neither end ever sleeping."""
    times, ratios = [], []
    for size in RTT_SIZES:
        rounds = max(1000, min(2500, (20 << 20) // size))
        cases = {kind: f"rtt {kind} poll {size} {rounds}" for kind in ("sivshm", "plain")}
        turns = Turns(world, RTT_RING, cases, bench.pick(8 if size <= 4096 else 6, 20), bench.pick(8, 12), idle=2)
        found = turns.ratios("sivshm", "plain", ("p50", "p99", "p999"))
        times += [times_row(turns[kind], kind=kind, size=size) for kind in cases]
        ratios.append(ratio_row(found, size=size))
        bench.say(f"  polling, {size} B: ratio p50 {found['p50']['median']}, p99 {found['p99']['median']}")
        bench.faults += sum(a["faults"] + a["peer_faults"] for a in turns["sivshm"])
    bench.table("rtt_poll", times)
    bench.table("rtt_poll_ratio", ratios)
    key = next(row for row in ratios if row["size"] == KEY_SIZE)
    bench.figure("rtt_poll_ratio", {name: key[name] for name in ("p50", "p99", "p999")})
    bench.figure("rtt_poll_ratio_worst", {name: max(row[name] for row in ratios) for name in ("p50", "p99")})


def sleep(bench, world):
    """A receiver that sleeps, against UIO; "uio-lib" is the library's waiting over UIO, to see what costs what."""
    times, ratios = [], []
    for size in SLEEP_SIZES:
        kinds = ("sivshm", "uio", "uio-lib")
        cases = {f"{kind} sleep": f"rtt {kind} sleep {size} {SLEEP_ROUNDS} {PAUSE_SLEEP_US}" for kind in kinds}
        cases |= {f"{kind} paced": f"rtt {kind} default {size} {SLEEP_ROUNDS} {PAUSE_DEFAULT_US}" for kind in kinds}
        cases |= {f"{kind} default": f"rtt {kind} default {size} {SLEEP_ROUNDS}" for kind in kinds}
        turns = Turns(world, RTT_RING, cases, bench.pick(25, 150))
        times += [times_row(turns[case], case=case, size=size) for case in cases]
        for mode in ("sleep", "paced", "default"):
            for other in kinds[1:]:
                found = turns.ratios(f"sivshm {mode}", f"{other} {mode}", ("p50", "p99"))
                ratios.append(ratio_row(found, mode=mode, against=other, size=size))
                bench.say(f"  {mode}, {size} B, against {other}: p50 {found['p50']['median']}, "
                          f"p99 {found['p99']['median']}")
    bench.table("rtt_sleep", times)
    bench.table("rtt_sleep_ratio", ratios)
    for mode, name in (("paced", "rtt_sleep_ratio"), ("sleep", "rtt_sleep_nospin_ratio"), ("default", "rtt_default_ratio")):
        key = next(r for r in ratios if (r["mode"], r["against"], r["size"]) == (mode, "uio", KEY_SIZE))
        bench.figure(name, {"p50": key["p50"], "p99": key["p99"]})


def bandwidth(bench, world):
    """The same loop over plain ivshmem. Without a copy: made and read in place, against made, copied, copied, read.

    The control is the same copying loop over the other plain memory, that of the UIO device: what two pieces of memory
    differ by that nobody separates.
    """
    rows = []
    for size in STREAM_SIZES:
        # short, and many: what else the host does meanwhile then falls on both of a pair, or on few of them
        count = max(8, min(10000, (12 << 20) // size))
        cases = {f"{kind} {how} {op}": f"{op} {kind} poll {how} {size} {count}" for op in ("stream", "both")
                 for kind, how in (("sivshm", "copy"), ("plain", "copy"), ("uio-lib", "copy"), ("sivshm", "zero"),
                                   ("plain", "touch"))}
        # every page of the ring once
        laps = math.ceil(STREAM_RING / (count * (size + RECORD_HEADER)))
        turns = Turns(world, STREAM_RING, cases, bench.pick(6 if size <= 16384 else 4, 24), bench.pick(8, 12), laps)
        for op in ("stream", "both"):
            copy = turns.rates(f"sivshm copy {op}", f"plain copy {op}")
            zero = turns.rates(f"sivshm zero {op}", f"plain touch {op}")
            control = turns.rates(f"uio-lib copy {op}", f"plain copy {op}")
            speed = {kind: round(statistics.median(a["size"] * a["n"] / a["ns"] for a in turns[f"{kind} {op}"]), 3)
                     for kind in ("sivshm copy", "plain copy", "sivshm zero", "plain touch")}
            rows.append({"ways": {"stream": 1, "both": 2}[op], "size": size,
                         **ratio_row({"copy": copy, "control": control, "zerocopy": zero}),
                         **{f"{kind.replace(' ', '_')}_bytes_per_ns": value for kind, value in speed.items()}})
            bench.say(f"  {'one way' if op == 'stream' else 'both ways'}, {size} B: copying {copy['median']} "
                      f"(one plain memory to another {control['median']}), zero-copy {zero['median']}")
        bench.faults += sum(a["faults"] + a["peer_faults"] for name in cases if "sivshm" in name for a in turns[name])
    bench.table("bandwidth", rows)
    for name in ("copy", "control", "zerocopy"):
        bench.figure(f"bandwidth_{name}_ratio", {"min": min(row[name] for row in rows),
                                                 "median": statistics.median(row[name] for row in rows),
                                                 **{str(row["size"]): row[name] for row in rows if row["ways"] == 1}})


def tcp(bench, world):
    """What a user has otherwise: a virtual network card each, and a cable between the two."""
    cases = {f"{kind} {mode}": f"rtt {kind} {mode} {KEY_SIZE} {rounds}"
             for kind, mode, rounds in (("tcp", "default", 100), ("sivshm", "default", 1000))}
    cases["sivshm sleep"] = f"rtt sivshm sleep {KEY_SIZE} 100 {PAUSE_SLEEP_US}"
    turns = Turns(world, RTT_RING, cases, bench.pick(8, 40))
    factors = {mode: turns.ratios("tcp default", f"sivshm {mode}", ("p50", "p99")) for mode in ("default", "sleep")}
    bench.table("rtt_tcp", [times_row(turns[case], case=case, size=KEY_SIZE) for case in cases])
    bench.figure("tcp_rtt_factor", factors["default"]["p50"]["median"])
    bench.figure("tcp_rtt_factor_sleep", factors["sleep"]["p50"]["median"])
    rows = []
    for size in (1024, 65536):
        cases = {"tcp": f"stream tcp default copy {size} {max(16, (2 << 20) // size)}",
                 "sivshm": f"stream sivshm default copy {size} {max(16, (16 << 20) // size)}"}
        turns = Turns(world, STREAM_RING, cases, bench.pick(8, 40))
        rate = {kind: [a["size"] * a["n"] / a["ns"] for a in turns[kind]] for kind in cases}
        found = stats.spread([a / b for a, b in zip(rate["sivshm"], rate["tcp"], strict=True)])
        rows.append({"size": size, **ratio_row({"factor": found}),
                     **{f"{kind}_bytes_per_ns": round(statistics.median(rate[kind]), 4) for kind in rate}})
    bench.table("bandwidth_tcp", rows)
    bench.figure("tcp_bandwidth_factor", rows[-1]["factor"])
    bench.say(f"  against TCP: round trip {factors['default']['p50']['median']} times as fast, "
              f"bandwidth {rows[-1]['factor']} times")


def run(bench):
    bench.faults = 0
    with bench.world(BenchWorld) as world:
        bench.mappings = world.mapping_types()
        poll(bench, world)
        sleep(bench, world)
        bandwidth(bench, world)
        tcp(bench, world)
        for guest in world.guests.values():
            guest.assert_kernel_clean()
    bench.figure("guest_page_faults", bench.faults)
