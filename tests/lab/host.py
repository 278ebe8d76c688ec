# SPDX-License-Identifier: LGPL-2.1-or-later
"""The host side: Debian's systemd booted in a container, or real processes on a private bus."""

import atexit
import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from . import image as images
from . import paths, proc


class HostError(Exception):
    pass


def shared_folder(name):
    """A new folder on a tmpfs: sockets and backing files that both QEMU and a container use."""
    path = Path("/dev/shm") / f"sivshm-lab-{name}.{os.getpid()}.{time.monotonic_ns():x}"
    path.mkdir(mode=0o755)
    return path


CGROUPS = r"""
# A chroot has no cgroup mounts. Use what the kernel's own init has set up: version 1 controllers
# with one named hierarchy for systemd when any is taken, else version 2.
cg=/sys/fs/cgroup
if [ -z "$(ls -A $cg)" ]; then
    if awk 'NR > 1 && $2 { taken = 1 } END { exit !taken }' /proc/cgroups; then
        mount -t tmpfs -o mode=755 tmpfs $cg
        mkdir $cg/systemd $cg/unified
        mount -t cgroup -o none,name=systemd cgroup $cg/systemd
        mount -t cgroup2 cgroup2 $cg/unified
        for c in $(awk 'NR > 1 && $2 && $4 { print $1 }' /proc/cgroups); do
            mkdir $cg/$c
            mount -t cgroup -o $c cgroup $cg/$c 2>/dev/null || rmdir $cg/$c
        done
    else
        mount -t cgroup2 cgroup2 $cg
    fi
fi
"""

# Runs in a mount namespace of its own; $1 tree layers, $2 work folder, $3 host name, $4 machine id
# (without one systemd takes this for a first boot and enables every unit); the rest is nspawn's.
# systemd-nspawn wants "/" to be a mount point, which it is not inside a plain chroot: bind "/"
# over itself and step onto the new mount ("/.." follows mounts, "/" does not).
ENTER = r"""
set -e
lower=$1 work=$2 name=$3 id=$4; shift 4
if ! grep -q '^[^ ]* [^ ]* [^ ]* [^ ]* / ' /proc/self/mountinfo; then
    mount --rbind / /; exec chroot /.. sh -c "$0" "$0" "$lower" "$work" "$name" "$id" "$@"
fi
mount --make-rprivate /

@CGROUPS@
mount -t tmpfs -o mode=755 overlay "$work"
mkdir -p "$work/upper/etc" "$work/work" "$work/root"
echo "$name" > "$work/upper/etc/hostname"
echo "$id" > "$work/upper/etc/machine-id"
mount -t overlay -o "lowerdir=$lower,upperdir=$work/upper,workdir=$work/work" overlay "$work/root"
exec "$@"
""".replace("@CGROUPS@", CGROUPS)


def ensure_cgroups():
    """What runs outside a container looks at its cgroup too, and a bare chroot has none mounted."""
    subprocess.run(["sh", "-ec", CGROUPS], check=True)


