# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the demo shows and the guest suite tests: the same steps, each a function of a World.

A step returns facts and raises StoryError when the world is not as it must be.
"""

import contextlib
import json
import re
import statistics
import time

from . import build as builds
from .stats import summary
from .world import PCI_SLOT, RUNTIME, SECTION_SIZE

LIBEXEC = "/usr/libexec/sivshm"
TESTS = f"{LIBEXEC}/tests"
# An emulator does "rep movsb" byte by byte, to which memcpy() comes where it would be the fastest way of a processor.
PLAIN_COPIES = f"GLIBC_TUNABLES=glibc.cpu.x86_rep_movsb_threshold={1 << 30}"
CHANNEL_OPENED = "5a0f1c8e8d5b4d0fb7c2c4a6d1b7e302"  # MESSAGE_ID, sivshmd(8)


class StoryError(Exception):
    pass


def need(condition, text):
    if not condition:
        raise StoryError(text)


@contextlib.contextmanager
def unit(guest, name, user, command):
    """A transient service of its own user and cgroup, stopped at the end. Gives its invocation id."""
    guest.run(["/usr/bin/systemd-run", "--quiet", "--collect", f"--unit={name}", f"--uid={user}", "--",
               *command], check=True)
    try:
        yield invocation(guest, name)
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


@contextlib.contextmanager
def held_channel(world):
    """A channel of sensor's with the echo service, open at both ends, for the length of the block. Gives its id."""
    pid = world.rtos.run_bg(as_user("sensor", f"{TESTS}/handshake-bench", "connect", "sensor", "ivi/dashboard", "1",
                                    "stay"))
    try:
        channel = running_channel(world)["id"]
        # the host lists it when it is granted: who stops a daemon now might be before its opening
        for guest in (world.rtos, world.ivi):
            world.wait_until(lambda guest=guest: world.guest_json(guest, "sivshmctl --json list"), "open at that end")
        yield channel
    finally:
        world.rtos.run(f"kill -TERM {pid}")
        world.rtos.wait(pid)


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
    """What a service has printed since it was started last; earlier runs say nothing of this one."""
    return journal_of(guest, invocation(guest, name))


def invocation(guest, name):
    return guest.run(["/usr/bin/systemctl", "show", "-P", "InvocationID", name], check=True)[1].strip()


def journal_of(guest, run):
    return guest.run(["/usr/bin/journalctl", "--no-pager", "-o", "cat", f"_SYSTEMD_INVOCATION_ID={run}"],
                     check=True)[1] if run else ""


def events(guest, name):
    """The JSON lines that a service printed since it was started last."""
    lines = []
    for line in journal(guest, name).splitlines():
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict) and "event" in event:
                lines.append(event)
    return lines


def last_event(guest, name, kind):
    found = [event for event in events(guest, name) if event["event"] == kind]
    return found[-1] if found else None


def wait_event(world, guest, name, kind, timeout=30):
    return world.wait_until(lambda: last_event(guest, name, kind),
                            f"{name} in {guest.name} says {kind}; it said: {journal(guest, name)[-1500:]}", timeout)


# who is who

def stream(world, messages=2000):
    """sensor.service streams to dashboard.service; both report who the other proved to be."""
    restart_demo_services(world)
    sensor = wait_event(world, world.rtos, "sensor", "connected")
    dashboard = wait_event(world, world.ivi, "dashboard", "connected")
    for event, local, peer in ((sensor, "sensor", "ivi/dashboard"), (dashboard, "dashboard", "rtos/sensor")):
        vm, service = peer.split("/")
        need(event["local"] in (local, f"{'rtos' if local == 'sensor' else 'ivi'}/{local}") and event["peer"] == peer,
             f"{local} is joined as {event['local']} to {event['peer']}, not to {peer}")
        need(event["peer_spiffe"] == f"spiffe://cockpit.example/vm/{vm}/service/{service}",
             f"{local} verified {event['peer_spiffe']}")

    def moved():
        event = last_event(world.ivi, "dashboard", "progress")
        return event if event and event["messages"] >= messages else None
    progress = world.wait_until(moved, f"{messages} messages at the dashboard", 60)
    need(not last_event(world.ivi, "dashboard", "corrupt"), "the dashboard got a message that was not sent so")
    identities = {"rtos/sensor": dashboard["peer_spiffe"], "ivi/dashboard": sensor["peer_spiffe"]}
    steps = {"rtos/sensor": handshake_steps(world.rtos), "ivi/dashboard": handshake_steps(world.ivi)}
    return {"identities": identities, "messages": progress["messages"], "steps": steps}


