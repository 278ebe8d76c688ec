# SPDX-License-Identifier: LGPL-2.1-or-later
"""The cockpit example for real: the host unit in a booted container, two guests that it joins.

The configuration is the one in examples/cockpit; nothing here knows more than a user could read
there. QEMU gets exactly what `sivshmctl qemu-args` prints.
"""

import contextlib
import fcntl
import json
import os
import re
import shlex
import subprocess
import threading
import time
from pathlib import Path

from . import host as hosts
from . import image as images
from . import paths, qemu

EXAMPLE = paths.ROOT / "examples/cockpit"
RUNTIME = Path("/run/sivshm-ca")
UIDS = {"rtos": 61001, "ivi": 61002}
PCI_SLOT, SECTION_SIZE = 0x10, 16 << 20  # PciSlot= and SectionSize= of the example
PLAIN_SLOT = "0x1e"
CA_NAME, CA_PATH, CA_INTERFACE = "org.sivshm.ca1", "/org/sivshm/ca1", "org.sivshm.ca1.Manager"


def enable_at_boot(folder, target=None):
    """What `systemctl enable sivshmd` writes, for a payload; by another unit than WantedBy= says if *target* is given."""
    unit = (paths.ROOT / "units/sivshmd.service").read_text()
    target = target or re.search(r"^WantedBy=(\S+)$", unit, re.M)[1]
    wants = Path(folder) / "etc/systemd/system" / f"{target}.wants"
    wants.mkdir(parents=True)
    (wants / "sivshmd.service").symlink_to("/usr/lib/systemd/system/sivshmd.service")


class HostBus:
    """The container's system bus, from outside, with one lasting connection."""

    def __init__(self, leader):
        from gi.repository import Gio, GLib
        self.gio, self.glib = Gio, GLib
        flags = (Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT
                 | Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION)
        self.bus = Gio.DBusConnection.new_for_address_sync(
            f"unix:path=/proc/{leader}/root/run/dbus/system_bus_socket", flags, None, None)

    def call(self, method, signature=None, *args, timeout=10):
        parameters = self.glib.Variant(f"({signature})", args) if signature else None
        return self.bus.call_sync(CA_NAME, CA_PATH, CA_INTERFACE, method, parameters, None,
                                  self.gio.DBusCallFlags.NONE, int(timeout * 1000), None).unpack()

    def close(self):
        self.bus.close_sync(None)


class Stage:
    """What start() puts on self.stack ends in reverse order, also when a later part does not start."""

    def __enter__(self):
        self.stack = contextlib.ExitStack()
        with contextlib.ExitStack() as guard:
            guard.push(self.stack)
            self.start()
            guard.pop_all()
        return self

    def __exit__(self, *exc):
        self.stack.close()


