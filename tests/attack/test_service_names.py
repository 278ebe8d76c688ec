# SPDX-License-Identifier: LGPL-2.1-or-later
"""A service claims what is another's on the bus: names, peers, channels, listeners, the daemon's own things.

The same calls go to sivshmd as it is, and to one in both guests that believes every caller. The host's policy and the
peer's allow what is tried, so that the caller's own guest is the only one that can refuse it.
"""

import contextlib
import json
import time

import pytest

from lab import mutant, story, swap
from lab.attack import SERVICE, attack
from lab.mutant import Edit

MANAGER = ["/org/sivshm1", "org.sivshm1.Manager"]
NOT_AUTHORIZED = "org.sivshm1.Error.NotAuthorized"
ACCESS_DENIED = "org.freedesktop.DBus.Error.AccessDenied"

GULLIBLE = [
    # who: uid, unit; what: peer, listening
    Edit("src/sivshmd/policy.c", "if (s->uid != q->uid)\n", "if (0 && s->uid != q->uid)\n"),
    Edit("src/sivshmd/policy.c", "return !s->unit[0] || q->any_unit", "return true || !s->unit[0] || q->any_unit"),
    Edit("src/sivshmd/policy.c", 'verdict(v, false, &s->line, "%s= of service %s does not name %s"',
         'verdict(v, true, &s->line, "%s= of service %s does not name %s"'),
    Edit("src/sivshmd/policy.c", 'verdict(v, false, &s->line, "service %s has no Accept="',
         'verdict(v, true, &s->line, "service %s has no Accept="'),
    # whose object
    Edit("src/sivshmd/channel-bus.c", "if (caller.uid != 0 && (", "if (0 && ("),
    Edit("src/sivshmd/listener-bus.c", "return sender && strcmp(sender, l->caller.name) == 0;", "return sender && l;"),
    Edit("src/sivshmd/manager-list.c", "(sender->uid == 0 || sender->uid == m->channels[i]->uid)", "sender"),
    Edit("src/sivshmd/manager-list.c", "(sender->uid == 0 || sender->uid == l->caller.uid)", "sender"),
    # administrators
    Edit("src/common/bus-access.c", "if (!q->action || q->sender.uid == 0)", "if (true || !q->action)"),
]

HOST_POLICY = "/etc/sivshm-ca/policy.d/50-attack.conf"
IVI_POLICY = "/etc/sivshm/policy.d/10-cockpit.conf"


@contextlib.contextmanager
def everybody_else_allows(world):
    """The host and ivi let camera come to dashboard; rtos does not."""
    world.host.put_file(HOST_POLICY, "[Allow rtos/camera ivi/dashboard]\n")
    world.bus.call("Reload")
    world.ivi.run(f"cp {IVI_POLICY} /root/policy && sed -i 's|^Accept=rtos/sensor|& rtos/camera|' {IVI_POLICY}"
                  " && sivshmctl reload", check=True)
    try:
        yield
    finally:
        world.ivi.run(f"mv /root/policy {IVI_POLICY} && sivshmctl reload", check=True)
        world.host.run(["/bin/rm", HOST_POLICY], check=True)
        world.bus.call("Reload")


def call(guest, user, *what, unit=None):
    """The name of the error that a call of that user ends with, or "ok"."""
    command = story.as_user(user, f"{story.TESTS}/bus-flood", *what)
    if unit:
        command = ["/bin/sh", "-c", 'echo $$ > "/sys/fs/cgroup/system.slice/$1/cgroup.procs" && shift && exec "$@"',
                   "sh", unit, *command]
    rc, out, err = guest.run(command)
    assert rc == 0, f"bus-flood: exit {rc}: {err}"
    [name] = json.loads(out)["answers"]
    return name


def connect(world, user, service, peer, unit=None):
    return call(world.rtos, user, *MANAGER, "Connect", "ssa{sv}", service, peer, unit=unit)


def listen(guest, user, service):
    return call(guest, user, *MANAGER, "Listen", "sa{sv}", service)


def listed(guest, user, method):
    """Paths of the objects that a user is told of."""
    out = guest.run(story.as_user(user, "/usr/bin/busctl", "--json=short", "call", "org.sivshm1", *MANAGER, method),
                    check=True)[1]
    return [row[0] for row in json.loads(out)["data"][0]]


@contextlib.contextmanager
def sleeper(guest, user):
    """A unit that has the user's name and does nothing."""
    with story.unit(guest, user, user, ["/usr/bin/sleep", "600"]):
        yield f"{user}.service"


