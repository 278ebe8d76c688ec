# SPDX-License-Identifier: LGPL-2.1-or-later
"""Channels are taken back: by the host, by the owner, under load; or the peer closes and they drain."""

import struct
import time

import pytest

from lab import kmod, puppet
from lab.ivshmem_host import DRAINING, FREE, PAGE, REVOKED
from lab.kmod import POLLERR, POLLHUP, POLLIN, POLLRDHUP
from lab.puppet import MAP_PRIVATE, PROT_NONE, PROT_READ, Fault, error_of


def test_revoke_while_mapped(k):
    channel = k.channel(3)
    tx, rx = channel.map_tx(), k.see(channel, b"peer's data")
    channel.worker.poke(tx, b"before")
    k.revoke(channel)
    k.member.section.write(channel.offset, b"\xaa" * 3 * PAGE)
    k.other.section.write(channel.offset, b"\xbb" * 3 * PAGE)

    for page in range(3):
        assert channel.worker.peek(rx + page * PAGE, 64) == bytes(64)
        assert channel.worker.peek(tx + page * PAGE, 64) == bytes(64)
    channel.worker.poke(tx, b"too late")
    assert k.member.section.read(channel.offset, 8) == b"\xaa" * 8
    assert channel.worker.peek(rx, 8) == bytes(8)

    assert channel.poll() == POLLHUP | POLLERR
    for call in (channel.notify, lambda: channel.wait(0), lambda: channel.wait(10**9), channel.read, channel.map_rx):
        assert error_of(call) == "ENOLINK"
    assert channel.info().state == REVOKED
    assert k.owner.slot(3).channel == kmod.CHANNEL_REVOKED
    assert error_of(k.open, 3, channel.generation) == "ESTALE"
    channel.worker.end()
    assert k.events() == ["RELEASED"]


def test_aio_poll_is_told(k):
    """Linux asks for the events of AIO from a kernel thread unless it is woken with them; that would be a stranger."""
    channel = k.channel(0)
    worker = channel.worker
    context, block, list_, event = (worker.buffer + n * 256 for n in range(4))
    worker.poke(context, bytes(8))
    worker.call("io_setup", 4, context)
    number = int.from_bytes(worker.peek(context, 8), "little")
    iocb_cmd_poll = 5
    worker.poke(block, struct.pack("<QIIHhIQQqQII", 7, 0, 0, iocb_cmd_poll, 0, channel.fd,
                                   kmod.POLLIN | kmod.POLLRDHUP, 0, 0, 0, 0, 0))
    worker.poke(list_, block.to_bytes(8, "little"))
    assert worker.call("io_submit", number, 1, list_) == 1
    k.revoke(channel)
    assert worker.call("io_getevents", number, 1, 1, event, 0) == 1
    data, _, result, _ = struct.unpack("<QQqq", worker.peek(event, 32))
    assert (data, result) == (7, kmod.POLLHUP | kmod.POLLERR)
    k.no_events()  # nobody was denied
    worker.call("io_destroy", number)


def test_revoke_untouched(k):
    """A view that was mapped but never touched shows nothing either."""
    channel = k.channel(3)
    k.other.section.write(channel.offset, b"peer's data")
    rx = channel.map_rx()
    k.revoke(channel)
    assert channel.worker.peek(rx, 8) == bytes(8)


@pytest.mark.parametrize("how", ["state free", "unknown state", "next generation", "slot beyond the table", "owner"])
def test_ways_to_revoke(k, how):
    channel = k.channel(60)
    rx = k.see(channel)
    if how == "state free":
        k.host.set_state(k.vm, 60, FREE)
    elif how == "unknown state":
        k.host.set_state(k.vm, 60, 17)
    elif how == "next generation":
        k.grant(60)
    elif how == "slot beyond the table":
        k.host.write_table(k.member, n_slots=50)
    else:
        k.owner.revoke(60, channel.generation)
    k.host.ring(k.vm, 0)
    try:
        assert k.events() == ["REVOKED"]
        assert channel.worker.peek(rx, 4) == bytes(4)
        assert channel.poll() == POLLHUP | POLLERR
    finally:
        k.write_table()


def test_revoke_wakes_sleepers(k):
    waiter, reader, poller = (k.channel(i) for i in range(3))
    waiter.begin_wait()
    reader.worker.begin("read", reader.fd, reader.worker.buffer, 8)
    poller.worker.begin_poll(poller.fd)
    time.sleep(0.2)
    for slot in range(3):
        k.host.set_state(k.vm, slot, REVOKED)
    k.host.ring(k.vm, 0)
    assert error_of(waiter.worker.finish) == "ENOLINK"
    assert error_of(reader.worker.finish) == "ENOLINK"
    assert poller.worker.finish_poll() == POLLHUP | POLLERR


