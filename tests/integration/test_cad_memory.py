# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sections, doorbells and grants: who sees what, and that a window is nobody else's too early."""

import fcntl
import mmap
import os
import socket
import time

import pytest

pytest.importorskip("gi")

from cad import CONFIG, UID_A, UID_B, UID_C, wait_for  # noqa: E402
from cad_fixtures import cad, cad_binary, pair, private_bus  # noqa: E402, F401
from fake_vm import ACTIVE, DRAINING, FREE, REVOKED, Device, Handshake, Vm, identity  # noqa: E402

THREE = {**CONFIG, "vm.d/30-c.conf": f"[VM c]\nUser={UID_C}\nServices=logger\n",
         "region.d/10-demo.conf": "[Region demo]\nMembers=a b c\nSectionSize=1M\nVectors=3\n"}


@pytest.fixture
def channel(pair):
    cad, a, b = pair
    b.daemon.call("Listen", service="dashboard")
    h = Handshake(a, b).run()
    for vm in (a, b):
        while vm.device.bell(timeout=0):
            pass
    return cad, a, b, h


# the ivshmem protocol

def test_peers_come_and_go(cad):
    cad.configure(THREE)
    cad.start()
    a, b, c = (Vm(cad, n, u, vectors=3) for n, u in (("a", UID_A), ("b", UID_B), ("c", UID_C)))
    a.plug(), c.plug()
    assert (a.device.id, c.device.id) == (0, 2)
    # everybody is introduced, whether there or not
    assert set(a.device.peers) == set(c.device.peers) == {0, 1, 2}
    b.plug()
    assert (b.device.id, set(b.device.peers)) == (1, {0, 1, 2})
    # a vector of a peer rings just that one
    os.eventfd_write(b.device.peers[2][1], 1)
    assert c.device.bell(1) and not c.device.bell(2, 0) and not a.device.bell(1, 0)
    c.unplug()
    wait_for(lambda: not cad.vms()["c"]["connected"], what="c is gone")
    c.plug()
    assert c.device.id == 2  # the same as before
    os.eventfd_write(a.device.peers[2][1], 1)
    assert c.device.bell(1)
    for vm in (a, b, c):
        vm.device.assert_quiet()
        vm.close()


def test_vector_zero_is_the_hosts(pair):
    """A peer can neither ring it nor take a ring away."""
    cad, a, b = pair
    os.write(b.device.peers[a.device.id][0], (1).to_bytes(8, "little"))
    assert not a.device.bell(0, 0.2)
    b.daemon.call("Listen", service="dashboard")
    os.set_blocking(b.device.peers[a.device.id][0], False)
    Handshake(a, b).run()
    for _ in range(3):
        try:
            os.read(b.device.peers[a.device.id][0], 8)
        except BlockingIOError:
            pass
    assert a.device.bell(0)


def test_qemu_cannot_make_the_host_wait(channel):
    """The open file of an eventfd is shared: a QEMU that was taken over can fill it and make writes to it block.
    With a write() in bell_ring() the daemon never comes back from the withdrawal."""
    cad, a, b, h = channel
    bell = a.device.peers[a.device.id][0]
    os.write(bell, (2**64 - 2).to_bytes(8, "little"))
    os.set_blocking(bell, True)
    cad.call("RevokeChannel", "ss", a.table.grant(h.at_a["slot"])["channel"].hex(), "test")
    assert b.daemon.await_method("Revoked")
    assert a.table.grant(h.at_a["slot"])["state"] == b.table.grant(h.at_b["slot"])["state"] == REVOKED
    os.set_blocking(bell, False)


def test_second_device_is_refused(pair):
    cad, a, _ = pair
    with pytest.raises(EOFError):
        Device(a.folder / "demo.sock", UID_A).setup(8)
    assert cad.vms()["a"]["connected"] == 1
    a.unplug()
    wait_for(lambda: not cad.vms()["a"]["connected"], what="a is gone")
    a.plug()


