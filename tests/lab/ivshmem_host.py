# SPDX-License-Identifier: LGPL-2.1-or-later
"""A host for tests of the kernel module alone: memory, tables and doorbells, and no policy at all.

    host = IvshmemHost({"rtos": 64101, "ivi": 64102}, slots=64)
    guest = Guest("rtos", image, uid=64101, args=host.qemu_args("rtos"))
    host.grant("rtos", 3, peer="ivi")
    host.set_state("rtos", 3, REVOKED); host.ring("rtos", 0)

It speaks QEMU's ivshmem server protocol, with another memory fd for each VM. A VM that nobody
boots is still a peer: what it would write and which of its doorbells rang is in our hands.
"""

import contextlib
import mmap
import os
import shutil
import socket
import struct
import threading
import time
from array import array
from pathlib import Path

from .proc import readable

PAGE = 4096
TABLE_MAGIC, SECTION_MAGIC, ABI = 0x31544d4853564953, 0x31534d4853564953, 1
FREE, ACTIVE, DRAINING, REVOKED = range(4)
SECTION_OWN = 1
TABLE_SIZE = 128 * 1024

HEADER = struct.Struct("<QIIIIQII48s40x")
PLACE = struct.Struct("<IIIIQII32s48s")
GRANT = struct.Struct("<II16sIIIIQQQQ56s48s56sIIQ8x")
SECTION_HEADER = struct.Struct("<QIIQ")
EPOCH_OFFSET = 24
RUNG_OFFSET = 512  # in a window
assert (HEADER.size, PLACE.size, GRANT.size) == (128, 112, 256)

TABLE_ADDR, OWN_ADDR = 0x10, 0x11


class Memory:
    """A file on a tmpfs that QEMU maps, and our own mapping of it."""

    def __init__(self, path, size):
        self.path, self.size = path, size
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        os.fchmod(self.fd, 0o644)  # peers open it read-only
        os.ftruncate(self.fd, size)
        self.map = mmap.mmap(self.fd, size)

    def read(self, offset, size):
        return self.map[offset:offset + size]

    def write(self, offset, data):
        self.map[offset:offset + len(data)] = data

    def close(self):
        self.map.close()
        os.close(self.fd)


class Member:
    def __init__(self, name, ident, uid, folder, section_size, vectors):
        self.name, self.id, self.uid = name, ident, uid
        self.section = Memory(folder / f"{name}.section", section_size)
        self.section.write(0, SECTION_HEADER.pack(SECTION_MAGIC, ABI, 0, section_size))
        self.table = Memory(folder / f"{name}.table", TABLE_SIZE)
        self.bells = [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(vectors)]
        self.socket = folder / f"{name}.sock"
        self.client = None

    def close(self):
        self.section.close()
        self.table.close()
        for fd in self.bells:
            os.close(fd)


