# SPDX-License-Identifier: LGPL-2.1-or-later
"""A holder asks for more of its windows than they are, and keeps them when they are taken away.

mapcheck makes every attempt twice: against the module as it is, and against one that checks nothing at mmap. What
the kernel refuses without asking the module stays refused there; the same is done to ordinary memory, where it
works.
"""

import json
import time

import pytest

from lab import mutant, story, swap
from lab.attack import SERVICE, attack
from lab.mutant import Edit
from lab.world import RUNTIME

FOLDER = "/run/keep"
SECRET = "the-secret-of-ivi-dashboard"

NO_CHECKS = [
    Edit("src/kmod/map.c", "view = view_at(channel, vma->vm_pgoff);",
         "view = view_at(channel, vma->vm_pgoff) ?: &channel->rx;"),
    Edit("src/kmod/map.c", "if (!view || vma_pages(vma) != view_pages(view) || !(vma->vm_flags & VM_SHARED))",
         "if (!view)"),
    Edit("src/kmod/map.c", "if (vma->vm_flags & VM_EXEC || (view == &channel->rx && vma->vm_flags & VM_WRITE))",
         "if (0)"),
    Edit("src/kmod/map.c", "VM_MAYEXEC | (view == &channel->rx ? VM_MAYWRITE : 0));", "0);"),
    Edit("src/kmod/map.c", "VM_IO | VM_PFNMAP | VM_DONTCOPY", "VM_IO | VM_PFNMAP"),
    Edit("src/kmod/uapi/sivshm.h", "#define SIVSHM_MAX_MAPS 16", "#define SIVSHM_MAX_MAPS 1000000"),
]
NO_ZAP = Edit("src/kmod/channel.c", "\tsivshm_map_zap(channel);\n", "")

BOUNDS = {"tx one page more", "tx one page less", "tx second page on", "tx beside the window", "tx private",
          "rx one page more", "rx one page less", "rx beside the window", "rx before the window", "no such window",
          "far away", "rx rearranged", "rx one page more over tx"}
RIGHTS = {"tx executable", "rx writable", "rx write only", "rx executable", "rx private writable", "rx made writable",
          "rx made executable", "tx made executable"}
CHILDREN = {"tx in a child", "rx in a child"}
NUMBERS = {"tx at an odd offset", "rx at an odd offset", "nothing of tx", "2^63 bytes", "all bytes there are",
           "end beyond 2^64", "offset and size wrap", "at 2^63", "end beyond 2^63"}
COUNT = {"rx a thousand times", "tx split at each page"}
KERNEL = {"rx by /proc/self/mem", "rx to children by madvise", "rx to dumps by madvise", "tx twice", "tx grown",
          "rx grown"}
ALL = BOUNDS | RIGHTS | CHILDREN | NUMBERS | COUNT | KERNEL


@pytest.fixture(scope="module")
def echoing(shared_world):
    with story.echo(shared_world):
        yield shared_world


def mapcheck(world):
    """{attempt: refused}, and the same of ordinary memory. The kernel log is part of the verdict."""
    world.rtos.mark(mark := f"mapcheck {time.monotonic()}")
    rc, out, err = world.rtos.run(story.as_user("sensor", f"{story.TESTS}/mapcheck", "sensor", "ivi/dashboard"))
    assert out, f"mapcheck: exit {rc}: {err}"
    answer = json.loads(out)
    assert answer["exact"], "not even the exact windows can be mapped"
    world.wait_channels(0)
    world.rtos.assert_kernel_clean(since=mark)
    attempts, ordinary = ({a["name"]: a["refused"] for a in answer[key]} for key in ("attempts", "ordinary"))
    assert set(attempts) == ALL
    return attempts, ordinary


@pytest.fixture(scope="module")
def right(echoing):
    return mapcheck(echoing)


@pytest.fixture(scope="module")
def broken(echoing, image):
    """One module for all: each of its edits takes away what stops some of the attempts, and nothing else does."""
    with swap.module(echoing, echoing.rtos, mutant.module(image, *NO_CHECKS)):
        return mapcheck(echoing)[0]


def let_in(attempts, of):
    return {name for name in of if not attempts[name]}


@attack(SERVICE, "maps more or less than its windows, beside or before them, private, over each other, rearranged",
        stops="mmap takes exactly one view, whole and shared, `src/kmod/map.c`",
        control="a module that does not compare offset and size: each maps")
