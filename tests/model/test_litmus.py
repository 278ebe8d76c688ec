# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every barrier between two programs, in the memory models of C11 and Arm: docs/channel-abi.md.

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
ORDER = re.compile(r"memory_order_(?:release|acquire|seq_cst)|\b(?:STLR|LDAR)\b")

# Where an order could be weaker: the number of its appearance in the file.
SPARE = {
    # the fence behind it is what counts; the release is that of every store of an index
    "sleep": {1: "release store", 3: "acquire load", 4: "release store", 6: "acquire load"},
    # read with acquire everywhere; here the fence before it is what counts
    "revoked": {3: "acquire load"},
    # these order the index with the record, which is not in this file but in "publish"
    "closed": {1: "release store", 4: "acquire load"},
    # REVOKED and FREE are for readers of the state alone; the fence orders them before the rest
    "grant": {1: "release store", 2: "release store"},
    # readers of the magic alone
    "layout": {1: "release store"},
}


@pytest.fixture(scope="session")
def herd():
    return checkers.tree("herd")


def observation(herd, text, work):
    """"Never", "Sometimes" or "Always": is what `exists` asks for there?"""
    path = work / "test.litmus"
    path.write_text(text)
    model = ["-model", "rc11.cat"] if text.startswith("C ") else []
    done = herd.run("herd7", "-set-libdir", herd.root / "usr/share/herdtools7/herd", *model, path, seconds=60)
    found = re.search(r"^Observation \S+ (\w+) (\d+) (\d+)$", done.stdout, re.M)
    assert done.returncode == 0 and found and int(found[2]) + int(found[3]) > 1, done.stdout
    return found[1]


def weaker(text, number):
    """The test with its *number*th order taken away."""
    count = 0

    def change(match):
        nonlocal count
        count += 1
        if count != number:
            return match[0]
        return {"STLR": "STR", "LDAR": "LDR"}.get(match[0], "memory_order_relaxed")

    return ORDER.sub(change, text)


@pytest.mark.parametrize("name", TESTS)
def test_never(herd, tmp_path, name):
    assert observation(herd, (HERE / f"{name}.litmus").read_text(), tmp_path) == "Never"


@pytest.mark.parametrize("name", TESTS)
def test_each_order_counts(herd, tmp_path, name):
    """One relaxed order, or one fence less, and the bad end can be had; spare ones are listed."""
    text = (HERE / f"{name}.litmus").read_text()
    orders = ORDER.findall(text)
    spare = {n for n in range(1, len(orders) + 1) if observation(herd, weaker(text, n), tmp_path) == "Never"}
    assert orders and spare == set(SPARE.get(name, {})), [(n, orders[n - 1]) for n in spare]
    assert len(spare) < len(orders)


def test_names_of_code():
    """Each file names functions that exist."""
    code = "".join(path.read_text() for path in (paths.ROOT / "src").rglob("*.[ch]"))
    for name in TESTS:
        text = (HERE / f"{name}.litmus").read_text()
        named = re.findall(r"\b(\w+)\(\)", text)
        assert named and all(re.search(rf"\b{n}\(", code) for n in named), (name, named)
