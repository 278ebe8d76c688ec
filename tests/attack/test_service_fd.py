# SPDX-License-Identifier: LGPL-2.1-or-later
"""A channel's fd in other hands, and the holder's memory from outside.

The same acts run twice: against the module as it is, and against modules in which one half of the holder check is
gone. Linux itself gives a process of the same uid much: the fd, by pidfd_getfd(), and the holder's own memory, by
ptrace. What it does not give is asked here; that such a process can make the holder itself act, by writing its
memory or registers, nobody but Yama (kernel.yama.ptrace_scope) or another uid prevents.
"""

import contextlib
import json
import re
import time

import pytest

from lab import mutant, story, swap
from lab.attack import SERVICE, attack
from lab.mutant import Edit

FOLDER = "/run/leak"
SECRET = "the-secret-of-ivi-dashboard"
PROBE = f"{story.TESTS}/holder-probe"
HOLDER = "leak.service"
STRANGER = "stranger.service"
DENIED = "5a0f1c8e8d5b4d0fb7c2c4a6d1b7e305"  # MESSAGE_ID, sivshmd(8)

CHECK = "uid_eq(current_euid(), channel->uid) && in_cgroup(channel->cgroup)"
NO_UID = Edit("src/kmod/holder.c", CHECK, "in_cgroup(channel->cgroup)")
NO_CGROUP = Edit("src/kmod/holder.c", CHECK,
                 "uid_eq(current_euid(), channel->uid) && (1 || in_cgroup(channel->cgroup))")
DEBUGGABLE = Edit("src/kmod/map.c", "\t.fault = map_fault,", "\t.fault = map_fault,\n\t.access = generic_access_phys,")

EVERYTHING = {"mmap tx", "mmap rx", "get info", "notify", "wait", "another ioctl", "poll", "epoll", "read"}


# acts: each is done to a holder and says {attempt: refused}

def probe(world, user, unit, *how):
    """holder-probe as that user in that unit's cgroup."""
    script = 'echo $$ > "/sys/fs/cgroup/system.slice/$1/cgroup.procs" && shift && exec "$@"'
    rc, out, err = world.rtos.run(["/bin/sh", "-c", script, "sh", unit, *story.as_user(user, PROBE, *map(str, how))])
    assert out and rc in (0, 1), f"holder-probe: exit {rc}: {err}"
    return {a["name"]: a["refused"] for a in json.loads(out)["attempts"]}


def by_socket(user, unit):
    return lambda world, holder: probe(world, user, unit, "--socket", f"{FOLDER}/fd")


def by_epoll(world, holder):
    return probe(world, "sensor", STRANGER, "--epoll", f"{FOLDER}/epoll")


def by_pidfd(world, holder):
    return probe(world, "sensor", STRANGER, "--pidfd", holder["pid"], holder["fd"])


CHILD = """
import os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
file = s.makefile("rw")
open(sys.argv[2], "w").write(file.readline())
s.sendall(b"go\\n")
print(file.read())
"""


def by_inheritance(world, holder):
    """The holder forks, the child is put into another unit and runs a program of that unit."""
    rc, out, err = world.rtos.run(["/usr/bin/python3", "-c", CHILD, f"{FOLDER}/child",
                                   f"/sys/fs/cgroup/system.slice/{STRANGER}/cgroup.procs"])
    assert rc == 0 and out.strip(), err
    return {a["name"]: a["refused"] for a in json.loads(out)["attempts"]}


def by_memory(where):
    return lambda world, holder: probe(world, "sensor", STRANGER, "--memory", holder["pid"], holder[where])


def by_proc(which):
    return lambda world, holder: probe(world, "sensor", STRANGER, "--proc", holder["pid"], holder[which])


OTHER_USER = {
    "another user in the holder's unit": by_socket("camera", HOLDER),
    "root in the holder's unit": by_socket("root", HOLDER),
}
OTHER_UNIT = {
    "handed over by SCM_RIGHTS": by_socket("sensor", STRANGER),
    "taken with pidfd_getfd": by_pidfd,
    "inherited by a child in another unit": by_inheritance,
}


@contextlib.contextmanager
def leak(world):
    """sensor holds a channel and lets everybody at it; the stranger's unit is there. Gives where what is."""
    run = "systemd-run --quiet --collect"
    world.rtos.run(f"""set -e; rm -rf {FOLDER}; install -d -o sensor -g sensor {FOLDER}
        {run} --unit={STRANGER} --uid=camera sleep 600
        {run} --unit={HOLDER} --uid=sensor -p Type=notify -p StandardOutput=file:{FOLDER}/events \\
            {story.TESTS}/leaky_holder.py sensor ivi/dashboard {FOLDER} {SECRET}""", check=True)
    try:
        yield events(world)[0]
    finally:
        world.rtos.run(f"systemctl stop {HOLDER} {STRANGER}")
    assert events(world)[-1] == {"event": "end", "usable": True}
    world.wait_channels(0)


def events(world):
    return [json.loads(line) for line in world.rtos.run(f"cat {FOLDER}/events", check=True)[1].splitlines()]


def all_of(world, acts):
    """What each act says, against one holder. The kernel log is part of the verdict."""
    world.rtos.mark(mark := f"acts {time.monotonic()}")
    with leak(world) as holder:
        answers = {name: act(world, holder) for name, act in acts.items()}
    world.rtos.assert_kernel_clean(since=mark)
    return answers