def test_revoke_split_mappings(k):
    """Parts of a view, moved or hidden, go with it."""
    channel = k.channel(0, ring=4 * PAGE)
    worker, size = channel.worker, 9 * PAGE
    k.other.section.write(channel.offset, b"\xcc" * 5 * PAGE)
    rx = channel.map_rx()
    worker.call("munmap", rx + 2 * PAGE, PAGE)
    worker.call("mprotect", rx + 4 * PAGE, PAGE, PROT_NONE)
    spot = worker.call("mmap", 0, size, PROT_NONE, MAP_PRIVATE | puppet.MAP_ANONYMOUS, -1, 0)
    moved = worker.call("mremap", rx + 6 * PAGE, 2 * PAGE, 2 * PAGE, 3, spot)
    assert worker.peek(rx) == worker.peek(moved) == worker.peek(rx + 8 * PAGE) == b"\xcc" * 8
    k.revoke(channel)
    worker.call("mprotect", rx + 4 * PAGE, PAGE, PROT_READ)
    for address in (rx, rx + PAGE, rx + 3 * PAGE, rx + 4 * PAGE, rx + 5 * PAGE, moved, moved + PAGE, rx + 8 * PAGE):
        assert worker.peek(address) == bytes(8)
    with pytest.raises(Fault):
        worker.peek(rx + 2 * PAGE)


def test_mapping_outlives_fd(k):
    channel = k.channel(0)
    tx, size = channel.map_tx(), channel.info().tx_map_size
    channel.close()
    channel.worker.poke(tx, b"still")
    assert k.member.section.read(channel.offset, 5) == b"still"
    k.no_events()
    assert k.owner.slot(0).channel == kmod.CHANNEL_OPEN
    k.revoke(channel)
    channel.worker.poke(tx, b"no more")
    assert k.member.section.read(channel.offset, 5) == b"still"
    channel.worker.call("munmap", tx, size)
    assert k.events() == ["RELEASED"]


def test_released_slot_is_busy_until_read(k):
    channel = k.channel(0)
    channel.worker.end()
    k.until(lambda: k.owner.slot(0).channel == kmod.CHANNEL_RELEASED, "released")
    k.host.set_state(k.vm, 0, REVOKED)
    generation = k.grant(0)
    assert error_of(k.open, 0, generation) == "EBUSY"
    assert k.owner.info().n_channels == 1
    assert k.events() == ["RELEASED"]
    assert k.owner.info().n_channels == 0
    k.open(0, generation)


def test_revoke_under_load(k):
    """Readers hammer while channels come and go: what the peer writes after the event is never seen."""
    workers = [k.worker() for _ in range(3)]
    for turn in range(20):
        channels = [k.channel(i, worker, ring=16 * PAGE) for i, worker in enumerate(workers)]
        for channel in channels:
            k.other.section.write(channel.offset, b"\x11" * 17 * PAGE)
            channel.rx = channel.map_rx()
            channel.worker.begin_count(channel.rx + (turn % 33) * PAGE, 80)
        time.sleep(0.002 * turn)
        for channel in channels:
            k.host.set_state(k.vm, channel.slot, REVOKED)
        k.host.ring(k.vm, 0)
        assert k.events(3) == ["REVOKED"] * 3
        for channel in channels:
            k.other.section.write(channel.offset, b"\x22" * 17 * PAGE)
        for channel in channels:
            last, changes = channel.worker.finish_count()
            assert last in (0, 0x1111111111111111) and changes <= 2, (hex(last), changes)
            assert channel.worker.peek(channel.rx + turn * PAGE) == bytes(8)
            channel.worker.call("munmap", channel.rx, channel.info().rx_map_size)
            channel.close()
        assert k.events(3) == ["RELEASED"] * 3


# The peer closes


def test_draining(k):
    channel = k.channel(0)
    rx = channel.map_rx()
    k.host.ring(k.vm, 1)
    assert channel.poll(5000) == POLLIN
    k.other.section.write(channel.offset, b"last words")
    k.host.set_state(k.vm, 0, DRAINING)
    k.host.ring(k.vm, 0)
    assert k.events() == ["DRAINING"]
    assert channel.poll() == POLLIN | POLLHUP | POLLRDHUP
    assert channel.worker.peek(rx, 10) == b"last words"
    assert channel.info().state == DRAINING
    assert error_of(channel.notify) == "EPIPE"
    assert channel.wait(0) == 1
    assert error_of(channel.wait, kmod.FOREVER) == "EPIPE"
    assert channel.read() is None
    assert channel.poll() == POLLHUP | POLLRDHUP
    channel.map_rx()
    k.revoke(channel)
    assert channel.worker.peek(rx, 10) == bytes(10)


def test_open_while_draining(k):
    """A peer that sent and closed before the channel was opened here is heard all the same."""
    k.other.section.write(PAGE, b"last words")
    channel = k.channel(0, state=DRAINING)
    assert k.events() == ["DRAINING"]
    assert channel.info().state == DRAINING
    assert channel.worker.peek(channel.map_rx(), 10) == b"last words"
    assert channel.poll() == POLLHUP | POLLRDHUP
    assert error_of(channel.notify) == "EPIPE"
    assert error_of(channel.wait, kmod.FOREVER) == "EPIPE"
    k.revoke(channel)


def test_draining_wakes_sleepers(k):
    waiter, poller = k.channel(0), k.channel(1)
    waiter.begin_wait()
    poller.worker.begin_poll(poller.fd)
    time.sleep(0.2)
    for slot in range(2):
        k.host.set_state(k.vm, slot, DRAINING)
    k.host.ring(k.vm, 0)
    assert error_of(waiter.worker.finish) == "EPIPE"
    assert poller.worker.finish_poll() == POLLHUP | POLLRDHUP
