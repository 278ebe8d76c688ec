# SPDX-License-Identifier: LGPL-2.1-or-later
"""Two real sivshmd and a real sivshm-cad, with a relay in the middle that can lie; the guests' kernels are played.

VM a holds sensor and camera, VM b holds dashboard and recorder. Quotas are exactly as large as the cases need, at the
host and in the guests: a session, slot or place in a backlog that was not given back makes the next case fail.
"""

import contextlib
import os
import re
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

from lab import paths
from lab.proc import readable
from lab.relay import Relay

sys.path.insert(0, str(paths.ROOT / "tests/integration"))

from cad import UID_A, UID_B, Cad  # noqa: E402
from fake_kernel import C_OPEN, C_REVOKED, PAGE, FakeKernel  # noqa: E402
from fake_vm import ACTIVE, DRAINING, Device, Table  # noqa: E402
from guest_daemon import LISTENER, Async, Guest, Refused, wait_for  # noqa: E402

UID = os.getuid()
SENSOR, CAMERA, DASHBOARD, RECORDER = "a/sensor", "a/camera", "b/dashboard", "b/recorder"
ROOM = 2  # of everything
HANDSHAKE_TIMEOUT = 1
HOST = {
    "ca.conf": f"[CA]\nTrustDomain=test.example\n[Limits]\nHandshakeTimeout={HANDSHAKE_TIMEOUT}s\nDrainTimeout=1s\n"
               f"SessionsPerVM={ROOM}\nCertificatesPerMinute=60000\n",
    "vm.d/10-a.conf": f"[VM a]\nUser={UID_A}\nServices=sensor camera\n",
    "vm.d/20-b.conf": f"[VM b]\nUser={UID_B}\nServices=dashboard recorder\n",
    "region.d/10-demo.conf": "[Region demo]\nMembers=a b\nSectionSize=1M\n",
    "policy.d/10-demo.conf": "".join(f"[Allow {pair}]\nChannels={ROOM}\nMaxRingSize=64K\n" for pair in
                                     (f"{SENSOR} {DASHBOARD}", f"{CAMERA} {RECORDER}", f"{CAMERA} {DASHBOARD}")),
}
GUESTS = {
    "a": "".join(f"[Service {name}]\nUser={UID}\nConnect={DASHBOARD} {RECORDER}\nChannels={2 * ROOM}\n"
                 for name in ("sensor", "camera")),
    "b": "".join(f"[Service {name}]\nUser={UID}\nAccept={SENSOR} {CAMERA}\nChannels={2 * ROOM}\n"
                 for name in ("dashboard", "recorder")),
}
UIDS = {"a": UID_A, "b": UID_B}

# what came of one attempt: `at_a` is the caller's Refused or None; `at_b` and `host` are (name, text) or None
Outcome = namedtuple("Outcome", "at_a at_b host seconds")
View = namedtuple("View", "state generation ring id local peer_vm peer_service")


class TableKernel(FakeKernel):
    """The fake kernel of the daemon's tests, its grants now from the real table, as QEMU shows it to the VM."""

    def __init__(self, folder, vm):
        super().__init__(folder, vm)
        self.table = self.device = None
        self.drained = set()

    def attach(self, table, device):
        self.table, self.device = table, device
        threading.Thread(target=self._listen, args=(device.peers[device.id][0],), daemon=True).start()

    @property
    def grants(self):
        if not self.table:
            return []
        return [self._view(self.table.grant(slot)) for slot in range(16)]

    @grants.setter
    def grants(self, value):
        """The base class begins with a table of its own."""

    @staticmethod
    def _view(g):
        return View(g["state"], g["generation"], max(g["tx_size"] - PAGE, 0), g["channel"], g["local_service"],
                    g["peer_vm"], g["peer_service"])

    def _listen(self, bell):
        """Vector 0: the table has changed."""
        while not self.stopping:
            if not readable([bell], 0.5):
                continue
            with contextlib.suppress(OSError):
                os.read(bell, 8)
            with self.lock:
                self._look()

    def _look(self):
        grants = self.grants
        for slot, channel in self.channels.items():
            g = grants[slot]
            if channel.state != C_OPEN:
                continue
            if g.generation != channel.generation or g.state not in (ACTIVE, DRAINING):
                channel.state = C_REVOKED
                self.event("revoked", slot, channel.generation)
            elif g.state == DRAINING and (slot, g.generation) not in self.drained:
                self.drained.add((slot, g.generation))
                self.event("draining", slot, g.generation)

    def _withdraw(self, slot):
        """The table is the host's alone to write."""


class Ports:
    """What guest_daemon.Guest wants of its host: where the control port is."""

    def __init__(self, relay):
        self.relay = relay

    def add_vm(self, vm, kernel):
        return self.relay.path(vm)


