# SPDX-License-Identifier: LGPL-2.1-or-later
"""Root in a guest stops sivshmd and speaks the control protocol itself: frames that sivshmd would never send.

Whatever root says, it says as its own VM. Each case ends with the tables of both VMs as they were, and with
everything given back.
"""

import uuid

import pytest
from cryptography import x509

from lab import forge, grants, mutant, story, swap
from lab.attack import ROOT, attack
from lab.forge import Handshake, RpcError, b64
from lab.mutant import Edit

NOT_AUTHORIZED, BY_HOST, FAILED, QUOTA = -32001, -32002, -32006, -32007
TIMED_OUT, NO_OBJECT = -32011, -32014
NO_METHOD, BAD_PARAMS = -32601, -32602
RING = 4096
MALFORMED = ["ivi/dashboard", "../dashboard", "Dashboard", "", "x" * 56, ["sensor"]]


def used(world):
    """What is there after the right ones have connected, which leaves a certificate at each end."""
    with story.echo(world):
        story.connect_many(world, 1)
    return world.settled()


@pytest.fixture(scope="module")
def baseline(shared_world):
    return used(shared_world)


@pytest.fixture(autouse=True)
def given_back(world, baseline):
    yield
    world.wait_until(lambda: not grants.active("rtos") and not grants.active("ivi"), "no grant is left")
    assert used(world) == baseline


# Each of these checks stops another of the attacks below; one build without any of them serves most controls.
BROKEN = [
    Edit("src/sivshm-cad/policy.c", "if (!vm_config_has_service(vm, service->service))", "if (0)"),
    Edit("src/sivshm-cad/policy.c", "rule = config_find_rule(config, from, to);", "rule = config->rules;"),
    Edit("src/sivshm-cad/session-relay.c", "!s || s->from_vm != vm || s->state", "!s || s->state"),
    Edit("src/sivshm-cad/session-relay.c", "CRYPTO_memcmp(finished.exporter, s->exporter, sizeof(s->exporter)) != 0",
         "0")]


@pytest.fixture(scope="module")
def broken():
    return mutant.daemon("sivshm-cad", *BROKEN)


def no_grant():
    return grants.active("rtos") == grants.active("ivi") == []


# who am I

@attack(ROOT, "says Hello as another VM, or for another VM's channels",
        stops="the socket a frame came in on is its identity, and a frame has no field for another: "
              "`src/sivshm-cad/control.c`, `src/common/message.c`",
        control="the same Hello at the other VM's own port is that VM's")
def test_hello_as_another_vm(world, control):
    hello = dict(version=1, nonce="5a" * 16, bootId=str(uuid.uuid4()), channels=[])
    with story.echo(world), story.held_channel(world) as channel:
        with forge.port(world, "rtos", hello=False) as port:
            for extra in ({"vm": "ivi"}, {"name": "ivi"}, {"trustDomain": "ivi"}):
                assert port.refused("Hello", **hello, **extra) == BAD_PARAMS
            theirs = [{"slot": grant["slot"], "generation": grant["generation"]} for grant in grants.active("ivi")]
            assert theirs and channel
            mine = [{"slot": grant["slot"], "generation": grant["generation"]} for grant in grants.active("rtos")]
            assert port.call("Hello", **{**hello, "channels": mine + theirs})["vm"] == "rtos"
            assert [g["channel"] for g in grants.active("ivi")] == [channel]
    with forge.port(world, "ivi") as port:
        control.seen(port.call("Hello", **hello)["vm"] == "ivi")


# services that another VM, or nobody, holds

@attack(ROOT, "asks for certificates of services that its VM may not hold, and listens as them",
        stops="the VM's own `Services=` decides: `src/sivshm-cad/policy.c`",
        control="a host that does not look at `Services=` issues the certificate and takes the listener")