def test_client_that_talks_is_dropped(pair):
    cad, a, b = pair
    a.device.sock.send(b"\0" * 8)
    wait_for(lambda: not cad.vms()["a"]["connected"], what="a is dropped")


def test_client_that_does_not_read(cad):
    """It waits for itself alone; when it reads at last, everything is there."""
    cad.configure({**THREE, "region.d/10-demo.conf": "[Region demo]\nMembers=a b c\nSectionSize=1M\nVectors=64\n"})
    cad.start()
    a, b = (Vm(cad, n, u, vectors=64) for n, u in (("a", UID_A), ("b", UID_B)))
    slow = Device(a.folder / "demo.sock", UID_A)
    slow.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
    b.plug()
    assert cad.vms()["b"]["connected"]
    slow.setup(64)
    slow.assert_quiet()
    slow.close(), b.close()


def test_client_that_hangs_up_early(cad):
    """At every message of its welcome."""
    cad.configure(THREE)
    cad.start()

    def hang_up_after(n):
        device = Device(cad.runtime / "vm/a/demo.sock", UID_A)
        for _ in range(n):
            device.receive()
        device.close()
        wait_for(lambda: not cad.vms()["a"]["connected"], what="a is gone")
        return len(os.listdir(f"/proc/{cad.pid}/fd"))

    fds = hang_up_after(1)
    assert {hang_up_after(n) for n in range(1, 3 + 3 * 3)} == {fds}


# who may read and write

def test_rights_on_files(cad):
    cad.configure({**THREE, "region.d/20-pair.conf": "[Region pair]\nMembers=a b\nSectionSize=2M\n"})
    cad.start()

    def can(uid, path, flags):
        with identity(uid):
            try:
                os.close(os.open(cad.runtime / path, flags))
                return True
            except PermissionError:
                return False

    names = {"a": UID_A, "b": UID_B, "c": UID_C, "nobody": 65534}
    readers = {path: {n for n, uid in names.items() if can(uid, path, os.O_RDONLY)} for path in (
        "region/demo/a", "region/demo/b", "region/demo/c", "region/pair/a", "region/pair/b",
        "vm/a/grants", "vm/b/grants", "vm/c/grants")}
    assert readers == {
        "region/demo/a": {"b", "c"}, "region/demo/b": {"a", "c"}, "region/demo/c": {"a", "b"},
        "region/pair/a": {"b"}, "region/pair/b": {"a"},
        "vm/a/grants": {"a"}, "vm/b/grants": {"b"}, "vm/c/grants": {"c"}}
    assert not any(can(uid, path, os.O_RDWR) for path in readers for uid in names.values())
    for folder in ("", "vm", "region", "vm/a", "region/demo"):
        assert (cad.runtime / folder).stat().st_mode & 0o006 == 0
    for uid in names.values():
        with identity(uid), pytest.raises(PermissionError):
            os.listdir(cad.runtime)
    assert oct((cad.state / "ca.key").stat().st_mode)[-3:] == "600"
    assert oct(cad.state.stat().st_mode)[-3:] == "700"


def test_rights_go_with_the_membership(cad):
    """A start with another configuration finds the files of the last one, and who may no longer read cannot."""
    cad.configure(THREE)
    cad.start()
    cad.stop()
    cad.store.forget()
    cad.configure({**CONFIG, "vm.d/30-c.conf": f"[VM c]\nUser={UID_C}\nServices=logger\n"})
    cad.start()
    for owner in "ab":
        with identity(UID_C), pytest.raises(PermissionError):
            os.open(cad.runtime / "region/demo" / owner, os.O_RDONLY)
    with identity(UID_B):
        os.close(os.open(cad.runtime / "region/demo/a", os.O_RDONLY))
    assert not (cad.runtime / "region/demo/c").exists()


def test_not_on_tmpfs(cad, tmp_path):
    cad.runtime = tmp_path / "run"
    if os.statvfs(tmp_path).f_fsid == os.statvfs("/dev/shm").f_fsid:
        pytest.skip("everything is a tmpfs here")
    assert "not on a tmpfs" in cad.start_fails(status=1)
    cad.options = ["--allow-non-tmpfs"]
    cad.start()


