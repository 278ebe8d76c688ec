# SPDX-License-Identifier: LGPL-2.1-or-later
"""The owner of /dev/sivshm: what it sees and is told, and what lives on when it goes."""

import os

from lab.kmod_world import OTHER_UID, UID, hand
from lab import kmod
from lab.kmod import POLLERR, POLLHUP, POLLIN, Owner
from lab.puppet import error_of


def test_info_and_sections(k):
    info = k.owner.info()
    assert (info.abi, info.n_slots, info.n_sections, info.n_channels, info.vm) == (1, k.host.slots, 2, 0, "rtos")
    own, peer = k.owner.section(0), k.owner.section(1)
    assert (own.state, own.flags, own.member, own.region) == (1, 1, k.member.id, k.host.region)
    assert (peer.state, peer.flags, peer.member, kmod.text(peer.vm)) == (1, 0, k.other.id, "ivi")
    assert error_of(k.owner.section, 2) == "ENOENT"
    assert error_of(k.owner.slot, k.host.slots) == "ENOENT"
    assert error_of(k.owner.slot, 0xffffffff) == "ENOENT"


def test_owner_is_exclusive(k):
    other = k.stage.spawn()
    assert error_of(Owner, other) == "EBUSY"
    k.owner.close()
    Owner(other)
    assert error_of(Owner, k.owner.worker) == "EBUSY"


def test_event_reads(k):
    worker = k.owner.worker
    assert error_of(worker.call, "read", k.owner.fd, worker.buffer, kmod.EVENT.size - 1) == "EINVAL"
    k.owner.events()
    assert error_of(worker.call, "read", k.owner.fd, worker.buffer, kmod.EVENT.size) == "EAGAIN"
    channels = [k.channel(i) for i in range(3)]
    for channel in channels:
        channel.worker.end()
    k.until(lambda: k.owner.worker.poll(k.owner.fd, POLLIN), "events")
    assert error_of(worker.call, "read", k.owner.fd, 8, kmod.EVENT.size) == "EFAULT"
    assert k.owner.info().n_channels == 3  # an event that was not delivered is not taken
    k.until(lambda: all(k.owner.slot(i).channel == kmod.CHANNEL_RELEASED for i in range(3)), "released")
    assert len(worker.read(k.owner.fd, 2 * kmod.EVENT.size + 5)) == 2 * kmod.EVENT.size
    assert [e.type for e in k.owner.events()] == [kmod.RELEASED]
    worker.call("fcntl", k.owner.fd, 4, 0)
    worker.begin("read", k.owner.fd, worker.buffer, kmod.EVENT.size)
    k.grant(9)
    k.write_table()
    assert worker.finish() == kmod.EVENT.size
    worker.call("fcntl", k.owner.fd, 4, os.O_NONBLOCK)


def test_close_by_owner(k):
    channel = k.channel(0)
    assert error_of(k.owner.revoke, 0, channel.generation + 1) == "ESTALE"
    assert error_of(k.owner.revoke, 1, channel.generation) == "ESTALE"
    k.owner.revoke(0, channel.generation)
    k.owner.revoke(0, channel.generation)
    assert k.events() == ["REVOKED"]
    assert channel.poll() == POLLHUP | POLLERR


# The owner goes


def test_orphans(k):
    used, left = k.channel(0), k.channel(1)
    tx = used.map_tx()
    k.owner.worker.end()
    used.worker.poke(tx, b"goes on")
    assert k.member.section.read(used.offset, 7) == b"goes on"
    used.notify()
    assert k.host.rang("ivi", 1, timeout=5) == 1
    k.host.revoke(k.vm, 1)
    assert left.poll(5000) == POLLHUP | POLLERR
    left.worker.end()

    k.owner = Owner(k.stage.spawn())
    assert k.owner.info().n_channels == 2
    assert k.owner.slot(0).flags & kmod.SLOT_ORPHAN
    k.until(lambda: k.owner.slot(1).channel == kmod.CHANNEL_RELEASED, "released")
    k.no_events()
    assert error_of(k.owner.adopt, 0, used.generation + 1) == "ESTALE"
    assert error_of(k.owner.adopt, 7, 1) == "ESTALE"
    slot = k.owner.slot(0)
    assert (slot.channel_generation, slot.uid, slot.cgroup) == (used.generation, UID, k.cgroup["holder"])
    k.owner.adopt(1, left.generation)
    assert k.events(2) == ["REVOKED", "RELEASED"]
    k.owner.adopt(0, used.generation)
    k.owner.adopt(0, used.generation)
    assert not k.owner.slot(0).flags & kmod.SLOT_ORPHAN
    used.worker.end()
    assert k.events() == ["RELEASED"]
    assert k.owner.info().n_channels == 0


def test_orphan_is_revoked_without_an_owner(k):
    """The host's word is carried out when there is no daemon at all."""
    channel = k.channel(0)
    rx = k.see(channel)
    k.owner.worker.end()
    k.host.revoke(k.vm, 0)
    assert channel.poll(5000) == POLLHUP | POLLERR
    assert channel.worker.peek(rx, 4) == bytes(4)


def test_denials_of_an_orphan_do_not_pile_up(k):
    channel = k.channel(0)
    k.owner.worker.end()
    theirs = hand(channel.worker, channel.fd, k.worker(OTHER_UID))
    for _ in range(50):
        assert theirs.poll() == POLLERR
    k.owner = Owner(k.stage.spawn())
    k.owner.adopt(0, channel.generation)
    [denied] = k.owner.wait_events()
    assert (denied.type, denied.count) == (kmod.DENIED, 50)
