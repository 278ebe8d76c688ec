# SPDX-License-Identifier: LGPL-2.1-or-later
"""Two guests and a host for the tests of sivshmd."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from fake_host import FakeHost
from guest_daemon import Guest
from lab import build as builds

HERE = Path(__file__).parent
UID = os.getuid()
RTOS = f"""
[Service sensor]
User={UID}
Connect=ivi/dashboard nowhere/dashboard
Accept=ivi/dashboard
Channels=4
MaxRingSize=256K

[Service stranger]
User=65534
Connect=ivi/none

[Service mute]
User={UID}
Unit=mute.service

[Service elsewhere]
User={UID}
Unit=elsewhere.service
Accept=ivi/dashboard
"""
IVI = f"""
[Service dashboard]
User={UID}
Accept=rtos/sensor rtos/other
Connect=rtos/sensor
Channels=8
MaxRingSize=128K
"""


@pytest.fixture(scope="session")
def sivshmd():
    """The build with sanitisers: a fault ends the daemon, and with it the test."""
    where = os.environ.get("SIVSHM_BUILD") or builds.compile("clang-asan")
    return str(Path(where) / "src/sivshmd/sivshmd")


@pytest.fixture(scope="session")
def preload(tmp_path_factory):
    out = tmp_path_factory.mktemp("preload") / "fake_device.so"
    subprocess.run(["cc", "-Wall", "-Wextra", "-shared", "-fPIC", "-o", out, HERE / "fake_device.c", "-ldl"],
                   check=True)
    return str(out)


@pytest.fixture
def world(sivshmd, preload):
    """Host and guests; the daemons are not started. At the end each has to leave without a fault."""
    folder = tempfile.mkdtemp(prefix="sivshmd-", dir="/tmp")
    os.chmod(folder, 0o755)
    host = FakeHost(folder)
    # little memory is kept from reuse, so that what a daemon holds can be seen
    env = {**builds.SANITIZER_ENV, "ASAN_OPTIONS": builds.SANITIZER_ENV["ASAN_OPTIONS"] + ":quarantine_size_mb=4"}
    guests = [Guest(sivshmd, preload, folder, vm, host, policy, env) for vm, policy in (("rtos", RTOS), ("ivi", IVI))]
    yield SimpleNamespace(host=host, rtos=guests[0], ivi=guests[1], folder=folder)
    codes = {g.vm: g.stop() for g in guests}
    host.stop()
    for g in guests:
        print(f"--- {g.vm}\n{g.log()}")
    shutil.rmtree(folder)
    assert set(codes.values()) == {0}, codes


@pytest.fixture
def pair(world):
    """The same, both daemons running."""
    world.rtos.start()
    world.ivi.start()
    return world