# layout

def test_table(pair):
    cad, a, b = pair
    header = a.table.header()
    assert header == {"magic": 0x31544d4853564953, "abi": 1, "grant_size": 256, "slots": 256, "sections": 2,
                      "epoch": header["epoch"], "vm": "a"}
    own, peer = a.table.sections()
    assert (own["slot"], own["own"], own["vm"], own["member"]) == (0x11, 1, "a", a.device.id)
    assert (peer["slot"], peer["own"], peer["vm"], peer["member"]) == (0x12, 0, "b", b.device.id)
    assert own["region"] == peer["region"] == b.table.sections()[0]["region"]
    assert a.device.map[:8] == b"SIVSHMS1"
    assert len(a.device.map) == own["size"] == 1 << 20
    # what a writes is what b reads, and only b's QEMU can open it
    a.device.map[5000:5005] = b"hello"
    with identity(UID_B):
        fd = os.open(cad.runtime / "region/demo/a", os.O_RDONLY)
    view = mmap.mmap(fd, 1 << 20, prot=mmap.PROT_READ)
    os.close(fd)
    assert view[5000:5005] == b"hello"


def test_section_is_clean_for_a_new_vm(pair):
    cad, a, _ = pair
    a.device.map[0:8] = b"rubbish!"
    a.device.map[70000:70006] = b"secret"
    a.unplug()
    wait_for(lambda: not cad.vms()["a"]["connected"], what="a is gone")
    a.plug()
    assert a.device.map[:8] == b"SIVSHMS1"
    assert a.device.map[70000:70006] == bytes(6)


def test_section_is_whole_for_a_new_vm(pair):
    """Whatever the last QEMU did to the open file that it shares with the daemon."""
    cad, a, _ = pair
    for size in (4096, 8 << 20):
        fcntl.fcntl(a.device.shm, fcntl.F_SETFL, os.O_APPEND)
        os.ftruncate(a.device.shm, size)
        a.unplug()
        wait_for(lambda: not cad.vms()["a"]["connected"], what="a is gone")
        a.plug()
        assert os.fstat(a.device.shm).st_size == 1 << 20
        assert a.device.map[:8] == b"SIVSHMS1"


# life of a grant

def test_window_is_zero_and_vectors_follow_the_slot(channel):
    cad, a, b, first = channel
    for i in range(1, 4):
        a.device.map[4096:300000] = b"\xaa" * (300000 - 4096)
        h = Handshake(a, b).run()
        grant = a.table.grant(h.at_a["slot"])
        assert h.at_a["slot"] == i and grant["local_vector"] == 1 + i % 7
        window = a.device.map[grant["tx_offset"]:grant["tx_offset"] + grant["tx_size"]]
        assert window == bytes(8192)
        assert a.device.map[grant["tx_offset"] + grant["tx_size"]] == 0xaa
        first_grant = a.table.grant(first.at_a["slot"])
        assert a.device.map[first_grant["tx_offset"]] == 0xaa  # a channel in use is left alone


def test_close_drains_then_revokes(channel):
    cad, a, b, h = channel
    began = time.monotonic()
    b.daemon.call("Released", **h.at_b)
    assert a.device.bell()
    assert a.table.grant(h.at_a["slot"])["state"] == DRAINING
    assert b.table.grant(h.at_b["slot"])["state"] == FREE
    assert cad.channels()[0]["state"] == "draining"
    assert not a.daemon.heard("Revoked", 0.1)
    assert a.daemon.await_method("Revoked")["params"] == {**h.at_a, "reason": "closed"}
    assert 0.7 < time.monotonic() - began < 3  # DrainTimeout=1s
    assert a.device.bell()
    assert a.table.grant(h.at_a["slot"])["state"] == REVOKED
    assert cad.channels()[0]["state"] == "revoked"
    assert cad.members()["a"]["quarantined"] == cad.members()["b"]["quarantined"] == 8192
    a.daemon.call("Released", **h.at_a)
    assert not cad.channels() and cad.members()["a"]["quarantined"] == 0


