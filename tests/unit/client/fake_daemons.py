#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""org.sivshm1 and org.sivshm.ca1 on a private bus, from their XML, with channels of fake-kernel.h.

  fake_daemons.py FOLDER XML_FOLDER

Both ends of a channel are clients of this one daemon. A peer "error/NAME" is refused with org.sivshm1.Error.NAME; a
listener "ends-NAME" has its Accept calls answered with it.
"""

import os
import pathlib
import socket
import struct
import sys

import gi

gi.require_version("Gio", "2.0")
from gi.repository import Gio, GLib  # noqa: E402

PROPERTIES = {
    "Version": ("s", "0"), "VM": ("s", "here"), "TrustDomain": ("s", "test"), "HostConnected": ("b", True),
    "KernelABI": ("u", 1), "Sections": ("a(ssbtsb)", [("cockpit", "here", True, 1 << 24, "write-back", True)]),
    "Certificates": ("a(ssst)", [("a", "spiffe://test/vm/here/service/a", "01", 1700000000)]),
}
HOST_ANSWERS = {
    "ListVMs": ("(a(subbuuuuasb))", ([("rtos", 61001, True, True, 3, 3, 1, 256, ["sensor"], False)],)),
    "ListRegions": ("(a(stua(subtt)))", ([("cockpit", 1 << 24, 8, [("rtos", 1, True, 4096, 0), ("ivi", 2, False, 0, 8192)]),
                                          ("other", 1 << 20, 2, [])],)),
    "ListChannels": ("(a(ssssusutt))", ([("00ff" * 8, "active", "cockpit", "rtos/sensor", 1, "ivi/dashboard", 2, 65536,
                                          1700000000000000)],)),
    "ListCertificates": ("(a(ssttb))", ([("0a", "spiffe://test/vm/rtos/service/sensor", 1700000000, 1700003600, False)],)),
    "GetQemuArguments": ("(as)", (["-device", "ivshmem-plain,memdev=a b", "it's"],)),
    "GetLibvirtXML": ("(s)", ("<shmem/>\n",)),
    "RevokeChannel": None, "RevokeService": None, "RevokeVM": None, "Restore": None, "Reload": None,
}


class Fake:
    def __init__(self, folder, xml_folder):
        self.folder, self.xml = pathlib.Path(folder), pathlib.Path(xml_folder)
        self.bus = Gio.bus_get_sync(Gio.BusType.SESSION, None)
        self.n = 0
        self.waiting = {}   # service -> ends of connections that nobody has accepted
        self.accepts = {}   # service -> Accept calls that wait
        guest = Gio.DBusNodeInfo.new_for_xml((self.xml / "org.sivshm1.xml").read_text())
        host = Gio.DBusNodeInfo.new_for_xml((self.xml / "org.sivshm.ca1.xml").read_text())
        self.listener_interface = guest.lookup_interface("org.sivshm1.Listener")
        self.register("/org/sivshm1", guest.lookup_interface("org.sivshm1.Manager"), self.on_manager, self.get_property)
        self.register("/org/sivshm/ca1", host.lookup_interface("org.sivshm.ca1.Manager"), self.on_host, None)
        for name in ("org.sivshm.ca1", "org.sivshm1"):
            Gio.bus_own_name_on_connection(self.bus, name, Gio.BusNameOwnerFlags.NONE, None, None)

    def register(self, path, interface, on_call, on_get):
        self.bus.register_object(path, interface, lambda *a: on_call(a[4], a[5].unpack(), a[6], path), on_get, None)

    @staticmethod
    def get_property(_connection, _sender, _path, _interface, name):
        return GLib.Variant(*PROPERTIES[name])

    def on_manager(self, method, args, invocation, _path):
        if method == "Connect":
            self.connect(args, invocation)
        elif method == "Listen":
            self.listen(args, invocation)
        elif method == "ListChannels":
            row = ("/org/sivshm1/channel/1", 3, 7, "a", "far/b", "active", 0, "", 65536)
            invocation.return_value(GLib.Variant("(a(ouusssust))", ([row],)))
        elif method == "ListListeners":
            invocation.return_value(GLib.Variant("(a(osusuu))", ([],)))
        elif method == "Explain":
            invocation.return_value(GLib.Variant("(bs)", (args[1] != "far/evil", "/etc/sivshm/policy.d/a.conf:3")))
        else:
            invocation.return_value(None)

    def on_host(self, method, args, invocation, _path):
        if method == "ExplainPolicy":
            invocation.return_value(GLib.Variant("(bs)", (False, "no rule names it")))
        elif args and args[0] == "nobody":
            invocation.return_dbus_error("org.sivshm.ca1.Error.NoSuchVM", "no VM nobody")
        else:
            answer = HOST_ANSWERS[method]
            invocation.return_value(GLib.Variant(*answer) if answer else None)

    def connect(self, args, invocation):
        service, peer, options = args
        vm, _, name = peer.partition("/")
        if vm == "error":
            invocation.return_dbus_error(f"org.sivshm1.Error.{name}", "because the test says so")
        elif name not in self.accepts:
            invocation.return_dbus_error("org.sivshm1.Error.PeerNotListening", f"nobody listens as {peer}")
        else:
            near, far = self.make_channel(service or "only", name, options.get("RingSize", 65536))
            self.answer(invocation, near, service or "only", peer)
            self.waiting[name].append((far, service or "only"))
            self.match(name)

    def listen(self, args, invocation):
        service = args[0]
        self.n += 1
        path = f"/org/sivshm1/listener/{self.n}"
        if service not in self.accepts:
            self.waiting[service] = []
        self.accepts[service] = []
        self.register(path, self.listener_interface,
                      lambda method, _args, call, _path: self.on_listener(service, method, call), None)
        invocation.return_value(GLib.Variant("(o)", (path,)))

    def on_listener(self, service, method, invocation):
        assert method == "Accept"
        if service.startswith("ends-"):
            invocation.return_dbus_error(f"org.sivshm1.Error.{service[5:]}", "because the test says so")
            return
        self.accepts[service].append(invocation)
        self.match(service)

    def match(self, service):
        while self.accepts[service] and self.waiting[service]:
            end, peer = self.waiting[service].pop(0)
            self.answer(self.accepts[service].pop(0), end, service, f"far/{peer}")

    def answer(self, invocation, end, local, peer):
        vm, _, name = peer.partition("/")
        identity = {"Peer": GLib.Variant("s", peer), "Local": GLib.Variant("s", local),
                    "PeerSPIFFE": GLib.Variant("s", f"spiffe://test/vm/{vm}/service/{name}"),
                    "Steps": GLib.Variant("a(st)", [("caller", 1)])}
        fds = Gio.UnixFDList.new()
        handle = fds.append(end.fileno())
        end.close()
        invocation.return_value_with_unix_fd_list(
            GLib.Variant("(hoa{sv})", (handle, "/org/sivshm1/channel/1", identity)), fds)

    def make_channel(self, left, right, ring):
        self.n += 1
        sides = [self.folder / f"sivshm-fake-{self.n}.{side}" for side in (0, 1)]
        names = [(left, "far", right), (right, "far", left)]
        for path, (local, peer_vm, peer) in zip(sides, names):
            info = struct.pack("=IIQQQQII16s56s48s56s32x", 1, 1, ring, ring, 4096 + 2 * ring, 4096 + 2 * ring, self.n, 1,
                               b"id", local.encode(), peer_vm.encode(), peer.encode())
            pathlib.Path(f"{path}.info").write_bytes(info)
            with open(f"{path}.window", "wb") as f:
                f.truncate(4096 + ring)
        listener, connector = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        listener.bind(str(sides[0]))
        connector.bind(str(sides[1]))
        listener.listen(1)
        connector.connect(str(sides[0]))
        end, _ = listener.accept()
        listener.close()
        return end, connector


if __name__ == "__main__":
    os.umask(0o077)
    fake = Fake(sys.argv[1], sys.argv[2])
    print("ready", flush=True)
    GLib.MainLoop().run()