class World(Stage):
    """Everything of the example, up and running. Use as a context manager.

    One at a time on a machine, since the paths of the host unit are the real ones.
    """

    plain_size = 1 << 20

    def __init__(self, destdir, image, *, log_dir=None, keep=False, progress=lambda text: None,
                 extra_args=None, machine="q35", overlay=None):
        """overlay: a folder with host, rtos or ivi in it, whose files replace the example's."""
        self.overlay = Path(overlay) if overlay else None
        self.destdir, self.image, self.log_dir, self.keep = Path(destdir), image, log_dir, keep
        self.progress, self.extra_args, self.machine = progress, extra_args or {}, machine
        self.guests = {}
        self.bus = self.host = None

    def start(self):
        self.lock()
        self.mount_runtime()
        self.start_host()
        self.make_plain()
        for vm in UIDS:
            self.guests[vm] = self.make_guest(vm)
        self.boot()

    @property
    def rtos(self):
        return self.guests["rtos"]

    @property
    def ivi(self):
        return self.guests["ivi"]

    def lock(self):
        handle = self.stack.enter_context(open(paths.run_dir() / "world.lock", "w"))
        fcntl.flock(handle, fcntl.LOCK_EX)

    def mount_runtime(self):
        """A tmpfs at the place the unit uses, seen from inside the container and by QEMU."""
        RUNTIME.mkdir(exist_ok=True)
        while subprocess.run(["mountpoint", "-q", RUNTIME]).returncode == 0:
            subprocess.run(["umount", "-l", RUNTIME], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=711", "sivshm-ca", RUNTIME], check=True)
        self.stack.callback(subprocess.run, ["umount", "-l", RUNTIME])

    def start_host(self):
        began = time.monotonic()
        self.host = self.stack.enter_context(hosts.Nspawn(
            "host", self.image, payload=[*self.configuration("host"), self.destdir], binds={RUNTIME: RUNTIME},
            log_dir=self.log_dir))
        self.host.run("systemctl enable --now sivshm-cad", check=True)
        self.bus = HostBus(self.host.leader)
        self.stack.callback(self.bus.close)
        self.progress(f"host: sivshm-cad.service is up after {time.monotonic() - began:.1f} s")

    def configuration(self, name):
        """Folders with the files of one machine, the first on top."""
        layers = [self.overlay / name] if self.overlay and (self.overlay / name).is_dir() else []
        return [*layers, EXAMPLE / name]

    def make_plain(self):
        """What users have today, for comparison: one piece of memory that both guests write."""
        self.plain = shm = Path("/dev/shm") / f"sivshm-plain.{os.getpid()}"
        shm.write_bytes(bytes(self.plain_size))
        os.chmod(shm, 0o666)
        self.stack.callback(shm.unlink, missing_ok=True)

    def plain_args(self):
        return ["-object", f"memory-backend-file,id=plain,mem-path={self.plain},size={self.plain_size},share=on",
                "-device", f"ivshmem-plain,memdev=plain,addr={PLAIN_SLOT}"]

    @staticmethod
    def plain_resource():
        """That memory as a user of plain ivshmem maps it, in both guests."""
        return f"/sys/bus/pci/devices/0000:00:{int(PLAIN_SLOT, 16):02x}.0/resource2"

    def qemu_args(self, vm):
        return shlex.split(self.host.run(["sivshmctl", "qemu-args", vm], check=True)[1])

    def make_guest(self, vm):
        payloads = [images.make_payload(folder) for folder in [*self.configuration(vm), self.destdir]]
        args = self.qemu_args(vm) + self.plain_args() + self.extra_args.get(vm, [])
        return qemu.Guest(vm, self.image, payload=payloads, uid=UIDS[vm], gid=UIDS[vm], args=args,
                          log_dir=self.log_dir, keep=self.keep, machine=self.machine)

    def boot(self):
        for guest in self.guests.values():
            self.stack.enter_context(guest)
        for vm, guest in self.guests.items():
            seconds = guest.wait_up()
            self.progress(f"guest {vm}: systemd is up after {seconds:.1f} s, QEMU runs as uid {guest.uid}")
        self.each(self.start_daemon)

    def start_daemon(self, guest):
        guest.run("systemctl enable --now sivshmd || { journalctl -b --no-pager -u sivshmd; exit 1; }", check=True)
        self.wait_connected(guest)

    def pin(self, own=True):
        """A processor of its own for each guest, or any for all again: where the host's scheduler puts them is no part
        of a figure."""
        processors = sorted(os.sched_getaffinity(0))
        for i, guest in enumerate(self.guests.values()):
            mask = {processors[i % len(processors)]} if own else processors
            for task in os.listdir(f"/proc/{guest.process.pid}/task"):
                with contextlib.suppress(ProcessLookupError):  # a thread that has ended
                    os.sched_setaffinity(int(task), mask)

    @contextlib.contextmanager
    def pinned(self):
        self.pin()
        try:
            yield
        finally:
            self.pin(False)

    def replace_guest(self, vm, start=True):
        """A new QEMU for a VM, whose old one ends; start: the daemon too, by hand."""
        self.guests[vm].close()
        self.guests[vm] = self.make_guest(vm)
        self.stack.enter_context(self.guests[vm]).wait_up()
        if start:
            self.start_daemon(self.guests[vm])

    def each(self, action):
        """Does the same in both guests at once; an error in one is an error here."""
        errors = []

        def work(guest):
            try:
                action(guest)
            except Exception as error:
                errors.append(error)
        threads = [threading.Thread(target=work, args=(guest,)) for guest in self.guests.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]

    def wait_connected(self, guest, timeout=30):
        """Until the guest's daemon has its device and the host has welcomed it."""
        end = time.monotonic() + timeout
        while True:
            status = self.guest_json(guest, "sivshmctl --json status", check=False)
            if status and status.get("host_connected") and status.get("kernel_abi"):
                return status
            if time.monotonic() > end:
                raise AssertionError(f"{guest.name}: not connected to the host: {status}\n"
                                     + guest.run("journalctl -b --no-pager -u sivshmd | tail -40")[1]
                                     + self.host.journal("-u", "sivshm-cad")[-3000:])
            time.sleep(0.2)

    @contextlib.contextmanager
    def host_setting(self, text):
        """Further lines of the host's ca.conf, for the length of the block."""
        path = "/etc/sivshm-ca/ca.conf"
        before = self.host.run(f"cat {path}", check=True)[1]
        self.host.put_file(path, f"{before}\n{text}")
        try:
            self.bus.call("Reload")
            yield
        finally:
            self.host.put_file(path, before)
            self.bus.call("Reload")

    @staticmethod
    def guest_json(guest, command, *, check=True, timeout=60):
        rc, out, err = guest.run(command, timeout)
        if rc and check:
            raise AssertionError(f"{guest.name}: {command}: exit {rc}\n{out}{err}")
        with contextlib.suppress(ValueError):
            return json.loads(out)
        if check:
            raise AssertionError(f"{guest.name}: {command}: not JSON: {out!r} {err!r}")
        return None

    # the host's view

    def channels(self):
        keys = "id state region from from_slot to to_slot ring_size opened_usec".split()
        return [dict(zip(keys, row)) for row in self.bus.call("ListChannels")[0]]

    def wait_channels(self, count, timeout=20):
        """Until exactly *count* channels exist on the host, windows in quarantine included."""
        end = time.monotonic() + timeout
        while True:
            found = self.channels()
            if len(found) == count:
                return found
            if time.monotonic() > end:
                raise AssertionError(f"{len(found)} channels instead of {count}: {found}")
            time.sleep(0.05)

    def wait_channels_gone_at(self, guest, timeout=20):
        """Until a guest's daemon lists no channel any more."""
        self.wait_until(lambda: not self.guest_json(guest, "sivshmctl --json list"),
                        f"no channel at {guest.name}", timeout)

    def wait_until(self, condition, what, timeout=20):
        end = time.monotonic() + timeout
        while not (value := condition()):
            if time.monotonic() > end:
                raise AssertionError(f"timeout: {what}")
            time.sleep(0.05)
        return value

    def counts(self):
        """Everything that a connection takes, wherever it is kept: before and after must be equal."""
        out = {"channels": len(self.channels())}
        for region in self.bus.call("ListRegions")[0]:
            for vm, _, _, granted, quarantine in region[3]:
                out[f"{vm} granted"], out[f"{vm} quarantine"] = granted, quarantine
        pid = self.host.run("systemctl show -P MainPID sivshm-cad", check=True)[1].strip()
        out["cad fds"] = len(self.host.run(f"ls /proc/{pid}/fd", check=True)[1].split())
        for vm, guest in self.guests.items():
            out[f"{vm} fds"] = len(guest.run("ls /proc/$(systemctl show -P MainPID sivshmd)/fd",
                                             check=True)[1].split())
            out[f"{vm} objects"] = len(self.guest_json(guest, "sivshmctl --json list"))
        return out

    def settled(self):
        """counts() once they stand still, with no channel left."""
        self.wait_channels(0)
        end, last = time.monotonic() + 15, None
        while time.monotonic() < end:
            now = self.counts()
            if now == last:
                return now
            last = now
            time.sleep(0.3)
        raise AssertionError(f"counts do not settle: {last}")