def test_no_window_twice_before_both_kernels_said_so(channel):
    cad, a, b, h = channel
    mine = a.table.grant(h.at_a["slot"])
    cad.call("RevokeChannel", "ss", mine["channel"].hex(), "test")
    a.daemon.call("Released", **h.at_a)
    second = Handshake(a, b).run()
    other = a.table.grant(second.at_a["slot"])
    assert second.at_a["slot"] == h.at_a["slot"]  # a's slot is free again, and counts on
    assert other["generation"] == mine["generation"] + 1
    assert other["tx_offset"] >= mine["tx_offset"] + mine["tx_size"]  # its window is not
    assert other["rx_offset"] >= mine["rx_offset"] + mine["rx_size"]
    b.daemon.call("Released", **h.at_b)
    third = Handshake(a, b).run()
    assert a.table.grant(third.at_a["slot"])["tx_offset"] == mine["tx_offset"]


def test_released_needs_the_right_generation(channel):
    cad, a, b, h = channel
    a.daemon.call("Released", slot=h.at_a["slot"], generation=h.at_a["generation"] + 1)
    a.daemon.call("Released", slot=h.at_a["slot"], generation=0xffffffff)
    a.daemon.call("Released", slot=2000, generation=1)
    assert cad.channels()[0]["state"] == "active"


def test_vm_ends(channel):
    cad, a, b, h = channel
    b.close()
    assert a.device.bell()
    assert a.daemon.await_method("Revoked")["params"] == {**h.at_a, "reason": "vm-gone"}
    assert a.table.grant(h.at_a["slot"])["state"] == REVOKED
    assert cad.signal("ChannelClosed")[1] == "vm-gone"
    assert b.table.states() == {}
    assert cad.members()["b"]["quarantined"] == 8192  # a's kernel may still read it
    a.daemon.call("Released", **h.at_a)
    assert not cad.channels()


def test_both_vms_end(channel):
    cad, a, b, h = channel
    a.close(), b.close()
    wait_for(lambda: not cad.channels(), what="channel is gone")
    assert a.table.states() == b.table.states() == {}
    assert all(m["granted"] == m["quarantined"] == 0 for m in cad.members().values())


def test_new_daemon_keeps_what_the_kernel_has(channel):
    cad, a, b, h = channel
    second = Handshake(a, b).run()
    a.daemon.hello([(h.at_a["slot"], h.at_a["generation"])])
    assert {c["state"] for c in cad.channels()} == {"active", "draining"}
    assert a.table.states() == {h.at_a["slot"]: ACTIVE}
    assert b.table.grant(second.at_b["slot"])["state"] == DRAINING
    assert b.table.grant(h.at_b["slot"])["state"] == ACTIVE


def test_new_daemon_hears_what_it_missed(channel):
    cad, a, b, h = channel
    a.daemon.close()
    wait_for(lambda: not cad.vms()["a"]["control"], what="port is free")
    cad.call("RevokeChannel", "ss", cad.channels()[0]["id"], "test")
    a.start_daemon([(h.at_a["slot"], h.at_a["generation"]), (77, 5), (2000, 1)])
    missed = [a.daemon.await_method("Revoked")["params"] for _ in range(2)]
    assert [(m["slot"], m["generation"]) for m in missed] == [(h.at_a["slot"], h.at_a["generation"]), (77, 5)]
    a.daemon.call("Released", **h.at_a)


