# SPDX-License-Identifier: LGPL-2.1-or-later
"""Root in a guest of the World speaks the control protocol itself, past sivshmd.

    with forge.port(world, "rtos") as port:         # sivshmd of rtos is stopped meanwhile
        port.call("Listen", service="sensor")

The bytes go in and out at /dev/virtio-ports/org.sivshm.control.0 of that guest: a process of root's in it
joins that device to a further port of the guest, whose other end is the test's.
"""

import base64
import contextlib
import datetime
import json
import os
import socket
import sys
import time

from . import paths
from .world import RUNTIME

sys.path.insert(0, str(paths.ROOT / "tests/integration"))
import fake_vm  # noqa: E402
from fake_vm import Daemon, RpcError, Table, b64  # noqa: E402, F401

NAME = "org.sivshm.forge.0"
DOMAIN = "cockpit.example"
EXPORTER_LABEL = b"EXPORTER-sivshm-channel-v1"

JOIN = r"""
import os, select, sys
ends = [os.open(f"/dev/virtio-ports/{name}", os.O_RDWR) for name in sys.argv[1:3]]
print("joined", flush=True)
poll = select.poll()
for fd in ends:
    poll.register(fd, select.POLLIN)
while True:
    for fd, event in poll.poll():
        data = os.read(fd, 1 << 16)
        if not data:
            sys.exit("hung up")
        other = ends[1 - ends.index(fd)]
        while data:
            data = data[os.write(other, data):]
"""

# For one connection: what goes to the host is kept.
RECORD = r"""
import os, select, socket, sys
device, path, log = sys.argv[1:4]
server = socket.socket(socket.AF_UNIX)
server.bind(path)
os.chmod(path, 0o666)
server.listen(1)
print("ready", flush=True)
sock, _ = server.accept()
port, kept = os.open(device, os.O_RDWR), open(log, "wb", 0)
while True:
    for fd in select.select([sock, port], [], [])[0]:
        data = os.read(fd if fd == port else sock.fileno(), 1 << 16)
        if not data:
            sys.exit("hung up")
        if fd == port:
            sock.sendall(data)
        else:
            kept.write(data)
            while data:
                data = data[os.write(port, data):]
"""


def unb64(text):
    return base64.b64decode(text)


def spiffe(name):
    return fake_vm.spiffe(name, DOMAIN)


class Handshake(fake_vm.Handshake):
    domain = DOMAIN


def further_port(guest):
    """Our end of a port that is plugged into the running guest; stays for its life."""
    if not getattr(guest, "forge_socket", None):
        path = guest.folder / "forge.sock"
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
            os.chown(path, guest.uid, guest.uid)
            server.listen(1)
            guest.monitor("chardev-add", id="forge", backend={"type": "socket", "data": {
                "addr": {"type": "unix", "data": {"path": str(path)}}, "server": False}})
            guest.forge_socket, _ = server.accept()
        guest.device_add("virtserialport", "forge-port", bus="vser.0", chardev="forge", name=NAME)
        guest.put_file("/run/join.py", JOIN)
    return guest.forge_socket


def drain(sock):
    """What a former use left."""
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while sock.recv(1 << 16):
            pass
    sock.setblocking(True)


class Port(Daemon):
    """sivshmd's place on the control port, taken by root."""

    def __init__(self, world, vm, sock):
        self.world, self.name, self.guest, self.sock = world, vm, world.guests[vm], sock
        self.buffer, self.inbox = b"", []
        self.next_id = time.monotonic_ns() // 1000  # never an id of the daemon that was here before
        self.daemon = self  # as class Handshake wants its VMs

    @property
    def table(self):
        return Table(RUNTIME / "vm" / self.name / "grants", self.guest.uid)

    def refused(self, method, timeout=5, **params):
        """The code of the error that a request is answered by; 0 when it is not refused."""
        try:
            self.call(method, timeout, **params)
        except RpcError as error:
            self.error = error.text
            return error.code
        return 0

    def certificate(self, service, key=None, csr=None):
        """A certificate that the host issues to this VM: (key, PEM)."""
        key = key or new_key()
        return key, self.call("IssueCertificate", service=service, csr=csr or make_csr(key))["certificate"]


@contextlib.contextmanager
def port(world, vm, hello=True):
    """The control port of a guest in the hands of its root. Nobody may call sivshmd there: the bus would start it."""
    guest = world.guests[vm]
    guest.run("systemctl stop sivshmd", check=True)
    try:
        with joined(world, guest) as sock:
            forged = Port(world, vm, sock)
            if hello:
                forged.welcome = forged.hello()
            yield forged
    finally:
        guest.run("systemctl start sivshmd", 180, check=True)
        world.wait_connected(guest)