def handshake_steps(guest):
    """Steps of the last channel that a guest's daemon opened: {step: microseconds}, from its journal."""
    out = guest.run(["/usr/bin/journalctl", "--no-pager", "-o", "json", "-n", "1", "-u", "sivshmd",
                     f"MESSAGE_ID={CHANNEL_OPENED}"], check=True)[1]
    need(out.strip(), f"{guest.name}: no channel in the journal of sivshmd")
    fields = json.loads(out.splitlines()[-1])
    return {name: int(usec) for name, usec in (step.split("=") for step in fields["SIVSHM_STEPS"].split())}


def revoke_stream(world):
    """A revocation from the host while data flows, and what both ends saw."""
    running_channel(world)
    took = revoke_and_wait(world, running_channel(world))
    seen = {name: wait_event(world, guest, name, "revoked")
            for guest, name in ((world.rtos, "sensor"), (world.ivi, "dashboard"))}
    return {"revocation_ms": round(took, 1),
            "revocation_seen": {name: event["text"] for name, event in seen.items()}}


# how fast

def bench_data(world, orders, options, ready, prefix=(), timeout=600):
    """Runs bench-data in both guests over a list of orders. Returns its answers.

    options  a guest's own options, as a function of the guest
    ready    whether the listening end can be reached
    prefix   before the command
    """
    program, others = ["/usr/bin/env", PLAIN_COPIES, f"{TESTS}/bench-data"], len(world.channels())
    listener = world.ivi.run_bg([*prefix, *program, "listen", "dashboard", *options(world.ivi), "--user", "dashboard"])
    world.wait_until(ready, "bench-data listens", 30)
    pid = world.rtos.run_bg([*prefix, *program, "connect", "sensor", "ivi/dashboard", *options(world.rtos),
                             "--user", "sensor"], input="\n".join(orders) + "\n")
    rc, out, err = world.rtos.wait(pid, timeout, "bench-data connect")
    need(rc == 0, f"bench-data connect: exit {rc}: {err}{out[-500:]}")
    rc, _, err = world.ivi.wait(listener, 30, "bench-data listen")
    need(rc == 0, f"bench-data listen: exit {rc}: {err}")
    world.wait_channels(others)
    return [json.loads(line) for line in out.splitlines()]


def round_trip(world, blocks=100, rounds=2000, size=64):
    """Polling ping-pong: a sivshm channel and plain ivshmem, in turns, in the same guests.

    Of each percentile the middle block; of the ratios the middle pair.
    """
    kinds = ("sivshm", "plain")
    orders = [f"rtt {kind} poll {size} {rounds}" for _ in range(blocks) for kind in kinds]
    with world.pinned():
        found = bench_data(world, ["ring 65536", *orders], lambda guest: ["--plain", world.plain_resource()],
                           lambda: listening(world, "ivi", "dashboard"))[1:]
    sides = {kind: [answer for answer in found if answer["kind"] == kind] for kind in kinds}
    facts = {kind: {key: round(statistics.median(a[key] for a in answers)) for key in ("min", "p50", "p99", "max")}
             for kind, answers in sides.items()}
    facts["ratio"] = {key: statistics.median(a[key] / b[key] for a, b in zip(*sides.values(), strict=True))
                      for key in ("p50", "p99")}
    return {**facts, "blocks": blocks}


# refusals

def refusal(name, refused, error):
    return {"name": name, "refused": bool(refused), "error": " ".join(error.split())}


def refused_connect(world, name, user, service, peer, marker):
    rc, out, err = world.rtos.run(as_user(user, "/usr/bin/sivshmctl", "connect", "--as", service, peer), input="")
    return refusal(name, rc != 0 and marker in err, err or out)


def refuse_without_policy(world):
    return refused_connect(world, "service without policy", "daemon", "intruder", "ivi/dashboard", "policy")


def refuse_other_name(world):
    return refused_connect(world, "service claims another's name", "camera", "sensor", "ivi/dashboard", "policy")


