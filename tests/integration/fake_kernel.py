# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel module as sivshmd sees it (src/kmod/uapi/sivshm.h), behind fake_device.c."""

import array
import errno
import os
import socket
import struct
import threading

from lab.proc import readable

PAGE = 4096
FREE, ACTIVE, DRAINING, REVOKED = range(4)
C_NONE, C_OPEN, C_REVOKED, C_RELEASED = range(4)
EVENT = {"released": 1, "revoked": 2, "draining": 3, "denied": 4, "table": 5, "storm": 6}
ORPHAN, USED = 1, 2


def ioc(direction, number, size):
    return direction << 30 | size << 16 | 0xC5 << 8 | number


INFO = struct.Struct("<IIIIQ48s56x")
SECTION = struct.Struct("<IIIIIIIIQ32s48s8x")
SLOT = struct.Struct("<IIIIIIIIQIIQQ16s56s48s56s16x")
OPEN = struct.Struct("<IIIIQQ")
REF = struct.Struct("<IIQ")
EVENT_STRUCT = struct.Struct("<IIIIIIQQ24x")
GET_INFO, GET_SECTION, GET_SLOT = ioc(2, 0, INFO.size), ioc(3, 1, SECTION.size), ioc(3, 2, SLOT.size)
SIVSHM_OPEN, ADOPT, CLOSE = ioc(1, 3, OPEN.size), ioc(1, 4, REF.size), ioc(1, 5, REF.size)


class Grant:
    def __init__(self, generation=0):
        self.state, self.generation = FREE, generation
        self.local = self.peer_vm = self.peer_service = ""
        self.ring, self.id = 0, bytes(16)


