# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guest image: one Debian tree, built once, shared by every guest and container.

The tree is never written after it was built. What a test adds comes as a *payload*: a small
ext4 made from a DESTDIR folder, laid over the base by overlayfs in the initramfs, with a tmpfs
on top. So a new build of the project costs a second, not an image.
"""

import argparse
import contextlib
import fcntl
import hashlib
import inspect
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from . import paths

SUITE = "bookworm"
SUITES = (SUITE, SUITE + "-updates", SUITE + "-security")

PACKAGES = """
systemd systemd-sysv dbus udev kmod util-linux procps iproute2 qemu-guest-agent
libsystemd0 libssl3 libjansson4 libkmod2 libacl1 polkitd
python3 python3-gi gir1.2-glib-2.0
""".split()

# The image of the kernel that the installed headers belong to is unpacked, not installed:
# its maintainer scripts would build an initramfs that nothing here boots.
KERNEL_PACKAGE = "linux-image-{kver}"

# Folders below lib/modules/VERSION/kernel that stay. A guest has virtio devices only, and each
# module less is one less that udev may decide to load while a test waits.
MODULE_DIRS = """
crypto fs/9p fs/autofs fs/fuse fs/netfs fs/overlayfs lib net/9p net/vmw_vsock
drivers/block drivers/char drivers/firmware drivers/net/virtio_net.ko
drivers/net/net_failover.ko net/core/failover.ko drivers/uio drivers/vfio drivers/vhost
drivers/virtio
""".split()

# Needed before the root is there, in any order: insmod order comes from modules.dep.
INITRAMFS_MODULES = "virtio_pci virtio_blk overlay".split()

# Units that cost boot time and do nothing for a guest which lives for minutes on a tmpfs.
MASKED_UNITS = """
apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer e2scrub_all.timer
e2scrub_reap.service systemd-tmpfiles-clean.timer systemd-pstore.service systemd-random-seed.service
systemd-update-utmp.service systemd-update-utmp-runlevel.service systemd-firstboot.service
systemd-repart.service systemd-pcrphase.service systemd-pcrphase-sysinit.service
systemd-binfmt.service proc-sys-fs-binfmt_misc.automount systemd-machine-id-commit.service
systemd-journal-flush.service systemd-ask-password-console.path
systemd-ask-password-wall.path getty.target getty@tty1.service sys-fs-fuse-connections.mount
sys-kernel-tracing.mount dev-hugepages.mount systemd-initctl.socket systemd-rfkill.socket
systemd-hwdb-update.service ldconfig.service remote-fs.target
""".split()

TREE_FILES = {
    "etc/fstab": "",
    "etc/hostname": "guest\n",
    "etc/machine-id": "uninitialized\n",
    "etc/systemd/journald.conf.d/lab.conf":
        "[Journal]\nStorage=volatile\nRateLimitIntervalSec=0\nRuntimeMaxUse=48M\n",
    "etc/systemd/system.conf.d/lab.conf":
        "[Manager]\nShowStatus=no\nDefaultTimeoutStopSec=15s\n",
    "etc/modprobe.d/lab.conf":
        "blacklist virtio_balloon\nblacklist intel_rapl_common\nblacklist button\n",
    # A package runs this when it is installed; a payload is never installed.
    "etc/systemd/system/systemd-sysusers.service.d/lab.conf": "[Unit]\nConditionNeedsUpdate=\n",
    # A root shell on the serial console, for a guest that a person keeps.
    "etc/systemd/system/lab-shell.service":
        "[Unit]\nDescription=Root shell on the serial console\nConditionPathExists=/dev/ttyS0\n"
        "ConditionVirtualization=vm\n"
        "[Service]\nType=idle\nExecStart=/bin/bash -i\nWorkingDirectory=/root\n"
        "Environment=TERM=vt220 HOME=/root\n"
        "StandardInput=tty-force\nStandardOutput=tty\nStandardError=tty\nTTYPath=/dev/ttyS0\n"
        "Restart=always\nRestartSec=1\nIgnoreSIGPIPE=no\n"
        # an interactive shell ignores SIGTERM
        "KillSignal=SIGHUP\n"
        "[Install]\nWantedBy=multi-user.target\n",
    "etc/systemd/system/qemu-guest-agent.service.d/lab.conf":
        # Commands that a test started must not count against, or die with, the agent's limits.
        "[Service]\nTasksMax=infinity\nOOMScoreAdjust=-900\nKillMode=process\n",
}

INIT = """#!/bin/sh
export PATH=/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
for m in $(cat /modules.order); do insmod /modules/$m || echo "initramfs: cannot load $m"; done
param() { for w in $(cat /proc/cmdline); do case $w in $1=*) echo "${w#*=}"; esac; done; }
disk() { for d in /sys/block/vd*; do [ "$(cat $d/serial)" = $1 ] && echo /dev/${d##*/}; done; }
die() { echo "initramfs: $*"; exec sh; }
n=0
until [ -n "$(disk base)" ]; do
    n=$((n + 1)); [ $n -gt 300 ] && die "no base disk"; sleep 0.1
done
mkdir /rw /lower /new
mount -t tmpfs -o mode=755,size=75% rw /rw
mkdir /rw/upper /rw/work
lower=
for l in $(param lab.layers | tr , ' '); do
    mkdir /lower/$l
    mount -t ext4 -o ro,noload $(disk $l) /lower/$l || die "cannot mount $l"
    lower=${lower:+$lower:}/lower/$l
done
mount -t overlay -o lowerdir=$lower,upperdir=/rw/upper,workdir=/rw/work overlay /new || die overlay
param lab.machine_id > /new/etc/machine-id
param lab.hostname > /new/etc/hostname
umount /proc
umount /sys
mount -o move /dev /new/dev
exec switch_root /new /lib/systemd/systemd
"""


class ImageError(Exception):
    pass


@dataclass(frozen=True)
class Image:
    """What a guest boots from. All files are shared and read-only."""
    kver: str
    tree: Path
    base: Path
    kernel: Path
    initrd: Path


def run(*argv, **kw):
    """Runs a command of the recipe; its output is shown only when it fails."""
    done = subprocess.run([str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace", **kw)
    if done.returncode:
        raise ImageError(f"{' '.join(map(str, argv))}: exit {done.returncode}\n{done.stdout[-4000:]}")
    return done.stdout


def header_version():
    """The newest cloud kernel whose headers are installed: guests run exactly that one."""
    found = [p.name[len("linux-headers-"):] for p in Path("/usr/src").glob("linux-headers-*-cloud-amd64")
             if (p / "Makefile").exists()]
    if not found:
        raise ImageError("no linux-headers-*-cloud-amd64 below /usr/src: run tools/deps")
    return max(found, key=lambda v: [int(n) for n in re.findall(r"\d+", v)])


def debian_sources():
    """The machine's own apt sources for the suite, without third-party archives.

    Returns deb822 text, empty when none is found (mmdebstrap then uses its default mirror).
    """
    out = []
    for path in [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]:
        if path.suffix == ".sources":
            out += [s for s in re.split(r"\n\s*\n", path.read_text()) if is_debian_stanza(s)]
        elif path.suffix == ".list" and path.exists():
            out += [s for s in map(stanza_from_line, path.read_text().splitlines()) if s]
    return "\n\n".join(s.strip() for s in out) + "\n" if out else ""


def is_debian_stanza(text):
    """Debian is told from others by suite name *and* component: others use one or the other."""
    fields = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        key, colon, value = line.partition(":")
        if colon and not line[0].isspace():
            fields[key.strip().lower()] = value.split()
    return ("deb" in fields.get("types", []) and "no" not in fields.get("enabled", [])
            and "main" in fields.get("components", []) and bool(fields.get("suites"))
            and set(fields["suites"]) <= set(SUITES))


def stanza_from_line(line):
    match = re.match(r"\s*deb\s+(?:\[(?P<opt>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<comp>.*)$",
                     line.split("#")[0])
    if not match or match["suite"] not in SUITES or "main" not in match["comp"].split():
        return None
    opts = dict(o.split("=", 1) for o in (match["opt"] or "").split() if "=" in o)
    signed = f"Signed-By: {opts['signed-by']}\n" if "signed-by" in opts else ""
    return f"Types: deb\nURIs: {match['uri']}\nSuites: {match['suite']}\nComponents: main\n{signed}"


def apt_options():
    """Index checks the machine itself switched off (a frozen mirror) stay off in the tree."""
    keys = ("Acquire::Check-Valid-Until", "Acquire::Check-Date")
    dump = subprocess.run(["apt-config", "dump", *keys], capture_output=True, text=True).stdout
    return [f"--aptopt={l.strip()}" for l in dump.splitlines() if l.startswith(keys)]


def mmdebstrap(target, packages=(), hooks=(), options=()):
    """Makes a Debian tree in the folder *target*, from the machine's own sources."""
    sources = debian_sources()
    listing = Path(str(target) + ".sources")
    listing.write_text(sources)
    argv = ["mmdebstrap", "--mode=root", "--variant=apt", *apt_options(), *options]
    if packages:
        argv.append("--include=" + ",".join(packages))
    argv += [f"--customize-hook={h}" for h in hooks]
    try:
        run(*argv, SUITE, target, *([listing] if sources else []))
    finally:
        listing.unlink()


def cache_key(kver):
    recipe = inspect.getsource(sys.modules[__name__])
    text = "\0".join([kver, recipe, debian_sources()])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextlib.contextmanager
def locked(path):
    with open(path, "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def ensure(progress=lambda text: None):
    """Returns the image, building it first if the cache has none for this recipe."""
    kver = header_version()
    cache = paths.cache_dir()
    where = cache / f"image-{cache_key(kver)}"
    image = Image(kver, where / "tree", where / "base.ext4", where / "vmlinuz", where / "initrd")
    with locked(cache / "image.lock"):
        if not where.exists():
            began = time.monotonic()
            progress(f"building the guest image for {kver} (once)")
            build(where, kver, progress)
            progress(f"guest image ready after {time.monotonic() - began:.0f} s")
            drop_old_images(cache, where)
    return image


def drop_old_images(cache, keep, most=3):
    old = sorted((p for p in cache.glob("image-*") if p != keep and p.is_dir()),
                 key=lambda p: p.stat().st_mtime)
    for path in old[:-most] if len(old) > most else []:
        shutil.rmtree(path, ignore_errors=True)


def build(where, kver, progress):
    """Builds below a temporary name and renames at the end: what exists is complete."""
    part = where.with_name(where.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    tree = part / "tree"
    package = KERNEL_PACKAGE.format(kver=kver)
    skip = [f"--dpkgopt=path-exclude=/usr/share/{d}/*" for d in ("doc", "man", "locale", "info", "lintian")]
    fetch = (f'cd "$1/tmp" && chroot "$1" sh -c "cd /tmp && apt-get download -qq {package}" '
             f'&& dpkg-deb --fsys-tarfile {package}_*.deb | tar -C "$1" -x --keep-directory-symlink '
             f'&& rm {package}_*.deb')
    mmdebstrap(tree, PACKAGES, [fetch], ["--aptopt=APT::Install-Recommends \"false\"", *skip])
    progress("  tree unpacked")
    prune_modules(tree, kver)
    furnish(tree)
    shutil.copy(tree / f"boot/vmlinuz-{kver}", part / "vmlinuz")
    shutil.rmtree(tree / "boot")
    (tree / "boot").mkdir()
    make_initramfs(tree, kver, part / "initrd")
    make_ext4(tree, part / "base.ext4")
    for name in ("vmlinuz", "initrd", "base.ext4"):
        os.chmod(part / name, 0o444)
    os.chmod(part, 0o755)
    part.rename(where)


def prune_modules(tree, kver):
    kernel = tree / "lib/modules" / kver / "kernel"
    keep = [kernel / d for d in MODULE_DIRS]
    for path in kernel.rglob("*.ko"):
        if not any(path == k or k in path.parents for k in keep):
            path.unlink()
    run("depmod", "-b", tree, kver)


def furnish(tree):
    for name, text in TREE_FILES.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(text)
    units = tree / "etc/systemd/system"
    for unit in MASKED_UNITS:
        link = units / unit
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")
    wants = units / "multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / "lab-shell.service").symlink_to("/etc/systemd/system/lab-shell.service")
    (units / "default.target").unlink(missing_ok=True)
    (units / "default.target").symlink_to("/lib/systemd/system/multi-user.target")
    for name in ("var/lib/dbus/machine-id", "etc/resolv.conf"):
        (tree / name).unlink(missing_ok=True)
    run("chroot", tree, "passwd", "-d", "root")
    # udev compiles its hardware database at the first boot otherwise; ours needs none of it.
    shutil.rmtree(tree / "usr/lib/udev/hwdb.d", ignore_errors=True)


def module_order(tree, kver, wanted):
    """The modules and what they need, each after its dependencies, as paths below lib/modules."""
    deps = {}
    for line in (tree / "lib/modules" / kver / "modules.dep").read_text().splitlines():
        name, _, needs = line.partition(":")
        deps[name] = needs.split()
    by_name = {Path(p).stem.replace("-", "_"): p for p in deps}
    order = []
    for name in wanted:
        path = by_name[name]
        # modules.dep lists the nearest dependency first
        for item in [*reversed(deps[path]), path]:
            if item not in order:
                order.append(item)
    return order


def make_initramfs(tree, kver, out):
    busybox = Path("/bin/busybox").resolve()
    order = module_order(tree, kver, INITRAMFS_MODULES)
    cpio = Cpio()
    for name in ("bin", "dev", "proc", "sys", "modules", "tmp"):
        cpio.directory(name)
    cpio.file("init", INIT.encode(), 0o755)
    cpio.file("bin/busybox", busybox.read_bytes(), 0o755)
    applets = "sh mount umount mkdir cat echo insmod sleep switch_root tr ls dmesg".split()
    for applet in applets:
        cpio.symlink(f"bin/{applet}", "busybox")
    cpio.device("dev/console", 5, 1)
    cpio.file("modules.order", "\n".join(Path(p).name for p in order).encode(), 0o644)
    for path in order:
        cpio.file(f"modules/{Path(path).name}", (tree / "lib/modules" / kver / path).read_bytes(), 0o644)
    out.write_bytes(cpio.finish())


class Cpio:
    """A "newc" archive in memory, all owned by root: what an initramfs is made of."""

    def __init__(self):
        self.parts = []
        self.count = 0

    def entry(self, name, mode, data=b"", rdev=(0, 0)):
        self.count += 1
        name = name.encode() + b"\0"
        fields = [self.count, mode, 0, 0, 1, 0, len(data), 0, 0, *rdev, len(name), 0]
        head = b"070701" + b"".join(b"%08X" % f for f in fields) + name
        self.parts += [head, b"\0" * (-len(head) % 4), data, b"\0" * (-len(data) % 4)]

    def directory(self, name):
        self.entry(name, stat.S_IFDIR | 0o755)

    def file(self, name, data, mode):
        self.entry(name, stat.S_IFREG | mode, data)

    def symlink(self, name, target):
        self.entry(name, stat.S_IFLNK | 0o777, target.encode())

    def device(self, name, major, minor):
        self.entry(name, stat.S_IFCHR | 0o600, rdev=(major, minor))

    def finish(self):
        self.entry("TRAILER!!!", 0)
        return b"".join(self.parts)


def make_ext4(folder, out):
    """An ext4 image of *folder*, just large enough; nothing writes to it later."""
    files = size = 0
    for base, dirs, names in os.walk(folder):
        files += len(dirs) + len(names)
        size += sum((os.lstat(os.path.join(base, n)).st_size + 4095) // 4096 for n in names)
    blocks = int(size * 1.05) + files // 8 + len(str(folder)) + 2048
    out.unlink(missing_ok=True)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-N", files + 256,
        "-O", "^has_journal,^resize_inode,^metadata_csum", "-E", "root_owner=0:0",
        "-d", folder, out, blocks)


def make_payload(destdir, progress=lambda text: None):
    """The payload disk of a DESTDIR folder; the same content gives the same file again."""
    destdir = Path(destdir)
    folder = paths.cache_dir() / "payloads"
    folder.mkdir(exist_ok=True)
    out = folder / f"{tree_hash(destdir)}.ext4"
    with locked(folder / "lock"):
        if not out.exists():
            part = out.with_suffix(".part")
            with merged_usr(destdir) as folder_in:
                make_ext4(folder_in, part)
            os.chmod(part, 0o444)
            part.rename(out)
            progress(f"payload of {out.stat().st_size >> 20} MiB made from {destdir}")
        os.utime(out)
        for old in sorted(folder.glob("*.ext4"), key=lambda p: p.stat().st_mtime)[:-12]:
            old.unlink()
    return out


@contextlib.contextmanager
def merged_usr(destdir):
    """*destdir* with /lib, /bin and /sbin moved into /usr.

    In the base they are links; a folder of that name in a layer above would hide the base's.
    """
    split = [d for d in ("lib", "bin", "sbin", "lib64") if (destdir / d).is_dir()]
    if not split:
        yield destdir
        return
    with tempfile.TemporaryDirectory(prefix="sivshm-payload-") as work:
        os.chmod(work, 0o755)
        shutil.copytree(destdir, work, symlinks=True, dirs_exist_ok=True,
                        ignore=lambda d, names: split if Path(d) == destdir else ())
        for name in split:
            shutil.copytree(destdir / name, Path(work) / "usr" / name, symlinks=True, dirs_exist_ok=True)
        yield Path(work)


def tree_hash(folder):
    total = hashlib.sha256()
    for base, dirs, names in os.walk(folder):
        dirs.sort()
        for name in sorted(dirs + names):
            path = os.path.join(base, name)
            info = os.lstat(path)
            total.update(f"{os.path.relpath(path, folder)}\0{info.st_mode}\0{info.st_uid}\0"
                         f"{info.st_gid}\0".encode())
            if stat.S_ISLNK(info.st_mode):
                total.update(os.readlink(path).encode())
            elif stat.S_ISREG(info.st_mode):
                with open(path, "rb") as handle:
                    total.update(hashlib.file_digest(handle, "sha256").digest())
    return total.hexdigest()[:24]


def make_bare(target):
    """A tree with nothing but apt, whose apt reads the machine's own Debian sources."""
    sources = debian_sources()
    mmdebstrap(target)
    if sources:
        (target / "etc/apt/sources.list").unlink(missing_ok=True)
        folder = target / "etc/apt/sources.list.d"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "debian.sources").write_text(sources)
    keys = "".join(o.removeprefix("--aptopt=") + "\n" for o in apt_options())
    (target / "etc/apt/apt.conf.d/90machine").write_text(keys)


def main():
    parser = argparse.ArgumentParser(description="Builds the guest image, or a bare Debian tree.")
    parser.add_argument("--bare", metavar="FOLDER", type=Path, help="make a tree that holds nothing but apt")
    args = parser.parse_args()
    if args.bare:
        make_bare(args.bare)
    else:
        print(ensure(print).base)


if __name__ == "__main__":
    main()
