# SPDX-License-Identifier: LGPL-2.1-or-later
"""Connect, from the D-Bus call to the fd, between two emulated guests: cold (neither end has a certificate) and warm.

Calls are made in turns, cold and warm, by one client with one connection to the bus, with a pause after each: what a
call leaves to be done (closing the channel, the journal) is not the next one's. The steps are what both daemons say
of each call; what no step covers is a row of its own, so that the means add up to the whole.
"""

import contextlib
import json
import statistics
import time

from lab import story

from . import stats

TITLE = "D-Bus call to fd, cold and warm, step by step"
KINDS = ("cold", "warm")
BENCH = f"{story.TESTS}/handshake-bench"
REST = "over the bus"  # the call's way to the daemon, and the answer's way back


@contextlib.contextmanager
def listener(world):
    """The echo service of ivi, which forgets its certificate when it is told to."""
    with story.unit(world.ivi, "bench-listener", "root", [BENCH, "listen", "dashboard", "dashboard"]):
        world.wait_until(lambda: story.listening(world, "ivi", "dashboard"), "ivi/dashboard listens")
        yield


def journal_steps(guest, count):
    """Steps of the last channels that a guest's daemon opened, in order: [{step: microseconds}]."""
    out = guest.run(["/usr/bin/journalctl", "--no-pager", "-o", "json", "-n", str(count), "-u", "sivshmd",
                     "--output-fields=SIVSHM_STEPS", f"MESSAGE_ID={story.CHANNEL_OPENED}"], check=True)[1]
    found = [parse_steps(json.loads(line)["SIVSHM_STEPS"]) for line in out.splitlines()]
    story.need(len(found) == count, f"{guest.name}: {len(found)} channels in the journal instead of {count}")
    return found


def parse_steps(text):
    return {name: int(usec) for name, usec in (step.split("=") for step in text.split())}


def block(world, pairs):
    """So many cold and warm calls in turns: [{kind, ms, steps, peer_steps}]."""
    rc, out, err = world.rtos.run([BENCH, "turns", "sensor", "ivi/dashboard", str(pairs), "sensor"],
                                  timeout=60 + 3 * pairs)
    story.need(rc == 0, f"handshake-bench: exit {rc}: {err}{out[-500:]}")
    calls = json.loads(out)["calls"][1:]  # without the channel by which the peer is told to forget
    story.need(len(calls) == 2 * pairs, f"handshake-bench: {len(calls)} calls")
    for call, kind, peer in zip(calls, KINDS * pairs, journal_steps(world.ivi, len(calls)), strict=True):
        call["kind"], call["peer_steps"] = kind, peer
        expected = kind == "cold"
        story.need(("csr" in call["steps"], "csr" in peer) == (expected, expected), f"this was not {kind}: {call}")
    world.wait_channels(0)
    return calls


def durations(steps):
    """Milliseconds of each step, in the order in which they ended."""
    last, out = 0, {}
    for name, usec in sorted(steps.items(), key=lambda item: item[1]):
        out[name], last = (usec - last) / 1000, usec
    return out


def step_rows(calls, kind):
    """Of both ends. The connecting end's rows add up to the whole call; the listening end's lie within them."""
    rows = []
    for end, key in (("connecting", "steps"), ("listening", "peer_steps")):
        found = {}
        for call in calls:
            parts = durations(call[key])
            if end == "connecting":
                parts[REST] = call["ms"] - max(call[key].values()) / 1000
            for name, value in parts.items():
                found.setdefault(name, []).append(value)
        for name, values in found.items():
            rows.append(row(kind, end, name, values))
    return [*rows, row(kind, "connecting", "whole call", [call["ms"] for call in calls])]


def row(kind, end, step, values):
    facts = stats.summary(values)
    return {"kind": kind, "end": end, "step": step, "n": facts["n"], "mean": round(statistics.mean(values), 3),
            "p50": facts["p50"], "p99": facts["p99"]}


def first_call(world, rest):
    """Milliseconds of the first call after both daemons have started, *rest* seconds ago."""
    world.each(lambda guest: guest.run("systemctl restart sivshmd", check=True))
    world.each(world.wait_connected)
    time.sleep(rest)
    with listener(world):
        calls = story.connect_many(world, 1)["calls"]
        world.wait_channels(0)
    return calls[0]["ms"]


def first_calls(bench, world):
    rows = []
    for _ in range(bench.pick(2, 8)):
        rows.append({"at_once": first_call(world, 0), "rested": first_call(world, 5)})
    bench.table("handshake_first", rows)
    bench.figure("handshake_first_ms", {name: round(statistics.median(row[name] for row in rows), 1)
                                        for name in ("rested", "at_once")})


def turns(bench, world):
    blocks = []
    with listener(world):
        block(world, 3)  # caches
        for number in range(bench.pick(5, 10)):
            blocks.append(block(world, 30))
            bench.say(f"block {number}: " + ", ".join(
                f"{kind} p50 {stats.summary(of_kind(blocks[-1], kind))['p50']} ms" for kind in KINDS))
    return blocks


def of_kind(calls, kind):
    return [call["ms"] for call in calls if call["kind"] == kind]


def report(bench, blocks):
    calls = [call for calls in blocks for call in calls]
    rows, spread = [], []
    for kind in KINDS:
        facts = stats.summary(of_kind(calls, kind))
        bench.figure(f"handshake_{kind}_ms", {name: facts[name] for name in ("n", "min", "p50", "p99", "p999", "max")})
        rows += step_rows([call for call in calls if call["kind"] == kind], kind)
        each = [stats.summary(of_kind(calls_of_block, kind)) for calls_of_block in blocks]
        for name in ("p50", "p99"):
            spread.append({"kind": kind, "figure": name, **stats.spread([facts[name] for facts in each])})
    bench.table("handshake_steps", rows)
    bench.table("handshake_spread", spread)


def run(bench):
    with bench.world() as world:
        first_calls(bench, world)
        report(bench, turns(bench, world))
