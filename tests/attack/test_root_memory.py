# SPDX-License-Identifier: LGPL-2.1-or-later
"""Root in a guest at the memory of the devices, past /dev/sivshm: from user space, by PCI, by DMA, in the kernel.

Two lines of defence. While the module holds the devices, a kernel with IO_STRICT_DEVMEM gives user space no way to
map them. Who has the kernel, or takes the devices from the module, reads what its VM may see (that is outside the
threat model, and nothing gained), and writes nothing but its own section: QEMU has opened the rest O_RDONLY.
"""

import contextlib
import json
import re
import time

import pytest

from lab import grants, paths, story
from lab import build as builds
from lab.attack import ROOT, attack
from lab.ivshmem_host import PAGE
from lab.kmod_world import FOREIGN_ADDR, PLACES, device
from lab.puppet import error_of
from lab.world import PCI_SLOT, RUNTIME, SECTION_SIZE

TOOL = "/root/bar.py"
SECRET = b"a secret of the peer"
MARK = b"root was here"
EDU_ADDR = 0x1b


@pytest.fixture
def tool(k):
    """tests/kmod/bar.py in the guest, as a function."""
    k.guest.put_file(TOOL, (paths.ROOT / "tests/kmod/bar.py").read_bytes())

    def run(*args):
        rc, out, err = k.guest.run(["/usr/bin/python3", TOOL, *map(str, args)])
        assert rc == 0, err
        return json.loads(out)
    return run


class OthersMemory:
    """What this VM must not write."""

    def __init__(self, k):
        self.k = k
        k.other.section.write(3 * PAGE, SECRET)
        k.grant(0)
        self.look()

    def now(self):
        return [memory.read(0, memory.size) for memory in (self.k.other.section, self.k.member.table)]

    def look(self):
        """After the host has written there itself."""
        self.before = self.now()

    def same(self):
        return self.now() == self.before


@pytest.fixture
def others_memory(k):
    """Whatever happens, the peer's section and the table stay as they were."""
    memory = OthersMemory(k)
    yield memory
    assert memory.same()


def bar(k, addr, number=2):
    """Where a BAR is: (address, size)."""
    line = k.guest.run(f"sed -n {number + 1}p /sys/bus/pci/devices/{device(addr)}/resource", check=True)[1]
    start, end, _ = (int(n, 16) for n in line.split())
    return start, end - start + 1


DEVICES = {device(addr): which for which, addr in PLACES.items()}
REFUSED = {"EINVAL", "EPERM", "EIO", "EACCES", "ENODEV", "EBUSY", "ENOENT", "EFAULT"}


def all_refused(answers):
    for name, ways in answers.items():
        assert len(ways) >= 5 and set(ways.values()) <= REFUSED, (DEVICES[name], ways)


@attack(ROOT, "maps, reads and writes resource0, resource2 and resource2_wc of table, own and peer section",
        stops="the module claims the BARs exclusively: `src/kmod/bar.c` (with `IO_STRICT_DEVMEM`)",
        control="an ivshmem device that nobody claims is mapped, and the store reaches its memory")
def test_sysfs(k, tool, others_memory, control):
    all_refused(tool("sysfs", *DEVICES))
    k.foreign.write(64, bytes(len(MARK)))
    ways = tool("sysfs", device(FOREIGN_ADDR))[device(FOREIGN_ADDR)]
    control.seen(ways["resource2 shared"] == f"ok {MARK.hex()}" and k.foreign.read(64, len(MARK)) == MARK)


@attack(ROOT, "maps, reads and writes the BARs by /dev/mem and looks for /dev/port",
        stops="the module claims the BARs exclusively: `src/kmod/bar.c` (with `IO_STRICT_DEVMEM`)",
        control="the BAR of a device that nobody claims is mapped, and the store reaches its memory")
def test_dev_mem(k, tool, others_memory, control):
    all_refused(tool("mem", *DEVICES))
    k.foreign.write(64, bytes(len(MARK)))
    ways = tool("mem", device(FOREIGN_ADDR))[device(FOREIGN_ADDR)]
    control.seen(ways["/dev/mem shared"] == f"ok {MARK.hex()}" and k.foreign.read(64, len(MARK)) == MARK)


@attack(ROOT, "reads the sections where the kernel has mapped them, by /proc/kcore "
              "(they are its own VM's to see: outside the threat model; Linux shows zeros)",
        stops="Linux leaves I/O mappings out of `/proc/kcore`; the module maps them as such: `src/kmod/bar.c`",
        control="the kernel's own text is read the same way")
def test_kcore(k, tool, others_memory, control):
    for name, found in tool("kcore", *DEVICES).items():
        assert any(way.startswith("mapping") for way in found), found.keys()
        assert not any(SECRET.hex() in text for text in found.values()), DEVICES[name]
        banner = found["banner"]
    control.seen(bytes.fromhex(banner) == b"Linux version")


