# SPDX-License-Identifier: LGPL-2.1-or-later
"""tools/bench: every figure of docs/performance.md, measured again."""

import argparse
import importlib
import json
import sys
import time
import traceback
from pathlib import Path

from lab import build, image, paths, qemu
from lab.world import World

from . import aims, machine, plots

# in this order; a part is a module of this folder
PARTS = ["native", "ca", "datapath", "handshake", "scale", "boot", "realtime"]
OUT = paths.BUILD / "bench"


class Bench:
    """What a part is given.

    quick   fewer rounds: ten minutes for all parts together
    folder  for files of its own, kept after the run
    """

    def __init__(self, quick, folder=OUT):
        self.quick, self.folder, self.began = quick, folder, time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        self.figures, self.tables = {}, {}
        self.mappings = None  # how guests map the memories, once known

    def say(self, text):
        print(f"[{time.monotonic() - self.began:6.1f}] {text}", flush=True)

    def pick(self, quick, full):
        return quick if self.quick else full

    # what parts report

    def figure(self, key, value):
        """A figure at the top of the JSON: a number, or {name: number}."""
        self.figures[key] = value

    def table(self, name, rows):
        """The numbers behind: a list of flat objects with the same keys."""
        self.tables[name] = rows

    # what parts run on

    def image(self):
        return image.ensure(self.say)

    def destdir(self):
        """The project as gcc builds it, installed; built when first asked for."""
        if not hasattr(self, "installed"):
            self.say("building (gcc, kernel module)")
            self.installed = build.install(self.image())
        return self.installed

    def world(self, kind=World, **options):
        """Host and guests for the length of a block; there can be one at a time."""
        return kind(self.destdir(), self.image(), log_dir=paths.BUILD / "logs", progress=self.say, **options)


def parse(argv):
    parser = argparse.ArgumentParser(prog="tools/bench", description=__doc__,
                                     epilog="Exit status: 0 all aims met, 1 something failed, 3 an aim was missed.")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures there too")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: ten minutes instead of thirty-five")
    parser.add_argument("--part", metavar="NAME", action="append", choices=PARTS,
                        help="only this part; may be given more than once: " + " ".join(PARTS))
    return parser.parse_args(argv)


def run_part(bench, name):
    module = importlib.import_module(f"bench.{name}")
    bench.say(f"{name}: {module.TITLE}")
    began = time.monotonic()
    module.run(bench)
    bench.say(f"{name}: done after {time.monotonic() - began:.0f} s")


def verdicts(bench):
    """Prints every aim beside its figure. Returns how many were missed."""
    missed = 0
    for aim in aims.AIMS:
        value = aims.value_at(bench.figures, aim.key)
        if value is None:
            continue
        met = aim.met(value)
        missed += not met
        print(f"{'ok    ' if met else 'MISSED'} {aim.key} = {value} (aim {aim.sign} {aim.bound}): {aim.text}"
              + (f"; {aim.missed}" if aim.missed and not met else ""))
    return missed


def main(argv=None):
    options = parse(argv)
    qemu.exit_on_signals()
    bench, failure = Bench(options.quick), None
    try:
        for name in options.part or PARTS:
            run_part(bench, name)
    except (Exception, KeyboardInterrupt) as error:
        failure = str(error) or type(error).__name__
        traceback.print_exc()
    result = {"machine": machine.describe(bench), **bench.figures, "tables": bench.tables}
    for where in filter(None, (OUT / "result.json", options.json)):
        where.write_text(json.dumps(result, indent=1) + "\n")
    plots.draw(result, OUT)
    missed = verdicts(bench)
    if failure:
        bench.say(f"bench: FAILED: {failure}; what was measured before is in {OUT}")
        return 1
    bench.say(f"bench: {'all aims met' if not missed else f'{missed} aims missed'}; result.json and plots in {OUT}")
    return 3 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
