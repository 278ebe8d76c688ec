# SPDX-License-Identifier: LGPL-2.1-or-later
"""The ring between two processes, beside a bare cache line and a ring without checks: tests/progs/native-ring.c."""

import json
import os
import re
import statistics
import subprocess
from contextlib import contextmanager
from pathlib import Path

from lab import build

from . import stats

TITLE = "the ring between two pinned processes, beside a bare cache line and a ring without checks"

SIZES = [8, 64, 512, 4096, 16384, 65536]
KEY_SIZE = 64
RTT_RING = 256 << 10
SMALL_RING, LARGE_RING, HUGE_RING = 64 << 10, 1 << 20, 16 << 20
COUNT_SIZES = [8, 64, 4096]
FAULT_MESSAGES = 200_000
HUGE_PAGE = 2 << 20
HUGE_PAGES = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")


class Native:
    """The program, and the page faults that it has seen behind the first touch."""

    def __init__(self):
        if len(os.sched_getaffinity(0)) < 2:
            raise RuntimeError("native: two processors are needed, one for each process; this one may use one only")
        self.program = build.compile("gcc") / "tests/progs/native-ring"
        self.faults = 0

    def run(self, *words, wrapper=(), timeout=600):
        argv = [*wrapper, self.program, *words]
        done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, timeout=timeout)
        if done.returncode:
            raise RuntimeError(f"native-ring {' '.join(map(str, words))}: exit {done.returncode}: {done.stderr[-2000:]}")
        return done

    def rounds(self, *words):
        """{kind: its answers, one for each round}"""
        found = {}
        for line in self.run(*words).stdout.splitlines():
            answer = json.loads(line)
            found.setdefault(answer["kind"], []).append(answer)
            self.faults += answer["faults"]
        return found


def middle(answers, *path):
    values = []
    for value in answers:
        for key in path:
            value = value[key]
        values.append(value)
    return round(statistics.median(values), 1)


def round_trips(bench, native):
    """Ratios are of batches timed as a whole; percentiles are of single trips, whose clock costs about as much again."""
    times, ratios = [], []
    for size in SIZES:
        batch, batches, rounds = (100, 50, 200) if size <= 512 else (40, 25, 60)
        kinds = native.rounds("rtt", size, RTT_RING, batch, batches, bench.pick(15, rounds))
        for kind, answers in kinds.items():
            p50 = [a["batches"]["p50"] for a in answers]
            times.append({"kind": kind, "size": size, "ns": middle(answers, "batches", "p50"), "ns_low": round(min(p50), 1),
                          "ns_high": round(max(p50), 1), "one_way_ns": round(middle(answers, "batches", "p50") / 2, 1),
                          **{f"trip_{p}_ns": middle(answers, "trips", p) for p in (*stats.PERCENTILES, "max")},
                          "trips": sum(a["trips"]["n"] for a in answers)})
        row = {"size": size}
        for other in ("line", "paused", "plain"):
            for part, name in (("batches", other), ("trips", f"{other}_trips")):
                found = stats.ratios([a[part] for a in kinds["sivshm"]], [a[part] for a in kinds[other]])
                keys = ("p50",) if part == "batches" else tuple(stats.PERCENTILES)
                for p in keys:
                    row |= {f"{name}_{p}": found[p]["median"], f"{name}_{p}_low": found[p]["low"],
                            f"{name}_{p}_high": found[p]["high"]}
        ratios.append(row)
        bench.say(f"  round trip of {size} B: {times[-1]['ns']} ns; to a line {row['line_p50']}, "
                  f"to one with pauses {row['paused_p50']}, to the plain ring {row['plain_p50']}")
    bench.table("native_rtt", times)
    bench.table("native_rtt_ratio", ratios)
    key = next(row for row in ratios if row["size"] == KEY_SIZE)
    bench.figure("native_rtt_ratio", key["line_p50"])
    bench.figure("native_rtt_ratio_paused", key["paused_p50"])
    bench.figure("native_rtt_ratio_plain", key["plain_p50"])


def stream_row(answers, **row):
    ns = [a["p50"] for a in answers]
    return {**row, "ns": middle(answers, "p50"), "ns_low": round(min(ns), 1), "ns_high": round(max(ns), 1),
            "p99_ns": middle(answers, "p99"), "messages_per_s": round(1e9 / statistics.median(ns)),
            "bytes_per_ns": round(row["size"] / statistics.median(ns), 3)}