class Nspawn:
    """Debian's systemd as PID 1 in a container, from the guests' tree with payloads on top.

        with Nspawn("host", image, payload=destdir, binds={share: "/run/sivshm-ca"}) as host:
            host.run("systemctl start sivshm-cad", check=True)

    A payload here is a folder (a DESTDIR), not a disk.
    """

    alive = set()

    def __init__(self, name, image, *, payload=(), binds=None, log_dir=None, keep=False):
        self.name, self.image, self.log_dir, self.keep = name, image, log_dir, keep
        self.payloads = [payload] if isinstance(payload, (str, Path)) else list(payload)
        self.binds = dict(binds or {})
        self.folder = paths.run_dir() / f"{name}.{os.getpid()}.{id(self):x}"
        self.process = self.leader = None

    def start(self, timeout=60):
        self.folder.mkdir()
        (self.folder / "mnt").mkdir()
        Nspawn.alive.add(self)
        with contextlib.ExitStack() as stack:
            self.stack = stack.enter_context(contextlib.ExitStack())
            lower = [str(self.stack.enter_context(images.merged_usr(Path(p)))) for p in self.payloads]
            self.spawn(":".join([*lower, str(self.image.tree)]))
            stack.pop_all()
        try:
            self.wait_up(timeout)
        except BaseException:
            self.close()
            raise
        return self

    def spawn(self, lower):
        work = self.folder / "mnt"
        nspawn = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot",
                  f"--directory={work}/root", f"--machine=sivshm-{self.name}-{os.getpid()}",
                  "--console=pipe", "--link-journal=no",
                  "--resolv-conf=off", "--timezone=off"]
        nspawn += [f"--bind={src}:{dst}" for src, dst in self.binds.items()]
        log = open(self.folder / "console.log", "wb")
        machine_id = hashlib.sha256(f"sivshm-lab {self.name}".encode()).hexdigest()[:32]
        # its container outlives a killed systemd-nspawn; SIGTERM is passed on
        setup = ["setpriv", *proc.tied(self.keep, "TERM"), "--", "unshare", "--mount",
                 "--propagation=unchanged", "sh", "-c", ENTER, ENTER, lower, str(work), self.name, machine_id]
        self.process = subprocess.Popen([*setup, *nspawn], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                        start_new_session=True)
        log.close()

    def wait_up(self, timeout):
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise HostError(f"{self.name}: container ended: {self.console_log()[-3000:]}")
            self.leader = self.leader or self.find_leader()
            if self.leader and self.run("systemctl is-system-running --wait")[1].strip() in ("running", "degraded"):
                return
            time.sleep(0.05)
        raise HostError(f"{self.name} did not come up: {self.console_log()[-3000:]}")

    def find_leader(self):
        """PID 1 of the container: the child of systemd-nspawn that has become systemd."""
        for pid in proc.descendants(self.process.pid):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().strip() == "systemd":
                    return pid
        return None

    def __enter__(self):
        return self.start()

    def __exit__(self, *exc):
        self.close()

    def argv(self, command):
        shell = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
        return ["nsenter", f"--target={self.leader}", "--mount", "--uts", "--ipc", "--net", "--pid",
                "--root", "--wd", "--", "/usr/bin/env", "-i", "LANG=C.UTF-8", "HOME=/root",
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", *shell]

    def run(self, command, timeout=60, *, check=False, input=None):
        """Runs a shell line or an argument list inside, as root. Returns (rc, out, err)."""
        done = subprocess.run(self.argv(command), input=input if input is not None else "", text=True,
                              errors="replace", capture_output=True, timeout=timeout)
        if check and done.returncode:
            raise HostError(f"{self.name}: {command}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done.returncode, done.stdout, done.stderr

    def run_bg(self, command, **kw):
        """Starts a command inside; returns the Popen."""
        return subprocess.Popen(self.argv(command), **kw)

    def put_file(self, path, data, mode=0o644):
        data = data.encode() if isinstance(data, str) else data
        subprocess.run(self.argv(["/bin/sh", "-c", f"cat > {path} && chmod {mode:o} {path}"]),
                       input=data, check=True)

    def console_log(self):
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / "console.log").read_text(errors="replace")
        return ""

    def journal(self, *args):
        return self.run(["journalctl", "--no-pager", "-o", "short-monotonic", *args])[1]

    def stop(self, timeout=20):
        """Shuts systemd down in good order; close() is enough when that does not matter."""
        if self.process and self.process.poll() is None:
            self.run("systemctl poweroff")
            self.process.wait(timeout)

    def close(self):
        if self.process:
            # killing the leader ends its pid namespace, and systemd-nspawn with it
            if self.process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.leader or self.find_leader() or self.process.pid, signal.SIGKILL)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self.stack.close()
        Nspawn.alive.discard(self)
        if self.log_dir and self.folder.exists():
            Path(self.log_dir).mkdir(parents=True, exist_ok=True)
            shutil.copy(self.folder / "console.log", Path(self.log_dir) / f"{self.name}.console.log")
        shutil.rmtree(self.folder, ignore_errors=True)


BUS_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/><allow own="*"/>
    <allow send_destination="*" eavesdrop="true"/><allow receive_sender="*" eavesdrop="true"/>
    <allow send_type="*"/><allow receive_type="*"/>
  </policy>
</busconfig>
"""


class PrivateBus:
    """A dbus-daemon of our own that allows everything: for real processes without a system bus."""

    alive = set()

    def __init__(self, folder=None):
        self.folder = Path(folder or paths.run_dir() / f"bus.{os.getpid()}.{id(self):x}")
        self.socket = self.folder / "bus.sock"
        self.address = f"unix:path={self.socket}"
        self.process = None

    def start(self, timeout=10):
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "bus.conf"
        config.write_text(BUS_CONFIG.format(socket=self.socket))
        with open(self.folder / "bus.log", "wb") as log:
            argv = ["setpriv", *proc.tied(), "--", "dbus-daemon", f"--config-file={config}", "--nofork", "--nopidfile"]
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=log, start_new_session=True)
        PrivateBus.alive.add(self)
        end = time.monotonic() + timeout
        while not self.socket.exists():
            if self.process.poll() is not None or time.monotonic() > end:
                self.close()
                raise HostError("dbus-daemon did not start")
            time.sleep(0.01)
        os.chmod(self.socket, 0o666)
        return self

    def env(self):
        """What a process needs to take this for the system bus."""
        return {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": self.address}

    def close(self):
        if self.process:
            self.process.kill()
            self.process.wait()
        PrivateBus.alive.discard(self)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self.start()

    def __exit__(self, *exc):
        self.close()


@atexit.register
def close_all():
    for thing in [*PrivateBus.alive, *(box for box in Nspawn.alive if not box.keep)]:
        thing.close()
