# SPDX-License-Identifier: LGPL-2.1-or-later
"""A third VM on the host, in another region, in none, and in the same: what it sees and reaches."""

import contextlib
import os
import xml.etree.ElementTree as etree

import pytest

pytest.importorskip("gi")

from lab import paths  # noqa: E402
from lab.attack import THIRD_VM, attack  # noqa: E402

from cads import BASE, PLACES, REGION, Edit, broken, cad, pair, sound, vm  # noqa: E402
from fake_vm import Handshake, RpcError, b64  # noqa: E402

POLICY, SESSION, CHANNEL = (f"src/sivshm-cad/{name}.c" for name in ("policy", "session", "channel"))
NO_MATTER_WHO = "policy_may_hold(config, revoked, from, why) < 0)"
TELLS_NAMES = Edit(POLICY, f"if ({NO_MATTER_WHO}\n\t\treturn;\n\tpeer_name_format(from, f);",
                   f"if (policy_may_hold(config, revoked, from, why) < 0 || check_target(config, to, why) < 0)\n"
                   "\t\treturn;\n\tpeer_name_format(from, f);")
ANY_RULE = Edit(POLICY, "*rule = config_find_rule(config, from, to);", "*rule = &config->rules[0];")
ANY_REGION = (Edit(POLICY, "for (size_t i = 0; i < config->n_regions; i++) {", "if (config->n_regions < 1000)\n\t\treturn 0;\n"
                   "\tfor (size_t i = 0; i < config->n_regions; i++) {"),
              Edit("src/sivshm-cad/session-relay.c", "if (!channel_is_possible(m, vm, to_vm))",
                   "if (0 && !channel_is_possible(m, vm, to_vm))"))
ANY_SESSION = Edit(SESSION, "SESSION_ID_SIZE) == 0 && (s->from_vm == vm || s->to_vm == vm))",
                   "SESSION_ID_SIZE) == 0 && vm)")

everywhere = pytest.mark.parametrize("place", PLACES)


def refusal(action):
    """(code, text) of an answer that is an error."""
    with pytest.raises(RpcError) as caught:
        action()
    return caught.value.code, caught.value.text


def connect(machine, to, source="logger"):
    return machine.daemon.call("Connect", **{"from": source}, to=to, ringSize=4096, flight=b64(b"client hello"))


# names

NAMES = ["bravo/dashboard", "bravo/nothing", "alpha/sensor", "alpha/camera", "zulu/dashboard",
         "zulu/nothing"]


def answers_to_names(machine):
    """What asking for each name says, with the name itself taken out."""
    told = set()
    for name in NAMES:
        code, text = refusal(lambda: connect(machine, name))
        told.add((code, text.replace(name, "NAME")))
    return told


@attack(THIRD_VM, "finds out by asking which machines and services there are, listen or are revoked",
        stops="without a rule every name gets the same answer, `policy.c`",
        control="a build that looks for the service before the rule tells three things apart")
@everywhere
def test_names(place, control):
    with cad(sound(), PLACES[place]) as daemon:
        pair(daemon)
        carol = vm(daemon, "carol", REGION[place])
        before = answers_to_names(carol)
        assert len(before) == 1, before
        daemon.call("RevokeService", "ss", "bravo/dashboard", "stolen")
        daemon.call("RevokeVM", "ss", "alpha", "stolen")
        assert answers_to_names(carol) == before
    with cad(broken(TELLS_NAMES), PLACES[place]) as daemon:
        pair(daemon)
        control.seen(len(answers_to_names(vm(daemon, "carol", REGION[place]))) == 3)


@attack(THIRD_VM, "acts as a service of another VM: connects, listens, asks for a certificate, and compares the errors",
        stops="a VM holds the names in its own `Services=`, whatever others hold, `policy.c`",
        control="with its own service the same requests are granted")
@everywhere
def test_names_of_others(place, control):
    with cad(sound(), PLACES[place]) as daemon:
        pair(daemon)
        carol = vm(daemon, "carol", REGION[place])
        asks = {"Listen": lambda name: carol.daemon.call("Listen", service=name),
                "Connect": lambda name: connect(carol, "bravo/dashboard", name),
                "IssueCertificate": lambda name: carol.daemon.call("IssueCertificate", service=name, csr="none")}
        for method, ask in asks.items():
            told = {(code, text.replace(name, "NAME")) for name in ("sensor", "dashboard", "nothing")
                    for code, text in [refusal(lambda: ask(name))]}
            assert len(told) == 1 and -32001 in told.pop(), (method, told)
        assert daemon.vms()["carol"]["listeners"] == []
        carol.daemon.call("Listen", service="logger")
        control.seen(daemon.vms()["carol"]["listeners"] == ["logger"])


# channels

