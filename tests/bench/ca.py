# SPDX-License-Identifier: LGPL-2.1-or-later
"""How many handshakes a second sivshm-cad manages alone, beside the signatures of one core; and one handshake natively.

Also with keys of an administrator's own CA, whose signatures take longer than all the rest of a handshake.
"""

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
KINDS = ("warm", "cold")
OWN_KEYS = {"ecdsap384": ["ec", "-pkeyopt", "ec_paramgen_curve:P-384"], "rsa2048": ["rsa:2048"], "rsa3072": ["rsa:3072"]}
OWN_VMS = 16
FIRST_UID = 62100
TICKS = os.sysconf("SC_CLK_TCK")


def names(vms):
    """VMs in pairs; one VM alone connects to one that only listens."""
    count = max(2, vms)
    return [f"v{i}" for i in range(count)]


def own_ca(folder, key):
    """A self-signed authority. Returns the lines of ca.conf that name it."""
    files = {"KeyFile": folder / "ca.key", "CertificateFile": folder / "ca.pem"}
    subprocess.run(["openssl", "req", "-x509", "-nodes", "-newkey", *OWN_KEYS[key], "-subj", "/CN=bench", "-days", "2",
                    "-addext", "keyUsage=critical,keyCertSign", "-keyout", files["KeyFile"],
                    "-out", files["CertificateFile"]], check=True, capture_output=True)
    files["KeyFile"].chmod(0o600)
    return "".join(f"{name}={path}\n" for name, path in files.items())


def configuration(vms, ca=""):
    files = {"ca.conf": f"[CA]\nTrustDomain={DOMAIN}\n{ca}[Limits]\nCertificatesPerMinute=60000\n"}
    all_names = names(vms)
    for i, name in enumerate(all_names):
        files[f"vm.d/{name}.conf"] = f"[VM {name}]\nUser={FIRST_UID + i}\nServices=c l\n"
    for a, b in zip(all_names[::2], all_names[1::2]):
        files[f"region.d/{a}.conf"] = f"[Region {a}]\nMembers={a} {b}\nSectionSize=1M\nVectors=2\n"
        files[f"policy.d/{a}.conf"] = f"[Allow {a}/c {b}/l]\nChannels=8\n[Allow {b}/c {a}/l]\nChannels=8\n"
    return files