class Channel:
    """One end of a socketpair is the fd that the holder gets; its end of file is the last close."""

    def __init__(self, generation, uid, cgroup, used=True):
        self.generation, self.uid, self.cgroup = generation, uid, cgroup
        self.state, self.orphan, self.used = C_OPEN, False, used
        self.end, self.fd = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class FakeKernel:
    def __init__(self, folder, vm, slots=16):
        self.vm, self.path = vm, f"{folder}/kernel.sock"
        self.lock = threading.RLock()
        self.abi, self.has_table = 1, True
        self.grants = [Grant() for _ in range(slots)]
        self.channels = {}
        self.used = True  # whether holders use their fds
        self.sections = [("cockpit", vm, True), ("cockpit", "peer", False)]
        self.busy = []  # slots of the next SIVSHM_GET_SLOTs that find the host writing
        self.open_errors = []  # errno of the next SIVSHM_OPENs, 0 for success
        self.owner = None
        self.pending = []  # events nobody has read
        self.opened = 0
        self.server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.server.bind(self.path)
        self.server.listen(8)
        self.stopping = False
        self.wake_read, self.wake_write = os.pipe()
        self.threads = [threading.Thread(target=t, daemon=True) for t in (self._accept, self._watch)]
        for thread in self.threads:
            thread.start()

    def stop(self):
        self.stopping = True
        self.server.shutdown(socket.SHUT_RDWR)
        os.write(self.wake_write, b"x")
        os.unlink(self.path)
        with self.lock:
            if self.owner:
                self.owner.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join()
        self.server.close()
        for channel in self.channels.values():
            channel.end.close()
        for fd in (self.wake_read, self.wake_write):
            os.close(fd)

    # what the host's side of the test does

    def grant(self, local, peer_vm, peer_service, ring, channel_id):
        with self.lock:
            slot = next(i for i, g in enumerate(self.grants) if g.state == FREE and i not in self.channels)
            g = self.grants[slot]
            g.generation += 1
            g.state, g.local, g.peer_vm, g.peer_service = ACTIVE, local, peer_vm, peer_service
            g.ring, g.id = ring, channel_id
            return slot, g.generation

    def withdraw(self, slot, generation):
        """The host writes REVOKED and rings; FREE when nobody has it open."""
        with self.lock:
            g = self.grants[slot]
            if g.generation != generation or g.state == FREE:
                return
            g.state = REVOKED
            channel = self.channels.get(slot)
            if channel is None:
                g.state = FREE
            elif channel.state == C_OPEN:
                channel.state = C_REVOKED
                self.event("revoked", slot, generation)

    def drain(self, slot, generation):
        with self.lock:
            g = self.grants[slot]
            if g.generation == generation and g.state == ACTIVE:
                g.state = DRAINING
                if slot in self.channels:
                    self.event("draining", slot, generation)

    def free(self, slot, generation):
        """The host has heard Released."""
        with self.lock:
            if self.grants[slot].generation == generation and slot not in self.channels:
                self.grants[slot].state = FREE

    def event(self, name, slot=0, generation=0, op=0, pid=0, uid=0, cgroup=0, count=1):
        with self.lock:
            self.pending.append(EVENT_STRUCT.pack(EVENT[name], slot, generation, op, pid, uid, cgroup, count))
            self._flush()

    def _flush(self):
        while self.owner and self.pending:
            try:
                self.owner.send(self.pending[0])
            except OSError:
                return
            self.pending.pop(0)

    # sivshmd's side

    def _accept(self):
        while not self.stopping:
            try:
                events, _ = self.server.accept()
                control, _ = self.server.accept()
            except OSError:
                return
            with self.lock:
                if self.owner:
                    control.send(struct.pack("<i", -errno.EBUSY))
                    continue
                self.owner = events
                self.opened += 1
                control.send(struct.pack("<i", 0))
                self._flush()
            threading.Thread(target=self._serve, args=(control,), daemon=True).start()

    def _serve(self, control):
        while True:
            try:
                request = control.recv(4096)
            except OSError:
                request = b""
            if not request:
                break
            number, argument = struct.unpack("<I", request[:4])[0], request[4:]
            with self.lock:
                try:
                    result, out, fd = self._ioctl(number, argument)
                except OSError as e:
                    result, out, fd = -e.errno, argument, None
            ancillary = []
            if fd is not None:
                ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]).tobytes())]
            try:
                control.sendmsg([struct.pack("<i", result), out], ancillary)
            except OSError:
                break
            if fd is not None:
                os.close(fd)
        with self.lock:
            self.owner.close()
            self.owner = None
            for channel in self.channels.values():
                channel.orphan = True
        control.close()

    def _ioctl(self, number, argument):
        handler = {GET_INFO: self._info, GET_SECTION: self._section, GET_SLOT: self._slot,
                   SIVSHM_OPEN: self._open, ADOPT: self._adopt, CLOSE: self._close}.get(number)
        if handler is None:
            raise OSError(errno.ENOTTY, "")
        return handler(argument)

    def _info(self, argument):
        n = len(self.grants) if self.has_table else 0
        return 0, INFO.pack(self.abi, n, len(self.sections) if n else 0, len(self.channels), 1,
                            self.vm.encode() if n else b""), None

    def _section(self, argument):
        index = struct.unpack("<I", argument[:4])[0]
        if index >= len(self.sections) or not self.has_table:
            raise OSError(errno.ENOENT, "")
        region, vm, own = self.sections[index]
        return 0, SECTION.pack(index, 1, 1, 0, index, 0x80 + 8 * index, own, 8, 16 << 20, region.encode(),
                               vm.encode()), None

    def _slot(self, argument):
        slot = struct.unpack("<I", argument[:4])[0]
        if slot >= len(self.grants) or not self.has_table:
            raise OSError(errno.ENOENT, "")
        if slot in self.busy:
            self.busy.remove(slot)
            raise OSError(errno.EAGAIN, "")
        g, c = self.grants[slot], self.channels.get(slot)
        return 0, SLOT.pack(slot, g.state, g.generation, c.state if c else C_NONE, c.generation if c else 0,
                            (ORPHAN if c and c.orphan else 0) | (USED if c and c.used else 0), c.uid if c else 0, 0, c.cgroup if c else 0, 1, 0,
                            PAGE + g.ring, PAGE + g.ring, g.id, g.local.encode(), g.peer_vm.encode(),
                            g.peer_service.encode()), None

    def _open(self, argument):
        slot, generation, uid, flags, cgroup, _ = OPEN.unpack(argument)
        error = self.open_errors.pop(0) if self.open_errors else 0
        if error:
            raise OSError(error, "")
        if slot >= len(self.grants):
            raise OSError(errno.ENOENT, "")
        g = self.grants[slot]
        if g.state != ACTIVE or g.generation != generation:
            raise OSError(errno.ESTALE, "")
        if slot in self.channels:
            raise OSError(errno.EBUSY, "")
        channel = self.channels[slot] = Channel(generation, uid, cgroup, self.used)
        os.write(self.wake_write, b"x")
        return 0, argument, channel.fd.detach()

    def _ref(self, argument):
        slot, generation, _ = REF.unpack(argument)
        channel = self.channels.get(slot)
        if channel is None or channel.generation != generation:
            raise OSError(errno.ESTALE, "")
        return slot, channel

    def _adopt(self, argument):
        _, channel = self._ref(argument)
        channel.orphan = False
        return 0, argument, None

    def _close(self, argument):
        slot, channel = self._ref(argument)
        if channel.state == C_OPEN:
            channel.state = C_REVOKED
            self.event("revoked", slot, channel.generation)
        return 0, argument, None

    def _watch(self):
        """The last copy of a channel's fd is gone: RELEASED."""
        while not self.stopping:
            with self.lock:
                ends = {c.end: slot for slot, c in self.channels.items()}
            ready = readable([self.wake_read, *ends], 1)
            if self.wake_read in ready:
                os.read(self.wake_read, 4096)
            with self.lock:
                for end in ready:
                    if end not in ends:
                        continue
                    slot = ends[end]
                    channel = self.channels.pop(slot)
                    end.close()
                    self._withdraw(slot)
                    self.event("released", slot, channel.generation)

    def _withdraw(self, slot):
        """The table is this kernel's own: nobody uses the grant again until the host frees it."""
        if self.grants[slot].state == ACTIVE:
            self.grants[slot].state = REVOKED
