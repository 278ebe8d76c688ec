# SPDX-License-Identifier: LGPL-2.1-or-later
"""A real sivshmd on a bus of its own, with a fake kernel and a fake host; clients of that bus."""

import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

from gi.repository import Gio, GLib

from fake_kernel import FakeKernel

BUS_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={path}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
  </policy>
</busconfig>
"""
NAME, PATH = "org.sivshm1", "/org/sivshm1"
MANAGER, LISTENER, CHANNEL = (f"{NAME}.{i}" for i in ("Manager", "Listener", "Channel"))


class Refused(Exception):
    """A D-Bus error: `name` without the prefix of our own errors."""

    def __init__(self, error):
        self.full = Gio.DBusError.get_remote_error(error) or "?"
        self.name = self.full.removeprefix(f"{NAME}.Error.")
        self.text = error.message.removeprefix(f"GDBus.Error:{self.full}: ")
        super().__init__(f"{self.name}: {self.text}")


def wait_for(condition, timeout=10, what="condition"):
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"{what} did not come true within {timeout} s")


class Bus:
    def __init__(self, folder):
        self.path = f"{folder}/bus.sock"
        config = Path(folder, "bus.conf")
        config.write_text(BUS_CONFIG.format(path=self.path))
        self.address = f"unix:path={self.path}"
        with open(f"{folder}/bus.log", "wb") as log:
            self.process = subprocess.Popen(["dbus-daemon", f"--config-file={config}", "--nofork", "--nopidfile",
                                             "--nosyslog"], stdin=subprocess.DEVNULL, stderr=log)
        wait_for(lambda: os.path.exists(self.path), what="bus")
        os.chmod(self.path, 0o666)

    def stop(self):
        self.process.kill()
        self.process.wait()


class Client:
    """One connection to the bus; its calls block, each with a timeout."""

    def __init__(self, bus):
        flags = Gio.DBusConnectionFlags
        self.bus = Gio.DBusConnection.new_for_address_sync(
            bus.address, flags.AUTHENTICATION_CLIENT | flags.MESSAGE_BUS_CONNECTION, None, None)
        self.bus.set_exit_on_close(False)

    def close(self):
        self.bus.close_sync(None)

    def call(self, path, interface, method, signature=None, *values, timeout=20):
        arguments = GLib.Variant(signature, values) if signature else None
        try:
            result, fds = self.bus.call_with_unix_fd_list_sync(
                NAME, path, interface, method, arguments, None, Gio.DBusCallFlags.NO_AUTO_START,
                int(timeout * 1000), None, None)
        except GLib.Error as e:
            raise Refused(e) from None
        return result, fds

    def manager(self, method, signature=None, *values, **kw):
        return self.call(PATH, MANAGER, method, signature, *values, **kw)[0].unpack()

    def get(self, name, path=PATH, interface=MANAGER):
        return self.call(path, "org.freedesktop.DBus.Properties", "Get", "(ss)", interface, name)[0].unpack()[0]

    def connect(self, service, peer, ring=None, timeout_usec=None, **kw):
        options = {}
        if ring is not None:
            options["RingSize"] = GLib.Variant("t", ring)
        if timeout_usec is not None:
            options["TimeoutUSec"] = GLib.Variant("t", timeout_usec)
        return self.take(*self.call(PATH, MANAGER, "Connect", "(ssa{sv})", service, peer, options, **kw))

    def take(self, result, fds):
        index, path, identity = result.unpack()
        return fds.get(index), path, identity

    def listen(self, service, backlog=None, max_ring=None):
        options = {}
        if backlog is not None:
            options["Backlog"] = GLib.Variant("u", backlog)
        if max_ring is not None:
            options["MaxRingSize"] = GLib.Variant("t", max_ring)
        return self.manager("Listen", "(sa{sv})", service, options)[0]

    def accept(self, listener, timeout_usec=None, **kw):
        options = {} if timeout_usec is None else {"TimeoutUSec": GLib.Variant("t", timeout_usec)}
        return self.take(*self.call(listener, LISTENER, "Accept", "(a{sv})", options, **kw))

    def signals(self, **match):
        """Collects signals into the list that is returned."""
        seen, context, ready = [], GLib.MainContext.new(), threading.Event()

        def on_signal(connection, sender, path, interface, name, parameters):
            seen.append((name, path, parameters.unpack()))

        def loop():
            context.push_thread_default()
            self.bus.signal_subscribe(NAME, match.get("interface"), match.get("member"), match.get("path"), None,
                                      Gio.DBusSignalFlags.NONE, on_signal)
            ready.set()
            while not self.bus.is_closed():
                context.iteration(True)

        threading.Thread(target=loop, daemon=True).start()
        ready.wait()
        # a round trip, so that the bus has the match
        self.bus.call_sync("org.freedesktop.DBus", "/", "org.freedesktop.DBus", "GetId", None, None, 0, 5000, None)
        return seen


class Async:
    """A call in a thread; result() gives its outcome."""

    def __init__(self, function, *arguments, **kw):
        self.value = self.error = None

        def run():
            try:
                self.value = function(*arguments, **kw)
            except Exception as e:
                self.error = e

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    def done(self):
        return not self.thread.is_alive()

    def result(self, timeout=20):
        self.thread.join(timeout)
        assert self.done(), "the call did not end"
        if self.error:
            raise self.error
        return self.value


class Guest:
    """One VM: bus, kernel, sivshmd. `policy` is the text of /etc/sivshm/policy.d/test.conf."""

    def __init__(self, binary, preload, folder, vm, host, policy, environment=None, kernel=FakeKernel, prefix=()):
        self.prefix = prefix  # of the command line
        self.binary, self.preload, self.vm, self.host = binary, preload, vm, host
        self.folder = Path(folder, vm)
        self.folder.mkdir()
        self.policy_file = self.folder / "etc/sivshm/policy.d/test.conf"
        self.policy_file.parent.mkdir(parents=True)
        self.policy_file.write_text(policy)
        self.kernel = kernel(self.folder, vm)
        self.port = host.add_vm(vm, self.kernel)
        self.bus = Bus(self.folder)
        self.log_path = self.folder / "log"
        self.notify_path = str(self.folder / "notify")
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(self.notify_path)
        self.notify.setblocking(False)
        self.environment, self.process = environment or {}, None
        self.clients = []

    def start(self, wait=True):
        env = {**os.environ, **self.environment, "LD_PRELOAD": self.preload,
               "SIVSHM_FAKE_DEVICE": str(self.folder / "device"), "SIVSHM_FAKE_KERNEL": self.kernel.path}
        env["NOTIFY_SOCKET"] = self.notify_path
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, self.binary, f"--port={self.port}", f"--device={self.folder}/device", f"--bus={self.bus.address}",
                 f"--config-root={self.folder}", "--no-module"], env=env, stdin=subprocess.DEVNULL, stderr=log)
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self):
        client = self.client()

        def is_ready():
            assert self.process.poll() is None, self.log()
            try:
                return client.get("HostConnected")
            except Refused:
                return False
        wait_for(is_ready, what="sivshmd")

    def client(self):
        client = Client(self.bus)
        self.clients.append(client)
        return client

    def notified(self):
        """What systemd was told since it was asked last."""
        out = []
        while True:
            try:
                out += self.notify.recv(4096).decode().splitlines()
            except BlockingIOError:
                return out

    def log(self):
        return self.log_path.read_text()

    def fds(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def kill(self, how=signal.SIGKILL):
        self.process.send_signal(how)
        return self.process.wait(10)

    def stop(self):
        """The end of a test: sivshmd has to have lived till now, and to leave without a fault."""
        code = None
        if self.process and self.process.poll() is None:
            code = self.kill(signal.SIGTERM)
        elif self.process:
            code = self.process.returncode
        for client in self.clients:
            if not client.bus.is_closed():
                client.close()
        self.kernel.stop()
        self.bus.stop()
        self.notify.close()
        return code