def test_64_channels(cad):
    cad.configure({**CONFIG, "policy.d/10-demo.conf": "[Allow a/sensor b/dashboard]\nChannels=64\n"})
    cad.start()
    a, b = Vm(cad, "a", UID_A).boot(), Vm(cad, "b", UID_B).boot()
    b.daemon.call("Listen", service="dashboard")
    handshakes = [Handshake(a, b).run() for _ in range(64)]
    grants = [a.table.grant(h.at_a["slot"]) for h in handshakes]
    for side in ("tx", "rx"):
        windows = sorted((g[f"{side}_offset"], g[f"{side}_size"]) for g in grants)
        assert windows[0][0] == 4096
        assert all(o1 + s1 <= o2 for (o1, s1), (o2, _) in zip(windows, windows[1:]))
    assert len({g["channel"] for g in grants}) == 64
    assert cad.vms()["a"]["used"] == 64
    a.close(), b.close()


LARGE = {**CONFIG, "region.d/10-demo.conf": "[Region demo]\nMembers=a b\nSectionSize=512M\n",
         "policy.d/10-demo.conf": "[Allow a/sensor b/dashboard]\nMaxRingSize=128M\n"}


def large(cad):
    cad.configure(LARGE)
    cad.start()
    cad.bus()
    a, b = Vm(cad, "a", UID_A).boot(), Vm(cad, "b", UID_B).boot()
    b.daemon.call("Listen", service="dashboard")
    return a, b


def used(cad, name):
    return os.stat(cad.runtime / "region/demo" / name).st_blocks * 512


def test_large_windows(cad):
    """Zeroed in steps: memory comes and goes, and the others are served meanwhile."""
    a, b = large(cad)
    a.device.map[4096:4096 + 5] = b"stale"
    h = Handshake(a, b, ring=128 << 20).connect()
    h.incoming()
    h.offer()
    h.confirm()
    h.finish()
    began = time.monotonic()
    b.daemon.call("Listen", service="dashboard")  # long before the windows are ready
    waited = time.monotonic() - began
    h.granted().opened()
    assert waited < (time.monotonic() - began) / 2
    grant = a.table.grant(h.at_a["slot"])
    assert grant["tx_size"] == (128 << 20) + 4096
    assert a.device.map[4096:4096 + 5] == bytes(5)
    assert used(cad, "a") >= 128 << 20
    a.daemon.call("Released", **h.at_a)
    b.daemon.call("Released", **h.at_b)
    wait_for(lambda: cad.members()["a"]["quarantined"] == cad.members()["b"]["quarantined"] == 0, what="emptied")
    assert used(cad, "a") < 1 << 20 and used(cad, "b") < 1 << 20
    a.close(), b.close()


@pytest.mark.parametrize("how", ["device", "port", "cancel", "revoke", "stop"])
def test_end_while_windows_are_zeroed(cad, how):
    a, b = large(cad)
    for _ in range(3):
        h = Handshake(a, b, ring=128 << 20).connect()
        h.incoming()
        h.offer()
        h.confirm()
        h.finish()
        wait_for(lambda: cad.members()["a"]["granted"], what="windows are taken")
        if how == "device":
            b.unplug()
            wait_for(lambda: not cad.vms()["b"]["connected"], what="b is gone")
            b.plug()
        elif how == "port":
            a.daemon.close()
            wait_for(lambda: not cad.vms()["a"]["control"], what="port is free")
            a.start_daemon()
        elif how == "cancel":
            a.daemon.call("Cancel", session=h.session)
        elif how == "revoke":
            cad.call("RevokeService", "ss", "a/sensor", "x")
            cad.call("Restore", "s", "a/sensor")
        else:
            break
        wait_for(lambda: all(m["granted"] == m["quarantined"] == 0 for m in cad.members().values()), what="given back")
        assert not cad.channels() and a.table.states() == b.table.states() == {}
    a.close(), b.close()


def test_large_section_is_clean_before_it_is_used(cad):
    a, b = large(cad)
    a.device.map[400 << 20] = 1
    os.posix_fallocate(a.device.shm, 0, 512 << 20)
    a.unplug()
    wait_for(lambda: not cad.vms()["a"]["connected"], what="a is gone")
    a.plug()
    assert a.device.map[400 << 20] == 0 and a.device.map[:8] == b"SIVSHMS1"
    a.close(), b.close()
