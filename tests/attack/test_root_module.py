# SPDX-License-Identifier: LGPL-2.1-or-later
"""Root in a guest at /dev/sivshm and at the module: what sivshmd may do, root may do in its place, and no more.

Root that takes /dev/sivshm decides which process of its own VM gets which grant (that is its right: it owns the
services of its VM). No window outside the host's grants comes of it.
"""

import contextlib
import os

import pytest

from lab import mutant
from lab.attack import ROOT, attack
from lab.ivshmem_host import FREE, PAGE, REVOKED
from lab.kmod import CHANNEL_OPEN, RX_OFFSET, TX_OFFSET, Owner
from lab.kmod_world import PLACES
from lab.mutant import Edit
from lab.puppet import PROT_READ, error_of

NEIGHBOUR = b"another channel's page"
BEYOND = 70  # a slot that the table's memory has room for, and its header does not name

# Each of these checks stops another of the attacks below; one build without any of them serves all controls.
BROKEN = [
    Edit("src/kmod/owner.c", "\tif (owner) {", "\tif (0) {"),
    Edit("src/kmod/channel.c", "if (le32_to_cpu(grant.generation) != open->generation)", "if (0)"),
    Edit("src/kmod/channel.c", "*ret_state = le32_to_cpu(grant.state);", "*ret_state = SIVSHM_GRANT_ACTIVE;"),
    Edit("src/kmod/table.c", "\tif (slot >= table->layout.n_slots)\n\t\treturn -ENOENT;\n", ""),
    Edit("src/kmod/grant.c", "layout->places[i].region == region &&\n\t\t    (layout", "(layout"),
    Edit("src/kmod/grant.c", "layout->places[i].region == region && layout->places[i].member",
         "layout->places[i].member"),
    Edit("src/kmod/map.c", "view->pfn + 1 + (page - 1) % view->ring_pages", "view->pfn + page")]


pytestmark = pytest.mark.kernels("stock", "kasan")


@pytest.fixture(scope="module")
def broken(kernel):
    return mutant.module(kernel.image, *BROKEN)


@contextlib.contextmanager
def other_module(k, ko):
    """The guest runs another sivshm.ko meanwhile."""
    k.stage.clear()
    k.guest.put_file("/root/broken.ko", ko)
    k.until(k.unload, "rmmod")
    try:
        k.guest.run("insmod /root/broken.ko", check=True)
        k.wait_sections()
        yield k.begin()
    finally:
        k.stage.clear()
        k.until(k.unload, "rmmod")
        k.load()
        k.begin()


@attack(ROOT, "unbinds and binds table, own and peer section again while a channel is in use, "
              "and goes on with the old fd and mappings",
        stops="a channel whose device went is revoked, for good: `src/kmod/section.c`, `table.c`, `channel.c`",
        control="before that, the same fd and mapping show the peer's data")
@pytest.mark.parametrize("which", PLACES)
def test_unbind_and_bind(k, control, which):
    channel = k.channel(0)
    rx = k.see(channel, b"before")
    control.seen()  # k.see() has read it
    k.unbind(which)
    k.bind(which)
    k.wait_sections()
    k.other.section.write(channel.offset, b"after!")
    assert channel.worker.peek(rx, 6) == bytes(6)
    for act in (channel.map_rx, channel.map_tx, channel.notify, lambda: channel.wait(0)):
        assert error_of(act) == "ENOLINK"
    assert error_of(k.open, 0, channel.generation) == "EBUSY"  # the grant's one channel is that one


@attack(ROOT, "unloads the module while a channel, or a mapping of it alone, is in use",
        stops="every fd and mapping holds the module: `src/kmod/file.c`, `owner.c` "
              "(by force, `rmmod -f`, root breaks its own kernel: outside the threat model)",
        control="once nobody uses it, it goes")
def test_rmmod(k, control):
    channel = k.channel(0)
    rx = k.see(channel, b"secret")
    k.owner.worker.end()
    assert not k.unload()
    channel.close()
    assert not k.unload() and channel.worker.peek(rx, 6) == b"secret"
    channel.worker.call("munmap", rx, 3 * PAGE)
    k.until(k.unload, "rmmod")
    control.seen()
    k.load()
    k.begin()


@attack(ROOT, "opens /dev/sivshm beside the daemon, whose requests it wants to see and make",
        stops="one owner at a time: `src/kmod/owner.c`",
        control="the daemon gone, it opens; with a module that does not count, both have it")
