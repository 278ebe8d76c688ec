# SPDX-License-Identifier: LGPL-2.1-or-later
"""A relay that lies: between two real sivshmd and a real sivshm-cad, on their control connections.

Whatever it does: never a channel that was not agreed, a named error wherever somebody took part, and everything given
back at both daemons, host and kernel (middle.Middle.given_back).
"""

import os
import ssl
import subprocess
import tempfile
import time

import pytest

pytest.importorskip("gi")

import tls_forge as forge  # noqa: E402
from tls_forge import Authority, alert, uri  # noqa: E402
from lab import build as builds  # noqa: E402
from lab import mutant, paths  # noqa: E402
from lab.attack import RELAY, attack  # noqa: E402
from lab.host import PrivateBus  # noqa: E402
from lab.mutant import Edit  # noqa: E402
from lab.relay import RelayError, body, change, drop, exchanged, flight, reordered, twice  # noqa: E402
from middle import (CAMERA, DASHBOARD, HANDSHAKE_TIMEOUT, RECORDER, SENSOR, Async, Middle,  # noqa: E402
                    Refused, wait_for)

VERIFY, HANDSHAKE = "src/common/handshake-verify.c", "src/common/handshake.c"
RELAYING = "src/sivshm-cad/session-relay.c"

# broken builds
OWN_UNCHECKED = Edit("src/sivshmd/keypair.c", "		r = keypair_check(&k, spiffe_id, trust, now, error);",
                     "		keypair_check(&k, spiffe_id, trust, now, &(struct failure){});")
ANY_NAME = Edit(VERIFY, "		wrong = leaf_name_check(certificate, spiffe_id);", "		leaf_name_check(certificate, spiffe_id);")
ANY_CHAIN = Edit(HANDSHAKE, "	if (!ok || X509_STORE_CTX_get_error_depth(store) > 0)\n		return ok;",
                 "	X509_STORE_CTX_set_error(store, ok ? X509_V_OK : X509_V_OK);\n"
                 "	if (X509_STORE_CTX_get_error_depth(store) > 0)\n		return 1;")
ANY_LEAF = Edit(HANDSHAKE, "	h->wrong = leaf_certificate_check(X509_STORE_CTX_get_current_cert(store), h->peer_id);",
                "	h->wrong = NULL;")
TLS_1_2 = Edit(HANDSHAKE, "SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION)",
               "SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION)")
MORE_GROUPS = Edit(HANDSHAKE, "	    SSL_CTX_set1_groups_list(context, \"X25519\") != 1 ||",
                   "	    SSL_CTX_set1_groups_list(context, \"X25519:P-256\") != 1 ||")
ANY_ALGORITHM = Edit(HANDSHAKE, "SSL_CTX_new_ex(crypto, NULL, TLS_method())", "SSL_CTX_new_ex(NULL, NULL, TLS_method())")
ANY_GRANT = Edit("src/sivshmd/opener.c", "o->session, SESSION_ID_SIZE) == 0 ? 0 : -EKEYREJECTED",
                 "o->session, SESSION_ID_SIZE) == 0 ? 0 : 0")
ANY_TIME = Edit("src/sivshmd/accept.c", "	if (s->state != SESSION_FINISHED) {", "	if (s->state == SESSION_GRANTED) {")
ANY_EXPORTER = Edit(RELAYING, "	else if (CRYPTO_memcmp(finished.exporter, s->exporter, sizeof(s->exporter)) != 0)",
                    "	else if (CRYPTO_memcmp(finished.exporter, s->exporter, 0) != 0)")
ANY_IDENTITY = Edit(RELAYING, "	return strcmp(expected, id) == 0;", "	return strcmp(expected, id) == 0 || id[0];")
ANY_VM = [Edit("src/sivshm-cad/session.c", "(s->from_vm == vm || s->to_vm == vm))", "(vm || s->from_vm == vm))"),
          Edit(RELAYING, "	if (!s || s->from_vm != vm || s->state", "	if (!s || s->state")]

BROKEN_SIVSHMD = {
    "own certificate unchecked": [OWN_UNCHECKED],
    "any name": [OWN_UNCHECKED, ANY_NAME],
    "any chain": [OWN_UNCHECKED, ANY_CHAIN],
    "any certificate": [OWN_UNCHECKED, ANY_CHAIN, ANY_LEAF],
    "TLS 1.2": [TLS_1_2, MORE_GROUPS, ANY_ALGORITHM],
    "P-256 too": [MORE_GROUPS, ANY_ALGORITHM],
    "any grant": [ANY_GRANT],
    "any time": [ANY_TIME],
}
BROKEN_CAD = {"any exporter": [ANY_EXPORTER], "any end": [ANY_EXPORTER, ANY_IDENTITY], "any VM": ANY_VM}
OWN_UNCHECKED_BUILD = "own certificate unchecked"


