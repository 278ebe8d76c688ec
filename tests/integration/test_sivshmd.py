# SPDX-License-Identifier: LGPL-2.1-or-later
"""sivshmd for real, two of them, each on its own bus, joined by a fake host over fake kernels."""

import os
import subprocess
from pathlib import Path

import pytest

gi = pytest.importorskip("gi")

from fake_host import FakeHost  # noqa: E402
from lab import build as builds  # noqa: E402
from guest_daemon import Async, Guest, wait_for  # noqa: E402

HERE = Path(__file__).parent
UID = os.getuid()
RTOS = f"""
[Service sensor]
User={UID}
Connect=ivi/dashboard
Accept=ivi/dashboard
Channels=4
MaxRingSize=256K
"""
IVI = f"""
[Service dashboard]
User={UID}
Accept=rtos/sensor rtos/other
Connect=rtos/sensor
Channels=4
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
def world(sivshmd, preload, tmp_path):
    class World:
        pass
    w = World()
    tmp_path.chmod(0o755)
    w.host = FakeHost(str(tmp_path))
    w.rtos = Guest(sivshmd, preload, tmp_path, "rtos", w.host, RTOS)
    w.ivi = Guest(sivshmd, preload, tmp_path, "ivi", w.host, IVI)
    yield w
    codes = {g.vm: g.stop() for g in (w.rtos, w.ivi)}
    w.host.stop()
    for g in (w.rtos, w.ivi):
        print(f"--- {g.vm}\n{g.log()}")
    assert all(code == 0 for code in codes.values()), codes


def test_connect_and_accept(world):
    world.rtos.start(), world.ivi.start()
    server, client = world.ivi.client(), world.rtos.client()
    listener = server.listen("dashboard")
    accepted = Async(server.accept, listener)
    fd, path, identity = client.connect("sensor", "ivi/dashboard")
    print(identity)
    peer_fd, peer_path, peer_identity = accepted.result()
    print(peer_identity)
    os.close(fd)
    os.close(peer_fd)
    wait_for(lambda: not world.host.channels, what="channel gone")
