# SPDX-License-Identifier: LGPL-2.1-or-later
"""One QEMU guest, run as its own unprivileged user, with commands through its guest agent.

    image = ensure()
    with Guest("rtos", image, uid=64101, payload=make_payload(destdir)) as guest:
        guest.wait_up()
        rc, out, err = guest.run("uname -a")
"""

import atexit
import base64
import contextlib
import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

from . import paths, proc

FIRST_UID = 64101

# A line of the kernel log that fails a test. "BUG" and friends as the kernel prints them. kmemleak may say that
# it is there, and that it does with less where the tests let its own allocations fail.
KERNEL_TROUBLE = re.compile(
    r"BUG:|WARNING:|kernel BUG at|Oops|Call Trace|general protection|Kernel panic|KASAN|UBSAN|"
    r"kmemleak: (?!Kernel memory leak detector initialized|Cannot allocate a scan area)|"
    r"possible (circular|recursive|irq) lock|suspicious RCU|INFO: task .* blocked|"
    r"inconsistent lock state|non-static key|refcount_t|scheduling while atomic|soft lockup|rcu: INFO|Bad page")


class GuestError(Exception):
    pass


def trouble_in(log, known=lambda warning: False):
    """Lines of a kernel log that fail a test; but not those of a warning that is known."""
    parts = re.split(r"^.*-\[ (?:cut here|end trace .*) \]-.*$", without_foreign_races(log), flags=re.M)
    return [line for part in parts if not known(part) for line in part.splitlines() if KERNEL_TROUBLE.search(line)]


def without_foreign_races(log):
    """KCSAN sees the host write to memory that drivers share with it, and Linux has races of its own. Ours are those
    with a module in them: everything else of a debug kernel is built in."""
    parts = re.split(r"^(?:\[[ .\d]+\] )?={40,}\s*$", log, flags=re.M)
    return "\n".join(part for part in parts if "BUG: KCSAN" not in part or re.search(r"/0x[0-9a-f]+ \[\w+\]", part))


class JsonSocket:
    """JSON objects, one a line, over a unix socket: the base of QMP and of the guest agent."""

    def __init__(self, path, timeout):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.buffer = b""
        end = time.monotonic() + timeout
        while True:
            try:
                self.sock.connect(str(path))
                break
            except (FileNotFoundError, ConnectionRefusedError):
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)

    def close(self):
        self.sock.close()

    def send(self, obj, prefix=b"", timeout=30):
        self.sock.settimeout(timeout)
        self.sock.sendall(prefix + json.dumps(obj).encode() + b"\n")

    def receive(self, timeout):
        """The next object; TimeoutError when none is complete in time."""
        end = time.monotonic() + timeout
        while b"\n" not in self.buffer:
            self.sock.settimeout(max(end - time.monotonic(), 0.001))
            try:
                data = self.sock.recv(1 << 20)
            except (TimeoutError, socket.timeout):
                raise TimeoutError("no answer") from None
            if not data:
                raise ConnectionError("the other end closed the socket")
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line


class Qmp(JsonSocket):
    def __init__(self, path, timeout=20):
        super().__init__(path, timeout)
        self.lock = threading.Lock()
        self.events = []
        self.receive(timeout)
        self.command("qmp_capabilities")

    def command(self, name, /, timeout=30, **arguments):
        with self.lock:
            self.send({"execute": name, "arguments": arguments})
            while True:
                answer = json.loads(self.receive(timeout))
                if "event" in answer:
                    self.events.append(answer)
                elif "error" in answer:
                    raise GuestError(f"{name}: {answer['error']['desc']}")
                else:
                    return answer["return"]

    def wait_event(self, name, timeout=30, match=lambda data: True):
        """Takes the first event of that name out of what was seen, or waits for one."""
        end = time.monotonic() + timeout
        with self.lock:
            while True:
                for event in self.events:
                    if event["event"] == name and match(event.get("data", {})):
                        self.events.remove(event)
                        return event
                answer = json.loads(self.receive(max(end - time.monotonic(), 0.001)))
                if "event" in answer:
                    self.events.append(answer)


