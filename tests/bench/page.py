# SPDX-License-Identifier: LGPL-2.1-or-later
"""tools/performance-page: the figures of a run, as tables and plots in docs/performance.md.

The page says in its own words what is measured and why it is so; what comes from a run stands between
<!-- begin: NAME --> and <!-- end -->, where NAME is "machine", "aims" or a table of the JSON.
"""

import argparse
import json
import re
import shutil
import sys
from pathlib import Path

from lab import paths

from . import aims, plots

PAGE = paths.ROOT / "docs/performance.md"
PLOTS = paths.ROOT / "docs/performance"
PART = re.compile(r"(<!-- begin: (\S+) -->\n).*?(<!-- end -->)", re.S)


def cell(value):
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value)


def grid(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(map(cell, row)) + " |" for row in rows]) + "\n"


def machine_text(result):
    rows = [(key.replace("_", " "), ", ".join(f"{k}: {v}" for k, v in value.items()) if isinstance(value, dict) else value)
            for key, value in result["machine"].items()]
    return grid(["", ""], rows)


def aims_text(result):
    rows = []
    for aim in aims.AIMS:
        value = aims.value_at(result, aim.key)
        verdict = "not measured" if value is None else "met" if aim.met(value) else "**missed**"
        text = aim.text + (f" ({aim.missed})" if aim.missed else "")
        rows.append((f"`{aim.key}`", text, f"{aim.sign} {aim.bound:g}", "–" if value is None else value, verdict))
    return grid(["figure", "what", "aim", "measured", ""], rows)


def table_text(rows):
    head = list(dict.fromkeys(key for row in rows for key in row))
    return grid([key.replace("_", " ") for key in head], [[row.get(key, "") for key in head] for row in rows])


def text_of(name, result):
    if name == "machine":
        return machine_text(result)
    if name == "aims":
        return aims_text(result)
    if name not in result["tables"]:
        sys.exit(f"tools/performance-page: the result has no table {name}: run all parts of tools/bench")
    return table_text(result["tables"][name])


def write(result, page=PAGE, folder=PLOTS):
    page.write_text(PART.sub(lambda m: m[1] + "\n" + text_of(m[2], result) + "\n" + m[3], page.read_text()))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    plots.draw(result, folder, kinds=("svg",))


def main():
    parser = argparse.ArgumentParser(prog="tools/performance-page", description=__doc__.split("\n\n")[0])
    parser.add_argument("result", type=Path, metavar="RESULT", help="what tools/bench --json FILE wrote")
    args = parser.parse_args()
    try:
        result = json.loads(args.result.read_text())
        result["tables"], result["machine"]
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"tools/performance-page: {args.result}: not a result of tools/bench: {error}")
    write(result)


if __name__ == "__main__":
    main()
