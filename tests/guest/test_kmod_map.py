# SPDX-License-Identifier: LGPL-2.1-or-later
"""The windows: the right pages, cached, and nothing else in whatever way one asks."""

import re
import struct

import pytest

from lab.kmod_world import PLACES, device
from lab import kmod, puppet
from lab.ivshmem_host import ACTIVE, PAGE
from lab.kmod import RX_OFFSET, TX_OFFSET
from lab.puppet import MAP_PRIVATE, PROT_EXEC, PROT_NONE, PROT_READ, PROT_WRITE, Fault, error_of


def test_write_back(k):
    """BAR2 was moved above 4 GiB, and both the kernel's own list and the module say write-back."""
    assert [k.owner.section(i).mapping for i in range(2)] == [kmod.MAPPING_WB] * 2
    memtypes = k.guest.run("cat /sys/kernel/debug/x86/pat_memtype_list", check=True)[1]
    for addr in PLACES.values():
        line = k.guest.run(f"sed -n 3p /sys/bus/pci/devices/{device(addr)}/resource", check=True)[1]
        start, end, _ = (int(n, 16) for n in line.split())
        assert start >= 1 << 32
        assert re.search(rf"{start:#018x}-{end + 1:#018x}\] write-back", memtypes), memtypes


def test_data_both_ways(k):
    channel = k.channel(3)
    info = channel.info()
    assert (info.state, info.slot, info.generation) == (ACTIVE, 3, channel.generation)
    assert (info.tx_ring_size, info.tx_map_size) == (PAGE, 3 * PAGE)
    assert (kmod.text(info.local_service), kmod.text(info.peer_vm), kmod.text(info.peer_service)) == \
        ("sensor", "ivi", "dashboard")
    tx, rx = channel.map_tx(), channel.map_rx()
    channel.worker.poke(tx, b"from the guest")
    assert k.member.section.read(channel.offset, 14) == b"from the guest"
    k.other.section.write(channel.offset, b"from the host")
    assert channel.worker.peek(rx, 13) == b"from the host"


