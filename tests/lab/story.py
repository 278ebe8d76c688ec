# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the demo shows and the guest suite tests: the same steps, each a function of a World.

A step returns facts and raises StoryError when the world is not as it must be.
"""

import contextlib
import json
import time

LIBEXEC = "/usr/libexec/sivshm"
TESTS = f"{LIBEXEC}/tests"


class StoryError(Exception):
    pass


def need(condition, text):
    if not condition:
        raise StoryError(text)


def percentile(values, percent):
    """The smallest value that at least *percent* of all are not above."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def summary(values):
    return {"n": len(values), "p50": round(percentile(values, 50), 3), "p99": round(percentile(values, 99), 3)}


@contextlib.contextmanager
def unit(guest, name, user, command):
    """A transient service of its own user and cgroup, stopped at the end."""
    guest.run(["/usr/bin/systemd-run", "--quiet", "--collect", f"--unit={name}", f"--uid={user}", "--",
               *command], check=True)
    try:
        yield
    finally:
        guest.run(["/usr/bin/systemctl", "stop", name])


def listening(world, vm, service):
    rows = [dict(zip("name uid port hello up of channels allowed services revoked".split(), row))
            for row in world.bus.call("ListVMs")[0]]
    return any(service in row["services"] for row in rows if row["name"] == vm)


@contextlib.contextmanager
def echo(world, service="dashboard"):
    """The service of ivi that answers every message by the same, on any number of channels."""
    with unit(world.ivi, f"echo-{service}", service, [f"{TESTS}/handshake-bench", "listen", service]):
        world.wait_until(lambda: listening(world, "ivi", service), f"ivi/{service} listens")
        yield


def as_user(user, *command):
    """The argument list that runs a command as that user and nobody else."""
    return ["/usr/bin/setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--", *command]


def connect_many(world, count, *options, service="sensor", peer="ivi/dashboard"):
    """What handshake-bench says of *count* calls of Connect, one after the other."""
    command = as_user(service, f"{TESTS}/handshake-bench", "connect", service, peer, str(count), *options)
    rc, out, err = world.rtos.run(command, timeout=30 + 3 * count)
    need(rc == 0, f"handshake-bench: exit {rc}: {err}{out[-500:]}")
    answer = json.loads(out)
    need(answer["ok"] and len(answer["calls"]) == count, f"handshake-bench: {err}")
    return answer


def forget_certificates(guest):
    guest.run(["/usr/bin/busctl", "call", "org.sivshm1", "/org/sivshm1", "org.sivshm1.Manager",
               "ForgetCertificates"], check=True)


def handshakes(world, count, cold):
    """Times of D-Bus call to fd. Cold: neither end has a certificate when the call is made."""
    calls = []
    if cold:
        for _ in range(count):
            world.each(forget_certificates)
            calls += connect_many(world, 1)["calls"]
    else:
        connect_many(world, 1)
        calls = connect_many(world, count)["calls"]
    world.wait_channels(0)
    return {**summary([call["ms"] for call in calls]), "steps": calls[len(calls) // 2]["steps"]}


def running_channel(world, local="rtos/sensor", peer="ivi/dashboard"):
    """The one channel between the two, as the host lists it."""
    def find():
        return [c for c in world.channels() if c["state"] == "active" and {c["from"], c["to"]} == {local, peer}]
    return world.wait_until(find, f"a channel {local} to {peer}")[0]


def revoke_and_wait(world, channel):
    """Revokes on the host. Returns the milliseconds until both kernels had confirmed that nobody maps it."""
    began = time.monotonic()
    world.bus.call("RevokeChannel", "ss", channel["id"], "demo")
    while any(c["id"] == channel["id"] for c in world.channels()):
        need(time.monotonic() - began < 10, "the channel is still there 10 s after its revocation")
        time.sleep(0.001)
    return (time.monotonic() - began) * 1000


def restart_demo_services(world):
    world.ivi.run("systemctl restart dashboard", check=True)
    world.wait_until(lambda: listening(world, "ivi", "dashboard"), "ivi/dashboard listens")
    world.rtos.run("systemctl restart sensor", check=True)


def stop_demo_services(world):
    world.rtos.run("systemctl stop sensor")
    world.ivi.run("systemctl stop dashboard")
    world.wait_channels(0)


def journal(guest, name):
    return guest.run(["/usr/bin/journalctl", "--no-pager", "-o", "cat", "-u", name], check=True)[1]
