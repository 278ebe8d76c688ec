# SPDX-License-Identifier: LGPL-2.1-or-later
"""Doorbells: sleeping, waking, and a peer that rings without end."""

import os
import struct
import threading
import time

import pytest

from lab import kmod
from lab.ivshmem_host import REVOKED, RUNG_OFFSET
from lab.kmod import POLLERR, POLLHUP, POLLIN
from lab.puppet import error_of


def test_doorbells_both_ways(k):
    channel = k.channel(3, peer_vector=2)
    channel.notify()
    assert k.host.rang("ivi", 2, timeout=5) == 1
    assert k.host.rang("ivi", 1) == 0
    k.host.ring(k.vm, 1)
    assert channel.wait(5 * 10**9) >= 1


def test_wait(k):
    channel = k.channel(0)
    began = time.monotonic()
    assert error_of(channel.wait, 0) == "ETIME"
    assert error_of(channel.wait, 10**8) == "ETIME"
    assert time.monotonic() - began >= 0.1
    channel.begin_wait()
    time.sleep(0.2)
    k.host.ring(k.vm, 1)
    assert channel.finish_wait() >= 1
    channel.begin_wait(10**18)
    k.host.ring(k.vm, 1)
    assert channel.finish_wait() >= 1


def test_stop_does_not_end_a_wait(k):
    """A signal without a handler: the sleep goes on, and no longer than it would have."""
    channel = k.channel(0)

    def stop():
        k.guest.run(f"kill -STOP {channel.worker.pid}; kill -CONT {channel.worker.pid}", check=True)
    channel.begin_wait()
    time.sleep(0.2)
    stop()
    k.host.ring(k.vm, 1)
    assert channel.finish_wait() >= 1
    seconds = max(3, k.guest.patience)
    began = time.monotonic()
    channel.begin_wait(seconds * 10**9)
    time.sleep(seconds * 0.6)
    stop()
    assert error_of(channel.finish_wait, 2 * seconds) == "ETIME"
    assert seconds * 0.95 <= time.monotonic() - began < seconds * 1.4
    channel.begin_wait(seconds * 10**9)
    k.guest.run(f"kill -STOP {channel.worker.pid}", check=True)
    k.host.ring(k.vm, 1)
    k.guest.run(f"kill -CONT {channel.worker.pid}", check=True)
    assert channel.finish_wait() == 1


def test_read_and_poll(k):
    channel = k.channel(0)
    worker = channel.worker
    assert channel.poll() == 0
    assert error_of(worker.call, "read", channel.fd, worker.buffer, 7) == "EINVAL"
    for _ in range(3):
        k.host.ring(k.vm, 1)
        time.sleep(0.1)
    assert channel.poll() == POLLIN
    assert channel.read() == 3
    assert channel.poll() == 0
    worker.call("fcntl", channel.fd, 4, os.O_NONBLOCK)
    assert error_of(channel.read) == "EAGAIN"
    worker.call("fcntl", channel.fd, 4, 0)
    worker.begin("read", channel.fd, worker.buffer, 8)
    k.host.ring(k.vm, 1)
    assert worker.finish() == 8
    worker.begin_poll(channel.fd)
    k.host.ring(k.vm, 1)
    assert worker.finish_poll() == POLLIN


def test_vector_wakes_its_channels_only(k):
    one, same, other = (k.channel(i, local_vector=v) for i, v in ((0, 1), (1, 1), (2, 3)))
    k.host.ring(k.vm, 1)
    assert one.poll(5000) == POLLIN and same.poll(5000) == POLLIN
    assert other.poll(100) == 0
    k.host.ring(k.vm, 3)
    assert other.poll(5000) == POLLIN
    assert one.read() == 1
    k.host.ring(k.vm, 2)
    assert one.poll(100) == 0


def test_doorbell_wakes_the_one_it_is_for(k):
    """Two channels of one vector: the peer's kernel says which it rings for. One that does not count wakes both."""
    one, two = k.channel(0), k.channel(1)

    def ring(**counts):
        for name, count in counts.items():
            k.other.section.write({"one": one, "two": two}[name].offset + RUNG_OFFSET, struct.pack("<I", count))
        k.host.ring(k.vm, 1)
        if counts:
            (one if "one" in counts else two).poll(5000)
        else:
            time.sleep(0.2)
        woken = [name for name, channel in (("one", one), ("two", two)) if channel.poll()]
        for channel in (one, two):
            channel.read() if channel.poll() else None
        return woken

    assert ring(one=1, two=1) == ["one", "two"]
    assert ring(two=2) == ["two"]
    assert ring(one=2) == ["one"]
    assert ring() == []
    assert ring(one=0xffffffff) == ["one"]
    assert ring(one=1) == ["one"]
    assert ring(two=0) == ["two"]
    assert ring(one=2) == ["one", "two"]


