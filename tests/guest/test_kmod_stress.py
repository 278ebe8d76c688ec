# SPDX-License-Identifier: LGPL-2.1-or-later
"""Everything at once and again and again: for the kernels that watch, whatever the outcome of a single call."""

import random
import time

import pytest

from lab.kmod_world import PLACES, hand
from lab.ivshmem_host import DRAINING, PAGE, REVOKED
from lab.kmod import POLLERR, POLLHUP
from lab.puppet import error_of

RING = 4 * PAGE
SLOTS, WORKERS = 3, 4


def host_and_owner_act(k, channels, seconds):
    """What happens to the channels meanwhile: doorbells, last words, revocations by both, new grants, new layouts."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        slot, act = random.randrange(SLOTS), random.randrange(12)
        if act == 0:
            k.host.set_state(k.vm, slot, random.choice([DRAINING, REVOKED]))
            k.host.ring(k.vm, 0)
        elif act == 1 and slot == 0:
            assert error_of(k.owner.revoke, slot, channels[slot]) in ("ok", "ESTALE")
        elif act == 2 and slot == 0:
            k.grant(slot, ring=RING)
            k.host.ring(k.vm, 0)
        elif act == 3:
            k.write_table()
        elif act == 4:
            assert error_of(k.owner.adopt, slot, channels[slot]) in ("ok", "ESTALE")
        else:
            for vector in range(4):
                k.host.ring(k.vm, vector)
        if act < 8:
            k.owner.events()


def test_many_hands(k, figures):
    """Workers map, touch, split, fork, close, ring, wait, and others look at the owner's fd; 30 s of it."""
    calls = good = rounds = 0
    size = PAGE + 2 * RING
    began = time.monotonic()
    while time.monotonic() - began < 30:
        workers = [k.worker() for _ in range(WORKERS)]
        looker = k.stage.spawn()
        channels, fds = {}, {worker: [] for worker in workers}
        for slot in range(SLOTS):
            channels[slot] = k.grant(slot, ring=RING)
            fd = k.open(slot, channels[slot])
            for worker in workers:
                fds[worker].append(hand(k.owner.worker, fd, worker).fd)
            k.owner.worker.close(fd)
        seconds = 1.5
        for worker in workers:
            worker.begin_stress(int(seconds * 1000), fds[worker], size, size)
        looker.begin_stress(int(seconds * 1000), [k.owner.worker.send(looker, k.owner.fd)])
        host_and_owner_act(k, channels, seconds)
        for worker in [*workers, looker]:
            done, well = worker.finish_stress()
            calls, good = calls + done, good + well
            worker.end()
        rounds += 1
        k.until(lambda: k.owner.events() is not None and k.owner.info().n_channels == 0, "all released")
    figures.update(rounds=rounds, calls=calls, succeeded=good)
    assert good > 100


@pytest.mark.parametrize("which", PLACES)
def test_cycles(k, figures, which, cycles=34):
    """A hundred in all: used, taken away with fds open and windows mapped, brought back. Table and peer by unplugging
    them, the own section, which QEMU does not survive without, by its driver."""
    began = time.monotonic()
    worker = k.worker()
    for _ in range(cycles):
        channel = k.channel(0, worker)
        tx, rx = channel.map_tx(), k.see(channel)
        worker.poke(tx, b"data")
        if which == "own":
            k.unbind("own")
            gone(k, channel, tx, rx)
            k.bind("own")
        else:
            with k.unplugged(which):
                gone(k, channel, tx, rx)
        size = channel.info().tx_map_size
        for address in (tx, rx):
            worker.call("munmap", address, size)
        channel.close()
        k.until(lambda: k.owner.slot(0).channel != 2, "released")
        k.owner.events()
        k.wait_sections()
    figures.update(cycles=cycles, seconds_each=round((time.monotonic() - began) / cycles, 2))


def gone(k, channel, tx, rx):
    worker = channel.worker
    assert k.events() == ["REVOKED"]
    assert worker.peek(rx, 4) == worker.peek(tx, 4) == bytes(4)
    assert channel.poll() == POLLHUP | POLLERR
    worker.poke(tx, b"nowhere")
    assert error_of(channel.map_rx) == "ENOLINK"
