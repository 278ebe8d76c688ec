# SPDX-License-Identifier: LGPL-2.1-or-later
"""tools/threat-table: writes the verdicts of a report into the table of docs/threat-model.md."""

import argparse
import json
import sys
from pathlib import Path

from . import attack, paths


def main():
    parser = argparse.ArgumentParser(prog="tools/threat-table", description=__doc__.split(": ", 1)[1])
    parser.add_argument("report", type=Path, metavar="REPORT", help="what tools/check --report FILE wrote")
    args = parser.parse_args()
    try:
        cases = json.loads(args.report.read_text())
        rows = [{**case["attack"], "verdict": case["verdict"]} for case in cases if case.get("attack")]
    except (OSError, ValueError, TypeError, KeyError) as error:
        sys.exit(f"tools/threat-table: {args.report}: not a report of tools/check: {error}")
    if not rows:
        sys.exit(f"tools/threat-table: {args.report} holds no attack: run tools/check --report FILE without --only")
    attack.write(paths.ROOT / attack.PAGE, rows)
    failed = [row for row in rows if row["verdict"] != "passed"]
    print(f"{len(rows)} cases, {len(failed)} failed, written to {attack.PAGE}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