def test_doorbells_are_counted(k):
    """In the own window, from the opening on, and whatever the holder writes there."""
    channel = k.channel(0, peer_vector=2)
    tx = channel.map_tx()

    def count():
        return struct.unpack("<I", k.member.section.read(channel.offset + RUNG_OFFSET, 4))[0]

    assert count() == 1
    channel.notify()
    assert k.host.rang("ivi", 2, timeout=5) == 1 and count() == 2
    channel.worker.poke(tx + RUNG_OFFSET, struct.pack("<I", 0))
    assert count() == 0
    channel.notify()
    assert k.host.rang("ivi", 2, timeout=5) == 1 and count() == 3


# A hostile peer


def storm(k, vectors, seconds):
    """Rings as fast as it goes; an eventfd merges, so that is as fast as QEMU takes them."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for vector in vectors:
            k.host.ring(k.vm, vector)


@pytest.fixture
def low_limit(k):
    """What an emulated CPU can be stormed with is below the default limit."""
    k.stage.clear()
    assert k.unload()
    k.load("storm_limit=500")
    k.begin()
    yield
    k.stage.clear()
    k.until(k.unload, "rmmod")
    k.load()
    k.begin()


def interrupts(k):
    lines = k.guest.run("grep sivshm- /proc/interrupts", check=True)[1].splitlines()
    return sum(int(n) for line in lines for n in line.split()[1:3] if n.isdigit())  # one column a CPU


def check_storm(k, vectors):
    """Two seconds of it are noticed, and end where they should."""
    before = interrupts(k)
    storm(k, vectors, 2)
    served = interrupts(k) - before
    assert kmod.STORM in [e.type for e in k.owner.events()], served
    # per window of 100 ms at most the limit and one for each vector, and as long masked
    assert served < 2.5 * (500 + 40) + 200, served


@pytest.mark.parametrize("vectors", [(1,), (0,), (0, 1, 2, 3)], ids=str)
def test_storm(k, low_limit, vectors):
    channel, other = k.channel(0), k.channel(1, local_vector=2)
    rx = k.see(channel)
    check_storm(k, vectors)

    thread = threading.Thread(target=storm, args=(k, vectors, 2))
    thread.start()
    time.sleep(0.5)
    other.wait(0) if other.poll() else None
    k.host.ring(k.vm, 2)
    assert other.poll(2000) == POLLIN  # the others are served
    k.host.set_state(k.vm, 0, REVOKED)
    k.host.ring(k.vm, 0)
    k.until(lambda: channel.poll() == POLLHUP | POLLERR, "the host is heard", timeout=1)
    assert channel.worker.peek(rx, 4) == bytes(4)
    thread.join()

    time.sleep(0.4)
    k.owner.events()
    while other.poll():
        other.read()
        time.sleep(0.1)
    k.host.ring(k.vm, 2)
    assert other.poll(2000) == POLLIN  # interrupts are back
    assert other.read() == 1
    assert kmod.STORM not in [e.type for e in k.owner.events()]


@pytest.fixture
def busy_cpu(k, low_limit):
    """A real-time task has taken the CPU that the module's interrupts go to, above the threads that PREEMPT_RT has
    for them. All others go to the first CPU. Now and then it sleeps for the sake of the kernel's own real-time threads:
    without it RCU stalls, and commands with it."""
    for text in k.guest.run("ls /proc/irq", check=True)[1].split():
        k.guest.run(f"echo $(ls -d /proc/irq/{text}/sivshm-* 2>&- | wc -l) > /proc/irq/{text}/smp_affinity_list")
    spin = "import os,time\nos.sched_setaffinity(0, {1})\nos.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(80))\n" \
           "end = time.monotonic() + 300\nwhile (now := time.monotonic()) < end:\n" \
           "    while time.monotonic() < now + 0.8: pass\n    time.sleep(0.05)"
    spinner = k.guest.run_bg(["/usr/bin/python3", "-c", spin])
    k.until(lambda: "FF" in k.guest.run(f"ps -o cls= -p {spinner}")[1], "a busy task")
    yield
    k.guest.run(f"kill {spinner}", check=True)
    k.guest.wait(spinner)


@pytest.mark.kernels("stock", "rt")
def test_storm_on_a_busy_cpu(k, busy_cpu):
    check_storm(k, (1, 2, 3))
