# SPDX-License-Identifier: LGPL-2.1-or-later
"""A QEMU process that was taken over: as its user, in the host's files as the real unit lays them out."""

import array
import contextlib
import hashlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

pytest.importorskip("gi")

from lab.attack import QEMU, attack  # noqa: E402
from lab.world import RUNTIME, UIDS as WORLD_UIDS  # noqa: E402

from cads import BASE, UIDS, Edit, broken, cad, pair, sound, wait_for  # noqa: E402
from fake_vm import Device  # noqa: E402
from host_bus import DENIED, OTHER_CALLS, Host, property_calls, script  # noqa: E402

TREE, CONTROL, IVSHMEM = (f"src/sivshm-cad/{name}.c" for name in ("tree", "control", "ivshmem-server"))
LOOSE = (Edit(TREE, "u::rw-,g::r--,o::---", "u::rw-,g::rw-,o::rw-"),
         Edit(TREE, "name, 0660, 0)", "name, 0666, 0)"),
         Edit(TREE, "0, gid) < 0 || fchmod(fd, mode) < 0", "0, gid) < 0 || fchmod(fd, mode | 0777) < 0"))
NO_CREDENTIALS = (Edit(CONTROL, "uid == vm->config->uid)", "uid != 4242)"),
                  Edit(IVSHMEM, "uid != s->uid)", "uid == 4242)"))
STRANGER = 61003
REFUSED = {"EACCES", "EPERM", "EBADF", "EINVAL", "EXDEV", "ENOENT", "ENOTDIR", "EIO", "EFAULT"}


def run(uid, order, groups=()):
    """What a process of that user gets at."""
    jail = ["setpriv", f"--reuid={uid}", f"--regid={uid}",
            f"--groups={','.join(map(str, groups))}" if groups else "--clear-groups", "--no-new-privs",
            "--inh-caps=-all", "--bounding-set=-all", "--", *script("qemu_attack.py")]
    done = subprocess.run(jail, input=json.dumps(order) + "\n", text=True, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def all_refused(done, among=REFUSED):
    through = {act: said for act, said in done.items() if said not in among}
    assert done and not through, through


def what_done(done):
    return {act for act, said in done.items() if said == "done"}


@contextlib.contextmanager
def scratch(uid, parent="/dev/shm"):
    """A folder of the user's own, perhaps on the file system of the memory."""
    path = Path(parent) / f"sivshm-scratch.{os.getpid()}.{time.monotonic_ns():x}"
    path.mkdir()
    os.chown(path, uid, uid)
    try:
        yield path / "file"
    finally:
        shutil.rmtree(path)


def in_world(me="rtos", peer="ivi"):
    return {"runtime": str(RUNTIME), "me": me, "peer": peer, "region": "cockpit"}


def at(daemon, me="alpha", peer="bravo"):
    return {"runtime": str(daemon.runtime), "me": me, "peer": peer, "region": "demo"}


def memory():
    """Every section and table of the host: a digest, rights, place."""
    found = {}
    for path in sorted([RUNTIME, *RUNTIME.rglob("*")]):
        stat = path.lstat()
        digest = hashlib.sha1(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path)] = (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_ino, stat.st_size, digest)
    return found


@pytest.fixture
def still(world):
    """Nothing in the host's memory may differ after the attack."""
    before = memory()
    yield
    assert memory() == before


def others():
    """Attackers in the world: each VM against the other, and a user who is no VM at all."""
    return [(WORLD_UIDS["rtos"], in_world()), (WORLD_UIDS["ivi"], in_world("ivi", "rtos")),
            (STRANGER, in_world("third", "rtos")), (STRANGER, in_world("third", "ivi"))]


# files

@attack(QEMU, "lists and opens what is another's: folders, grant table, sections of regions it is not in, the CA's key",
        stops="a folder is for its VM's group, a file for its readers' groups, `tree.c`, `vm.c`, `region.c`",
        control="a build with careless modes lets all of it be read; its own it may read")
def test_look(world, still, control):
    order = {"do": ["look"], "files": [], "paths": []}
    for uid, where in others():
        paths = [f"{RUNTIME}/region/cockpit/{name}" for name in ("rtos", "ivi") if uid == STRANGER]
        all_refused(run(uid, {**where, **order, "paths": paths})["look"])
    key = f"/proc/{world.host.leader}/root/var/lib/sivshm-ca/ca.key"
    all_refused(run(WORLD_UIDS["rtos"], {**in_world(), **order, "paths": [key]})["look"])
    assert set(run(WORLD_UIDS["rtos"], {**in_world(), "do": ["read"]})["read"].values()) == {"done"}
    with cad(broken(*LOOSE), BASE) as daemon:
        pair(daemon)
        paths = [f"{daemon.runtime}/region/demo/{name}" for name in ("alpha", "bravo")]
        found = run(UIDS["carol"], {**at(daemon, "carol", "bravo"), **order, "paths": paths})["look"]
        control.seen(set(found.values()) == {"done"} or what_done(found) >= {f"open {path}" for path in paths})


