# SPDX-License-Identifier: LGPL-2.1-or-later
"""tests/kmod/hostile in a guest of the world, and what it takes to measure what it does to the other one."""

import contextlib
import json
import os
import time

from lab import build, story
from lab.world import PCI_SLOT

PARAMETERS = "/sys/module/hostile/parameters"
OWN_SLOT = PCI_SLOT + 1
PEER_ID = {"rtos": 0, "ivi": 1}  # Members= of the example
PROGRAM = f"{story.TESTS}/hostile-peer"


@contextlib.contextmanager
def kernel(world, vm, victim):
    """The guest *vm* with a kernel that can be told to attack *victim*."""
    guest = world.guests[vm]
    guest.put_file("/root/hostile.ko", build.test_module(world.image, "hostile"))
    guest.run(f"insmod /root/hostile.ko device={OWN_SLOT} peer={PEER_ID[victim]}", check=True)
    try:
        yield guest
    finally:
        guest.run("rmmod hostile", check=True)


@contextlib.contextmanager
def thread(guest, what):
    """Its thread rings, or spins, meanwhile."""
    guest.run(f"echo {what} > {PARAMETERS}/thread", check=True)
    try:
        yield
    finally:
        guest.run(f"echo none > {PARAMETERS}/thread", check=True)


def rung(guest):
    return int(guest.run(f"cat {PARAMETERS}/rung", check=True)[1])


def interrupts(guest):
    """Doorbells that the victim's kernel has served by interrupts."""
    return sum(int(line.split()[1]) for line in guest.run("grep sivshm- /proc/interrupts")[1].splitlines())


def vcpu_seconds(guest):
    """CPU time that the host has given to the guest's one CPU."""
    for task in os.listdir(f"/proc/{guest.process.pid}/task"):
        folder = f"/proc/{guest.process.pid}/task/{task}"
        with open(f"{folder}/comm") as comm:
            if "TCG" not in comm.read():
                continue
        with open(f"{folder}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    raise AssertionError("QEMU has no thread of a CPU")


def work(guest, seconds):
    """What a service of the guest gets done, and what of the CPU it took."""
    before, began, when = interrupts(guest), vcpu_seconds(guest), time.monotonic()
    done = json.loads(guest.run([PROGRAM, "work", str(seconds)], timeout=60 + 10 * seconds, check=True)[1])
    cpu, served, took = vcpu_seconds(guest) - began, interrupts(guest) - before, time.monotonic() - when
    return {"rounds_per_second": done["rounds"] / done["seconds"], "rounds_per_cpu_second": done["rounds"] / cpu,
            "interrupts_per_second": served / took,
            "longest_gap_ms": done["longest_gap_ms"]}


@contextlib.contextmanager
def storm_limit(world, vm, limit):
    """The module of a guest loaded anew with another limit."""
    guest = world.guests[vm]

    def load(parameters):
        guest.run(f"systemctl stop sivshmd; rmmod sivshm && modprobe sivshm {parameters} && systemctl start sivshmd",
                  check=True)
        world.wait_connected(guest)
    load(f"storm_limit={limit}")
    try:
        yield guest
    finally:
        load("")