def test_service_of_another_vm(world, broken, control):
    services = ["dashboard", "recorder", "ghost"]
    with forge.port(world, "rtos") as port:
        csr = forge.make_csr(forge.new_key())
        for service in services:
            assert port.refused("IssueCertificate", service=service, csr=csr) == NOT_AUTHORIZED
            assert "Services=" in port.error
            assert port.refused("Listen", service=service) == NOT_AUTHORIZED
        for service in MALFORMED:
            assert port.refused("IssueCertificate", service=service, csr=csr) == BAD_PARAMS, service
            assert port.refused("Listen", service=service) == BAD_PARAMS, service
        assert port.refused("Listen", service="sensor", vm="ivi") == BAD_PARAMS
        assert not story.listening(world, "rtos", "dashboard")
    with swap.host(world, broken), forge.port(world, "rtos") as port:
        _, pem = port.certificate("dashboard")
        port.call("Listen", service="dashboard")
        control.seen(names_of(pem) == [forge.spiffe("rtos/dashboard")] and story.listening(world, "rtos", "dashboard"))


def leaf_of(pem):
    return x509.load_pem_x509_certificate(pem.encode())


def names_of(pem):
    names = leaf_of(pem).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in names]


OWN_EXTENSIONS = ['NID_basic_constraints, "critical,CA:FALSE"', 'NID_key_usage, "critical,digitalSignature"',
                  'NID_ext_key_usage, "serverAuth,clientAuth"']


def greedy_extensions():
    """All that a request can ask for."""
    usage = x509.KeyUsage(digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False,
                          key_encipherment=False, data_encipherment=False, key_agreement=False,
                          encipher_only=False, decipher_only=False)
    names = [x509.UniformResourceIdentifier(forge.spiffe("ivi/dashboard")), x509.DNSName("ivi")]
    return [(x509.SubjectAlternativeName(names), True), (x509.BasicConstraints(ca=True, path_length=3), True),
            (usage, True), (x509.ExtendedKeyUsage([x509.ObjectIdentifier("2.5.29.37.0")]), False),
            (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), b"\x05\0"), False)]


@attack(ROOT, "asks for a certificate with another VM's names, as a CA, with further extensions and a subject",
        stops="the host writes every field of a certificate itself; of a request it takes the key alone: "
              "`src/sivshm-cad/ca-issue.c`",
        control="a host that copies the request's extensions issues another VM's name and a CA")
def test_request_with_foreign_names(world, control):
    key = forge.new_key()
    csr = forge.make_csr(key, *greedy_extensions(), subject="ivi/dashboard")
    with forge.port(world, "rtos") as port:
        _, pem = port.certificate("sensor", key, csr)
    leaf = leaf_of(pem)
    assert names_of(pem) == [forge.spiffe("rtos/sensor")]
    assert leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature and not (usage.key_cert_sign or usage.crl_sign)
    assert not list(leaf.subject) and leaf.public_key().public_numbers() == key.public_key().public_numbers()
    known = {"subjectAltName", "basicConstraints", "keyUsage", "extendedKeyUsage", "authorityKeyIdentifier"}
    assert {extension.oid._name for extension in leaf.extensions} == known

    copies = ("({ (void)spiffe_id; X509_REQ *all = PEM_read_bio_X509_REQ(BIO_new_mem_buf(csr, -1), NULL, NULL, NULL); "
              "STACK_OF(X509_EXTENSION) *wanted = X509_REQ_get_extensions(all); for (int i = 0; "
              "i < sk_X509_EXTENSION_num(wanted); i++) X509_add_ext(leaf, sk_X509_EXTENSION_value(wanted, i), 0); 0; }) < 0")
    file = "src/sivshm-cad/ca-issue.c"
    copying = mutant.daemon("sivshm-cad", Edit(file, "add_uri_san(leaf, spiffe_id, true) < 0", copies),
                            *(Edit(file, f"add_extension(leaf, ca->certificate, {line}) < 0", "({ 0; })")
                              for line in OWN_EXTENSIONS))
    with swap.host(world, copying), forge.port(world, "rtos") as port:
        _, pem = port.certificate("sensor", key, csr)
    leaf = leaf_of(pem)
    control.seen(forge.spiffe("ivi/dashboard") in names_of(pem)
                 and leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)


@attack(ROOT, "connects as services and to services that the host's policy does not join",
        stops="default deny, and VM and region of both ends: `src/sivshm-cad/policy.c`, `session-relay.c`",
        control="with a host that takes any rule for the right one the peer hears of it")
