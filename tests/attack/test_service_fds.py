# SPDX-License-Identifier: LGPL-2.1-or-later
"""Descriptors that nobody asked for, sent to the real daemon on a real bus.

Its unit lets it have LimitNOFILE= of them, what two users with a right to listen can send and more; here it has a
quarter, and one user is enough.
"""

import json
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytest.importorskip("gi")

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from fake_host import FakeHost  # noqa: E402
from guest_daemon import BUS_CONFIG, Client, Guest, wait_for  # noqa: E402
from lab import build as builds  # noqa: E402
from lab import paths  # noqa: E402
from lab.attack import SERVICE, attack  # noqa: E402
from sivshmd_world import UID, preload  # noqa: E402, F401

SHIPPED = paths.ROOT / "dbus/org.sivshm1.conf"
SERVICES = [f"l{i}" for i in range(4)]
POLICY = "".join(f"[Service {name}]\nUser={UID}\nAccept=ivi/dashboard\n" for name in SERVICES)
CALLS = 64 * len(SERVICES)
ACCESS_DENIED = "org.freedesktop.DBus.Error.AccessDenied"


def limit():
    unit = (paths.ROOT / "units/sivshmd.service").read_text()
    return int(re.search(r"^LimitNOFILE=(\d+)$", unit, re.M)[1]) // 4


def use_policy(guest, shipped):
    """On that bus from now on; without the shipped policy everything is allowed, as on the bus of the tests."""
    text = BUS_CONFIG.format(path=guest.bus.path)
    if shipped:
        text = text.replace("</busconfig>", f"<include>{SHIPPED}</include></busconfig>")
    (guest.folder / "bus.conf").write_text(text)
    Client(guest.bus).bus.call_sync("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus",
                                    "ReloadConfig", None, None, 0, 5000, None)


def flood(preload, shipped):
    """What the callers were answered, and the daemon's exit code; None while it lives, and then it does its work."""
    binary = builds.compile("gcc") / "src/sivshmd/sivshmd"
    with tempfile.TemporaryDirectory(prefix="sivshmd-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        host = FakeHost(folder)
        guest = Guest(str(binary), preload, folder, "rtos", host, POLICY)
        try:
            use_policy(guest, shipped)
            guest.start()
            resource.prlimit(guest.process.pid, resource.RLIMIT_NOFILE, (limit(), limit()))
            done = subprocess.run([Path(__file__).with_name("fd-flood.py"), guest.bus.address, *SERVICES],
                                  stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stderr[-3000:]
            code = guest.process.poll()
            if code is None:
                client = guest.client()
                wait_for(lambda: len(client.get("Certificates")) == len(SERVICES), what="all have their certificates")
            return json.loads(done.stdout), code
        finally:
            guest.stop()
            host.stop()


@attack(SERVICE, "sends descriptors with calls that take none and wait, 16 in each, more than the daemon may have open",
        stops="the bus delivers no call with a descriptor to the daemon, `dbus/org.sivshm1.conf`",
        control="on a bus that does the daemon has no descriptor left, loses its connection and ends")
def test_descriptors(preload, figures, control):
    answers, code = flood(preload, shipped=True)
    assert answers == {ACCESS_DENIED: CALLS} and code is None
    figures["answers"] = answers
    answers, code = flood(preload, shipped=False)
    figures["without"] = answers
    control.seen(code == 1)  # and says so: a bus that is gone is no clean end
