# SPDX-License-Identifier: LGPL-2.1-or-later
"""A CA of the administrator's own: a fleet's root, and an intermediate for this host.

The machines stay up over every change of the CA: a restart of the host daemon is all it takes.
"""

import json
import re
import subprocess

import pytest

from lab import story

FOLDER = "/etc/sivshm-ca/pki"
CONFIG = "/etc/sivshm-ca/ca.conf"
DROP_IN = "/run/systemd/system/sivshm-cad.service.d/ca.conf"
CA = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign", "subjectKeyIdentifier=hash"]
SERVICE = ["basicConstraints=critical,CA:FALSE", "keyUsage=critical,digitalSignature"]


class Pki:
    """What an administrator does with the openssl command line. A name is that of a .key and a .pem."""

    KEYS = {"P-384": ["EC", "ec_paramgen_curve:P-384"], "RSA": ["RSA", "rsa_keygen_bits:3072"]}
    NAMES = ("root", "host", "host-rsa", "other", "expired", "service", "narrow", "below")

    def __init__(self, folder):
        self.folder = folder
        self.make("root", "root", CA, 30, "RSA")
        self.make("host", "root", CA, 20)  # the intermediate
        self.make("host-rsa", "root", CA, 20, "RSA")
        self.make("other", "other", CA, 30)
        self.make("expired", "root", CA, -1)
        self.make("service", "root", SERVICE, 20)
        self.make("narrow", "narrow", [CA[0] + ",pathlen:0", *CA[1:]], 30)
        self.make("below", "narrow", CA, 20)

    def openssl(self, *args, check=True):
        done = subprocess.run(["openssl", *map(str, args)], cwd=self.folder, text=True, capture_output=True,
                              stdin=subprocess.DEVNULL)
        if check and done.returncode:
            raise AssertionError(f"openssl {' '.join(map(str, args))}: {done.stderr}")
        return done

    def make(self, name, issuer, extensions, days, kind="P-384"):
        (self.folder / f"{name}.ext").write_text("\n".join(extensions) + "\n")
        algorithm, option = self.KEYS[kind]
        self.openssl("genpkey", "-algorithm", algorithm, "-pkeyopt", option, "-out", f"{name}.key")
        self.openssl("req", "-new", "-key", f"{name}.key", "-subj", f"/O=Fleet/CN={name}", "-out", f"{name}.csr")
        sign = (["-signkey", f"{name}.key"] if name == issuer
                else ["-CA", f"{issuer}.pem", "-CAkey", f"{issuer}.key", "-CAcreateserial"])
        self.openssl("x509", "-req", "-in", f"{name}.csr", *sign, "-days", days, "-extfile", f"{name}.ext",
                     "-out", f"{name}.pem")

    def read(self, name):
        return (self.folder / name).read_text()

    def is_issued_by(self, certificate, issuer):
        """The intermediate itself signed it, and with it the chain ends at the root."""
        (self.folder / "leaf.pem").write_text(certificate)
        partial = self.openssl("verify", "-partial_chain", "-CAfile", f"{issuer}.pem", "leaf.pem", check=False)
        whole = self.openssl("verify", "-CAfile", "root.pem", "-untrusted", f"{issuer}.pem", "leaf.pem", check=False)
        return partial.returncode == 0 and whole.returncode == 0


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    return Pki(tmp_path_factory.mktemp("pki"))


def is_whole(world):
    try:
        vms = world.bus.call("ListVMs")[0]
    except world.bus.glib.Error:
        return False
    return all(control and hello and devices == of for _, _, control, hello, devices, of, *_ in vms)


def restart(world):
    """Returns what systemctl says; no machine may have been lost."""
    rc, _, err = world.host.run("systemctl daemon-reload && systemctl restart sivshm-cad")
    if rc == 0:
        world.wait_until(lambda: is_whole(world), "every machine is back")
        world.each(world.wait_connected)
    return rc, err


def news(world):
    """What the daemon's journal has that the last call did not give."""
    return world.host.run("journalctl -u sivshm-cad -o cat --no-pager --cursor-file=/run/test_own_ca.cursor",
                          check=True)[1]


def bundle(world):
    return json.loads(world.host.run("busctl --json=short get-property org.sivshm.ca1 /org/sivshm/ca1 "
                                     "org.sivshm.ca1.Manager TrustBundle", check=True)[1])["data"]


def peer_certificate(world):
    """Of ivi/dashboard, as rtos/sensor is given it with a channel."""
    out = world.rtos.run(story.as_user(
        "sensor", "/usr/bin/busctl", "--json=short", "call", "org.sivshm1", "/org/sivshm1", "org.sivshm1.Manager",
        "Connect", "ssa{sv}", "sensor", "ivi/dashboard", "0"), check=True)[1]
    identity = json.loads(out)["data"][2]
    assert identity["PeerSPIFFE"]["data"] == "spiffe://cockpit.example/vm/ivi/service/dashboard"
    return identity["Certificate"]["data"]


