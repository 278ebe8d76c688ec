# SPDX-License-Identifier: LGPL-2.1-or-later
"""How much later a guest is up for having sivshmd in its boot."""

import re
import shutil
import statistics

from lab.world import World, enable_at_boot

from . import stats

TITLE = "time that sivshmd adds to multi-user.target"


def make_overlays(bench):
    """{True: ..., False: ...}: folders that enable sivshmd in a guest, or hold a file that means nothing."""
    root = bench.folder / "boot-config"
    shutil.rmtree(root, ignore_errors=True)
    for vm in ("rtos", "ivi"):
        enable_at_boot(root / "with" / vm)
        (root / "without" / vm / "etc").mkdir(parents=True)
        (root / "without" / vm / "etc/without-sivshmd").touch()
    return {True: root / "with", False: root / "without"}


class BootWorld(World):
    """The host of the example, and two guests that boot again and again, side by side."""

    def boot(self):
        self.guests.clear()  # of the first round come later

    def boot_pair(self, overlays, enabled):
        """*enabled*: the VM that has sivshmd in its boot. Returns what each guest says of its boot, that one's first."""
        disabled = next(vm for vm in ("rtos", "ivi") if vm != enabled)
        for vm in (enabled, disabled):
            self.overlay = overlays[vm == enabled]
            self.guests[vm] = self.make_guest(vm)
        try:
            for guest in self.guests.values():
                guest.start()
            for guest in self.guests.values():
                guest.wait_up()
            self.wait_connected(self.guests[enabled])
            return [facts_of(self.guests[enabled], True), facts_of(self.guests[disabled], False)]
        finally:
            for guest in self.guests.values():
                guest.close()


def properties(guest, unit, *names):
    out = guest.run(["/usr/bin/systemctl", "show", unit, *(f"-p{name}" for name in names)], check=True)[1]
    return dict(line.split("=", 1) for line in out.splitlines())


def times(guest, unit, *names):
    """Time stamps in seconds since the kernel's start."""
    found = properties(guest, unit, *names)
    return [int(found[name]) / 1e6 for name in names]


def facts_of(guest, enabled):
    reached, = times(guest, "multi-user.target", "ActiveEnterTimestampMonotonic")
    facts = {"vm": guest.name, "sivshmd": enabled, "multi-user s": round(reached, 3)}
    if not enabled:
        if properties(guest, "sivshmd", "ActiveState")["ActiveState"] != "inactive":
            raise RuntimeError(f"{guest.name}: sivshmd runs though it is not enabled")
        return facts
    began, main, ready = times(guest, "sivshmd", "InactiveExitTimestampMonotonic", "ExecMainStartTimestampMonotonic",
                               "ActiveEnterTimestampMonotonic")
    cpu = int(properties(guest, "sivshmd", "CPUUsageNSec")["CPUUsageNSec"]) / 1e6
    return {**facts, "READY s": round(ready, 3), "begun s": round(began, 3), "module step ms": round(1000 * (main - began)),
            "to READY ms": round(1000 * (ready - main)), "cpu ms": round(cpu),
            "chain": critical_chain(guest)}


def critical_chain(guest):
    """The units that multi-user.target waited for last, with when each was up and how long it took."""
    out = guest.run("systemd-analyze critical-chain --no-pager multi-user.target", check=True)[1]
    found = re.findall(r"(\S+\.\w+) @(\S+)(?: \+(\S+))?", out)
    return " < ".join(f"{unit} @{at}" + (f" +{took}" if took else "") for unit, at, took in found)


def report(bench, pairs):
    ratios = [ours["multi-user s"] / others["multi-user s"] for ours, others in pairs]
    # each VM was the one as often as the other: what one has by its place on the machine cancels out
    with_it, without = (statistics.median(pair[i]["multi-user s"] for pair in pairs) for i in (0, 1))
    bench.figure("boot_added_ratio", round(with_it / without - 1, 4))
    bench.figure("boot_added_pairs", stats.spread([ratio - 1 for ratio in ratios]))
    keys = list(dict.fromkeys(key for pair in pairs for facts in pair for key in facts))
    bench.table("boots", [{"pair": i, **{key: facts.get(key, "") for key in keys}}
                          for i, pair in enumerate(pairs, 1) for facts in pair])


def run(bench):
    overlays, pairs = make_overlays(bench), []
    with bench.world(BootWorld, overlay=overlays[False]) as world:
        for i in range(bench.pick(4, 8)):
            pairs.append(world.boot_pair(overlays, ("rtos", "ivi")[i % 2]))
            bench.say(f"pair {i + 1}: {pairs[-1]}")
    report(bench, pairs)
