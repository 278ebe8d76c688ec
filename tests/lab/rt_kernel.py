# SPDX-License-Identifier: LGPL-2.1-or-later
"""Debian's kernel with PREEMPT_RT for the guests: the same tree and base disk, another kernel below them.

The kernel and the few modules that a guest needs are unpacked from Debian's package, which is not installed: once, into
the cache. The modules come to a guest as a payload like everything else that is laid over the base.

    rt = ensure(image, print)
    guest = qemu.Guest("rtos", rt, payload=images.make_payload(rt.modules))
    world = World(destdir(rt, build.install(image)), rt)
"""

import argparse
import hashlib
import inspect
import os
import re
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from . import build as builds
from . import image as images
from . import paths

PACKAGE = "linux-image-{kver}"

# The base is ext4, which this kernel does not have built in.
INITRAMFS_MODULES = [*images.INITRAMFS_MODULES, "ext4", "crc32c_generic"]

# What a guest still needs when its root is there, see images.MODULE_DIRS.
MODULE_DIRS = """
drivers/char/virtio_console.ko drivers/char/hw_random drivers/virtio drivers/uio
drivers/net/virtio_net.ko drivers/net/net_failover.ko net/core/failover.ko fs/autofs
""".split()


@dataclass(frozen=True)
class Image(images.Image):
    """What a guest boots from; modules are built against *headers*; *modules* is a DESTDIR with the kernel's own."""
    headers: Path
    modules: Path


def header_version():
    found = [p.name[len("linux-headers-"):] for p in Path("/usr/src").glob("linux-headers-*-rt-amd64")
             if (p / "Makefile").exists()]
    if not found:
        raise images.ImageError("no linux-headers-*-rt-amd64 below /usr/src: run tools/deps")
    return max(found, key=lambda v: [int(n) for n in re.findall(r"\d+", v)])


def cache_key(image, kver):
    recipe = inspect.getsource(sys.modules[__name__])
    text = "\0".join([kver, recipe, image.base.parent.name])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def ensure(image, progress=lambda text: None):
    """Returns the image, making it first if the cache has none for this recipe and base."""
    kver = header_version()
    cache = paths.cache_dir()
    where = cache / f"rt-{cache_key(image, kver)}"
    with images.locked(cache / "rt.lock"):
        if not where.exists():
            began = time.monotonic()
            make(where, image, kver)
            progress(f"kernel {kver} for the guests ready after {time.monotonic() - began:.0f} s (once)")
            drop_old(cache, where)
        os.utime(where)
    return Image(kver, image.tree, image.base, where / "vmlinuz", where / "initrd", headers(kver), where / "modules")


def headers(kver):
    return Path(f"/lib/modules/{kver}/build")


def drop_old(cache, keep, most=1):
    old = sorted((p for p in cache.glob("rt-*") if p != keep and p.is_dir()), key=lambda p: p.stat().st_mtime)
    for path in old[:-most]:
        shutil.rmtree(path, ignore_errors=True)


def make(where, image, kver):
    """Below a temporary name, renamed at the end: what exists is complete."""
    part = where.with_name(where.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    package = part / "package"
    package.mkdir(parents=True)
    unpack(PACKAGE.format(kver=kver), package)
    images.run("depmod", "-b", package, kver)
    shutil.copy(package / f"boot/vmlinuz-{kver}", part / "vmlinuz")
    (part / "initrd").write_bytes(image.initrd.read_bytes() + early_modules(package, kver))
    keep_modules(package / "lib/modules" / kver, part / "modules/usr/lib/modules" / kver)
    images.run("depmod", "-b", part / "modules/usr", kver)
    shutil.rmtree(package)
    for name in ("vmlinuz", "initrd"):
        os.chmod(part / name, 0o444)
    os.chmod(part, 0o755)
    part.rename(where)


def unpack(package, folder):
    """From the machine's own apt sources, whose lists may have to be fetched first."""
    def download():
        images.run("apt-get", "download", "-qq", package, cwd=folder)
    try:
        download()
    except images.ImageError:
        images.run("apt-get", "-q", "update")
        download()
    for deb in folder.glob("*.deb"):
        images.run("dpkg-deb", "-x", deb, folder)
        deb.unlink()


def early_modules(package, kver):
    """Laid over the base's initramfs: what is unpacked later wins."""
    cpio = images.Cpio()
    order = images.module_order(package, kver, INITRAMFS_MODULES)
    cpio.file("modules.order", "\n".join(Path(p).name for p in order).encode(), 0o644)
    for path in order:
        cpio.file(f"modules/{Path(path).name}", (package / "lib/modules" / kver / path).read_bytes(), 0o644)
    return cpio.finish()


def keep_modules(source, target):
    keep = [source / "kernel" / d for d in MODULE_DIRS]
    for path in source.rglob("*.ko"):
        if any(path == k or k in path.parents for k in keep):
            new = target / path.relative_to(source)
            new.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, new)
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        shutil.copy(source / name, target / name)


def destdir(rt, installed):
    """build/dest-rt: what is *installed* for the stock kernel, with the module for this one. Returns that folder."""
    dest = paths.BUILD / "dest-rt"
    modules = Path("usr/lib/modules") / rt.kver
    with images.locked(paths.BUILD / "dest-rt.lock"):
        shutil.rmtree(dest, ignore_errors=True)
        shutil.copytree(installed, dest, symlinks=True, ignore=shutil.ignore_patterns("modules"))
        shutil.copytree(rt.modules, dest, symlinks=True, dirs_exist_ok=True)
        (dest / modules / "extra").mkdir()
        module = builds.module(rt, "sivshm", paths.ROOT / "src/kmod")
        (dest / modules / "extra/sivshm.ko").write_bytes(module)
        images.run("depmod", "-b", dest / "usr", rt.kver)
    return dest


def main():
    parser = argparse.ArgumentParser(description="Makes the guests' PREEMPT_RT kernel and prints its folder.")
    parser.parse_args()
    print(ensure(images.ensure(print), print).kernel.parent)


if __name__ == "__main__":
    main()
