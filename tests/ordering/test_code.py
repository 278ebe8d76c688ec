# SPDX-License-Identifier: LGPL-2.1-or-later
"""The orders are there in machine code: for arm64 by two compilers, and the full barriers for x86-64.

An emulator on x86 cannot show what a missing STLR does; the instructions can. Each expectation has to
fail on a build with one order less.
"""

import re
from collections import namedtuple

import pytest

from lab import ordering

IO, RING, WAIT, TABLE = "src/client/io.c", "src/client/ring.c", "src/client/wait.c", "src/sivshm-cad/table.c"

# @order: in this succession, others between them. @weaker: builds that must not have it.
Shape = namedtuple("Shape", "source function order weaker")

LOAD, STORE, FULL, READS = "acquire load", "release store", "full barrier", "barrier for loads"
# Both compilers of arm64 take the full barrier for a release fence.
WRITES = FULL
ARM = {r"ldap?r\b": LOAD, r"stlr\b": STORE, r"dmb ish$": FULL, r"dmb ishld$": READS}
ARM_SHAPES = [
    Shape(IO, "sivshm_commit", [STORE, FULL, LOAD], ["producer-release", "commit-barrier"]),
    Shape(IO, "sivshm_release", [READS, LOAD, STORE, FULL, LOAD], ["magic-fence", "consumer-release",
                                                                  "release-barrier"]),
    Shape(IO, "sivshm_peek", [READS, LOAD], ["magic-fence"]),
    # producer, magic, closed, and producer once more
    Shape(RING, "ring_refresh_data", [LOAD, LOAD, LOAD, LOAD], ["producer-acquire", "closed-acquire"]),
    Shape(RING, "ring_refresh_space", [LOAD], ["consumer-acquire"]),
    Shape(RING, "ring_attach", [LOAD, STORE], ["magic-release"]),
    Shape(RING, "ring_close", [STORE], ["closed-release"]),
    # want_data, want_space
    Shape(WAIT, "sivshm_arm", [STORE, STORE, FULL], ["announce-barrier", "want-release"]),
    Shape(TABLE, "table_activate", [WRITES, WRITES, STORE],
          ["generation-after-free", "generation-before-fields", "active-release"]),
    Shape(TABLE, "table_set_state", [STORE], ["state-release"]),
    # magic, states, epoch; then epoch and magic
    Shape(TABLE, "table_format", [STORE, STORE, STORE, WRITES, STORE, STORE],
          ["epoch-fence", "epoch-release", "table-magic-release"]),
    Shape(TABLE, "table_attach", [LOAD], ["table-magic-acquire"]),
]
# On x86 a release is a store and an acquire a load; where they are is told by the offset in the page.
X86 = {r"mov %\w+,0x80\(": "producer=", r"mov %\w+,0x100\(": "consumer=", r"mov %\w+,0x180\(": "want_data=",
       r"mov %\w+,0x188\(": "want_space=", r"(?:mov|cmp|sub) 0x180\(": "want_data", r"(?:mov|cmp|sub) 0x188\(":
       "want_space", r"(?:lock or|mfence)": FULL}
X86_SHAPES = [
    Shape(IO, "sivshm_commit", ["producer=", FULL, "want_data"], ["commit-barrier"]),
    Shape(IO, "sivshm_release", ["consumer=", FULL, "want_space"], ["release-barrier"]),
]
SHAPES = {"arm64": (ARM, ARM_SHAPES), "arm64-clang": (ARM, ARM_SHAPES), "x86-64": (X86, X86_SHAPES)}
CASES = [(machine, shape) for machine, (_, shapes) in SHAPES.items() for shape in shapes]


def orders(machine, instructions):
    """What of the instructions keeps an order, by name."""
    words = SHAPES[machine][0]
    return [word for text in instructions for pattern, word in words.items() if re.match(pattern, text)]


def in_succession(wanted, found):
    rest = iter(found)
    return all(word in rest for word in wanted)


def inlined(functions, name):
    """A function with the static ones of its file that were not put into it, where they are called."""
    out = []
    for text in functions[name]:
        call = re.match(r"(?:bl|call)\s.*<([\w.]+)>$", text)
        out += functions[call[1]] if call and call[1] in functions and call[1] != name else [text]
    return out


def found(machine, shape, *edits):
    return orders(machine, inlined(ordering.disassembly(machine, shape.source, *edits), shape.function))


@pytest.mark.parametrize("machine, shape", CASES, ids=[f"{m}-{s.function}" for m, s in CASES])
def test_instructions(machine, shape):
    seen = found(machine, shape)
    assert in_succession(shape.order, seen), seen
    for name in shape.weaker:
        weaker = found(machine, shape, *ordering.WEAKER[name])
        assert not in_succession(shape.order, weaker), f"{name}: not missed: {weaker}"


@pytest.mark.parametrize("machine", ["arm64", "arm64-clang"])
def test_no_calls_for_atomics(machine):
    """All of them are instructions: a call might take a lock that the peer knows nothing of."""
    needed = {}
    for source in (*ordering.SOURCES, TABLE):
        needed |= {name: source for name in ordering.undefined(machine, source)}
    assert "clock_gettime" in needed
    # of private words of a channel alone: compare and exchange, by what the processor has
    allowed = {"__aarch64_cas4_relax": "src/client/channel.c"}
    calls = {name: source for name, source in needed.items() if re.match(r"__(aarch64|atomic|sync)_", name)}
    assert calls.items() <= allowed.items(), calls
