# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every barrier between two programs, in the memory models of C11 and Arm: docs/memory-ordering.md.

The files in litmus/ hold the accesses of the code that each names, as it orders them. What they
ask for (`exists`) must never be there; and it must be there when one of the orders is missing, for
else the file would show nothing. Orders that are stronger than that needs are listed, with reasons.
"""

import re
from pathlib import Path

import pytest

from lab import checkers, paths

HERE = Path(__file__).parent / "litmus"
TESTS = sorted(path.stem for path in HERE.glob("*.litmus"))
ORDER = re.compile(r"memory_order_(?:release|acquire|seq_cst)|\b(?:STLR|LDAR|LDAPR|DMB ISH(?:LD)?)\b")
WEAKER = {"STLR": "STR", "LDAR": "LDR", "LDAPR": "LDR", "DMB ISH": "NOP", "DMB ISHLD": "NOP"}

# Where an order could be weaker: the number of its appearance in the file.
SPARE = {
    # the fence behind it is what counts; the release is that of every store of an index
    "sleep": {1: "release store", 3: "acquire load", 4: "release store", 6: "acquire load"},
    "sleep-arm": {1: "release store", 2: "release store", 5: "acquire load", 6: "acquire load"},
    # read with acquire everywhere; here the fence before it is what counts
    "revoked": {3: "acquire load"},
    "revoked-arm": {3: "acquire load"},
    # these order the index with the record, which is not in this file but in "publish"
    "attach": {1: "release store, for readers of the magic alone", 4: "acquire load, likewise"},
    "closed": {1: "release store", 4: "acquire load"},
    # REVOKED and FREE are for readers of the state alone; the fence orders them before the rest
    "grant": {1: "release store", 2: "release store"},
    "grant-arm": {2: "release store", 4: "release store"},
    "follow": {1: "release store", 2: "release store", 3: "fence, for the copy of a grant"},
    # readers of the magic alone
    "layout": {1: "release store"},
    # orders the magic, which is not in this file but in "layout"
    "layout-arm": {1: "release store"},
    # the magic's release covers it; it is for who reads around the epoch
    "format": {1: "release store"},
    # the wait in the kernel has ordered it already
    "bell": {3: "acquire load"},
}


@pytest.fixture(scope="session")
def herd():
    return checkers.tree("herd")


def observations(herd, texts, work):
    """"Never", "Sometimes" or "Always" for each text: is what `exists` asks for there?"""
    files = []
    for number, text in enumerate(texts):
        files.append(work / f"{number:02}.litmus")
        files[-1].write_text(re.sub(r"^(\w+) \S+", rf"\1 variant{number}", text, count=1))  # no two of one name
    model = ["-model", "rc11.cat"] if texts[0].startswith("C ") else []
    done = herd.run("herd7", "-set-libdir", herd.root / "usr/share/herdtools7/herd", *model, *files, seconds=120)
    found = re.findall(r"^Observation \S+ (\w+) (\d+) (\d+)$", done.stdout, re.M)
    assert done.returncode == 0 and len(found) == len(texts), done.stdout
    assert all(int(there) + int(not_there) > 1 for _, there, not_there in found), done.stdout
    return [word for word, _, _ in found]


def code(name):
    """A file without its comments, which may speak of orders."""
    return re.sub(r"\(\*.*?\*\)\n", "", (HERE / f"{name}.litmus").read_text(), flags=re.S)


def weaker(text, number):
    """The test with its *number*th order taken away."""
    count = 0

    def change(match):
        nonlocal count
        count += 1
        if count != number:
            return match[0]
        return WEAKER.get(match[0], "memory_order_relaxed")

    return ORDER.sub(change, text)


@pytest.mark.parametrize("name", TESTS)
def test_never(herd, tmp_path, name):
    assert observations(herd, [(HERE / f"{name}.litmus").read_text()], tmp_path) == ["Never"]


@pytest.mark.parametrize("name", TESTS)
def test_each_order_counts(herd, tmp_path, name):
    """One relaxed order, or one fence less, and the bad end can be had; spare ones are listed."""
    text = code(name)
    orders = ORDER.findall(text)
    assert orders
    seen = observations(herd, [weaker(text, n) for n in range(1, len(orders) + 1)], tmp_path)
    spare = {n for n, word in enumerate(seen, 1) if word == "Never"}
    assert spare == set(SPARE.get(name, {})), [(n, orders[n - 1]) for n in spare]
    assert len(spare) < len(orders)


def test_names_of_code():
    """Each file names functions that exist."""
    source = "".join(path.read_text() for path in (paths.ROOT / "src").rglob("*.[ch]"))
    for name in TESTS:
        text = (HERE / f"{name}.litmus").read_text()
        named = re.findall(r"\b(\w+)\(\)", text)
        assert named and all(re.search(rf"\b{n}\(", source) for n in named), (name, named)