@pytest.fixture
def administrator(world, pki):
    """Puts the PKI into the host, as root would; the CA of before is back at the end, and everybody connected."""
    world.host.run(f"install -d -m 700 {FOLDER}", check=True)
    for name in pki.NAMES:
        world.host.put_file(f"{FOLDER}/{name}.key", pki.read(f"{name}.key"), 0o600)
        world.host.put_file(f"{FOLDER}/{name}.pem", pki.read(f"{name}.pem"))
    before, config = bundle(world), world.host.run(f"cat {CONFIG}", check=True)[1]
    news(world)
    yield config
    world.host.run(f"rm -rf {FOLDER} {DROP_IN}", check=True)
    world.host.put_file(CONFIG, config)
    assert restart(world)[0] == 0
    assert bundle(world) == before
    with story.echo(world):
        story.connect_many(world, 1)
    world.wait_channels(0)


def by_files(world, config, key, certificate, root):
    keys = {"KeyFile": key and f"{FOLDER}/{key}.key", "CertificateFile": certificate and f"{FOLDER}/{certificate}.pem",
            "BundleFile": root and f"{FOLDER}/{root}.pem"}
    lines = "".join(f"{key}={value}\n" for key, value in keys.items() if value)
    world.host.put_file(CONFIG, config.rstrip() + "\n" + lines)


def by_credentials(world, config, key, certificate, root):
    names = {"ca.key": key and f"{key}.key", "ca.crt": certificate and f"{certificate}.pem",
             "ca.bundle": root and f"{root}.pem"}
    lines = "".join(f"LoadCredential={name}:{FOLDER}/{file}\n" for name, file in names.items() if file)
    world.host.run(f"mkdir -p {DROP_IN.rpartition('/')[0]}", check=True)
    world.host.put_file(DROP_IN, "[Service]\n" + lines)


GIVE = {"files": by_files, "credentials": by_credentials}


@pytest.mark.parametrize("way, name", [("files", "host"), ("credentials", "host"), ("files", "host-rsa")])
def test_intermediate(world, pki, administrator, way, name):
    """A channel that is open goes on; the next one has certificates that the intermediate signed."""
    story.restart_demo_services(world)
    story.wait_event(world, world.rtos, "sensor", "connected")
    old = story.running_channel(world)
    GIVE[way](world, administrator, name, name, "root")
    assert restart(world) == (0, "")
    assert bundle(world).strip() == pki.read("root.pem").strip()
    assert [c["id"] for c in world.channels()] == [old["id"]]
    facts = story.stream(world, messages=200)
    assert facts["identities"] == {"rtos/sensor": "spiffe://cockpit.example/vm/rtos/service/sensor",
                                   "ivi/dashboard": "spiffe://cockpit.example/vm/ivi/service/dashboard"}
    certificate = peer_certificate(world)
    assert pki.is_issued_by(certificate, name) and not pki.is_issued_by(certificate, "other")
    story.stop_demo_services(world)


REFUSALS = {
    "expired": (("expired", "expired", "root"), r"expired\.pem: .*root\.pem: certificate has expired .*CN=expired"),
    "other key": (("root", "host", "root"), r"root\.key and the first certificate of .*host\.pem do not belong together"),
    "no CA": (("service", "service", "root"), r"service\.pem: .*not that of a CA"),
    "other root": (("host", "host", "other"), r"host\.pem: .*does not verify by .*other\.pem: unable to get local issuer certificate"),
    "forbidden from above": (("below", "below", "narrow"), r"below\.pem: .*path length constraint exceeded"),
    "no root": (("host", "host", None), r"host\.pem: the CA is an intermediate: BundleFile= .*ca\.bundle"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(world, administrator, figures, case):
    """The journal says which file and why, without a flood; machines are kept until it is mended."""
    files, text = REFUSALS[case]
    by_files(world, administrator, *files)
    rc, err = restart(world)
    assert rc != 0 and "journalctl -xeu sivshm-cad" in err
    told = [line for line in news(world).splitlines() if FOLDER in line]
    assert len(told) == 1 and re.search(text, told[0])
    figures["text"] = told[0]


@pytest.mark.parametrize("missing", ["ca.key", "ca.crt"])
def test_half_of_the_credentials(world, administrator, missing):
    """A misspelt name must not end in a CA of the daemon's own making."""
    by_credentials(world, administrator, missing != "ca.key" and "host", missing != "ca.crt" and "host", "root")
    assert restart(world)[0] != 0
    assert f"/sivshm-cad.service/{missing}: No such file" in news(world)


def test_key_that_others_can_read(world, administrator):
    world.host.run(f"chmod 640 {FOLDER}/host.key", check=True)
    by_files(world, administrator, "host", "host", "root")
    assert restart(world)[0] != 0
    assert f"{FOLDER}/host.key: others than its owner may use it; chmod 0600 it" in news(world)


def test_mended_without_a_start(world, administrator):
    """The daemon tries again by itself, at a pace that leaves the journal readable."""
    by_files(world, administrator, "root", "host", "root")
    assert restart(world)[0] != 0
    world.wait_until(lambda: news(world).count("do not belong together") >= 1, "a second try", 10)
    by_files(world, administrator, "host", "host", "root")
    world.wait_until(lambda: is_whole(world), "it comes up by itself", 10)
    assert world.host.run("systemctl show -P ActiveState sivshm-cad")[1].strip() == "active"
