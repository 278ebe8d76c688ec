# SPDX-License-Identifier: LGPL-2.1-or-later
"""A virtual machine as sivshm-cad sees it: QEMU's ivshmem client and grant table, a daemon on the control port.

Nothing here knows more than docs/protocol.md, uapi/sivshm_table.h and QEMU's ivshmem-spec.
"""

import array
import base64
import contextlib
import json
import mmap
import os
import socket
import struct
import time
import uuid

from lab.ivshmem_host import GRANT, HEADER, PLACE
from lab.proc import readable

FREE, ACTIVE, DRAINING, REVOKED = range(4)


@contextlib.contextmanager
def identity(uid):
    """Be another user for a moment: what SO_PEERCRED and file permissions see."""
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(uid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def connect(path, uid):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with identity(uid):
        try:
            sock.connect(str(path))
        except OSError:
            sock.close()
            raise
    return sock


class Device:
    """QEMU's ivshmem-doorbell, as far as the socket goes."""

    def __init__(self, path, uid):
        self.sock = connect(path, uid)
        self.peers = {}  # id -> list of eventfds; our own too
        self.fds = []
        self.id = self.shm = self.map = self.version = None

    def close(self):
        self.sock.close()
        if self.map:
            self.map.close()
        for fd in self.fds:
            os.close(fd)
        self.fds = []

    def receive(self, timeout=5):
        """One message: (value, fd or None); None when nothing comes; EOFError at the end."""
        if not readable([self.sock], timeout):
            return None
        data, ancillary, _, _ = self.sock.recvmsg(8, socket.CMSG_SPACE(4))
        if not data:
            raise EOFError
        assert len(data) == 8
        fds = array.array("i")
        for level, kind, content in ancillary:
            assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
            fds.frombytes(content[:4])
        self.fds += fds
        return struct.unpack("<q", data)[0], fds[0] if fds else None

    def setup(self, vectors):
        """The welcome, in exactly the order QEMU wants it."""
        self.version, fd = self.receive()
        assert (self.version, fd) == (0, None)
        self.id, fd = self.receive()
        assert fd is None and 0 <= self.id <= 0xffff
        value, self.shm = self.receive()
        assert value == -1 and self.shm is not None
        self.map = mmap.mmap(self.shm, os.fstat(self.shm).st_size)
        while len(self.peers.get(self.id, [])) < vectors:
            value, fd = self.receive()
            self.peers.setdefault(value, []).append(fd)
        assert None not in sum(self.peers.values(), [])
        assert all(len(bells) == vectors for bells in self.peers.values())
        return self

    def assert_quiet(self, timeout=0.2):
        """After the welcome nothing is said: a QEMU that hears of a peer's end and return uses freed memory."""
        assert self.receive(timeout) is None

    def bell(self, vector=0, timeout=2):
        """Has our doorbell been rung? Takes the ring."""
        fd = self.peers[self.id][vector]
        if not readable([fd], timeout):
            return False
        os.read(fd, 8)
        return True


class Table:
    """The grant table as the guest maps it."""

    def __init__(self, path, uid):
        with identity(uid):
            fd = os.open(path, os.O_RDONLY)
        self.map = mmap.mmap(fd, os.fstat(fd).st_size, prot=mmap.PROT_READ)
        os.close(fd)

    def header(self):
        magic, abi, grant_size, slots, sections, epoch, _, _, vm = HEADER.unpack_from(self.map, 0)
        return {"magic": magic, "abi": abi, "grant_size": grant_size, "slots": slots,
                "sections": sections, "epoch": epoch, "vm": text(vm)}

    def sections(self):
        found = []
        for i in range(self.header()["sections"]):
            region, member, devfn, flags, size, vectors, _, name, vm = PLACE.unpack_from(
                self.map, HEADER.size + i * PLACE.size)
            found.append({"region": region, "member": member, "slot": devfn >> 3, "own": flags & 1,
                          "size": size, "vectors": vectors, "name": text(name), "vm": text(vm)})
        return found

    def grant(self, slot):
        names = ("state", "generation", "channel", "region", "peer", "local_vector", "peer_vector",
                 "tx_offset", "tx_size", "rx_offset", "rx_size", "local_service", "peer_vm",
                 "peer_service", "flags", "reserved", "opened")
        entry = dict(zip(names, GRANT.unpack_from(self.map, 4096 + slot * 256)))
        for name in ("local_service", "peer_vm", "peer_service"):
            entry[name] = text(entry[name])
        return entry

    def states(self):
        return {slot: state for slot in range(self.header()["slots"])
                if (state := self.grant(slot)["state"]) != FREE}


def text(field):
    return field.split(b"\0")[0].decode()


def b64(data):
    return base64.b64encode(data).decode()


class RpcError(Exception):
    def __init__(self, error):
        self.code, self.text = error["code"], error["message"]
        super().__init__(f"{self.code}: {self.text}")


class Daemon:
    """sivshmd at the other end of the control port; one thread, the test says what happens when."""

    def __init__(self, path, uid, hello=True, channels=()):
        self.sock = connect(path, uid)
        self.buffer, self.inbox, self.next_id = b"", [], 1
        if hello:
            self.welcome = self.hello(channels)

    def close(self):
        self.sock.close()

    def write(self, data):
        self.sock.settimeout(10)
        self.sock.sendall(data)

    def send(self, message):
        self.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\0")

    def request(self, method, **params):
        self.next_id += 1
        self.send({"id": self.next_id, "method": method, "params": params})
        return self.next_id

    def notify(self, method, **params):
        self.send({"method": method, "params": params})

    def reply(self, request, **result):
        self.send({"id": request["id"], "result": result})

    def fail(self, request, code, message):
        self.send({"id": request["id"], "error": {"code": code, "message": message}})

    def fill(self, timeout):
        """More bytes; False when none come; EOFError when the host hung up."""
        if not readable([self.sock], timeout):
            return False
        try:
            data = self.sock.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        if not data:
            raise EOFError
        self.buffer += data
        *frames, self.buffer = self.buffer.split(b"\0")
        self.inbox += [json.loads(frame) for frame in frames if frame]
        return True

    def take(self, match, timeout=5):
        """The first message that fits; the others stay. None when none comes."""
        end = time.monotonic() + timeout
        while True:
            for message in self.inbox:
                if match(message):
                    self.inbox.remove(message)
                    return message
            left = end - time.monotonic()
            if left <= 0 or not self.fill(left):
                return None

    def answer(self, ident, timeout=5):
        message = self.take(lambda m: m.get("id") == ident and "method" not in m, timeout)
        assert message is not None, f"no answer to {ident}; got {self.inbox}"
        if "error" in message:
            raise RpcError(message["error"])
        return message["result"]

    def call(self, method, timeout=5, **params):
        return self.answer(self.request(method, **params), timeout)

    def await_method(self, method, timeout=5):
        message = self.take(lambda m: m.get("method") == method, timeout)
        assert message is not None, f"no {method}; got {self.inbox}"
        return message

    def heard(self, method, timeout=0.3):
        return self.take(lambda m: m.get("method") == method, timeout)

    def hello(self, channels=()):
        nonce = os.urandom(16).hex()
        self.write(b"\0")
        ident = self.request("Hello", version=1, nonce=nonce, bootId=str(uuid.uuid4()),
                             channels=[{"slot": s, "generation": g} for s, g in channels])
        welcome = self.answer(ident)
        assert welcome["nonce"] == nonce
        self.inbox = [m for m in self.inbox if m.get("method") != "Reset"]
        return welcome


class Vm:
    """One VM: its devices, its table, its daemon."""

    def __init__(self, cad, name, uid, vectors=8):
        self.cad, self.name, self.uid, self.vectors = cad, name, uid, vectors
        self.folder = cad.runtime / "vm" / name
        self.devices, self.daemon = {}, None

    def plug(self, region="demo"):
        self.devices[region] = Device(self.folder / f"{region}.sock", self.uid).setup(self.vectors)
        return self.devices[region]

    def unplug(self, region="demo"):
        self.devices.pop(region).close()

    def boot(self, region="demo", channels=()):
        self.plug(region)
        self.start_daemon(channels)
        return self

    def start_daemon(self, channels=()):
        self.daemon = Daemon(self.folder / "control.sock", self.uid, channels=channels)

    @property
    def device(self):
        return self.devices["demo"]

    @property
    def table(self):
        return Table(self.folder / "grants", self.uid)

    def close(self):
        for device in self.devices.values():
            device.close()
        self.devices = {}
        if self.daemon:
            self.daemon.close()
        self.daemon = None


EXPORTER = b64(bytes(32))


def spiffe(name, domain="test.example"):
    vm, service = name.split("/")
    return f"spiffe://{domain}/vm/{vm}/service/{service}"


class Handshake:
    """The steps of one Connect, so that a test can stop, lie or die at each."""

    domain = "test.example"

    def __init__(self, a, b, source="sensor", target="dashboard", ring=4096):
        self.a, self.b, self.ring = a, b, ring
        self.source, self.target = source, target
        self.session = None

    def connect(self):
        self.asked = self.a.daemon.request("Connect", **{"from": self.source}, to=f"{self.b.name}/{self.target}",
                                           ringSize=self.ring, flight=b64(b"client hello"))
        return self

    def incoming(self):
        self.request = self.b.daemon.await_method("Incoming")
        return self.request["params"]

    def offer(self):
        self.b.daemon.reply(self.request, flight=b64(b"server hello"))
        result = self.a.daemon.answer(self.asked)
        self.session = result["session"]
        return result

    def confirm(self, peer=None, exporter=EXPORTER):
        self.asked = self.a.daemon.request("Confirm", session=self.session, flight=b64(b"client finished"),
                                           peer=peer or spiffe(f"{self.b.name}/{self.target}", self.domain), exporter=exporter)
        return self

    def finish(self, peer=None, exporter=EXPORTER):
        self.request = self.b.daemon.await_method("Finish")
        self.b.daemon.reply(self.request, peer=peer or spiffe(f"{self.a.name}/{self.source}", self.domain), exporter=exporter)
        return self.request["params"]

    def granted(self):
        self.at_a = self.a.daemon.answer(self.asked)
        params = self.b.daemon.await_method("Granted")["params"]
        assert params["session"] == self.session
        self.at_b = {"slot": params["slot"], "generation": params["generation"]}
        return self

    def opened(self):
        self.a.daemon.notify("Opened", session=self.session, **self.at_a)
        self.b.daemon.notify("Opened", session=self.session, **self.at_b)
        return self

    def run(self):
        self.connect()
        self.incoming()
        self.offer()
        self.confirm()
        self.finish()
        return self.granted().opened()
