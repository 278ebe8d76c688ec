# SPDX-License-Identifier: LGPL-2.1-or-later
"""What root in a third VM does with its devices and its control port: reads one JSON object from standard input,
answers by one line.

    {"do": "bars", "marks": {name: text}, "write": hex}   without the module: every BAR is read and written
    {"do": "ring", "peers": N, "vectors": M}              every doorbell of every id
    {"do": "port", "ask": [[method, params], ...], "handshake": [service, peer], "slots": [[slot, generation], ...]}
"""

import base64
import errno
import fcntl
import json
import mmap
import os
import struct
import sys
import time
from pathlib import Path

DEVICES = Path("/sys/bus/pci/devices")
# src/kmod/uapi/sivshm.h
OPEN, OPEN_CHANNEL = struct.Struct("<IIIIQQ"), 1 << 30 | 32 << 16 | 0xC5 << 8 | 3
CHANNEL_INFO, GET_INFO = struct.Struct("<IIQQQQ"), 2 << 30 | 256 << 16 | 0xC5 << 8 | 0x10
RX_OFFSET, PAGE = 1 << 32, 4096


def attempt(act, *arguments):
    try:
        return act(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]


# devices

def is_ivshmem(device):
    return (device / "vendor").read_text() == "0x1af4\n" and (device / "device").read_text() == "0x1110\n"


def bars():
    """(PCI slot, number, size, path, ivshmem?) of every BAR that is memory."""
    for device in sorted(DEVICES.iterdir()):
        for number in range(6):
            path = device / f"resource{number}"
            if path.exists() and path.stat().st_size:
                yield int(device.name[8:10], 16), number, path.stat().st_size, path, is_ivshmem(device)


def look(path, size, marks, text):
    with open(path, "r+b", buffering=0) as file, mmap.mmap(file.fileno(), size) as memory:
        found = [name for name, mark in marks.items() if memory.find(mark.encode()) >= 0]
        sticks = []
        for offset in (0, PAGE, size - PAGE):
            old = memory[offset:offset + len(text)]
            memory[offset:offset + len(text)] = text
            sticks.append(memory[offset:offset + len(text)] == text != old)
            memory[offset:offset + len(text)] = old
        return {"size": size, "found": found, "sticks": sticks}


def do_bars(order):
    """Memory of ivshmem devices, and any other BAR that is large enough to hold shared memory."""
    text = bytes.fromhex(order["write"])
    return {f"{slot}.{number}": look(path, size, order["marks"], text) for slot, number, size, path, ivshmem in bars()
            if (ivshmem and number == 2) or (not ivshmem and size > 65536)}


def do_ring(order):
    rung = 0
    for _, number, size, path, ivshmem in bars():
        if not ivshmem or number != 0:
            continue
        with open(path, "r+b", buffering=0) as file, mmap.mmap(file.fileno(), size) as registers:
            for peer in range(order["peers"]):
                for vector in range(order["vectors"]):
                    registers[12:16] = struct.pack("<I", peer << 16 | vector)
                    rung += 1
    return rung


# control port

class Port:
    def __init__(self):
        (name,) = [port for port in Path("/sys/class/virtio-ports").iterdir()
                   if (port / "name").read_text().strip() == "org.sivshm.control.0"]
        self.fd = os.open(f"/dev/{name.name}", os.O_RDWR)
        self.buffer, self.last, self.heard = b"", 0, ""
        os.write(self.fd, b"\0")
        self.call("Hello", version=1, nonce=os.urandom(16).hex(), bootId="00000000-0000-4000-8000-000000000000",
                  channels=[])

    def send(self, **message):
        os.write(self.fd, json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\0")

    def call(self, method, **params):
        """The result, or [code, text]."""
        self.last += 1
        self.send(id=self.last, method=method, params=params)
        while True:
            while b"\0" not in self.buffer:
                self.buffer += os.read(self.fd, 1 << 16)
            frame, _, self.buffer = self.buffer.partition(b"\0")
            message = json.loads(frame) if frame else {}
            self.heard += frame.decode()
            if message.get("id") == self.last and "method" not in message:
                error = message.get("error")
                return [error["code"], error["message"]] if error else message["result"]


def handshake(port, service, peer):
    """Both ends are in league here, so no TLS is needed for a grant."""
    flight = base64.b64encode(b"x").decode()
    offer = port.call("Connect", **{"from": service}, to=peer, ringSize=4096, flight=flight)
    vm, name = peer.split("/")
    grant = port.call("Confirm", session=offer["session"], flight=flight, exporter=base64.b64encode(bytes(32)).decode(),
                      peer=f"spiffe://cockpit.example/vm/{vm}/service/{name}")
    port.send(method="Opened", params={"session": offer["session"], **grant})
    return grant


def open_slot(device, slot, generation):
    group = Path("/proc/self/cgroup").read_text().split("0::")[1].strip()
    cgroup = os.stat(f"/sys/fs/cgroup{group}").st_ino
    return fcntl.ioctl(device, OPEN_CHANNEL, bytearray(OPEN.pack(slot, generation, 0, 0, cgroup, 0)))


def map_window(channel, size, offset):
    """What the peer has written there; it may take it a moment."""
    with mmap.mmap(channel, size, prot=mmap.PROT_READ, offset=offset) as memory:
        end = time.monotonic() + 20
        while not any(memory[PAGE:PAGE + 64]) and time.monotonic() < end:
            time.sleep(0.05)
        return memory[PAGE:PAGE + 64].hex()


def do_port(order):
    port = Port()
    out = {"answers": [port.call(method, **params) for method, params in order["ask"]]}
    out["grant"] = handshake(port, *order["handshake"])
    device = os.open("/dev/sivshm", os.O_RDWR)
    own = list(out["grant"].values())  # the same numbers may name a slot of another VM's table, too
    out["foreign"] = [attempt(open_slot, device, *ref) for ref in order["slots"] if ref != own]
    channel = open_slot(device, out["grant"]["slot"], out["grant"]["generation"])
    info = CHANNEL_INFO.unpack_from(fcntl.ioctl(channel, GET_INFO, bytes(256)))
    size = info[5]
    out["rx"] = map_window(channel, size, RX_OFFSET)
    out["beyond"] = [attempt(map_window, channel, length, RX_OFFSET + offset) for length, offset in (
        (size + PAGE, 0), (1 << 20, 0), (PAGE, size), (size, size), (size, 1 << 20), (size, PAGE))]
    out["heard"] = port.heard
    return out


def main():
    order = json.loads(sys.stdin.readline())
    print(json.dumps(globals()["do_" + order["do"]](order)))


main()
