# SPDX-License-Identifier: LGPL-2.1-or-later
"""Processes in a guest that do system calls as a test tells them (tests/kmod/puppet.c).

    stage = Stage(guest, port)                 # port: listening unix socket of the virtio-serial port
    worker = stage.spawn(uid=1000, cgroup="/sys/fs/cgroup/a")
    fd = worker.open("/dev/sivshm", os.O_RDWR)
    worker.ioctl(fd, request, data)            # bytes in, bytes out; raises OSError
"""

import ctypes
import errno
import itertools
import os
import queue
import socket
import struct
import threading

from .qemu import GuestError

# x86-64
NR = dict(read=0, write=1, close=3, poll=7, mmap=9, mprotect=10, munmap=11, ioctl=16, pread64=17, mremap=25,
          madvise=28, dup=32, fork=57, getpid=39, fcntl=72, remap_file_pages=216, openat=257, epoll_create1=291,
          epoll_ctl=233, epoll_wait=232, process_vm_readv=310, wait4=61, exit=60, kill=62, rt_sigprocmask=14,
          io_setup=206, io_destroy=207, io_getevents=208, io_submit=209,
          clock_gettime=228)
PROT_NONE, PROT_READ, PROT_WRITE, PROT_EXEC = 0, 1, 2, 4
MAP_SHARED, MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS = 1, 2, 0x10, 0x20
AT_FDCWD = -100
BUFFER = 1 << 16
SIGBUS, SIGSEGV = 7, 11


class Died(Exception):
    """A worker ended."""


class Fault(Exception):
    """A memory access ended in a signal."""

    def __init__(self, signal):
        super().__init__(f"signal {signal}")
        self.signal = signal


def error_of(action, *args, **kw):
    """Name of the error that a call ends in; "ok" when in none."""
    try:
        action(*args, **kw)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "ok"


class Port:
    """Our end of a virtio-serial port; QEMU connects to it."""

    def __init__(self, path, uid, name="org.sivshm.test.0"):
        self.path, self.name = path, name
        self.server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.server.bind(str(path))
        os.chown(path, uid, uid)
        self.server.listen(1)

    def qemu_args(self):
        return ["-chardev", f"socket,id=puppet,path={self.path}",
                "-device", f"virtserialport,bus=vser.0,chardev=puppet,name={self.name}"]


