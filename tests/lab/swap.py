# SPDX-License-Identifier: LGPL-2.1-or-later
"""A broken build (lab.mutant) takes the place of the right one in a running guest, for a while.

No channel may exist in the guest: the module goes only when nobody uses it.
"""

import contextlib

DAEMON = "/usr/libexec/sivshm/sivshmd"
KEPT = "/usr/libexec/sivshm/sivshmd.right"


def restart(world, guest, between):
    """The daemon ends, *between* happens, and it is there again."""
    guest.run(f"systemctl stop sivshmd && {{ {between}; }} && systemctl start sivshmd"
              " || { journalctl -b --no-pager -n 40 -u sivshmd >&2; dmesg | tail -20 >&2; false; }", check=True)
    world.wait_connected(guest)


@contextlib.contextmanager
def module(world, guest, ko):
    """The guest's kernel has this sivshm.ko, given as bytes."""
    guest.put_file("/root/broken.ko", ko)
    try:
        restart(world, guest, "rmmod sivshm && insmod /root/broken.ko")
        yield
    finally:
        # start loads the installed one
        restart(world, guest, "rm /root/broken.ko; ! test -d /sys/module/sivshm || rmmod sivshm")


@contextlib.contextmanager
def daemon(world, guest, binary):
    """The guest runs this sivshmd, given as a path here."""
    guest.put_file("/root/broken-daemon", binary.read_bytes(), mode=0o755)
    guest.run(["/bin/cp", "-a", DAEMON, KEPT], check=True)
    try:
        restart(world, guest, f"install -m 755 /root/broken-daemon {DAEMON}; rm /root/broken-daemon")
        yield
    finally:
        restart(world, guest, f"mv {KEPT} {DAEMON}")


@contextlib.contextmanager
def host(world, binary):
    """The host runs this sivshm-cad, given as a path here. Guests keep their daemons and channels."""
    path = "/usr/libexec/sivshm/sivshm-cad"
    world.host.put_file(f"{path}.broken", binary.read_bytes(), 0o755)
    world.host.run(f"cp -a {path} {path}.right && mv {path}.broken {path}", check=True)
    try:
        restart_host(world)
        yield
    finally:
        world.host.run(f"mv {path}.right {path}", check=True)
        restart_host(world)


def restart_host(world):
    """Until every guest's daemon has said Hello to the new process."""
    world.host.run("systemctl restart sivshm-cad", check=True)
    world.wait_until(lambda: all(vm[3] for vm in world.bus.call("ListVMs")[0]), "the daemons said Hello", 30)
    world.each(world.wait_connected)
