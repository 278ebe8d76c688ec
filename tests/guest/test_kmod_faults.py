# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory that is not to be had and user memory that is not there: each allocation and each copy of a call fails
once, all others succeed. The call says so, nothing is left behind, and the next one works."""

import os

import pytest

from lab.kmod_world import BOUND, OTHER_UID, PLACES, UID, device, hand
from lab import debug_kernel, kmod, leaks
from lab.ivshmem_host import PAGE
from lab.kmod import POLLERR, POLLIN
from lab.puppet import AT_FDCWD, MAP_FIXED, MAP_SHARED, PROT_READ, PROT_WRITE

pytestmark = pytest.mark.kernels("kasan")

DEBUG = "/sys/kernel/debug"


@pytest.fixture(scope="module")
def books(bench):
    """What the module had of memory before."""
    bench.guest.run(f"cd {DEBUG}; echo N > failslab/ignore-gfp-wait; echo N > fail_page_alloc/ignore-gfp-wait; "
                    "echo 0 > fail_page_alloc/min-order; for f in fail*/verbose; do echo 0 > $f; done", check=True)
    return leaks.objects(bench.guest)


@pytest.fixture
def balance(k, books):
    """As many use the module after a case as before."""
    def users():
        return k.owner.worker.cat("/sys/module/sivshm/refcnt")
    before = users()
    yield
    k.owner.events(200)
    assert (users(), k.owner.info().n_channels) == (before, 0)


def sweep(call, clean=lambda outcome: None):
    """Every allocation of a call fails once. Returns how the calls ended, the last with nothing left to fail."""
    outcomes = []
    for nth in range(1, 2000):
        outcome, injected = call(nth)
        outcomes.append(outcome)
        clean(outcome)
        if not injected:
            return outcomes
    raise AssertionError("no end of allocations")


def refused(outcomes, *errors):
    """At least one call was failed, each with an error that fits, and the last went well. Returns its result."""
    *failed, last = outcomes
    assert isinstance(last, int), outcomes
    named = {outcome for outcome in failed if not isinstance(outcome, int)}
    assert named and named <= set(errors), outcomes
    return last


def free_fd(worker):
    """The lowest number that no fd has."""
    fd = worker.open("/dev/null", os.O_RDONLY)
    worker.close(fd)
    return fd


# /dev/sivshm

def test_open_device(k, balance, figures):
    """A failed open makes nobody the owner."""
    k.owner.close()
    worker = k.owner.worker

    def call(nth):
        worker.poke(worker.buffer, b"/dev/sivshm\0")
        return worker.call_failing(nth, "openat", AT_FDCWD, worker.buffer, os.O_RDWR | os.O_NONBLOCK, 0)

    def clean(outcome):
        if isinstance(outcome, int):
            worker.close(outcome)
        again = worker.open("/dev/sivshm", os.O_RDWR)
        worker.close(again)
    outcomes = sweep(call, clean)
    k.owner = kmod.Owner(worker)
    refused(outcomes, "ENOMEM", "EFAULT", "ENFILE")
    figures["faults"] = len(outcomes) - 1


OWNER_CALLS = {
    "GET_INFO": (kmod.GET_INFO, lambda k, channel: bytes(kmod.INFO.size)),
    "GET_SECTION": (kmod.GET_SECTION, lambda k, channel: bytes(kmod.SECTION.size)),
    "GET_SLOT": (kmod.GET_SLOT, lambda k, channel: bytes(kmod.SLOT.size)),
    "ADOPT": (kmod.ADOPT, lambda k, channel: kmod.REF.pack(0, channel.generation, 0)),
    "CLOSE": (kmod.CLOSE, lambda k, channel: kmod.REF.pack(0, channel.generation, 0)),
}


@pytest.mark.parametrize("name", OWNER_CALLS)
def test_owner_call(k, balance, figures, name):
    request, argument = OWNER_CALLS[name]
    channel, worker = k.channel(0), k.owner.worker
    rx = k.see(channel)

    def call(nth):
        worker.poke(worker.buffer, argument(k, channel))
        return worker.call_failing(nth, "ioctl", k.owner.fd, request, worker.buffer)

    def clean(outcome):
        """CLOSE that failed has closed nothing."""
        gone = name == "CLOSE" and isinstance(outcome, int)
        assert channel.worker.peek(rx, 4) == (bytes(4) if gone else b"data")
    outcomes = sweep(call, clean)
    refused(outcomes, "ENOMEM", "EFAULT")
    figures["faults"] = len(outcomes) - 1
    channel.worker.end()
    k.until(lambda: k.owner.slot(0).channel == kmod.CHANNEL_RELEASED, "released")


def test_open_channel(k, balance, figures):
    worker = k.owner.worker
    before = free_fd(worker)

    def call(nth):
        generation = k.grant(1)
        worker.poke(worker.buffer, kmod.OPEN.pack(1, generation, UID, 0, k.cgroup["holder"], 0))
        return worker.call_failing(nth, "ioctl", k.owner.fd, kmod.OPEN_CHANNEL, worker.buffer)

    def clean(outcome):
        if isinstance(outcome, int):
            worker.close(outcome)
            assert k.events() == ["RELEASED"]
        assert k.owner.info().n_channels == 0
        assert free_fd(worker) == before
    outcomes = sweep(call, clean)
    refused(outcomes, "ENOMEM", "EFAULT", "ENFILE")
    assert outcomes.count("ENOMEM") >= 3, outcomes
    figures["faults"] = len(outcomes) - 1


def test_read_events(k, balance, figures):
    """An event that did not reach the reader is there for the next one."""
    channel, worker = k.channel(0), k.owner.worker
    theirs = hand(channel.worker, channel.fd, k.worker(OTHER_UID))
    k.owner.events()
    assert theirs.poll() == POLLERR

    def clean(outcome):
        if isinstance(outcome, int):
            event = kmod.Event(*kmod.EVENT.unpack(worker.peek(worker.buffer, kmod.EVENT.size)))
            assert (outcome, event.type, event.count) == (kmod.EVENT.size, kmod.DENIED, 1)
            assert theirs.poll() == POLLERR  # the next one to be read
    outcomes = sweep(lambda nth: worker.call_failing(nth, "read", k.owner.fd, worker.buffer, kmod.EVENT.size), clean)
    refused(outcomes, "ENOMEM", "EFAULT")
    figures["faults"] = len(outcomes) - 1
    theirs.worker.end()
    channel.worker.end()
    k.until(lambda: k.owner.slot(0).channel == kmod.CHANNEL_RELEASED, "released")


# a channel

@pytest.fixture
def channel(k, balance):
    channel = k.channel(0, ring=64 * PAGE)
    yield channel
    channel.worker.end()
    k.until(lambda: k.owner.slot(0).channel == kmod.CHANNEL_RELEASED, "released")


def test_channel_info(channel, figures):
    worker = channel.worker
    outcomes = sweep(lambda nth: worker.call_failing(nth, "ioctl", channel.fd, kmod.CHANNEL_GET_INFO, worker.buffer))
    refused(outcomes, "ENOMEM", "EFAULT")
    figures["faults"] = len(outcomes) - 1


def test_notify(k, channel):
    """Needs nothing that could fail, and so rings each time."""
    outcomes = sweep(lambda nth: channel.worker.call_failing(nth, "ioctl", channel.fd, kmod.NOTIFY, 0))
    assert outcomes == [0]
    assert k.host.rang("ivi", 1, timeout=5) == 1


@pytest.mark.parametrize("how", ["read", "wait"])
def test_bells(k, channel, figures, how):
    """A doorbell that its reader was not told of is not lost."""
    worker = channel.worker

    def ring():
        k.host.ring(k.vm, 1)
        assert channel.poll(5000) == POLLIN

    def call(nth):
        if how == "read":
            return worker.call_failing(nth, "read", channel.fd, worker.buffer, 8)
        worker.poke(worker.buffer, kmod.WAIT.pack(0, 0))
        return worker.call_failing(nth, "ioctl", channel.fd, kmod.WAIT_BELL, worker.buffer)

    def clean(outcome):
        if isinstance(outcome, int):
            count = worker.peek(worker.buffer + (8 if how == "wait" else 0), 8)
            assert int.from_bytes(count, "little") == 1
            ring()
    ring()
    outcomes = sweep(call, clean)
    refused(outcomes, "ENOMEM", "EFAULT")
    figures["faults"] = len(outcomes) - 1


def test_poll(k, channel, figures):
    worker = channel.worker
    epoll = worker.call("epoll_create1", 0)
    event = (POLLIN).to_bytes(4, "little") + bytes(8)

    def watch(nth):
        worker.poke(worker.buffer, event)
        return worker.call_failing(nth, "epoll_ctl", epoll, 1, channel.fd, worker.buffer)

    def unwatch(outcome):
        if isinstance(outcome, int):
            worker.call("epoll_ctl", epoll, 2, channel.fd, 0)
    watched = sweep(watch, unwatch)
    refused(watched, "ENOMEM", "EFAULT")
    worker.poke(worker.buffer, event)
    worker.call("epoll_ctl", epoll, 1, channel.fd, worker.buffer)
    k.host.ring(k.vm, 1)
    assert worker.call("epoll_wait", epoll, worker.buffer, 1, 5000 * k.guest.patience) == 1

    def poll(nth):
        worker.poke(worker.buffer, channel.fd.to_bytes(4, "little") + POLLIN.to_bytes(4, "little"))
        return worker.call_failing(nth, "poll", worker.buffer, 1, 0)
    polled = sweep(poll)
    assert refused(polled, "ENOMEM", "EFAULT") == 1
    figures["faults"] = len(watched) + len(polled) - 2


@pytest.mark.parametrize("window", ["tx", "rx"])
def test_mmap(k, channel, figures, window):
    worker, size = channel.worker, channel.info().tx_map_size
    prot, offset = (PROT_READ | PROT_WRITE, kmod.TX_OFFSET) if window == "tx" else (PROT_READ, kmod.RX_OFFSET)
    maps = f"/proc/{worker.pid}/maps"

    def clean(outcome):
        if isinstance(outcome, int):
            worker.call("munmap", outcome, size)
        assert "sivshm" not in worker.cat(maps)
    outcomes = sweep(lambda nth: worker.call_failing(nth, "mmap", 0, size, prot, MAP_SHARED, channel.fd, offset),
                     clean)
    refused(outcomes, "ENOMEM")
    figures["faults"] = len(outcomes) - 1


@pytest.mark.parametrize("window", ["tx", "rx"])
def test_page_fault(k, channel, figures, window):
    """Page tables are what a fault allocates. The kernel touches the window for the worker, so that there is an
    error to see; each time at an address that has no page tables yet."""
    worker, size = channel.worker, channel.info().tx_map_size
    k.other.section.write(channel.offset, bytes(8))
    prot, offset = (PROT_READ | PROT_WRITE, kmod.TX_OFFSET) if window == "tx" else (PROT_READ, kmod.RX_OFFSET)
    mapped = []

    def call(nth):
        spot = (0x10000000000 + (nth << 39)) & ((1 << 46) - 1)
        mapped.append(worker.call("mmap", spot, size, prot, MAP_SHARED | MAP_FIXED, channel.fd, offset))
        if window == "tx":
            return worker.call_failing(nth, "clock_gettime", 0, mapped[-1])
        return worker.call_failing(nth, "rt_sigprocmask", 1, mapped[-1], 0, 8)

    def clean(outcome):
        """What failed once works when it is touched again, to the last page."""
        assert worker.peek(mapped[-1] + size - PAGE, 8) == bytes(8)
        worker.call("munmap", mapped[-1], size)
    outcomes = sweep(call, clean)
    refused(outcomes, "EFAULT")
    figures["faults"] = len(outcomes) - 1


# probe

@pytest.mark.parametrize("which", PLACES)
def test_probe(k, books, figures, request, which):
    """Linux 6.1 does not look whether radix_tree_insert() worked when it makes an interrupt descriptor
    (irq_insert_desc), and then follows a null pointer: of the own section's allocations that one cache is left out,
    and pages with it, for it gets its own by those."""
    k.stage.clear()
    worker, name = k.stage.spawn(), device(PLACES[which])
    if which == "own":
        k.guest.run(f"cd {DEBUG}; echo Y > failslab/cache-filter; echo 20 > fail_page_alloc/min-order", check=True)
    bind, unbind = (worker.open(f"{BOUND}/{act}", os.O_WRONLY) for act in ("bind", "unbind"))

    def left():
        enabled = worker.cat(f"/sys/bus/pci/devices/{name}/enable").strip()
        interrupts = worker.cat("/proc/interrupts").count(f"sivshm-{name[5:]}") if which == "own" else 0
        return enabled, interrupts

    def call(nth):
        worker.poke(worker.buffer, name.encode())
        worker.call("write", unbind, worker.buffer, len(name))
        call.before = left()
        worker.poke(worker.buffer, name.encode())
        return worker.call_failing(nth, "write", bind, worker.buffer, len(name))

    def clean(outcome):
        if outcome != len(name):
            assert left() == call.before
            worker.poke(worker.buffer, name.encode())
            worker.call("write", bind, worker.buffer, len(name))
    try:
        outcomes = sweep(call, clean)
    finally:
        k.guest.run(f"cd {DEBUG}; echo N > failslab/cache-filter; echo 0 > fail_page_alloc/min-order", check=True)
    assert "ENOMEM" in outcomes and outcomes[-1] == len(name), outcomes
    figures["faults"] = len(outcomes) - 1
    k.wait_sections()
    k.begin()
    k.channel(0).map_rx()
    if which == "own":
        k.assert_kernel_clean(request.node.nodeid, known=debug_kernel.no_proc_file)
        k.stage.note(f"lab: {request.node.nodeid}")


def test_nothing_was_kept(bench, books):
    """After all that the module has what it had before."""
    assert leaks.objects(bench.guest) == books
