# SPDX-License-Identifier: LGPL-2.1-or-later
"""Builds of the project, below <clone>/build: one with gcc (what guests run), one with sanitisers."""

import os
import shutil
import subprocess
from pathlib import Path

from . import image as images
from . import paths

CONFIGS = {
    "gcc": {"cc": "gcc", "options": []},
    "clang-asan": {"cc": "clang",
                   "options": ["-Db_sanitize=address,undefined", "-Db_lundef=false", "-Dkmod=false",
                               "-Dman=false"]},
}

# A sanitiser's finding has to fail the test, also where the code under test catches signals.
SANITIZER_ENV = {
    "ASAN_OPTIONS": "abort_on_error=1:detect_stack_use_after_return=1:strict_string_checks=1",
    "UBSAN_OPTIONS": "halt_on_error=1:abort_on_error=1:print_stacktrace=1",
}


class BuildError(Exception):
    pass


def environment(cc="gcc"):
    """A fixed environment: what a user's shell sets must not change the build."""
    keep = {k: os.environ[k] for k in ("HOME", "TERM", "TMPDIR") if k in os.environ}
    return {**keep, "PATH": "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "CC": cc}


def run(argv, log, **kw):
    with open(log, "ab") as out:
        rc = subprocess.run([str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=out,
                            stderr=subprocess.STDOUT, **kw).returncode
    if rc:
        raise BuildError(f"{' '.join(map(str, argv))}: exit {rc}\n{Path(log).read_text(errors='replace')[-6000:]}")


def folder(config):
    return paths.BUILD / config


def setup(config):
    """Configures a build folder if it is not yet."""
    where, want = folder(config), CONFIGS[config]
    paths.BUILD.mkdir(exist_ok=True)
    log = paths.BUILD / f"{config}.log"
    log.unlink(missing_ok=True)
    if not (where / "build.ninja").exists():
        shutil.rmtree(where, ignore_errors=True)
        # meson is a Python program; the first python3 in PATH need not be the system's
        # guests run the newest kernel whose headers are here; so the module is built for that one
        kernel = f"-Dkernel-build=/lib/modules/{images.header_version()}/build"
        run(["/usr/bin/meson", "setup", where, paths.ROOT, kernel, *want["options"]], log, env=environment(want["cc"]))
    return where


def compile(config):
    paths.BUILD.mkdir(exist_ok=True)
    with images.locked(paths.BUILD / f"{config}.lock"):
        where = setup(config)
        run(["ninja", "-C", where], paths.BUILD / f"{config}.log", env=environment(CONFIGS[config]["cc"]))
    return where


def headers(image):
    """What modules for an image's kernel are built against."""
    return getattr(image, "headers", None) or Path(f"/lib/modules/{image.kver}/build")


def module(image, name, source):
    """A module built for the guests' kernel by itself. Returns its bytes."""
    paths.BUILD.mkdir(exist_ok=True)
    work = paths.BUILD / "kmod-tests" / image.kver / name
    run([paths.ROOT / "src/kmod/build-module", headers(image), source, work],
        paths.BUILD / "kmod-tests.log", env=environment())
    return (work / f"{name}.ko").read_bytes()


def test_module(image, name):
    return module(image, name, paths.ROOT / "tests/kmod" / name)


def install(image):
    """Compiles with gcc and installs into build/dest, module included. Returns that folder."""
    where, dest = compile("gcc"), paths.BUILD / "dest"
    with images.locked(paths.BUILD / "dest.lock"):
        shutil.rmtree(dest, ignore_errors=True)
        run(["/usr/bin/meson", "install", "-C", where, "--no-rebuild", "--destdir", dest],
            paths.BUILD / "gcc.log", env=environment())
        depmod(dest, image)
    return dest


def depmod(dest, image):
    """Makes modules.dep of the installed module together with those of the image's kernel.

    depmod wants to see all modules in one tree: the image's appear in it as a link meanwhile.
    """
    lib = next((d for d in (dest / "usr/lib/modules", dest / "lib/modules") if d.is_dir()), None)
    if lib is None:
        return
    here, there = lib / image.kver, image.tree / "lib/modules" / image.kver
    if not here.is_dir():
        raise BuildError(f"the module was built for {os.listdir(lib)}, guests run {image.kver}")
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        shutil.copy(there / name, here / name)
    (here / "kernel").symlink_to(there / "kernel")
    try:
        base = Path(str(lib).removesuffix("/lib/modules"))
        run(["depmod", "-b", base, image.kver], paths.BUILD / "gcc.log", env=environment())
    finally:
        (here / "kernel").unlink()
