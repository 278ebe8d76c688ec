# SPDX-License-Identifier: LGPL-2.1-or-later
"""Opening a channel, and what is refused: grants that are not right, calls that nobody knows."""

import struct

import pytest

from lab.kmod_world import UID
from lab import kmod
from lab.ivshmem_host import ACTIVE, FREE, PAGE, REVOKED
from lab.kmod import POLLIN
from lab.puppet import error_of


def test_open_refusals(k):
    generation = k.grant(3)
    assert error_of(k.open, k.host.slots, 1) == "ENOENT"
    assert error_of(k.open, 3, generation + 1) == "ESTALE"
    assert error_of(k.open, 4, 0) == "ESTALE"
    assert error_of(k.open, 3, generation, flags=1) == "EINVAL"
    assert error_of(k.open, 3, generation, reserved=1) == "EINVAL"
    assert error_of(k.open, 3, generation, uid=0xffffffff) == "EINVAL"
    assert error_of(k.owner.open, 3, generation, UID, 0) == "EINVAL"
    for state in (FREE, REVOKED, 4, 0xffffffff):
        k.host.set_state(k.vm, 3, state)
        assert error_of(k.open, 3, generation) == "ESTALE", state
    k.host.set_state(k.vm, 3, ACTIVE)
    k.open(3, generation)
    assert error_of(k.open, 3, generation) == "EBUSY"
    assert k.owner.info().n_channels == 1


WRONG_GRANTS = {
    "no such region": dict(region=8),
    "peer is nobody": dict(peer_=9),
    "peer is oneself": dict(peer_=1),
    "generation 0": dict(generation=0),
    "vector 0": dict(local_vector=0),
    "local vector too high": dict(local_vector=4),
    "peer vector 0": dict(peer_vector=0),
    "peer vector too high": dict(peer_vector=4),
    "peer vector huge": dict(peer_vector=0x10001),
    "tx covers the header": dict(tx_offset=0),
    "rx covers the header": dict(rx_offset=0),
    "tx not on a page": dict(tx_offset=PAGE + 8),
    "rx not on a page": dict(rx_offset=PAGE + 2048),
    "tx ends behind the section": dict(tx_offset=(1 << 20) - PAGE),
    "rx ends behind the section": dict(rx_offset=(1 << 20) - PAGE),
    "tx begins behind the section": dict(tx_offset=1 << 20),
    "tx overflows": dict(tx_offset=(1 << 64) - PAGE),
    "rx overflows": dict(rx_offset=(1 << 64) - 2 * PAGE),
    "tx has no ring": dict(tx_size=PAGE),
    "rx has nothing": dict(rx_size=0),
    "tx ring not a power of two": dict(tx_size=PAGE * 4),
    "rx ring not a power of two": dict(rx_size=PAGE * 4),
    "tx ring as large as the section": dict(tx_size=PAGE + (1 << 20)),
    "tx ring too large": dict(tx_size=PAGE + (1 << 31)),
    "tx size overflows": dict(tx_size=(1 << 64) - PAGE),
    "service name has no end": dict(local_service=b"x" * 56),
    "vm name has no end": dict(peer_vm=b"x" * 48),
    "peer name has no end": dict(peer_service=b"x" * 56),
    "no service name": dict(local_service=b""),
}


@pytest.mark.parametrize("wrong", WRONG_GRANTS)
def test_wrong_grant(k, wrong):
    fields = dict(WRONG_GRANTS[wrong])
    peer = fields.pop("peer_", k.other.id)
    generation = k.grant(5, state=FREE, **fields)
    raw = bytearray(k.member.table.read(k.host.grant_offset(5), 256))
    struct.pack_into("<I", raw, 28, peer)
    k.member.table.write(k.host.grant_offset(5), bytes(raw))
    k.host.set_state(k.vm, 5, ACTIVE)
    assert error_of(k.open, 5, generation) == "EBADMSG"
    assert k.owner.info().n_channels == 0


def test_largest_windows_are_right(k):
    """The last byte of a section can be granted, and not one page more."""
    size = k.member.section.size
    ring = size // 2
    generation = k.grant(0, tx_offset=size - ring - PAGE, tx_size=ring + PAGE,
                         rx_offset=PAGE, rx_size=2 * PAGE)
    k.open(0, generation)
    generation = k.grant(1, tx_offset=size - ring, tx_size=ring + PAGE)
    assert error_of(k.open, 1, generation) == "EBADMSG"


def test_unknown_calls(k):
    channel = k.channel(0)
    for number in (0x06, 0x10, 0x11, 0x7f):
        assert error_of(k.owner.worker.ioctl, k.owner.fd, kmod.request(0, number, 0)) == "ENOTTY"
    assert error_of(k.owner.worker.ioctl, k.owner.fd, kmod.request(1, 0x03, 8)) == "ENOTTY"
    for number in (0x00, 0x03, 0x13):
        assert error_of(channel.worker.ioctl, channel.fd, kmod.request(0, number, 0)) == "ENOTTY"


def test_bad_pointers(k):
    channel = k.channel(0)
    for call in (kmod.GET_INFO, kmod.GET_SECTION, kmod.GET_SLOT, kmod.OPEN_CHANNEL, kmod.ADOPT, kmod.CLOSE):
        assert error_of(k.owner.worker.call, "ioctl", k.owner.fd, call, 8) == "EFAULT"
    k.host.ring(k.vm, 1)
    assert channel.poll(5000) & POLLIN
    for call in (kmod.CHANNEL_GET_INFO, kmod.WAIT_BELL):
        assert error_of(channel.worker.call, "ioctl", channel.fd, call, 8) == "EFAULT"
    assert error_of(channel.worker.call, "read", channel.fd, 8, 8) == "EFAULT"
    assert channel.wait(0) == 1  # a doorbell that could not be told of is not lost


def test_reserved_fields(k):
    generation = k.grant(0)
    k.open(0, generation)
    assert error_of(k.owner.adopt, 0, generation, reserved=1) == "EINVAL"
    assert error_of(k.owner.revoke, 0, generation, reserved=1) == "EINVAL"
    data = bytearray(kmod.SECTION.size)
    data[-1] = 1
    assert error_of(k.owner.worker.ioctl, k.owner.fd, kmod.GET_SECTION, bytes(data)) == "EINVAL"
    data = bytearray(kmod.SLOT.size)
    data[-1] = 1
    assert error_of(k.owner.worker.ioctl, k.owner.fd, kmod.GET_SLOT, bytes(data)) == "EINVAL"
