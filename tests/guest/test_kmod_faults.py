# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory that is not to be had: each allocation of a call fails once, on kernels that can do that."""

import os

import pytest

from lab.kmod_world import BOUND, PLACES, UID, device
from lab import kmod


@pytest.fixture
def injector(k):
    """Only kernels built for it can make an allocation fail."""
    if k.guest.run("test -e /proc/self/fail-nth")[0]:
        pytest.skip("this kernel has no fault injection")
    k.guest.run("cd /sys/kernel/debug; echo N > failslab/ignore-gfp-wait; echo N > fail_page_alloc/ignore-gfp-wait; "
                "echo 0 > fail_page_alloc/min-order; for f in fail*/verbose; do echo 0 > $f; done", check=True)


def sweep(call, clean):
    """Every allocation of a call fails once. Returns how the calls ended, the last with nothing left to fail."""
    outcomes = []
    for nth in range(1, 1000):
        outcome, injected = call(nth)
        outcomes.append(outcome)
        clean(outcome)
        if not injected:
            return outcomes
    raise AssertionError("no end of allocations")


def test_open_without_memory(k, injector):
    worker = k.owner.worker

    def call(nth):
        generation = k.grant(1)
        worker.poke(worker.buffer, kmod.OPEN.pack(1, generation, UID, 0, k.cgroup["holder"], 0))
        return worker.call_failing(nth, "ioctl", k.owner.fd, kmod.OPEN_CHANNEL, worker.buffer)

    def clean(outcome):
        if isinstance(outcome, int):
            worker.close(outcome)
            assert k.events() == ["RELEASED"]
        assert k.owner.info().n_channels == 0
    outcomes = sweep(call, clean)
    assert outcomes.count("ENOMEM") >= 3 and isinstance(outcomes[-1], int), outcomes


# not the own section: Linux 6.1 itself trips over allocations that fail while it sets up MSI-X
@pytest.mark.parametrize("which", ["table", "peer"])
def test_probe_without_memory(k, injector, which):
    k.stage.clear()
    worker, name = k.stage.spawn(), device(PLACES[which]).encode()
    bind = worker.open(f"{BOUND}/bind", os.O_WRONLY)
    worker.poke(worker.buffer, name)

    def call(nth):
        k.unbind(which)
        return worker.call_failing(nth, "write", bind, worker.buffer, len(name))

    def clean(outcome):
        if outcome != len(name):
            k.bind(which)
        k.wait_sections()
    outcomes = sweep(call, clean)
    assert "ENOMEM" in outcomes and outcomes[-1] == len(name), outcomes
    k.begin()
    k.channel(0).map_rx()
