# SPDX-License-Identifier: LGPL-2.1-or-later
"""Builds of the library's data path for tests/ordering: by several compilers, for two machines, with edits.

    program = ordering.stress("arm64")                        runs by ordering.run(program, "arm64", ...)
    program = ordering.stress("tsan-clang", Edit(file, old, new))
    lines = ordering.disassembly("arm64", "src/client/io.c")["sivshm_commit"]

No build folder of meson's is needed: a handful of files, a second each.
"""

import re
import shutil
import subprocess
from collections import namedtuple
from functools import cache

from . import build, mutant, paths
from .mutant import Edit

HERE = paths.ROOT / "tests/ordering"
BUILD = paths.BUILD / "ordering"

# All of the library but what asks the daemon for a channel.
SOURCES = [f"src/client/{name}.c" for name in ("ring", "wait", "bell", "io", "channel", "error", "backend-kernel")]
# A nap heals a lost wake-up after a second; here it shall be seen.
LONG_NAPS = Edit("src/client/wait.c", "#define NAP_MAX_NS 1000000000ull", "#define NAP_MAX_NS 3600000000000ull")

# One order less each. What a weaker build must fail: tests/ordering.
RING, TABLE = "src/client/ring.h", "src/sivshm-cad/table.c"


def relaxed_store(word, value, bits=64):
    return f"__atomic_store_n({word}, htole{bits}({value}), __ATOMIC_RELAXED);"


def relaxed_load(word, bits=64):
    return f"le{bits}toh(__atomic_load_n({word}, __ATOMIC_RELAXED))"


COMPILER_ALONE = "__atomic_signal_fence(__ATOMIC_SEQ_CST);"
WEAKER = {
    "producer-release": [Edit(RING, "ring_store64(&t->own->producer, new);",
                              relaxed_store("&t->own->producer", "new"))],
    "producer-acquire": [Edit("src/client/ring.c", "ring_load64(&x->peer->producer)",
                              relaxed_load("&x->peer->producer"))],
    "consumer-release": [Edit(RING, "ring_store64(&x->own->consumer, new);",
                              relaxed_store("&x->own->consumer", "new"))],
    "consumer-acquire": [Edit("src/client/ring.c", "ring_load64(&t->peer->consumer)",
                              relaxed_load("&t->peer->consumer"))],
    "commit-barrier": [Edit(RING, "of the peer. */\n\tring_full_barrier();\n\treturn ring_passed(old, new, "
                            "ring_load64(&t->peer->want_data));",
                            f"of the peer. */\n\t{COMPILER_ALONE}\n\treturn ring_passed(old, new, "
                            "ring_load64(&t->peer->want_data));")],
    "release-barrier": [Edit(RING, "of the peer. */\n\tring_full_barrier();\n\treturn ring_passed(old, new, "
                             "ring_load64(&x->peer->want_space));",
                             f"of the peer. */\n\t{COMPILER_ALONE}\n\treturn ring_passed(old, new, "
                             "ring_load64(&x->peer->want_space));")],
    "announce-barrier": [Edit(RING, "ring_announce(void)\n{\n\tring_full_barrier();",
                              f"ring_announce(void)\n{{\n\t{COMPILER_ALONE}")],
    "want-release": [Edit(RING, "ring_store64(&x->own->want_data, x->producer + 1);",
                          relaxed_store("&x->own->want_data", "x->producer + 1")),
                     Edit(RING, "ring_store64(&t->own->want_space, t->producer + t->need - t->size);",
                          relaxed_store("&t->own->want_space", "t->producer + t->need - t->size"))],
    "magic-fence": [Edit(RING, "__atomic_thread_fence(__ATOMIC_ACQUIRE);", COMPILER_ALONE)],
    "magic-release": [Edit("src/client/ring.c", "ring_store32(&own->magic, SIVSHM_RING_MAGIC);",
                           relaxed_store("&own->magic", "SIVSHM_RING_MAGIC", 32))],
    "closed-release": [Edit("src/client/ring.c", "ring_store32(&ring->tx.own->closed, bits);",
                            relaxed_store("&ring->tx.own->closed", "bits", 32))],
    "closed-acquire": [Edit(RING, "ring_load32(&peer->closed)", relaxed_load("&peer->closed", 32))],
    "generation-after-free": [Edit(TABLE, "__atomic_thread_fence(__ATOMIC_RELEASE);\n\t__atomic_store_n(&e->generation,",
                                   f"{COMPILER_ALONE}\n\t__atomic_store_n(&e->generation,")],
    "generation-before-fields": [Edit(TABLE, "__ATOMIC_RELAXED);\n\t__atomic_thread_fence(__ATOMIC_RELEASE);",
                                      f"__ATOMIC_RELAXED);\n\t{COMPILER_ALONE}")],
    "active-release": [Edit(TABLE, "htole32(SIVSHM_GRANT_ACTIVE), __ATOMIC_RELEASE",
                            "htole32(SIVSHM_GRANT_ACTIVE), __ATOMIC_RELAXED")],
    "state-release": [Edit(TABLE, "htole32((uint32_t)state), __ATOMIC_RELEASE",
                           "htole32((uint32_t)state), __ATOMIC_RELAXED")],
    "epoch-fence": [Edit(TABLE, "__ATOMIC_RELEASE);\n\t__atomic_thread_fence(__ATOMIC_RELEASE);\n\tmemset",
                         f"__ATOMIC_RELEASE);\n\t{COMPILER_ALONE}\n\tmemset")],
    "epoch-release": [Edit(TABLE, "htole64(epoch + 1), __ATOMIC_RELEASE", "htole64(epoch + 1), __ATOMIC_RELAXED")],
    "table-magic-release": [Edit(TABLE, "htole64(SIVSHM_TABLE_MAGIC), __ATOMIC_RELEASE",
                                 "htole64(SIVSHM_TABLE_MAGIC), __ATOMIC_RELAXED")],
    "table-magic-acquire": [Edit(TABLE, "__atomic_load_n(&h->magic, __ATOMIC_ACQUIRE)",
                                 "__atomic_load_n(&h->magic, __ATOMIC_RELAXED)")],
}
# Under emulation each acquire is followed by a barrier of the host, which would stand in for the one left out.
WEAKER["no-barrier-nor-acquire"] = [
    Edit(RING, "__atomic_thread_fence(__ATOMIC_SEQ_CST);", COMPILER_ALONE),
    Edit(RING, "return le64toh(__atomic_load_n(p, __ATOMIC_ACQUIRE));",
         "return le64toh(__atomic_load_n(p, __ATOMIC_RELAXED));"),
    Edit("src/client/channel.h", "__atomic_load_n(&c->gone, __ATOMIC_ACQUIRE)",
         "__atomic_load_n(&c->gone, __ATOMIC_RELAXED)")]

