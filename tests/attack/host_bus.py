# SPDX-License-Identifier: LGPL-2.1-or-later
"""org.sivshm.ca1 as its XML says, and users of the host who call it in the container of the real unit.

The list of methods is that of dbus/org.sivshm.ca1.xml: a new one is attacked without a word here.
"""

import contextlib
import json
import subprocess
import xml.etree.ElementTree as etree
from pathlib import Path

from lab import paths, story

MANAGER, PROPERTIES = "org.sivshm.ca1.Manager", "org.freedesktop.DBus.Properties"
DENIED, LIMITS = "org.freedesktop.DBus.Error.AccessDenied", "org.freedesktop.DBus.Error.LimitsExceeded"
STRANGER, CLERK = 65534, 33  # nobody and www-data: the bus talks to users that it can look up


def script(name):
    """How a user who cannot read our files runs one of the scripts here."""
    return ["/usr/bin/python3", "-c", (Path(__file__).parent / name).read_text()]


# the contract

def interface():
    tree = etree.parse(paths.ROOT / "dbus/org.sivshm.ca1.xml", etree.XMLParser(
        target=etree.TreeBuilder(insert_comments=True)))
    (found,) = [i for i in tree.iter("interface") if i.get("name") == MANAGER]
    return found


def methods():
    """{name: (signature, names of arguments, for administrators)}"""
    found, comment = {}, ""
    for node in interface():
        if node.tag is etree.Comment:
            comment = node.text.strip()
        elif node.tag == "method":
            arguments = [arg for arg in node.iter("arg") if arg.get("direction") == "in"]
            found[node.get("name")] = ("".join(arg.get("type") for arg in arguments),
                                       [arg.get("name") for arg in arguments], comment.startswith("Administrator."))
    return found


METHODS = methods()
ADMINISTRATOR = [name for name, (_, _, only) in METHODS.items() if only]
WRITABLE_NAMES = [node.get("name") for node in interface() if node.tag == "property"]


def method_call(name, values):
    """A new argument has to be given a value here that would do something."""
    signature, arguments, _ = METHODS[name]
    return [MANAGER, name, signature, [values[argument] for argument in arguments]]


def property_calls():
    calls = [[PROPERTIES, "GetAll", "s", [MANAGER]]]
    for name in WRITABLE_NAMES:
        calls += [[PROPERTIES, "Get", "ss", [MANAGER, name]], [PROPERTIES, "Set", "ssv", [MANAGER, name, "x"]]]
    return calls


OTHER_CALLS = [["org.freedesktop.DBus.Introspectable", "Introspect", "", []],
               ["org.freedesktop.DBus.Peer", "Ping", "", []],
               ["org.freedesktop.DBus.ObjectManager", "GetManagedObjects", "", []]]


# the real unit in its container

class Host:
    def __init__(self, world):
        self.world = world
        self.values = {"vm": "rtos", "service": "rtos/sensor", "id": "0" * 32, "name": "rtos", "reason": "attack",
                       "from": "rtos/sensor", "to": "ivi/dashboard"}

    def argv(self, uid):
        return self.world.host.argv(story.as_user(uid, *script("bus_attack.py")))

    def attack(self, uid, do, **order):
        done = subprocess.run(self.argv(uid), input=json.dumps({"do": do, **order}) + "\n", text=True,
                              capture_output=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    @contextlib.contextmanager
    def attacking(self, uid, do, **order):
        """Goes on until the end of the block; what it found is in the list then."""
        found = []
        with subprocess.Popen(self.argv(uid), stdin=-1, stdout=-1, stderr=-1, text=True) as process:
            try:
                process.stdin.write(json.dumps({"do": do, **order}) + "\n")
                process.stdin.flush()
                assert process.stdout.readline(), process.stderr.read()
                yield found
                out, err = process.communicate("end\n", timeout=60)
                assert process.returncode == 0, err
                found.append(json.loads(out.splitlines()[-1]))
            finally:
                process.kill()

    def state(self):
        """All that a call could change."""
        lists = [self.world.bus.call(name) for name in ("ListVMs", "ListRegions", "ListChannels", "ListCertificates")]
        reads = self.run("journalctl --sync; journalctl -u sivshm-cad -o cat --no-pager | grep -c 'configuration read'",
                         False)
        return lists, reads, self.run("cd /var/lib/sivshm-ca && md5sum *")

    def run(self, command, check=True):
        return self.world.host.run(command, check=check)[1]

    def every_call(self):
        return [method_call(name, self.values) for name in METHODS]