def refuse_passed_fd(world):
    """sensor hands its channel fd to another unit; that one, though of the same user, can do nothing with it."""
    path = "/run/fdpass/socket"
    world.rtos.run("install -d -o sensor -g sensor -m 755 /run/fdpass; rm -f /run/fdpass/socket", check=True)
    with unit(world.rtos, "fdpass", "sensor", [f"{TESTS}/fdpass", "sensor", "ivi/dashboard", path]) as run:
        world.wait_until(lambda: world.rtos.run(f"test -S {path}")[0] == 0, "fdpass is ready")
        rc, out, err = world.rtos.run(
            ["/usr/bin/systemd-run", "--quiet", "--wait", "--pipe", "--collect", "--uid=sensor", "--",
             f"{TESTS}/holder-probe", "--socket", path])
        need(out, f"holder-probe: exit {rc}: {err}")
        answer = json.loads(out)
        world.wait_until(lambda: "passed" in journal_of(world.rtos, run), "fdpass goes on")
    world.wait_channels(0)
    text = ", ".join(f"{a['name']}: {a['error']}" for a in answer["attempts"])
    return refusal("channel fd handed to another unit", rc == 0 and answer["refused"], text)


MMAP_RESOURCE = """
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
m = mmap.mmap(fd, 4096)
print("mapped, first bytes", m[:8].hex())
"""


def map_resource(guest, path):
    """What happens when root maps a BAR by sysfs: (mapped, text)."""
    rc, out, err = guest.run(["/usr/bin/python3", "-c", MMAP_RESOURCE, path])
    return rc == 0, (out if rc == 0 else err.strip().splitlines()[-1])


def refuse_sysfs(world):
    """Root maps each of our BARs by sysfs; the plain device beside them shows that the attempt is a real one."""
    need(map_resource(world.rtos, world.plain_resource())[0], "not even the plain device's BAR can be mapped")
    devices = world.rtos.run("ls -d /sys/bus/pci/drivers/sivshm/0000:*", check=True)[1].split()
    need(len(devices) == 3, f"sivshm drives {devices}")
    tries = [map_resource(world.rtos, f"{d}/resource2") for d in devices]
    return refusal("root maps the BAR by sysfs", not any(mapped for mapped, _ in tries), tries[0][1])


def refuse_peer_store(world):
    """The holder asks to write the peer's window, in every way mmap knows."""
    rc, out, err = world.rtos.run(as_user("sensor", f"{TESTS}/mapcheck", "sensor", "ivi/dashboard"))
    need(out, f"mapcheck: exit {rc}: {err}")
    answer = json.loads(out)
    world.wait_channels(0)
    text = ", ".join(f"{a['name']}: {a['error']}" for a in answer["attempts"])
    return refusal("store to the peer's window", rc == 0 and answer["ok"], text)


def kernel_store(guest, slot, offset):
    """What becomes of a store by the guest's kernel to BAR2 of the device in a PCI slot: sticks or ignored."""
    guest.run(f"insmod /root/store.ko device={slot} offset={offset}")  # it never stays loaded
    return re.findall(r"store: (\w+)", guest.kernel_log())[-1]


def kernel_stores(guest, slot, offset):
    """The same for every way that the CPU has to store: {way: sticks or ignored}."""
    guest.run(f"insmod /root/store.ko device={slot} offset={offset} ways=1")
    ways = dict(re.findall(r"store by ([^:]+): (\w+)", guest.kernel_log())[-12:])
    need(len(ways) == 12, f"stores in only {len(ways)} ways")
    return ways


def refuse_kernel_store(world):
    """The kernel itself stores to the peer's section and to the grant table; the own section shows that it can."""
    world.rtos.put_file("/root/store.ko", builds.test_module(world.image, "store"))
    files = [RUNTIME / "region/cockpit/ivi", RUNTIME / "vm/rtos/grants"]
    before = [path.read_bytes() for path in files]
    table, own, peer = (PCI_SLOT + i for i in range(3))
    need(kernel_store(world.rtos, own, SECTION_SIZE - 4096) == "sticks", "not even the own section can be written")
    tries = {f"{name} at {offset}": kernel_store(world.rtos, slot, offset)
             for name, slot in (("peer's section", peer), ("grant table", table)) for offset in (0, 4096, 65536)}
    same = [path.read_bytes() for path in files] == before
    text = ", ".join(f"{name}: {what}" for name, what in tries.items()) + ("" if same else "; BUT THE MEMORY CHANGED")
    return refusal("store by the guest's kernel", same and set(tries.values()) == {"ignored"}, text)


def refusals(world):
    """All of them; the echo service of ivi is there for those that need a channel first."""
    out = [refuse_without_policy(world), refuse_other_name(world), refuse_sysfs(world), refuse_kernel_store(world)]
    with echo(world):
        out += [refuse_passed_fd(world), refuse_peer_store(world)]
    return out
