# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a guest kernel can say on its control port: sivshm-cad as it is, four VMs that the test plays.

While alpha attacks, carol and delta make a connection; alpha's daemon is welcome again afterwards.
"""

import contextlib
import ctypes
import fcntl
import functools
import os
import select
import signal
import socket
import struct
import subprocess
import termios
import threading
import time

import pytest

pytest.importorskip("gi")

from lab import build  # noqa: E402
from lab.attack import KERNEL, attack  # noqa: E402

from cads import BASE, OTHER, UIDS, Edit, broken, cad, pair, sound, vm, wait_for  # noqa: E402
from control_acts import ACTS, call, hello  # noqa: E402
from fake_vm import Device, Handshake, RpcError, b64  # noqa: E402

LIMITS = "[CA]\nTrustDomain=test.example\n[Limits]\nHandshakeTimeout=10s\nDrainTimeout=1s\nSessionsPerVM=16\n"
CONFIG = {**BASE, **OTHER, "ca.conf": LIMITS,
          "policy.d/10-demo.conf": "[Allow alpha/sensor bravo/dashboard]\nChannels=2000\n",
          "policy.d/20-other.conf": "[Allow carol/logger delta/archive]\n"}
GROWTH = 16 << 10  # KiB that the daemon may grow by: the queues and the frame of one connection, and malloc's share
IN_ACCESS, INOTIFY_EVENT = 1, 16  # <sys/inotify.h>
SO_SNDBUFFORCE = 32  # <asm/socket.h>
WAITING = 32 << 20  # bytes: 512 turns of the daemon
QUEUE_FULL, MALFORMED = "output queue is full", "too many malformed messages"

NO_FRAME_LIMIT = Edit("src/common/frame.h", "#define FRAME_MAX 131072", "#define FRAME_MAX (1 << 30)")
NO_QUEUE_LIMIT = Edit("src/common/frame.h", "#define FRAME_QUEUE_MAX (1024 * 1024)", "#define FRAME_QUEUE_MAX (1 << 30)")
NO_PATIENCE_LIMIT = Edit("src/common/rpc-link.h", "#define RPC_LINK_MAX_MALFORMED 16", "#define RPC_LINK_MAX_MALFORMED 100000000")
NO_TURNS = Edit("src/common/rpc-link.c", "#define READS_MAX 4", "#define READS_MAX 4000000000u")
NO_UNSENT_LIMIT = Edit("src/sivshm-cad/session-relay.c", "#define RELAY_UNSENT_MAX (FRAME_QUEUE_MAX / 4 * 3)",
                       "#define RELAY_UNSENT_MAX (FRAME_QUEUE_MAX * 4)")
LESS_PRIORITY = Edit("src/sivshm-cad/scrub.c",
                     "r = sd_event_add_time(event, &s->source, CLOCK_MONOTONIC, 0, 1, on_turn, s);",
                     "r = sd_event_add_time(event, &s->source, CLOCK_MONOTONIC, 0, 1, on_turn, s);\n"
                     "	sd_event_source_set_priority(s->source, SD_EVENT_PRIORITY_IDLE);")
NO_SESSION_LIMIT = Edit("src/sivshm-cad/session-relay.c", "if (vm->n_sessions >= max)", "if (vm->n_sessions >= max * 4)")


def plain():
    """The build without sanitisers: its memory and its speed are the real ones."""
    return str(build.compile("gcc") / "src/sivshm-cad/sivshm-cad")


def resident(daemon):
    """KiB of memory."""
    with open(f"/proc/{daemon.pid}/status") as status:
        return int(next(line for line in status if line.startswith("VmRSS")).split()[1])


@contextlib.contextmanager
def four(binary):
    """The daemon with alpha and bravo in one region, carol and delta in another."""
    with cad(binary, CONFIG) as daemon:
        alpha, bravo = pair(daemon)
        carol, delta = vm(daemon, "carol", "other"), vm(daemon, "delta", "other")
        delta.daemon.call("Listen", service="archive")
        yield daemon, alpha, bravo, carol, delta


def connect_others(carol, delta):
    """Seconds of a connection that has nothing to do with alpha."""
    began = time.monotonic()
    h = Handshake(carol, delta, "logger", "archive").run()
    took = time.monotonic() - began
    for machine, end in ((carol, h.at_a), (delta, h.at_b)):
        machine.daemon.call("Released", **end)
    return took


def wait_busy(daemon, flood):
    """Until the flood has cost the daemon some CPU, or its connection."""
    def ticks():
        with open(f"/proc/{daemon.pid}/stat") as stat:
            return sum(map(int, stat.read().rpartition(")")[2].split()[11:13]))
    idle = ticks()
    wait_for(lambda: flood.hung_up or ticks() > idle + 5, 30, "the flood arrives")


WRITER = """
import os, select, sys
data, n = sys.stdin.buffer.read(), 0
try:
    while True:
        select.select([], [1], [])
        n += os.write(1, data[n % len(data):])
