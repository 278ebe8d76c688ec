# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fixtures of the tests of sivshm-cad; a test module imports those it uses."""

import os
import shutil
import time
from pathlib import Path

import pytest

from cad import UID_A, UID_B, Cad
from fake_vm import Vm
from lab import build as builds
from lab.host import PrivateBus


@pytest.fixture(scope="session")
def cad_binary():
    """The build with sanitisers: a fault ends the daemon, and with it the test."""
    where = os.environ.get("SIVSHM_BUILD") or builds.compile("clang-asan")
    return str(Path(where) / "src/sivshm-cad/sivshm-cad")


@pytest.fixture(scope="session")
def private_bus():
    with PrivateBus() as bus:
        yield bus


@pytest.fixture
def cad(cad_binary, private_bus):
    """Not started; below /dev/shm, since it wants a tmpfs."""
    folder = Path("/dev/shm") / f"sivshm-cad.{os.getpid()}.{time.monotonic_ns():x}"
    folder.mkdir(mode=0o755)
    daemon = Cad(cad_binary, folder, private_bus.address)
    yield daemon
    code = daemon.close()
    print(daemon.log())
    shutil.rmtree(folder, ignore_errors=True)
    assert code in (0, None), code
    assert "AddressSanitizer" not in daemon.log()


@pytest.fixture
def pair(cad):
    """The daemon up, with VMs a and b booted: devices plugged, Hello said."""
    cad.start()
    cad.bus()
    a, b = Vm(cad, "a", UID_A).boot(), Vm(cad, "b", UID_B).boot()
    yield cad, a, b
    a.close()
    b.close()
