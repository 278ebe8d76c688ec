# SPDX-License-Identifier: LGPL-2.1-or-later
"""A connection between native processes: bus, sivshmd and sivshm-cad are the real ones, the guests' kernels are played.

A played kernel (tests/progs/played-kernel.c) lives in the process of its sivshmd and reads the grant table that sivshm-cad
writes, as the module does: what it takes is about what a system call takes. Each sivshmd runs as the user of its VM, which
has the control port, and is joined to the host by that socket.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from lab import paths
from lab.world import Stage

from . import handshake, stats

sys.path.append(str(paths.ROOT / "tests/integration"))
DOMAIN = "bench.example"
UIDS = {"rtos": 9, "ivi": 10}  # news and uucp, for the bus turns away users that do not exist; here they do no work
SERVICES = {"rtos": "sensor", "ivi": "dashboard"}
HOST = {
    "ca.conf": f"[CA]\nTrustDomain={DOMAIN}\n[Limits]\nCertificatesPerMinute=60000\n",
    "region.d/pair.conf": "[Region pair]\nMembers=rtos ivi\nSectionSize=16M\nVectors=2\n",
    "policy.d/pair.conf": "[Allow rtos/sensor ivi/dashboard]\nChannels=64\n",
    **{f"vm.d/{vm}.conf": f"[VM {vm}]\nUser={uid}\nServices={SERVICES[vm]}\n" for vm, uid in UIDS.items()},
}
POLICY = {"rtos": "[Service sensor]\nUser=0\nConnect=ivi/dashboard\nChannels=64\n",
          "ivi": "[Service dashboard]\nUser=0\nAccept=rtos/sensor\nChannels=64\n"}
KINDS = handshake.KINDS


@contextlib.contextmanager
def undisturbed(bench):
    """Every process that is started here goes before all others: what else this machine does is no part of a handshake."""
    policy, param = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        bench.say("  no real-time scheduling may be had here: whatever else runs will show in the tails")
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, param)


class PlayedKernel:
    """Where the played kernel finds its table; the rest is in sivshmd's process."""

    def __init__(self, folder, vm):
        self.path = None

    def stop(self):
        pass


class Ports:
    """What guest_daemon.Guest asks its host for: the control port of a VM."""

    def __init__(self, runtime):
        self.runtime = runtime

    def add_vm(self, vm, kernel):
        kernel.path = str(self.runtime / "vm" / vm / "grants")
        return self.runtime / "vm" / vm / "control.sock"


class Pair(Stage):
    """Everything up; use as a context manager."""

    def __init__(self, build):
        self.build = Path(build)
        self.folder = Path("/dev/shm") / f"sivshm-bench-pair.{os.getpid()}"

    def start(self):
        from cad import Cad
        self.folder.mkdir(mode=0o755)
        self.stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.cad = Cad(str(self.build / "src/sivshm-cad/sivshm-cad"), self.folder, None, HOST)
        self.stack.callback(self.cad.close)
        self.cad.start()
        self.guests = {vm: self.start_guest(vm, uid) for vm, uid in UIDS.items()}

    def start_guest(self, vm, uid):
        from fake_vm import Device
        from guest_daemon import Guest
        device = Device(self.cad.runtime / "vm" / vm / "pair.sock", uid).setup(2)
        self.stack.callback(device.close)
        as_user = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--"]
        guest = Guest(str(self.build / "src/sivshmd/sivshmd"), str(self.build / "tests/progs/played-kernel.so"), self.folder,
                      vm, Ports(self.cad.runtime), POLICY[vm], kernel=PlayedKernel, prefix=as_user)
        self.stack.callback(guest.stop)
        return guest.start()

    def turns(self, program, count):
        """So many cold and warm calls in turns: [{kind, ms, steps, peer_steps}]."""
        buses = [self.guests[vm].bus.address for vm in UIDS]
        done = subprocess.run([program, "pair", *buses, "sensor", "ivi/dashboard", str(count)], capture_output=True,
                              text=True, timeout=600)
        if done.returncode:
            logs = "".join(guest.log()[-1000:] for guest in self.guests.values())
            raise RuntimeError(f"handshake-bench: {done.stderr}{logs}{self.cad.log()[-1000:]}")
        calls = json.loads(done.stdout)["calls"]
        for call, kind in zip(calls, KINDS * count, strict=True):
            call["kind"] = kind
            if ("csr" in call["steps"], "csr" in call["peer_steps"]) != (kind == "cold", kind == "cold"):
                raise RuntimeError(f"this was not {kind}: {call}")
        return calls


def measure(bench, build):
    program = str(Path(build) / "tests/progs/handshake-bench")
    with undisturbed(bench), Pair(build) as pair:
        pair.turns(program, 10)  # caches
        calls = pair.turns(program, bench.pick(200, 1000))
    found, rows = {}, []
    for kind in KINDS:
        times = stats.summary(handshake.of_kind(calls, kind))
        found |= {f"{kind}_{key}": times[key] for key in ("p50", "p99", "max")}
        rows += handshake.step_rows([call for call in calls if call["kind"] == kind], kind)
        bench.say(f"  native, {kind}: p50 {times['p50']} ms, p99 {times['p99']} ms of {times['n']}")
    bench.figure("handshake_native_ms", found)
    bench.table("handshake_native_steps", rows)
