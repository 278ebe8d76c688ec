# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a lying relay has at hand: certificates of every wrong kind, and TLS flights of other versions."""

import base64
import datetime
import os
import socket
import ssl
import subprocess
import tempfile

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

DOMAIN = "test.example"
HOUR = datetime.timedelta(hours=1)
BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


def uri(name, domain=DOMAIN):
    vm, service = name.split("/")
    return f"spiffe://{domain}/vm/{vm}/service/{service}"


def usage(**set_bits):
    bits = dict.fromkeys(("digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
                          "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"), False)
    return x509.KeyUsage(**{**bits, **set_bits})


def new_key():
    return ec.generate_private_key(ec.SECP256R1())


class Authority:
    """A CA whose key is in our hands: sivshm-cad's own (a stolen one), or one that only has its name."""

    def __init__(self, certificate, key):
        self.certificate, self.key = certificate, key

    @classmethod
    def of(cls, certificate_file, key_file):
        return cls(x509.load_pem_x509_certificate(certificate_file.read_bytes()),
                   serialization.load_pem_private_key(key_file.read_bytes(), None))

    def namesake(self):
        """Another CA with the same subject, serial number, times and extensions, but its own key."""
        key, like = new_key(), self.certificate
        builder = x509.CertificateBuilder(like.issuer, like.subject, key.public_key(), like.serial_number,
                                          like.not_valid_before, like.not_valid_after)
        for extension in like.extensions:
            builder = builder.add_extension(extension.value, extension.critical)
        return Authority(builder.sign(key, hashes.SHA256()), key)

    def issue(self, public_key, *names, begins=-HOUR, ends=HOUR, uses=BOTH, ca=False, issuer=None):
        """A leaf as sivshm-cad makes them, but for what is asked otherwise. Names: URIs, general names, or the whole
        extension."""
        now = datetime.datetime.utcnow()
        if not isinstance(names[0], x509.ExtensionType):
            names = [n if isinstance(n, x509.GeneralName) else x509.UniformResourceIdentifier(n) for n in names]
            names = [x509.SubjectAlternativeName(names)]
        builder = (x509.CertificateBuilder(issuer or self.certificate.subject, x509.Name([]), public_key,
                                           x509.random_serial_number(), now + begins, now + ends)
                   .add_extension(x509.BasicConstraints(ca, None), True)
                   .add_extension(usage(digital_signature=True, key_cert_sign=ca), True)
                   .add_extension(x509.ExtendedKeyUsage(uses), False)
                   .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False)
                   .add_extension(names[0], True))
        return builder.sign(self.key, hashes.SHA256())


def pem(*certificates):
    return "".join(c.public_bytes(serialization.Encoding.PEM).decode() for c in certificates)


def key_of(csr):
    return x509.load_pem_x509_csr(csr.encode()).public_key()


# What is offered for `key` in place of the certificate of `name`; `other` is another service of the same VM, `peer`
# the service at the other end.

def other_service(ca, key, name, other, peer):
    return pem(ca.issue(key, uri(other)))


def other_vm(ca, key, name, other, peer):
    return pem(ca.issue(key, uri(peer)))


def same_service_of_other_vm(ca, key, name, other, peer):
    return pem(ca.issue(key, uri(f"{peer.split('/')[0]}/{name.split('/')[1]}")))


def other_domain(ca, key, name, other, peer):
    return pem(ca.issue(key, uri(name, "other.example")))


def longer_name(ca, key, name, other, peer):
    return pem(ca.issue(key, uri(name) + "x"))


def name_and_nul(ca, key, name, other, peer):
    return pem(ca.issue(key, uri(name) + "\0x"))


def name_and_more(ca, key, name, other, peer):
    """The right name, and bytes behind it: an ASN.1 NULL."""
    text = uri(name).encode()
    san = bytes((0x30, len(text) + 2, 0x86, len(text))) + text + b"\x05\x00"
    return pem(ca.issue(key, x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, san)))


def two_names(ca, key, name, other, peer):
    return pem(ca.issue(key, uri(name), uri(other)))


def name_as_dns(ca, key, name, other, peer):
    return pem(ca.issue(key, x509.DNSName(uri(name))))


def expired(ca, key, name, other, peer):
    return pem(ca.issue(key, uri(name), begins=-2 * HOUR, ends=-HOUR / 60))