@attack(ROOT, "reads a holder's windows by /proc/PID/mem and process_vm_readv",
        stops="the windows are I/O mappings without access for debuggers: `src/kmod/map.c`",
        control="the holder's other memory is read the same way")
def test_debugger(k, others_memory, control):
    channel, root = k.channel(1), k.stage.spawn()
    rx = k.see(channel, b"secret")
    others_memory.look()
    tx = channel.map_tx()
    channel.worker.poke(channel.worker.buffer, b"secret")
    fd = root.open(f"/proc/{channel.worker.pid}/mem", 2)

    def reads(address):
        root.poke(root.buffer + 128, root.buffer.to_bytes(8, "little") + (6).to_bytes(8, "little")
                  + address.to_bytes(8, "little") + (6).to_bytes(8, "little"))
        vectors = root.buffer + 128, 1, root.buffer + 144, 1, 0
        return [error_of(root.call, "pread64", fd, root.buffer, 6, address),
                error_of(root.call, "process_vm_readv", channel.worker.pid, *vectors)]
    assert reads(rx) == reads(tx) == ["EIO", "EFAULT"]
    control.seen(reads(channel.worker.buffer) == ["ok", "ok"] and root.peek(root.buffer, 6) == b"secret")


# who has the devices

@contextlib.contextmanager
def driven_by(k, driver, which):
    """Another driver, or none, has one of our devices for a while."""
    addr = PLACES[which]
    folder = f"/sys/bus/pci/devices/{device(addr)}"
    k.unbind(which)
    try:
        if driver:
            k.guest.run(f"modprobe {driver.replace('-', '_')}; echo {driver} > {folder}/driver_override;"
                        f" echo {device(addr)} > /sys/bus/pci/drivers_probe")
        yield k.driver_of(addr)
    finally:
        k.guest.run(f"[ -e {folder}/driver ] && echo {device(addr)} > {folder}/driver/unbind;"
                    f" echo > {folder}/driver_override")
        k.bind(which)
        k.wait_sections()


@pytest.mark.parametrize("driver", ["", "uio_pci_generic", "vfio-pci"])
@attack(ROOT, "takes a device from the module (no driver, uio_pci_generic, vfio-pci) and stores to BAR2 by sysfs "
              "(reading what its VM may see is outside the threat model)",
        stops="QEMU opened table and peer section O_RDONLY and maps them as ROM: `src/sivshm-cad/qemu-args.c`",
        control="the same stores to its own section stick")
def test_device_taken(k, tool, others_memory, control, driver):
    expected = {"vfio-pci": ""}.get(driver, driver)  # without an IOMMU vfio-pci takes nothing
    for which in PLACES:
        with driven_by(k, driver, which) as bound:
            assert bound == expected
            ways = tool("sysfs", device(PLACES[which]))[device(PLACES[which])]
            assert ways["resource2 shared"].startswith("ok"), ways
            memory = {"own": k.member.section, "table": k.member.table, "peer": k.other.section}[which]
            if which == "own":
                control.seen(ways["resource2 shared"] == f"ok {MARK.hex()}" and memory.read(64, len(MARK)) == MARK)
                memory.write(64, bytes(len(MARK)))
            else:
                assert MARK not in memory.read(0, memory.size) and MARK.hex() not in ways["resource2 shared"]


def kernel_store(k, which, offset):
    k.guest.run(f"insmod /root/store.ko device={PLACES[which]} offset={offset}")  # it never stays loaded
    return re.findall(r"store: (\w+)", k.guest.kernel_log())[-1]


@contextlib.contextmanager
def moved(k, tool, which, target):
    """BAR2 of a device answers at another address, by its PCI configuration; the kernel does not know."""
    name = device(PLACES[which])
    low, high, new_low, new_high = tool("config", name, f"0x18:4={target & 0xffffffff}", f"0x1c:4={target >> 32}",
                                        "0x18:4", "0x1c:4")
    try:
        yield (new_low & ~0xf) | new_high << 32
    finally:
        tool("config", name, f"0x18:4={low}", f"0x1c:4={high}")


@attack(ROOT, "moves the BAR of its own section over the peer's and over the grant table by PCI configuration space, "
              "and stores there (its own kernel it can deceive that way: outside the threat model)",
        stops="addresses are the guest's own affair; each BAR stays what QEMU opened: `src/sivshm-cad/qemu-args.c`",
        control="the moved BAR takes the stores: they are in its own section")
def test_moved_bar(k, tool, others_memory, control):
    for which, offset in (("peer", 3 * PAGE), ("table", 2 * PAGE)):
        assert kernel_store(k, which, offset) == "ignored"
        start, _ = bar(k, PLACES[which])
        before = k.member.section.read(0, k.member.section.size)
        with moved(k, tool, "own", start) as there:
            k.guest.run(f"insmod /root/store.ko device={PLACES[which]} offset={offset}")
        place = start + offset - there
        after = k.member.section.read(0, k.member.section.size)
        control.seen(after[place:place + 4] == bytes(b ^ 0xff for b in before[place:place + 4]))
        assert after[:place] == before[:place] and after[place + 4:] == before[place + 4:]
        k.member.section.write(place, before[place:place + 4])
        assert kernel_store(k, which, offset) == "ignored"