class Middle:
    def __init__(self, folder, bus_address, cad_binary, binaries, preload, environment):
        self.folder = Path(folder)
        self.cad = Cad(cad_binary, self.folder, bus_address, HOST)
        self.cad.start()
        self.cad.bus()
        run = self.cad.runtime / "vm"
        self.relay = Relay(self.folder, {vm: (run / vm / "control.sock", UIDS[vm]) for vm in UIDS})
        self.devices = {vm: Device(run / vm / "demo.sock", UIDS[vm]).setup(8) for vm in UIDS}
        self.guests = {vm: Guest(binaries[vm], preload, self.folder, vm, Ports(self.relay), GUESTS[vm], environment,
                                 TableKernel) for vm in UIDS}
        for vm, guest in self.guests.items():
            guest.kernel.attach(Table(run / vm / "grants", UIDS[vm]), self.devices[vm])
            guest.start(wait=False)
        for guest in self.guests.values():
            guest.wait_ready()
        self.fds = []
        self.baseline()

    @property
    def a(self):
        return self.guests["a"]

    @property
    def b(self):
        return self.guests["b"]

    def use(self, binaries):
        """Other binaries as the guests' daemons; the same ones start anew when they have logged much: how often
        they speak of refusals is limited."""
        is_chatty = len(self.refusals_at("b", self.since)) > 16
        if not is_chatty and all(guest.binary == binaries[vm] for vm, guest in self.guests.items()):
            return
        for vm, guest in self.guests.items():
            guest.notified()
            for client in guest.clients:
                client.close()
            guest.clients.clear()
            guest.kill()
            guest.binary = binaries[vm]
            guest.start()
        self.baseline()

    def baseline(self):
        self.client, self.server, self.since = self.a.client(), self.b.client(), self.marks()
        self.settle()
        self.before = self.counts()

    # attempts

    def begin(self):
        self.relay.forget()
        for guest in self.guests.values():
            guest.notified()  # nobody else reads it, and sd_notify() waits for room
        for client in (self.client, self.server):
            client.manager("ForgetCertificates")

    @contextlib.contextmanager
    def listening(self, service="dashboard"):
        listener = self.server.listen(service, backlog=ROOM)
        try:
            yield listener
        finally:
            self.server.call(listener, LISTENER, "Close")

    def connect(self, service="sensor", peer=DASHBOARD, ring=4096, timeout=5.0):
        """As a caller sees it; the fd is kept till the case's end."""
        fd, path, who = self.client.connect(service, peer, ring, timeout_usec=int(timeout * 1e6))
        self.fds.append(fd)
        return path, who

    def try_connect(self, *arguments, **kw):
        began, marks = time.monotonic(), self.marks()
        try:
            self.connect(*arguments, **kw)
            error = None
        except Refused as refused:
            error = refused
        return Outcome(error, None, None, time.monotonic() - began), marks

    def attempt(self, *arguments, b_hears=True, **kw):
        """One Connect, with what was said of it at all three places."""
        with self.listening():
            outcome, marks = self.try_connect(*arguments, **kw)
            if outcome.at_a is None:
                return outcome
            at_b = wait_for(lambda: self.refusals_at("b", marks), what="b names an error") if b_hears else None
        return outcome._replace(at_b=at_b and at_b[0], host=next(iter(self.refusals_at_host(marks)), None))

    def connects(self):
        """An honest Connect through the relay as it is now; true when that gives a channel at both ends."""
        with self.listening() as listener:
            self.connect()
            self.fds.append(self.server.accept(listener, timeout_usec=5_000_000)[0])
        self.empty()
        return True

    # what was logged since

    def marks(self):
        return {"a": len(self.a.log()), "b": len(self.b.log()), "host": len(self.cad.log())}

    def refusals_at(self, vm, marks):
        """(name, text) for each that the guest's daemon logged of the other's services."""
        return re.findall(r"^\w+ and [\w/]+: (\w+): (.*)$", self.guests[vm].log()[marks[vm]:], re.M)

    def ends_at(self, vm, marks):
        """The same, and of channels that it had opened already: ("Channel", reason)."""
        ended = re.findall(r"^(Channel) \w+ with [\w/]+: (?!open)(.*)$", self.guests[vm].log()[marks[vm]:], re.M)
        return self.refusals_at(vm, marks) + ended

    def refusals_at_host(self, marks):
        return re.findall(r"[\w/]+ to [\w/]+ refused: (\w+): (.*)$", self.cad.log()[marks["host"]:], re.M)

    # nothing is left

    def counts(self):
        return {"cad": len(os.listdir(f"/proc/{self.cad.pid}/fd")), "a": self.a.fds(), "b": self.b.fds()}

    def open_channels(self):
        """Channels that a holder could use, by VM."""
        counts = {vm: sum(c.state == C_OPEN for c in list(guest.kernel.channels.values()))
                  for vm, guest in self.guests.items()}
        return {vm: n for vm, n in counts.items() if n}

    def drop_fds(self):
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()

    def is_empty(self):
        """No channel, window, grant, kernel channel, bus object."""
        return (not self.cad.channels()
                and all(m["granted"] == m["quarantined"] == 0 for m in self.cad.members().values())
                and all(not g.kernel.channels and not g.kernel.table.states() for g in self.guests.values())
                and not self.client.manager("ListChannels")[0] and not self.server.manager("ListChannels")[0])

    def empty(self):
        self.drop_fds()
        wait_for(self.is_empty, what="everything is given back")

    def settle(self):
        """Two honest connections at once, which take all that the quotas allow; then nothing is left."""
        self.empty()
        self.begin()
        wait_for(self.fills_up, 3 * HANDSHAKE_TIMEOUT, "room for two connections")
        self.empty()

    def fills_up(self):
        with self.listening(), self.listening("recorder"):
            calls = [Async(self.connect) for _ in range(ROOM)]
            try:
                for call in calls:
                    call.result()
                return True
            except Refused as refused:
                assert refused.name == "QuotaExceeded", refused
                return False
            finally:
                for call in calls:
                    call.thread.join(10)
                self.drop_fds()

    def given_back(self):
        """After an attack: all counts as before it."""
        self.settle()
        wait_for(lambda: self.counts() == self.before, what=f"fds as before: {self.before}, now {self.counts()}")

    def close(self):
        """Exit codes of the guests' daemons and of sivshm-cad."""
        self.drop_fds()
        codes = [guest.stop() for guest in self.guests.values()]
        codes.append(self.cad.close())
        self.relay.close()
        for device in self.devices.values():
            device.close()
        return codes

    def logs(self):
        return "\n".join([f"--- {vm}\n{guest.log()}" for vm, guest in self.guests.items()]
                         + [f"--- host\n{self.cad.log()}"])