def test_bounds(world, right, broken, control):
    assert let_in(right[0], BOUNDS) == set()
    control.seen(let_in(broken, BOUNDS) == BOUNDS)


@attack(SERVICE, "asks to write RX or execute from a window: mmap, MAP_PRIVATE, mprotect afterwards",
        stops="mmap refuses, and takes the right to ask later, `src/kmod/map.c`",
        control="a module that neither refuses nor takes it: each succeeds")
def test_rights(world, right, broken, control):
    assert let_in(right[0], RIGHTS) == set()
    control.seen(let_in(broken, RIGHTS) == RIGHTS)


@attack(SERVICE, "lets a child have its mapping",
        stops="VM_DONTCOPY, `src/kmod/map.c`", control="a module without it: the child reads both windows")
def test_children(world, right, broken, control):
    assert let_in(right[0], CHILDREN) == set()
    control.seen(let_in(broken, CHILDREN) == CHILDREN)


@attack(SERVICE, "maps at odd offsets, no bytes, all bytes, offsets and sizes that overflow 2^63 and 2^64",
        stops="Linux where the numbers are no mapping, else mmap's own comparison, `src/kmod/map.c`",
        control="a module that compares nothing maps those that are possible numbers; the exact windows map in both")
def test_numbers(world, right, broken, control):
    assert let_in(right[0], NUMBERS) == set()
    control.seen(let_in(broken, NUMBERS))


@attack(SERVICE, "maps a window a thousand times, or splits a mapping at each page, for others' revocations to wait behind its own",
        stops="mappings of a channel are counted, `src/kmod/map.c`",
        control="a module that counts to a million maps and splits")
def test_count(world, right, broken, control):
    assert let_in(right[0], COUNT) == set()
    control.seen(let_in(broken, COUNT) == COUNT)


@attack(SERVICE, "grows or doubles a mapping by mremap, shares it by madvise, writes RX by /proc/self/mem",
        stops="Linux, since a window is a PFN mapping of a device, `src/kmod/map.c`",
        control="the same calls on ordinary memory of the same process succeed")
def test_tricks(world, right, control):
    attempts, ordinary = right
    assert let_in(attempts, KERNEL) == set()
    control.seen(len(ordinary) == 5 and not any(ordinary.values()))


# revocation

def keep(world):
    """The host revokes; what the holder still sees, and whether what it stores comes to the host's memory."""
    world.rtos.mark(mark := f"keep {time.monotonic()}")
    world.rtos.run(f"""set -e; rm -rf {FOLDER}; install -d -o sensor -g sensor {FOLDER}
        systemd-run --quiet --collect --unit=keep --uid=sensor -p Type=notify -p StandardOutput=file:{FOLDER}/events \\
            {story.TESTS}/leaky_holder.py sensor ivi/dashboard {FOLDER} {SECRET}""", check=True)
    try:
        channel = story.running_channel(world)
        world.bus.call("RevokeChannel", "ss", channel["id"], "attack")
        seen = world.wait_until(lambda: next((e for e in events(world) if e["event"] == "revoked"), None), "revoked")
        seen["stored"] = b"too late!!" in (RUNTIME / "region/cockpit/rtos").read_bytes()
    finally:
        world.rtos.run("systemctl stop keep")
    world.wait_channels(0)
    world.rtos.assert_kernel_clean(since=mark)
    return seen


def events(world):
    return [json.loads(line) for line in world.rtos.run(f"cat {FOLDER}/events", check=True)[1].splitlines()]


@attack(SERVICE, "keeps its mappings, a moved one too, over a revocation: reads, writes, maps and rings again",
        stops="the module zaps them and shows zeros; the fd says ENOLINK, `src/kmod/channel.c`, `map.c`",
        control="a module that does not zap: the peer's data is still read, and stores reach the section")
def test_revocation(echoing, world, image, control):
    seen = keep(echoing)
    assert (seen["rx"], seen["moved"], seen["tx"], seen["zero"], seen["stored"]) == (False, False, False, True, False)
    assert seen["errors"].pop("rx writable") == "EACCES"
    assert set(seen["errors"].values()) == {"ENOLINK"}, seen["errors"]
    with swap.module(world, world.rtos, mutant.module(image, NO_ZAP)):
        seen = keep(world)
    control.seen((seen["rx"], seen["moved"], seen["tx"], seen["stored"]) == (True, True, True, True))
