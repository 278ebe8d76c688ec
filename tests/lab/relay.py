# SPDX-License-Identifier: LGPL-2.1-or-later
"""A relay between guests' control ports and sivshm-cad that can be told to lie.

Per VM a socket that stands for sivshm-cad's: who connects there (sivshmd itself, or QEMU's chardev)
gets a connection to sivshm-cad made as the VM's user. Frames (docs/protocol.md) go through rules:

    relay.on("b:Incoming", change(flight=...))       the request Incoming on its way to VM b
    relay.on("a:Connect=", lambda m: None)           the answer that VM a gets: dropped
    relay.on("b:Granted", lambda m: [m, m])          delivered twice

A rule takes the message, and returns what is delivered instead: a message, several, or None.
"""

import base64
import contextlib
import copy
import itertools
import json
import os
import socket
import threading
import time
from pathlib import Path

OWN_IDS = 1 << 62  # of the relay's own requests; the daemons begin anywhere below


class RelayError(Exception):
    """The answer to a request of the relay's own."""

    def __init__(self, error):
        self.code, self.text = error["code"], error["message"]
        super().__init__(f"{self.code}: {self.text}")


def connect_as(path, uid):
    """SO_PEERCRED is who called connect(): a child does, so that this process's threads stay who they are."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            sock.connect(str(path))
            code = 0
        finally:
            os._exit(code)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0:
        sock.close()
        raise ConnectionRefusedError(f"{path} as uid {uid}")
    return sock


class Port:
    """One VM's control port: its guest on one side, sivshm-cad on the other."""

    def __init__(self, relay, vm, path, cad_path, uid):
        self.relay, self.vm, self.path, self.cad_path, self.uid = relay, vm, Path(path), cad_path, uid
        self.ends = {}  # "up": to sivshm-cad; "down": to the guest
        self.locks = {"up": threading.Lock(), "down": threading.Lock()}
        self.asked = {"up": {}, "down": {}}  # method by id, of requests that went that way
        self.waiters = {}
        self.connections = 0
        self.server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.server.bind(str(path))
        os.chmod(path, 0o666)
        self.server.listen(4)
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        """One connection after the other, as a chardev makes them."""
        while True:
            try:
                guest, _ = self.server.accept()
            except OSError:
                return
            try:
                cad = connect_as(self.cad_path, self.uid)
            except OSError:
                guest.close()
                time.sleep(0.05)
                continue
            self.ends = {"up": cad, "down": guest}
            self.connections += 1
            threads = [threading.Thread(target=self.pump, args=(source, way), daemon=True)
                       for source, way in ((guest, "up"), (cad, "down"))]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            guest.close()
            cad.close()

    def pump(self, source, way):
        buffer = b""
        while True:
            try:
                data = source.recv(1 << 16)
            except OSError:
                data = b""
            if not data:
                break
            buffer += data
            *frames, buffer = buffer.split(b"\0")
            for frame in frames:
                if frame:
                    self.take(frame, way)
                else:
                    self.write(b"\0", way)
        for end in self.ends.values():
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def write(self, data, way):
        with self.locks[way], contextlib.suppress(OSError, KeyError):
            self.ends[way].sendall(data)

    def send(self, message, way):
        self.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\0", way)

    def take(self, frame, way):
        message = json.loads(frame)
        waiter = self.waiters.pop(message["id"], None) if "method" not in message else None
        if waiter:
            waiter[1] = message
            waiter[0].set()
            return
        out = self.relay.through(f"{self.vm}:{self.name_of(message, way)}", message)
        for m in out:
            self.write(m if isinstance(m, bytes) else json.dumps(m).encode() + b"\0", way)

    def name_of(self, message, way):
        if "method" in message:
            if "id" in message:
                self.asked[way][message["id"]] = message["method"]
            return message["method"]
        other = "down" if way == "up" else "up"
        return self.asked[other].get(message["id"], "?") + "="

    def close(self):
        self.server.close()
        for end in self.ends.values():
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self.path.unlink(missing_ok=True)


class Relay:
    """`vms`: {name: (path of sivshm-cad's socket for it, uid)}. The guests' sockets are folder/NAME.sock."""

    def __init__(self, folder, vms):
        self.rules, self.seen, self.ids = [], [], itertools.count(OWN_IDS)
        self.changed = threading.Condition()
        self.ports = {vm: Port(self, vm, f"{folder}/{vm}.sock", *where) for vm, where in vms.items()}

    def path(self, vm):
        return str(self.ports[vm].path)

    def on(self, key, rule, times=None):
        """Rules for one key are asked in their order; one with `times` ends after so many messages."""
        self.rules.append([key, rule, times])

    def forget(self):
        self.rules, self.seen = [], []

    def through(self, key, message):
        with self.changed:
            self.seen.append((key, copy.deepcopy(message)))
            rule = next((r for r in self.rules if r[0] == key and r[2] != 0), None)
            if rule and rule[2]:
                rule[2] -= 1
            self.changed.notify_all()
        out = rule[1](message) if rule else message
        return [] if out is None else out if isinstance(out, list) else [out]

    def messages(self, key):
        return [m for k, m in list(self.seen) if k == key]

    def await_message(self, key, count=1, timeout=10):
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.messages(key)) >= count, timeout), \
                f"{count} of {key} did not come; seen: {[k for k, _ in self.seen]}"
        return self.messages(key)[count - 1]

    # what the relay says by itself

    def tell(self, vm, method, way="down", **params):
        self.ports[vm].send({"method": method, "params": params}, way)

    def ask(self, vm, method, way="up", timeout=10, **params):
        """A request of the relay's own; its answer stays here."""
        ident, waiter = next(self.ids), [threading.Event(), None]
        self.ports[vm].waiters[ident] = waiter
        self.ports[vm].send({"id": ident, "method": method, "params": params}, way)
        assert waiter[0].wait(timeout), f"{method} was not answered"
        if "error" in waiter[1]:
            raise RelayError(waiter[1]["error"])
        return waiter[1]["result"]

    def close(self):
        for port in self.ports.values():
            port.close()


# rules

def body(message):
    return message["params"] if "method" in message else message.get("result", {})


def change(**members):
    """Members of the body set; a function gets the old value."""
    def rule(message):
        for name, value in members.items():
            if name in body(message):
                body(message)[name] = value(body(message)[name]) if callable(value) else value
        return message
    return rule


def drop(message):
    return None


def twice(message):
    return [message, copy.deepcopy(message)]


def flight(function):
    """The flight as bytes, changed by a function or replaced."""
    def rule(text):
        data = function(base64.b64decode(text)) if callable(function) else function
        return base64.b64encode(data).decode()
    return change(flight=rule)


def exchanged(*names):
    """Two messages are held until both are there, then go on with these members exchanged."""
    held = []

    def rule(message):
        held.append(message)
        if len(held) < 2:
            return None
        first, second = body(held[0]), body(held[1])
        for name in names:
            first[name], second[name] = second[name], first[name]
        return [held.pop(0), held.pop(0)]
    return rule


def reordered():
    """Two messages are held until both are there, then go on in the other order."""
    held = []

    def rule(message):
        held.append(message)
        return None if len(held) < 2 else [held.pop(), held.pop()]
    return rule