@attack(ROOT, "switches the memory of the grant table's device off and rings",
        stops="what is not a grant is a revoked one: `src/kmod/table.c`",
        control="with the memory on, the same ring leaves the channel open")
def test_table_switched_off(k, tool, others_memory, control):
    channel = k.channel(1)
    rx = k.see(channel, SECRET)
    others_memory.look()
    k.host.ring(k.vm, 0)
    k.no_events()
    control.seen(channel.worker.peek(rx, len(SECRET)) == SECRET)
    name = device(PLACES["table"])
    [command] = tool("config", name, "4:2")
    tool("config", name, f"4:2={command & ~2}")
    try:
        k.host.ring(k.vm, 0)
        assert k.events() == ["REVOKED"]
        assert channel.worker.peek(rx, len(SECRET)) == bytes(len(SECRET))
        assert error_of(k.open, 0, 1) != "ok"
    finally:
        tool("config", name, f"4:2={command}")
        k.host.ring(k.vm, 0)


# who has the kernel

@attack(ROOT, "stores to the grant table and to the peer's section from a kernel module, in every way that the CPU has",
        stops="QEMU opened the files O_RDONLY and maps them as ROM: `src/sivshm-cad/qemu-args.c`",
        control="each of the stores to its own section sticks")
def test_kernel_stores(k, others_memory, control):
    def ways(which, offset):
        return story.kernel_stores(k.guest, PLACES[which], offset)

    for which, offsets in (("table", (0, 24, PAGE, k.member.table.size - 8)), ("peer", (0, 3 * PAGE, (1 << 20) - 8))):
        for offset in offsets:
            assert set(ways(which, offset).values()) == {"ignored"}, (which, offset)
    control.seen(set(ways("own", 3 * PAGE).values()) == {"sticks"})


def quiet(world, files):
    """Their contents once the services have said all and both sleep: from then on nobody has to write there."""
    def look():
        return [path.read_bytes() for path in files]

    def stands_still():
        before = look()
        time.sleep(0.5)
        return b"message of channel 0" in before[0] and look() == before
    world.wait_until(stands_still, "the channel is quiet")
    return look()


@attack(ROOT, "stores to the peer's window and to the grants of a channel in use, from a kernel module",
        stops="QEMU opened the files O_RDONLY and maps them as ROM: `src/sivshm-cad/qemu-args.c`",
        control="each of the stores to its own section sticks; the channel goes on")
def test_kernel_stores_under_a_channel(world, control):
    world.rtos.put_file("/root/store.ko", builds.test_module(world.image, "store"))
    files = [RUNTIME / "region/cockpit/ivi", RUNTIME / "vm/rtos/grants"]
    table, own, peer = (PCI_SLOT + i for i in range(3))
    with story.echo(world):
        with story.held_channel(world):
            [grant] = grants.active("rtos")
            before = quiet(world, files)
            for slot, offset in ((peer, grant["rx"][0]), (peer, grant["rx"][0] + PAGE), (table, grants.HEADER_SIZE),
                                 (table, grants.HEADER_SIZE + 40)):
                assert set(story.kernel_stores(world.rtos, slot, offset).values()) == {"ignored"}
            assert [path.read_bytes() for path in files] == before
        control.seen(set(story.kernel_stores(world.rtos, own, SECTION_SIZE - PAGE).values()) == {"sticks"})
        story.connect_many(world, 1, "hold")
    world.wait_channels(0)


@pytest.fixture
def edu(k):
    k.guest.device_add("edu", "edu", addr=f"{EDU_ADDR:#x}", dma_mask=(1 << 64) - 1)
    k.until(lambda: k.guest.run(f"test -e /sys/bus/pci/devices/{device(EDU_ADDR)}/resource0")[0] == 0, "edu is there")
    yield device(EDU_ADDR)
    k.guest.device_del("edu")


@attack(ROOT, "has another device write to the grant table and to the peer's section by DMA",
        stops="QEMU opened the files O_RDONLY: no device of the guest writes them: `src/sivshm-cad/qemu-args.c`",
        control="the same DMA to its own section arrives")
def test_dma(k, tool, edu, others_memory, control):
    own = bar(k, PLACES["own"])[0]
    k.member.section.write(5 * PAGE, MARK)
    k.member.section.write(6 * PAGE, bytes(PAGE))
    for which, offset in (("peer", 3 * PAGE), ("table", PAGE), ("table", 0)):
        tool("dma", edu, own + 5 * PAGE, bar(k, PLACES[which])[0] + offset, 64)
    tool("dma", edu, own + 5 * PAGE, own + 6 * PAGE, 64)
    control.seen(k.member.section.read(6 * PAGE, len(MARK)) == MARK)