@pytest.fixture(scope="module")
def binary():
    """binary("sivshmd"): the build with sanitisers; binary("sivshmd", "any name"): a broken one."""
    built = {}
    honest = os.environ.get("SIVSHM_BUILD") or builds.compile("clang-asan")
    broken = {"sivshmd": BROKEN_SIVSHMD, "sivshm-cad": BROKEN_CAD}

    def get(name, kind=None):
        if (name, kind) not in built:
            built[name, kind] = (mutant.daemon(name, *broken[name][kind]) if kind
                                 else f"{honest}/src/{name}/{name}")
        return str(built[name, kind])
    return get


@pytest.fixture(scope="module")
def worlds(binary):
    """worlds(): everything honest; worlds(cad="any exporter"): with that broken sivshm-cad. Started once."""
    started = {}
    with PrivateBus() as bus, tempfile.TemporaryDirectory(prefix="sivshm-middle.", dir="/dev/shm") as folder:
        os.chmod(folder, 0o755)
        preload = f"{folder}/fake_device.so"
        subprocess.run(["cc", "-Wall", "-Wextra", "-shared", "-fPIC", "-o", preload,
                        paths.ROOT / "tests/integration/fake_device.c", "-ldl"], check=True)

        def get(cad=None, a=None, b=None):
            binaries = {"a": binary("sivshmd", a), "b": binary("sivshmd", b)}
            if cad not in started:
                where = f"{folder}/{len(started)}"
                os.mkdir(where)
                os.chmod(where, 0o755)
                started[cad] = Middle(where, bus.address, binary("sivshm-cad", cad), binaries, preload,
                                      builds.SANITIZER_ENV)
            started[cad].use(binaries)
            return started[cad]
        yield get
        codes = {cad: world.close() for cad, world in started.items()}
    assert all(set(c) == {0} for c in codes.values()), codes


@pytest.fixture
def middle(worlds, request):
    """middle(a=..., b=..., cad=...): the world for an attempt; after the test everything is given back in each."""
    used = []

    def get(**broken):
        world = worlds(**broken)
        if world not in used:
            used.append(world)
        world.begin()
        return world
    yield get
    for world in used:
        try:
            world.given_back()
        except BaseException:
            print(world.logs()[-8000:])
            raise


def authority(world):
    return Authority.of(world.cad.state / "ca.crt", world.cad.state / "ca.key")


def refused(outcome, name, text, at_b=None):
    """No channel; the caller's error, and what the listening guest named."""
    assert outcome.at_a is not None, "there is a channel"
    assert outcome.at_a.name == name and text in outcome.at_a.text, outcome.at_a
    if at_b:
        assert outcome.at_b and outcome.at_b[0] == at_b[0] and at_b[1] in outcome.at_b[1], outcome.at_b


GAVE_UP = ("Closed", "VM a gave the handshake up")


def through(outcome):
    return outcome.at_a is None


# flights

FLIGHT_MAX = 24576
CLIENT_HELLO, SERVER_HELLO, FINISHED = "b:Incoming", "a:Connect=", "b:Finish"


def flipped(at):
    return lambda f: f[:at] + bytes([f[at] ^ 1]) + f[at + 1:] if at >= 0 else f[:at] + bytes([f[at] ^ 1])