@attack(THIRD_VM, "connects to a listening service that no rule lets it connect to",
        stops="default deny, asked before the peer hears of it, `policy.c`",
        control="a build that takes any rule, and joins VMs without a region, asks the peer")
@everywhere
def test_connect(place, control):
    with cad(sound(), PLACES[place]) as daemon:
        _, bravo = pair(daemon)
        carol = vm(daemon, "carol", REGION[place])
        assert refusal(lambda: connect(carol, "bravo/dashboard"))[0] == -32002
        assert not bravo.daemon.heard("Incoming") and not daemon.channels()
    with cad(broken(ANY_RULE, *ANY_REGION), PLACES[place]) as daemon:
        _, bravo = pair(daemon)
        carol = vm(daemon, "carol", REGION[place])
        h = Handshake(carol, bravo, "logger").connect()
        control.seen(h.incoming()["from"] == "carol/logger")


@attack(THIRD_VM, "connects with a rule, but no region that has both as members",
        stops="a channel needs a common region, `policy.c`, `session-relay.c`",
        control="a build without the question for the region asks the peer")
@pytest.mark.parametrize("place", ["of another region", "of no region"])
def test_connect_without_region(place, control):
    config = {**PLACES[place], "policy.d/90-careless.conf": "[Allow carol/logger bravo/dashboard]\n"}
    with cad(sound(), config) as daemon:
        _, bravo = pair(daemon)
        carol = vm(daemon, "carol", REGION[place])
        assert refusal(lambda: connect(carol, "bravo/dashboard"))[0] == -32004
        assert not bravo.daemon.heard("Incoming") and not daemon.channels()
    with cad(broken(*ANY_REGION), config) as daemon:
        _, bravo = pair(daemon)
        carol = vm(daemon, "carol", REGION[place])
        control.seen(Handshake(carol, bravo, "logger").connect().incoming())


@attack(THIRD_VM, "ends, confirms or opens a handshake of two others by its session id, and their channel by its slot",
        stops="sessions and slots are looked up for the VM of the socket, `session.c`, `channel.c`",
        control="a build that looks sessions up by id alone: the handshake is ended")
@everywhere
def test_sessions_of_others(place, control):
    def under_way(binary):
        daemon = cads.enter_context(cad(binary, PLACES[place]))
        alpha, bravo = pair(daemon)
        carol = vm(daemon, "carol", REGION[place])
        h = Handshake(alpha, bravo).connect()
        h.incoming()
        h.offer()
        return daemon, carol, h

    with contextlib.ExitStack() as cads:
        daemon, carol, h = under_way(sound())
        for session in (h.session, "00" * 16):
            told = [refusal(lambda: carol.daemon.call("Cancel", session=session)),
                    refusal(lambda: carol.daemon.call("Confirm", session=session, flight=b64(b"x"),
                                                      peer="spiffe://test.example/vm/bravo/service/dashboard",
                                                      exporter=b64(bytes(32))))]
            known = told if session == h.session else known  # noqa: F821
        assert told == known and {code for code, _ in told} == {-32014}
        carol.daemon.notify("Opened", session=h.session, slot=0, generation=1)
        h.confirm()
        h.finish()
        h.granted()
        for ref in (h.at_a, h.at_b):
            carol.daemon.notify("Opened", session=h.session, **ref)
            assert carol.daemon.call("Released", **ref) == {}
        h.opened()
        (channel,) = daemon.channels()
        assert channel["state"] == "active"
    with contextlib.ExitStack() as cads:
        daemon, carol, h = under_way(broken(ANY_SESSION))
        control.seen(carol.daemon.call("Cancel", session=h.session) == {})


# what it is given

class Ears:
    """Everything that arrives on a VM's control port."""

    def __init__(self, machine):
        self.machine, self.heard = machine, b""

    def listen(self, timeout=0.2):
        machine = self.machine
        while machine.daemon.fill(timeout):
            pass
        self.heard += repr(machine.daemon.inbox).encode()
        return self.heard.decode()


FOREIGN = ["alpha", "bravo", "sensor", "camera", "dashboard", "recorder", "demo"]


def methods_of_the_host_bus():
    tree = etree.parse(paths.ROOT / "dbus/org.sivshm.ca1.xml")
    return [method.get("name") for method in tree.iter("method")]


@attack(THIRD_VM, "calls on its control port what the host's bus offers, or what only the host says, and listens",
        stops="the port knows eight methods, all of them about the VM's own, `control-methods.c`",
        control="the peer of a handshake does hear the other's name there")
