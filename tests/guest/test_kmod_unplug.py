# SPDX-License-Identifier: LGPL-2.1-or-later
"""Devices and the module itself come and go, in use or not."""

import time

import pytest

from lab.kmod_world import PLACES
from lab import kmod
from lab.ivshmem_host import PAGE
from lab.kmod import POLLERR, POLLHUP
from lab.puppet import error_of


@pytest.mark.parametrize("which", PLACES)
def test_unbind_while_in_use(k, which):
    channel = k.channel(0)
    tx, rx = channel.map_tx(), k.see(channel)
    channel.begin_wait()
    k.unbind(which)
    assert error_of(channel.worker.finish) == "ENOLINK"
    assert k.events() == ["REVOKED"]
    assert channel.worker.peek(rx, 4) == channel.worker.peek(tx, 4) == bytes(4)
    assert error_of(channel.notify) == "ENOLINK"
    generation = k.grant(1)
    assert error_of(k.open, 1, generation) == ("ENODEV" if which == "table" else "ENXIO")
    if which == "table":
        assert k.owner.info().n_slots == 0
        assert error_of(k.owner.section, 0) == "ENODEV"
        assert k.owner.slot(0).channel == kmod.CHANNEL_REVOKED
    else:
        assert k.owner.section(0 if which == "own" else 1).state == 0
    k.owner.events()
    k.bind(which)
    assert [e.type for e in k.owner.events()] == [kmod.TABLE]
    again = k.take(1, generation)
    k.see(again, b"again")
    again.notify()
    assert k.host.rang("ivi", 1, timeout=5)
    assert error_of(channel.notify) == "ENOLINK"


def test_rmmod_is_refused_while_in_use(k):
    assert not k.unload()  # the owner
    channel = k.channel(0)
    rx = channel.map_rx()
    k.owner.worker.end()
    assert not k.unload()  # fd and mapping
    channel.close()
    assert not k.unload()  # the mapping alone
    channel.worker.call("munmap", rx, 3 * PAGE)
    k.until(k.unload, "rmmod")  # an orphan's unread event does not hold it
    k.load()
    k.begin()
    assert k.owner.info().n_channels == 0


def test_rmmod_and_again(k):
    k.stage.clear()
    for _ in range(5):
        assert k.unload()
        k.load()
    assert "sivshm" in k.driver_of(0x11)


@pytest.mark.parametrize("which", ["table", "peer"])
def test_hot_unplug_while_in_use(k, which):
    channel = k.channel(0)
    tx, rx = channel.map_tx(), k.see(channel)
    with k.unplugged(which):
        assert k.events() == ["REVOKED"]
        assert channel.worker.peek(rx, 4) == channel.worker.peek(tx, 4) == bytes(4)
        assert channel.poll() == POLLHUP | POLLERR
    k.until(lambda: k.owner.info().n_sections == 2 and all(k.owner.section(i).state for i in range(2)), "sections")
    k.channel(1).map_rx()


def test_sections_wait_for_the_table(k):
    """Sections that were there first are bound when the table comes."""
    k.stage.clear()
    with k.unplugged("table"):
        assert k.unload()
        k.insmod()
        time.sleep(0.3)
        assert [k.driver_of(PLACES[which]) for which in ("own", "peer")] == ["", ""]
    k.begin()
    k.channel(0).map_rx()


def test_section_without_magic_is_still_found(k):
    """The owner of a section may overwrite its header: the table says what it is, before or after it."""
    k.stage.clear()
    header = k.other.section.read(0, 24)
    k.other.section.write(0, bytes(24))
    try:
        with k.unplugged("table"):
            assert k.unload()
            k.insmod()
    finally:
        k.other.section.write(0, header)
    k.begin()
    k.channel(0).map_rx()
