#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A holder that lets others at its channel in every way a process has, and keeps it when it is taken.

  leaky_holder.py SERVICE VM/SERVICE FOLDER SECRET

It sends SECRET to a peer that echoes, so that the windows hold something worth reading, and prints
{"event": "ready", "pid", "fd", "rx", "heap", "null"}: where what is. Sockets in FOLDER:

  fd      hands the channel's fd to whoever connects
  epoll   an epoll fd that watches the channel
  child   forks; the child says its pid, waits for a line and runs holder-probe on the fd it inherited

After a revocation it keeps everything, touches it, and prints {"event": "revoked", ...}. SIGTERM ends it with
{"event": "end", "usable": bool}: whether the channel still is the holder's.
"""

import ctypes
import errno
import fcntl
import json
import os
import re
import select
import signal
import socket
import struct
import sys

from gdbus_client import MANAGER, NOTIFY, PATH, RX_OFFSET, TX_OFFSET, WAIT, WANT_DATA, Bus, GLib

PAGE = 4096
PROBE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "holder-probe")
libc = ctypes.CDLL(None, use_errno=True)
for name, result in (("mmap", ctypes.c_void_p), ("mremap", ctypes.c_void_p), ("mprotect", ctypes.c_int)):
    getattr(libc, name).restype = result
FAILED = ctypes.c_void_p(-1).value
PROT_READ, PROT_WRITE, MAP_SHARED, MAP_NOWHERE, MREMAP_THERE = 1, 2, 1, 0x22, 3


def say(**event):
    print(json.dumps(event), flush=True)


def ready():
    """To systemd: who started the unit goes on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])


def windows(fd):
    """Where the two windows are mapped: {permissions: (start, end)}."""
    inode = os.fstat(fd).st_ino
    found = {}
    for line in open("/proc/self/maps"):
        m = re.match(r"(\w+)-(\w+) (r[w-]-s) \w+ \S+ (\d+)", line)
        if m and int(m[4]) == inode and not found.get(m[3]):
            found[m[3]] = int(m[1], 16), int(m[2], 16)
    return found["rw-s"], found["r--s"]


