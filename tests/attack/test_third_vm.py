# SPDX-License-Identifier: LGPL-2.1-or-later
"""A third VM on the host, in another region, in none, and in the same: what it sees and reaches."""

import contextlib
import json
import mmap
import os
import xml.etree.ElementTree as etree
from pathlib import Path

import pytest

pytest.importorskip("gi")

from lab import image as images  # noqa: E402
from lab import paths, qemu, story  # noqa: E402
from lab.attack import THIRD_VM, attack  # noqa: E402
from lab.world import RUNTIME  # noqa: E402

from cads import PLACES, REGION, Edit, broken, cad, pair, sound, vm  # noqa: E402
from fake_vm import Handshake, RpcError, Vm, b64, spiffe  # noqa: E402

POLICY, SESSION, CHANNEL = (f"src/sivshm-cad/{name}.c" for name in ("policy", "session", "channel"))
MAY_HOLD = "policy_may_hold(config, revoked, from, why) < 0"
TELLS_NAMES = Edit(POLICY, f"if ({MAY_HOLD})\n\t\treturn;\n\tpeer_name_format(from, f);",
                   f"if ({MAY_HOLD} || check_target(config, to, why) < 0)\n\t\treturn;\n\tpeer_name_format(from, f);")
ANY_RULE = Edit(POLICY, "*rule = config_find_rule(config, from, to);", "*rule = &config->rules[0];")
LOOK_FOR_REGION = "for (size_t i = 0; i < config->n_regions; i++) {"
ANY_REGION = (Edit(POLICY, LOOK_FOR_REGION, f"if (config->n_regions < 1000)\n\t\treturn 0;\n\t{LOOK_FOR_REGION}"),
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
        stops="without a rule every name gets the same answer, `src/sivshm-cad/policy.c`",
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
        stops="a VM holds the names in its own `Services=`, whatever others hold, `src/sivshm-cad/policy.c`",
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
        stops="default deny, asked before the peer hears of it, `src/sivshm-cad/policy.c`",
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
        stops="a channel needs a common region, `src/sivshm-cad/policy.c`, `session-relay.c`",
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
    def under_way(stack, binary):
        daemon = stack.enter_context(cad(binary, PLACES[place]))
        alpha, bravo = pair(daemon)
        carol = vm(daemon, "carol", REGION[place])
        h = Handshake(alpha, bravo).connect()
        h.incoming()
        h.offer()
        return daemon, carol, h

    with contextlib.ExitStack() as stack:
        daemon, carol, h = under_way(stack, sound())
        confirm = {"flight": b64(b"x"), "peer": spiffe("bravo/dashboard"), "exporter": b64(bytes(32))}
        told = [[refusal(lambda: carol.daemon.call("Cancel", session=session)),
                 refusal(lambda: carol.daemon.call("Confirm", session=session, **confirm))]
                for session in (h.session, "00" * 16)]  # under way, and never heard of
        assert told[0] == told[1] and {code for code, _ in told[0]} == {-32014}
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
    with contextlib.ExitStack() as stack:
        _, carol, h = under_way(stack, broken(ANY_SESSION))
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


# a third guest, beside the two of the example: a member of another region, whose two other members the test plays

TRIO = {
    "vm.d/60-third.conf": "[VM third]\nUser=61003\nServices=logger\n",
    "vm.d/61-first.conf": "[VM first]\nUser=61011\nServices=probe\n",
    "vm.d/62-second.conf": "[VM second]\nUser=61012\nServices=archive vault\n",
    "region.d/60-trio.conf": "[Region trio]\nMembers=third first second\nSectionSize=1M\n",
    "policy.d/60-trio.conf": "[Allow first/probe second/vault]\n[Allow third/logger second/archive]\n",
}
SECTION, DOMAIN = 1 << 20, "cockpit.example"


class ThirdWorld:
    """The two guests of the world, a third one, and two more members of its region."""

    def __init__(self, world, log_dir):
        self.world, self.log_dir, self.runtime = world, log_dir, RUNTIME
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        with contextlib.ExitStack() as guard:
            guard.enter_context(self.stack)
            self.configure()
            destdir = images.make_payload(self.world.destdir)
            self.guest = self.stack.enter_context(qemu.Guest(
                "third", self.world.image, payload=destdir, uid=61003, gid=61003, args=self.world.qemu_args("third"),
                log_dir=self.log_dir))
            self.first, self.second = self.play("first", 61011), self.play("second", 61012)
            self.second.daemon.call("Listen", service="vault")
            self.second.daemon.call("Listen", service="archive")
            self.guest.wait_up(240)
            self.guest.put_file("/root/guest_attack.py", (Path(__file__).parent / "guest_attack.py").read_text())
            guard.pop_all()
        return self

    def __exit__(self, *exc):
        self.stack.close()

    def configure(self):
        host = self.world.host
        for name, text in TRIO.items():
            host.put_file(f"/etc/sivshm-ca/{name}", text)
        self.stack.callback(self.forget)
        host.run("sivshmctl --host reload", check=True)

    def forget(self):
        """When the last of the three is gone they can be."""
        names = " ".join(f"/etc/sivshm-ca/{name}" for name in TRIO)
        self.world.host.run(f"rm -f {names}; for i in 1 2 3 4 5; do sivshmctl --host reload && break; sleep 1; done")
        assert {row[0] for row in self.world.bus.call("ListVMs")[0]} == {"rtos", "ivi"}

    def play(self, name, uid):
        machine = Vm(self, name, uid)
        self.stack.callback(machine.close)
        return machine.boot("trio")

    def join(self):
        """A channel of the two others."""
        h = Handshake(self.first, self.second, "probe", "vault").connect()
        h.incoming()
        h.offer()
        h.confirm(spiffe("second/vault", DOMAIN))
        h.finish(spiffe("first/probe", DOMAIN))
        return h.granted().opened()

    def attack(self, do, **order):
        out = self.guest.run(["/usr/bin/python3", "/root/guest_attack.py"], 120, check=True,
                             input=json.dumps({"do": do, **order}) + "\n")[1]
        return json.loads(out.splitlines()[-1])

    def begin_attack(self, do, **order):
        return self.guest.run_bg(["/usr/bin/python3", "/root/guest_attack.py"],
                                 input=json.dumps({"do": do, **order}) + "\n")

    def end_attack(self, pid):
        rc, out, err = self.guest.wait(pid, 120)
        assert rc == 0, err + out
        return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def trio(shared_world, log_dir):
    with ThirdWorld(shared_world, log_dir) as third:
        yield third


@contextlib.contextmanager
def marked(trio):
    """What each other VM wrote: in the region of the two guests, and in that of the third one."""
    files = {name: RUNTIME / f"region/cockpit/{name}" for name in ("rtos", "ivi")}
    marks = {name: f"secret of {name} {os.urandom(12).hex()}" for name in (*files, "first", "second")}
    with contextlib.ExitStack() as stack:
        for name, path in files.items():
            file = stack.enter_context(open(path, "r+b", buffering=0))
            memory = stack.enter_context(mmap.mmap(file.fileno(), 0))
            place = slice(-4096, -4096 + len(marks[name]))
            memory[place] = marks[name].encode()
            stack.callback(memory.__setitem__, place, bytes(len(marks[name])))
        for machine in (trio.first, trio.second):
            mark = marks[machine.name].encode()
            machine.devices["trio"].map[SECTION - 8192:SECTION - 8192 + len(mark)] = mark
        yield marks


@attack(THIRD_VM, "a booted guest without the module, root in it, reads and writes every BAR that it has",
        stops="QEMU has its own regions' memory alone, the others' sections and the table read-only, `qemu-args.c`",
        control="it finds what members of its own region wrote (see Outside); its own section takes a store")
def test_bars(world, trio, control):
    trio.guest.run("rmmod sivshm")
    files = [RUNTIME / "region/trio" / name for name in ("first", "second")] + [RUNTIME / "vm/third/grants"]
    with marked(trio) as marks:
        before = [path.read_bytes() for path in files]
        found = trio.attack("bars", marks=marks, write=os.urandom(64).hex())
        assert [path.read_bytes() for path in files] == before
    assert set(found) == {f"{slot}.2" for slot in range(0x10, 0x14)}, found  # and no other large BAR
    table, own, first, second = (found[f"{slot}.2"] for slot in range(0x10, 0x14))
    seen = set(table["found"] + own["found"] + first["found"] + second["found"])
    assert not seen & {"rtos", "ivi"}, seen
    assert not any(table["sticks"] + first["sticks"] + second["sticks"]), found
    control.seen((first["found"], second["found"], own["sticks"]) == (["first"], ["second"], [True] * 3))


def interrupts(guest):
    """How often its sivshm devices were rung."""
    lines = [line.split() for line in guest.run("grep sivshm /proc/interrupts", check=True)[1].splitlines()]
    return [words[1] for words in lines]


@attack(THIRD_VM, "a booted guest, root in it, rings every vector of every id at its own device",
        stops="the device knows the eventfds of its own region alone, and none of vector 0, `member.c`",
        control="members of its region hear the other vectors")
def test_guest_rings(world, trio, control):
    trio.guest.run("rmmod sivshm")
    before = [interrupts(guest) for guest in world.guests.values()]
    assert trio.attack("ring", peers=64, vectors=16) == 4 * 64 * 16  # the plain devices have such a register too
    heard = [{vector for vector in range(8) if machine.devices["trio"].bell(vector, 0)}
             for machine in (trio.first, trio.second)]
    assert [interrupts(guest) for guest in world.guests.values()] == before and all(before)
    assert not any(0 in vectors for vectors in heard)
    control.seen(heard == [set(range(1, 8))] * 2)


@attack(THIRD_VM, "a booted guest, root in it, asks its control port for services of others, and opens their slots",
        stops="the host's policy; the module takes windows from its own VM's table, `src/sivshm-cad/policy.c`, "
              "`src/kmod/grant.c`, `map.c`",
        control="the channel that a rule gives it opens, and its window shows what the peer wrote there")
def test_guest_opens(world, trio, control):
    trio.guest.run("modprobe sivshm", check=True)
    others = [trio.join() for _ in range(3)]
    slots = sorted({(ref["slot"], ref["generation"]) for h in others for ref in (h.at_a, h.at_b)})
    flight = b64(b"client hello")
    names = ["ivi/dashboard", "rtos/sensor", "second/vault", "zulu/nothing"]
    ask = [["Connect", {"from": "logger", "to": name, "ringSize": 4096, "flight": flight}] for name in names]
    ask += [["Listen", {"service": name}] for name in ("dashboard", "vault", "nothing")] + [["ListVMs", {}]]
    with story.echo(world):  # ivi/dashboard listens
        pid = trio.begin_attack("port", ask=ask, handshake=["logger", "second/archive"], slots=slots)
        request = trio.second.daemon.await_method("Incoming", 60)
        assert (request["params"]["from"], request["params"]["to"]) == ("third/logger", "archive")
        trio.second.daemon.reply(request, flight=flight)
        trio.second.daemon.reply(trio.second.daemon.await_method("Finish", 60), exporter=b64(bytes(32)),
                                 peer=spiffe("third/logger", DOMAIN))
        mine = trio.second.daemon.await_method("Granted", 60)["params"]
        # the fresh window is zero until this; the guest reads it later
        grant = trio.second.table.grant(mine["slot"])
        secret = os.urandom(64)
        trio.second.devices["trio"].map[grant["tx_offset"] + 4096:grant["tx_offset"] + 4160] = secret
        found = trio.end_attack(pid)
    told = {(code, text.replace(name, "NAME")) for name, (code, text) in zip(names, found["answers"])}
    assert len(told) == 1 and told.pop()[0] == -32002, found["answers"]
    assert [code for code, _ in found["answers"][len(names):]] == [-32001] * 3 + [-32601]
    assert not [word for word in ("camera", "recorder", "probe") if word in found["heard"]]
    assert len(found["foreign"]) >= 2 and set(found["foreign"]) <= {"ESTALE", "ENOENT"}, found
    assert set(found["beyond"]) <= {"EINVAL", "ENOMEM"}, found["beyond"]
    control.seen(found["rx"] == secret.hex())
    trio.guest.assert_kernel_clean()
