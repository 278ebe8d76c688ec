# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who gets at the windows: the holder, and neither strangers, nor debuggers, nor root, nor the guest's kernel."""

import os
import re
import struct

import pytest

from lab.kmod_world import OTHER_UID, PLACES, UID, device, hand, map_bar
from lab import kmod
from lab.ivshmem_host import PAGE
from lab.kmod import POLLERR, POLLIN, RX_OFFSET
from lab.puppet import MAP_SHARED, PROT_READ, error_of

STRANGERS = {"another uid": (OTHER_UID, "holder"), "another cgroup": (UID, "stranger"), "root": (0, "holder"),
             "root elsewhere": (0, "stranger")}


@pytest.mark.parametrize("who", STRANGERS)
def test_strangers(k, who):
    uid, cgroup = STRANGERS[who]
    channel = k.channel(0)
    stranger = k.worker(uid, cgroup)
    theirs = hand(channel.worker, channel.fd, stranger)

    size = 3 * PAGE
    assert error_of(theirs.map, size, PROT_READ, RX_OFFSET) == "EPERM"
    assert error_of(theirs.map, size + PAGE, PROT_READ, RX_OFFSET) == "EPERM"
    [denied] = k.owner.wait_events()
    assert denied[:7] == (kmod.DENIED, 0, channel.generation, kmod.OP_MMAP, stranger.pid, uid, k.cgroup[cgroup])
    assert denied.count == 2

    for call in (theirs.info, theirs.notify, lambda: theirs.wait(0)):
        assert error_of(call) == "EPERM"
    [denied] = k.owner.wait_events()
    assert (denied.op, denied.count) == (kmod.OP_IOCTL, 3)

    k.host.ring(k.vm, 1)
    assert channel.poll(5000) == POLLIN
    assert theirs.poll() == POLLERR
    assert k.owner.wait_events()[0].op == kmod.OP_POLL
    assert error_of(theirs.read) == "EPERM"
    assert k.owner.wait_events()[0].op == kmod.OP_READ
    assert channel.read() == 1  # nothing of this touched the channel
    assert k.host.rang("ivi", 1) == 0


def test_owner_is_told_that_the_fd_has_come(k):
    """By whatever the holder does with it, and by nobody else."""
    channel = k.channel(0)
    theirs = hand(channel.worker, channel.fd, k.worker(OTHER_UID, "holder"))
    assert error_of(theirs.info) == "EPERM"
    assert k.owner.wait_events()[0].op == kmod.OP_IOCTL
    assert k.owner.slot(0).flags == 0
    channel.poll()
    assert k.owner.slot(0).flags == kmod.SLOT_USED


def test_cgroup_below(k):
    channel = k.channel(0)
    theirs = hand(channel.worker, channel.fd, k.worker(UID, "holder/below"))
    theirs.map_rx()
    assert theirs.poll() == 0
    k.no_events()


def test_cgroup_above(k):
    """The holder's cgroup is the lower one: the folder above it has no right."""
    generation = k.grant(0)
    fd = k.open(0, generation, cgroup="holder/below")
    assert error_of(hand(k.owner.worker, fd, k.worker(UID, "holder")).map_rx) == "EPERM"


def test_holder_that_moves(k):
    """Leaving the cgroup ends the right, coming back restores it."""
    channel = k.channel(0)
    k.guest.run(f"echo {channel.worker.pid} > /sys/fs/cgroup/stranger/cgroup.procs", check=True)
    assert error_of(channel.info) == "EPERM"
    k.guest.run(f"echo {channel.worker.pid} > /sys/fs/cgroup/holder/cgroup.procs", check=True)
    channel.info()


def test_debuggers_see_nothing(k):
    """Neither ptrace's way nor another process's reads reach the windows."""
    channel = k.channel(0)
    rx = k.see(channel, b"secret")
    root = k.stage.spawn()
    fd = root.open(f"/proc/{channel.worker.pid}/mem", os.O_RDONLY)
    assert error_of(root.call, "pread64", fd, root.buffer, 6, rx) == "EIO"
    root.poke(root.buffer, struct.pack("<QQQQ", root.buffer + 64, 6, rx, 6))
    assert error_of(root.call, "process_vm_readv", channel.worker.pid, root.buffer, 1, root.buffer + 16, 1, 0) == "EFAULT"


@pytest.mark.parametrize("which", PLACES)
def test_root_cannot_map_a_bar(k, which):
    root, name = k.stage.spawn(), f"/sys/bus/pci/devices/{device(PLACES[which])}"
    assert error_of(map_bar, root, PLACES[which]) == "EINVAL"
    start = int(root.cat(f"{name}/resource").splitlines()[2].split()[0], 16)
    memory = root.open("/dev/mem", os.O_RDWR)
    assert error_of(root.call, "mmap", 0, PAGE, PROT_READ, MAP_SHARED, memory, start) == "EPERM"


def test_kernel_stores(k):
    """The read-only side is the hypervisor's: a guest kernel cannot write it either."""
    def store(which, offset):
        k.guest.run(f"insmod /root/store.ko device={PLACES[which]} offset={offset}")
        return re.findall(r"store: (\w+)", k.guest.kernel_log())[-1]

    k.grant(0)
    table, section = k.member.table.read(0, 2 * PAGE), k.other.section.read(0, 4 * PAGE)
    for offset in (0, 32, PAGE, PAGE + 40):
        assert store("table", offset) == "ignored"
    for offset in (0, PAGE, 3 * PAGE):
        assert store("peer", offset) == "ignored"
    assert k.member.table.read(0, 2 * PAGE) == table
    assert k.other.section.read(0, 4 * PAGE) == section
    assert store("own", 3 * PAGE) == "sticks"  # the probe itself works