@contextlib.contextmanager
def joined(world, guest):
    sock = further_port(guest)
    world.wait_until(lambda: guest.run(f"test -e /dev/virtio-ports/{NAME}")[0] == 0, "the port is there")
    drain(sock)
    pid = guest.run_bg(["/usr/bin/python3", "/run/join.py", "org.sivshm.control.0", NAME])
    try:
        yield sock
    finally:
        guest.run(f"kill {pid}")
        rc, _, err = guest.wait(pid)
        assert rc == -15, f"the joining process ended by itself: {err}"


def record(world, vm, action):
    """The frames that the real sivshmd of a guest sends while `action` is done, from its start on."""
    guest, unit = world.guests[vm], "/run/systemd/system/sivshmd.service.d/record.conf"
    guest.put_file("/run/record.py", RECORD)
    guest.run("systemctl stop sivshmd; rm -f /run/record.sock; mkdir -p " + os.path.dirname(unit), check=True)
    guest.put_file(unit, "[Service]\nExecStart=\n"
                         "ExecStart=/usr/libexec/sivshm/sivshmd --no-module --port=/run/record.sock\n")
    pid = guest.run_bg(["/usr/bin/python3", "/run/record.py", "/dev/virtio-ports/org.sivshm.control.0",
                        "/run/record.sock", "/run/record.log"])
    try:
        world.wait_until(lambda: guest.run("test -S /run/record.sock")[0] == 0, "the recorder is ready")
        guest.run("systemctl daemon-reload; systemctl start sivshmd", check=True)
        world.wait_connected(guest)
        action()
        world.wait_channels(0)
    finally:
        guest.run(f"kill {pid}; rm {unit}; systemctl daemon-reload; systemctl restart sivshmd", check=True)
        guest.wait(pid)
        world.wait_connected(guest)
    return [json.loads(frame) for frame in guest.get_file("/run/record.log").split(b"\0") if frame]


# certificates and TLS as root makes them, with whatever library it likes

def new_key():
    from cryptography.hazmat.primitives.asymmetric import ec
    return ec.generate_private_key(ec.SECP256R1())


def make_csr(key, *extensions, subject=""):
    """A request with any extensions: (extension, critical)."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    name = [x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)] if subject else []
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(name))
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def self_made(service):
    """A certificate of that name, right in all but its CA: (key, PEM)."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    key, authority = new_key(), new_key()
    now = datetime.datetime.utcnow()
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sivshm CA")])
    usage = x509.KeyUsage(digital_signature=True, key_cert_sign=False, crl_sign=False, content_commitment=False,
                          key_encipherment=False, data_encipherment=False, key_agreement=False,
                          encipher_only=False, decipher_only=False)
    both = [x509.ExtendedKeyUsageOID.SERVER_AUTH, x509.ExtendedKeyUsageOID.CLIENT_AUTH]
    leaf = (x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(issuer).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe(service))]), True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), True).add_extension(usage, True)
            .add_extension(x509.ExtendedKeyUsage(both), False).sign(authority, hashes.SHA256()))
    return key, leaf.public_bytes(serialization.Encoding.PEM).decode()


class TlsClient:
    """The connecting side's TLS, without any of sivshmd's checks."""

    def __init__(self, key, chain):
        from OpenSSL import SSL, crypto
        end = "-----END CERTIFICATE-----\n"
        first, *rest = [part + end for part in chain.split(end)[:-1]]
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        SSL._lib.SSL_CTX_clear_options(context._context, 1 << 20)  # SSL_OP_ENABLE_MIDDLEBOX_COMPAT
        context.use_privatekey(crypto.PKey.from_cryptography_key(key))
        context.use_certificate(crypto.load_certificate(crypto.FILETYPE_PEM, first))
        for certificate in rest:
            context.add_extra_chain_cert(crypto.load_certificate(crypto.FILETYPE_PEM, certificate))
        self.connection = SSL.Connection(context, None)
        self.connection.set_connect_state()
        self.again = SSL.WantReadError

    def step(self, flight=b""):
        if flight:
            self.connection.bio_write(flight)
        with contextlib.suppress(self.again):
            self.connection.do_handshake()
        return self.connection.bio_read(1 << 16)

    def exporter(self, session, source, target, ring):
        context = f"{session}\n{source}\n{target}\n{ring}".encode()
        return self.connection.export_keying_material(EXPORTER_LABEL, 32, context)
