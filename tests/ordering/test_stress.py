# SPDX-License-Identifier: LGPL-2.1-or-later
"""The ring, its waiting and its bell under stress: natively, under ThreadSanitizer, and as an arm64 program.

What each can show, and what it cannot: docs/memory-ordering.md. A build with one order less has to fail.
"""

import re

import pytest

from lab import ordering
from lab.mutant import Edit

# of the messages that the program has for each schedule: seconds each
PERCENT = {"native": 100, "tsan-gcc": 50, "tsan-clang": 50, "arm64": 100}
PATIENCE = ["--patience", 1000]  # where a wake-up is lost on purpose

IO = "src/client/io.c"
# received and given back the other way round
EARLY_RELEASE = Edit(IO, "	if (n)\n		memcpy(data, message, (size_t)n);\n	r = release(c);",
                     "	r = release(c);\n	if (n)\n		memcpy(data, message, (size_t)n);")
# {name: (edits, schedules that show it)}
RACES = {
    **{name: (ordering.WEAKER[name], schedule) for name, schedule in [
        ("producer-release", "in-place"), ("producer-acquire", "copy"), ("consumer-release", "in-place"),
        ("consumer-acquire", "full")]},
    "early-release": ([EARLY_RELEASE], "copy"),
    "plain-want": ([Edit("src/client/ring.h", "ring_store64(&x->own->want_data, x->producer + 1);",
                         "x->own->want_data = htole64(x->producer + 1);")], "turns"),
    "plain-error": ([Edit(IO, f"int r = __atomic_load_n(&c->tx_error, __ATOMIC_RELAXED);\n\n	{then}",
                          f"int r = c->tx_error;\n\n	{then}") for then in ("if (ring_likely(!r))", "/* It may")],
                    "revoke " * 40),  # once in each, and not in all
    "bell-without-lock": ([Edit("src/client/bell.c", "	pthread_mutex_lock(&b->lock);\n	seq = b->seq;\n"
                                "	pthread_mutex_unlock(&b->lock);", "	seq = b->seq;")], "both"),
}
LOST = {"commit-barrier": "turns", "release-barrier": "room", "announce-barrier": "turns"}


def run(flavour, *args, edits=(), figures=None):
    program = ordering.stress(flavour, *edits)
    code, text = ordering.run(program, flavour, *args)
    sent = re.findall(r"^\S+ (\d+) \d+\.\d+$", text, re.M)
    if figures is not None:
        figures["messages"] = sum(map(int, sent))
    return code, text


@pytest.mark.parametrize("flavour", ordering.FLAVOURS)
def test_schedules(figures, flavour):
    """All messages arrive, whole, in order, and nobody sleeps through one."""
    code, text = run(flavour, "--percent", PERCENT[flavour], figures=figures)
    assert code == 0, text[-6000:]
    names = ordering.run(ordering.stress(flavour), flavour, "--list")[1].split()
    assert [line.split()[0] for line in text.splitlines()] == names, text[-2000:]


@pytest.mark.parametrize("flavour, name", [("tsan-clang", name) for name in RACES]
                         + [("tsan-gcc", name) for name in RACES if name in ordering.WEAKER])
def test_race_is_told(flavour, name):
    edits, schedules = RACES[name]
    code, text = run(flavour, "--percent", 100, *schedules.split(), edits=edits)
    assert code == 66 and "WARNING: ThreadSanitizer: data race" in text, (code, text[-3000:])


@pytest.mark.parametrize("name", LOST)
def test_lost_wakeup_is_told(name):
    """Store and load change places on x86, too, unless a barrier stands between them."""
    code, text = run("native", *PATIENCE, "--percent", 3000, LOST[name], edits=ordering.WEAKER[name])
    assert code == 2 and "lost wake-up" in text and "(is there)" in text, (code, text[-3000:])


def test_lost_wakeup_is_told_on_arm64():
    """The emulation lets a load overtake a store, as its host does."""
    code, text = run("arm64", *PATIENCE, "--percent", 1000, "turns",
                     edits=ordering.WEAKER["no-barrier-nor-acquire"])
    assert code == 2 and "lost wake-up" in text and "(is there)" in text, (code, text[-3000:])


@pytest.mark.parametrize("flavour", ["native", "arm64"])
def test_wrong_contents_are_told(flavour):
    code, text = run(flavour, "--percent", 1000, "copy", edits=[EARLY_RELEASE])
    assert code == 1 and "wrong contents" in text, (code, text[-3000:])