def test_connect_without_rule(world, broken, control):
    def connect(port, source, to, ring=RING):
        return port.request("Connect", **{"from": source}, to=to, ringSize=ring, flight=b64(b"hello"))

    def refused(port, *args, **kw):
        with pytest.raises(RpcError) as caught:
            port.answer(connect(port, *args, **kw))
        return caught.value.code

    with forge.port(world, "ivi") as ivi, forge.port(world, "rtos") as rtos:
        ivi.call("Listen", service="dashboard")
        for source in ("dashboard", "recorder", "ghost"):
            assert refused(rtos, source, "ivi/dashboard") == NOT_AUTHORIZED
        for to in ("ivi/ghost", "rtos/camera", "rtos/sensor", "nobody/dashboard"):
            assert refused(rtos, "sensor", to) == BY_HOST, to
        for source, to in (("camera", "ivi/dashboard"), ("sensor", "ivi/recorder")):
            assert refused(rtos, source, to) == BY_HOST
        assert refused(ivi, "dashboard", "rtos/sensor") == BY_HOST
        assert refused(rtos, "sensor", "ivi/dashboard", ring=2 << 20) == BY_HOST
        for source in MALFORMED:
            assert refused(rtos, source, "ivi/dashboard") == BAD_PARAMS, source
        for ring in (0, 5000, (1 << 63) - 1, -1, "4096", 4096.0):
            assert refused(rtos, "sensor", "ivi/dashboard", ring) == BAD_PARAMS, ring
        assert not ivi.heard("Incoming", 0.1) and no_grant()
    with swap.host(world, broken), forge.port(world, "ivi") as ivi, forge.port(world, "rtos") as rtos:
        ivi.call("Listen", service="dashboard")
        connect(rtos, "camera", "ivi/dashboard")
        control.seen(ivi.await_method("Incoming")["params"]["from"] == "rtos/camera")


# sessions of others

@attack(ROOT, "confirms, cancels and finishes sessions of others, guessed ones and ended ones",
        stops="a session is found by its VM and its side only, and once: `src/sivshm-cad/session.c`, `session-relay.c`",
        control="with a host that does not ask whose session it is, the listening VM makes itself a channel")
def test_session_of_another(world, broken, control):
    def steal(rtos, ivi):
        """ivi, the listening side, confirms what rtos began, and answers itself. Returns the code of the refusal."""
        h = Handshake(rtos, ivi, ring=RING).connect()
        h.incoming()
        h.offer()
        asked = ivi.request("Confirm", session=h.session, flight=b64(b"x"), peer=forge.spiffe("ivi/dashboard"),
                            exporter=b64(bytes(32)))
        finish = ivi.heard("Finish", 0.5)
        if finish:
            ivi.reply(finish, peer=forge.spiffe("rtos/sensor"), exporter=b64(bytes(32)))
        try:
            return h, ivi.answer(asked)
        except RpcError as error:
            return h, error.code

    with forge.port(world, "ivi") as ivi, forge.port(world, "rtos") as rtos:
        ivi.call("Listen", service="dashboard")
        h, answer = steal(rtos, ivi)
        assert answer == NO_OBJECT
        confirm = dict(flight=b64(b"x"), peer=forge.spiffe("ivi/dashboard"), exporter=b64(bytes(32)))
        near = f"{int(h.session, 16) ^ 1:032x}"
        for guess in (near, "00" * 16, "ff" * 16):
            assert rtos.refused("Confirm", session=guess, **confirm) == NO_OBJECT
            assert rtos.refused("Cancel", session=guess) == NO_OBJECT
        for method, params in (("Finish", {"session": h.session, "flight": b64(b"x")}),
                               ("Incoming", {"session": h.session, "from": "ivi/dashboard", "to": "sensor",
                                             "ringSize": RING, "flight": b64(b"x")}),
                               ("Granted", {"session": h.session, "slot": 0, "generation": 1})):
            assert rtos.refused(method, **params) == NO_METHOD
        assert no_grant()
        rtos.call("Cancel", session=h.session)
        assert rtos.refused("Confirm", session=h.session, **confirm) == NO_OBJECT
        assert rtos.refused("Cancel", session=h.session) == NO_OBJECT
        assert no_grant()
    with swap.host(world, broken), forge.port(world, "ivi") as ivi, forge.port(world, "rtos") as rtos:
        ivi.call("Listen", service="dashboard")
        _, answer = steal(rtos, ivi)
        control.seen(isinstance(answer, dict) and len(grants.active("ivi")) == 1)


