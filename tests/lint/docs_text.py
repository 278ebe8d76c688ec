# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the tests of the documents share: reading sources, Markdown and scdoc, and comparing sets."""

import re
from functools import cache

from lab import paths

ROOT = paths.ROOT
PAGES = sorted((ROOT / "man").glob("*.scd"))


def read(name):
    return (ROOT / name).read_text()


@cache
def sources(pattern):
    """All files of a pattern as one text."""
    files = sorted(ROOT.glob(pattern))
    assert files, f"no file matches {pattern}"
    return "\n".join(path.read_text() for path in files)


def same(left, right, what):
    """Two sets, neither empty, have to be equal. Says which side lacks what."""
    left, right = set(left), set(right)
    (left_name, right_name) = what
    assert left, f"nothing found in {left_name}: this test looks for the wrong thing"
    lacking = [f"{right_name} lacks {x}" for x in sorted(left - right, key=str)]
    lacking += [f"{left_name} lacks {x}" for x in sorted(right - left, key=str)]
    assert not lacking, "\n".join(lacking)


def man(name):
    return read(f"man/{name}.scd")


def plain(text):
    """scdoc or Markdown without its marks."""
    text = re.sub(r"\\(.)", lambda m: chr(0xe000 + ord(m[1])), text)
    text = re.sub(r"[*`]|(?<![\w\ue05f])_|_(?![\w\ue05f])", "", text)
    return re.sub("[\ue000-\ue0ff]", lambda m: chr(ord(m[0]) - 0xe000), text).strip()


def definitions(text):
    """The entries of a man page: ("*--as* _SERVICE_", "text of it")."""
    return re.findall(r"^(\*[^\t\n][^\n]*)\n\t((?:.|\n\t|\n\n\t)*)", text, re.M)


def man_section(text, title):
    found = re.search(rf"^# {re.escape(title)}\n(.*?)(?=^# |\Z)", text, re.M | re.S)
    assert found, f"no section {title}"
    return found[1]


def literals(text):
    """C's string literals, adjacent ones joined."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    joined = re.sub(r'"\s*\n\s*"', "", text)
    return re.findall(r'"((?:[^"\\\n]|\\.)*)"', joined)


def cells(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]
