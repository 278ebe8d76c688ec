# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kernels that look for the module's mistakes, built from Debian's kernel source and cached.

    kasan = kernel("kasan", image, print)      # built once: minutes
    with kasan.guest("try") as guest:
        guest.wait_up()                        # seconds

KASAN and KCSAN exclude each other, so there are two. What they boot is small: a debug kernel is slow,
and a module needs no systemd.
"""

import argparse
import hashlib
import inspect
import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from . import build as builds
from . import image as images
from . import paths, qemu, rt_kernel

PACKAGE = "linux-source-6.1"
TARBALL = Path(f"/usr/src/{PACKAGE}.tar.xz")

# What a guest of the module's tests needs; no network, and everything built in.
BASE = """
64BIT SMP PREEMPT PRINTK PRINTK_TIME TTY SERIAL_8250 SERIAL_8250_CONSOLE BLK_DEV_INITRD BINFMT_ELF BINFMT_SCRIPT
DEVTMPFS PROC_FS PROC_SYSCTL PROC_PAGE_MONITOR SYSFS SHMEM TMPFS TMPFS_XATTR MULTIUSER POSIX_TIMERS FUTEX EPOLL
EVENTFD SIGNALFD TIMERFD FHANDLE FILE_LOCKING MEMBARRIER MEMFD_CREATE ADVISE_SYSCALLS CROSS_MEMORY_ATTACH AIO UNIX NET
CGROUPS MEMCG NAMESPACES USER_NS PID_NS SECCOMP HIGH_RES_TIMERS NO_HZ_IDLE HZ_100 ACPI PCI PCI_MSI HYPERVISOR_GUEST
MODULES MODULE_UNLOAD KALLSYMS KALLSYMS_ALL UNWINDER_FRAME_POINTER CPU_SUP_INTEL CPU_SUP_AMD SLUB
CC_OPTIMIZE_FOR_PERFORMANCE KERNEL_GZIP X86_PAT MTRR DEVMEM STRICT_DEVMEM IO_STRICT_DEVMEM
HOTPLUG_PCI HOTPLUG_PCI_ACPI HOTPLUG_PCI_PCIE PCIEPORTBUS
BLOCK BLK_DEV VIRTIO_MENU VIRTIO_PCI VIRTIO_BLK VIRTIO_CONSOLE HW_RANDOM HW_RANDOM_VIRTIO EXT4_FS OVERLAY_FS
""".split()

CHECKS = """
DEBUG_KERNEL DEBUG_FS BUG DEBUG_BUGVERBOSE STACKTRACE PROVE_LOCKING DEBUG_ATOMIC_SLEEP DEBUG_PREEMPT DEBUG_LIST DEBUG_SG
DEBUG_NOTIFIERS DEBUG_VM DEBUG_VM_PGTABLE HARDENED_USERCOPY FORTIFY_SOURCE STACKPROTECTOR STACKPROTECTOR_STRONG
STRICT_KERNEL_RWX STRICT_MODULE_RWX DETECT_HUNG_TASK SCHED_STACK_END_CHECK
""".split()

KASAN = """
KASAN KASAN_GENERIC KASAN_OUTLINE KASAN_VMALLOC DEBUG_KMEMLEAK UBSAN UBSAN_BOUNDS UBSAN_SHIFT UBSAN_SANITIZE_ALL
DEBUG_OBJECTS DEBUG_OBJECTS_FREE DEBUG_OBJECTS_TIMERS DEBUG_OBJECTS_WORK DEBUG_OBJECTS_RCU_HEAD SLUB_DEBUG SLUB_DEBUG_ON
FAULT_INJECTION FAILSLAB FAIL_PAGE_ALLOC FAULT_INJECTION_USERCOPY FAULT_INJECTION_DEBUG_FS
""".split()

KCSAN = "KCSAN KCSAN_STRICT KCSAN_WEAK_MEMORY".split()

# DEBUG_KMEMLEAK_AUTO_SCAN: the tests scan when nothing runs
OFF = """
SLOB IO_URING MODVERSIONS MODULE_SIG UIO VT X86_MCE DEBUG_KMEMLEAK_AUTO_SCAN DEBUG_INFO GCC_PLUGINS MODULE_COMPRESS
LOCALVERSION_AUTO
""".split()

VALUES = {"NR_CPUS": "4", "DEFAULT_HUNG_TASK_TIMEOUT": "120", "RCU_CPU_STALL_TIMEOUT": "60"}

RECIPES = {
    "kasan": {"on": BASE + CHECKS + KASAN, "off": OFF, "values": {**VALUES, "LOCALVERSION": '"-kasan"'}},
    "kcsan": {"on": BASE + CHECKS + KCSAN, "off": OFF,
              "values": {**VALUES, "LOCALVERSION": '"-kcsan"', "KCSAN_REPORT_ONCE_IN_MS": "0"}},
}

# How much more time than on Debian's kernel a test gives its guest.
PATIENCE = {"kasan": 6, "kcsan": 10}

# The allocator's books of who has what of kmalloc, for lab.leaks; the rest without, which costs too much.
# A marks the caches whose failslab/cache-filter lets allocations fail: all but one, see test_kmod_faults.
# KCSAN looks at one access of so many.
# The log is looked at as a whole at the end, and holds several times what a complete run says.
# acpi=noirq: on "pc" ACPI's table of interrupt lines is a program, which these kernels interpret for half a minute,
# and then give up. All devices here have MSI-X.
BOOT = {"kasan": "acpi=noirq log_buf_len=4M kasan_multi_shot slub_debug=A;-,radix_tree_node;AU,kmalloc-*",
        "kcsan": "acpi=noirq log_buf_len=4M kcsan.skip_watch=500"}

# What building a module against the kernel takes, as the kernel's own packaging does it.
KEEP = """
{
    find . arch/x86 -maxdepth 1 -name 'Makefile*'
    find include scripts arch/x86/include Module.symvers .config tools/objtool/objtool -type f -o -type l
    find arch/x86 -name Kbuild.platforms -o -name Platform
    find $(find arch/x86 -name include -o -name scripts -type d) -type f
} | sort -u | tar -c -f - -T - | tar -x -f - -C "$1"
find "$1" -name '*.o' -o -name '*.cmd' | grep -v /scripts/module | xargs rm -f
"""

# The whole root file system of a guest with a debug kernel: busybox, the guest agent, and process 1, which does
# what systemd and udev would have done of what the tests use. No disk: the fewer devices, the faster ACPI is done.
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/root
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t debugfs debugfs /sys/kernel/debug
mkdir -p /dev/virtio-ports /run /tmp /root /var/run /var/lock
links() {
    for p in /sys/class/virtio-ports/*; do
        [ -s $p/name ] && ln -sfn /dev/${p##*/} /dev/virtio-ports/$(cat $p/name)
    done
}
agent=/dev/virtio-ports/org.qemu.guest_agent.0
until [ -e $agent ]; do links; done
(for n in $(seq 40); do sleep 0.5; links; done) &
echo "light: up after $(cut -d' ' -f1 /proc/uptime) s" > /dev/kmsg
while :; do qemu-ga -m virtio-serial -p $agent; done
"""


