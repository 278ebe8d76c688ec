# SPDX-License-Identifier: LGPL-2.1-or-later
"""What one VM may say on its control port, and what it gets for saying something else."""

import base64
import json
import os
import subprocess
import time

import pytest

pytest.importorskip("gi")

from cryptography import x509  # noqa: E402
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec, rsa  # noqa: E402
from cryptography.x509.oid import NameOID  # noqa: E402

from cad import CONFIG, UID_A, UID_B, wait_for  # noqa: E402
from cad_fixtures import cad, cad_binary, pair, private_bus  # noqa: E402, F401
from fake_vm import Daemon, RpcError, Vm, b64, connect  # noqa: E402

BOOT = "00000000-0000-4000-8000-000000000000"
NOT_AUTHORIZED, QUOTA, NOT_READY = -32001, -32007, -32010
NO_METHOD, BAD_PARAMS = -32601, -32602


def refused(code, action, word=""):
    with pytest.raises(RpcError) as caught:
        action()
    assert caught.value.code == code, caught.value
    assert word in caught.value.text, caught.value
    return caught.value.text


def make_csr(key=None):
    key = key or ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ignored")])).sign(key, hashes.SHA256())
    return csr.public_bytes(serialization.Encoding.PEM).decode()


def test_nothing_before_hello(pair):
    cad, a, _ = pair
    a.daemon.close()
    wait_for(lambda: not cad.vms()["a"]["control"], what="control port is free")
    a.daemon = daemon = Daemon(a.folder / "control.sock", UID_A, hello=False)
    for method in ("IssueCertificate", "Listen", "Unlisten", "Connect", "Confirm", "Cancel", "Released"):
        refused(NOT_READY, lambda: daemon.call(method), "Hello")
    refused(NO_METHOD, lambda: daemon.call("Nonsense"), "Nonsense")
    refused(-32000, lambda: daemon.call("Hello", version=2, nonce="00" * 16, bootId=BOOT, channels=[]), "version 1")
    refused(BAD_PARAMS, lambda: daemon.call("Hello", version=1))
    assert not cad.vms()["a"]["hello"]
    daemon.hello()
    assert cad.vms()["a"]["hello"]


def test_welcome(pair):
    cad, a, b = pair
    one, two = a.daemon.welcome, a.daemon.hello()
    assert (one["vm"], one["trustDomain"], one["version"]) == ("a", "test.example", 1)
    assert abs(one["timeUSec"] / 1e6 - time.time()) < 10
    assert len(base64.b64decode(one["random"])) == 64 and one["random"] != two["random"]
    assert one["trustBundle"] == cad.property("TrustBundle")
    assert cad.property("TrustDomain") == "test.example"
    assert b.daemon.welcome["vm"] == "b"


def test_bad_params(pair):
    _, a, _ = pair
    refused(BAD_PARAMS, lambda: a.daemon.call("Listen", service="Sensor"))
    a.daemon.call("Listen", service="sensor")  # ends the row of bad ones
    refused(BAD_PARAMS, lambda: a.daemon.call("Listen", service="sensor", extra=1))
    refused(BAD_PARAMS, lambda: a.daemon.call("Released", slot=-1, generation=1))
    refused(BAD_PARAMS, lambda: a.daemon.call("Confirm", session="00"))
    assert a.daemon.call("Released", slot=5, generation=7) == {}  # an old one: confirmed long ago


def test_listeners(pair):
    cad, a, _ = pair
    refused(NOT_AUTHORIZED, lambda: a.daemon.call("Listen", service="dashboard"), "Services=")
    a.daemon.call("Listen", service="sensor")
    a.daemon.call("Listen", service="sensor")
    assert cad.vms()["a"]["listeners"] == ["sensor"]
    a.daemon.call("Unlisten", service="sensor")
    a.daemon.call("Unlisten", service="sensor")
    assert cad.vms()["a"]["listeners"] == []
    a.daemon.call("Listen", service="camera")
    a.daemon.hello()
    assert cad.vms()["a"]["listeners"] == []


