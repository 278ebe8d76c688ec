# SPDX-License-Identifier: LGPL-2.1-or-later
"""How many handshakes a second sivshm-cad manages alone, beside the signatures of one core; and one handshake natively."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from lab import build, paths
from lab.host import PrivateBus

from . import native_pair, stats

sys.path.append(str(paths.ROOT / "tests/integration"))

TITLE = "handshakes at the CA, and from call to descriptor, between native processes"
DOMAIN = "bench.example"
VMS = [1, 4, 16, 64]
FIRST_UID = 62100
TICKS = os.sysconf("SC_CLK_TCK")


def names(vms):
    """VMs in pairs; one VM alone connects to one that only listens."""
    count = max(2, vms)
    return [f"v{i}" for i in range(count)]


def configuration(vms):
    files = {"ca.conf": f"[CA]\nTrustDomain={DOMAIN}\n[Limits]\nCertificatesPerMinute=60000\n"}
    all_names = names(vms)
    for i, name in enumerate(all_names):
        files[f"vm.d/{name}.conf"] = f"[VM {name}]\nUser={FIRST_UID + i}\nServices=c l\n"
    for a, b in zip(all_names[::2], all_names[1::2]):
        files[f"region.d/{a}.conf"] = f"[Region {a}]\nMembers={a} {b}\nSectionSize=1M\nVectors=2\n"
        files[f"policy.d/{a}.conf"] = f"[Allow {a}/c {b}/l]\nChannels=8\n[Allow {b}/c {a}/l]\nChannels=8\n"
    return files


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


class Host:
    """sivshm-cad as a process of its own, and devices plugged into all its VMs."""

    def __init__(self, binary, bus, vms):
        from cad import Cad
        from fake_vm import Device
        self.vms = vms
        self.folder = Path("/dev/shm") / f"sivshm-bench-ca.{os.getpid()}.{time.monotonic_ns():x}"
        self.folder.mkdir(mode=0o755)
        self.cad = Cad(binary, self.folder, bus.address, configuration(vms))
        self.cad.start()
        self.devices = [Device(self.cad.runtime / "vm" / name / f"v{i & ~1}.sock", FIRST_UID + i).setup(2)
                        for i, name in enumerate(names(vms))]

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for device in self.devices:
            device.close()
        code = self.cad.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        if exc[0] is None and code:
            raise RuntimeError(f"sivshm-cad ended with {code}")

    def load(self, program, kind, seconds):
        """One run; what the daemon's processor time was in it comes with the answer."""
        words = [f"{name}:{FIRST_UID + i}" for i, name in enumerate(names(self.vms))]
        if self.vms == 1:
            words[1] = "-" + words[1]
        run = subprocess.Popen([program, self.cad.runtime, DOMAIN, str(seconds), kind, *words], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
        run.stdout.readline()
        before = cpu_seconds(self.cad.pid)
        line = run.stdout.readline()
        used = cpu_seconds(self.cad.pid) - before
        out, err = run.communicate(timeout=30)
        if run.returncode:
            raise RuntimeError(f"cad-load: exit {run.returncode}: {err}\n{self.cad.log()[-2000:]}")
        return {**json.loads(line), "cpu_s": used}


def signature_rates():
    """What one core can do in a second: (signatures, verifications), P-256."""
    out = subprocess.run(["openssl", "speed", "-seconds", "1", "ecdsap256"], capture_output=True, text=True,
                         check=True).stdout
    found = re.search(r"^ *256 bits ecdsa .*s +([\d.]+) +([\d.]+)$", out, re.M)
    return float(found[1]), float(found[2])


def throughput(bench, binary, program, bus):
    seconds, rounds = bench.pick(1, 3), bench.pick(2, 5)
    rates, found = [], {(vms, kind): [] for vms in VMS for kind in ("warm", "cold")}
    for _ in range(rounds):
        for vms in VMS:
            with Host(binary, bus, vms) as host:
                for kind in ("warm", "cold"):
                    rates.append(signature_rates())
                    found[vms, kind].append({**host.load(program, kind, seconds), "signs": rates[-1][0],
                                             "verifies": rates[-1][1]})
    rows = []
    for (vms, kind), runs in found.items():
        rate = stats.spread([r["handshakes"] / r["seconds"] for r in runs], 0)
        row = {"vms": vms, "kind": kind, "handshakes_per_s": rate["median"], "low": rate["low"], "high": rate["high"],
               "cpu_us_per_handshake": round(sum(r["cpu_s"] for r in runs) / sum(r["handshakes"] for r in runs) * 1e6, 1),
               "latency_ms": stats.spread([r["latency_ms"] for r in runs])["median"],
               "signatures_to_bound": stats.spread([r["certificates"] / r["seconds"] / r["signs"] for r in runs])["median"],
               "signs_and_verifies_to_bound": stats.spread([r["certificates"] / r["seconds"]
                                                            * (1 / r["signs"] + 1 / r["verifies"]) for r in runs])["median"]}
        rows.append(row)
        bench.say(f"  {vms} VMs, {kind}: {row['handshakes_per_s']:.0f} handshakes/s, {row['cpu_us_per_handshake']} µs of "
                  "processor time each")
    bench.table("ca_throughput", rows)
    bench.table("ca_signatures", [{"openssl_speed": name, "per_s": stats.spread([r[i] for r in rates], 0)["median"]}
                                  for i, name in enumerate(("sign", "verify"))])
    at = {(row["vms"], row["kind"]): row for row in rows}
    bench.figure("ca_handshakes_per_s", {f"{kind}_{vms}": at[vms, kind]["handshakes_per_s"]
                                         for kind in ("warm", "cold") for vms in (VMS[0], VMS[-1])})
    bench.figure("ca_signature_rate_ratio", at[VMS[-1], "cold"]["signatures_to_bound"])
    bench.figure("ca_sign_and_verify_rate_ratio", at[VMS[-1], "cold"]["signs_and_verifies_to_bound"])


def run(bench):
    where = build.compile("gcc")
    with PrivateBus() as bus:
        throughput(bench, str(where / "src/sivshm-cad/sivshm-cad"), str(where / "tests/progs/cad-load"), bus)
    native_pair.measure(bench, where)
