# SPDX-License-Identifier: LGPL-2.1-or-later
"""The layout in the table changes while channels are open."""

import time

import pytest

from lab import ivshmem_host, kmod
from lab.kmod import POLLERR, POLLHUP


def test_new_layout_keeps_channels(k):
    channel = k.channel(0)
    rx = channel.map_rx()
    epoch = k.owner.info().epoch
    k.write_table()
    k.until(lambda: k.owner.info().epoch > epoch, "new epoch")
    assert kmod.TABLE in [e.type for e in k.owner.events()]
    k.other.section.write(channel.offset, b"data")
    assert channel.worker.peek(rx, 4) == b"data"


@pytest.mark.parametrize("field, value", [("member", 5), ("region", 9), ("size", 2 << 20), ("vectors", 8)])
def test_new_layout_that_changes_a_section(k, field, value):
    """Its channels go; the device is bound anew if it still fits, and again when all is as before."""
    channel, change = k.channel(0), {field: value}
    with k.layout(places=k.places(**change)):
        assert k.events() == ["REVOKED"]
        fits = "size" not in change
        k.until(lambda: k.owner.section(1).state == fits, "bound anew" if fits else "refused")
    k.until(lambda: k.owner.section(1).state == 1, "bound as before")
    assert channel.poll() == POLLHUP | POLLERR
    k.channel(1).map_rx()


WRONG_LAYOUTS = {
    "abi": dict(abi=2), "magic": dict(magic=0), "grant size": dict(grant_size=128),
    "too many slots": dict(n_slots=2033), "more slots than fit": dict(n_slots=ivshmem_host.TABLE_SIZE // 256),
    "too many sections": dict(n_sections=33), "empty section": dict(n_sections=3),
    "no vm name": dict(vm=b""), "vm name has no end": dict(vm=b"x" * 48),
}
WRONG_PLACES = {
    "devfn": dict(devfn=256), "same devfn": dict(devfn=0x88), "peer id": dict(member=0x10000),
    "same member": dict(member=1), "second own": dict(flags=1), "unknown flag": dict(flags=2),
    "size": dict(size=3 << 20), "small": dict(size=512 << 10), "vectors": dict(vectors=65), "one vector": dict(vectors=1),
    "region name": dict(region_name=b"x" * 32), "no vm": dict(vm=b""),
}


@pytest.mark.parametrize("wrong", [*WRONG_LAYOUTS, *(f"section: {w}" for w in WRONG_PLACES)])
def test_wrong_layout_is_not_used(k, wrong):
    channel = k.channel(0)
    epoch = k.owner.info().epoch
    fields = WRONG_LAYOUTS.get(wrong) or dict(places=k.places(**WRONG_PLACES[wrong.removeprefix("section: ")]))
    with k.layout(**fields):
        time.sleep(0.15)
        assert k.owner.info().epoch == epoch
        assert channel.poll() == 0
    k.until(lambda: k.owner.info().epoch > epoch, "the next right layout is used")
