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
