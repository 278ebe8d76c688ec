# SPDX-License-Identifier: LGPL-2.1-or-later
"""Commands: --help, the man pages and the completion agree on options, verbs, output and exit codes."""

import os
import re
import shlex
import subprocess

import pytest

from docs_text import ROOT, definitions, man, man_section, plain, read, same
from lab import build as builds

PROGRAMS = {"sivshmd": "usr/libexec/sivshm/sivshmd", "sivshm-cad": "usr/libexec/sivshm/sivshm-cad",
            "sivshmctl": "usr/bin/sivshmctl"}


class Commands:
    def __init__(self, destdir):
        self.destdir = destdir

    def run(self, program, *args):
        libraries = os.pathsep.join({str(p.parent) for p in self.destdir.glob("usr/lib/**/libsivshm.so*")})
        return subprocess.run([self.destdir / PROGRAMS[program], *args], capture_output=True, text=True,
                              env={**builds.environment(), "LD_LIBRARY_PATH": libraries}, timeout=20,
                              stdin=subprocess.DEVNULL)

    def lines(self, program, *args):
        done = self.run(program, *args)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()


@pytest.fixture(scope="module")
def commands(destdir):
    return Commands(destdir)


def option_words(line):
    return re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", line)


def documented_options(program):
    """Options that have an entry of their own: {"--as": "*-a*, *--as* _SERVICE_"}."""
    page = man(f"{program}.{1 if program == 'sivshmctl' else 8}")
    return {option: plain(head) for head, _ in definitions(man_section(page, "OPTIONS")) for option in option_words(head)}


@pytest.mark.parametrize("program", PROGRAMS)
def test_options(commands, program):
    told = {o for line in commands.lines(program, "--help") for o in option_words(line.strip().split("  ")[0])
            if line.strip().startswith("-")}
    same(told, documented_options(program), (f"{program} --help", f"the man page of {program}"))


@pytest.mark.parametrize("program", PROGRAMS)
def test_usage_exit_code(commands, program):
    """The exit codes that every page tells of: wrong usage is not success, and help is."""
    assert commands.run(program, "--help").returncode == 0
    assert commands.run(program, "--version").stdout.split()[0] == program
    wrong = commands.run(program, "--no-such-option").returncode
    page = man(f"{program}.{1 if program == 'sivshmctl' else 8}")
    codes = re.findall(r"^(?:\|\[?|\|)\s+(\d+)$", man_section(page, "EXIT STATUS"), re.M)
    assert str(wrong) in codes and wrong != 0, f"exit {wrong} of wrong usage is not in {codes}"


def documented_verbs():
    """{"revoke vm": text}: the verb is what is bold at the start of the entry."""
    found = {}
    for title in ("COMMANDS IN A GUEST", "COMMANDS ON THE HOST"):
        for head, text in definitions(man_section(man("sivshmctl.1"), title)):
            found[re.match(r"\*([a-z -]+)\*", head)[1]] = (plain(head), text)
    return found


def test_verbs(commands):
    verbs = commands.lines("sivshmctl", "--complete", "verbs")
    same(verbs, documented_verbs(), ("sivshmctl", "sivshmctl(1)"))
    helped = "\n".join(commands.lines("sivshmctl", "--help"))
    for verb, (head, _) in documented_verbs().items():
        assert re.search(rf"^  {re.escape(head)}(?: |$)", helped, re.M), f"--help has no line that begins with {head}"


def test_verb_options(commands):
    everywhere = set(commands.lines("sivshmctl", "--complete", "options"))
    seen = 0
    for verb, (_, text) in documented_verbs().items():
        takes = re.search(r"Takes (.*?)\.(?:\s|$)", text, re.S)
        told = set(option_words(plain(takes[1]))) if takes else set(re.findall(r"\*(--host)\*", text))
        code = set(commands.lines("sivshmctl", "--complete", "options", *verb.split())) - everywhere
        assert told == code, f"{verb}: the man page says it takes {told or 'none'}, the program says {code or 'none'}"
        seen += len(code)
    assert seen


def complete(commands, words):
    """What bash offers after these words, the last of which is being written."""
    script = (f"source {shlex.quote(str(ROOT / 'completions/sivshmctl'))}\n"
              f"sivshmctl() {{ {shlex.quote(str(commands.destdir / PROGRAMS['sivshmctl']))} \"$@\"; }}\n"
              f"COMP_WORDS=({' '.join(map(shlex.quote, words))})\nCOMP_CWORD={len(words) - 1}\n"
              "_sivshmctl; printf '%s\\n' \"${COMPREPLY[@]}\"\n")
    libraries = os.pathsep.join({str(p.parent) for p in commands.destdir.glob("usr/lib/**/libsivshm.so*")})
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True,
                          env={**builds.environment(), "LD_LIBRARY_PATH": libraries})
    assert done.returncode == 0 and not done.stderr, done.stderr
    return set(done.stdout.split())


def test_completion(commands):
    verbs = [verb.split() for verb in documented_verbs()]
    same(complete(commands, ["sivshmctl", ""]), {v[0] for v in verbs}, ("the completion", "sivshmctl(1)"))
    for first in {v[0] for v in verbs if len(v) > 1}:
        same(complete(commands, ["sivshmctl", first, ""]), {v[1] for v in verbs if v[0] == first and len(v) > 1},
             (f"the completion of {first}", "sivshmctl(1)"))
    assert "--json" in complete(commands, ["sivshmctl", "vms", "--j"])


def test_json_keys():
    """Keys that lists print, from the tables of columns."""
    code = set()
    for source in (ROOT / "src/sivshmctl").glob("*.c"):
        text = source.read_text()
        for table in re.findall(r"static const struct column \w+(?:\[\])? = \{(.*?)\};", text, re.S):
            code |= set(re.findall(r'"(\w+)", \'\w\'', table))
    code |= set(re.findall(r'"(\w+)"', re.search(r"json_pack\((.*?)\);", read("src/sivshmctl/ping.c"), re.S)[1]))
    code |= {"sections", "certificates", "members", "xml"}
    code -= {"arguments"}  # an array without a key of its own
    page = man_section(man("sivshmctl.1"), "JSON OUTPUT")
    told = {plain(word) for _, text in definitions(page)
            for word in re.findall(r"(?<!\w)_((?:\w|\\_)+?)_(?!\w)", text)}
    same(code, told, ("src/sivshmctl", "JSON OUTPUT of sivshmctl(1)"))
