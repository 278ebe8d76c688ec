# SPDX-License-Identifier: LGPL-2.1-or-later
"""The ioctls of sivshm.ko (src/kmod/uapi/sivshm.h) as done by a puppet worker."""

import os
import struct
from collections import namedtuple

from . import puppet

TX_OFFSET, RX_OFFSET = 0, 1 << 32
PAGE = 4096

INFO = struct.Struct("<IIIIQ48s56x")
SECTION = struct.Struct("<IIIIIIIIQ32s48s8s")
SLOT = struct.Struct("<IIIIIIIIQIIQQ16s56s48s56s16s")
OPEN = struct.Struct("<IIIIQQ")
REF = struct.Struct("<IIQ")
EVENT = struct.Struct("<IIIIIIQQ24x")
CHANNEL_INFO = struct.Struct("<IIQQQQII16s56s48s56s32x")
WAIT = struct.Struct("<QQ")

READ, WRITE = 2, 1


def request(direction, number, size):
    return direction << 30 | size << 16 | 0xC5 << 8 | number


GET_INFO = request(READ, 0x00, INFO.size)
GET_SECTION = request(READ | WRITE, 0x01, SECTION.size)
GET_SLOT = request(READ | WRITE, 0x02, SLOT.size)
OPEN_CHANNEL = request(WRITE, 0x03, OPEN.size)
ADOPT = request(WRITE, 0x04, REF.size)
CLOSE = request(WRITE, 0x05, REF.size)
CHANNEL_GET_INFO = request(READ, 0x10, CHANNEL_INFO.size)
NOTIFY = request(0, 0x11, 0)
WAIT_BELL = request(READ | WRITE, 0x12, WAIT.size)

RELEASED, REVOKED, DRAINING, DENIED, TABLE, STORM = range(1, 7)
EVENT_NAMES = dict(zip(range(1, 7), "RELEASED REVOKED DRAINING DENIED TABLE STORM".split()))
OP_MMAP, OP_IOCTL, OP_POLL, OP_READ = range(1, 5)
CHANNEL_NONE, CHANNEL_OPEN, CHANNEL_REVOKED, CHANNEL_RELEASED = range(4)
SLOT_ORPHAN, SLOT_USED = 1, 2
MAX_MAPS = 16
MAPPING_WB = 1
FOREVER = (1 << 64) - 1
POLLIN, POLLERR, POLLHUP, POLLRDHUP, POLLRDNORM = 1, 8, 0x10, 0x2000, 0x40

Info = namedtuple("Info", "abi n_slots n_sections n_channels epoch vm")
Section = namedtuple("Section", "index state mapping region member devfn flags vectors size region_name vm reserved")
Slot = namedtuple("Slot", "slot state generation channel channel_generation flags uid region cgroup peer reserved0 "
                          "tx_size rx_size channel_id local_service peer_vm peer_service reserved1")
Event = namedtuple("Event", "type slot generation op pid uid cgroup count")
ChannelInfo = namedtuple("ChannelInfo", "abi state tx_ring_size rx_ring_size tx_map_size rx_map_size slot generation "
                                        "channel_id local_service peer_vm peer_service")


def text(raw):
    return raw.split(b"\0")[0].decode()


class Owner:
    """/dev/sivshm, opened by a worker."""

    def __init__(self, worker):
        self.worker = worker
        self.fd = worker.open("/dev/sivshm", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)

    def close(self):
        self.worker.close(self.fd)

    def info(self):
        info = Info(*INFO.unpack(self.worker.ioctl(self.fd, GET_INFO, bytes(INFO.size))[1]))
        return info._replace(vm=text(info.vm))

    def section(self, index):
        data = index.to_bytes(4, "little").ljust(SECTION.size, b"\0")
        return Section(*SECTION.unpack(self.worker.ioctl(self.fd, GET_SECTION, data)[1]))

    def slot(self, slot):
        data = slot.to_bytes(4, "little").ljust(SLOT.size, b"\0")
        return Slot(*SLOT.unpack(self.worker.ioctl(self.fd, GET_SLOT, data)[1]))

    def open(self, slot, generation, uid, cgroup, *, flags=0, reserved=0):
        data = OPEN.pack(slot, generation, uid, flags, cgroup, reserved)
        return self.worker.ioctl(self.fd, OPEN_CHANNEL, data)[0]

    def adopt(self, slot, generation, reserved=0):
        self.worker.ioctl(self.fd, ADOPT, REF.pack(slot, generation, reserved))

    def revoke(self, slot, generation, reserved=0):
        self.worker.ioctl(self.fd, CLOSE, REF.pack(slot, generation, reserved))

    def events(self, room=32):
        """All that wait to be read."""
        try:
            data = self.worker.read(self.fd, room * EVENT.size)
        except BlockingIOError:
            return []
        return [Event(*EVENT.unpack_from(data, i)) for i in range(0, len(data), EVENT.size)]

    def wait_events(self, count=1, timeout=5000):
        """At least so many, TABLE and STORM not counted and left out."""
        found = []
        while len(found) < count:
            if not self.worker.poll(self.fd, POLLIN, timeout * self.worker.stage.guest.patience):
                raise AssertionError(f"only {found}")
            found += [e for e in self.events() if e.type not in (TABLE, STORM)]
        return found


class Channel:
    """A channel fd in the hands of a worker."""

    def __init__(self, worker, fd):
        self.worker, self.fd = worker, fd

    def close(self):
        self.worker.close(self.fd)

    def info(self):
        data = self.worker.ioctl(self.fd, CHANNEL_GET_INFO, bytes(CHANNEL_INFO.size))[1]
        return ChannelInfo(*CHANNEL_INFO.unpack(data))

    def notify(self):
        self.worker.ioctl(self.fd, NOTIFY)

    def wait(self, timeout_ns):
        """Doorbells that rang."""
        return WAIT.unpack(self.worker.ioctl(self.fd, WAIT_BELL, WAIT.pack(timeout_ns, 0))[1])[1]

    def begin_wait(self, timeout_ns=FOREVER):
        self.worker.poke(self.worker.buffer, WAIT.pack(timeout_ns, 0))
        self.worker.begin("ioctl", self.fd, WAIT_BELL, self.worker.buffer)

    def finish_wait(self, timeout=20):
        self.worker.finish(timeout)
        return WAIT.unpack(self.worker.peek(self.worker.buffer, WAIT.size))[1]

    def read(self):
        data = self.worker.read(self.fd, 8)
        return int.from_bytes(data, "little") if data else None

    def poll(self, timeout=0):
        return self.worker.poll(self.fd, POLLIN | POLLRDHUP, timeout)

    def map(self, size, prot, offset, flags=puppet.MAP_SHARED):
        return self.worker.call("mmap", 0, size, prot, flags, self.fd, offset)

    def map_tx(self):
        return self.map(self.info().tx_map_size, puppet.PROT_READ | puppet.PROT_WRITE, TX_OFFSET)

    def map_rx(self):
        return self.map(self.info().rx_map_size, puppet.PROT_READ, RX_OFFSET)
