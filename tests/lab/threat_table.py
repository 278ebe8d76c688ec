# SPDX-License-Identifier: LGPL-2.1-or-later
"""tools/threat-table: the attacks of tests/attack and their verdicts, as a table in docs/threat-model.md.

Attacks come from the tests, verdicts from a report. --check compares the page with the tests alone.
"""

import argparse
import json
import sys
from pathlib import Path

import pytest

from . import attack, paths


class Collector:
    """The rows of all attacks there are, without running one."""

    def __init__(self):
        self.rows, self.errors = [], []

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config):
        config.pluginmanager.unregister(name="terminalreporter")

    def pytest_collection_modifyitems(self, items):
        self.rows = [row for row in map(attack.row_of, items) if row]

    def pytest_collectreport(self, report):
        if report.failed:
            self.errors.append(str(report.longrepr))


def collect():
    collector = Collector()
    pytest.main(["--collect-only", "--import-mode=importlib", "-p", "no:cacheprovider",
                 f"--rootdir={paths.ROOT / 'tests'}", "-c", "/dev/null", str(paths.ROOT / "tests/attack")],
                plugins=[collector])
    if collector.errors:
        sys.exit("\n".join(collector.errors))
    return collector.rows


def texts(row):
    return tuple(attack.cell(row[field]).replace("\\|", "|") for field in attack.FIELDS)


def difference():
    """What the page lacks, has too much, or does not call held."""
    there = attack.rows_in((paths.ROOT / attack.PAGE).read_text())
    want, have = {texts(row) for row in collect()}, {tuple(row[:4]) for row in there}
    return ([f"not in the table: {row}" for row in sorted(want - have)]
            + [f"in the table, but no test: {row}" for row in sorted(have - want)]
            + [f"does not hold: {row}" for row in there if not row[4].startswith("holds")])


def rows_of(report):
    try:
        cases = json.loads(report.read_text())
        return [{**case["attack"], "verdict": case["verdict"]} for case in cases if case.get("attack")]
    except (OSError, ValueError, TypeError, KeyError) as error:
        sys.exit(f"tools/threat-table: {report}: not a report of tools/check: {error}")


def update(report):
    rows = rows_of(report)
    missing = {texts(row) for row in collect()} - {texts(row) for row in rows}
    if missing:
        sys.exit(f"tools/threat-table: {report} lacks {len(missing)} rows, such as {sorted(missing)[0]}: "
                 "make it with tools/check --report FILE, without --only")
    attack.write(paths.ROOT / attack.PAGE, rows)
    failed = sum(row["verdict"] != "passed" for row in rows)
    print(f"{len(rows)} cases, {failed} failed, written to {attack.PAGE}")
    return 1 if failed else 0


def main():
    parser = argparse.ArgumentParser(prog="tools/threat-table",
                                     description="Writes the attacks and their verdicts into the table of "
                                     f"{attack.PAGE}, or checks it.")
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("report", nargs="?", type=Path, metavar="REPORT", help="what tools/check --report FILE wrote")
    group.add_argument("--check", action="store_true", help="only compare the table with the tests")
    args = parser.parse_args()
    if not args.check:
        return update(args.report)
    found = difference()
    print("\n".join(found) or "the table is that of the tests")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
