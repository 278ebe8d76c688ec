# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fixtures of the guest suite: the cockpit example, booted once for all of it."""

import pytest

from lab.world import World


@pytest.fixture(scope="session")
def shared_world(destdir, image, log_dir):
    with World(destdir, image, log_dir=log_dir, progress=print) as world:
        yield world


@pytest.fixture
def world(shared_world, request):
    """Host and both guests. The kernel logs are part of the verdict; no channel is left behind."""
    guests = shared_world.guests.values()
    for guest in guests:
        guest.mark(request.node.nodeid)
    yield shared_world
    for guest in guests:
        guest.assert_kernel_clean(since=request.node.nodeid)


@pytest.fixture
def rtos(world):
    return world.rtos


@pytest.fixture
def ivi(world):
    return world.ivi