def streams(bench, native):
    rows = []
    for size, ring in [(size, SMALL_RING) for size in SIZES if size <= 4096] + [(size, LARGE_RING) for size in SIZES[1:]]:
        count = max(50, min(4000, 4 * ring // size))
        kinds = native.rounds("stream", size, ring, count, 40, bench.pick(5, 40))
        for kind, answers in kinds.items():
            rows.append(stream_row(answers, kind=kind, size=size, ring=ring))
        found = stats.ratios(kinds["sivshm"], kinds["plain"], ("p50",))["p50"]
        rows[-1] |= {"ratio": found["median"], "ratio_low": found["low"], "ratio_high": found["high"]}
        rows[-2] |= {"ratio": 1, "ratio_low": 1, "ratio_high": 1}
        bench.say(f"  stream of {size} B, ring {ring >> 10} KiB: {rows[-1]['messages_per_s']} messages/s, "
                  f"{found['median']} of the plain ring's time")
    bench.table("native_stream", rows)


def collected(bench, native, kind, size, messages):
    out = bench.folder / f"callgrind.{kind}.{size}"
    done = native.run("count", kind, size, messages,
                      wrapper=["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"])
    return int(re.search(r"Collected : (\d+)", done.stderr)[1])


def instructions(bench, native):
    """Of a send and its receive. What starts and ends the program is in both runs, and so in neither figure."""
    rows = []
    for size in COUNT_SIZES:
        row = {"size": size}
        for kind in ("sivshm", "plain"):
            few, many = (collected(bench, native, kind, size, n) for n in (1024, 3072))
            row[kind] = round((many - few) / 2048, 1)
        rows.append({**row, "ratio": round(row["sivshm"] / row["plain"], 3)})
        bench.say(f"  instructions, {size} B: {row['sivshm']}, plain ring {row['plain']}")
    bench.table("native_instructions", rows)
    bench.figure("native_instructions_per_message", {str(row["size"]): row["sivshm"] for row in rows})
    bench.figure("native_instructions_per_message_plain", {str(row["size"]): row["plain"] for row in rows})


def page_faults(bench, native):
    rows = []
    for ring in (SMALL_RING, LARGE_RING):
        answers = native.run("faults", ring, FAULT_MESSAGES).stdout.splitlines()
        rows += [json.loads(line) for line in answers]
    for row in rows:
        native.faults += row["later"]
        bench.say(f"  page faults, ring {row['ring'] >> 10} KiB, {'with' if row['prefault'] else 'without'} prefault: "
                  f"first message {row['first_message']}, first lap {row['first_lap']}, later {row['later']}")
    bench.table("native_faults", rows)
    bench.figure("page_faults_after_first_touch", native.faults)
    bench.figure("page_faults_with_prefault",
                 sum(row["first_message"] + row["first_lap"] + row["later"] for row in rows if row["prefault"]))


@contextmanager
def huge_pages(n):
    """So many of 2 MiB, as long as the block lasts; what is said in their place when they cannot be had."""
    try:
        before = HUGE_PAGES.read_text()
        HUGE_PAGES.write_text(str(int(before) + n))
    except OSError as error:
        yield f"no huge pages: {error}"
        return
    try:
        more = int(HUGE_PAGES.read_text()) - int(before)
        yield None if more >= n else f"no huge pages: asked for {n}, got {more}"
    finally:
        HUGE_PAGES.write_text(before)


def best(theirs, ours):
    """Whatever else the machine does only adds to a turn: so the best turn of each says more than the middle one."""
    return round(min(a["p50"] for a in theirs) / min(a["p50"] for a in ours), 4)


def huge(bench, native):
    """Does it matter on pages of which size a ring lies? Streams over the same ring, in turns."""
    cases = {"64 KiB, 4 KiB pages": (SMALL_RING, 4096), "16 MiB, 4 KiB pages": (HUGE_RING, 4096),
             "16 MiB, 2 MiB pages": (HUGE_RING, HUGE_PAGE)}
    rows = []
    with huge_pages(4 * (HUGE_RING + HUGE_PAGE) // HUGE_PAGE) as missing:  # two windows, twice
        if missing:
            bench.say(f"  {missing}")
            del cases["16 MiB, 2 MiB pages"]
        for size in (4096, 32768):
            count = HUGE_RING // (size + 8)
            turns = {case: [] for case in cases}
            for _ in range(bench.pick(3, 25)):
                for case, (ring, page) in cases.items():
                    turns[case] += native.rounds("stream", size, ring, count, 5, 1, page)["sivshm"]
            for case, answers in turns.items():
                against = stats.ratios(turns["16 MiB, 4 KiB pages"], answers, ("p50",))["p50"]
                rows.append({**stream_row(answers, case=case, size=size), "speed": against["median"],
                             "speed_low": against["low"], "speed_high": against["high"],
                             "speed_best": best(turns["16 MiB, 4 KiB pages"], answers)})
                bench.say(f"  stream of {size} B, ring of {case}: {rows[-1]['bytes_per_ns']} GB/s, "
                          f"{against['median']} of that of 16 MiB on 4 KiB pages, best turns {rows[-1]['speed_best']}")
    bench.table("native_huge", rows)
    if not missing:
        found = {str(row["size"]): row["speed_best"] for row in rows if row["case"].endswith("2 MiB pages")}
        bench.figure("native_huge_speed", found)


def run(bench):
    native = Native()
    round_trips(bench, native)
    streams(bench, native)
    instructions(bench, native)
    page_faults(bench, native)
    huge(bench, native)