@everywhere
def test_control_port(place, control):
    host_says = ["Incoming", "Finish", "Granted", "Abort", "Revoked", "CertificateRevoked", "Reset"]
    names = methods_of_the_host_bus() + host_says
    assert "ListVMs" in names and "RevokeVM" in names
    with cad(sound(), PLACES[place]) as daemon:
        alpha, bravo = pair(daemon)
        carol = vm(daemon, "carol", REGION[place])
        ears = {machine: Ears(machine) for machine in (bravo, carol)}
        heard = repr(carol.daemon.welcome)
        for name in names:
            for params in ({}, {"vm": 0}):
                code, text = refusal(lambda: carol.daemon.call(name, **params))
                assert code == -32601, (name, code, text)
                heard += text
            carol.daemon.call("Unlisten", service="logger")  # 16 unknown ones in a row end the connection
        h = Handshake(alpha, bravo).run()
        daemon.call("RevokeChannel", "ss", daemon.channels()[0]["id"], "test")
        assert bravo.daemon.await_method("Revoked")["params"]["slot"] == h.at_b["slot"]
        heard += ears[carol].listen()
        assert not [name for name in FOREIGN if name in heard], heard
        Handshake(alpha, bravo).connect()
        control.seen("alpha/sensor" in ears[bravo].listen())


@attack(THIRD_VM, "reads grants of others in its own grant table, and waits for their doorbells",
        stops="a table and doorbells for each VM, written for its own channels, `channel-grant.c`",
        control="a channel of its own shows in its table and rings its bell")
@pytest.mark.parametrize("place", ["of another region", "of the same region"])
def test_grants(place, control):
    peer, service = {"of another region": ("delta", "archive"), "of the same region": ("bravo", "recorder")}[place]
    with cad(sound(), PLACES[place]) as daemon:
        alpha, bravo = pair(daemon)
        carol = vm(daemon, "carol", REGION[place])
        table = carol.folder / "grants"
        before = table.read_bytes()
        for _ in range(3):
            Handshake(alpha, bravo).run()
        device = carol.devices[REGION[place]]
        assert table.read_bytes() == before
        assert not any(device.bell(vector, 0) for vector in range(8))
        foreign = [name for name in FOREIGN if name.encode() in before and place == "of another region"]
        assert not foreign, foreign
        other = bravo if peer == "bravo" else vm(daemon, "delta", "other")
        other.daemon.call("Listen", service=service)
        h = Handshake(carol, other, "logger", service).run()
        control.seen(table.read_bytes() != before and device.bell())
        assert carol.table.states() == {h.at_a["slot"]: 1}


@attack(THIRD_VM, "rings every doorbell that it was given, to wake or confuse channels of others",
        stops="it is given those of its own regions' members, and none of vector 0, `member.c`",
        control="members of the same region do hear the other vectors")
@everywhere
def test_rings(place, control):
    with cad(sound(), PLACES[place]) as daemon:
        alpha, bravo = pair(daemon)
        carol = vm(daemon, "carol", REGION[place])
        given = {ident: bells for device in carol.devices.values() for ident, bells in device.peers.items()
                 if ident != device.id}
        for fd in sum(given.values(), []):
            os.eventfd_write(fd, 1)
        rang = {vector for machine in (alpha, bravo) for vector in range(8) if machine.devices["demo"].bell(vector, 0)}
        assert rang == (set(range(1, 8)) if place == "of the same region" else set())
    with cad(sound(), PLACES["of the same region"]) as daemon:
        alpha, _ = pair(daemon)
        carol = vm(daemon, "carol", "demo")
        os.eventfd_write(carol.devices["demo"].peers[alpha.devices["demo"].id][3], 1)
        control.seen(alpha.devices["demo"].bell(3))


@attack(THIRD_VM, "is started with more than its own: QEMU's arguments and the fds at its sockets",
        stops="both are made from the regions that it is a member of, `layout.c`, `member.c`",
        control="members of a region are given its sections")
@everywhere
def test_arguments(place, control):
    member = place == "of the same region"
    with cad(sound(), PLACES[place]) as daemon:
        alpha, bravo = pair(daemon)
        carol = vm(daemon, "carol", REGION[place])
        words = daemon.call("GetQemuArguments", "s", "carol")[0] + [daemon.call("GetLibvirtXML", "s", "carol")[0]]
        foreign = [word for word in words if "alpha" in word or "bravo" in word]
        if member:  # the others' sections, to read
            assert foreign and all("readonly=on" in word or "ivshmem-plain" in word for word in foreign), foreign
            assert not [word for word in words if "vm/alpha" in word or "vm/bravo" in word]
        else:
            assert not foreign, foreign
        for name, device in carol.devices.items():
            mine, (own,) = os.fstat(device.shm), [daemon.runtime / f"region/{name}/carol"]
            assert (mine.st_dev, mine.st_ino) == (own.stat().st_dev, own.stat().st_ino)
            assert len(device.peers) == (3 if member else 2)
        theirs = daemon.call("GetQemuArguments", "s", "alpha")[0]
        control.seen(any("region/demo/bravo" in word for word in theirs))