@attack(QEMU, "writes what it may read, its peer's section and its own table: 27 ways to open, map, cut or give a file",
        stops="files are root's, 0640, and what is open is open for reading, `tree.c`",
        control="a file of its own is changed by each of the ways; a build with mode 0666 by those that open it")
def test_write(world, still, control):
    for uid, where in others()[:2]:
        all_refused(run(uid, {**where, "do": ["write"]})["write"])
    with scratch(UIDS["alpha"]) as file:
        own = run(UIDS["alpha"], {"do": ["write_own"], "file": str(file)})["write_own"]
        assert set(own) - what_done(own) == {"open by handle"}, own  # for who may pass by every mode
    with cad(broken(*LOOSE), BASE, ends=(0, -signal.SIGBUS)) as daemon:  # a file that is cut ends it
        pair(daemon)
        done = what_done(run(UIDS["alpha"], {**at(daemon), "do": ["write"]})["write"])
        control.seen({f"{file}: {act}" for file in ("grant table", "peer's section") for act in (
            "open read-write", "reopen by /proc/self/fd", "reopen an O_PATH", "truncate")} <= done)


@attack(QEMU, "plants files, links, sockets where the daemon or a QEMU opens something; unlinks or exchanges theirs",
        stops="no folder is writable for anybody but root, `tree.c`",
        control="in a build whose folders are writable it is done")
def test_plant(world, still, control):
    for uid, where in others()[:3]:
        with scratch(uid) as file:
            all_refused(run(uid, {**where, "do": ["plant"], "file": str(file)})["plant"])
    with cad(sound(), BASE) as daemon, scratch(UIDS["alpha"], daemon.folder) as file:  # on the same file system
        pair(daemon)
        all_refused(run(UIDS["alpha"], {**at(daemon), "do": ["plant"], "file": str(file)})["plant"])
    with cad(broken(*LOOSE), BASE) as daemon, scratch(UIDS["alpha"], daemon.folder) as file:
        done = what_done(run(UIDS["alpha"], {**at(daemon), "do": ["plant"], "file": str(file)})["plant"])
        control.seen({"symlink in peer's vm", "unlink control.sock in peer's vm", "exchange bravo in region"} <= done)


# sockets

@attack(QEMU, "connects to the control port and the device socket of another VM",
        stops="mode 0660 with the VM's group, `tree.c`",
        control="a build with mode 0666 and without the question for the user answers")
def test_sockets(world, still, control):
    for uid, where in others():
        all_refused(run(uid, {**where, "do": ["peer_sockets"]})["peer_sockets"], {"EACCES"})
    with cad(broken(*LOOSE, *NO_CREDENTIALS), BASE) as daemon:
        found = run(UIDS["alpha"], {**at(daemon), "do": ["peer_sockets"]})["peer_sockets"]
        control.seen(set(found.values()) == {"done"})


@attack(QEMU, "the same where the mode lets it: with the other VM's group, or sockets for everybody, and with Hello",
        stops="`SO_PEERCRED` has to be the VM's own user, `src/sivshm-cad/control.c`, `ivshmem-server.c`",
        control="a build without that question answers")
def test_peer_credentials(world, still, control):
    for me, peer in (("rtos", "ivi"), ("ivi", "rtos")):
        mark = f"VM {peer}: a process that is not uid {WORLD_UIDS[peer]} tried its control port"
        count = f"journalctl --sync; journalctl -u sivshm-cad -o cat --no-pager | grep -c '{mark}'"
        before = int(world.host.run(count)[1])
        found = run(WORLD_UIDS[me], {**in_world(me, peer), "do": ["peer_sockets"]}, [WORLD_UIDS[peer]])
        all_refused(found["peer_sockets"], {"EOF"})
        assert int(world.host.run(count)[1]) == before + 2
    for binary, said in ((broken(*LOOSE), {"EOF"}), (broken(*LOOSE, *NO_CREDENTIALS), {"done"})):
        with cad(binary, BASE) as daemon:
            found = [set(run(UIDS[me], {**at(daemon, me), "do": ["peer_sockets"]})["peer_sockets"].values())
                     for me in ("alpha", "carol")]
            if said == {"EOF"}:
                assert found == [said] * 2 and not daemon.vms()["bravo"]["control"]
    control.seen(found == [{"done"}] * 2)


@attack(QEMU, "connects a second time to its own control port and device socket",
        stops="one connection for each, `src/sivshm-cad/control.c`, `ivshmem-server.c`",
        control="as the first one it is answered")
def test_second_connection(world, still, control):
    for vm_name in WORLD_UIDS:
        found = run(WORLD_UIDS[vm_name], {**in_world(vm_name), "do": ["own_sockets"]})["own_sockets"]
        all_refused(found, {"EOF"})
    world.each(world.wait_connected)
    with cad(sound(), BASE) as daemon:
        found = run(UIDS["alpha"], {**at(daemon), "do": ["own_sockets"]})["own_sockets"]
        control.seen(set(found.values()) == {"done"})


def send_with_fds(sock, data, count):
    pipe = os.pipe()
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [pipe[0]] * count))])
    for fd in pipe:
        os.close(fd)


