# SPDX-License-Identifier: LGPL-2.1-or-later
"""sivshm.ko in a guest of its own: a host without policy (lab.ivshmem_host) writes grants, processes
in the guest (lab.puppet) use them. Most cases need no second guest: the test is the peer.
"""

import contextlib
import os
import time

from . import kmod, puppet
from .ivshmem_host import PAGE
from .kmod import Channel, Owner
from .puppet import MAP_SHARED, PROT_READ, PROT_WRITE

UID, OTHER_UID = 1000, 1001
MODULE = "/root/sivshm.ko"
BOUND = "/sys/bus/pci/drivers/sivshm"
PLACES = {"table": 0x10, "own": 0x11, "peer": 0x12}
FOREIGN_ADDR, SPARE_ADDR = 0x18, 0x19


def device(addr):
    return f"0000:00:{addr:02x}.0"


def map_bar(worker, addr):
    """Root maps BAR2 by sysfs, as every tool for ivshmem does."""
    fd = worker.open(f"/sys/bus/pci/devices/{device(addr)}/resource2", os.O_RDWR)
    return worker.call("mmap", 0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)


def hand(giver, fd, taker):
    """A copy of a channel's fd for another process."""
    return Channel(taker, giver.send(taker, fd))


class Bench:
    """A guest with the module, the host behind it, and the puppets in it."""

    def __init__(self, guest, host, port, programs, vm="rtos", peer="ivi"):
        self.guest, self.host, self.vm, self.peer = guest, host, vm, peer
        self.member, self.other = host.members[vm], host.members[peer]
        guest.put_file(MODULE, programs["sivshm.ko"])
        guest.put_file("/root/store.ko", programs["store.ko"])
        guest.run("mkdir -p /sys/fs/cgroup/holder/below /sys/fs/cgroup/stranger", check=True)
        self.cgroup = {name: int(guest.run(f"stat -c %i /sys/fs/cgroup/{name}", check=True)[1])
                       for name in ("holder", "holder/below", "stranger")}
        self.backends = {}
        self.load()
        self.stage = puppet.Stage(guest, port, programs["puppet"])
        self.owner = None

    def begin(self):
        self.owner = Owner(self.stage.spawn())
        return self

    def end(self):
        """Everything must be gone: no channel may be left by a test, in whatever way it ended."""
        self.stage.clear()
        self.host.free_all(self.vm)
        owner = Owner(self.stage.spawn())
        for slot in range(self.host.slots) if owner.info().n_channels else ():
            state = owner.slot(slot)
            if state.channel:
                owner.adopt(slot, state.channel_generation)
        owner.events(200)
        left = owner.info().n_channels
        self.stage.clear()
        assert left == 0, f"{left} channels left"

    def assert_kernel_clean(self, since, known=lambda warning: False):
        """Since that note, until now. Warnings that are known are passed over."""
        if not self.guest.systemd:
            self.stage.note(f"lab: end of {since}")
            self.guest.console_has(f"lab: end of {since}")
        self.guest.assert_kernel_clean(f"{since}\n", known)

    # module and devices

    def insmod(self, parameters=""):
        self.guest.run(f"insmod {MODULE} {parameters}", check=True)

    def load(self, parameters=""):
        self.insmod(parameters)
        self.wait_sections()

    def unload(self):
        """Did the kernel let it go?"""
        return self.guest.run("rmmod sivshm")[0] == 0

    def wait_sections(self, count=2):
        """Sections may bind a moment after the table."""
        self.until(lambda: self.guest.run(f"ls -d {BOUND}/0000:*")[1].count("0000:") == count + 1,
                   f"{count} sections and a table bound")

    def driver_of(self, addr):
        return self.guest.run(f"readlink /sys/bus/pci/devices/{device(addr)}/driver")[1].strip().rpartition("/")[2]

    def bind(self, which):
        self.guest.run(f"echo {device(PLACES[which])} > {BOUND}/bind", check=True)

    def unbind(self, which):
        self.guest.run(f"echo {device(PLACES[which])} > {BOUND}/unbind", check=True)

    @contextlib.contextmanager
    def unplugged(self, which):
        """The guest without its table or its peer's section."""
        self.guest.device_del({"table": "dev-table", "peer": f"dev-{self.peer}"}[which])
        try:
            yield
        finally:
            self.plug(which)
            self.wait_sections()

    def plug(self, which):
        """QEMU wants a new backend for the device, and lets go of an old name late."""
        _, memory, _, device_options = {"table": self.host.table_args, "peer": self.host.peer_args}[which](self.vm)
        kind, *rest = memory.split(",")
        memory = dict(p.split("=") for p in rest)
        driver, *rest = device_options.split(",")
        properties = dict(p.split("=") for p in rest)
        self.guest.qmp.command("object-del", id=self.backends.get(which, memory["id"]))
        properties["memdev"] = self.backends[which] = f"{which}{time.monotonic_ns()}"
        self.guest.qmp.command("object-add", **{"qom-type": kind, **memory, "id": properties["memdev"],
                                                "size": int(memory["size"]), "share": True, "readonly": True})
        self.guest.device_add(driver, **properties)

    # what the host says

    def grant(self, slot, **fields):
        return self.host.grant(self.vm, slot, peer=self.peer, **fields)

    def revoke(self, channel):
        """By the host; returns when the kernel says that it is done."""
        self.host.revoke(self.vm, channel.slot)
        assert self.events() == ["REVOKED"]

    def places(self, **fields):
        """The two places of the table, the peer's changed."""
        return [self.host.place(self.member, self.member), self.host.place(self.member, self.other, **fields)]

    def write_table(self, **fields):
        self.host.write_table(self.member, **fields)
        self.host.ring(self.vm, 0)

    @contextlib.contextmanager
    def layout(self, **fields):
        """Another layout, and afterwards the right one again."""
        self.write_table(**fields)
        try:
            yield
        finally:
            self.write_table()

    # channels

    def worker(self, uid=UID, cgroup="holder"):
        return self.stage.spawn(uid, f"/sys/fs/cgroup/{cgroup}")

    def open(self, slot, generation, cgroup="holder", uid=UID, **kw):
        """The fd in the owner's hands."""
        return self.owner.open(slot, generation, uid, self.cgroup[cgroup], **kw)

    def channel(self, slot, worker=None, **fields):
        """A granted and opened channel in the hands of its holder, and nobody else's."""
        return self.take(slot, self.grant(slot, **fields), worker, fields.get("ring", PAGE))

    def take(self, slot, generation, worker=None, ring=PAGE):
        """The channel of a grant, likewise."""
        fd = self.open(slot, generation)
        channel = hand(self.owner.worker, fd, worker or self.worker())
        self.owner.worker.close(fd)
        channel.slot, channel.generation = slot, generation
        channel.offset = PAGE + slot * (PAGE + ring)
        return channel

    def see(self, channel, data=b"data"):
        """The address where the holder maps and reads what the peer wrote: the pages are there to be taken."""
        rx = channel.map_rx()
        self.other.section.write(channel.offset, data)
        assert channel.worker.peek(rx, len(data)) == data
        return rx

    # what the owner is told

    def events(self, count=1):
        return [kmod.EVENT_NAMES[e.type] for e in self.owner.wait_events(count)]

    def no_events(self, pause=0.2):
        time.sleep(pause)
        assert [e for e in self.owner.events() if e.type not in (kmod.TABLE, kmod.STORM)] == []

    def until(self, condition, what, timeout=10):
        end = time.monotonic() + timeout * self.guest.patience
        while not (value := condition()):
            assert time.monotonic() < end, f"timeout: {what}"
            time.sleep(0.02)
        return value