@pytest.fixture(scope="module")
def echoing(shared_world):
    with story.echo(shared_world):
        yield shared_world


@pytest.fixture(scope="module")
def right(echoing):
    """Everything against the module as it is, and what the audit says of it."""
    began = echoing.rtos.run("date +%s", check=True)[1].strip()
    answers = all_of(echoing, {
        **OTHER_USER, **OTHER_UNIT, "epoll": by_epoll, "window": by_memory("rx"), "heap": by_memory("heap"),
        "channel by /proc": by_proc("fd"), "/dev/null by /proc": by_proc("null")})
    return {**answers, "audit": audit(echoing, began)}


@pytest.fixture(scope="module")
def without_uid(echoing, image):
    """The same against a module that does not compare the uid, and that lets debuggers at the windows."""
    with swap.module(echoing, echoing.rtos, mutant.module(image, NO_UID, DEBUGGABLE)):
        return all_of(echoing, {**OTHER_USER, "window": by_memory("rx")})


@pytest.fixture(scope="module")
def without_cgroup(echoing, image):
    with swap.module(echoing, echoing.rtos, mutant.module(image, NO_CGROUP)):
        return all_of(echoing, {**OTHER_UNIT, "epoll": by_epoll})


def refused(answers, names):
    """Every attempt of those acts was made and refused."""
    for name in names:
        assert set(answers[name]) == EVERYTHING, name
        assert all(answers[name].values()), (name, answers[name])


def succeeded(answers, names):
    """Every attempt that the holder itself could make succeeded."""
    return not any(no for name in names for no in answers[name].values())


def audit(world, began):
    """Who was denied what since then, by the daemon's journal: {user: {operation}}; of sensor's channel alone."""
    out = world.rtos.run(["/usr/bin/journalctl", "--no-pager", "-o", "json", "-u", "sivshmd", f"--since=@{began}",
                          f"MESSAGE_ID={DENIED}", "SIVSHM_SERVICE=sensor"], check=True)[1]
    found = {}
    for entry in map(json.loads, out.splitlines()):
        uid, operation = re.fullmatch(r"Process \d+ of uid (\d+), not the holder, tried to (\w+) channel .*",
                                      entry["MESSAGE"]).groups()
        found.setdefault(int(uid), set()).add(operation)
    users = "sensor", "camera", "root"
    uids = world.rtos.run("".join(f"id -u {user};" for user in users), check=True)[1].split()
    return {user: found.get(int(uid), set()) for user, uid in zip(users, uids)}


@attack(SERVICE, "uses a channel's fd as another user in the holder's unit, or as root there",
        stops="the module compares the uid at every mmap, ioctl, poll and read; audit event, `src/kmod/holder.c`",
        control="a module that does not compare the uid: every attempt succeeds")
def test_other_user(world, right, without_uid, control):
    refused(right, OTHER_USER)
    assert right["audit"]["camera"] and right["audit"]["root"], right["audit"]
    control.seen(succeeded(without_uid, OTHER_USER))


@attack(SERVICE, "gets a channel's fd into another unit of the same user: SCM_RIGHTS, pidfd_getfd, fork and exec",
        stops="the module compares the cgroup at every mmap, ioctl, poll and read; audit event, `src/kmod/holder.c`",
        control="a module that does not compare the cgroup: every attempt succeeds")
def test_other_unit(world, right, without_cgroup, control):
    refused(right, OTHER_UNIT)
    assert right["audit"]["sensor"], right["audit"]
    control.seen(succeeded(without_cgroup, OTHER_UNIT))


@attack(SERVICE, "waits on an epoll fd of the holder, handed to another unit, that watches the channel",
        stops="poll is asked by who waits, and says POLLERR to a stranger, `src/kmod/file.c`",
        control="a module that does not compare the cgroup: no POLLERR")
def test_epoll_of_the_holder(world, right, without_cgroup, control):
    assert right["epoll"] == {"epoll": True}
    control.seen(without_cgroup["epoll"] == {"epoll": False})


@attack(SERVICE, "opens a channel anew by /proc/PID/fd, as the same user",
        stops="a channel's inode cannot be opened, the kernel says ENXIO, `src/kmod/file.c`",
        control="the same opens of another fd of the holder succeed")
def test_open_by_proc(world, right, control):
    assert right["channel by /proc"] == dict.fromkeys(("open rw", "open ro", "open wo"), True)
    control.seen(not any(right["/dev/null by /proc"].values()))


@attack(SERVICE, "reads a window in the holder's memory as the same user: process_vm_readv, /proc/PID/mem, ptrace",
        stops="the kernel copies no PFN mapping, and ours has no ->access, `src/kmod/map.c`",
        control="the holder's heap can be read; with an ->access /proc/PID/mem and ptrace read the window")
def test_memory_of_the_holder(world, right, without_uid, control):
    assert right["window"] == dict.fromkeys(("process_vm_readv", "/proc/PID/mem", "ptrace"), True)
    control.seen(not any(right["heap"].values()))
    control.seen(without_uid["window"] == {"process_vm_readv": True, "/proc/PID/mem": False, "ptrace": False})
