# SPDX-License-Identifier: LGPL-2.1-or-later
"""docs/performance.md against the benchmark: its aims, tables and plots are those that tools/bench has."""

import re

from bench import aims, page, plots, run
from docs_text import ROOT, cells, read, same, sources

PAGE = "docs/performance.md"


def marked(name):
    return re.search(rf"<!-- begin: {name} -->\n(.*?)<!-- end -->", read(PAGE), re.S)[1]


def test_aims_are_those_of_the_benchmark():
    rows = [cells(line) for line in marked("aims").splitlines() if line.startswith("| `")]
    have = {(row[0].strip("`"), row[1], row[2]) for row in rows}
    same(have, {(aim.key, aim.text + (f" ({aim.missed})" if aim.missed else ""), f"{aim.sign} {aim.bound:g}") for aim in aims.AIMS}, ("the page", "aims.py"))


def test_measured_figures_meet_what_the_page_says():
    """The verdict in a row is that of its figure."""
    bounds = {aim.key: aim for aim in aims.AIMS}
    rows = [cells(line) for line in marked("aims").splitlines() if line.startswith("| `")]
    assert rows
    for key, _, _, value, verdict in rows:
        met = bounds[key.strip("`")].met(float(value))
        assert verdict == ("met" if met else "**missed**"), key


def test_tables_are_those_of_the_parts():
    named = {m[1] for m in re.finditer(r"<!-- begin: (\S+) -->", read(PAGE))} - {"machine", "aims"}
    made = set(re.findall(r"bench\.table\(\"(\w+)\"", sources("tests/bench/*.py")))
    same(named, made, ("the page", "tests/bench"))
    empty = [name for name in named if "|" not in marked(name)]
    assert not empty, f"tables without figures: {empty}; tools/performance-page RESULT"


def test_plots():
    shown = set(re.findall(r"\(performance/(\w+)\.svg\)", read(PAGE)))
    drawn = {(entry[0] if isinstance(entry, tuple) else entry).__name__ for entry in plots.PLOTS}
    same(shown, drawn, ("the page", "plots.py"))
    same({path.stem for path in (ROOT / "docs/performance").glob("*.svg")}, shown, ("docs/performance", "the page"))


def test_parts_are_described():
    """Each part of the benchmark has an aim, or a table on the page."""
    assert {aim.part for aim in aims.AIMS} <= set(run.PARTS)
    for part in run.PARTS:
        tables = re.findall(r"bench\.table\(\"(\w+)\"", read(f"tests/bench/{part}.py"))
        assert tables, f"{part} has no table"


def test_page_is_written_from_a_result(tmp_path):
    """Every marker is filled, and what stands around it stays."""
    text = "before\n<!-- begin: t -->\nformer\n<!-- end -->\nbetween\n<!-- begin: aims -->\n<!-- end -->\nafter\n"
    where = tmp_path / "page.md"
    where.write_text(text)
    page.write({"machine": {}, "tables": {"t": [{"a_b": 1.5, "c": 2}]}, "rtt_poll_ratio": {"p50": 1.0}}, where, tmp_path / "p")
    out = where.read_text()
    assert "| a b | c |" in out and "| 1.5 | 2 |" in out and "former" not in out
    assert out.startswith("before\n") and "between\n" in out and out.endswith("after\n")
    assert "| `rtt_poll_ratio.p50` |" in out and "| met |" in out and "| not measured |" in out
