# SPDX-License-Identifier: LGPL-2.1-or-later
"""sivshm-cad as built, and broken on purpose, below a folder of its own, with VMs that the test plays."""

import contextlib
import os
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from cad import Cad, wait_for  # noqa: E402, F401
from fake_vm import Vm  # noqa: E402
from lab import build as builds  # noqa: E402
from lab.host import PrivateBus  # noqa: E402
from lab.mutant import Edit, daemon as broken_daemon  # noqa: E402, F401

# Names that occur nowhere by chance: what a stranger receives is searched for them.
UIDS = {"alpha": 62011, "bravo": 62012, "carol": 62013, "delta": 62014}
SERVICES = {"alpha": "sensor camera", "bravo": "dashboard recorder", "carol": "logger", "delta": "archive"}
BASE = {
    "ca.conf": "[CA]\nTrustDomain=test.example\n[Limits]\nHandshakeTimeout=5s\nDrainTimeout=1s\n",
    **{f"vm.d/{vm}.conf": f"[VM {vm}]\nUser={uid}\nServices={SERVICES[vm]}\n" for vm, uid in UIDS.items()},
    "region.d/10-demo.conf": "[Region demo]\nMembers=alpha bravo\nSectionSize=1M\n",
    "policy.d/10-demo.conf": "[Allow alpha/sensor bravo/dashboard]\nChannels=8\nMaxRingSize=64K\n",
}
OTHER = {"region.d/20-other.conf": "[Region other]\nMembers=carol delta\nSectionSize=1M\n",
         "policy.d/20-other.conf": "[Allow carol/logger delta/archive]\n"}
SAME = {"region.d/10-demo.conf": "[Region demo]\nMembers=alpha bravo carol\nSectionSize=1M\n",
        "policy.d/20-same.conf": "[Allow carol/logger bravo/recorder]\n"}
# where carol, the third VM, is
PLACES = {"of another region": {**BASE, **OTHER}, "of no region": BASE, "of the same region": {**BASE, **SAME}}
REGION = {"of another region": "other", "of no region": None, "of the same region": "demo"}


@contextlib.contextmanager
def cad(binary, config, ends=(0, None)):
    """A running daemon, on a bus of its own that lets everybody do everything. `ends` are the ways it may end."""
    folder = Path("/dev/shm") / f"sivshm-cad.{os.getpid()}.{time.monotonic_ns():x}"
    folder.mkdir(mode=0o755)
    with PrivateBus() as bus:
        daemon = Cad(binary, folder, bus.address, config)
        daemon.vm_list = []
        try:
            yield daemon.start()
        finally:
            for vm in daemon.vm_list:
                vm.close()
            code = daemon.close()
            log = daemon.log()
            print(log)
            shutil.rmtree(folder, ignore_errors=True)
    assert code in ends, code
    assert "AddressSanitizer" not in log


def sound():
    """The build with sanitisers."""
    return str(builds.compile("clang-asan") / "src/sivshm-cad/sivshm-cad")


def broken(*edits):
    """A build that lets an attack through; kept by its edits, so that cases can share one."""
    found = broken.builds.get(edits)
    if not found:
        found = broken.builds[edits] = str(broken_daemon("sivshm-cad", *edits))
    return found


broken.builds = {}


def vm(daemon, name, region=None):
    """Booted: its device in that region plugged, its daemon welcome."""
    machine = Vm(daemon, name, UIDS[name])
    daemon.vm_list.append(machine)
    if region:
        machine.plug(region)
    machine.start_daemon()
    return machine


def pair(daemon):
    """alpha and bravo, who share the region demo; bravo listens."""
    a, b = vm(daemon, "alpha", "demo"), vm(daemon, "bravo", "demo")
    b.daemon.call("Listen", service="dashboard")
    return a, b
