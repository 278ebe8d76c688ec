# SPDX-License-Identifier: LGPL-2.1-or-later
"""tools/demo: the main job, every part real, with its times, its refusals, and a revocation."""

import argparse
import contextlib
import json
import signal
import sys
import time
from pathlib import Path

from . import build, image, paths, qemu, story
from .world import World


class Demo:
    def __init__(self, options):
        self.options, self.began = options, time.monotonic()
        self.facts = {"ok": False}
        self.told = False

    def say(self, text=""):
        print(f"[{time.monotonic() - self.began:6.1f}] {text}", flush=True)

    def run(self):
        self.say("building (gcc, kernel module)")
        guest_image = image.ensure(self.say)
        destdir = build.install(guest_image)
        self.say("starting the host (systemd in a container) and two guests (QEMU, software emulation)")
        with World(destdir, guest_image, log_dir=paths.BUILD / "logs", progress=self.say) as world:
            if not self.options.keep:
                self.story(world)
                return
            try:
                self.story(world)
            except Exception as error:
                self.facts["error"] = str(error)
            self.verdict()
            self.leave_up(world)

    def story(self, world):
        self.show_stream(world)
        self.show_handshakes(world)
        self.show_round_trip(world)
        self.show_refusals(world)
        self.show_revocation(world)
        world.wait_channels(0)
        for guest in world.guests.values():
            guest.assert_kernel_clean()
        self.facts["ok"] = True

    def show_stream(self, world):
        self.say("rtos/sensor.service streams to ivi/dashboard.service; the handshake, as each end saw it:")
        facts = story.stream(world)
        for name, steps in facts.pop("steps").items():
            self.show_steps(name, steps)
        self.facts.update(facts)
        for name, spiffe in facts["identities"].items():
            self.say(f"  verified: {name} is {spiffe}")
        self.say(f"  messages received and checked: {facts['messages']}")
        story.stop_demo_services(world)

    def show_steps(self, title, steps):
        self.say(f"  {title}:")
        before = 0
        for step, usec in steps.items():
            self.say(f"    {usec / 1000:8.2f} ms  {step} (+{(usec - before) / 1000:.2f})")
            before = usec

    def show_handshakes(self, world):
        self.say(f"handshakes, D-Bus call to fd, {self.options.handshakes} of each kind")
        self.facts["handshake_ms"] = {}
        with story.echo(world):
            for kind, title in (("cold", "cold, no certificate at either end"), ("warm", "warm")):
                facts = story.handshakes(world, self.options.handshakes, kind == "cold")
                self.say(f"  {title}: p50 {facts['p50']} ms, p99 {facts['p99']} ms; the steps of one:")
                self.show_steps(kind, facts["steps"])
                self.facts["handshake_ms"][kind] = facts

    def show_round_trip(self, world):
        self.say("round trip by polling, 64 B, in turns with plain ivshmem in the same guests")
        facts = story.round_trip(world)
        self.facts["rtt_ns"] = {kind: facts[kind] for kind in ("sivshm", "plain")}
        self.facts["rtt_ratio"] = facts["ratio"]
        for kind in ("sivshm", "plain"):
            self.say(f"  {kind:6}: p50 {facts[kind]['p50']} ns, p99 {facts[kind]['p99']} ns")
        self.say(f"  ratio : p50 {facts['ratio']['p50']:.3f}, p99 {facts['ratio']['p99']:.3f}")

    def show_refusals(self, world):
        self.say("refusals")
        self.facts["refusals"] = story.refusals(world)
        for case in self.facts["refusals"]:
            self.say(f"  {'refused' if case['refused'] else 'NOT REFUSED'}: {case['name']}: {case['error']}")
        story.need(all(case["refused"] for case in self.facts["refusals"]), "something was not refused")

    def show_revocation(self, world):
        self.say("the host revokes the channel while data flows")
        story.stream(world)
        facts = story.revoke_stream(world)
        self.facts.update(facts)
        self.say(f"  both kernels had taken the memory back after {facts['revocation_ms']} ms")
        for name, text in facts["revocation_seen"].items():
            self.say(f"  {name} saw: {text}")
        story.stop_demo_services(world)

    def verdict(self):
        """Writes the facts and says how it ended; once."""
        if self.told:
            return
        self.told = True
        if self.options.json:
            self.options.json.write_text(json.dumps(self.facts, indent=1) + "\n")
        if self.facts["ok"]:
            self.say("done")
            print("demo: OK", flush=True)
        else:
            self.say(f"demo: FAILED: {self.facts.get('error')}")

    def leave_up(self, world):
        """Keeps everything until the user ends it; a shell in each guest is one command away."""
        self.say("still up; end it with Ctrl-C")
        for vm, guest in world.guests.items():
            self.say(f"  shell in {vm}: socat -,raw,echo=0,escape=0x1d UNIX-CONNECT:{guest.folder}/console.sock   "
                     "(Ctrl-] leaves)")
        self.say(f"  shell on the host: nsenter --all --target {world.host.leader}")
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
        self.say("ending")


def parse(argv):
    parser = argparse.ArgumentParser(prog="tools/demo", description=__doc__)
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the facts there")
    parser.add_argument("--keep", action="store_true", help="leave the guests up and say how to get a shell")
    parser.add_argument("--handshakes", type=int, default=50, metavar="N", help="how many of each kind (default 50)")
    return parser.parse_args(argv)


def main(argv=None):
    options = parse(argv)
    qemu.exit_on_signals()
    demo = Demo(options)
    try:
        demo.run()
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        demo.facts.setdefault("error", str(error) or f"stopped by {type(error).__name__}")
    demo.verdict()
    return 0 if demo.facts["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
