# SPDX-License-Identifier: LGPL-2.1-or-later
"""Static analysis of the kernel module: checkpatch, and gcc's analyser with the kernel's own flags.

sparse is in test_tree.py. clang's analyser is not used: Debian's headers are configured for gcc.
"""

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lab import build as builds
from lab import image as images
from lab import mutant, paths
from lab.mutant import Edit

# What checkpatch says that is no fault here, each with its reason.
IGNORED = {
    "LINUX_VERSION_CODE": "a module outside the kernel is built for more than one version; compat.h alone asks",
    "CONSTANT_COMPARISON": "the same line: checkpatch takes LINUX_VERSION_CODE for a constant",
    "PREFER_KERNEL_TYPES": "grant.h defines u8, u32 and u64 for user space, by the types that it has",
    "BIT_MACRO": "uapi headers cannot use BIT()",
}
SCRIPTS = ["scripts/checkpatch.pl", "scripts/const_structs.checkpatch", "scripts/spelling.txt"]


def sources(root=paths.ROOT):
    return sorted([*root.glob("src/kmod/*.[ch]"), *root.glob("src/kmod/uapi/*.h")])


@pytest.fixture(scope="session")
def checkpatch():
    """The script of the kernel's source package, unpacked once: the archive is long."""
    archives = sorted(Path("/usr/src").glob("linux-source-6.*.tar.xz"))
    assert archives, "no linux-source below /usr/src: run tools/deps"
    info = archives[-1].stat()
    key = hashlib.sha256(f"{archives[-1].name} {info.st_size} {int(info.st_mtime)} {SCRIPTS}".encode()).hexdigest()[:16]
    cache = paths.cache_dir()
    where = cache / f"checkpatch-{key}"
    with images.locked(cache / "checkpatch.lock"):
        if not where.exists():
            part = where.with_name(where.name + ".part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            top = archives[-1].name.removesuffix(".tar.xz")
            images.run("tar", "-xf", archives[-1], "-C", part, "--strip-components=2", "--occurrence=1",
                       *[f"{top}/{name}" for name in SCRIPTS])
            part.rename(where)
    return where / "checkpatch.pl"


def check(script, *files, ignored=()):
    done = subprocess.run(["perl", script, "--no-tree", "--strict", "--no-summary", "--terse", "--show-types",
                           *([f"--ignore={','.join(ignored)}"] if ignored else []), "-f", *files],
                          capture_output=True, text=True, timeout=120)
    return re.findall(r"^(\S+:\d+): \w+:(\w+): (.*)$", done.stdout, re.M)


def test_checkpatch(checkpatch):
    found = check(checkpatch, *sources(), ignored=IGNORED)
    assert not found, "\n".join(map(str, found))


def test_checkpatch_ignores_what_is_there(checkpatch):
    """The list of exceptions has none that nobody needs; and the script does find things."""
    assert {kind for _, kind, _ in check(checkpatch, *sources())} == set(IGNORED)


def analyse(tmp_path, *edits):
    """Compiles a copy of the module with -fanalyzer on top of the kernel's flags; warnings are errors."""
    shutil.copytree(paths.ROOT / "src/kmod", tmp_path / "src/kmod")
    mutant.change(tmp_path, edits)
    headers = f"/lib/modules/{images.header_version()}/build"
    done = subprocess.run([tmp_path / "src/kmod/build-module", headers, tmp_path / "src/kmod", tmp_path / "out",
                           "KCFLAGS=-fanalyzer"], capture_output=True, text=True, env=builds.environment(), timeout=300)
    return done.returncode, done.stdout + done.stderr


def test_analyser(tmp_path):
    status, text = analyse(tmp_path)
    assert status == 0 and "-Wanalyzer" not in text, text[-6000:]


def test_analyser_finds(tmp_path):
    """It is on: a section that was not found is used."""
    status, text = analyse(tmp_path, Edit("src/kmod/grant.c", "if (!own || !peer || ret_terms->generation == 0)",
                                          "if (ret_terms->generation == 0)"))
    assert status != 0 and "-Werror=analyzer-null-dereference" in text, text[-3000:]
