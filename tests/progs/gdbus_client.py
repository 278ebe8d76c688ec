#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A client in another language with another D-Bus library, made from docs/channel-abi.md and dbus/org.sivshm1.xml alone.

  gdbus_client.py connect SERVICE VM/SERVICE [--count N] [--bus ADDRESS]
      sends N messages of all lengths, wants each back, prints one JSON object
  gdbus_client.py listen SERVICE [--bus ADDRESS]
      sends back what comes until the peer closes, prints one JSON object
"""

import argparse
import errno
import fcntl
import json
import mmap
import os
import struct
import sys
import threading

import gi

gi.require_version("Gio", "2.0")
from gi.repository import Gio, GLib  # noqa: E402

GET_INFO, NOTIFY, WAIT = 0x8100C510, 0xC511, 0xC010C512
TX_OFFSET, RX_OFFSET = 0, 0x100000000
MAGIC = 0x31525653
# Words of the control page, as 8-byte and 4-byte indices
PRODUCER, CONSUMER, WANT_DATA, WANT_SPACE = 16, 32, 48, 49
MAGIC_WORD, CLOSED_WORD = 0, 1
ACTIVE, DRAINING, REVOKED = 1, 2, 3
NAME, PATH, MANAGER, LISTENER = "org.sivshm1", "/org/sivshm1", "org.sivshm1.Manager", "org.sivshm1.Listener"


class Closed(Exception):
    """The peer has closed."""


class Revoked(Exception):
    """The host has taken the channel away."""


class Broken(Exception):
    """The peer breaks the rules."""


class Bus:
    def __init__(self, address):
        flags = Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT | Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION
        if address:
            self.bus = Gio.DBusConnection.new_for_address_sync(address, flags, None, None)
        else:
            self.bus = Gio.bus_get_sync(Gio.BusType.SYSTEM, None)

    def call(self, path, interface, method, args, reply, timeout_ms):
        answer, fds = self.bus.call_with_unix_fd_list_sync(
            NAME, path, interface, method, args, GLib.VariantType(reply), Gio.DBusCallFlags.NONE, timeout_ms, None, None)
        return answer.unpack(), fds

    def connect(self, service, peer):
        args = GLib.Variant("(ssa{sv})", (service, peer, {"RingSize": GLib.Variant("t", 4096)}))
        return self.channel(self.call(PATH, MANAGER, "Connect", args, "(hoa{sv})", 12000))

    def listen(self, service):
        return self.call(PATH, MANAGER, "Listen", GLib.Variant("(sa{sv})", (service, {})), "(o)", 12000)[0][0]

    def accept(self, listener):
        no_limit = GLib.MAXINT32
        args = GLib.Variant("(a{sv})", ({},))
        return self.channel(self.call(listener, LISTENER, "Accept", args, "(hoa{sv})", no_limit))

    @staticmethod
    def channel(answer):
        (handle, _, identity), fds = answer
        return Channel(fds.get(handle), identity)


class Channel:
    def __init__(self, fd, identity):
        self.fd, self.identity = fd, identity
        info = self.info()
        assert info["abi"] == 1 and info["state"] == ACTIVE
        self.tx_ring, self.rx_ring = info["tx_ring"], info["rx_ring"]
        self.tx_map = mmap.mmap(fd, info["tx_map"], mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=TX_OFFSET)
        self.rx_map = mmap.mmap(fd, info["rx_map"], mmap.MAP_SHARED, mmap.PROT_READ, offset=RX_OFFSET)
        self.tx, self.rx = memoryview(self.tx_map), memoryview(self.rx_map)
        # One access is one load or store of the whole word.
        self.own, self.peer = self.tx.cast("Q"), self.rx.cast("Q")
        self.own32, self.peer32 = self.tx.cast("I"), self.rx.cast("I")
        self.producer = self.consumer = self.peer_producer = self.peer_consumer = 0
        self.attached = False
        assert self.own32[MAGIC_WORD] == 0, "used before"
        self.own32[MAGIC_WORD] = MAGIC

    def info(self):
        raw = fcntl.ioctl(self.fd, GET_INFO, bytes(256))
        abi, state, tx_ring, rx_ring, tx_map, rx_map = struct.unpack_from("=IIQQQQ", raw)
        return {"abi": abi, "state": state, "tx_ring": tx_ring, "rx_ring": rx_ring, "tx_map": tx_map, "rx_map": rx_map}

    @staticmethod
    def full_barrier():
        # Python has none; taking a lock is an atomic read-modify-write, which is one on x86 and Arm.
        with threading.Lock():
            pass

    def suspect(self):
        raise Revoked if self.info()["state"] == REVOKED else Broken

    def check_peer(self, bit):
        magic = self.peer32[MAGIC_WORD]
        if magic != MAGIC:
            if magic or self.attached:
                self.suspect()
            return
        self.attached = True
        if self.peer32[CLOSED_WORD] & bit and not self.fresh_data():
            raise Closed

    def fresh_data(self):
        new = self.peer[PRODUCER]
        if not self.peer_producer <= new <= self.consumer + self.rx_ring or new % 8:
            self.suspect()
        self.peer_producer = new
        return new != self.consumer

    def free(self):
        new = self.peer[CONSUMER]
        if not self.peer_consumer <= new <= self.producer or new % 8:
            self.suspect()
        self.peer_consumer = new
        return self.tx_ring - (self.producer - new)

    def notify_if(self, old, new, want):
        if old < want <= new:
            fcntl.ioctl(self.fd, NOTIFY)

    def sleep(self):
        try:
            fcntl.ioctl(self.fd, WAIT, struct.pack("=QQ", 2**64 - 1, 0))
        except OSError as error:
            if error.errno == errno.ENOLINK:
                raise Revoked from None
            if error.errno != errno.EPIPE:
                raise
            if not self.fresh_data():
                raise Closed from None

    def send(self, data):
        size = 8 + (len(data) + 7 & ~7)
        assert size <= self.tx_ring
        while self.free() < size:
            self.own[WANT_SPACE] = self.producer + size - self.tx_ring
            self.full_barrier()
            if self.free() < size:
                self.sleep()
        at = 4096 + self.producer % self.tx_ring
        self.tx[at:at + 8 + len(data)] = struct.pack("<II", len(data), 0) + data
        old, self.producer = self.producer, self.producer + size
        self.own[PRODUCER] = self.producer
        self.full_barrier()
        self.notify_if(old, self.producer, self.peer[WANT_DATA])

    def wait_data(self):
        while not self.fresh_data():
            self.check_peer(1)
            self.own[WANT_DATA] = self.peer_producer + 1
            self.full_barrier()
            if not self.fresh_data():
                self.check_peer(1)
                self.sleep()

    def receive(self):
        if self.peer_producer == self.consumer:
            self.wait_data()
        at = 4096 + self.consumer % self.rx_ring
        length, flags = struct.unpack("<II", bytes(self.rx[at:at + 8]))
        size = 8 + (length + 7 & ~7)
        if flags or size > self.peer_producer - self.consumer:
            self.suspect()
        data = bytes(self.rx[at + 8:at + 8 + length])
        if self.peer32[MAGIC_WORD] != MAGIC:
            self.suspect()
        old, self.consumer = self.consumer, self.consumer + size
        self.own[CONSUMER] = self.consumer
        self.full_barrier()
        self.notify_if(old, self.consumer, self.peer[WANT_SPACE])
        return data

    def close(self):
        self.own32[CLOSED_WORD] = 3
        try:
            fcntl.ioctl(self.fd, NOTIFY)
        except OSError:
            pass
        for view in (self.own, self.peer, self.own32, self.peer32, self.tx, self.rx):
            view.release()
        self.tx_map.close()
        self.rx_map.close()
        os.close(self.fd)


def run_connect(bus, args):
    channel = bus.connect(args.service, args.peer)
    longest = channel.tx_ring - 8
    for i in range(args.count):
        message = bytes((i + k) % 256 for k in range(i * 61 % (longest + 1)))
        channel.send(message)
        if channel.receive() != message:
            raise Broken(f"message {i} came back wrong")
    identity = channel.identity
    channel.close()
    return {"messages": args.count, "peer": identity["Peer"], "peer_spiffe": identity["PeerSPIFFE"]}


def run_listen(bus, args):
    listener = bus.listen(args.service)
    print("listening", file=sys.stderr, flush=True)
    channel = bus.accept(listener)
    n, identity = 0, channel.identity
    try:
        while True:
            channel.send(channel.receive())
            n += 1
    except Closed:
        channel.close()
    return {"messages": n, "peer": identity["Peer"], "peer_spiffe": identity["PeerSPIFFE"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bus")
    verbs = parser.add_subparsers(dest="verb", required=True)
    connect = verbs.add_parser("connect")
    connect.add_argument("service")
    connect.add_argument("peer")
    connect.add_argument("--count", type=int, default=1000)
    verbs.add_parser("listen").add_argument("service")
    args = parser.parse_args()
    bus = Bus(args.bus)
    print(json.dumps(run_connect(bus, args) if args.verb == "connect" else run_listen(bus, args)))


if __name__ == "__main__":
    main()