@pytest.mark.parametrize("ring", [PAGE, 8 * PAGE])
def test_windows_are_exact(k, ring):
    """Every page of both sections is marked: the views show the window, the ring twice, nothing else."""
    for memory in (k.member.section, k.other.section):
        for page in range(1, memory.size // PAGE):
            memory.write(page * PAGE, struct.pack("<Q", page))
    channel = k.channel(5, ring=ring, tx_offset=20 * PAGE, rx_offset=40 * PAGE)
    pages = ring // PAGE
    for address, first in ((channel.map_tx(), 20), (channel.map_rx(), 40)):
        seen = [struct.unpack("<Q", channel.worker.peek(address + i * PAGE))[0] for i in range(1 + 2 * pages)]
        ring_pages = list(range(first + 1, first + 1 + pages))
        assert seen == [first, *ring_pages, *ring_pages]


def test_neighbours(k):
    """Two channels in one process do not see each other's windows."""
    worker = k.worker()
    one, two = k.channel(1, worker), k.channel(2, worker)
    for channel in (one, two):
        channel.tx, channel.rx = channel.map_tx(), channel.map_rx()
        worker.poke(channel.tx, bytes([channel.slot]) * 8)
        worker.poke(channel.tx + PAGE, bytes([channel.slot + 100]) * 8)
    assert k.member.section.read(one.offset, 8) == b"\x01" * 8
    assert k.member.section.read(two.offset, 8) == b"\x02" * 8
    assert worker.peek(one.tx + 2 * PAGE) == b"\x65" * 8
    assert worker.peek(two.tx + 2 * PAGE) == b"\x66" * 8


def test_split_mapping_shows_its_part(k):
    """Pages are found by their place in the view, not in what is left of it; first touch after the split."""
    for page in range(5):
        k.other.section.write((40 + page) * PAGE, struct.pack("<Q", 100 + page))
    channel = k.channel(0, ring=4 * PAGE, rx_offset=40 * PAGE)
    worker = channel.worker
    rx = channel.map_rx()
    worker.call("munmap", rx, 2 * PAGE)
    spot = worker.call("mmap", 0, 16 * PAGE, PROT_NONE, MAP_PRIVATE | puppet.MAP_ANONYMOUS, -1, 0)
    moved = worker.call("mremap", rx + 5 * PAGE, 2 * PAGE, 2 * PAGE, 3, spot)
    seen = [struct.unpack("<Q", worker.peek(a))[0] for a in (rx + 2 * PAGE, rx + 4 * PAGE, moved, rx + 8 * PAGE)]
    assert seen == [102, 104, 101, 104]


def test_number_of_mappings(k):
    """At most so many, parts counted; those that are there are whole and go on working."""
    channel = k.channel(0, ring=16 * PAGE)
    worker, size = channel.worker, channel.info().rx_map_size
    maps = [channel.map_tx()] + [channel.map_rx() for _ in range(kmod.MAX_MAPS - 1)]
    assert error_of(channel.map_rx) == error_of(channel.map_tx) == "ENOMEM"
    assert error_of(worker.call, "mprotect", maps[1] + PAGE, PAGE, PROT_NONE) == "ENOMEM"
    assert error_of(worker.call, "munmap", maps[1] + PAGE, PAGE) == "ENOMEM"
    spot = worker.call("mmap", 0, size, PROT_NONE, MAP_PRIVATE | puppet.MAP_ANONYMOUS, -1, 0)
    maps[1] = worker.call("mremap", maps[1], size, size, 3, spot)  # one that moves is no further one
    for _ in range(2):
        worker.call("munmap", maps.pop(), size)
    worker.call("mprotect", maps[1] + PAGE, PAGE, PROT_NONE)  # three parts
    assert error_of(channel.map_rx) == "ENOMEM"
    k.other.section.write(channel.offset, b"still")
    assert all(worker.peek(address, 5) == b"still" for address in maps[1:])
    k.revoke(channel)
    assert all(worker.peek(address, 5) == bytes(5) for address in maps[1:])
    assert error_of(channel.map_rx) == "ENOLINK"
    for address in maps:
        worker.call("munmap", address, size)


def test_map_refusals(k):
    channel = k.channel(0)
    size = channel.info().tx_map_size
    rw = PROT_READ | PROT_WRITE
    refused = {
        "one page more": (size + PAGE, PROT_READ, TX_OFFSET), "one page less": (size - PAGE, PROT_READ, TX_OFFSET),
        "control page alone": (PAGE, PROT_READ, TX_OFFSET), "rx one page more": (size + PAGE, PROT_READ, RX_OFFSET),
        "rx one page less": (size - PAGE, PROT_READ, RX_OFFSET), "second page": (size, PROT_READ, TX_OFFSET + PAGE),
        "page before rx": (size, PROT_READ, RX_OFFSET - PAGE), "second rx page": (size, PROT_READ, RX_OFFSET + PAGE),
        "twice rx": (size, PROT_READ, 2 * RX_OFFSET), "last page": (size, PROT_READ, (1 << 63) - PAGE - size),
        "nothing there": (size, PROT_READ, 1 << 40),
    }
    for name, (length, prot, offset) in refused.items():
        assert error_of(channel.map, length, prot, offset) == "EINVAL", name
    assert error_of(channel.map, size, PROT_READ, (1 << 64) - PAGE) in ("EOVERFLOW", "EINVAL")
    assert error_of(channel.map, size, PROT_READ, TX_OFFSET + 1) == "EINVAL"
    assert error_of(channel.map, size, rw, TX_OFFSET, MAP_PRIVATE) == "EINVAL"
    assert error_of(channel.map, size, PROT_READ, RX_OFFSET, MAP_PRIVATE) == "EINVAL"
    assert error_of(channel.map, size, rw, RX_OFFSET) == "EACCES"
    assert error_of(channel.map, size, PROT_WRITE, RX_OFFSET) == "EACCES"
    assert error_of(channel.map, size, PROT_READ | PROT_EXEC, RX_OFFSET) == "EACCES"
    assert error_of(channel.map, size, rw | PROT_EXEC, TX_OFFSET) == "EACCES"
    channel.map_tx(), channel.map_rx()
    k.no_events(0)


def test_mapping_cannot_gain_rights(k):
    channel = k.channel(0)
    worker = channel.worker
    tx, rx, size = channel.map_tx(), channel.map_rx(), channel.info().tx_map_size
    assert error_of(worker.call, "mprotect", rx, size, PROT_READ | PROT_WRITE) == "EACCES"
    assert error_of(worker.call, "mprotect", rx, size, PROT_READ | PROT_EXEC) == "EACCES"
    assert error_of(worker.call, "mprotect", tx, size, PROT_READ | PROT_EXEC) == "EACCES"
    assert error_of(worker.call, "mremap", tx, size, size + PAGE, 1) == "EFAULT"
    assert error_of(worker.call, "mremap", rx, size, 2 * size, 1) == "EFAULT"
    assert error_of(worker.call, "mremap", rx, 0, size, 1) != "ok"
    for advice in (11, 17):  # MADV_DOFORK, MADV_DODUMP
        assert error_of(worker.call, "madvise", rx, size, advice) == "EINVAL"
    with pytest.raises(Fault) as fault:
        worker.poke(rx, b"x")
    assert fault.value.signal == puppet.SIGSEGV
    maps = k.guest.run(f"cat /proc/{worker.pid}/smaps", check=True)[1]
    for start in (tx, rx):
        flags = re.search(rf"^{start:x}-.*?^VmFlags: (.*?)$", maps, re.M | re.S)[1].split()
        assert {"sh", "io", "pf", "dc", "de", "dd"} <= set(flags) and "me" not in flags
        assert ("mw" in flags) == (start == tx)
