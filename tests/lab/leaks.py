# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the module has of the kernel's memory, and what it lost. For guests with a debug kernel.

Two looks, for either misses something: kmemleak finds what nothing points to, but any stale word that
looks like a pointer hides a leak from it; the allocator's own books know every object that was made
below a function of the module, but not whether somebody still wants it.
"""

import re

KMEMLEAK = "/sys/kernel/debug/kmemleak"
# What was freed but is still held back to catch late users does not count: hence the shrinking.
BOOKS = """cd /sys/kernel/debug/slab; caches=$(echo kmalloc-[0-9]* kmalloc-cg-*)
for c in $caches; do echo 1 > /sys/kernel/slab/$c/shrink; done
for c in $caches; do cat $c/alloc_traces; done | awk 'BEGIN { RS="" } /MODULE/ { print $0 "\\n" }'"""


def unreferenced(guest):
    """kmemleak's reports since the boot, as texts. An object is reported when the second scan finds it unchanged
    and it is older than five seconds."""
    text = guest.run(f"set -e; sleep 5; echo scan > {KMEMLEAK}; echo scan > {KMEMLEAK}; cat {KMEMLEAK}", timeout=300, check=True)[1]
    return [part for part in re.split(r"^(?=unreferenced object)", text, flags=re.M) if part.strip()]


def objects(guest, module="sivshm"):
    """{who asked for it: number of objects} of what was made below a function of the module."""
    found = {}
    for block in guest.run(BOOKS.replace("MODULE", rf"\[{module}\]"), check=True)[1].split("\n\n"):
        if block.strip():
            head, *stack = block.strip().splitlines()
            count, where = head.split()[:2]
            key = where + " below " + next(line.strip() for line in stack if f"[{module}]" in line)
            found[key] = found.get(key, 0) + int(count)
    return found
