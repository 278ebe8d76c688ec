# SPDX-License-Identifier: LGPL-2.1-or-later
"""Model checkers that bookworm does not have, from later suites of the same mirror.

    cbmc = checkers.tree("cbmc")        unpacked once, cached under what it is made from
    cbmc.run("cbmc", "--version")

Nothing is installed or configured: a package and what it needs are unpacked into a folder, and its
programs run by the loader and the libraries in there. So no chroot and no mounts are needed, and
files are named as they are outside.
"""

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from . import image, paths

# name: suite, package. sid is asked for what no stable suite has.
TREES = {"cbmc": ("trixie", "cbmc"), "herd": ("sid", "herdtools7")}
OPTIONS = ["--mode=root", "--variant=extract", '--aptopt=Acquire::Check-Valid-Until "false"']


class Tree:
    def __init__(self, root):
        self.root = root
        self.loader = next(root.glob("usr/lib/*/ld-linux-*.so.*"))

    def argv(self, program, *args):
        libraries = f"{self.loader.parent}:{self.root}/usr/lib"
        return [str(a) for a in (self.loader, "--library-path", libraries, self.root / "usr/bin" / program, *args)]

    def run(self, program, *args, seconds=120, **kw):
        return subprocess.run(self.argv(program, *args), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=seconds, **kw)


def sources(suite):
    """The machine's own mirror, asked for another suite: deb822 text, empty when there is none."""
    for stanza in re.split(r"\n\s*\n", image.debian_sources()):
        suites = re.search(r"^Suites:(.*)$", stanza, re.M | re.I)
        if suites and image.SUITE in suites[1].split():
            return re.sub(r"^Suites:.*$", f"Suites: {suite}", stanza, flags=re.M | re.I).strip() + "\n"
    return ""


def tree(name):
    """The checker *name*, unpacked now if it never was."""
    suite, package = TREES[name]
    text = sources(suite)
    key = hashlib.sha256("\0".join([suite, package, text, *OPTIONS]).encode()).hexdigest()[:16]
    cache = paths.cache_dir()
    where = cache / f"checker-{name}-{key}"
    with image.locked(cache / f"checker-{name}.lock"):
        if not where.exists():
            part = Path(str(where) + ".part")
            shutil.rmtree(part, ignore_errors=True)
            unpack(part, suite, package, text)
            part.rename(where)
            for old in cache.glob(f"checker-{name}-*"):
                if old != where:
                    shutil.rmtree(old, ignore_errors=True)
        os.utime(where)
    return Tree(where)


def unpack(part, suite, package, text):
    listing = Path(str(part) + ".sources")
    listing.write_text(text)
    try:
        image.run("mmdebstrap", *OPTIONS, *image.apt_options(), f"--include={package}", suite, part,
                  *([listing] if text else []), timeout=300)
    finally:
        listing.unlink()
    os.chmod(part, 0o755)


def preprocess(source, target, *flags):
    """By the compiler that builds the project, so that the checker sees the same headers."""
    image.run("gcc", "-E", "-std=gnu17", *flags, source, "-o", target)
    return target


def failures(output):
    """The properties that CBMC refuted: [(where, what)]."""
    return re.findall(r"^\[([^\]]+)\] (?:line \d+ )?(.*): FAILURE$", output, re.M)