class Stage:
    def __init__(self, guest, port, program, *, where="/run/puppet"):
        self.guest = guest
        self.sock, _ = port.server.accept()
        self.answers = {}
        self.ids = itertools.count(1)
        self.workers = []
        self.lock = threading.Lock()
        self.queue_of(0)
        threading.Thread(target=self.listen, daemon=True).start()
        guest.put_file(where, program, 0o755)
        device = f"/dev/virtio-ports/{port.name}"
        guest.run(f"for n in $(seq 100); do [ -e {device} ] && exit; sleep 0.1; done; echo no {device}; exit 1",
                  check=True)
        self.process = guest.run_bg([where, device])
        try:
            self.answers[0].get(timeout=20 * guest.patience)
        except queue.Empty:
            raise GuestError(f"{guest.name}: no word from {where}\n{self.state_of_ports()}\n{guest.obituary()}") from None

    def state_of_ports(self):
        """How puppet and driver stand: what is known of a port that stays silent."""
        status = self.guest.ask("guest-exec-status", pid=self.process)
        ports = self.guest.run("cd /sys/kernel/debug/virtio-ports && grep . *; ls -l /dev/virtio-ports")[1]
        return f"puppet: {status}\n{ports}"

    def queue_of(self, worker):
        with self.lock:
            return self.answers.setdefault(worker, queue.Queue())

    def listen(self):
        buffer = b""
        while data := self.sock.recv(1 << 16):
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                ident, _, answer = line.decode().partition(" ")
                self.queue_of(int(ident)).put(answer)

    def say(self, worker, command):
        self.sock.sendall(f"{worker} {command}\n".encode())

    def note(self, text):
        """Writes to the kernel log."""
        self.say(0, f"note {text}")
        assert self.answers[0].get(timeout=20 * self.guest.patience) == "ok"

    def spawn(self, uid=0, cgroup="-"):
        used = {worker.id for worker in self.workers}
        ident = next(i for i in range(1, 32) if i not in used)
        self.say(ident, f"spawn {uid} {cgroup}")
        worker = Worker(self, ident)
        kind, pid = worker.answer().split()
        assert kind == "pid"
        worker.pid = int(pid, 16)
        self.workers.append(worker)
        worker.buffer = worker.call("mmap", 0, BUFFER, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        return worker

    def clear(self):
        """Ends all workers and waits until the kernel has taken their fds back."""
        for worker in list(self.workers):
            worker.end()


class Worker:
    def __init__(self, stage, ident):
        self.stage, self.id = stage, ident
        self.queue = stage.queue_of(ident)
        self.pid = self.buffer = None

    def say(self, command):
        self.stage.say(self.id, command)

    def answer(self, timeout=20):
        answer = self.queue.get(timeout=timeout * self.stage.guest.patience)
        if answer.startswith("gone"):
            if self in self.stage.workers:
                self.stage.workers.remove(self)
            raise Died(answer)
        return answer

    def end(self):
        if self not in self.stage.workers:
            return
        self.say("kill")
        try:
            while True:
                self.answer()
        except Died:
            pass

    # calls

    def begin(self, name, *args):
        """Starts a call that may block; finish() has its result."""
        self.say("call " + " ".join(str(ctypes.c_uint64(a).value) for a in (NR[name], *args)))

    def finish(self, timeout=20):
        result, error = self.answer(timeout).split()
        result, error = ctypes.c_int64(int(result, 16)).value, int(error, 16)
        if error:
            raise OSError(error, os.strerror(error))
        return result

    def call(self, name, *args):
        self.begin(name, *args)
        return self.finish()

    def call_failing(self, nth, name, *args):
        """The call with its nth allocation failing: (result or name of the error, was there one to fail?)"""
        self.say(f"fail {nth} " + " ".join(str(ctypes.c_uint64(a).value) for a in (NR[name], *args)))
        result, error, left = (int(n, 16) for n in self.answer().split())
        return errno.errorcode[error] if error else result, left == 0

    def peek(self, address, size=8):
        if size == 0:
            return b""
        self.say(f"peek {address} {size}")
        kind, value = self.answer().split()
        if kind == "signal":
            raise Fault(int(value, 16))
        return bytes.fromhex(value)

    def poke(self, address, data):
        self.say(f"poke {address} {data.hex()}")
        answer = self.answer().split()
        if answer[0] == "signal":
            raise Fault(int(answer[1], 16))

    def begin_count(self, address, ms):
        self.say(f"count {address} {ms}")

    def finish_count(self):
        kind, *values = self.answer().split()
        if kind == "signal":
            raise Fault(int(values[0], 16))
        return [int(v, 16) for v in values]

    def begin_stress(self, ms, fds, tx_size=0, rx_size=0):
        """All calls at random on channel fds, or with no sizes on the owner's; in the end the fds are closed."""
        self.say(f"stress {ms} {tx_size} {rx_size} " + " ".join(map(str, fds)))

    def finish_stress(self, timeout=60):
        """How many calls there were, and how many went well."""
        kind, *values = self.answer(timeout).split()
        if kind != "calls":
            raise Fault(int(values[0], 16))
        return [int(v, 16) for v in values]

    def open(self, path, flags):
        self.poke(self.buffer, path.encode() + b"\0")
        return self.call("openat", AT_FDCWD, self.buffer, flags, 0)

    def close(self, fd):
        self.call("close", fd)

    def ioctl(self, fd, request, data=b""):
        """Returns (result, data as the kernel left it)."""
        if data:
            self.poke(self.buffer, data)
        result = self.call("ioctl", fd, request, self.buffer)
        return result, self.peek(self.buffer, len(data))

    def cat(self, path, size=BUFFER // 16):
        """The beginning of a file."""
        fd = self.open(path, os.O_RDONLY)
        try:
            return self.read(fd, size).decode()
        finally:
            self.close(fd)

    def echo(self, text, path):
        fd = self.open(path, os.O_WRONLY)
        try:
            self.poke(self.buffer, text.encode())
            self.call("write", fd, self.buffer, len(text))
        finally:
            self.close(fd)

    def read(self, fd, size):
        n = self.call("read", fd, self.buffer, size)
        return self.peek(self.buffer, n)

    def poll(self, fd, events=0x2007, timeout=0):
        """The events that came: POLLIN 1, POLLERR 8, POLLHUP 0x10, POLLRDHUP 0x2000."""
        self.begin_poll(fd, events, timeout)
        return self.finish_poll()

    def begin_poll(self, fd, events=0x2007, timeout=-1):
        self.poke(self.buffer, struct.pack("<iHH", fd, events, 0))
        self.begin("poll", self.buffer, 1, timeout)

    def finish_poll(self, timeout=20):
        self.finish(timeout)
        return struct.unpack("<iHH", self.peek(self.buffer, 8))[2]

    def send(self, other, fd):
        """Passes an fd to another worker. Returns its number there."""
        self.say(f"send {other.id} {fd}")
        kind, number = other.answer().split()
        assert kind == "fd"
        return int(number, 16)
