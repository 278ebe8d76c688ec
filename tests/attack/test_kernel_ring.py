# SPDX-License-Identifier: LGPL-2.1-or-later
"""The ring against a peer's kernel that writes anything into its window: natively, state by state."""

import functools
import json
import os
import signal
import subprocess

import pytest

from lab import build, mutant, paths
from lab.attack import KERNEL, attack
from lab.mutant import Edit

PROGRAM = "tests/attack/ring-states"
OUTCOMES = ("data empty sent full closed proto too_long released nothing_shown ready idle proto_again").split()

NO_LENGTH = Edit("src/client/ring.h", "header >> 32 || need > x->producer - x->consumer", "header >> 32")
NO_FLAGS = Edit("src/client/ring.h", "header >> 32 || need", "need")
NO_PRODUCER = Edit("src/client/ring.c", "producer - x->producer > room || producer", "room == 1 || producer")
NO_CONSUMER = Edit("src/client/ring.c", "consumer - t->consumer > t->producer - t->consumer || consumer", "consumer")
NO_MEMORY = Edit("src/client/channel.c", "if (r == -EPROTO || r == -ENOLINK)", "if (r == -ENOLINK)")
TWO_LOADS = Edit("src/client/ring.h", "*ret_length = (uint32_t)header;", "*ret_length = *(volatile const uint32_t *)record;")


def run(binary, *options, timeout=600):
    """Exit status, the figures it printed, and what it said."""
    done = subprocess.run(["nice", str(binary), *map(str, options)], capture_output=True, text=True, timeout=timeout,
                          env={**os.environ, **build.SANITIZER_ENV})
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr


def attack_ring(figures, states, *options, config="gcc"):
    """That many states, each outcome among them. A random seed: what is found is repeated by it."""
    seed = int.from_bytes(os.urandom(4), "little")
    rc, seen, errors = run(build.folder(config) / PROGRAM, "--states", states, "--seed", seed, *options)
    assert rc == 0, f"seed {seed}: exit {rc}: {errors[-3000:]}"
    assert seen["states"] == states
    figures.update(seen)
    assert [name for name in OUTCOMES if not seen[name]] == []


@functools.cache
def mutant_of(edit):
    return mutant.program(PROGRAM, edit)


def broken(edit, *options):
    return run(mutant_of(edit), "--states", 100_000_000, *options)


def crashes(edit, *options):
    """Without the check an access leaves the window, and the guard pages say so."""
    return broken(edit, "--crash-only", *options)[0] == -signal.SIGSEGV


def is_breach(edit, word, *options):
    rc, _, errors = broken(edit, *options)
    return rc == -signal.SIGABRT and word in errors


native = attack(KERNEL, "rewrites its window between two calls of the reader and writer, 10^8 states",
                stops="every shared word is checked against private state, `src/client/ring.c`, `ring.h`",
                control="without the check of a length, or of the producer, the reader leaves its window at once")


@native
def test_states(figures, control):
    attack_ring(figures, 100_000_000)
    control.seen(crashes(NO_LENGTH))
    control.seen(crashes(NO_PRODUCER))


@native
@pytest.mark.parametrize("ring", [65536, 1 << 20])
def test_states_of_larger_rings(figures, control, ring):
    attack_ring(figures, 4_000_000, "--ring", ring)
    control.seen(crashes(NO_LENGTH, "--ring", ring))


@native
def test_states_with_sanitizer(figures, control):
    attack_ring(figures, 5_000_000, config="clang-asan")
    control.seen(crashes(NO_LENGTH))


@native
@pytest.mark.slow
def test_states_at_length(figures, control):
    attack_ring(figures, 1_000_000_000)
    control.seen(crashes(NO_LENGTH))


@attack(KERNEL, "rewrites its window while the reader and writer look at it",
        stops="every shared word is loaded once, `src/client/ring.h`",
        control="a length that is loaded twice is caught between the loads")
@pytest.mark.parametrize("config", ["gcc", "clang-asan"])
def test_scribbling_thread(figures, control, config):
    attack_ring(figures, 20_000_000 if config == "gcc" else 3_000_000, "--scribble", config=config)
    control.seen(is_breach(TWO_LOADS, "", "--scribble", "--seconds", 120))


@attack(KERNEL, "lies about flags, or about what it has consumed, or comes back after it was caught",
        stops="`ring_peek()`, `ring_refresh_space()` in `src/client/ring.c`; `channel_fail()` in `src/client/channel.c`",
        control="each of the three checks left out is noticed")
@pytest.mark.parametrize("edit, word", [(NO_FLAGS, "flags"), (NO_CONSUMER, "sender's indices"),
                                        (NO_MEMORY, "is back")], ids=["flags", "consumer", "comes back"])
def test_what_no_guard_page_sees(figures, control, edit, word):
    attack_ring(figures, 5_000_000)
    control.seen(is_breach(edit, word))