except OSError:
    pass
"""


class Flood:
    """One act again and again from another process, until the host hangs up or it is told to stop."""

    def __init__(self, machine, act, reads):
        self.sock, self.act = machine.daemon.sock, act
        self.stopping, self.hung_up = threading.Event(), False
        self.reader = threading.Thread(target=self.read if reads else self.watch)

    def read(self):
        self.sock.settimeout(0.2)
        while not self.stopping.is_set():
            try:
                self.hung_up = not self.sock.recv(1 << 20)
            except TimeoutError:
                continue
            except OSError:
                self.hung_up = True
            if self.hung_up:
                return

    def watch(self):
        poll = select.poll()
        poll.register(self.sock, 0)
        while not self.stopping.is_set() and not self.hung_up:
            self.hung_up = bool(poll.poll(100))

    def __enter__(self):
        self.writer = subprocess.Popen(["/usr/bin/python3", "-c", WRITER], stdin=subprocess.PIPE, stdout=self.sock)
        self.writer.stdin.write(self.act)
        self.writer.stdin.close()
        self.reader.start()
        return self

    def __exit__(self, *exc):
        self.writer.kill()
        self.writer.wait()
        self.stopping.set()
        self.reader.join()


def stand(binary, act, *, reads=True, seconds=3, connections=3):
    """alpha floods. Returns what the others and the daemon's memory felt of it, and its log."""
    with four(binary) as (daemon, alpha, bravo, carol, delta):
        connect_others(carol, delta)
        before, fds = resident(daemon), daemon.vms()
        with Flood(alpha, act, reads) as flood:
            wait_busy(daemon, flood)
            end = time.monotonic() + seconds
            times = [connect_others(carol, delta) for _ in range(connections)]
            while time.monotonic() < end and not flood.hung_up:
                time.sleep(0.05)
            after = resident(daemon)
            assert daemon.running() and daemon.vms().keys() == fds.keys()
        alpha.daemon.close()
        wait_for(lambda: not daemon.vms()["alpha"]["control"], 20, "alpha's port is free")
        alpha.start_daemon()
        alpha.daemon.call("Listen", service="sensor")
        return {"others_ms": round(max(times) * 1000, 1), "grown_kib": after - before,
                "hung_up": flood.hung_up, "log": daemon.log()}


def told(figures, seen):
    figures.update({key: value for key, value in seen.items() if key != "log"})
    return seen


@pytest.mark.parametrize("name", [name for name, act in ACTS.items() if act.kind == "garbage"])
@attack(KERNEL, "sends what is no message: no JSON, 100,000 levels, huge numbers and names, no UTF-8, other protocols",
        stops="parsed with a bound on depth and length; 17 in a row end the connection, `rpc.c`, `rpc-link-message.c`",
        control="a build that counts to 10^8 does not")