def test_listener_quota(cad):
    cad.configure({**CONFIG, "ca.conf": "[Limits]\nListenersPerVM=1\n"})
    cad.start()
    a = Vm(cad, "a", UID_A).boot()
    a.daemon.call("Listen", service="sensor")
    refused(QUOTA, lambda: a.daemon.call("Listen", service="camera"), "ListenersPerVM=1")
    a.daemon.call("Unlisten", service="sensor")
    a.daemon.call("Listen", service="camera")
    a.close()


def test_certificate(pair, tmp_path):
    cad, a, _ = pair
    key = ec.generate_private_key(ec.SECP256R1())
    result = a.daemon.call("IssueCertificate", service="sensor", csr=make_csr(key))
    leaf = x509.load_pem_x509_certificate(result["certificate"].encode())
    assert leaf.public_key() == key.public_key() or \
        leaf.public_key().public_numbers() == key.public_key().public_numbers()
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.UniformResourceIdentifier("spiffe://test.example/vm/a/service/sensor")]
    assert not list(leaf.subject)
    assert abs(result["notAfter"] - time.time() - 3600) < 60
    (tmp_path / "ca").write_text(a.daemon.welcome["trustBundle"])
    (tmp_path / "leaf").write_text(result["certificate"])
    for purpose in ("sslclient", "sslserver"):
        subprocess.run(["openssl", "verify", "-purpose", purpose, "-x509_strict", "-CAfile", tmp_path / "ca",
                        tmp_path / "leaf"], check=True, capture_output=True)
    (entry,) = cad.call("ListCertificates")[0]
    assert entry[0] == f"{leaf.serial_number:040x}"
    assert entry[1:] == ("spiffe://test.example/vm/a/service/sensor", entry[2], result["notAfter"], False)


def test_certificate_refusals(pair):
    _, a, _ = pair
    refused(NOT_AUTHORIZED, lambda: a.daemon.call("IssueCertificate", service="dashboard", csr=make_csr()))
    refused(NOT_AUTHORIZED, lambda: a.daemon.call("IssueCertificate", service="root", csr=make_csr()))
    weak = make_csr(rsa.generate_private_key(65537, 2048))
    refused(BAD_PARAMS, lambda: a.daemon.call("IssueCertificate", service="sensor", csr=weak), "P-256")
    refused(BAD_PARAMS, lambda: a.daemon.call("IssueCertificate", service="sensor", csr="rubbish"))


def test_certificate_quota(cad):
    cad.configure({**CONFIG, "ca.conf": "[Limits]\nCertificatesPerMinute=3\n"})
    cad.start()
    a, b = Vm(cad, "a", UID_A).boot(), Vm(cad, "b", UID_B).boot()
    for _ in range(3):
        a.daemon.call("IssueCertificate", service="sensor", csr=make_csr())
    refused(QUOTA, lambda: a.daemon.call("IssueCertificate", service="sensor", csr=make_csr()))
    b.daemon.call("IssueCertificate", service="dashboard", csr=make_csr())  # others go on
    a.close(), b.close()


# hostile bytes

def dropped(daemon):
    """The host hung up; what it said before does not matter."""
    try:
        while daemon.fill(5):
            pass
    except EOFError:
        return True
    return False


def test_row_of_garbage_ends_the_connection(pair):
    cad, a, b = pair
    a.daemon.write(b"garbage\0" * 16 + b'{"jsonrpc":"2.0","id":9,"method":"Unlisten","params":{"service":"sensor"}}\0')
    assert a.daemon.answer(9) == {}
    a.daemon.write(b"garbage\0" * 16)
    a.daemon.call("Unlisten", service="sensor")
    a.daemon.write(b"garbage\0" * 17)
    assert dropped(a.daemon)
    wait_for(lambda: not cad.vms()["a"]["control"], what="a's port is free")
    assert cad.vms()["b"]["hello"]
    a.start_daemon()