@attack(ROOT, "says Released and Opened for slots of another VM's channel",
        stops="slots are looked up among those of the VM that speaks: `src/sivshm-cad/control-methods.c`, `channel.c`",
        control="the same word for its own end closes the channel at both")
def test_released_for_another(world, control):
    with forge.port(world, "ivi") as ivi, forge.port(world, "rtos") as rtos:
        ivi.call("Listen", service="dashboard")
        first = Handshake(rtos, ivi, ring=RING).run()
        rtos.call("Released", **first.at_a)  # ivi's slot 0 stays taken: from here on the numbers differ
        h = Handshake(rtos, ivi, ring=RING).run()
        assert h.at_a["slot"] != h.at_b["slot"]
        rtos.call("Released", **h.at_b)
        for generation in range(1, h.at_b["generation"] + 3):
            rtos.call("Released", slot=h.at_b["slot"], generation=generation)
        for name in ("Released", "Revoked"):
            rtos.notify(name, **h.at_b)
        rtos.notify("Opened", session=h.session, **h.at_b)
        rtos.notify("Opened", session=first.session, **h.at_b)
        rtos.call("Unlisten", service="dashboard")
        assert story.listening(world, "ivi", "dashboard")
        assert len(grants.active("ivi")) == len(grants.active("rtos")) == 1
        rtos.call("Released", **h.at_a)
        control.seen(no_grant())


# TLS

def connect(port, certificate, ring=RING, source="sensor", target="ivi/dashboard"):
    """Up to Confirm, against the real sivshmd of the other guest: (session, client's flight, exporter)."""
    tls = forge.TlsClient(*certificate)
    offer = port.call("Connect", **{"from": source}, to=target, ringSize=ring, flight=b64(tls.step()))
    flight = tls.step(forge.unb64(offer["flight"]))
    exporter = tls.exporter(offer["session"], f"rtos/{source}", target, ring)
    return {"session": offer["session"], "flight": b64(flight), "peer": forge.spiffe(target), "exporter": b64(exporter)}


@attack(ROOT, "uses a certificate of another VM's service, of another of its own, and one of its own CA",
        stops="the peer wants exactly the name that the host announced, from the host's CA: "
              "`src/common/handshake-verify.c`, `handshake.c`",
        control="a peer that does not compare the name takes it; the right certificate gets the channel")
def test_certificate_of_another(world, control):
    with forge.port(world, "ivi") as ivi:
        stolen = ivi.certificate("recorder")
        theirs = ivi.certificate("dashboard")
    with story.echo(world), forge.port(world, "rtos") as port:
        wrong = {"another VM's": stolen, "the peer's own": theirs, "another service's": port.certificate("camera"),
                 "self-made": forge.self_made("rtos/sensor")}
        for what, certificate in wrong.items():
            assert port.refused("Confirm", **connect(port, certificate)) == FAILED, what
            assert "certificate" in port.error and no_grant(), what
        port.call("Confirm", **connect(port, port.certificate("sensor")))
        assert len(grants.active("rtos")) == 1
    credulous = mutant.daemon("sivshmd", Edit("src/common/handshake-verify.c", "\tif (!wrong)\n\t\twrong = leaf_name_check",
                                              "\tif (0)\n\t\twrong = leaf_name_check"))
    with swap.daemon(world, world.ivi, credulous), story.echo(world), forge.port(world, "rtos") as port:
        port.call("Confirm", **connect(port, stolen))
        control.seen(len(grants.active("ivi")) == 1)


