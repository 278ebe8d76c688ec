# SPDX-License-Identifier: LGPL-2.1-or-later
"""The cockpit example with what users have today beside it: plain memory, doorbells over UIO, a network."""

import json
import socket

from lab import build, ivshmem_host, story
from lab.world import UIDS, World

UIO_SLOT, NET_SLOT = 0x1d, 0x1c
UIO_DEVICE = f"0000:00:{UIO_SLOT:02x}.0"
MEMORY = 16 << 20
MAX_RING = "4M"
TCP_PORT = 7777
ADDRESSES = {"rtos": "192.0.2.1", "ivi": "192.0.2.2"}


# Maps the plain memory by sysfs and the registers by UIO; says what the kernel's list has for them.
MAP_BOTH = """
import json, mmap, os, re, sys
plain, device = sys.argv[1:]
def start(folder, bar):
    return int(open(folder + "/resource").read().splitlines()[bar].split()[0], 16)
uio = "/sys/bus/pci/devices/" + device
ranges = {"plain memory, by sysfs": start(os.path.dirname(plain), 2), "UIO registers": start(uio, 0)}
held = [mmap.mmap(os.open(path, os.O_RDWR), 4096) for path in (plain, "/dev/" + os.listdir(uio + "/uio")[0])]
if not os.path.exists("/sys/kernel/debug/x86"):
    os.system("mount -t debugfs none /sys/kernel/debug")
types = re.findall(r"0x([0-9a-f]+)-0x[0-9a-f]+\\] (\\S+)", open("/sys/kernel/debug/x86/pat_memtype_list").read())
found = {int(at, 16): kind for at, kind in types}
print(json.dumps({name: found.get(at, "not in the list") for name, at in ranges.items()}))
"""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class ClassicHost(ivshmem_host.IvshmemHost):
    """ivshmem as it is: every member gets the same memory, and writes what it likes."""

    def __init__(self, vms):
        super().__init__(vms, vectors=1)
        self.memory = ivshmem_host.Memory(self.folder / "memory", MEMORY)

    def memory_of(self, member):
        return self.memory

    def close(self):
        super().close()
        self.memory.close()

    def device_args(self, vm):
        return ["-chardev", f"socket,path={self.members[vm].socket},id=uio",
                "-device", f"ivshmem-doorbell,chardev=uio,vectors={self.vectors},addr={UIO_SLOT:#x}"]


class BenchWorld(World):
    """Guests with all of these, set up and ready for bench-data."""

    plain_size = MEMORY

    def start(self):
        self.classic = self.stack.enter_context(ClassicHost(UIDS))
        self.net_port = free_port()
        for vm in UIDS:
            self.extra_args[vm] = [*self.extra_args.get(vm, []), *self.classic.device_args(vm), *self.net_args(vm)]
        super().start()
        self.allow_large_rings()
        self.uio = build.test_module(self.image, "ivshmem_uio")
        self.each(self.prepare)
        self.pin()

    def net_args(self, vm):
        """A cable between the two: the first guest listens, the second one comes later."""
        end = "listen" if vm == next(iter(UIDS)) else "connect"
        return ["-netdev", f"socket,id=net,{end}=127.0.0.1:{self.net_port}",
                "-device", f"virtio-net-pci,netdev=net,addr={NET_SLOT:#x},mac=52:54:00:00:00:{list(UIDS).index(vm) + 1:02x}"]

    def allow_large_rings(self):
        """For messages of 1 MiB; a ring holds at least one."""
        policy = "policy.d/10-cockpit.conf"
        self.host.run(f"sed -i s/^MaxRingSize=.*/MaxRingSize={MAX_RING}/ /etc/sivshm-ca/{policy}", check=True)
        self.bus.call("Reload")
        self.each(lambda guest: guest.run(f"sed -i '/^.Service /a MaxRingSize={MAX_RING}' /etc/sivshm/{policy} && "
                                          "sivshmctl reload", check=True))

    def prepare(self, guest):
        guest.put_file("/root/ivshmem_uio.ko", self.uio)
        device = f"/sys/bus/pci/devices/{UIO_DEVICE}"
        guest.run("modprobe uio && insmod /root/ivshmem_uio.ko && "
                  f"echo ivshmem_uio > {device}/driver_override && echo {UIO_DEVICE} > /sys/bus/pci/drivers_probe && "
                  f"test -e {device}/uio/uio0 && ip address add {ADDRESSES[guest.name]}/24 dev eth0 && "
                  "ip link set eth0 up", check=True)

    def data_options(self, guest):
        """What bench-data is told of the other ways in one guest."""
        peer = next(m.id for m in self.classic.members.values() if m.name != guest.name)
        return ["--plain", self.plain_resource(), "--uio", f"uio0:{peer}", "--tcp", f"{ADDRESSES['ivi']}:{TCP_PORT}"]

    def measure(self, orders, prefix=(), timeout=600):
        """Runs bench-data over a list of orders, *prefix* before the command. Returns its answers."""
        return story.bench_data(self, orders, self.data_options,
                                lambda: self.ivi.run(f"ss -Hltn sport = :{TCP_PORT}")[1], prefix, timeout)

    def mapping_types(self):
        """How a guest maps each memory, by its kernel's own list, while all of it is mapped."""
        names = {f"{'own' if row['own'] else 'peer'} section": row["mapping"] for row in
                 self.guest_json(self.rtos, "sivshmctl --json status")["sections"]}
        out = self.rtos.run(["/usr/bin/python3", "-c", MAP_BOTH, self.plain_resource(), UIO_DEVICE], check=True)[1]
        return {**{f"{name}, by the module": text for name, text in names.items()}, **json.loads(out)}
