# SPDX-License-Identifier: LGPL-2.1-or-later
"""What somebody on a bus does to org.sivshm.ca1, as the user that it is started as: reads one JSON object from
standard input, answers by one line.

    {"do": "calls", "calls": [[interface, method, signature, arguments], ...]}   names of errors, null: done
    {"do": "own", "names": [...]}          the same, of RequestName with every flag
    {"do": "hear", "seconds": N}           signals of the daemon that arrive, and what eavesdropping brings
    {"do": "signals", "signals": [[interface, member, signature, arguments], ...]}   to everybody, and to the daemon
    {"do": "flood", "connections": N, "calls": M, "read": bool, ...}   many calls of one method
"""

import json
import os
import select
import socket
import sys
import time

from gi.repository import Gio, GLib

NAME, PATH = "org.sivshm.ca1", "/org/sivshm/ca1"
BUS = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")


def address():
    return os.environ.get("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/run/dbus/system_bus_socket")


def connect():
    flags = Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT | Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION
    bus = Gio.DBusConnection.new_for_address_sync(address(), flags, None, None)
    bus.set_exit_on_close(False)
    return bus


def call(bus, where, method, signature, arguments, timeout=30):
    """None, or the name of the error; the last one's text is kept."""
    parameters = GLib.Variant(f"({signature})", arguments_of(signature, arguments)) if signature else None
    try:
        bus.call_sync(*where, method, parameters, None, 0, timeout * 1000, None)
    except GLib.Error as error:
        return Gio.DBusError.get_remote_error(error) or error.message
    return None


def arguments_of(signature, arguments):
    """JSON has no variants: a string for each v."""
    return [GLib.Variant("s", a) if kind == "v" else a for kind, a in zip(signature, arguments)]


def calls(order):
    bus = connect()
    return [call(bus, (NAME, PATH, interface), *rest) for interface, *rest in order["calls"]]


def own(order):
    bus = connect()
    return [call(bus, BUS, "RequestName", "su", [name, flags]) for name in order["names"] for flags in (0, 2, 6, 7)]


def hear(order):
    """Tells when it listens, then what it heard: interface and member, and whether others' calls were among it."""
    bus, heard = connect(), []

    def on_message(connection, message, incoming):
        if incoming and message.get_sender() != "org.freedesktop.DBus":
            kind = int(message.get_message_type())
            heard.append([kind, message.get_interface(), message.get_member(), message.get_sender()])
        return message

    bus.add_filter(on_message)
    matches = ["type='signal'", f"type='signal',sender='{NAME}'", "interface='org.sivshm.ca1.Manager'",
               "eavesdrop='true'", f"eavesdrop='true',destination='{NAME}'"]
    errors = [call(bus, BUS, "AddMatch", "s", [match]) for match in matches]
    monitor = call(bus, (*BUS[:2], "org.freedesktop.DBus.Monitoring"), "BecomeMonitor", "asu", [[], 0]) \
        if order.get("monitor") else None
    print("ready", flush=True)
    sys.stdin.readline()
    time.sleep(0.5)
    return {"heard": heard, "matches": errors, "monitor": monitor}


def signals(order):
    owner = connect().call_sync(*BUS, "GetNameOwner", GLib.Variant("(s)", (NAME,)), None, 0, 5000, None).unpack()[0]
    for destination in (None, NAME, owner):
        for interface, member, signature, arguments in order["signals"]:
            for path in (PATH, "/org/freedesktop/DBus", "/org/freedesktop/DBus/Local"):
                bus = connect()  # the bus hangs up on who sends what is the bus's own
                body = GLib.Variant(f"({signature})", arguments) if signature else None
                try:
                    bus.emit_signal(destination, path, interface, member, body)
                    bus.flush_sync(None)
                except GLib.Error:
                    pass
    return owner


class Raw:
    """A connection that need not read."""

    def __init__(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(address().removeprefix("unix:path=").partition(",")[0])
        self.sock.sendall(b"\0AUTH EXTERNAL " + str(os.getuid()).encode().hex().encode() + b"\r\n")
        assert self.sock.recv(1000).startswith(b"OK")
        self.sock.sendall(b"BEGIN\r\n")
        self.serial, self.buffer, self.waiting = 0, b"", b""
        self.send(*BUS, "Hello")

    def send(self, name, path, interface, method, body=None):
        message = Gio.DBusMessage.new_method_call(name, path, interface, method)
        self.serial += 1
        message.set_serial(self.serial)
        if body:
            message.set_body(body)
        self.waiting += message.to_blob(Gio.DBusCapabilityFlags.NONE)

    def push(self):
        """What the socket takes now."""
        self.sock.setblocking(False)
        try:
            self.waiting = self.waiting[self.sock.send(self.waiting[:1 << 16]):]
        except BlockingIOError:
            return False
        except OSError:  # the bus hung up: no worse for the others
            self.waiting = b""
        return True

    def read(self, wanted, seconds):
        """Names of errors, "" for answers that are none, of what arrives."""
        out, end = [], time.monotonic() + seconds
        while len(out) < wanted and time.monotonic() < end:
            if not select.select([self.sock], [], [], 0.2)[0]:
                continue
            data = self.sock.recv(1 << 20)
            if not data:
                break
            self.buffer += data
            while len(self.buffer) >= 16:
                size = Gio.DBusMessage.bytes_needed(self.buffer[:16])
                if len(self.buffer) < size:
                    break
                message = Gio.DBusMessage.new_from_blob(self.buffer[:size], Gio.DBusCapabilityFlags.NONE)
                self.buffer = self.buffer[size:]
                if message.get_message_type() in (Gio.DBusMessageType.METHOD_RETURN, Gio.DBusMessageType.ERROR) \
                        and message.get_reply_serial() > 1:
                    out.append(message.get_error_name() or "")
        return out


def flood(order):
    raws = [Raw() for _ in range(order["connections"])]
    body = GLib.Variant(f"({order['signature']})", order["arguments"]) if order["signature"] else None
    for raw in raws:
        for _ in range(order["calls"]):
            raw.send(NAME, PATH, "org.sivshm.ca1.Manager", order["method"], body)
    end = time.monotonic() + 20
    answers = []
    while any(raw.waiting for raw in raws) and time.monotonic() < end:
        if not any([raw.push() for raw in raws if raw.waiting]):
            if order["read"]:
                answers += [name for raw in raws for name in raw.read(1, 0.1)]
            else:
                time.sleep(0.05)
    print("sent", flush=True)
    if order["read"]:
        answers += [name for raw in raws for name in raw.read(order["calls"], 20)]
    else:
        sys.stdin.readline()
    return {"unsent": sum(len(raw.waiting) for raw in raws),
            "answers": {name: answers.count(name) for name in set(answers)}}


def main():
    order = json.loads(sys.stdin.readline())
    print(json.dumps(globals()[order["do"]](order)), flush=True)


main()