@attack(QEMU, "sends garbage and 253 fds at a time to its device socket and its control port",
        stops="a client says nothing: bytes end its connection; fds are never taken, `ivshmem-server.c`, `rpc-link.c`",
        control="who says nothing stays connected; a connection that is taken counts as an fd")
def test_garbage(control):
    with cad(sound(), BASE) as daemon:
        alpha, bravo = pair(daemon)
        fds = f"/proc/{daemon.pid}/fd"
        before, socket_path = len(os.listdir(fds)), daemon.runtime / "vm/alpha/demo.sock"
        alpha.unplug()
        wait_for(lambda: len(os.listdir(fds)) == before - 1, what="a connection less")
        for data in (b"\0", b"x" * 7, (2 ** 63).to_bytes(8, "little") * 64, os.urandom(65536)):
            for count in (0, 1, 253):
                device = Device(socket_path, UIDS["alpha"])
                device.sock.setblocking(False)
                with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
                    send_with_fds(device.sock, data, count) if count else device.sock.send(data)
                device.sock.setblocking(True)
                device.sock.settimeout(10)
                with contextlib.suppress(ConnectionResetError):
                    while device.sock.recv(65536):
                        pass
                device.close()
                wait_for(lambda: not daemon.vms()["alpha"]["connected"], what="alpha's device is free")
        frame = b'{"jsonrpc":"2.0","id":7,"method":"Unlisten","params":{"service":"sensor"}}\0'
        for count in (1, 253, 253):
            send_with_fds(alpha.daemon.sock, frame, count)
            assert alpha.daemon.answer(7) == {}
        assert len(os.listdir(fds)) == before - 1
        device = alpha.plug()
        device.assert_quiet()
        assert not select.select([device.sock], [], [], 0)[0]  # not even its end
        bravo.daemon.call("Listen", service="recorder")
        control.seen(len(os.listdir(fds)) == before)


# processes

@attack(QEMU, "takes fds and memory of another VM's QEMU and of `sivshm-cad`, attaches to them, signals them",
        stops="the kernel: a user of its own for each QEMU",
        control="its own QEMU's it may: the same user")
def test_processes(world, still, control):
    (daemon,) = [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if is_daemon(entry, world)]
    pids = {vm_name: guest.process.pid for vm_name, guest in world.guests.items()}
    for me, peer in (("rtos", "ivi"), ("ivi", "rtos")):
        order = {**in_world(me, peer), "do": ["processes"], "pids": {peer: pids[peer], "sivshm-cad": daemon}}
        all_refused(run(WORLD_UIDS[me], order)["processes"], {"EACCES", "EPERM"})
    order = {**in_world(), "do": ["processes"], "pids": {"rtos": pids["rtos"]}}
    control.seen({"rtos: list its fds", "rtos: signal it"} <= what_done(run(WORLD_UIDS["rtos"], order)["processes"]))


def is_daemon(entry, world):
    with contextlib.suppress(OSError):
        return (entry / "comm").read_text() == "sivshm-cad\n" and \
            os.readlink(entry / "ns/pid") == os.readlink(f"/proc/{world.host.leader}/ns/pid")
    return False


@attack(QEMU, "uses the fds that QEMU itself has of the memory: opens them again to write, maps, writes, seals",
        stops="`readonly=on`: QEMU opened them for reading, and their mode refuses more, `qemu-args.c`, `tree.c`",
        control="the fd of plain ivshmem's memory, taken the same way, writes")
def test_through_qemu(world, still, control):
    """Its own section it may write; QEMU closes that fd when its control port is led elsewhere (test_middle_guests)."""
    for me, peer in (("rtos", "ivi"), ("ivi", "rtos")):
        own = [str(world.plain), f"{RUNTIME}/region/cockpit/{me}"]
        order = {**in_world(me, peer), "do": ["through_qemu"], "qemu": world.guests[me].process.pid, "writable": own}
        found = run(WORLD_UIDS[me], order)["through_qemu"]
        done = [found.pop(f"write to {path}", None) for path in own]
        control.seen(done[0] == "done")
        for act in ("reopen", "seal"):
            found.pop(f"{act} {world.plain}", None)
        held = {f"{RUNTIME}/vm/{me}/grants", f"{RUNTIME}/region/cockpit/{peer}"}
        assert held <= {act.rpartition(" ")[2] for act in found}
        all_refused(found)


# the bus

@attack(QEMU, "calls `sivshm-cad` on the host's bus",
        stops="the bus lets root alone talk to the name, `org.sivshm.ca1.conf`",
        control="root's same calls are answered")
def test_bus(world, control):
    host = Host(world)
    calls = host.every_call() + property_calls() + OTHER_CALLS
    host.run("useradd --uid 61001 qemu-rtos")
    try:
        before = host.state()
        assert set(host.attack(WORLD_UIDS["rtos"], "calls", calls=calls)) == {DENIED}
        assert host.state() == before
    finally:
        host.run("userdel qemu-rtos")
    questions = [call for call in host.every_call() if call[1].startswith(("List", "Explain", "Get"))]
    control.seen(set(host.attack(0, "calls", calls=questions)) == {None})