def names(world):
    """Claims of names and peers."""
    answers = {"dashboard by recorder": listen(world.ivi, "recorder", "dashboard"),
               "recorder out of its unit": listen(world.ivi, "recorder", "recorder"),
               "camera, which may not listen": None}
    with sleeper(world.rtos, "camera") as unit:
        answers["camera, which may not listen"] = call(world.rtos, "camera", *MANAGER, "Listen", "sa{sv}", "camera",
                                                       unit=unit)
        with (story.echo(world),
              story.unit(world.ivi, "recorder", "recorder", [f"{story.TESTS}/handshake-bench", "listen", "recorder"])):
            world.wait_until(lambda: story.listening(world, "ivi", "recorder"), "ivi/recorder listens")
            answers["sensor by camera"] = connect(world, "camera", "sensor", "ivi/dashboard")
            answers["sensor by a user that no section names"] = connect(world, "daemon", "sensor", "ivi/dashboard")
            answers["camera out of its unit"] = connect(world, "camera", "camera", "ivi/recorder")
            answers["camera to a peer that is not its own"] = connect(world, "camera", "camera", "ivi/dashboard", unit)
            world.wait_channels(0)
    return answers


@contextlib.contextmanager
def holding(guest, name, user, *what):
    """A unit of that user that makes calls and keeps what it gets."""
    flood = " ".join(f"'{word}'" for word in [f"{story.TESTS}/bus-flood", "--hold", *what])
    with story.unit(guest, name, user, ["/bin/sh", "-c", f"sleep 600 | {flood}"]):
        yield


def objects(world):
    """Use of another's channels and listeners, and administration. Nobody has fetched ivi's connections yet."""
    with holding(world.ivi, "listening", "dashboard", *MANAGER, "Listen", "sa{sv}", "dashboard"):
        world.wait_until(lambda: story.listening(world, "ivi", "dashboard"), "ivi/dashboard listens")
        with holding(world.rtos, "holding", "sensor", "--calls", "3", *MANAGER, "Connect", "ssa{sv}", "sensor",
                     "ivi/dashboard"):
            world.wait_channels(3)
            channels = listed(world.rtos, "root", "ListChannels")
            [listener] = listed(world.ivi, "root", "ListListeners")
            channel, theirs = "org.sivshm1.Channel", [listener, "org.sivshm1.Listener"]
            answers = {
                "lists another's channels": bool(listed(world.rtos, "camera", "ListChannels")),
                "lists another's listeners": bool(listed(world.ivi, "recorder", "ListListeners")),
                "reloads the policy": call(world.rtos, "sensor", *MANAGER, "Reload", ""),
                "forgets the certificates": call(world.rtos, "sensor", *MANAGER, "ForgetCertificates", ""),
                "closes another user's channel": call(world.rtos, "camera", channels[0], channel, "Close", ""),
                "closes another unit's channel": call(world.rtos, "sensor", channels[1], channel, "Close", ""),
                "accepts for another user": call(world.ivi, "recorder", *theirs, "Accept", "a{sv}"),
                "accepts for another process": call(world.ivi, "dashboard", *theirs, "Accept", "a{sv}"),
                "closes another user's listener": call(world.ivi, "recorder", *theirs, "Close", ""),
            }
    world.wait_channels(0)
    return answers


def everything(world):
    """All answers. The kernel logs are part of the verdict."""
    mark = f"names {time.monotonic()}"
    for guest in world.guests.values():
        guest.mark(mark)
    answers = {**names(world), **objects(world)}
    for guest in world.guests.values():
        guest.assert_kernel_clean(since=mark)
    return answers


@pytest.fixture(scope="module")
def open_world(shared_world):
    with everybody_else_allows(shared_world):
        yield shared_world


@pytest.fixture(scope="module")
def right(open_world):
    return everything(open_world)


@pytest.fixture(scope="module")
def gullible(open_world):
    binary = mutant.daemon("sivshmd", *GULLIBLE)
    with swap.daemon(open_world, open_world.rtos, binary), swap.daemon(open_world, open_world.ivi, binary):
        return everything(open_world)


def same(answers, acts, value):
    assert {act: answers[act] for act in acts} == dict.fromkeys(acts, value)
    return True


NAMES = ["sensor by camera", "sensor by a user that no section names", "camera out of its unit"]
LISTENING = ["dashboard by recorder", "recorder out of its unit", "camera, which may not listen"]
PEERS = ["camera to a peer that is not its own"]
OBJECTS = ["closes another user's channel", "closes another unit's channel", "accepts for another user",
           "accepts for another process", "closes another user's listener"]