FLAGS = ["-std=gnu17", "-D_GNU_SOURCE", "-g", "-Wall", "-Wextra", "-Werror", "-Isrc", "-Isrc/kmod/uapi"]
# As meson's debugoptimized builds them.
OPTIMIZED = ["-O2", "-fstack-protector-strong"]

Flavour = namedtuple("Flavour", "compiler flags runner options", defaults=([], []))

FLAVOURS = {
    "native": Flavour("gcc", OPTIMIZED),
    # gcc says that it cannot follow fences, clang does not say so, neither can: see docs/memory-ordering.md
    "tsan-gcc": Flavour("gcc", ["-O1", "-fsanitize=thread", "-Wno-tsan"], options=["--one-address"]),
    "tsan-clang": Flavour("clang", ["-O1", "-fsanitize=thread"], options=["--one-address"]),
    "arm64": Flavour("aarch64-linux-gnu-gcc", [*OPTIMIZED, "-static"], ["qemu-aarch64"]),
}
ENV = {"TSAN_OPTIONS": "halt_on_error=1 exitcode=66"}


@cache
def tree(*edits):
    """The sources with edits, in a folder of their own; once in a session, as what is made of them."""
    where = BUILD / mutant.key(edits)
    shutil.rmtree(where, ignore_errors=True)
    (where / "src").mkdir(parents=True)
    for name in ("client", "kmod", "common", "sivshm-cad"):
        mutant.copy(paths.ROOT / "src" / name, where / "src")
    mutant.change(where, edits)
    return where


def compile(where, argv):
    done = subprocess.run([str(a) for a in argv], cwd=where, env=build.environment(), stdin=subprocess.DEVNULL,
                          capture_output=True, text=True)
    if done.returncode:
        raise build.BuildError(f"{' '.join(map(str, argv))}\n{done.stderr[-6000:]}")


@cache
def stress(flavour, *edits):
    """tests/ordering/stress.c over the library. Returns its path."""
    how = FLAVOURS[flavour]
    where = tree(LONG_NAPS, *edits)
    program = where / f"stress-{flavour}"
    compile(where, [how.compiler, *FLAGS, *how.flags, "-pthread", "-Wl,--wrap=munmap", *SOURCES, HERE / "stress.c",
                    "-o", program])
    return program


def run(program, flavour, *args, seconds=120):
    """Returns (exit status, all that it said)."""
    how = FLAVOURS[flavour]
    done = subprocess.run([*how.runner, str(program), *how.options, *map(str, args)], timeout=seconds,
                          env={**build.environment(), **ENV}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace")
    return done.returncode, done.stdout


# machine code

Machine = namedtuple("Machine", "compiler objdump nm flags", defaults=([],))

MACHINES = {
    "arm64": Machine("aarch64-linux-gnu-gcc", "aarch64-linux-gnu-objdump", "aarch64-linux-gnu-nm"),
    "arm64-clang": Machine("clang", "aarch64-linux-gnu-objdump", "aarch64-linux-gnu-nm",
                           ["--target=aarch64-linux-gnu", "-isystem", "/usr/aarch64-linux-gnu/include"]),
    "x86-64": Machine("gcc", "objdump", "nm"),
}
INCLUDES = ["-Isrc/common", "-Isrc/sivshm-cad"]


@cache
def object_file(machine, source, where):
    how = MACHINES[machine]
    target = where / f"{source.replace('/', '-')}-{machine}.o"
    compile(where, [how.compiler, *FLAGS, *INCLUDES, *OPTIMIZED, *how.flags, "-c", source, "-o", target])
    return target


@cache
def disassembly(machine, source, *edits):
    """{function: its instructions, one text each}, in the order of addresses."""
    target = object_file(machine, source, tree(*edits))
    done = subprocess.run([MACHINES[machine].objdump, "-d", "--no-show-raw-insn", target], capture_output=True,
                          text=True, check=True)
    functions = {}
    for line in done.stdout.splitlines():
        head = re.match(r"[0-9a-f]+ <([\w.]+)>:$", line)
        if head:
            lines = functions.setdefault(re.sub(r"\.(cold|part|isra|constprop).*", "", head[1]), [])
        elif re.match(r"\s+[0-9a-f]+:\t", line):
            lines.append(" ".join(line.split("\t", 1)[1].split()))
    return functions


def undefined(machine, source):
    """What an object needs of others."""
    target = object_file(machine, source, tree())
    done = subprocess.run([MACHINES[machine].nm, "-u", target], capture_output=True, text=True, check=True)
    return set(re.findall(r"\bU (\w+)", done.stdout))