class Agent(JsonSocket):
    """qemu-guest-agent. It has no sense of connections, so each talk starts with a sync."""

    def __init__(self, path):
        super().__init__(path, 20)
        self.lock = threading.Lock()
        self.ids = itertools.count(os.getpid() * 1000)

    def sync(self, timeout):
        """Waits until the agent answers; old bytes of an earlier talk are dropped."""
        end = time.monotonic() + timeout
        with self.lock:
            while True:
                ident = next(self.ids)
                # 0xff makes the agent drop a half-read request, and starts its answer
                # what a guest that still boots does not take fills the socket: then wait here
                self.send({"execute": "guest-sync-delimited", "arguments": {"id": ident}}, b"\xff",
                          max(end - time.monotonic(), 0.01))
                if self.synced(ident, min(1.0, max(end - time.monotonic(), 0.01))):
                    return
                if time.monotonic() > end:
                    raise TimeoutError("the guest agent does not answer")

    def synced(self, ident, timeout):
        end = time.monotonic() + timeout
        with contextlib.suppress(TimeoutError):
            while True:
                line = self.receive(max(end - time.monotonic(), 0.001)).rpartition(b"\xff")[2]
                with contextlib.suppress(ValueError):
                    if json.loads(line).get("return") == ident:
                        return True
        return False

    def command(self, name, /, timeout=30, **arguments):
        with self.lock:
            self.send({"execute": name, "arguments": arguments})
            answer = json.loads(self.receive(timeout).rpartition(b"\xff")[2])
        if "error" in answer:
            raise GuestError(f"{name}: {answer['error']['desc']}")
        return answer["return"]


