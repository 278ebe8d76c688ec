# SPDX-License-Identifier: LGPL-2.1-or-later
"""Spin walks every order of events in the life of a channel: spin/channel.pml, docs/verification.md.

Each mechanism left out of the model must lead to the bad end that it is there against.
"""

import re
import subprocess
from pathlib import Path

import pytest

from lab import paths

MODEL = Path(__file__).parent / "spin/channel.pml"
SECONDS = 120
CC = ["gcc", "-O1", "-w", "-DCOLLAPSE", "-DVECTORSZ=2048"]


def explore(work, claim, *flags):
    """(errors, states, what the first error was); claim "" is assertions alone."""
    def run(*argv):
        return subprocess.run(argv, cwd=work, capture_output=True, text=True, timeout=SECONDS)

    made = run("spin", "-a", *[f"-D{flag}" for flag in flags], MODEL)
    assert (work / "pan.c").exists() and "rror" not in made.stdout + made.stderr, made.stdout + made.stderr
    built = run(*CC, *(["-DNFAIR=8"] if claim else ["-DSAFETY", "-DNOCLAIM"]), "-o", "pan", "pan.c")
    assert built.returncode == 0, built.stderr
    # weak fairness: what can be done for ever is done; no look at ends, for waiting is fine
    done = run("./pan", "-E", "-m3000000", *(["-a", "-f", "-N", claim] if claim else []))
    errors = re.search(r"errors: (\d+)", done.stdout)
    assert errors and "max search depth too small" not in done.stdout, done.stdout + done.stderr
    states = int(float(re.search(r"([0-9.e+]+) states, stored", done.stdout)[1]))
    return int(errors[1]), states, "".join(re.findall(r"^pan:1: (.*)$", done.stdout, re.M))


# claim, flags. Deaths and grants are bounds on how often, in all.
HOLDS = {
    "safe": ("", "DEATHS=1", "GRANTS=2"),
    "safe-deaths": ("", "DEATHS=2", "GRANTS=2"),
    "safe-grants": ("", "DEATHS=0", "GRANTS=3"),
    "safe-evil": ("", "DEATHS=1", "GRANTS=2", "EVIL"),
    "one-sided": ("one_sided", "DEATHS=1", "GRANTS=1"),
    "one-sided-evil": ("one_sided", "DEATHS=1", "GRANTS=1", "EVIL"),
    "unopened": ("unopened", "DEATHS=1", "GRANTS=1"),
    "unopened-evil": ("unopened", "DEATHS=1", "GRANTS=1", "EVIL"),
    "settled": ("settled", "DEATHS=1", "GRANTS=1"),
    "settled-evil": ("settled", "DEATHS=1", "GRANTS=1", "EVIL"),
}


@pytest.mark.parametrize("name", HOLDS)
def test_holds(tmp_path, figures, name):
    claim, *flags = HOLDS[name]
    errors, states, what = explore(tmp_path, claim, *flags)
    figures["states"] = states
    assert errors == 0, what
    assert states > 10000


# what is left out: claim, flags, the bad end
BROKEN = {
    "exporters-not-compared": ("", r"met\[", "SKIP_EXPORTER"),
    # who does not verify is saved by the exporters; without both he is lost
    "not-verified": ("", r"met\[", "SKIP_VERIFY", "SKIP_EXPORTER"),
    "no-quarantine": ("", "mapped", "NO_QUARANTINE"),
    "any-generation": ("", "mapped", "SKIP_GENERATION", "DEATHS=0", "GRANTS=3"),
    "no-revive": ("one_sided", "acceptance cycle", "NO_REVIVE", "GRANTS=1"),
    "no-drain": ("one_sided", "acceptance cycle", "NO_DRAIN", "GRANTS=1"),
    "no-timeout": ("settled", "acceptance cycle", "NO_TIMEOUT", "EVIL", "GRANTS=1"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken(tmp_path, name):
    claim, bad_end, *flags = BROKEN[name]
    errors, _, what = explore(tmp_path, claim, *flags)
    assert errors and re.search(bad_end, what), what


def test_verified_twice(tmp_path):
    """An end that takes anybody for its peer is still caught: its exporter is not the other's."""
    assert explore(tmp_path, "", "SKIP_VERIFY")[0] == 0


def test_reaches(tmp_path):
    """The model is not empty: a second channel comes about and is mapped at both ends."""
    errors, _, what = explore(tmp_path, "", "REACH")
    assert errors and "grants" in what, what


def test_names_of_code():
    """Functions that the model names are there."""
    code = "".join(path.read_text() for path in (paths.ROOT / "src").rglob("*.[ch]"))
    comments = "".join(re.findall(r"/\*.*?\*/", MODEL.read_text(), re.S))
    named = set(re.findall(r"\b([a-z]\w+_\w+)\(\)", comments))
    assert len(named) > 20 and not {name for name in named if not re.search(rf"\b{name}\(", code)}, named
