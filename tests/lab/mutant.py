# SPDX-License-Identifier: LGPL-2.1-or-later
"""Broken builds on purpose: one line changed, so that an attack has to succeed.

    binary = mutant.daemon("sivshmd", Edit("src/sivshmd/policy.c", "if (!allowed)", "if (0 && !allowed)"))
    module = mutant.module(image, Edit("src/kmod/holder.c", ...))

What a mutant lets through shows two things: that the attack is a real one, and which line stops it.
"""

import hashlib
import shutil
import subprocess
from collections import namedtuple

from . import build, paths

Edit = namedtuple("Edit", "file old new")
WHERE = paths.BUILD / "mutants"


class MutantError(Exception):
    pass


def key(edits):
    return hashlib.sha256(repr(edits).encode()).hexdigest()[:12]


def change(root, edits):
    for edit in edits:
        path = root / edit.file
        text = path.read_text()
        if text.count(edit.old) != 1:
            raise MutantError(f"{edit.file}: found {text.count(edit.old)} times, not once: {edit.old!r}")
        path.write_text(text.replace(edit.old, edit.new))


def copy(source, target):
    """With its times, so that only what an edit touches is compiled."""
    subprocess.run(["cp", "-a", "--reflink=auto", source, target], check=True)


def daemon(target, *edits):
    """Builds a daemon, such as "sivshmd", with edits. Returns its path."""
    return program(f"src/{target}/{target}", *edits)


def program(target, *edits):
    """The same for any binary of the gcc build, such as "tests/progs/bench-data"."""
    built = build.compile("gcc")
    work = WHERE / key((target, *edits))
    shutil.rmtree(work, ignore_errors=True)
    (work / "build").mkdir(parents=True)
    for name in ("src", "dbus", "units", "man", "completions", "tests", "examples", "meson.build", "meson_options.txt"):
        copy(paths.ROOT / name, work)
    copy(built, work / "build")
    change(work, edits)
    build.run(["ninja", "-C", work / "build/gcc", target], paths.BUILD / "mutants.log", env=build.environment())
    return work / "build/gcc" / target


def module(image, *edits):
    """Builds sivshm.ko for the guests' kernel with edits. Returns its bytes."""
    work = WHERE / f"kmod-{key(edits)}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    (work / "src").mkdir()
    copy(paths.ROOT / "src/kmod", work / "src")
    change(work, edits)
    build.run([work / "src/kmod/build-module", build.headers(image), work / "src/kmod", work / "out"],
              paths.BUILD / "mutants.log", env=build.environment())
    return (work / "out/sivshm.ko").read_bytes()
