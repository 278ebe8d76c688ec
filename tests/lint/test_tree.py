# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rules of the tree that a compiler does not check."""

import re
import subprocess
from pathlib import Path

import pytest

from lab import build as builds
from lab import paths

ROOT = paths.ROOT

# What a folder may include from others: arrows point one way (docs/architecture.md, "Layers").
LAYERS = {
    "src/kmod/uapi": set(),
    "src/kmod": {"src/kmod/uapi"},
    "src/common": {"src/kmod/uapi"},
    "src/client": {"src/kmod/uapi"},
    "src/sivshmd": {"src/common", "src/kmod/uapi"},
    "src/sivshm-cad": {"src/common", "src/kmod/uapi"},
    "src/sivshmctl": {"src/client", "src/common", "src/kmod/uapi"},
}

# The bus layer of src/common; everything else there is the pure core.
BUS_LAYER = {"rpc-link", "bus-util"}
NOT_IN_CORE = re.compile(r"systemd/sd-(bus|event|daemon|journal)\.h")


def tracked(*patterns):
    out = subprocess.run(["git", "-c", "safe.directory=*", "-C", ROOT, "ls-files", "-z", "--", *patterns],
                         capture_output=True, check=True).stdout.decode()
    return [ROOT / name for name in out.split("\0") if name and (ROOT / name).is_file()]


def relative(found):
    return "\n".join(f"{path.relative_to(ROOT)}: {text}" for path, text in found)


def folder_of(path):
    name = str(path.relative_to(ROOT))
    return max((layer for layer in LAYERS if name.startswith(layer + "/")), key=len, default=None)


def includes(path):
    return re.findall(r'^\s*#\s*include\s+([<"][^">]+)', path.read_text(), re.M)


def test_spdx():
    files = tracked("*.c", "*.h", "*.py", "*meson.build", "tools/*", ".ci/*", "dbus/*.xml", "units/*")
    bare = [path for path in files if "SPDX-License-Identifier:" not in "".join(path.open().readlines()[:6])]
    assert not bare, relative((path, "no SPDX line") for path in bare)


def test_licences():
    """The module is GPL, as the kernel wants it; its user interface may be included by anybody."""
    wrong = []
    for path in tracked("src/kmod/*.c", "src/kmod/*.h"):
        want = "GPL-2.0-only WITH Linux-syscall-note" if path.parent.name == "uapi" else "GPL-2.0-only"
        if not re.search(rf"SPDX-License-Identifier: {re.escape(want)}\s*(\*/)?$", path.open().readline()):
            wrong.append((path, f"not {want}"))
    assert not wrong, relative(wrong)


def test_include_direction():
    """A header is found by name in the folders that the includer may see, and in no other."""
    headers = {}
    for path in tracked("src/*.h"):
        headers.setdefault(path.name, set()).add(folder_of(path))
    wrong = []
    for path in tracked("src/*.c", "src/*.h"):
        mine = folder_of(path)
        for include in includes(path):
            where = headers.get(Path(include[1:]).name)
            if where and include[0] == '"' and mine and not where & (LAYERS[mine] | {mine}):
                wrong.append((path, f"includes {include[1:]} of {', '.join(sorted(where))}"))
    assert not wrong, relative(wrong)


def test_pure_core():
    wrong = [(path, f"includes {include[1:]}") for path in tracked("src/common/*.c", "src/common/*.h")
             if path.stem not in BUS_LAYER for include in includes(path) if NOT_IN_CORE.search(include)]
    assert not wrong, relative(wrong)


def test_format():
    """Headers are laid out by hand: their comments are tables and examples."""
    files = tracked("src/*.c", "tests/*.c", "examples/*.c")
    done = subprocess.run(["clang-format", "--dry-run", "--Werror", *files], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]


def test_module_sparse(destdir):
    """Address spaces and byte order, which the module's structs are annotated with."""
    done = subprocess.run(["ninja", "-C", builds.folder("gcc"), "kmod-sparse"], capture_output=True, text=True,
                          env=builds.environment())
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


def test_shell_syntax():
    scripts = [p for p in tracked("tools/*", ".ci/*") if p.open().readline().startswith("#!/bin/sh")]
    assert scripts
    for path in scripts:
        done = subprocess.run(["dash", "-n", path], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("unit, most", [("sivshmd.service", 1.0), ("sivshm-cad.service", 1.5)])
def test_exposure(destdir, figures, unit, most):
    """systemd's own score of what a unit may do; lower is better. Comparable daemons: 2 to 9."""
    path = destdir / "usr/lib/systemd/system" / unit
    done = subprocess.run(["systemd-analyze", "security", "--offline=true", f"--threshold={int(most * 10)}", path],
                          capture_output=True, text=True)
    figures["exposure"] = float(re.search(r"exposure level for [^:]*: ([0-9.]+)", done.stdout)[1])
    assert figures["exposure"] <= most, done.stdout