class KernelError(Exception):
    pass


@dataclass(frozen=True)
class Image(images.Image):
    """What a guest with a debug kernel boots from; modules are built against *headers*."""
    headers: Path


@dataclass(frozen=True)
class Kernel:
    """A kernel that the module is tried on. *payload* is what it needs besides the base disk."""
    name: str
    image: images.Image
    patience: int = 1
    payload: Path | None = None

    def guest(self, name, append="", **options):
        """A guest that runs it."""
        debug = self.name in RECIPES
        append = f"{BOOT[self.name]} {append}" if debug else append
        return qemu.Guest(name, self.image, append=append, systemd=not debug, patience=self.patience,
                          payload=self.payload, **options)


def query(argv):
    done = subprocess.run(argv, capture_output=True, text=True, env=builds.environment())
    if done.returncode:
        raise KernelError(f"{' '.join(argv)}: {done.stderr.strip()}: run tools/deps")
    return done.stdout.strip()


def source_version():
    return query(["dpkg-query", "-W", "-f", "${Version}", PACKAGE])


def cache_key(name):
    recipe = "\0".join([repr(RECIPES[name]), KEEP, inspect.getsource(configure), inspect.getsource(compile_kernel)])
    text = "\0".join([recipe, source_version(), query(["gcc", "--version"])])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def ensure(name, progress=lambda text: None):
    """Returns the folder of the kernel, building it first if the cache has none of this recipe and source."""
    cache = paths.cache_dir()
    where = cache / f"kernel-{name}-{cache_key(name)}"
    with images.locked(cache / f"kernel-{name}.lock"):
        if not where.exists():
            progress(f"building the {name} kernel from {PACKAGE} {source_version()} (once)")
            began = time.monotonic()
            make(where, name, lambda text: progress(f"  {text} after {time.monotonic() - began:.0f} s"))
            drop_old(cache, name, where)
        os.utime(where)
    return where


def drop_old(cache, name, keep, most=1):
    old = sorted((p for p in cache.glob(f"kernel-{name}-*") if p != keep and p.is_dir()), key=lambda p: p.stat().st_mtime)
    for path in old[:-most]:
        shutil.rmtree(path, ignore_errors=True)