def test_garbage(figures, control, name):
    act = ACTS[name]
    seen = told(figures, stand(sound(), act.frame * 40))
    assert seen["hung_up"] and f"VM alpha: control port dropped: {MALFORMED}" in seen["log"]
    control.seen(MALFORMED not in stand(broken(NO_PATIENCE_LIMIT), act.frame * 40, seconds=1, connections=1)["log"])


@attack(KERNEL, "sends a gigabyte without an end",
        stops="a frame that grows beyond 128 KiB is dropped as it comes, `src/common/frame.c`",
        control="a build with a larger bound holds it all in memory")
def test_endless_frame(figures, control):
    def send(binary, mebibytes, recovers=True):
        with four(binary) as (daemon, alpha, _, carol, delta):
            before, block = resident(daemon), b"x" * (1 << 20)
            alpha.daemon.sock.settimeout(60)
            for _ in range(mebibytes):
                alpha.daemon.sock.sendall(block)
            took, grown = connect_others(carol, delta), resident(daemon) - before
            if recovers:
                alpha.daemon.hello()  # begins with NUL
            return took, grown
    took, grown = send(plain(), 1024)
    figures.update(others_ms=round(took * 1000, 1), grown_kib=grown)
    assert grown < GROWTH
    control.seen(send(broken(NO_FRAME_LIMIT), 128, False)[1] > 64 << 10)


@attack(KERNEL, "asks without end and never reads an answer",
        stops="a queue of answers ends at 1 MiB, and with it the connection, `frame.c`, `rpc-link.c`",
        control="a build with a larger bound goes on and grows")
def test_answers_unread(figures, control):
    act = hello() * 500
    seen = told(figures, stand(plain(), act, reads=False))
    assert seen["hung_up"] and f"VM alpha: control port dropped: {QUEUE_FULL}" in seen["log"]
    assert seen["grown_kib"] < GROWTH
    worse = stand(broken(NO_QUEUE_LIMIT), act, reads=False)
    control.seen(not worse["hung_up"] and worse["grown_kib"] > 2 * GROWTH)


def unread(sock):
    """Bytes that the other end has not read yet, with what the kernel needs to keep them."""
    return struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0]