class IvshmemHost:
    """One region. Use as a context manager; *vms* maps names to the uid of their QEMU."""

    def __init__(self, vms, *, slots=64, section_size=1 << 20, vectors=4, region=7, folder=None):
        self.slots, self.vectors, self.region = slots, vectors, region
        self.folder = Path(folder or f"/dev/shm/sivshm-ivshmem.{os.getpid()}.{time.monotonic_ns():x}")
        self.folder.mkdir(mode=0o755)
        self.members = {name: Member(name, i + 1, uid, self.folder, section_size, vectors)
                        for i, (name, uid) in enumerate(vms.items())}
        self.generation = 0
        self.epoch = 0
        self.stopping = threading.Event()
        self.threads = []
        for member in self.members.values():
            self.write_table(member)
            self.listen(member)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join(5)
        for member in self.members.values():
            member.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    # the ivshmem server

    def listen(self, member):
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        server.bind(str(member.socket))
        os.chown(member.socket, member.uid, member.uid)
        server.listen(4)
        thread = threading.Thread(target=self.serve, args=(member, server), daemon=True)
        thread.start()
        self.threads.append(thread)

    def serve(self, member, server):
        clients = []
        with server:
            while not self.stopping.is_set():
                for sock in readable([server, *clients], 0.2):
                    if sock is server:
                        client, _ = server.accept()
                        self.greet(member, client)
                        clients.append(client)
                    elif not sock.recv(4096):
                        sock.close()
                        clients.remove(sock)
        for sock in clients:
            sock.close()

    def memory_of(self, member):
        """What a member's doorbell device shows it."""
        return member.section

    def greet(self, member, client):
        """What a new client is told. Every other VM counts as connected."""
        def tell(number, fd=None):
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [fd]))] if fd is not None else []
            client.sendmsg([struct.pack("<q", number)], rights)

        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            tell(0)
            tell(member.id)
            tell(-1, self.memory_of(member).fd)
            others = [m for m in self.members.values() if m is not member]
            for other in [*others, member]:
                for fd in other.bells:
                    tell(other.id, fd)

    # what QEMU gets

    def peers(self, member):
        return [m for m in self.members.values() if m is not member]

    def peer_addr(self, member, peer):
        return OWN_ADDR + 1 + self.peers(member).index(peer)

    def table_args(self, vm, *, readonly=True, addr=TABLE_ADDR, id="table"):
        member = self.members[vm]
        ro = ",readonly=on" if readonly else ""
        return ["-object", f"memory-backend-file,id={id},mem-path={member.table.path},size={TABLE_SIZE},share=on{ro}",
                "-device", f"ivshmem-plain,id=dev-{id},memdev={id},addr={addr:#x}"]

    def own_args(self, vm):
        member = self.members[vm]
        return ["-chardev", f"socket,path={member.socket},id=own",
                "-device", f"ivshmem-doorbell,id=dev-own,chardev=own,vectors={self.vectors},addr={OWN_ADDR:#x}"]

    def peer_args(self, vm, *, readonly=True):
        member, args = self.members[vm], []
        for peer in self.peers(member):
            ro = ",readonly=on" if readonly else ""
            args += ["-object", f"memory-backend-file,id=mem-{peer.name},mem-path={peer.section.path},"
                                f"size={peer.section.size},share=on{ro}",
                     "-device", f"ivshmem-plain,id=dev-{peer.name},memdev=mem-{peer.name},"
                                f"addr={self.peer_addr(member, peer):#x}"]
        return args

    def qemu_args(self, vm):
        return self.table_args(vm) + self.own_args(vm) + self.peer_args(vm)

    # the grant table

    def place(self, viewer, owner, /, **fields):
        own = owner is viewer
        values = dict(region=self.region, member=owner.id,
                      devfn=(OWN_ADDR if own else self.peer_addr(viewer, owner)) << 3,
                      flags=SECTION_OWN if own else 0, size=owner.section.size, vectors=self.vectors,
                      reserved=0, region_name=b"cockpit", vm=owner.name.encode())
        values.update(fields)
        return PLACE.pack(*values.values())

    def write_table(self, member, *, places=None, **fields):
        """Writes the layout anew; the epoch is stored last."""
        if places is None:
            places = [self.place(member, member), *(self.place(member, p) for p in self.peers(member))]
        self.epoch += 1
        values = dict(magic=TABLE_MAGIC, abi=ABI, grant_size=GRANT.size, n_slots=self.slots,
                      n_sections=len(places), epoch=self.epoch, write_test=0, reserved=0,
                      vm=member.name.encode())
        values.update(fields)
        header = bytearray(HEADER.pack(*values.values()) + b"".join(places))
        epoch = bytes(header[EPOCH_OFFSET:EPOCH_OFFSET + 8])
        header[EPOCH_OFFSET:EPOCH_OFFSET + 8] = member.table.read(EPOCH_OFFSET, 8)
        member.table.write(0, bytes(header))
        member.table.write(EPOCH_OFFSET, epoch)

    @staticmethod
    def grant_offset(slot):
        return PAGE + slot * GRANT.size

    def grant(self, vm, slot, *, peer, ring=PAGE, state=ACTIVE, window=None, **fields):
        """Writes a grant, by default a right one whose windows are the slot's own. Returns its generation."""
        member, peer = self.members[vm], self.members[peer]
        self.generation += 1
        offset = PAGE + (window if window is not None else slot) * (PAGE + ring)
        values = dict(state=FREE, generation=self.generation, channel=os.urandom(16), region=self.region,
                      peer=peer.id, local_vector=1, peer_vector=1,
                      tx_offset=offset, tx_size=PAGE + ring, rx_offset=offset, rx_size=PAGE + ring,
                      local_service=b"sensor", peer_vm=peer.name.encode(), peer_service=b"dashboard",
                      flags=0, reserved=0, opened=0)
        values.update(fields)
        for section, start in ((member.section, values["tx_offset"]), (peer.section, values["rx_offset"])):
            if start + PAGE <= section.size:
                section.write(start + RUNG_OFFSET, bytes(4))  # no kernel counts in there now; hosts zero all
        member.table.write(self.grant_offset(slot), GRANT.pack(*values.values()))
        self.set_state(vm, slot, state)
        return values["generation"]

    def set_state(self, vm, slot, state):
        self.members[vm].table.write(self.grant_offset(slot), struct.pack("<I", state))

    def revoke(self, vm, slot):
        self.set_state(vm, slot, REVOKED)
        self.ring(vm, 0)

    def free_all(self, vm):
        table = self.members[vm].table
        table.write(PAGE, bytes(TABLE_SIZE - PAGE))

    # doorbells

    def ring(self, vm, vector, times=1):
        for _ in range(times):
            os.eventfd_write(self.members[vm].bells[vector], 1)

    def rang(self, vm, vector, timeout=0):
        """How often that doorbell of a VM that nobody boots was rung since the last call."""
        fd = self.members[vm].bells[vector]
        if not readable([fd], timeout):
            return 0
        return os.eventfd_read(fd)