@pytest.mark.parametrize("frame", [
    b"x" * (1 << 20),
    b'{"jsonrpc":"2.0","id":1,"method":"Hello","params":' + b"[" * 60000 + b"\0",
    b'{"jsonrpc":"2.0","id":1,"method":"Hello","params":{"a":1,"a":2}}\0',
    b'[{"jsonrpc":"2.0","id":1,"method":"Hello","params":{}}]\0',
    b'{"jsonrpc":"2.0","id":1e400,"method":"Hello","params":{}}\0',
    b'{"jsonrpc":"2.0","id":1,"method":"' + b"H" * 5000 + b'","params":{}}\0',
    b'{"jsonrpc":"2.0","id":1,"result":{}}\0',
    b"\xff\xfe\0", b"\0" * 1000, b"null\0",
], ids=["long", "deep", "twice", "batch", "number", "method", "answer", "utf8", "empty", "null"])
def test_odd_frames_do_no_harm(pair, frame):
    _, a, b = pair
    a.daemon.write(frame)
    b.daemon.call("Listen", service="dashboard")
    a.daemon.write(b"\0")
    a.daemon.inbox.clear()
    a.daemon.call("Listen", service="sensor")


def test_reader_who_does_not_read(pair):
    """Answers pile up to a bound, then the connection ends; memory and the others are safe."""
    cad, a, b = pair
    request = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "Hello",
                          "params": {"version": 1, "nonce": "00" * 16, "bootId": BOOT, "channels": []}})
    a.daemon.sock.settimeout(10)
    with pytest.raises(OSError):
        for _ in range(20000):
            a.daemon.sock.sendall(request.encode() + b"\0")
    b.daemon.call("Listen", service="dashboard")
    memory = int(next(line for line in open(f"/proc/{cad.pid}/status") if line.startswith("VmRSS")).split()[1])
    assert memory < 300 * 1024  # KiB; the sanitiser's own is most of it
    a.start_daemon()


def test_one_byte_at_a_time(pair):
    _, a, _ = pair
    for byte in b'{"jsonrpc":"2.0","id":77,"method":"Listen","params":{"service":"sensor"}}\0':
        a.daemon.write(bytes([byte]))
    assert a.daemon.answer(77) == {}


# who may connect

def test_other_users_stay_out(pair):
    cad, a, _ = pair
    for name in ("control.sock", "demo.sock"):
        with pytest.raises(PermissionError):
            connect(a.folder / name, UID_B)


def test_group_is_not_enough(cad):
    """A process that got the VM's group but is another user reaches the socket and is shown the door."""
    cad.start()
    a = Vm(cad, "a", UID_A)
    for name in ("control.sock", "demo.sock"):
        code = ("import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.settimeout(5);"
                "sys.exit(s.recv(1) != b'')")
        done = subprocess.run(["setpriv", f"--reuid={UID_B}", f"--regid={UID_A}", "--clear-groups", "--",
                               "/usr/bin/python3", "-c", code, a.folder / name])
        assert done.returncode == 0
    with pytest.raises(EOFError):  # root is no exception
        Daemon(a.folder / "control.sock", 0, hello=False).fill(5)
    assert not cad.vms()["a"]["control"]


def test_one_control_connection_at_a_time(pair):
    _, a, _ = pair
    second = Daemon(a.folder / "control.sock", UID_A, hello=False)
    assert dropped(second)
    assert a.daemon.hello()["vm"] == "a"


def test_flood_of_hellos(pair):
    """Each is answered, for each may be a new daemon; the journal gets a hundred in ten seconds."""
    cad, a, _ = pair
    for _ in range(300):
        a.daemon.hello()
    assert 100 <= cad.log().count("VM a: daemon said hello") <= 101
    assert cad.vms()["a"]["hello"]


def test_no_descriptor_is_left(pair):
    cad, a, _ = pair
    before = len(os.listdir(f"/proc/{cad.pid}/fd"))
    for _ in range(20):
        a.daemon.close()
        wait_for(lambda: not cad.vms()["a"]["control"], what="control port is free")
        a.start_daemon()
    assert len(os.listdir(f"/proc/{cad.pid}/fd")) == before
    assert cad.store.names().count("C.a") == 1
