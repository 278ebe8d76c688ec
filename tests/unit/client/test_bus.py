#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Library, sivshmctl and the test programs between processes: private bus, fake daemons, fake kernel.

  test_bus.py BUILD_ROOT SOURCE_ROOT
"""

import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

BUILD, SOURCE = (pathlib.Path(p).resolve() for p in sys.argv[1:3])
HERE = SOURCE / "tests/unit/client"
CTL = BUILD / "src/sivshmctl/sivshmctl"
PROGS = BUILD / "tests/progs"
FAKE_KERNEL = BUILD / "tests/unit/client/libfake-kernel.so"


class Case(unittest.TestCase):
    daemons = True

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="sivshm-bus-")
        cls.bus = subprocess.Popen(["dbus-daemon", "--session", "--nofork", "--print-address",
                                    f"--address=unix:path={cls.folder}/bus"], stdout=subprocess.PIPE,
                                   stderr=subprocess.DEVNULL, text=True)
        cls.address = cls.bus.stdout.readline().strip()
        cls.fake = None
        if cls.daemons:
            cls.start_fake()

    @classmethod
    def start_fake(cls):
        cls.fake = subprocess.Popen(["/usr/bin/python3", HERE / "fake_daemons.py", cls.folder, SOURCE / "dbus"],
                                    env={**os.environ, "DBUS_SESSION_BUS_ADDRESS": cls.address},
                                    stdout=subprocess.PIPE, text=True)
        assert cls.fake.stdout.readline() == "ready\n"

    @classmethod
    def tearDownClass(cls):
        for process in (cls.fake, cls.bus):
            if process:
                process.kill()
                process.wait()
                process.stdout.close()
        shutil.rmtree(cls.folder)

    def start(self, *args, **kwargs):
        env = {**os.environ, "LD_PRELOAD": str(FAKE_KERNEL), "ASAN_OPTIONS": "verify_asan_link_order=0"}
        kwargs = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **kwargs}
        process = subprocess.Popen([str(a) for a in args], env=env, **kwargs)
        self.addCleanup(self.reap, process)
        return process

    @staticmethod
    def reap(process):
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                stream.close()

    def ctl(self, *args, **kwargs):
        return self.start(CTL, "--bus", self.address, *args, **kwargs)

    def run_ctl(self, *args, data=None):
        process = self.ctl(*args, stdin=subprocess.PIPE)
        out, err = process.communicate(data, timeout=60)
        return process.returncode, out, err.decode()

    def listen(self, service, *args, **kwargs):
        process = self.ctl("listen", service, *args, **kwargs)
        self.assertEqual(process.stderr.readline(), f"listening: {service}\n".encode())
        return process

    def finish(self, process):
        out, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 0, err.decode())
        return out


class NoDaemon(Case):
    daemons = False

    def test_not_running(self):
        for verb in (["status"], ["connect", "far/b"], ["listen", "b"], ["ping", "far/b"]):
            rc, _, err = self.run_ctl(*verb)
            self.assertEqual(rc, 4, err)
            self.assertIn("systemctl start sivshmd", err)
        rc, _, err = self.run_ctl("vms")
        self.assertEqual(rc, 4)
        self.assertIn("systemctl start sivshm-cad", err)

    def test_no_bus(self):
        process = self.start(CTL, "--bus", "unix:path=/nonexistent", "status")
        _, err = process.communicate(timeout=20)
        self.assertEqual(process.returncode, 4)
        self.assertIn(b"is dbus running?", err)

    def test_daemon_dies_under_a_listener(self):
        type(self).start_fake()
        listener = self.listen("orphan")
        time.sleep(0.2)
        self.fake.kill()
        self.fake.wait()
        _, err = listener.communicate(timeout=20)
        self.assertEqual(listener.returncode, 4, err)
        self.fake.stdout.close()
        type(self).fake = None


class Errors(Case):
    def test_refusals(self):
        codes = {"NotAuthorized": 3, "RefusedByHost": 3, "RefusedByPeer": 3, "NoSuchPeer": 1, "PeerNotListening": 1,
                 "HandshakeFailed": 1, "Revoked": 1, "QuotaExceeded": 1, "NoMemory": 1, "HostUnavailable": 4,
                 "NotReady": 4, "TimedOut": 1, "Closed": 1, "Failed": 1, "Unheard": 1}
        for name, code in codes.items():
            rc, out, err = self.run_ctl("connect", f"error/{name}", "--as", "a")
            self.assertEqual((rc, out), (code, b""), err)
            self.assertIn(f"connect to error/{name} as a: because the test says so (org.sivshm1.Error.{name}); ", err)

    def test_usage(self):
        for words in ([], ["nonsense"], ["connect"], ["list", "x"], ["status", "--echo"], ["revoke"], ["--nonsense"],
                      ["ping", "a/b", "--count", "0"], ["ping", "a/b", "--size", "-1"], ["revoke", "channel"]):
            rc, _, err = self.run_ctl(*words)
            self.assertEqual(rc, 2, f"{words}: {err}")
        for words in (["revoke"], ["revoke", "d0"]):
            err = self.run_ctl(*words)[2]
            for line in ("channel ID", "service VM/SERVICE", "vm VM"):
                self.assertIn(f"usage: sivshmctl revoke {line}\n", err)

    def test_host_error(self):
        rc, _, err = self.run_ctl("qemu-args", "nobody")
        self.assertEqual(rc, 1)
        self.assertIn("no VM nobody", err)


class Lists(Case):
    def json(self, *args, code=0):
        rc, out, err = self.run_ctl("--json", *args)
        self.assertEqual(rc, code, err)
        return json.loads(out)

    def text(self, *args, code=0):
        rc, out, err = self.run_ctl(*args)
        self.assertEqual(rc, code, err)
        return out.decode()

    def test_status(self):
        status = self.json("status")
        self.assertEqual((status["vm"], status["host_connected"], status["kernel_abi"]), ("here", True, 1))
        self.assertEqual(status["sections"], [{"region": "cockpit", "vm": "here", "own": True, "size": 1 << 24,
                                               "mapping": "write-back", "ready": True}])
        self.assertIn("write-back", self.text("status"))

    def test_guest_lists(self):
        self.assertEqual(self.json("list")[0]["peer"], "far/b")
        self.assertEqual(self.json("listeners"), [])
        self.assertIn("Nobody listens", self.text("listeners"))
        self.assertRegex(self.text("list"), r"SLOT +SERVICE +PEER")

    def test_host_lists(self):
        self.assertEqual(self.json("vms")[0]["listening"], ["sensor"])
        regions = self.json("regions")
        self.assertEqual([m["vm"] for m in regions[0]["members"]], ["rtos", "ivi"])
        self.assertEqual(regions[1]["members"], [])
        self.assertEqual(self.json("channels")[0]["to_slot"], 2)
        self.assertEqual(self.json("certificates")[0]["not_after"], 1700003600)
        for verb, word in (("vms", "61001"), ("regions", "QUARANTINE"), ("channels", "64K"), ("certificates", "2023")):
            self.assertIn(word, self.text(verb))

    def test_explain(self):
        self.assertTrue(self.json("explain", "a", "far/b")["allowed"])
        self.assertIn("a.conf:3", self.text("explain", "a"))
        self.assertFalse(self.json("explain", "a", "far/evil", code=3)["allowed"])
        self.assertEqual(self.text("policy", "explain", "a/b", "c/d", code=3), "refused: no rule names it\n")

    def test_qemu_args(self):
        words = self.text("qemu-args", "rtos")
        self.assertEqual(words, "-device 'ivshmem-plain,memdev=a b' 'it'\\''s'\n")
        self.assertEqual(len(self.json("qemu-args", "rtos")), 3)
        self.assertEqual(self.text("qemu-args", "rtos", "--libvirt"), "<shmem/>\n")

    def test_acts(self):
        for words in (["revoke", "channel", "x"], ["revoke", "service", "a/b", "--reason", "r"], ["revoke", "vm", "a"],
                      ["restore", "a"], ["reload"], ["reload", "--host"]):
            self.assertEqual(self.text(*words), "")

    def test_completion_knows_every_verb(self):
        words = subprocess.run([CTL, "--complete", "verbs"], capture_output=True, text=True, check=True).stdout.split("\n")
        for line in self.text("--help").splitlines():
            if line.startswith("  ") and line[2].isalpha():
                self.assertTrue(any(w and line[2:].startswith(w) for w in words), line)


class Traffic(Case):
    def file(self, name):
        f = open(f"{self.folder}/{name}", "wb")
        self.addCleanup(f.close)
        return f

    def contents(self, name):
        return pathlib.Path(self.folder, name).read_bytes()

    def test_netcat_both_ways(self):
        there, back = os.urandom(3 << 20), os.urandom(1 << 20)
        source = pathlib.Path(self.folder) / "back"
        source.write_bytes(back)
        with open(source, "rb") as stdin:
            listener = self.listen("cat", stdin=stdin, stdout=self.file("there"))
        rc, out, err = self.run_ctl("connect", "far/cat", "--as", "a", data=there)
        self.assertEqual(rc, 0, err)
        self.assertEqual(hashlib.sha256(out).digest(), hashlib.sha256(back).digest())
        self.finish(listener)
        self.assertEqual(self.contents("there"), there)
        self.assertIn("connected: a to far/cat, spiffe://test/vm/far/service/cat", err)

    def test_netcat_quit_loses_nothing(self):
        listener = self.listen("quit")
        rc, _, err = self.run_ctl("connect", "far/quit", "--quit", data=b"q" * 50000)
        self.assertEqual(rc, 0, err)
        self.assertEqual(self.finish(listener), b"q" * 50000)

    def test_netcat_small_ring(self):
        listener = self.listen("small", stdout=self.file("small"))
        rc, _, err = self.run_ctl("connect", "far/small", "--ring-size", "4K", data=b"s" * 100000)
        self.assertEqual(rc, 0, err)
        self.finish(listener)
        self.assertEqual(self.contents("small"), b"s" * 100000)

    def test_peer_goes_while_stdin_is_open(self):
        listener = self.listen("leaves")
        client = self.ctl("connect", "far/leaves", stdin=subprocess.PIPE)
        client.stdin.write(b"x")
        client.stdin.flush()
        self.assertEqual(listener.stdout.read(1), b"x")
        listener.kill()
        self.assertEqual(client.wait(timeout=20), 0)
        client.stdin.close()

    def test_peer_goes_before_all_is_sent(self):
        listener = self.listen("leaves-early")
        client = self.ctl("connect", "far/leaves-early", "--ring-size", "4K", stdin=subprocess.PIPE)
        os.kill(listener.pid, signal.SIGSTOP)
        client.stdin.write(bytes(60000))
        client.stdin.flush()
        time.sleep(0.3)
        listener.kill()
        self.assertEqual(client.wait(timeout=20), 1)
        self.assertIn(b"closed before all of stdin was sent", client.stderr.read())

    def test_stdin_that_cannot_be_read(self):
        listener = self.listen("nothing")
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        self.addCleanup(os.close, folder)
        client = self.ctl("connect", "far/nothing", "--quit", stdin=folder)
        self.assertEqual(client.wait(timeout=20), 1)
        self.assertIn(b"stdin: Is a directory", client.stderr.read())
        self.finish(listener)

    def test_stdout_that_does_not_block(self):
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        listener = self.listen("slow", stdout=writing)
        os.close(writing)
        client = self.ctl("connect", "far/slow", "--quit", stdin=subprocess.PIPE)
        client.stdin.write(bytes(150000))
        client.stdin.close()
        time.sleep(0.3)
        with open(reading, "rb") as pipe:
            self.assertEqual(len(pipe.read()), 150000)
        self.assertEqual(client.wait(timeout=20), 0)
        self.assertEqual(listener.wait(timeout=20), 0)

    def test_listener_that_ends(self):
        """--keep goes on after a connection, not after the listener's end."""
        for name, rc in (("Closed", 1), ("RefusedByHost", 3), ("HostUnavailable", 4)):
            listener = self.listen(f"ends-{name}", "--echo", "--keep")
            self.assertEqual(listener.wait(timeout=20), rc, name)
            self.assertEqual(listener.stderr.read().count(b"because the test says so"), 1, name)

    def test_echo_and_ping(self):
        listener = self.listen("echo", "--echo", "--keep")
        for size in ("1", "64", "4000"):
            rc, out, err = self.run_ctl("--json", "ping", "far/echo", "--count", "500", "--size", size)
            self.assertEqual(rc, 0, err)
            answer = json.loads(out)
            self.assertEqual(answer["rounds"], 500)
            self.assertLessEqual(answer["rtt_ns"]["min"], answer["rtt_ns"]["p99"])
        rc, _, err = self.run_ctl("ping", "far/echo", "--size", "65536")
        self.assertEqual(rc, 1)
        self.assertIn("the longest message is 65528", err)
        self.assertIsNone(listener.poll())

    def test_echo_answers_netcat(self):
        listener = self.listen("parrot", "--echo")
        rc, out, err = self.run_ctl("connect", "far/parrot", data=b"polly\n")
        self.assertEqual((rc, out), (0, b"polly\n"), err)
        self.finish(listener)

    def test_sensor_and_dashboard(self):
        dashboard = self.start(PROGS / "demo-dashboard", "--bus", self.address, "--as", "dash", "--once")
        sensor = self.start(PROGS / "demo-sensor", "--bus", self.address, "--as", "sens", "--to", "far/dash", "--rate", "0",
                            "--count", "20000")
        lines = [json.loads(line) for line in self.finish(sensor).splitlines()]
        self.assertEqual(lines[0]["peer_spiffe"], "spiffe://test/vm/far/service/dash")
        self.assertEqual(lines[-1], {"event": "done", "messages": 20000})
        last = json.loads(self.finish(dashboard).splitlines()[-1])
        self.assertEqual((last["event"], last["messages"], last["corrupt"]), ("closed", 20000, 0))

    def test_sensor_is_refused(self):
        sensor = self.start(PROGS / "demo-sensor", "--bus", self.address, "--to", "error/NotAuthorized")
        out, _ = sensor.communicate(timeout=20)
        self.assertEqual(sensor.returncode, 1)
        self.assertEqual((json.loads(out)["event"], json.loads(out)["error"]), ("refused", "EACCES"))

    def test_other_language_connects(self):
        listener = self.listen("tongue", "--echo")
        client = self.start("/usr/bin/python3", SOURCE / "tests/progs/gdbus_client.py", "--bus", self.address, "connect",
                            "snake", "far/tongue", "--count", "2000")
        self.assertEqual(json.loads(self.finish(client))["messages"], 2000)
        self.finish(listener)

    def test_other_language_listens(self):
        server = self.start("/usr/bin/python3", SOURCE / "tests/progs/gdbus_client.py", "--bus", self.address, "listen",
                            "snakes")
        self.assertEqual(server.stderr.readline(), b"listening\n")
        rc, _, err = self.run_ctl("ping", "far/snakes", "--count", "2000", "--size", "100")
        self.assertEqual(rc, 0, err)
        self.assertEqual(json.loads(self.finish(server))["messages"], 2000)

    def test_bench_data(self):
        """Every loop of the benchmark, where there is neither UIO nor a network card."""
        plain = pathlib.Path(self.folder) / "plain"
        plain.write_bytes(os.urandom(1 << 20))
        common = ["--bus", self.address, "--plain", plain]
        server = self.start(PROGS / "bench-data", "listen", "bench", *common)
        self.assertEqual(server.stderr.readline(), b"listening\n")
        loops = [f"{op} {kind} poll {how} 64 2000" for kind in ("sivshm", "plain") for op in ("stream", "both")
                 for how in ("copy", "touch", "zero")]
        orders = ["ring 65536", "rtt sivshm poll 64 500", "rtt plain poll 8 500", "rtt sivshm sleep 64 50 200", *loops,
                  "ring 262144", "rtt sivshm default 65536 50"]
        client = self.start(PROGS / "bench-data", "connect", "a", "far/bench", *common, stdin=subprocess.PIPE)
        client.stdin.write("\n".join(orders).encode() + b"\n")
        client.stdin.close()
        client.stdin = None  # communicate() would flush it
        answers = [json.loads(line) for line in self.finish(client).splitlines()]
        self.assertEqual(len(answers), len(orders))
        self.assertEqual([a["n"] for a in answers if a["op"] != "ring"], [500, 500, 50] + [2000] * len(loops) + [50])
        slept = answers[3]
        self.assertGreater(slept["sleeps"] + slept["peer_sleeps"], 25)
        self.assertLessEqual(slept["p50"], slept["p99"])
        self.finish(server)

    def test_fd_is_passed_and_probed(self):
        listener = self.listen("held")
        path = f"{self.folder}/pass"
        holder = self.start(PROGS / "fdpass", "--bus", self.address, "a", "far/held", path)
        self.assertEqual(json.loads(holder.stdout.readline())["event"], "ready")
        probe = self.start(PROGS / "holder-probe", "--socket", path)
        out, err = probe.communicate(timeout=20)
        # The fake kernel knows no holder: what is seen here is that the probe tells.
        self.assertEqual(probe.returncode, 1, err)
        self.assertFalse(json.loads(out)["refused"])
        self.assertTrue(json.loads(self.finish(holder))["still_usable"])
        self.assertEqual(self.finish(listener), b"still mine")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