def test_second_owner(k, broken, control):
    root = k.stage.spawn()
    for flags in (os.O_RDWR, os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_EXCL | os.O_NOATIME):
        assert error_of(root.open, "/dev/sivshm", flags) == "EBUSY"
    assert error_of(root.open, f"/proc/{k.owner.worker.pid}/fd/{k.owner.fd}", os.O_RDWR) == "EBUSY"
    k.owner.close()
    Owner(root)
    with other_module(k, broken):
        control.seen(Owner(k.stage.spawn()).info().n_slots == k.host.slots)


def opened(k, slot, generation):
    """Root opens a slot for itself: ok, or the error."""
    fds = []
    answer = error_of(lambda: fds.append(k.open(slot, generation, uid=0)))
    for fd in fds:
        k.owner.worker.close(fd)
        assert k.events() == ["RELEASED"]
    return answer


def wrong_opens(k):
    """Slots and generations that are not granted: {attempt: what became of it}."""
    k.host.free_all(k.vm)
    old = k.grant(1)
    k.host.set_state(k.vm, 1, FREE)
    new = k.grant(1)
    freed = k.grant(2)
    k.host.set_state(k.vm, 2, FREE)
    revoked = k.grant(3)
    k.host.set_state(k.vm, 3, REVOKED)
    beyond = k.grant(BEYOND)
    foreign = k.grant(4, region=k.host.region + 1)
    attempts = {"an old generation": (1, old), "the next generation": (1, new + 1), "any generation": (1, 0),
                "a freed slot": (2, freed), "a revoked slot": (3, revoked),
                "a slot behind the table's end": (BEYOND, beyond),
                "a slot of a region that it is no member of": (4, foreign)}
    return {what: opened(k, *names) for what, names in attempts.items()}


REFUSED = {"an old generation": "ESTALE", "the next generation": "ESTALE", "any generation": "ESTALE",
           "a freed slot": "ESTALE", "a revoked slot": "ESTALE", "a slot behind the table's end": "ENOENT",
           "a slot of a region that it is no member of": "EBADMSG"}

@attack(ROOT, "takes /dev/sivshm while the daemon is stopped and opens wrong generations, freed and revoked slots, "
              "slots behind the table and of a region its VM is no member of",
        stops="slot, state, generation and region come from the read-only table: `src/kmod/channel.c`, `grant.c`",
        control="the right generation opens; modules without each of the checks open the rest")
def test_wrong_slots(k, broken, control):
    k.owner.worker.end()
    k.owner = Owner(k.stage.spawn())
    assert wrong_opens(k) == REFUSED
    assert opened(k, 5, k.grant(5)) == "ok"
    with other_module(k, broken):
        assert wrong_opens(k) == dict.fromkeys(REFUSED, "ok")
        control.seen()


@attack(ROOT, "takes /dev/sivshm while the daemon is stopped, adopts and closes channels of others, "
              "opens granted slots for itself and maps more than their windows",
        stops="a channel is its grant's window and nothing else, whoever opens it: `src/kmod/map.c` "
              "(to close and to open its own VM's channels is root's right)",
        control="the window itself maps; a module that counts pages wrongly maps the neighbour's page")
def test_beyond_the_window(k, broken, control):
    theirs = k.channel(1)
    rx = k.see(theirs, b"secret")
    k.owner.worker.end()
    root = k.stage.spawn()
    k.owner = Owner(root)
    assert k.owner.slot(1).channel == CHANNEL_OPEN
    assert error_of(k.open, 1, theirs.generation) == "EBUSY"
    k.owner.adopt(1, theirs.generation)
    assert error_of(k.owner.adopt, 1, theirs.generation + 1) == "ESTALE"
    assert theirs.worker.peek(rx, 6) == b"secret"
    k.owner.revoke(1, theirs.generation)
    assert theirs.worker.peek(rx, 6) == bytes(6)
    assert k.events() == ["REVOKED"]

    def beyond():
        k.other.section.write(20 * PAGE, b"my peer's page".ljust(2 * PAGE, b"."))
        k.other.section.write(22 * PAGE, NEIGHBOUR)
        worker = k.worker()
        channel = k.take(2, k.grant(2, rx_offset=20 * PAGE), worker)
        assert worker.peek(channel.map_rx(), 14) == b"my peer's page"
        size = channel.info().rx_map_size
        for length in (size + PAGE, size - PAGE, 64 * PAGE, PAGE):
            for offset in (RX_OFFSET, TX_OFFSET):
                assert error_of(channel.map, length, PROT_READ, offset) == "EINVAL"
        rx = channel.map_rx()
        return NEIGHBOUR in [worker.peek(rx + at, len(NEIGHBOUR)) for at in range(0, size, PAGE)]

    assert not beyond()
    with other_module(k, broken):
        control.seen(beyond())
