# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which devices are ours: a stranger is left alone, and what could be forged is refused."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from lab.kmod_world import FOREIGN_ADDR, SPARE_ADDR, device, map_bar
from lab import ivshmem_host
from lab.ivshmem_host import PAGE


def test_foreign_device_is_left_alone(k):
    """It was there when the module was loaded: bound by nobody, not moved, usable by sysfs."""
    assert k.driver_of(FOREIGN_ADDR) == ""
    assert k.guest.run(f"cat /sys/bus/pci/devices/{device(FOREIGN_ADDR)}/resource")[1] == k.guest.foreign_bars
    k.guest.run(f"echo 1 > /sys/bus/pci/devices/{device(FOREIGN_ADDR)}/enable", check=True)
    root = k.stage.spawn()
    bar = map_bar(root, FOREIGN_ADDR)
    root.poke(bar, b"root")
    assert root.peek(bar, 4) == b"root"
    assert k.foreign.read(0, 4) == b"root"


def test_foreign_mapping_survives_the_module(k):
    """A user who maps a stranger's BAR keeps it while the module is loaded and looks at the device."""
    k.stage.clear()
    assert k.unload()
    root = k.stage.spawn()
    bar = map_bar(root, FOREIGN_ADDR)
    writing = threading.Event()

    def write():
        for i in range(60):
            root.poke(bar, bytes([i]))
            writing.set()
            time.sleep(0.05)
    with ThreadPoolExecutor() as pool:
        writer = pool.submit(write)
        writing.wait()
        k.load()
        writer.result()
    assert k.foreign.read(0, 1) == bytes([59])


def hot_plug(k, memory, ident, *, readonly, addr=SPARE_ADDR):
    k.guest.qmp.command("object-add", **{"qom-type": "memory-backend-file", "id": f"m-{ident}", "share": True,
                                         "mem-path": str(memory.path), "size": memory.size, "readonly": readonly})
    k.guest.device_add("ivshmem-plain", ident, memdev=f"m-{ident}", addr=f"{addr:#x}")
    k.until(lambda: k.guest.run(f"test -e /sys/bus/pci/devices/{device(addr)}")[0] == 0, "device")
    time.sleep(0.3)


def unplug(k, ident):
    k.guest.device_del(ident)
    k.guest.qmp.command("object-del", id=f"m-{ident}")


@pytest.fixture
def spare(k):
    """Makes devices that go away with the test."""
    made = []

    def make(size, content, *, readonly):
        ident = f"spare{time.monotonic_ns()}"
        memory = ivshmem_host.Memory(k.host.folder / ident, size)
        os.chown(memory.path, k.guest.uid, k.guest.uid)
        memory.write(0, content)
        hot_plug(k, memory, ident, readonly=readonly)
        made.append((ident, memory))
        return memory
    yield make
    for ident, memory in made:
        unplug(k, ident)
        memory.close()
        os.unlink(memory.path)


def test_magic_alone_makes_no_section(k, spare):
    spare(1 << 20, k.other.section.read(0, 24), readonly=True)
    assert k.driver_of(SPARE_ADDR) == ""
    assert k.owner.info().n_sections == 2


def test_writable_table_is_refused(k, spare):
    """Else whoever shares that memory would write our grants."""
    k.stage.clear()
    with k.unplugged("table"):
        memory = spare(ivshmem_host.TABLE_SIZE, k.member.table.read(0, PAGE), readonly=False)
        assert k.driver_of(SPARE_ADDR) == ""
        assert memory.read(0, PAGE) == k.member.table.read(0, PAGE)  # as it was
        assert "grant table is writable" in k.guest.kernel_log()


def test_second_table_is_refused(k, spare):
    channel = k.channel(0)
    spare(ivshmem_host.TABLE_SIZE, k.member.table.read(0, PAGE), readonly=True)
    assert k.driver_of(SPARE_ADDR) == ""
    assert "a second grant table: refused" in k.guest.kernel_log()
    assert channel.poll() == 0


def test_writable_peer_section_is_refused(k, spare):
    memory = spare(1 << 20, k.other.section.read(0, 24), readonly=False)
    before = memory.read(0, PAGE)
    extra = k.host.place(k.member, k.other, devfn=SPARE_ADDR << 3, member=6)
    with k.layout(places=[*k.places(), extra]):
        k.until(lambda: "is writable to us: refused" in k.guest.kernel_log(), "refusal")
        assert k.owner.section(2).state == 0
        assert memory.read(0, PAGE) == before


def test_section_listed_after_it_was_plugged(k, spare):
    spare(1 << 20, bytes(24), readonly=True)
    extra = k.host.place(k.member, k.other, devfn=SPARE_ADDR << 3, member=6)
    with k.layout(places=[*k.places(), extra]):
        k.until(lambda: k.owner.info().n_sections == 3 and k.owner.section(2).state == 1, "third section")
