# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bounded model checking of the real sources, for all inputs: docs/verification.md.

What is proved says the comment at the head of each harness in cbmc/. Each broken build of the
source must be refuted, by the property that it breaks.
"""

import re
import shutil
import tempfile
from pathlib import Path

import pytest

from lab import checkers, mutant, paths
from lab.mutant import Edit

HERE = Path(__file__).parent
SECONDS = 120
# No loop in the ring: with --unwind 2 a loop that were there would fail its unwinding assertion.
CHECKS = ["--pointer-overflow-check", "--unwinding-assertions", "--verbosity", "4"]
RING = ["init", "attach", "reserve", "commit", "peek", "release", "wait"]


@pytest.fixture(scope="session")
def cbmc():
    return checkers.tree("cbmc")


@pytest.fixture
def work():
    with tempfile.TemporaryDirectory(prefix="sivshm-cbmc-") as path:
        yield Path(path)


def ring_program(work, edits=(), *defines):
    """The harness and the real ring.c, or a copy of it with edits."""
    root = paths.ROOT
    if edits:
        root = work / "tree"
        shutil.copytree(paths.ROOT / "src/client", root / "src/client")
        mutant.change(root, edits)
    flags = [f"-I{root / 'src'}", "-include", HERE / "cbmc/shared.h", *defines]
    return [checkers.preprocess(HERE / "cbmc/ring.c", work / "model.i", *flags),
            checkers.preprocess(root / "src/client/ring.c", work / "ring.i", *flags)]


def check(cbmc, program, function, *options):
    done = cbmc.run("cbmc", *program, "--function", function, *CHECKS, *options, seconds=SECONDS)
    assert done.returncode in (0, 10), done.stdout[-4000:]
    assert ("VERIFICATION SUCCESSFUL" in done.stdout) == (done.returncode == 0)
    return checkers.failures(done.stdout)


@pytest.mark.parametrize("function", RING)
def test_ring(cbmc, work, function):
    """Any peer, any state that can come about, any argument, all sizes."""
    assert not check(cbmc, ring_program(work), f"prove_{function}", "--unwind", "2")


@pytest.mark.parametrize("function", RING)
def test_ring_loads_once(cbmc, work, function):
    """The same when no word of the peer can be read other than by an atomic load."""
    program = ring_program(work, (), "-DPEER_WITHOUT_MEMORY")
    done = cbmc.run("cbmc", *program, "--function", f"prove_{function}", "--unwind", "2", "--verbosity", "4",
                    seconds=SECONDS)
    assert done.returncode == 0, checkers.failures(done.stdout) or done.stdout[-4000:]


def test_ring_reaches(cbmc, work):
    """The proofs are not empty: all that can come out does, in some state, by some peer."""
    found = check(cbmc, ring_program(work), "reach", "--unwind", "2")
    wanted = re.findall(r'__CPROVER_assert\(.*, "([^"]+)"\);', (HERE / "cbmc/ring.c").read_text())
    assert len(wanted) >= 10 and sorted(what for _, what in found) == sorted(wanted)


# What has to be found, where, by which property.
BROKEN = {
    "double-fetch-length": (
        "peek", r"at \+ length <= 2",
        Edit("src/client/ring.h", "*ret_length = (uint32_t)header;",
             "*ret_length = le32toh(__atomic_load_n((const uint32_t *)record, __ATOMIC_RELAXED));")),
    "double-fetch-index": (
        "peek", r"sane\(\)",
        Edit("src/client/ring.c", "x->producer = producer;", "x->producer = ring_load64(&x->peer->producer);")),
    "plain-read": (
        "peek", "dereference failure.*(producer|peer)",
        Edit("src/client/ring.c", "x->producer = producer;", "x->producer = x->peer->producer;")),
    "no-clamp-of-producer": (
        "peek", r"sane\(\)", Edit("src/client/ring.c", "producer - x->producer > room || ", "")),
    "no-clamp-of-consumer": (
        "reserve", r"sane\(\)",
        Edit("src/client/ring.c", "consumer - t->consumer > t->producer - t->consumer || ", "")),
    "no-alignment": (
        "peek", r"sane\(\)", Edit("src/client/ring.c", " || producer % SIVSHM_RECORD_ALIGN)", ")")),
    "no-clamp-of-length": (
        "peek", "length <= ring_max_message", Edit("src/client/ring.h", " || need > x->producer - x->consumer)", ")")),
    "commit-more-than-reserved": (
        "commit", r"(sane\(\)|size <= t->size)",
        Edit("src/client/ring.h", "t->reserved == RING_NOTHING || size > t->reserved", "t->reserved == RING_NOTHING")),
    "too-long-a-message": (
        "reserve", r"(sane\(\)|__CPROVER_w_ok|EMSGSIZE)",
        Edit("src/client/ring.h", "size > ring_max_message(t->size)", "size > t->size + t->size")),
    "no-check-of-sizes": (
        "init", "size_sane", Edit("src/client/ring.c", "!size_ok(tx_size) || !size_ok(rx_size)", "!size_ok(tx_size)")),
}


@pytest.mark.parametrize("name", BROKEN)
def test_ring_broken(cbmc, work, name):
    function, what, edit = BROKEN[name]
    defines = ["-DPEER_WITHOUT_MEMORY"] if name == "plain-read" else []
    found = check(cbmc, ring_program(work, (edit,), *defines), f"prove_{function}", "--unwind", "2")
    assert any(re.search(what, text) for _, text in found), found


# the grant check of the module

# Functions, and how often a loop may turn: sections of a table, plus one to see that it ends.
GRANT = {"window": 2, "place": 2, "find_own": 33, "find_peer": 33, "grant": 33}
FEW = ["--slice-formula", "--no-array-field-sensitivity"]


def grant_program(cbmc, work, edits=()):
    """The harness with the real grant.c in it, or a copy of that with edits; finders replaced for prove_grant."""
    root = paths.ROOT
    if edits:
        root = work / "tree"
        shutil.copytree(paths.ROOT / "src/kmod", root / "src/kmod")
        mutant.change(root, edits)
    text = checkers.preprocess(HERE / "cbmc/grant.c", work / "grant.i", f"-I{root / 'src'}", f"-I{root / 'src/kmod'}")
    whole, split = work / "whole.gb", work / "split.gb"
    for argv in (["goto-cc", text, "-o", whole],
                 ["goto-instrument", "--replace-calls", "find_own:any_own", "--replace-calls", "find_peer:any_peer",
                  whole, split]):
        done = cbmc.run(*argv)
        assert done.returncode == 0, done.stdout
    return whole, split


def check_grant(cbmc, work, name, edits=(), turns=33):
    whole, split = grant_program(cbmc, work, edits)
    program = split if name in ("prove_grant", "reach") else whole
    return check(cbmc, [program], name, "--nondet-static", "--unwind", str(turns), *FEW)


@pytest.mark.parametrize("name", GRANT)
def test_grant(cbmc, work, name):
    assert not check_grant(cbmc, work, f"prove_{name}", turns=GRANT[name])


def test_grant_layout(cbmc, work):
    """Tables of up to two sections, and all that say more than the most there can be."""
    assert not check_grant(cbmc, work, "prove_layout", turns=3)


def test_grant_reaches(cbmc, work):
    found = check_grant(cbmc, work, "reach")
    assert len(found) == 4, found


GRANT_BROKEN = {
    "no-end-of-section": ("window", Edit("src/kmod/grant.c", " || size > section_size - offset)", ")")),
    "overflow": ("window", Edit("src/kmod/grant.c", "offset > section_size || size > section_size - offset",
                                "offset + size > section_size")),
    "section-header": ("window", Edit("src/kmod/grant.c", "offset < SIVSHM_PAGE_SIZE || ", "")),
    "odd-offset": ("window", Edit("src/kmod/grant.c", " || offset % SIVSHM_PAGE_SIZE != 0)", ")")),
    "any-size": ("window", Edit("src/kmod/grant.c", "is_power_of_2(size) && size >= min", "size >= min")),
    "two-own-sections": ("place", Edit("src/kmod/grant.c", " || (a->flags & b->flags & SIVSHM_SECTION_OWN);", ";")),
    "wrong-section": ("grant", Edit("src/kmod/grant.c", "grant->rx_size, peer->size", "grant->rx_size, own->size")),
    "any-vector": ("grant", Edit("src/kmod/grant.c", "return vector >= 1 && vector < vectors;",
                                 "return vector >= 1 && vector <= vectors;")),
    "past-the-places": ("find_own", Edit(
        "src/kmod/grant.c", """	for (u32 i = 0; i < layout->n_places; i++)
		if (layout->places[i].region == region &&
		    (layout->places[i].flags & SIVSHM_SECTION_OWN))""",
        """	for (u32 i = 0; i < SIVSHM_MAX_SECTIONS; i++)
		if (layout->places[i].region == region &&
		    (layout->places[i].flags & SIVSHM_SECTION_OWN))""")),
}


@pytest.mark.parametrize("name", GRANT_BROKEN)
def test_grant_broken(cbmc, work, name):
    function, edit = GRANT_BROKEN[name]
    assert check_grant(cbmc, work, f"prove_{function}", (edit,), GRANT[function])
