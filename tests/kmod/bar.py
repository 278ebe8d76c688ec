# SPDX-License-Identifier: LGPL-2.1-or-later
"""What root in a guest can try at the memory of a PCI device without a kernel module of its own.

    bar.py sysfs|mem|kcore DEVICE...    each way to get at BAR2; prints {way: "ok ..." or the error}
    bar.py config DEVICE OFFSET:WIDTH[=VALUE]...   reads and writes configuration space, as setpci does
    bar.py dma DEVICE FROM TO SIZE      has the "edu" device copy between guest-physical addresses
"""

import ctypes
import errno
import json
import mmap
import os
import re
import struct
import sys
import time

MARK = b"root was here"


def path(device, name):
    return f"/sys/bus/pci/devices/{device}/{name}"


def place(device, bar=2):
    start, end, _ = (int(n, 16) for n in open(path(device, "resource")).read().splitlines()[bar].split())
    return start, end - start + 1


def attempt(action):
    try:
        return f"ok {action()}"
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))
    except ValueError as error:
        return str(error)


def by_map(name, prot, flags, offset=0):
    """Maps, stores where it may, and reads."""
    fd = os.open(name, os.O_RDWR | os.O_SYNC)
    try:
        with mmap.mmap(fd, min(os.fstat(fd).st_size or 4096, 4096), flags, prot, offset=offset) as m:
            if prot & mmap.PROT_WRITE:
                m[64:64 + len(MARK)] = MARK
            return m[64:64 + len(MARK)].hex()
    finally:
        os.close(fd)


def by_read(name, offset, size=64):
    fd = os.open(name, os.O_RDWR)
    try:
        return os.pread(fd, size, offset).hex()
    finally:
        os.close(fd)


def by_write(name, offset):
    fd = os.open(name, os.O_RDWR)
    try:
        return os.pwrite(fd, MARK, offset)
    finally:
        os.close(fd)


BOTH = mmap.PROT_READ | mmap.PROT_WRITE
MAPS = {"shared": (BOTH, mmap.MAP_SHARED), "for reading": (mmap.PROT_READ, mmap.MAP_SHARED),
        "private": (BOTH, mmap.MAP_PRIVATE)}


def sysfs(device):
    found = {}
    for name in ("resource2", "resource2_wc", "resource0"):
        if not os.path.exists(path(device, name)):
            continue
        for way, (prot, flags) in MAPS.items():
            found[f"{name} {way}"] = attempt(lambda: by_map(path(device, name), prot, flags))
        found[f"{name} read"] = attempt(lambda: by_read(path(device, name), 64))
        found[f"{name} write"] = attempt(lambda: by_write(path(device, name), 64))
    return found


def mem(device):
    start, _ = place(device)
    found = {f"/dev/mem {way}": attempt(lambda: by_map("/dev/mem", prot, flags, start))
             for way, (prot, flags) in MAPS.items()}
    found["/dev/mem read"] = attempt(lambda: by_read("/dev/mem", start + 64))
    found["/dev/mem write"] = attempt(lambda: by_write("/dev/mem", start + 64))
    found["/dev/port"] = attempt(lambda: by_read("/dev/port", 0, 1))
    return found


def read_kcore(address, size):
    """Memory of the kernel by its virtual address."""
    with open("/proc/kcore", "rb", 0) as f:
        head = f.read(64)
        offset, size_of, count = struct.unpack_from("<Q", head, 32)[0], *struct.unpack_from("<HH", head, 54)
        for i in range(count):
            f.seek(offset + i * size_of)
            kind, _, where, start, _, length = struct.unpack("<IIQQQQ", f.read(40))
            if kind == 1 and start <= address < start + length:
                f.seek(where + address - start)
                return f.read(size)
    return None


def symbol(name):
    for line in open("/proc/kallsyms"):
        address, _, found = line.split()[:3]
        if found == name:
            return int(address, 16)
    raise ValueError(f"no symbol {name}")


def kcore(device):
    """Where the kernel has mapped the BAR, and where all of its memory is mapped."""
    start, size = place(device)
    found = {}
    for line in open("/proc/vmallocinfo"):
        match = re.match(r"0x([0-9a-f]+)-.* phys=0x0*([0-9a-f]+) ", line)
        if match and start <= int(match[2], 16) < start + size:
            found[f"mapping {len(found)}"] = (read_kcore(int(match[1], 16), 1 << 16) or b"").hex()
    direct = struct.unpack("<Q", read_kcore(symbol("page_offset_base"), 8))[0]
    found["direct map"] = (read_kcore(direct + start, 4096) or b"").hex()
    found["banner"] = read_kcore(symbol("linux_banner"), 13).hex()
    return found


def config(device, *accesses):
    """Each access is OFFSET:WIDTH or OFFSET:WIDTH=VALUE; what is there before a store is the answer."""
    fd, found = os.open(path(device, "config"), os.O_RDWR), []
    for access in accesses:
        where, _, value = access.partition("=")
        offset, width = (int(n, 0) for n in where.split(":"))
        found.append(int.from_bytes(os.pread(fd, width, offset), "little"))
        if value:
            os.pwrite(fd, int(value, 0).to_bytes(width, "little"), offset)
    os.close(fd)
    return found


def dma(device, source, target, size):
    """QEMU's teaching device has a buffer of 4 KiB at 0x40000 and copies to and from any address."""
    [command] = config(device, "4:2")
    config(device, f"4:2={command | 6}")
    fd = os.open(path(device, "resource0"), os.O_RDWR | os.O_SYNC)
    memory = mmap.mmap(fd, 1 << 20)
    word = {name: ctypes.c_uint64.from_buffer(memory, offset)
            for name, offset in (("source", 0x80), ("target", 0x88), ("count", 0x90), ("command", 0x98))}
    for here, there, command in ((int(source, 0), 0x40000, 1), (0x40000, int(target, 0), 3)):
        word["source"].value, word["target"].value, word["count"].value = here, there, int(size)
        word["command"].value = command
        while word["command"].value & 1:
            time.sleep(0.01)
    word.clear()
    return "done"


def main():
    what, *args = sys.argv[1:]
    if what in ("config", "dma"):
        answer = globals()[what](*args)
    else:
        answer = {device: globals()[what](device) for device in args}
    print(json.dumps(answer))


main()
