# SPDX-License-Identifier: LGPL-2.1-or-later
"""What makes a test an attack: a row of the table in docs/threat-model.md.

    @attack(ROOT, "stores to the grant table from a kernel module",
            stops="QEMU maps the file read-only", control="the same store to its own section sticks")
    def test_store(world, control): ...

A row says who does what, what stops it, and how the test shows that the attack could have
succeeded: against a build without the check (lab.mutant), or with the right given to the same
act. The test calls control.seen() when it has seen that; a case that did not is a failure.
"""

import functools
import re
from pathlib import Path

import pytest

from . import paths

SERVICE = "a service in the same guest"
ROOT = "root in a guest"
KERNEL = "a hostile guest kernel"
THIRD_VM = "a third VM"
QEMU = "a QEMU process"
RELAY = "a relay in the middle"
HOST_BUS = "a user on the host's bus"
ACTORS = [SERVICE, ROOT, KERNEL, THIRD_VM, QEMU, RELAY, HOST_BUS]

FIELDS = ["actor", "attack", "stops", "control"]
BEGIN, END = "<!-- attacks: written by tools/threat-table -->", "<!-- end of attacks -->"
PAGE = "docs/threat-model.md"


def attack(actor, attack, *, stops, control):
    """`stops` says what stops it and names the file; `control` what shows that the test can fail."""
    assert actor in ACTORS, actor
    return pytest.mark.attack(actor=actor, attack=attack, stops=stops, control=control)


def row_of(item):
    marker = item.get_closest_marker("attack")
    return {**marker.kwargs, "stops": with_paths(marker.kwargs["stops"])} if marker else None


class Control:
    """Whether the test has seen its negative control."""

    def __init__(self):
        self.was_seen = False

    def seen(self, condition=True):
        assert condition, "the attack fails where it has to succeed: this test proves nothing"
        self.was_seen = True


# the table

FOLDERS = ["src", "dbus", "docs", "units"]
NAMED = re.compile(r"`([\w./-]+\.(?:c|h|md|conf|rules))`")


@functools.cache
def files():
    """{name: paths} of what a row may name."""
    found = {}
    for path in sorted(p for folder in FOLDERS for p in (paths.ROOT / folder).rglob("*") if p.is_file()):
        found.setdefault(path.name, []).append(path.relative_to(paths.ROOT))
    return found


def with_paths(text):
    """Files by their paths, as a reader of the page needs them; a name alone is in the folder named before it, or unique."""
    folders = []

    def full(match):
        name = match[1]
        if "/" not in name:
            choice = [p for p in files().get(name, []) if str(p.parent) in folders] or files().get(name, [])
            assert len(choice) == 1, f"{name} may be any of {list(map(str, choice))}: {text}"
            name = str(choice[0])
        assert (paths.ROOT / name).is_file(), f"there is no {name}: {text}"
        folders[:] = [str(Path(name).parent)]
        return f"`{name}`"
    return NAMED.sub(full, text)


def cell(text):
    return " ".join(str(text).split()).replace("|", "\\|")


def line(cells):
    return "| " + " | ".join(map(cell, cells)) + " |"


def merge(rows):
    """One row for all cases of a test; its verdict is the worst one."""
    found = {}
    for row in rows:
        key = tuple(row[field] for field in FIELDS)
        found.setdefault(key, []).append(row["verdict"])
    order = sorted(found, key=lambda key: ACTORS.index(key[0]))
    return [(*key, "holds" if set(found[key]) == {"passed"} else "FAILS", len(found[key])) for key in order]


def table(rows):
    lines = [line(["actor", "attack", "what stops it", "negative control", "verdict"]), "|---" * 5 + "|"]
    for *texts, verdict, count in merge(rows):
        lines.append(line([*texts, verdict if count == 1 else f"{verdict} ({count} cases)"]))
    return "\n".join(lines)


def rows_in(page):
    """The rows that a page holds, as lists of cells, without the heading."""
    inside = page.split(BEGIN)[1].split(END)[0].strip().splitlines()[2:]
    return [[c.strip().replace("\\|", "|") for c in re.split(r"(?<!\\)\|", row)[1:-1]] for row in inside]


def write(path, rows):
    path = Path(path)
    before, rest = path.read_text().split(BEGIN)
    path.write_text(f"{before}{BEGIN}\n{table(rows)}\n{END}{rest.split(END)[1]}")