def cpu_seconds(pid):
    """Processor time so far: (user, kernel)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) / TICKS, int(fields[12]) / TICKS


class Host:
    """sivshm-cad as a process of its own, and devices plugged into all its VMs. @own_key: of OWN_KEYS, for its CA."""

    def __init__(self, binary, bus, vms, own_key=None):
        from cad import Cad
        from fake_vm import Device
        self.vms = vms
        self.folder = Path("/dev/shm") / f"sivshm-bench-ca.{os.getpid()}.{time.monotonic_ns():x}"
        self.folder.mkdir(mode=0o755)
        ca = own_ca(self.folder, own_key) if own_key else ""
        self.cad = Cad(binary, self.folder, bus.address, configuration(vms, ca))
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
        user, kernel = (b - a for a, b in zip(before, cpu_seconds(self.cad.pid)))
        out, err = run.communicate(timeout=30)
        if run.returncode:
            raise RuntimeError(f"cad-load: exit {run.returncode}: {err}\n{self.cad.log()[-2000:]}")
        return {**json.loads(line), "user_s": user, "kernel_s": kernel}


def signature_rates(key="ecdsap256"):
    """What one core can do with a key in a second: (signatures, verifications)."""
    out = subprocess.run(["openssl", "speed", "-seconds", "1", key], capture_output=True, text=True, check=True).stdout
    found = re.search(r"^ *(?:rsa )?\d+ bits .*s +([\d.]+) +([\d.]+)$", out, re.M)
    return float(found[1]), float(found[2])


def beside(load, rates):
    """One run, and the seconds that openssl takes for a signature and a verification."""
    return {**load, "sign_s": 1 / rates[0], "verify_s": 1 / rates[1]}


def measured(bench, binary, program, bus):
    """Runs in turns with openssl speed: {(VMs, kind): [run]}, and the rates that openssl found."""
    seconds, rounds = bench.pick(1, 3), bench.pick(1, 5)
    rates, found = [], {(vms, kind): [] for vms in VMS for kind in KINDS}
    for _ in range(rounds):
        for vms in VMS:
            rates.append(signature_rates())
            with Host(binary, bus, vms) as host:
                for kind in KINDS:
                    found[vms, kind].append(beside(host.load(program, kind, seconds), rates[-1]))
    return found, rates


def per_handshake_usec(runs, key):
    return round(sum(run[key] for run in runs) / sum(run["handshakes"] for run in runs) * 1e6, 1)


def shares(runs):
    """What was done to what `openssl speed` does in the same processor time, each column by what it counts.

    openssl counts its own processor time, so sivshm-cad's is what to compare with: what others run meanwhile is in neither.
    """
    def median(cost):
        return stats.spread([cost(run) / max(run["user_s"] + run["kernel_s"], 1 / TICKS) for run in runs])["median"]

    return {"handshakes_to_bound": median(lambda run: run["handshakes"] * run["sign_s"]),
            "signatures_to_bound": median(lambda run: run["certificates"] * run["sign_s"]),
            "signs_and_verifies_to_bound": median(lambda run: run["certificates"] * (run["sign_s"] + run["verify_s"]))}


def row_of(vms, kind, runs):
    rate = stats.spread([run["handshakes"] / run["seconds"] for run in runs], 0)
    user, kernel = per_handshake_usec(runs, "user_s"), per_handshake_usec(runs, "kernel_s")
    return {"vms": vms, "kind": kind, "handshakes_per_s": rate["median"], "low": rate["low"], "high": rate["high"],
            "latency_ms": stats.spread([run["latency_ms"] for run in runs])["median"],
            "cpu_us_per_handshake": round(user + kernel, 1), "in_the_kernel": kernel, **shares(runs)}


def throughput(bench, binary, program, bus):
    found, rates = measured(bench, binary, program, bus)
    at = {key: row_of(*key, runs) for key, runs in found.items()}
    for (vms, kind), row in at.items():
        bench.say(f"  {vms} VMs, {kind}: {row['handshakes_per_s']:.0f} handshakes/s, {row['cpu_us_per_handshake']} µs of "
                  "processor time each")
    bench.table("ca_throughput", list(at.values()))
    bench.table("ca_signatures", [{"openssl_speed": name, "per_s": stats.spread([r[i] for r in rates], 0)["median"]}
                                  for i, name in enumerate(("sign", "verify"))])
    bench.figure("ca_handshakes_per_s", {f"{kind}_{vms}": at[vms, kind]["handshakes_per_s"]
                                         for kind in KINDS for vms in (VMS[0], VMS[-1])})
    last = at[VMS[-1], "cold"]
    bench.figure("ca_signature_rate_ratio", last["signatures_to_bound"])
    bench.figure("ca_handshake_rate_ratio", last["handshakes_to_bound"])
    bench.figure("ca_sign_and_verify_rate_ratio", last["signs_and_verifies_to_bound"])


def own_keys(bench, binary, program, bus):
    """The same load without certificates, by a CA with each of the other keys."""
    seconds, rounds = bench.pick(1, 3), bench.pick(1, 5)
    rows, figures = [], {}
    for key in OWN_KEYS:
        runs, rates = [], []
        for _ in range(rounds):
            rates.append(signature_rates(key))
            with Host(binary, bus, OWN_VMS, key) as host:
                runs.append(beside(host.load(program, "cold", seconds), rates[-1]))
        row = row_of(OWN_VMS, "cold", runs)
        rows.append({"key": key, "signatures_per_s": stats.spread([sign for sign, _ in rates], 0)["median"],
                     **{name: row[name] for name in ("handshakes_per_s", "cpu_us_per_handshake", "signatures_to_bound")}})
        figures[key] = row["signatures_to_bound"]
        bench.say(f"  CA's key {key}: {row['handshakes_per_s']:.0f} handshakes/s, {row['cpu_us_per_handshake']} µs of "
                  f"processor time each, signatures {figures[key]} of the bound")
    bench.table("ca_own_keys", rows)
    bench.figure("ca_signature_rate_ratio_own", figures)


def run(bench):
    where = build.compile("gcc")
    native_pair.measure(bench, where)  # before the load, which leaves caches full of other things
    with PrivateBus() as bus:
        programs = str(where / "src/sivshm-cad/sivshm-cad"), str(where / "tests/progs/cad-load")
        throughput(bench, *programs, bus)
        own_keys(bench, *programs, bus)