def make(where, name, progress):
    """Below a temporary name, renamed at the end: what exists is complete."""
    part = where.with_name(where.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    (part / "build").mkdir(parents=True)
    source = part / PACKAGE
    try:
        run(["tar", "-x", "-f", TARBALL, "-C", part], part)
        progress("source unpacked")
        configure(source, RECIPES[name], part)
        compile_kernel(source, part, progress)
        shutil.copy(source / "arch/x86/boot/bzImage", part / "bzImage")
        run(["sh", "-ec", KEEP, "sh", part / "build"], part, cwd=source)
    except builds.BuildError as error:
        raise KernelError(f"{name} kernel: {error}") from error
    shutil.rmtree(source)
    os.chmod(part / "bzImage", 0o444)
    os.chmod(part, 0o755)
    part.rename(where)
    progress(f"{size_of(where) >> 20} MB kept")


def run(argv, part, **kw):
    builds.run(argv, part / "log", env=builds.environment(), **kw)


def configure(source, recipe, part):
    """Kconfig drops what cannot be had without a word, so the result is compared with the wish."""
    lines = ([f"CONFIG_{o}=y" for o in recipe["on"]] + [f"# CONFIG_{o} is not set" for o in recipe["off"]]
             + [f"CONFIG_{o}={v}" for o, v in recipe["values"].items()])
    (part / "wanted").write_text("\n".join(lines) + "\n")
    run(["make", "-s", "tinyconfig"], part, cwd=source)
    run(["scripts/kconfig/merge_config.sh", "-m", ".config", part / "wanted"], part, cwd=source)
    run(["make", "-s", "olddefconfig"], part, cwd=source)
    refused = refusals((source / ".config").read_text(), recipe)
    if refused:
        raise KernelError(f"Kconfig refused {' '.join(refused)}")


def refusals(config, recipe):
    have = dict(re.findall(r"^CONFIG_(\w+)=(.*)$", config, re.M))
    want = {**{o: "y" for o in recipe["on"]}, **recipe["values"]}
    return [o for o, value in want.items() if have.get(o) != value] + [o for o in recipe["off"] if o in have]


def compile_kernel(source, part, progress):
    progress("configured")
    run(["make", "-s", f"-j{os.cpu_count()}", "bzImage", "modules"], part, cwd=source)
    progress("compiled")


def size_of(folder):
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink())


# what boots it

def kernel(name, image, progress=lambda text: None):
    """Debian's kernel ("stock"), its one with PREEMPT_RT or a debug kernel, and the root that its guests have."""
    if name == "stock":
        return Kernel(name, image)
    if name == "rt":
        rt = rt_kernel.ensure(image, progress)
        return Kernel(name, rt, payload=images.make_payload(rt.modules, progress))
    where = ensure(name, progress)
    kver = (where / "build/include/config/kernel.release").read_text().strip()
    light = Image(kver, image.tree, None, where / "bzImage", light_initrd(image.tree), where / "build")
    return Kernel(name, light, PATIENCE[name])


def light_initrd(tree):
    cpio = images.Cpio()
    done = set()

    def add(name, data):
        for parent in reversed(Path(name).parents[:-1]):
            if parent not in done:
                cpio.directory(str(parent))
                done.add(parent)
        cpio.file(name, data, 0o755)
    for name in ("dev", "proc", "sys", "root"):
        cpio.directory(name)
    add("init", INIT.encode())
    add("bin/busybox", Path("/bin/busybox").resolve().read_bytes())
    for path in ["/usr/sbin/qemu-ga", *libraries(tree, "/usr/sbin/qemu-ga")]:
        source = images.run("chroot", tree, "readlink", "-f", path).strip()
        add("bin/qemu-ga" if path.endswith("qemu-ga") else path[1:], (tree / source[1:]).read_bytes())
    cpio.device("dev/console", 5, 1)
    data = cpio.finish()
    path = paths.cache_dir() / f"light-{hashlib.sha256(data).hexdigest()[:16]}.initrd"
    if not path.exists():
        part = path.with_suffix(f".{os.getpid()}")
        part.write_bytes(data)
        part.chmod(0o444)
        part.rename(path)
    return path


def libraries(tree, program):
    return re.findall(r"(/\S+) \(0x", images.run("chroot", tree, "ldd", program))


def no_proc_file(warning):
    """Linux 6.1 makes an interrupt without its files in /proc/irq when there is no memory for those
    (register_irq_proc), and warns when it removes them. Nothing of ours, and nothing comes of it."""
    return "remove_proc_entry" in warning and "unregister_irq_proc" in warning


def main():
    parser = argparse.ArgumentParser(description="Builds a debug kernel and prints its folder.")
    parser.add_argument("name", choices=RECIPES)
    args = parser.parse_args()
    print(ensure(args.name, lambda text: print(text, flush=True)))


if __name__ == "__main__":
    main()
