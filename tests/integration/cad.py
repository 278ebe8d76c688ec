# SPDX-License-Identifier: LGPL-2.1-or-later
"""sivshm-cad for real: its process, its configuration, its bus, and systemd's notify socket and fd store."""

import array
import contextlib
import fcntl
import os
import select
import shutil
import signal
import socket
import threading
import time
from pathlib import Path

from gi.repository import Gio, GLib

NAME, PATH, MANAGER = "org.sivshm.ca1", "/org/sivshm/ca1", "org.sivshm.ca1.Manager"
UID_A, UID_B, UID_C = 62001, 62002, 62003

CONFIG = {
    "ca.conf": "[CA]\nTrustDomain=test.example\n[Limits]\nHandshakeTimeout=2s\nDrainTimeout=1s\n",
    "vm.d/10-a.conf": f"[VM a]\nUser={UID_A}\nServices=sensor camera\n",
    "vm.d/20-b.conf": f"[VM b]\nUser={UID_B}\nServices=dashboard recorder\n",
    "region.d/10-demo.conf": "[Region demo]\nMembers=a b\nSectionSize=1M\n",
    "policy.d/10-demo.conf": "[Allow a/sensor b/dashboard]\nChannels=4\nMaxRingSize=64K\n",
}


def wait_for(condition, timeout=5, what="condition"):
    end = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < end, f"{what} did not come true within {timeout} s"
        time.sleep(0.01)
    return value


class FdStore:
    """What systemd does behind $NOTIFY_SOCKET: READY, and keeping fds by name."""

    def __init__(self, path):
        self.path, self.ready, self.states = str(path), threading.Event(), []
        self.fds, self.unwatched = [], set()  # (name, fd); names
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.sock.bind(self.path)
        self.lock = threading.Lock()
        self.server = threading.Thread(target=self.serve, daemon=True)
        self.server.start()

    def serve(self):
        while True:
            try:
                data, ancillary, _, _ = self.sock.recvmsg(4096, socket.CMSG_SPACE(4 * 16))
            except OSError:
                return
            if data == b"end":
                return
            received = array.array("i")
            for _, kind, content in ancillary:
                if kind == socket.SCM_RIGHTS:
                    received.frombytes(content)
            fields = dict(line.partition("=")[::2] for line in data.decode().splitlines())
            with self.lock:
                self.handle(fields, list(received))

    def handle(self, fields, received):
        self.states.append(fields)
        if fields.get("READY") == "1":
            self.ready.set()
        if fields.get("FDSTORE") == "1":
            self.fds += [(fields["FDNAME"], fd) for fd in received]
            self.unwatched |= {fields["FDNAME"]} if fields.get("FDPOLL") == "0" else set()
            received = []
        if fields.get("FDSTOREREMOVE") == "1":
            for name, fd in [entry for entry in self.fds if entry[0] == fields["FDNAME"]]:
                self.fds.remove((name, fd))
                os.close(fd)
        for fd in received:
            os.close(fd)

    def names(self):
        with self.lock:
            return [name for name, _ in self.fds]

    def kept(self):
        """What a next start gets: as systemd does, without connections that have hung up."""
        with self.lock:
            for name, fd in [entry for entry in self.fds if entry[0] not in self.unwatched]:
                poll = select.poll()
                poll.register(fd, 0)
                if poll.poll(0):
                    self.fds.remove((name, fd))
                    os.close(fd)
            return list(self.fds)

    def forget(self):
        """What systemd 252 does at `systemctl stop`."""
        with self.lock:
            for _, fd in self.fds:
                os.close(fd)
            self.fds = []

    def close(self):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.sendto(b"end", self.path)
        self.server.join()  # what came before the end is still worked on, and closes fds, too
        self.sock.close()
        for _, fd in self.fds:
            os.close(fd)


class BusError(Exception):
    def __init__(self, error):
        self.name = Gio.DBusError.get_remote_error(error) or "?"
        Gio.DBusError.strip_remote_error(error)
        self.text = error.message
        super().__init__(f"{self.name}: {self.text}")


