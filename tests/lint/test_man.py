# SPDX-License-Identifier: LGPL-2.1-or-later
"""Man pages: they build, they refer to each other, what they quote is real."""

import re
import subprocess

import pytest

from docs_text import PAGES, ROOT, literals, man, man_section, read, same, sources
from lab import build as builds


def built(page, where):
    out = where / page.stem
    with page.open() as source, out.open("w") as target:
        done = subprocess.run(["scdoc"], stdin=source, stdout=target, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0 and not done.stderr, f"{page.name}: {done.stderr}"
    return out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_man_page_builds(page, tmp_path):
    out = built(page, tmp_path)
    done = subprocess.run(["groff", "-man", "-t", "-Tutf8", "-ww", "-z", out], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, f"{page.name}: {done.stderr}"
    name, section = re.match(r"(\S+)\((\d)\)", page.read_text()).groups()
    assert f"{name}.{section}" == page.stem, "the title is not the file's name"


def test_man_pages_installed(destdir):
    found = {path.name.removesuffix(".gz") for path in destdir.glob("usr/share/man/man*/*")}
    same({page.stem for page in PAGES}, found, ("man/", "what is installed"))


def test_man_references():
    """Pages of ours that are referred to exist; each is in the list of sivshm(7)."""
    own = {page.stem for page in PAGES}
    broken = []
    for page in PAGES:
        for name, section in re.findall(r"\*([\w.-]+)\*\((\d)\)", page.read_text()):
            if re.match(r"(lib)?sivshm", name) and f"{name}.{section}" not in own:
                broken.append(f"{page.name}: {name}({section})")
    for unit in sorted((ROOT / "units").glob("*.service")):
        for name, section in re.findall(r"man:([\w.-]+)\((\d)\)", unit.read_text()):
            if f"{name}.{section}" not in own:
                broken.append(f"{unit.name}: {name}({section})")
    assert not broken, "\n".join(broken)
    told = {f"{n}.{s}" for n, s in re.findall(r"\*([\w.-]+)\*\((\d)\)", man_section(man("sivshm.7"), "SEE ALSO"))}
    assert own - {"sivshm.7"} <= told, f"sivshm(7) does not refer to {own - told}"


@pytest.mark.parametrize("folder, page", [("src/sivshmd", "sivshmd.8"), ("src/sivshm-cad", "sivshm-cad.8")])
def test_journal(folder, page):
    code = dict(re.findall(r'#define LOG_ID_(\w+) "([0-9a-f]{32})"', sources(f"{folder}/*.h")))
    assert len(set(code.values())) == len(code), "an id is used twice"
    text = man_section(man(page), "JOURNAL")
    same(code.values(), re.findall(r"\b[0-9a-f]{32}\b", text), (folder, page))
    used = {n for n in code if re.search(rf"\bLOG_ID_{n}\b", sources(f"{folder}/*.c"))}
    assert used == set(code), f"never logged: {set(code) - used}"
    fields = set(re.findall(r"\bSIVSHM_[A-Z]+(?==|\")", read(f"{folder}/log.c")))
    same(fields, set(re.findall(r"SIVSHM_[A-Z]+", text.replace("\\_", "_"))), (f"{folder}/log.c", page))


def test_c_examples(tmp_path):
    """Programs in README and man pages compile."""
    texts = {"README.md": re.findall(r"^```c\n(.*?)^```", read("README.md"), re.M | re.S)}
    for page in PAGES:
        texts[page.name] = [b.replace("\\\\", "\\") for b in
                            re.findall(r"^```\n(#include.*?)^```", page.read_text(), re.M | re.S)]
    assert texts["README.md"] and texts["libsivshm.3.scd"]
    for name, blocks in texts.items():
        for n, block in enumerate(blocks):
            file = tmp_path / f"{name}-{n}.c"
            file.write_text(block)
            done = subprocess.run(["gcc", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-I", ROOT / "src/client", file],
                                  capture_output=True, text=True, env=builds.environment())
            assert done.returncode == 0, f"{name}: {done.stderr}"


def as_pattern(literal):
    """A printf format as a pattern for what it prints."""
    literal = literal.replace('\\"', '"').replace("\\n", "")
    return re.sub(r"%%|%[-+ #0]*[\d*]*(?:\.[\d*]+)?(?:hh|h|ll|l|z|j)?[a-zA-Z]", ".+",
                  re.escape(literal).replace(r"\%", "%").replace(r"\.\*", ".*"))


def text_of_family(families, name):
    """The advice for a name that bus.c knows by its beginning only."""
    return next((text for family, text in families.items() if family in name), None)


def test_quoted_errors():
    """Errors that sivshm(7) quotes are what the code says: text of a daemon, name, advice of the library."""
    advice = {name: text for name, text in re.findall(
        r'\{(?:SIVSHM_ERROR|DBUS_ERROR) "(\w+)", -\w+,\s*"((?:[^"\\]|\\.)*)"\}', read("src/client/bus.c"))}
    families = dict(re.findall(r'\{(?:DBUS_ERROR )?"([\w.]+\.)", -\w+,\s*"((?:[^"\\]|\\.)*)"\}', read("src/client/bus.c")))
    other = re.search(r'^\treturn "((?:[^"\\]|\\.)*)";$', read("src/client/bus.c"), re.M)[1]
    assert advice
    # what is mostly conversions would match anything
    formats = [as_pattern(t) for t in literals(sources("src/sivshm*/*.c")) if len(re.findall("[a-z]{2,}", t)) > 2]
    # a policy's texts carry the place of the rule in front
    known = re.compile("|".join(f"(?:/\\S+:\\d+: )?{f}" for f in formats))
    # one line, broken into four in the page
    quoted = re.findall(r"^(connect to|listen as) [^\n]*:\n +(.*)\n +\(((?:\w+\.)+(\w+))\);\n +(.*)$", man("sivshm.7"), re.M)
    assert len(quoted) == len(re.findall(r"^(?:connect to|listen as) ", man("sivshm.7"), re.M))
    assert quoted
    for _, text, full, name, hint in quoted:
        whole = text_of_family(families, full)
        assert (whole or advice.get(name, other)) == hint, f"the advice for {name} is: {whole or advice.get(name, other)}"
        if full.startswith("org.sivshm1"):
            assert known.fullmatch(text), f"no daemon says: {text}"