@functools.cache
def read_first(kind):
    """How much of a flood that waits already is read before somebody else is answered: 0 nothing, 1 all of it."""
    frame = ACTS["large answers"].frame
    with four(plain() if kind == "sound" else broken(NO_TURNS)) as (daemon, alpha, _, carol, _):
        sock = alpha.daemon.sock
        sock.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 4 * WAITING)
        os.kill(daemon.pid, signal.SIGSTOP)
        for _ in range(WAITING // len(frame)):
            sock.sendall(frame)
        whole = unread(sock)
        os.kill(daemon.pid, signal.SIGCONT)
        wait_for(lambda: unread(sock) < whole, what="the flood is read")
        carol.daemon.call("Listen", timeout=60, service="logger")
        return round(1 - unread(sock) / whole, 3)


@pytest.mark.parametrize("name", [name for name, act in ACTS.items() if act.kind == "valid"])
@attack(KERNEL, "floods the port with valid messages, large and tiny, and reads every answer",
        stops="a connection is read 64 KiB in a turn, then all others have theirs, `src/common/rpc-link.c`",
        control="a build that reads as long as there is something reads all of a flood before it answers others")
def test_flood(figures, control, name):
    act = ACTS[name].frame * max(1, 65536 // len(ACTS[name].frame))
    seen = told(figures, stand(plain(), act, seconds=2))
    assert seen["grown_kib"] < GROWTH
    assert seen["others_ms"] < 5000
    figures["read_first"] = read_first("sound")
    assert read_first("sound") < 0.5
    control.seen(read_first("broken") > 0.99)


@attack(KERNEL, "claims sessions without end",
        stops="each is charged to `SessionsPerVM=` before it exists, `src/sivshm-cad/session-relay.c`",
        control="a build with four times the limit lets four times as many begin")
def test_sessions(figures, control):
    def claim(binary):
        """How many the peer heard of, what refused the rest, and the memory it took."""
        with four(binary) as (daemon, alpha, bravo, carol, delta):
            before = resident(daemon)
            for _ in range(2000):
                alpha.daemon.request("Connect", **{"from": "sensor"}, to="bravo/dashboard", ringSize=4096,
                                     flight=b64(b"client hello"))
            refusals = set()
            for ident in range(alpha.daemon.next_id - 100, alpha.daemon.next_id):
                try:
                    alpha.daemon.answer(ident + 1, 20)
                except RpcError as error:
                    refusals.add((error.code, error.text))
            heard = 0
            while bravo.daemon.heard("Incoming"):
                heard += 1
            took, grown = connect_others(carol, delta), resident(daemon) - before
            assert "refused" in daemon.log()
            return heard, refusals, took, grown
    heard, refusals, took, grown = claim(plain())
    figures.update(sessions=heard, others_ms=round(took * 1000, 1), grown_kib=grown)
    assert heard == 16 and grown < GROWTH
    ((code, text),) = refusals
    assert code == -32007 and "SessionsPerVM=16" in text
    control.seen(claim(broken(NO_SESSION_LIMIT))[0] == 64)


@attack(KERNEL, "begins handshakes with a slow peer and forgets them by Hello, again and again, to have its link dropped",
        stops="what a VM has not read yet counts, whoever forgot it, `src/sivshm-cad/session-relay.c`",
        control="a build that counts handshakes under way alone fills the peer's queue, and drops its link")
def test_peer_is_dropped(figures, control):
    def press(binary):
        """bravo reads nothing for a while. Is its link there afterwards? And what refused alpha at last?"""
        with four(binary) as (daemon, alpha, bravo, carol, delta):
            last = None
            for _ in range(60):
                ids = [alpha.daemon.request("Connect", **{"from": "sensor"}, to="bravo/dashboard", ringSize=4096,
                                            flight=b64(bytes(9000))) for _ in range(16)]
                alpha.daemon.hello()
                for ident in ids:
                    refusal = alpha.daemon.take(lambda m, ident=ident: m.get("id") == ident, 0)
                    last = refusal["error"]["message"] if refusal and "error" in refusal else last
            took = connect_others(carol, delta)
            dropped = f"VM bravo: control port dropped: {QUEUE_FULL}" in daemon.log()
            if not dropped:
                bravo.daemon.call("Listen", service="dashboard")
                bravo.daemon.inbox.clear()
                Handshake(alpha, bravo).run()
            return dropped, last, took
    dropped, last, took = press(sound())
    figures.update(others_ms=round(took * 1000, 1))
    assert not dropped and last == "VM bravo has too many handshakes under way"
    control.seen(press(broken(NO_UNSENT_LIMIT))[0])


@attack(KERNEL, "keeps the daemon busy with messages that need no answer, while another VM's memory is cleared for its start",
        stops="clearing has its turns like everything else, `src/sivshm-cad/scrub.c`",
        control="a build that clears when there is nothing else to do clears nothing until the flood is over")
def test_clearing_goes_on(figures, control):
    frame = call("Opened", session="00" * 16, slot=0, generation=1).replace(b'"id": 1, ', b"")
    large = {**CONFIG, "region.d/20-other.conf": "[Region other]\nMembers=carol delta\nSectionSize=512M\n"}

    def read_before_welcome(binary):
        """How much of a flood that waits already is read before carol's device is welcome."""
        with cad(binary, large) as daemon:
            alpha, _ = pair(daemon)
            sock = alpha.daemon.sock
            sock.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 4 * WAITING)
            os.kill(daemon.pid, signal.SIGSTOP)
            for _ in range(WAITING // (len(frame) * 1000)):
                sock.sendall(frame * 1000)
            whole = unread(sock)
            device = Device(daemon.runtime / "vm/carol/other.sock", UIDS["carol"])
            try:
                os.kill(daemon.pid, signal.SIGCONT)
                assert device.receive(60), "no welcome"
                return round(1 - unread(sock) / whole, 3)
            finally:
                device.close()
    figures["read_before"] = read_before_welcome(plain())
    assert figures["read_before"] < 0.5
    control.seen(read_before_welcome(broken(LESS_PRIORITY)) > 0.99)


@attack(KERNEL, "stops in the middle of a frame",
        stops="no frame is waited for; the next daemon begins with NUL and Hello, `docs/protocol.md`, `frame.c`",
        control="without the NUL its Hello is the end of the half frame")
def test_half_frame(figures, control):
    for size in (1, 40, 100_000):
        with four(sound()) as (daemon, alpha, _, carol, delta):
            half = (call("Listen", service="sensor")[:-1] + b" " * size)[:size]
            alpha.daemon.write(half)
            figures[f"others_ms after {size}"] = round(connect_others(carol, delta) * 1000, 1)
            alpha.daemon.write(hello(99))
            control.seen(alpha.daemon.take(lambda m: m.get("id") == 99 and "result" in m, 0.5) is None)
            alpha.daemon.write(half)
            alpha.daemon.hello()
            alpha.daemon.call("Listen", service="sensor")


# what the host reads of what a guest wrote

class Watch:
    """Who reads a file, by read() or by a mapping."""

    def __init__(self, path):
        self.path = path
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self.libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert self.libc.inotify_add_watch(self.fd, os.fsencode(path), IN_ACCESS) >= 0

    def reads(self):
        try:
            return len(os.read(self.fd, 65536)) // INOTIFY_EVENT
        except BlockingIOError:
            return 0

    def is_mapped(self, pid):
        with open(f"/proc/{pid}/maps") as maps:
            return str(self.path) in maps.read()

    def close(self):
        os.close(self.fd)


@attack(KERNEL, "fills its section, header and all, for the host's daemon to find",
        stops="the daemon never reads a section: what is granted is in its tables and its memory, `region.c`, `member.c`, `scrub.c`",
        control="a read of the file is seen by the watch that sees none of the daemon's")
def test_host_reads_no_section(figures, control):
    with four(sound()) as (daemon, alpha, bravo, _, _), contextlib.ExitStack() as stack:
        watches = [Watch(daemon.runtime / "region/demo" / name) for name in ("alpha", "bravo")]
        for watch in watches:
            stack.callback(watch.close)

        def scribble():
            for machine in (alpha, bravo):
                section = machine.device.map
                section[:] = os.urandom(len(section))
        # the life of a channel, of the daemon, of the VM
        scribble()
        h = Handshake(alpha, bravo).run()
        scribble()
        daemon.restart()
        assert [c["state"] for c in daemon.channels()] == ["active"]
        for machine in (alpha, bravo):
            machine.daemon.close()
        wait_for(lambda: not daemon.vms()["alpha"]["control"] and not daemon.vms()["bravo"]["control"], 20, "ports free")
        alpha.start_daemon([(h.at_a["slot"], h.at_a["generation"])])
        bravo.start_daemon([(h.at_b["slot"], h.at_b["generation"])])
        scribble()
        alpha.daemon.call("Released", **h.at_a)
        bravo.daemon.call("Released", **h.at_b)
        wait_for(lambda: not daemon.channels(), 20, "channel is gone")
        bravo.daemon.call("Listen", service="dashboard")
        Handshake(alpha, bravo).run()
        for watch in watches:
            assert watch.reads() == 0 and not watch.is_mapped(daemon.pid)
        with open(watches[0].path, "rb") as file:
            file.read(16)
        control.seen(watches[0].reads() == 1)