def not_yet_valid(ca, key, name, other, peer):
    return pem(ca.issue(key, uri(name), begins=HOUR / 30, ends=2 * HOUR))


def other_ca(ca, key, name, other, peer):
    return pem(ca.namesake().issue(key, uri(name)))


def other_ca_and_its_root(ca, key, name, other, peer):
    wrong = ca.namesake()
    return pem(wrong.issue(key, uri(name)), wrong.certificate)


def by_a_service(ca, key, name, other, peer):
    """Signed with the key of another service of that VM, whose certificate is in the chain."""
    own = new_key()
    service = Authority(ca.issue(own.public_key(), uri(other)), own)
    return pem(service.issue(key, uri(name)), service.certificate)


def of_a_ca(ca, key, name, other, peer):
    return pem(ca.issue(key, uri(name), ca=True))


def for_one_side(ca, key, name, other, peer):
    """Good for the side that the other end has."""
    side = ExtendedKeyUsageOID.SERVER_AUTH if name.startswith("a/") else ExtendedKeyUsageOID.CLIENT_AUTH
    return pem(ca.issue(key, uri(name), uses=(side,)))


def for_other_key(ca, key, name, other, peer):
    return pem(ca.issue(new_key().public_key(), uri(name)))


# flights

RECORD_ALERT, RECORD_HANDSHAKE, RECORD_DATA = 21, 22, 23


def decoded(text):
    return base64.b64decode(text)


def encoded(data):
    return base64.b64encode(data).decode()


def record(kind, data):
    return bytes([kind, 3, 3]) + len(data).to_bytes(2, "big") + data


def alert(code, fatal=True):
    return record(RECORD_ALERT, bytes([2 if fatal else 1, code]))


def client(**settings):
    """(object, input, output) of a TLS client that checks nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return prepare(context, False, **settings)


def prepare(context, is_server, version=None, curve=None):
    if version:
        context.minimum_version = context.maximum_version = version
    if curve:
        context.set_ecdh_curve(curve)
    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    return context.wrap_bio(into, out, server_side=is_server), into, out


def step(tls, into, out, data=b""):
    into.write(data)
    try:
        tls.do_handshake()
    except ssl.SSLError:
        pass  # wants more, or has said why not
    return out.read()


def client_hello(**settings):
    return step(*client(**settings))


def hello_without_share():
    """Offers X25519, but a share of P-256 only: what asks for a HelloRetryRequest."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "s")
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path)
            server.listen(1)
            process = subprocess.Popen(["openssl", "s_client", "-unix", path, "-tls1_3", "-groups", "P-256:X25519"],
                                       stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                sock, _ = server.accept()
                with sock:
                    return sock.recv(1 << 14)
            finally:
                process.kill()
                process.wait()


class Server:
    """A TLS 1.2 server for one service, that asks for the client's certificate."""

    def __init__(self, ca, name, version=ssl.TLSVersion.TLSv1_2):
        key = new_key()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.NamedTemporaryFile() as f:
            f.write(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                      serialization.NoEncryption()))
            f.write(pem(ca.issue(key.public_key(), uri(name))).encode())
            f.flush()
            self.context.load_cert_chain(f.name)
        self.context.load_verify_locations(cadata=pem(ca.certificate))
        self.context.verify_mode = ssl.CERT_REQUIRED
        self.version = version

    def answer(self, hello):
        """Its flight; for a hello that does not offer this version, the flight for one that does."""
        out = step(*prepare(self.context, True, self.version), hello)
        if out[:1] != bytes([RECORD_HANDSHAKE]):
            out = bare(step(*prepare(self.context, True, self.version), client_hello(version=self.version)))
        return out


def bare(answer):
    """A server's flight with no extension in ServerHello: none that the client did not ask for."""
    data, rest = answer[5:5 + int.from_bytes(answer[3:5], "big")], answer[5 + int.from_bytes(answer[3:5], "big"):]
    end = 4 + int.from_bytes(data[1:4], "big")
    session = 4 + 2 + 32
    kept = data[4:session + 1 + data[session] + 3]  # version, random, session id, suite, compression
    return record(RECORD_HANDSHAKE, data[:1] + len(kept).to_bytes(3, "big") + kept + data[end:]) + rest
