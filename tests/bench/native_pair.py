# SPDX-License-Identifier: LGPL-2.1-or-later
"""A connection between native processes: bus, sivshmd and sivshm-cad are the real ones, the guests' kernels are played.

A played kernel knows no grants of its own: it reads the table that sivshm-cad writes, as the module does.
"""

import collections
import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

from lab import paths

from . import stats

INTEGRATION = paths.ROOT / "tests/integration"
sys.path.append(str(INTEGRATION))
DOMAIN = "bench.example"
HELD = 8
UIDS = {"rtos": 62301, "ivi": 62302}
SERVICES = {"rtos": "sensor", "ivi": "dashboard"}
HOST = {
    "ca.conf": f"[CA]\nTrustDomain={DOMAIN}\n[Limits]\nCertificatesPerMinute=60000\n",
    "region.d/pair.conf": "[Region pair]\nMembers=rtos ivi\nSectionSize=16M\nVectors=2\n",
    "policy.d/pair.conf": "[Allow rtos/sensor ivi/dashboard]\nChannels=64\n",
    **{f"vm.d/{vm}.conf": f"[VM {vm}]\nUser={uid}\nServices={SERVICES[vm]}\n" for vm, uid in UIDS.items()},
}
POLICY = {"rtos": "[Service sensor]\nUser=0\nConnect=ivi/dashboard\nChannels=64\n",
          "ivi": "[Service dashboard]\nUser=0\nAccept=rtos/sensor\nChannels=64\n"}


class Grant:
    """A slot of the table, looked at anew each time."""

    def __init__(self, table, slot):
        self.table, self.slot = table, slot

    def entry(self):
        return self.table.grant(self.slot)

    state = property(lambda self: self.entry()["state"], lambda self, value: None)  # the host's to write
    generation = property(lambda self: self.entry()["generation"])
    local = property(lambda self: self.entry()["local_service"])
    peer_vm = property(lambda self: self.entry()["peer_vm"])
    peer_service = property(lambda self: self.entry()["peer_service"])
    ring = property(lambda self: max(0, self.entry()["tx_size"] - 4096))
    id = property(lambda self: self.entry()["channel"])


class Ports:
    """What guest_daemon.Guest asks its host for: the real daemon's control port of a VM.

    As with a real guest, QEMU's user has the connection, and passes bytes on; socat is that here.
    """

    def __init__(self, cad, stack):
        self.cad, self.stack = cad, stack

    def add_vm(self, vm, kernel):
        from fake_vm import Table
        from guest_daemon import wait_for
        table = Table(self.cad.runtime / "vm" / vm / "grants", UIDS[vm])
        kernel.grants = [Grant(table, slot) for slot in range(table.header()["slots"])]
        port, control = Path(kernel.path).with_name("port"), self.cad.runtime / "vm" / vm / "control.sock"
        os.chown(port.parent, UIDS[vm], UIDS[vm])
        process = subprocess.Popen(["setpriv", f"--reuid={UIDS[vm]}", f"--regid={UIDS[vm]}", "--clear-groups",
                                    "--pdeathsig=KILL", "--", "socat", "-b", "65536", f"UNIX-LISTEN:{port},mode=666",
                                    f"UNIX-CONNECT:{control}"])
        self.stack.callback(process.wait)
        self.stack.callback(process.kill)
        wait_for(port.exists, what="the control port")
        return port


class Pair:
    """Everything up; use as a context manager."""

    def __init__(self, build):
        self.build = Path(build)
        self.folder = Path("/dev/shm") / f"sivshm-bench-pair.{os.getpid()}"
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        with contextlib.ExitStack() as guard:
            guard.push(self.stack)
            self.start()
            guard.pop_all()
        return self

    def __exit__(self, *exc):
        self.stack.close()

    def start(self):
        from cad import Cad
        from fake_vm import Device
        from guest_daemon import Guest
        self.folder.mkdir(mode=0o755)
        self.stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.cad = Cad(str(self.build / "src/sivshm-cad/sivshm-cad"), self.folder, None, HOST)
        self.stack.callback(self.cad.close)
        self.cad.start()
        preload = self.folder / "device.so"
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", preload, INTEGRATION / "fake_device.c", "-ldl"], check=True)
        self.guests = {}
        for vm, uid in UIDS.items():
            device = Device(self.cad.runtime / "vm" / vm / "pair.sock", uid).setup(2)
            self.stack.callback(device.close)
            guest = Guest(str(self.build / "src/sivshmd/sivshmd"), str(preload), self.folder, vm,
                          Ports(self.cad, self.stack), POLICY[vm])
            self.stack.callback(guest.stop)
            self.guests[vm] = guest.start()
        self.listen()

    def listen(self):
        """Takes every connection at the listening end; lets go of it some connections later, as a service would."""
        client = self.guests["ivi"].client()
        listener = client.listen("dashboard", backlog=8)
        self.ending, held = False, collections.deque()

        def loop():
            while not self.ending:
                with contextlib.suppress(Exception):  # nobody came in time
                    held.append(client.accept(listener, timeout_usec=500000)[0])
                if len(held) > HELD:
                    os.close(held.popleft())
        thread = threading.Thread(target=loop)
        thread.start()
        self.stack.callback(thread.join)
        self.stack.callback(setattr, self, "ending", True)

    def forget(self):
        for guest in self.guests.values():
            guest.clients[0].manager("ForgetCertificates")

    def connect(self, program, count):
        """What handshake-bench says of *count* calls in a row."""
        env = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": self.guests["rtos"].bus.address}
        done = subprocess.run([program, "connect", "sensor", "ivi/dashboard", str(count)], env=env, capture_output=True,
                              text=True, timeout=60)
        if done.returncode:
            raise RuntimeError(f"handshake-bench: {done.stderr}{self.guests['rtos'].log()[-1500:]}")
        return json.loads(done.stdout)["calls"]


def measure(bench, build):
    program = str(Path(build) / "tests/progs/handshake-bench")
    blocks, warm = bench.pick((40, 5), (200, 10))
    calls = {"cold": [], "warm": []}
    with Pair(build) as pair:
        pair.connect(program, 10)
        for _ in range(blocks):
            pair.forget()
            calls["cold"] += pair.connect(program, 1)
            calls["warm"] += pair.connect(program, warm)
            time.sleep(0.02)  # what those calls leave to be done is not the next one's
    rows = []
    for kind, found in calls.items():
        times = stats.summary([call["ms"] for call in found])
        middle = sorted(found, key=lambda call: call["ms"])[len(found) // 2]
        last = 0
        for name, usec in sorted(middle["steps"].items(), key=lambda item: item[1]):
            rows.append({"kind": kind, "step": name, "ms": round((usec - last) / 1000, 3)})
            last = usec
        rows.append({"kind": kind, "step": "over the bus", "ms": round(middle["ms"] - last / 1000, 3)})
        bench.say(f"  native, {kind}: p50 {times['p50']} ms, p99 {times['p99']} ms of {times['n']}")
        bench.figures.setdefault("handshake_native_ms", {}).update(
            {f"{kind}_{key}": times[key] for key in ("p50", "p99", "max")})
    bench.table("handshake_native_steps", rows)