class Holder:
    def __init__(self, service, peer, folder, secret):
        self.secret = secret.encode()
        bus, args = Bus(None), GLib.Variant("(ssa{sv})", (service, peer, {}))
        self.channel = bus.channel(bus.call(PATH, MANAGER, "Connect", args, "(hoa{sv})", 12000))
        self.fd = self.channel.fd
        self.channel.send(self.secret)
        assert self.channel.receive() == self.secret
        self.tx, self.rx = windows(self.fd)
        assert self.secret in bytes(self.channel.rx)
        self.heap = ctypes.create_string_buffer(self.secret)
        self.null = os.open("/dev/null", os.O_RDWR)
        self.epoll = select.epoll()
        self.epoll.register(self.fd, select.EPOLLIN)
        self.moved = self.move_rx()
        doors = {"fd": self.give_fd, "epoll": self.give_epoll, "child": self.give_child}
        self.doors = {self.door(folder, name): action for name, action in doors.items()}
        self.stop = False
        signal.signal(signal.SIGTERM, self.on_term)
        say(event="ready", pid=os.getpid(), fd=self.fd, rx=self.rx[0] + PAGE, heap=ctypes.addressof(self.heap),
            null=self.null)
        ready()

    def move_rx(self):
        """A second mapping of RX, half of it moved elsewhere: it has to go with the first."""
        size = self.rx[1] - self.rx[0]
        start = libc.mmap(None, ctypes.c_size_t(size), PROT_READ, MAP_SHARED, self.fd, ctypes.c_long(RX_OFFSET))
        half = size // PAGE // 2 * PAGE
        spot = libc.mmap(None, ctypes.c_size_t(half), 0, MAP_NOWHERE, -1, ctypes.c_long(0))
        moved = libc.mremap(ctypes.c_void_p(start), ctypes.c_size_t(half), ctypes.c_size_t(half), MREMAP_THERE,
                            ctypes.c_void_p(spot))
        assert moved == spot and self.secret in ctypes.string_at(moved, half)
        return moved, half

    def door(self, folder, name):
        path = os.path.join(folder, name)
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(path)
        os.chmod(path, 0o666)
        sock.listen(4)
        return sock

    def on_term(self, *_):
        self.stop = True

    # ways to leak

    def give(self, peer, fd):
        socket.send_fds(peer, [b"x"], [fd])
        while peer.recv(1):  # until the other side has tried what it wants
            pass

    def give_fd(self, peer):
        self.give(peer, self.fd)

    def give_epoll(self, peer):
        """Ready when it is handed over: the peer has just rung."""
        self.channel.own[WANT_DATA] = self.channel.peer_producer + 1
        self.channel.send(b"ring")
        assert self.epoll.poll(10) == [(self.fd, select.EPOLLIN)]
        self.give(peer, self.epoll.fileno())
        assert self.channel.receive() == b"ring"

    def give_child(self, peer):
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            return
        peer.sendall(f"{os.getpid()}\n".encode())
        peer.recv(100)
        os.dup2(peer.fileno(), 1)
        os.set_inheritable(self.fd, True)
        os.execv(PROBE, [PROBE, "--fd", str(self.fd)])

    # what is left after a revocation

    def attempt(self, action):
        try:
            action()
            return ""
        except OSError as error:
            return errno.errorcode[error.errno]

    def call(self, name, *args):
        ctypes.set_errno(0)
        if getattr(libc, name)(*args) in (-1, FAILED):
            raise OSError(ctypes.get_errno(), name)

    def map(self, size, prot, offset):
        self.call("mmap", None, ctypes.c_size_t(size), prot, MAP_SHARED, self.fd, ctypes.c_long(offset))

    def touch_what_was_kept(self):
        rx = bytes(self.channel.rx)
        moved = ctypes.string_at(*self.moved)
        tx = bytes(self.channel.tx)
        self.channel.tx[PAGE:PAGE + 10] = b"too late!!"
        size = self.rx[1] - self.rx[0]
        return {
            "rx": self.secret in rx, "moved": self.secret in moved, "tx": self.secret in tx,
            "zero": not any(rx) and not any(moved) and not any(tx),
            "errors": {
                "map rx again": self.attempt(lambda: self.map(size, PROT_READ, RX_OFFSET)),
                "map tx again": self.attempt(lambda: self.map(size, PROT_READ | PROT_WRITE, TX_OFFSET)),
                "notify": self.attempt(lambda: fcntl.ioctl(self.fd, NOTIFY)),
                "wait": self.attempt(lambda: fcntl.ioctl(self.fd, WAIT, struct.pack("=QQ", 0, 0))),
                "read": self.attempt(lambda: os.read(self.fd, 8)),
                "rx writable": self.attempt(lambda: self.call(
                    "mprotect", ctypes.c_void_p(self.rx[0]), ctypes.c_size_t(size), PROT_READ | PROT_WRITE)),
            }}

    def usable(self):
        try:
            self.channel.send(b"still mine")
            return self.channel.receive() == b"still mine"
        except Exception:
            return False

    def run(self):
        poll = select.poll()
        for sock in self.doors:
            poll.register(sock, select.POLLIN)
        poll.register(self.fd, 0)
        doors = {sock.fileno(): sock for sock in self.doors}
        while not self.stop:
            for fd, what in poll.poll(200):
                if fd == self.fd:
                    poll.unregister(fd)
                    if what & select.POLLERR:
                        say(event="revoked", **self.touch_what_was_kept())
                else:
                    with doors[fd].accept()[0] as peer:
                        self.doors[doors[fd]](peer)
        say(event="end", usable=self.usable())


if __name__ == "__main__":
    Holder(*sys.argv[1:]).run()