class Guest:
    """A guest from start to end. Use as a context manager, or call start() and close()."""

    alive = set()
    uids = itertools.count(FIRST_UID)

    def __init__(self, name, image, *, payload=None, uid=None, gid=None, memory=448, machine="q35",
                 args=(), control=None, ports=0, append="", keep=False, log_dir=None, qemu=None, systemd=True,
                 patience=1):
        """
        payload  payload disk, or several, the first on top
        args     further QEMU options
        control  unix socket of the host's control port; the guest then has org.sivshm.control.0
        ports    free PCIe root ports for device_add on q35 (not needed on pc)
        append   further kernel parameters
        keep     the guest survives this process
        log_dir  where the console log is kept after the end
        systemd  is process 1, and says when it is up
        patience all waits are so many times longer: for a slow kernel
        """
        self.name, self.image, self.machine, self.memory = name, image, machine, memory
        self.payloads = [payload] if isinstance(payload, (str, Path)) else list(payload or ())
        self.uid = next(Guest.uids) if uid is None else uid
        self.gid = self.uid if gid is None else gid
        self.args, self.control, self.ports = list(args), control, ports
        self.append, self.keep, self.log_dir = append, keep, log_dir
        self.systemd, self.patience = systemd, patience
        self.qemu = qemu or "qemu-system-x86_64"
        self.process = self.qmp = self.agent = None
        self.folder = paths.run_dir() / f"{name}.{os.getpid()}.{id(self):x}"
        self.started = None

    # life and death

    def start(self):
        self.folder.mkdir(mode=0o755)
        os.chown(self.folder, self.uid, self.gid)
        self.errors = open(self.folder / "qemu.log", "wb")
        Guest.alive.add(self)
        try:
            self.process = subprocess.Popen(self.jailed(self.command_line()), stdin=subprocess.DEVNULL,
                                            stdout=self.errors, stderr=self.errors,
                                            start_new_session=True)
            self.started = time.monotonic()
            self.qmp = Qmp(self.folder / "qmp.sock", 20)
            self.agent = Agent(self.folder / "agent.sock")
        except BaseException as error:
            text = (self.folder / "qemu.log").read_text(errors="replace")
            self.close()
            if isinstance(error, Exception):
                raise GuestError(f"{self.name}: QEMU did not start: {error}\n{text}") from error
            raise
        return self

    def jailed(self, argv):
        """QEMU's own user, no group but its own, nothing to gain from an exec."""
        jail = ["setpriv", f"--reuid={self.uid}", f"--regid={self.gid}", "--clear-groups",
                "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all", *proc.tied(self.keep)]
        return [*jail, "--", *argv]

    def command_line(self):
        bases = [self.image.base] if self.image.base else []  # a debug kernel's guest has all in its initramfs
        disks = [*self.payloads, *bases]
        layers = [f"layer{i}" for i in range(len(self.payloads))] + ["base"] * len(bases)
        machine_id = hashlib.sha256(f"sivshm-lab {self.name}".encode()).hexdigest()[:32]
        # with a second processor that may come, Linux trusts the emulated counter no longer unless told to
        append = (f"console=ttyS0 loglevel=5 random.trust_cpu=on net.ifnames=0 tsc=reliable "
                  f"lab.layers={','.join(layers)} lab.hostname={self.name} "
                  f"lab.machine_id={machine_id} {self.append}")
        argv = [self.qemu, "-name", f"{self.name},debug-threads=on", "-nodefaults", "-no-user-config",
                "-display", "none", "-machine", self.machine, "-accel", "tcg,thread=multi",
                # With one processor at most QEMU's emulation leaves out barriers and locked stores, which nobody
                # inside could miss; but two guests that share memory do, and lose a wake-up now and then.
                "-cpu", "max", "-smp", "1,maxcpus=2", "-m", str(self.memory),
                "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
                "-kernel", str(self.image.kernel), "-initrd", str(self.image.initrd), "-append", append,
                "-chardev", f"socket,id=qmp,path={self.folder}/qmp.sock,server=on,wait=off",
                "-mon", "chardev=qmp,mode=control",
                "-chardev", f"socket,id=serial,path={self.folder}/console.sock,server=on,wait=off,"
                            f"logfile={self.folder}/console.log",
                "-serial", "chardev:serial",
                # by an ioeventfd a port's notice got lost now and then while devices were plugged and unplugged
                "-device", "virtio-serial-pci,id=vser,ioeventfd=off",
                "-chardev", f"socket,id=agent,path={self.folder}/agent.sock,server=on,wait=off",
                "-device", "virtserialport,bus=vser.0,chardev=agent,name=org.qemu.guest_agent.0"]
        if disks:
            argv += ["-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng"]
        for layer, disk in zip(layers, disks):
            argv += ["-drive", f"if=none,id={layer},file={disk},format=raw,readonly=on",
                     "-device", f"virtio-blk-pci,drive={layer},serial={layer}"]
        if self.control:
            argv += ["-chardev", f"socket,id=control,path={self.control},reconnect=1",
                     "-device", "virtserialport,bus=vser.0,chardev=control,name=org.sivshm.control.0"]
        for i in range(self.ports):
            argv += ["-device", f"pcie-root-port,id=port{i},chassis={i + 1},slot={i + 1}"]
        return argv + self.args

    def __enter__(self):
        return self.start()

    def __exit__(self, *exc):
        self.close()

    def running(self):
        return self.process is not None and self.process.poll() is None

    def kill(self):
        """The end without warning: what a crashed QEMU looks like to everybody else."""
        if self.running():
            self.process.kill()
        if self.process:
            self.process.wait(30)

    def close(self):
        for sock in (self.qmp, self.agent):
            if sock:
                sock.close()
        self.qmp = self.agent = None
        self.kill()
        self.errors.close()
        Guest.alive.discard(self)
        if self.log_dir and self.folder.exists():
            Path(self.log_dir).mkdir(parents=True, exist_ok=True)
            for log in ("console.log", "qemu.log"):
                with contextlib.suppress(FileNotFoundError):
                    shutil.copy(self.folder / log, Path(self.log_dir) / f"{self.name}.{log}")
        shutil.rmtree(self.folder, ignore_errors=True)

    def shutdown(self, timeout=60):
        """Asks the guest to power off and waits for QEMU to end."""
        self.qmp.command("system_powerdown")
        with contextlib.suppress(GuestError, TimeoutError, ConnectionError):
            self.agent.command("guest-shutdown", timeout=1)
        self.process.wait(timeout)

    def reset(self):
        """The reset button; call wait_up() after it."""
        self.monitor("system_reset")

    # talking to the guest

    @contextlib.contextmanager
    def talk(self):
        """A broken connection is QEMU's end: say what is known of that."""
        try:
            yield
        except OSError as error:
            if isinstance(error, TimeoutError):
                raise
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
            raise GuestError(f"{self.name}: {error}; {self.obituary()}") from error

    def obituary(self):
        """How QEMU ended, with its last words and the guest's."""
        status = self.process.poll()
        how = ("QEMU still runs" if status is None else f"QEMU ended with status {status}" if status >= 0
               else f"QEMU was ended by {signal.Signals(-status).name}")
        words = (self.folder / "qemu.log").read_text(errors="replace")[-2000:]
        return f"{how}\nQEMU's messages: {words or 'none'}\nconsole:\n{self.console_log()[-2000:]}"

    def ask(self, name, timeout=30, **arguments):
        """A command for the guest agent."""
        with self.talk():
            return self.agent.command(name, timeout * self.patience, **arguments)

    def monitor(self, name, /, timeout=30, **arguments):
        """A command for QEMU."""
        with self.talk():
            return self.qmp.command(name, timeout, **arguments)

    def wait_up(self, timeout=120):
        """Waits for the end of the boot. Returns the seconds since start()."""
        end = time.monotonic() + timeout * self.patience
        try:
            if not self.systemd:
                self.wait_light(timeout * self.patience / 2)
                return time.monotonic() - self.started
            self.agent.sync(timeout)
            rc, out, _ = self.run("systemctl is-system-running --wait", max(end - time.monotonic(), 1))
        except (TimeoutError, ConnectionError) as error:
            raise GuestError(f"{self.name} did not come up: {error}\n{self.console_log()[-3000:]}") from error
        if out.strip() not in ("running", "degraded"):
            raise GuestError(f"{self.name}: systemd says {out.strip()!r}")
        return time.monotonic() - self.started

    def wait_light(self, timeout):
        """On a busy machine an emulated second CPU does not always come to life: one more try."""
        try:
            self.agent.sync(timeout)
        except TimeoutError:
            self.reset()
            self.agent.sync(timeout)

    def run(self, command, timeout=60, *, check=False, env=None, input=None):
        """Runs a shell line, or an argument list, as root. Returns (rc, out, err) as text.

        A command that a signal ended has rc = -signal. TimeoutError leaves it running.
        """
        pid = self.run_bg(command, env=env, input=input)
        rc, out, err = self.wait(pid, timeout, command)
        if check and rc:
            raise GuestError(f"{self.name}: {command}: exit {rc}\n{out}{err}")
        return rc, out, err

    def run_bg(self, command, *, env=None, input=None):
        """Starts a command and returns its pid for wait()."""
        argv = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
        arguments = {"path": argv[0], "arg": argv[1:], "capture-output": True}
        if env:
            arguments["env"] = [f"{k}={v}" for k, v in env.items()]
        if input is not None:
            data = input.encode() if isinstance(input, str) else input
            arguments["input-data"] = base64.b64encode(data).decode()
        return self.ask("guest-exec", **arguments)["pid"]

    def wait(self, pid, timeout=60, what="command"):
        """Waits for a command of run_bg(); its answer can be taken once."""
        end = time.monotonic() + timeout * self.patience
        pause = 0.005
        while True:
            status = self.ask("guest-exec-status", pid=pid)
            if status["exited"]:
                text = [base64.b64decode(status.get(k, "")).decode(errors="replace")
                        for k in ("out-data", "err-data")]
                rc = -status["signal"] if "signal" in status else status.get("exitcode", 0)
                return rc, *text
            if time.monotonic() > end:
                raise TimeoutError(f"{self.name}: {what}: no end after {timeout:.0f} s")
            time.sleep(pause)
            pause = min(pause * 1.5, 0.2)

    def put_file(self, path, data, mode=0o644):
        data = data.encode() if isinstance(data, str) else data
        handle = self.ask("guest-file-open", path=str(path), mode="w")
        for i in range(0, len(data), 1 << 18):
            chunk = base64.b64encode(data[i:i + (1 << 18)]).decode()
            self.ask("guest-file-write", handle=handle, **{"buf-b64": chunk})
        self.ask("guest-file-close", handle=handle)
        self.run(["/bin/chmod", f"{mode:o}", str(path)], check=True)

    def get_file(self, path):
        handle = self.ask("guest-file-open", path=str(path), mode="r")
        parts = []
        while True:
            part = self.ask("guest-file-read", handle=handle, count=1 << 20)
            parts.append(base64.b64decode(part["buf-b64"]))
            if part["eof"]:
                break
        self.ask("guest-file-close", handle=handle)
        return b"".join(parts)

    # its hardware and its logs

    def device_add(self, driver, id, **properties):
        """Plugs a device in. On q35 give bus="port0", "port1", ..."""
        return self.monitor("device_add", driver=driver, id=id, **properties)

    def device_del(self, id, timeout=60):
        """Unplugs a device and waits until the guest let it go."""
        self.monitor("device_del", id=id)
        self.qmp.wait_event("DEVICE_DELETED", timeout * self.patience, lambda data: data.get("device") == id)

    def console_log(self):
        try:
            return (self.folder / "console.log").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def mark(self, text):
        """Writes a marker into the kernel log; kernel_trouble(since=text) looks after it."""
        self.run(["/bin/sh", "-c", f"echo 'lab: {text}' > /dev/kmsg"], check=True)

    def kernel_log(self):
        return self.run("dmesg", check=True)[1]

    def kernel_trouble(self, since=None, known=lambda warning: False):
        """Lines of kernel log and console that no healthy kernel prints.

        A debug kernel is not asked for its log each time, which takes it long: its console has all warnings,
        see console_has().
        """
        log = self.kernel_log() if self.running() and self.systemd else self.console_log()
        if since is not None:
            log = log.rpartition(f"lab: {since}")[2]
        return trouble_in(log, known)

    def console_has(self, text):
        """Waits until the console, which may lag behind, has come to a line of the kernel log."""
        end = time.monotonic() + 30 * self.patience
        while text not in self.console_log():
            if time.monotonic() > end:
                raise GuestError(f"{self.name}: not on the console: {text}")
            time.sleep(0.02)

    def assert_kernel_clean(self, since=None, known=lambda warning: False):
        trouble = self.kernel_trouble(since, known)
        if trouble:
            raise AssertionError(f"{self.name}: kernel log:\n" + "\n".join(trouble[:20]))


def boot(guests, timeout=150):
    """Starts guests and waits for all of them; they boot side by side. Returns the seconds each took."""
    for guest in guests:
        guest.start()
    return [guest.wait_up(timeout) for guest in guests]


@atexit.register
def close_all():
    for guest in list(Guest.alive):
        if not guest.keep:
            guest.close()


def exit_on_signals():
    """SIGTERM ends this process like Ctrl-C does, so that context managers run."""
    def leave(number, frame):
        raise KeyboardInterrupt(f"signal {number}")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)
