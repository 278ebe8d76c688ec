# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every aim of tools/bench, measured again with --quick.

What else this machine does shows in the tails, so a part that misses an aim is measured up to twice more, and the
figures say what came out each time: an aim is missed when it is missed three times. One that aims.py itself calls missed is held to
its floor, so that it does not get worse unseen.
"""

import importlib

import pytest

from bench import aims, run

TRIES = 3


class Measured:
    """Parts are measured when an aim of theirs is first asked for."""

    def __init__(self, say):
        self.say, self.runs, self.broken = say, {}, {}

    def figures(self, part, attempt):
        """What a part found the n-th time."""
        if part in self.broken:
            pytest.fail(f"{part} could not be measured: {self.broken[part]}")
        runs = self.runs.setdefault(part, [])
        while len(runs) <= attempt:
            bench = run.Bench(quick=True)
            bench.say = self.say
            try:
                importlib.import_module(f"bench.{part}").run(bench)
            except Exception as error:
                self.broken[part] = error
                raise
            runs.append(bench.figures)
        return runs[attempt]


@pytest.fixture(scope="module")
def measured(progress):
    return Measured(progress)


@pytest.mark.parametrize("aim", aims.AIMS, ids=lambda aim: aim.key)
def test_aim(measured, figures, aim):
    found = figures[aim.key] = []
    bound = aim.floor if aim.missed else aim.bound

    def held():
        return any(aim.holds(value, bound) for value in found)
    while len(found) < TRIES and not held():
        value = aims.value_at(measured.figures(aim.part, len(found)), aim.key)
        assert value is not None, f"{aim.part} does not measure {aim.key}"
        found.append(value)
    assert held(), f"{aim.text}: {found}, not {aim.sign} {bound}"


@pytest.mark.parametrize("part", [part for part in run.PARTS if part not in {aim.part for aim in aims.AIMS}])
def test_part_without_aim(measured, figures, part):
    """What is only reported has to be there all the same."""
    figures.update(measured.figures(part, 0))
    assert figures