@attack(ROOT, "confirms without a handshake, with another exporter, for another peer",
        stops="both ends' identities and exporter values are compared before memory is granted: "
              "`src/sivshm-cad/session-relay.c`",
        control="a host that does not compare the exporters grants")
def test_confirm_without_handshake(world, broken, control):
    def others(confirm):
        return {"no flight": {"flight": b64(b"")}, "no TLS": {"flight": b64(b"x" * 100)},
                "half a flight": {"flight": b64(forge.unb64(confirm["flight"])[:-1])},
                "another exporter": {"exporter": b64(bytes(32))},
                "another peer": {"peer": forge.spiffe("ivi/recorder")}, "itself": {"peer": forge.spiffe("rtos/sensor")}}

    with story.echo(world), forge.port(world, "rtos") as port:
        mine = port.certificate("sensor")
        for what in others({"flight": ""}):
            confirm = connect(port, mine)
            code = port.refused("Confirm", **{**confirm, **others(confirm)[what]})
            assert code in (FAILED, BAD_PARAMS) and no_grant(), what
    with swap.host(world, broken), story.echo(world), forge.port(world, "rtos") as port:
        port.call("Confirm", **{**connect(port, port.certificate("sensor")), "exporter": b64(bytes(32))})
        control.seen(len(grants.active("rtos")) == 1)


@attack(ROOT, "replays the frames of a handshake of its sivshmd, and mixes old flights into new sessions",
        stops="fresh sessions and TLS 1.3 on both sides: `src/sivshm-cad/session-relay.c`, `src/common/handshake.c`",
        control="the same frames had made a channel when they were recorded")
def test_replay(world, control):
    with story.echo(world):
        frames = forge.record(world, "rtos", lambda: story.connect_many(world, 1))
        by_method = {}
        for frame in frames:
            by_method.setdefault(frame.get("method"), frame)
        assert {"Hello", "IssueCertificate", "Connect", "Confirm", "Opened"} <= set(by_method)
        control.seen(sum(frame.get("method") == "Opened" for frame in frames) == 1)
        world.wait_channels(0)
        with forge.port(world, "rtos", hello=False) as port:
            session = None
            for frame in frames:
                port.send(frame)
                if "id" not in frame or "method" not in frame:
                    continue
                try:
                    answer = port.answer(frame["id"])
                except RpcError as error:
                    assert frame["method"] in ("Confirm", "Cancel") and error.code == NO_OBJECT, (frame, error)
                else:
                    session = answer.get("session", session)
                assert no_grant()
            assert port.refused("Confirm", **{**by_method["Confirm"]["params"], "session": session}) == FAILED
            assert no_grant()


# a daemon that stops

@attack(ROOT, "stops sivshmd in the midst of handshakes, at either end, and begins as many as it can",
        stops="`SessionsPerVM=` and `HandshakeTimeout=`: `src/sivshm-cad/session.c`, `session-relay.c`",
        control="a daemon that goes on in time gets its channel")
def test_stopped_daemon(world, control):
    with world.host_setting("[Limits]\nHandshakeTimeout=3s\nSessionsPerVM=4\n"), story.echo(world):
        call = story.as_user("sensor", "/usr/bin/sivshmctl", "connect", "--as", "sensor", "ivi/dashboard")
        world.ivi.run("systemctl kill -s STOP sivshmd", check=True)
        try:
            rc, out, err = world.rtos.run(call, input="")
            assert rc != 0 and "TimedOut" in err + out or "in time" in err + out, err + out
            assert no_grant()
            pid = world.rtos.run_bg(call, input="")
        finally:
            world.ivi.run("systemctl kill -s CONT sivshmd", check=True)
        control.seen(world.rtos.wait(pid, 30)[0] == 0)
        with forge.port(world, "rtos") as port:
            certificate = port.certificate("sensor")
            confirms = [connect(port, certificate) for _ in range(4)]
            with pytest.raises(RpcError) as caught:
                connect(port, certificate)
            assert caught.value.code == QUOTA
            for confirm in confirms:
                assert port.await_method("Abort", 10)["params"]["error"]["code"] == TIMED_OUT
            assert all(port.refused("Confirm", **confirm) == NO_OBJECT for confirm in confirms) and no_grant()