LISTS = ["lists another's channels", "lists another's listeners"]
ADMIN = ["reloads the policy", "forgets the certificates"]


@attack(SERVICE, "connects as another service: as another user, as one without a section, out of the service's unit",
        stops="uid and unit come from the bus; policy, default deny: NotAuthorized, `src/sivshmd/policy.c`",
        control="a daemon that compares neither gives the channel; the host cannot tell")
def test_other_name(world, right, gullible, control):
    same(right, NAMES, NOT_AUTHORIZED)
    control.seen(same(gullible, NAMES, "ok"))


@attack(SERVICE, "connects to a peer that its own guest's policy does not name, the host's and the peer's do",
        stops="the guest's policy, default deny: NotAuthorized, `src/sivshmd/policy.c`",
        control="a daemon that does not look gives the channel")
def test_other_peer(world, right, gullible, control):
    same(right, PEERS, NOT_AUTHORIZED)
    control.seen(same(gullible, PEERS, "ok"))


@attack(SERVICE, "listens as another service, out of its unit, or though it may accept nobody",
        stops="the guest's policy: NotAuthorized, `src/sivshmd/policy.c`",
        control="a daemon that does not look: it listens")
def test_listen(world, right, gullible, control):
    same(right, LISTENING, NOT_AUTHORIZED)
    control.seen(same(gullible, LISTENING, "ok"))


@attack(SERVICE, "closes another's channel or listener, or accepts from it, as another user, unit or process",
        stops="only who holds or created it, or root: NotAuthorized, `src/sivshmd/channel-bus.c`, `listener-bus.c`",
        control="a daemon that does not compare callers does all of it")
def test_objects(world, right, gullible, control):
    same(right, OBJECTS, NOT_AUTHORIZED)
    control.seen(same(gullible, OBJECTS, "ok"))


@attack(SERVICE, "lists the channels and listeners of other users",
        stops="lists are of the caller's uid, `src/sivshmd/manager-list.c`", control="a daemon that lists all")
def test_lists(world, right, gullible, control):
    same(right, LISTS, False)
    control.seen(same(gullible, LISTS, True))


@attack(SERVICE, "calls what is for administrators: Reload, ForgetCertificates",
        stops="root, or who polkit lets: AccessDenied, `src/common/bus-access.c`",
        control="a daemon that does not ask does it")
def test_administration(world, right, gullible, control):
    same(right, ADMIN, ACCESS_DENIED)
    control.seen(same(gullible, ADMIN, "ok"))


@attack(SERVICE, "takes the daemon's name on the bus, to answer in its place",
        stops="the bus's policy, `dbus/org.sivshm1.conf`", control="root asks the same and is put in the queue")
def test_bus_name(world, control):
    ask = ["/usr/bin/busctl", "call", "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus",
           "RequestName", "su", "org.sivshm1", "0"]
    rc, _, err = world.rtos.run(story.as_user("sensor", *ask))
    assert rc != 0 and "Access denied" in err
    control.seen(world.rtos.run(ask, check=True)[1].split() == ["u", "2"])


OPEN = """
import errno, os, sys
for path in sys.argv[1:]:
    try:
        os.close(os.open(path, os.O_RDWR))
        print("ok")
    except OSError as error:
        print(errno.errorcode[error.errno])
"""


@attack(SERVICE, "opens what the daemon works with: /dev/sivshm, the control port, the devices' BARs, /dev/mem",
        stops="the nodes belong to sivshmd and root, `units/60-sivshmd.rules`",
        control="with the daemon stopped its user opens the first two, and root all of them")
def test_devices(world, control):
    nodes = world.rtos.run("echo /dev/sivshm $(readlink -f /dev/virtio-ports/org.sivshm.control.0)"
                           " /sys/bus/pci/drivers/sivshm/0000:*/resource[02] /dev/mem", check=True)[1].split()
    assert len(nodes) >= 2 + 3 + 1

    def opened(user):
        return world.rtos.run(story.as_user(user, "/usr/bin/python3", "-c", OPEN, *nodes), check=True)[1].split()
    assert set(opened("sensor")) == {"EACCES"}
    world.rtos.run("systemctl stop sivshmd", check=True)
    try:
        control.seen(opened("sivshmd")[:2] == ["ok", "ok"])
        control.seen(set(opened("root")) == {"ok"})
    finally:
        world.rtos.run("systemctl start sivshmd", check=True)
        world.wait_connected(world.rtos)