FLIGHTS = {
    "empty": b"",
    "one-byte": lambda f: f[:1],
    "half": lambda f: f[:len(f) // 2],
    "but-the-last-byte": lambda f: f[:-1],
    "and-a-byte": lambda f: f + b"\0",
    "bit-flipped-at-the-front": flipped(8),
    "bit-flipped-in-the-middle": lambda f: flipped(len(f) // 2)(f),
    "bit-flipped-at-the-end": lambda f: flipped(len(f) - 1)(f),
    "twice-in-a-row": lambda f: f + f,
    "zeros-of-maximal-size": bytes(FLIGHT_MAX),
    "filled-up-to-maximal-size": lambda f: f.ljust(FLIGHT_MAX, b"\0"),
    "longer-than-maximal": bytes(FLIGHT_MAX + 1),
    "fatal-alert": alert(40),
    "close-notify": alert(0, False),
    "after-a-close-notify": lambda f: alert(0, False) + f,
    "before-a-fatal-alert": lambda f: f + alert(40),
    "application-data": forge.record(forge.RECORD_DATA, bytes(64)),
    "before-application-data": lambda f: f + forge.record(forge.RECORD_DATA, bytes(64)),
    "http": b"GET / HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("what", FLIGHTS)
@pytest.mark.parametrize("which", [CLIENT_HELLO, SERVER_HELLO, FINISHED])
@attack(RELAY, "changes a flight: cuts, lengthens, flips bits, empties, fills it up to the maximum, puts an alert or "
               "data there",
        stops="TLS 1.3 hashes the whole handshake; the shape of flights, `src/common/handshake.c`",
        control="the flight unchanged through the same relay gives a channel")
def test_changed_flight(middle, control, which, what):
    m = middle()
    control.seen(m.connects())
    m.relay.on(which, flight(FLIGHTS[what]), 1)
    # what does not even decode as Incoming begins nothing at the listening guest
    took_part = which != CLIENT_HELLO or what not in ("empty", "longer-than-maximal")
    outcome = m.attempt(b_hears=took_part)
    refused(outcome, "HandshakeFailed", "")
    same = (outcome.at_a.name, outcome.at_a.text)
    if not took_part:
        assert outcome.at_b is None
    elif which == SERVER_HELLO and what in ("empty", "longer-than-maximal"):
        # nor does it name a session there that could be cancelled: the host's own time is up
        assert outcome.at_b == ("TimedOut", "the handshake was not finished in time"), outcome
    else:
        assert outcome.at_b in (same, ("Closed", "VM a gave the handshake up")), outcome
    assert outcome.host, outcome


TLS = {
    "hello-of-1.2": (CLIENT_HELLO, lambda ca, f: forge.client_hello(version=ssl.TLSVersion.TLSv1_2),
                     "unsupported protocol", {"b": "TLS 1.2"}, "no share of the group"),
    "server-of-1.2": (SERVER_HELLO, lambda ca, f: forge.Server(ca, DASHBOARD).answer(f),
                      "unsupported protocol", {"a": "TLS 1.2"}, "does not end with Finished"),
    "hello-for-another-group": (CLIENT_HELLO, lambda ca, f: forge.client_hello(curve="prime256v1"),
                                "no suitable key share", {"b": "P-256 too"}, "invalid session id"),
    "hello-that-wants-a-retry": (CLIENT_HELLO, lambda ca, f: forge.hello_without_share(),
                                 "no share of the group X25519", {"b": "P-256 too"}, "invalid session id"),
}


def offer_other_tls(m, which, make):
    ca, hellos = authority(m), []
    m.relay.on("a:Connect", lambda message: hellos.append(body(message)["flight"]) or message)
    m.relay.on(which, flight(lambda f: make(ca, forge.decoded(hellos[-1]))), 1)
    return m.attempt()


@pytest.mark.parametrize("what", TLS)
@attack(RELAY, "offers TLS 1.2 as client or as server, or another group",
        stops="TLS 1.3 and X25519 alone, no retry, `src/common/handshake.c`",
        control="a build that takes them goes on to a later step of the handshake")
def test_other_tls(middle, control, what):
    which, make, text, broken, further = TLS[what]
    control.seen(further in offer_other_tls(middle(**broken), which, make).at_a.text)
    refused(offer_other_tls(middle(), which, make), "HandshakeFailed", text,
            at_b=("HandshakeFailed", text) if which == CLIENT_HELLO else GAVE_UP)


# certificates

CERTIFICATES = {
    forge.other_service: ("is another service's", "any name"),
    forge.other_vm: ("is another service's", "any name"),
    forge.same_service_of_other_vm: ("is another service's", "any name"),
    forge.other_domain: ("is another service's", "any name"),
    forge.longer_name: ("is another service's", "any name"),
    forge.name_and_nul: ("is another service's", "any name"),
    forge.name_and_more: ("is not in DER", "any name"),
    forge.two_names: ("without exactly one subject alternative name", "any name"),
    forge.name_as_dns: ("is no URI", "any name"),
    forge.expired: ("certificate has expired", "any chain"),
    forge.not_yet_valid: ("certificate is not yet valid", "any chain"),
    forge.other_ca: ("certificate", "any chain"),
    forge.other_ca_and_its_root: ("certificate", "any chain"),
    forge.by_a_service: ("certificate", "any chain"),
    forge.of_a_ca: ("certificate of a CA", "any certificate"),
    forge.for_one_side: ("certificate", "any certificate"),
}
by_kind = pytest.mark.parametrize("kind", CERTIFICATES, ids=lambda kind: kind.__name__.replace("_", "-"))
SIDES = {"a": ("sensor", SENSOR, CAMERA, DASHBOARD), "b": ("dashboard", DASHBOARD, RECORDER, SENSOR)}


def swap_certificate(m, side, kind):
    """What VM `side` gets for the service of the test is of another kind."""
    service, name, other, peer = SIDES[side]
    ca, keys = authority(m), {}

    def asked(message):
        if body(message)["service"] == service:
            keys[message["id"]] = forge.key_of(body(message)["csr"])
        return message

    def answered(message):
        if message["id"] in keys:
            message["result"]["certificate"] = kind(ca, keys[message["id"]], name, other, peer)
        return message
    m.relay.on(f"{side}:IssueCertificate", asked)
    m.relay.on(f"{side}:IssueCertificate=", answered)


@pytest.fixture(scope="module")
def lets_through(worlds):
    """lets_through(check): the (side, kind)s of certificates that come to a channel when that check is skipped."""
    found = {}

    def get(check):
        if check not in found:
            m, found[check] = worlds(a=check, b=check), set()
            for kind in [kind for kind, (_, needs) in CERTIFICATES.items() if needs == check]:
                for side in SIDES:
                    m.begin()
                    swap_certificate(m, side, kind)
                    if through(m.attempt()):
                        found[check].add((side, kind))
                    m.empty()
            m.given_back()
        return found[check]
    return get


@by_kind
@pytest.mark.parametrize("side", SIDES)
@attack(RELAY, "offers a wrong certificate to a guest whose daemon takes any: of another service, VM, domain or CA, "
               "expired, not yet valid, signed by a service, of a CA, for one side only",
        stops="the peer's daemon: chain, time and exact SPIFFE id, `src/common/handshake.c`, `handshake-verify.c`",
        control="a peer's daemon without that one check: a channel")
def test_wrong_certificate(middle, lets_through, control, side, kind):
    text, check = CERTIFICATES[kind]
    control.seen((side, kind) in lets_through(check))
    m = middle(a=OWN_UNCHECKED_BUILD, b=OWN_UNCHECKED_BUILD)
    swap_certificate(m, side, kind)
    refused(m.attempt(), "HandshakeFailed", text, at_b=("HandshakeFailed", text) if side == "a" else GAVE_UP)


OWN = {kind: "is not for spiffe://" for kind, (_, check) in CERTIFICATES.items() if check == "any name"}
OWN |= {forge.expired: "has expired", forge.not_yet_valid: "is not yet valid", forge.other_ca: "local issuer",
        forge.other_ca_and_its_root: "local issuer", forge.by_a_service: "self-signed",
        forge.for_other_key: "for another key"}


@pytest.mark.parametrize("kind", OWN, ids=lambda kind: kind.__name__.replace("_", "-"))
@pytest.mark.parametrize("side", SIDES)
@attack(RELAY, "offers a wrong certificate to a guest whose daemon is sound",
        stops="a daemon verifies its own certificate before it uses it, `src/sivshmd/keypair.c`",
        control="a daemon that does not comes to a later step")
def test_wrong_own_certificate(middle, control, side, kind):
    m = middle(**{side: OWN_UNCHECKED_BUILD})
    swap_certificate(m, side, kind)
    control.seen("from the host" not in m.attempt().at_a.text)
    m = middle()
    swap_certificate(m, side, kind)
    text = OWN[kind]
    refused(m.attempt(), "HandshakeFailed", text, at_b=("HandshakeFailed", text) if side == "b" else GAVE_UP)


# what does not come, comes twice, again, or elsewhere

OWN_TIMEOUT = 1.5 * HANDSHAKE_TIMEOUT
NOT_FINISHED, NOT_OPENED = "the handshake was not finished in time", "the channel was not opened in time"
DROPPED = {  # what the caller and the listening guest say; None: a channel, which is taken back
    "a:Connect": ("no channel within the timeout", None),
    "b:Incoming": ("in time", None),
    "b:Incoming=": ("in time", "in time"),
    "a:Connect=": ("no channel within the timeout", NOT_FINISHED),
    "a:Confirm": (NOT_FINISHED, NOT_FINISHED),
    "b:Finish": (NOT_FINISHED, NOT_FINISHED),
    "b:Finish=": (NOT_FINISHED, NOT_FINISHED),
    "a:Confirm=": (NOT_OPENED, None),
    "b:Granted": (None, NOT_OPENED),
    "a:Opened": (None, None),
    "b:Opened": (None, None),
}


@pytest.mark.parametrize("key", DROPPED)
@attack(RELAY, "drops a message of the handshake",
        stops="every wait ends: `HandshakeTimeout=` at the host, `src/sivshm-cad/session.c`; `TimeoutUSec` of the "
              "caller, `src/sivshmd/connect.c`",
        control="with nothing dropped the same relay gives a channel")
def test_dropped(middle, control, figures, key):
    m = middle()
    control.seen(m.connects())
    m.relay.on(key, drop, 1)
    at_a, at_b = DROPPED[key]
    began = time.monotonic()
    with m.listening():
        outcome, marks = m.try_connect(timeout=OWN_TIMEOUT)
        if at_a:
            refused(outcome, "TimedOut", at_a)
        else:
            assert through(outcome)
        if at_b:
            wait_for(lambda: any(n == "TimedOut" and at_b in t for n, t in m.refusals_at("b", marks)), what="b's error")
        wait_for(lambda: not m.open_channels(), what="no channel is left open")
        figures["seconds"] = round(time.monotonic() - began, 2)
    assert figures["seconds"] < HANDSHAKE_TIMEOUT + OWN_TIMEOUT + 3


@pytest.mark.parametrize("key", DROPPED)
@attack(RELAY, "delivers a message of the handshake twice",
        stops="a step is taken once, `src/sivshm-cad/session-relay.c`, `src/sivshmd/accept.c`; a slot is opened once",
        control="what is asked twice by the service itself gives two channels")
def test_doubled(middle, control, key):
    m = middle()
    with m.listening():
        m.connect()
        m.connect()
        control.seen(wait_for(lambda: m.open_channels() == {"a": 2, "b": 2}, what="two channels"))
    m.empty()
    m.begin()
    m.relay.on(key, twice, 1)
    with m.listening():
        outcome, marks = m.try_connect(timeout=OWN_TIMEOUT)
        m.relay.await_message(key)
        wait_for(lambda: m.open_channels() in ({}, {"a": 1, "b": 1}), what="one channel, or none")
        if not m.open_channels():
            assert outcome.at_a or m.refusals_at("b", marks), "nobody names an error"


# two sessions at once

SAME = [("sensor", DASHBOARD), ("sensor", DASHBOARD)]
OTHER = [("sensor", DASHBOARD), ("camera", RECORDER)]
FLIGHT, SLOT = ["flight"], ["slot", "generation"]
SWAPPED = {  # sessions, what is exchanged between them, what refuses it; the build that does not
    "client-hellos": (SAME, {CLIENT_HELLO: FLIGHT}, "", None),
    "server-flights": (SAME, {SERVER_HELLO: FLIGHT}, "", None),
    "client-flights": (SAME, {FINISHED: FLIGHT}, "", None),
    "all-flights": (SAME, dict.fromkeys([CLIENT_HELLO, SERVER_HELLO, FINISHED], FLIGHT), "not in the same handshake",
                    {"cad": "any exporter"}),
    "all-flights-of-other-services": (OTHER, dict.fromkeys([CLIENT_HELLO, SERVER_HELLO, FINISHED], FLIGHT),
                                      "is another service's", {"cad": "any end", "a": "any name", "b": "any name"}),
    "session-ids-at-the-caller": (SAME, {SERVER_HELLO: ["session"]}, "", None),
    "session-ids-at-the-listener": (SAME, {CLIENT_HELLO: ["session"]}, "", None),
    "session-ids-all-along": (SAME, {CLIENT_HELLO: ["session"], FINISHED: ["session"]}, "not in the same handshake",
                              {"cad": "any exporter"}),
    "slots-at-the-caller": (SAME, {"a:Confirm=": SLOT}, "another session's", {"a": "any grant"}),
    "slots-at-the-listener": (SAME, {"b:Granted": SLOT}, "another session's", {"b": "any grant"}),
    "slots-of-other-services": (OTHER, {"b:Granted": SLOT}, "another session's", {"b": "any grant"}),
    "slots-of-other-services-at-the-caller": (OTHER, {"a:Confirm=": SLOT}, "another session's", {"a": "any grant"}),
}


def two_at_once(m, pairs, rules, expected):
    """Two Connects, until so many channels are open as expected; what the callers got, and what b named."""
    for key, rule in rules.items():
        m.relay.on(key, rule)
    marks = m.marks()
    with m.listening(), m.listening("recorder"):
        calls = [Async(m.connect, *pair) for pair in pairs]
        for call in calls:
            call.thread.join(20)
            assert call.done()
        wait_for(lambda: m.open_channels() == expected, what=f"channels as expected: {m.open_channels()}")
        if not expected:
            wait_for(lambda: m.ends_at("b", marks), what="b's error")
        return [call.error for call in calls], m.ends_at("b", marks)


@pytest.mark.parametrize("what", SWAPPED)
@attack(RELAY, "exchanges flights, session ids or slots between two handshakes at the same time",
        stops="TLS; exporter values bound to session and names, `src/sivshm-cad/session-relay.c`; the grant names its "
              "session, `src/sivshmd/opener.c`",
        control="a build without the comparison: two channels; or both only held and delivered in the other order: two")
def test_swapped(middle, control, what):
    pairs, keys, text, broken = SWAPPED[what]
    m = middle(**(broken or {}))
    rules = {key: exchanged(*members) if broken else reordered() for key, members in keys.items()}
    errors, _ = two_at_once(m, pairs, rules, {"a": 2, "b": 2})
    control.seen(errors == [None, None])
    m.empty()
    m = middle()
    errors, at_b = two_at_once(m, pairs, {key: exchanged(*members) for key, members in keys.items()}, {})
    # of a grant that the listening side refused the caller may have had the channel, until it was taken back
    assert None not in errors or "b:Granted" in keys, errors
    assert {e.name for e in errors if e} <= {"HandshakeFailed", "Closed", "TimedOut", "Revoked"}, errors
    assert any(text in t for t in [*(e.text for e in errors if e), *(t for _, t in at_b)]), (errors, at_b)


# what is said beside the flights

def other_bits(text):
    return forge.encoded(bytes(b ^ 1 for b in forge.decoded(text)))


CONNECT = ("sensor", DASHBOARD)
ALTERED = {  # who connects; what is changed; what refuses it; the build that does not
    "caller-in-Connect": (CONNECT, "a:Connect", {"from": "camera"}, "is another service's",
                          {"cad": "any end", "a": "any name", "b": "any name"}),
    "listener-in-Connect": (("camera", DASHBOARD), "a:Connect", {"to": RECORDER}, "is another service's",
                            {"cad": "any end", "a": "any name", "b": "any name"}),
    "ring-in-Connect": (CONNECT, "a:Connect", {"ringSize": 8192}, "not in the same handshake", {"cad": "any exporter"}),
    "caller-in-Incoming": (CONNECT, "b:Incoming", {"from": CAMERA}, "is another service's",
                           {"cad": "any end", "a": "any name", "b": "any name"}),
    "listener-in-Incoming": (CONNECT, "b:Incoming", {"to": "recorder"}, "is another service's",
                             {"cad": "any end", "a": "any name", "b": "any name"}),
    "ring-in-Incoming": (CONNECT, "b:Incoming", {"ringSize": 8192}, "not in the same handshake",
                         {"cad": "any exporter"}),
    "identity-in-Confirm": (CONNECT, "a:Confirm", {"peer": uri(RECORDER)}, "connecting side verified another identity",
                            {"cad": "any end"}),
    "exporter-in-Confirm": (CONNECT, "a:Confirm", {"exporter": other_bits}, "not in the same handshake",
                            {"cad": "any exporter"}),
    "identity-in-answer-to-Finish": (CONNECT, "b:Finish=", {"peer": uri(CAMERA)},
                                     "listening side verified another identity", {"cad": "any end"}),
    "exporter-in-answer-to-Finish": (CONNECT, "b:Finish=", {"exporter": other_bits}, "not in the same handshake",
                                     {"cad": "any exporter"}),
    "generation-in-answer-to-Confirm": (CONNECT, "a:Confirm=", {"generation": lambda g: g + 1}, "took the grant back",
                                        None),
}


def alter(m, what):
    who, key, members, _, _ = ALTERED[what]
    m.relay.on(key, change(**members))
    with m.listening(), m.listening("recorder"):
        outcome, marks = m.try_connect(*who)
        at_b = None if through(outcome) else wait_for(lambda: m.ends_at("b", marks), what="b's error")
        wait_for(lambda: through(outcome) or not m.open_channels(), what="no channel is left open")
    return outcome, at_b


@pytest.mark.parametrize("what", ALTERED)
@attack(RELAY, "changes names, ring size, identity, exporter or grant beside the flights",
        stops="each end requires the exact id; the host compares ids and exporter values, "
              "`src/sivshm-cad/session-relay.c`; the kernel compares the grant, `src/kmod/grant.c`",
        control="builds without these comparisons, or the value unchanged: a channel")
def test_altered(middle, control, what):
    _, _, _, text, broken = ALTERED[what]
    if broken:
        m = middle(**broken)
        control.seen(through(alter(m, what)[0]))
        m.empty()
    m = middle()
    if not broken:
        control.seen(m.connects())
    outcome, at_b = alter(m, what)
    assert outcome.at_a.name in ("HandshakeFailed", "Revoked") and text in outcome.at_a.text, outcome
    # or what it had opened already was taken back
    assert at_b[0][0] in ("HandshakeFailed", "Closed", "Revoked", "Channel"), at_b


NOBODY = "00112233445566778899aabbccddeeff"
STRAY = {  # a session id of nobody in it; what the caller and the listening guest name
    "a:Confirm": ({"NoSuchObject"}, {"Closed"}),
    "b:Finish": ({"PeerNotListening"}, {"PeerNotListening"}),
    # b gives the grant that it cannot place back, before or after a has opened its end
    "b:Granted": ({None, "Revoked"}, {"TimedOut", "Closed", "Revoked"}),
}


@pytest.mark.parametrize("key", STRAY)
@attack(RELAY, "puts the session id of nobody into a message",
        stops="a session is found by its id and its VM, `src/sivshm-cad/session.c`, `src/sivshmd/accept.c`",
        control="with its own id the same relay gives a channel")
def test_session_of_nobody(middle, control, key):
    m = middle()
    control.seen(m.connects())
    m.relay.on(key, change(session=NOBODY), 1)
    at_a, at_b = STRAY[key]
    with m.listening():
        outcome, marks = m.try_connect()
        assert (outcome.at_a and outcome.at_a.name) in at_a, outcome
        wait_for(lambda: at_b & {name for name, _ in m.refusals_at("b", marks)}, what="b's error")
        wait_for(lambda: not m.open_channels(), what="no channel is left open")


def confirm_from_b(m):
    """The caller's Confirm does not go on; VM b, which only listens, says the same. What it is answered."""
    m.relay.on("a:Confirm", drop, 1)
    with m.listening():
        call = Async(m.connect, timeout=OWN_TIMEOUT)
        said = body(m.relay.await_message("a:Confirm"))
        try:
            answer = m.relay.ask("b", "Confirm", **said)
        except RelayError as error:
            answer = error
        call.thread.join(10)
        wait_for(lambda: not m.open_channels().get("a"), what="the caller has no channel")
    assert isinstance(call.error, Refused)
    return answer


@attack(RELAY, "confirms a handshake from the VM that only listens",
        stops="only the VM that asked may confirm, `src/sivshm-cad/session-relay.c`",
        control="a build that asks for no VM grants a slot")
def test_confirm_of_another_vm(middle, control):
    m = middle(cad="any VM")
    control.seen("slot" in confirm_from_b(m))
    answer = confirm_from_b(middle())
    assert isinstance(answer, RelayError) and answer.code == -32014, answer


# what was said before, or never

def live(m, vm, method):
    """The relay says it in the daemon's place, and hands the answer on."""
    def rule(message):
        def say():
            try:
                answer = {"result": m.relay.ask(vm, method, **body(message))}
            except RelayError as error:
                answer = {"error": {"code": error.code, "message": error.text}}
            m.relay.ports[vm].send({"id": message["id"], **answer}, "down")
        Async(say)
    m.relay.on(f"{vm}:{method}", rule)


def recorded(m):
    """What was said in an honest handshake, whose channel is gone: {key: body}."""
    with m.listening():
        m.connect()
        m.relay.await_message("b:Granted")
        m.relay.await_message("b:Opened")
        said = {key: body(message) for key, message in m.relay.seen}
    m.empty()
    return said


def error_of(function, *arguments, **kw):
    with pytest.raises(RelayError) as caught:
        function(*arguments, **kw)
    return caught.value.code


def replay_handshake(m, old):
    began = m.relay.ask("a", "Connect", **old["a:Connect"])
    code = error_of(m.relay.ask, "a", "Confirm", **{**old["a:Confirm"], "session": began["session"]})
    return code == -32006


def replay_to_listener(m, old):
    m.relay.ask("b", "Incoming", "down", **old["b:Incoming"])
    return error_of(m.relay.ask, "b", "Finish", "down", **old["b:Finish"]) == -32006


def replay_confirm(m, old):
    return error_of(m.relay.ask, "a", "Confirm", **old["a:Confirm"]) == -32014


def replay_cancel(m, old):
    m.connect()
    return error_of(m.relay.ask, "a", "Cancel", session=old["a:Confirm"]["session"]) == -32014


def replay_granted(m, old):
    m.connect()
    m.relay.tell("b", "Granted", **old["b:Granted"])
    return error_of(m.relay.ask, "b", "Finish", "down", **old["b:Finish"]) == -32012  # what was told before is through


def replay_released(m, old):
    """Of the slot's former channel; the next one has the same slot."""
    m.connect()
    wait_for(lambda: m.relay.messages("b:Opened"), what="the listening side opened it")
    new = m.relay.messages("b:Opened")[-1]["params"]
    assert new["slot"] == old["b:Opened"]["slot"] and new["generation"] > old["b:Opened"]["generation"]
    return m.relay.ask("b", "Released", **{k: old["b:Opened"][k] for k in ("slot", "generation")}) == {}


def replay_opened(m, old):
    """For a channel whose listening side did not open it: it is taken back all the same."""
    m.relay.on("b:Granted", drop, 1)
    m.connect()
    m.relay.tell("b", "Opened", "up", **old["b:Opened"])
    wait_for(lambda: not m.open_channels(), what="the channel is taken back")
    return True


REPLAYED = [replay_handshake, replay_to_listener, replay_confirm, replay_cancel, replay_granted, replay_released,
            replay_opened]


@pytest.mark.parametrize("replay", REPLAYED, ids=lambda f: f.__name__.removeprefix("replay_"))
@attack(RELAY, "says again what was said in an earlier handshake",
        stops="fresh keys on both sides, `src/common/handshake.c`; sessions end, slots have generations, "
              "`src/sivshm-cad/session.c`, `control-methods.c`",
        control="what is said now, said by the relay in the daemon's place: a channel")
def test_replay(middle, control, replay):
    m = middle()
    live(m, "a", "Connect")
    live(m, "a", "Confirm")
    control.seen(m.connects())
    m.begin()
    old = recorded(m)
    m.begin()
    has_new = replay in (replay_cancel, replay_granted, replay_released)
    with m.listening():
        assert replay(m, old)
        wait_for(lambda: m.open_channels() == ({"a": 1, "b": 1} if has_new else {}), what="the new channel alone")


def forge_early(m):
    """Granted before Finish."""
    def rule(message):
        m.relay.tell("b", "Granted", session=body(message)["session"], slot=0, generation=1)
        return message
    m.relay.on("b:Finish", rule, 1)


def forge_without_grant(m):
    def rule(message):
        m.relay.tell("b", "Granted", session=body(m.relay.messages("b:Finish")[-1])["session"], slot=3, generation=7)
    m.relay.on("b:Finish=", rule, 1)


def forge_generation(m):
    m.relay.on("b:Granted", change(generation=lambda g: g + 1), 1)


def forge_slot(m):
    m.relay.on("b:Granted", change(slot=lambda s: s + 1), 1)


def forge_to_caller(m):
    def rule(message):
        m.relay.tell("a", "Granted", session=body(m.relay.messages("a:Confirm")[-1])["session"], slot=0, generation=1)
        return message
    m.relay.on("a:Confirm=", rule, 1)


TOOK_BACK = "the host took the grant back"
FORGED = {  # the caller's error, None: a channel that is taken back; what the listening guest names
    forge_early: ({"Closed", "PeerNotListening"}, "Granted out of order"),
    forge_without_grant: ({"Closed"}, TOOK_BACK),
    forge_generation: ({None, "Closed", "Revoked"}, TOOK_BACK),
    forge_slot: ({None, "Closed", "Revoked"}, TOOK_BACK),
    forge_to_caller: ({None, "Closed", "Revoked"}, ""),
}


@pytest.mark.parametrize("kind", FORGED, ids=lambda f: f.__name__.removeprefix("forge_"))
@attack(RELAY, "announces a grant that there is not: too early, without one, of another slot or generation, to the "
               "wrong end",
        stops="the kernel takes grants from the host's table alone, `src/kmod/grant.c`; order, `src/sivshmd/accept.c`",
        control="the true announcement through the same relay gives a channel")
def test_forged_grant(middle, control, kind):
    m = middle()
    control.seen(m.connects())
    kind(m)
    with m.listening():
        outcome, marks = m.try_connect()
        at_a, text = FORGED[kind]
        assert (outcome.at_a and outcome.at_a.name) in at_a, outcome
        wait_for(lambda: any(text in t for _, t in m.ends_at("b", marks)), what="b's error")
        wait_for(lambda: not m.open_channels(), what="no channel is left open")


ERRORS = {-32001: "NotAuthorized", -32012: "Closed", -32602: "HandshakeFailed", -32700: "Failed", 7: "Failed",
          -1: "Failed", 0: "TimedOut", 1 << 40: "TimedOut"}


# of Connect the host does not learn that it failed, and gives up in its own time: few cases
@pytest.mark.parametrize("key, code", [("a:Connect=", -32001), ("a:Connect=", -32602),
                                       *(("a:Confirm=", c) for c in ERRORS), *(("b:Incoming=", c) for c in ERRORS)])
@attack(RELAY, "answers with an error of its own, of every kind and none",
        stops="one table of names, `src/common/errors.c`; an answer that is none is dropped, `src/common/rpc.c`",
        control="the true answer through the same relay gives a channel")
def test_forged_error(middle, control, key, code):
    m = middle()
    control.seen(m.connects())

    def rule(message):
        return {"jsonrpc": "2.0", "id": message["id"], "error": {"code": code, "message": "n\x1b[31m\nno"}}
    m.relay.on(key, rule, 1)
    with m.listening():
        outcome, marks = m.try_connect(timeout=OWN_TIMEOUT)
        if key == "b:Incoming=" and code == -32012:
            refused(outcome, "PeerNotListening", "the daemon of VM b went away")
        elif key == "b:Incoming=" and ERRORS[code] != "TimedOut":
            refused(outcome, "HandshakeFailed", "")  # of the peer's errors few names go through
        else:
            refused(outcome, ERRORS[code], "")
        wait_for(lambda: m.ends_at("b", marks), what="b's error")
        wait_for(lambda: not m.open_channels(), what="no channel is left open")