class Cad:
    """One daemon below a folder of its own."""

    def __init__(self, binary, folder, bus_address, config=None):
        self.binary, self.folder, self.bus_address = binary, Path(folder), bus_address
        self.runtime, self.state = self.folder / "run", self.folder / "state"
        self.pid = None
        self.connection = None
        self.options = []
        self.signals = []
        self.store = FdStore(self.folder / "notify")
        self.configure(CONFIG if config is None else config)

    def configure(self, files):
        root = self.folder / "etc/sivshm-ca"
        shutil.rmtree(root, ignore_errors=True)
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)

    def arguments(self):
        bus = [f"--bus={self.bus_address}"] if self.bus_address else []
        return [self.binary, *bus, f"--config-root={self.folder}", f"--runtime-dir={self.runtime}",
                f"--state-dir={self.state}", *self.options]

    def spawn(self, restore):
        """fork and exec by hand: the fds have to be at 3 and up, and $LISTEN_PID is the child's own."""
        kept = self.store.kept() if restore else []
        environment = {**os.environ, "NOTIFY_SOCKET": self.store.path,
                       "ASAN_OPTIONS": "abort_on_error=1", "UBSAN_OPTIONS": "halt_on_error=1:abort_on_error=1"}
        log = os.open(self.folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.pid = os.fork()
        if self.pid:
            os.close(log)
            return
        try:
            high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 400) for _, fd in kept]
            os.dup2(log, 2)
            os.dup2(log, 1)
            for i, fd in enumerate(high):
                os.dup2(fd, 3 + i)
            os.closerange(3 + len(high), 2000)
            environment |= {} if not kept else {"LISTEN_FDS": str(len(high)), "LISTEN_PID": str(os.getpid()),
                            "LISTEN_FDNAMES": ":".join(name for name, _ in kept)}
            os.execve("/usr/bin/setpriv", ["setpriv", "--pdeathsig=KILL", "--", *self.arguments()], environment)
        finally:
            os._exit(127)

    def start(self, restore=False, timeout=20):
        self.store.ready.clear()
        self.spawn(restore)
        end = time.monotonic() + timeout
        while not self.store.ready.wait(0.02):
            assert time.monotonic() < end, "not READY in time: " + self.log()
            assert self.running(), "ended: " + self.log()
        return self

    def running(self):
        if self.pid and os.waitpid(self.pid, os.WNOHANG) != (0, 0):
            self.pid = None
        return self.pid is not None

    def start_fails(self, status=78):
        """For configurations that must be refused (EX_CONFIG), or with another status; returns the log."""
        self.spawn(False)
        pid, self.pid = self.pid, None
        _, ended = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(ended) == status, self.log()
        return self.log()

    def stop(self, how=signal.SIGTERM):
        if not self.pid:
            return None
        os.kill(self.pid, how)
        _, status = os.waitpid(self.pid, 0)
        self.pid = None
        return os.waitstatus_to_exitcode(status)

    def restart(self, how=signal.SIGKILL, restore=True):
        self.stop(how)
        if not restore:
            self.store.forget()
        return self.start(restore)

    def log(self):
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def close(self):
        code = self.stop()
        if self.connection:
            self.connection.close_sync(None)
        self.store.close()
        return code

    # D-Bus

    def bus(self):
        if not self.connection:
            flags = (Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT
                     | Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION)
            self.connection = Gio.DBusConnection.new_for_address_sync(self.bus_address, flags, None, None)
            self.connection.add_filter(self.on_message)
            self.connection.call_sync(
                "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "AddMatch",
                GLib.Variant("(s)", (f"type='signal',interface='{MANAGER}'",)), None, 0, 5000, None)
        return self.connection

    def on_message(self, connection, message, incoming):
        """In GDBus's own thread: no main loop is needed to collect signals."""
        if incoming and message.get_message_type() == Gio.DBusMessageType.SIGNAL \
                and message.get_interface() == MANAGER:
            self.signals.append((message.get_member(), *message.get_body().unpack()))
        return message

    def call(self, method, signature=None, *args):
        parameters = GLib.Variant(f"({signature})", args) if signature else None
        try:
            result = self.bus().call_sync(NAME, PATH, MANAGER, method, parameters, None, 0, 10000, None)
        except GLib.Error as error:
            raise BusError(error) from None
        return result.unpack()

    def property(self, name):
        return self.bus().call_sync(NAME, PATH, "org.freedesktop.DBus.Properties", "Get",
                                    GLib.Variant("(ss)", (MANAGER, name)), None, 0, 5000, None).unpack()[0]

    def signal(self, name, timeout=5):
        """The arguments of the first signal of that name; takes it."""
        found = wait_for(lambda: next((s for s in self.signals if s[0] == name), None), timeout, f"signal {name}")
        self.signals.remove(found)
        return found[1:]

    def vms(self):
        keys = ("uid", "control", "hello", "connected", "expected", "used", "channels", "listeners", "revoked")
        return {vm[0]: dict(zip(keys, vm[1:])) for vm in self.call("ListVMs")[0]}

    def channels(self):
        keys = ("id", "state", "region", "from", "from_slot", "to", "to_slot", "ring", "opened")
        return [dict(zip(keys, c)) for c in self.call("ListChannels")[0]]

    def members(self, region="demo"):
        keys = ("id", "connected", "granted", "quarantined")
        found = next(r for r in self.call("ListRegions")[0] if r[0] == region)
        return {m[0]: dict(zip(keys, m[1:])) for m in found[3]}
