# SPDX-License-Identifier: LGPL-2.1-or-later
"""libFuzzer targets: what each is built of, builds, runs, coverage. Command: tools/fuzz.

A build is a ninja file of its own, with clang. "asan" is what fuzzes; "cov" is the same targets and
the unit tests of the pure core with clang's source coverage, which an instrumented run of the grown
corpus then fills. A planted defect (Edit) is one more build of the files that it touches alone.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import namedtuple
from pathlib import Path

from . import build, paths
from .image import locked
from .mutant import Edit

HERE = paths.ROOT / "tests/fuzz"
BUILD = paths.BUILD / "fuzz"
COVERAGE = paths.BUILD / "coverage"
SECONDS = int(os.environ.get("SIVSHM_FUZZ_SECONDS") or 60)
# tools/check goes the same way each time, as far as time lets it: one commit, one verdict. tools/fuzz explores.
SEED, RANDOM = 1, 0

WARNINGS = ["-Wall", "-Wextra", "-Werror"]
COMMON_FLAGS = ["-std=gnu17", "-g", "-D_GNU_SOURCE", '-DSIVSHM_VERSION=\\"fuzz\\"', "-fno-omit-frame-pointer"]
SANITIZE = "address,undefined"
FLAVOURS = {
    # objects; programs that libFuzzer drives; other programs
    "asan": (["-O1", f"-fsanitize=fuzzer-no-link,{SANITIZE}", "-fno-sanitize-recover=all"],
             [f"-fsanitize=fuzzer,{SANITIZE}"], [f"-fsanitize={SANITIZE}"]),
    "cov": (["-O0", "-fprofile-instr-generate", "-fcoverage-mapping"],
            ["-fsanitize=fuzzer", "-fprofile-instr-generate"], ["-fprofile-instr-generate"]),
}
INCLUDES = ["src/kmod/uapi", "src/common", "src", "src/kmod", "tests/fuzz", "tests/unit/common"]
RUN_OPTIONS = ["-timeout=60", "-rss_limit_mb=2048", "-print_final_stats=1", "-print_funcs=0", "-reload=0"]
CORPUS_MOST = 4000  # files; more are merged before the next run


def glob(pattern, without=()):
    return sorted(str(p.relative_to(paths.ROOT)) for p in paths.ROOT.glob(pattern) if p.name not in without)


BUS_LAYER = [f"src/common/{name}.c" for name in ("rpc-link", "rpc-link-message", "bus-util", "bus-access")]
COMMON = glob("src/common/*.c", {Path(name).name for name in BUS_LAYER})
PEER = ["tests/fuzz/peer.c", "tests/unit/common/pki.c"]
FILES = ["tests/fuzz/files.c", "tests/fuzz/accounts.c"]


def cad(*names):
    return [f"src/sivshm-cad/{name}.c" for name in names]


CAD_CORE = cad("config", "config-load", "policy", "revocations", "layout")
# the whole daemon, but for its main() and its journal
HOST = [*COMMON, *BUS_LAYER, *glob("src/sivshm-cad/*.c", {"main.c", "log.c"}), "src/kmod/grant.c", "tests/fuzz/host.c",
        "tests/fuzz/accounts.c"]
HOST_LIBS = ["-ljansson", "-lssl", "-lcrypto", "-lsystemd", "-lacl"]
GUEST = [*COMMON, *BUS_LAYER, *glob("src/sivshmd/*.c", {"main.c", "log.c"}), "tests/unit/common/pki.c",
         *(f"tests/fuzz/{name}.c" for name in ("guest", "bus", "accounts"))]
GUEST_CORE = ["src/sivshmd/policy.c", "src/sivshmd/policy-load.c"]

# What a target drives (@measured: how much of it is reached is a figure of its run), and a defect
# that it has to find.
Target = namedtuple("Target", "about sources measured defect options libs includes flags",
                    defaults=([], ["-ljansson", "-lssl", "-lcrypto"], [], []))

TARGETS = {
    "frame": Target(
        "control frames: bytes to messages", COMMON, ["src/common/frame.c", "src/common/rpc.c"],
        Edit("src/common/frame.c", "if (size > FRAME_MAX - 1 - r->length) {", "if (0) {"), ["-max_len=2048"]),
    "message": Target(
        "params and results of control messages", COMMON,
        ["src/common/field.c", "src/common/message.c", "src/common/message-part.c", "src/common/message-session.c"],
        Edit("src/common/field.c", "else if (length > max)", "else if (length > max + 400)"), ["-max_len=2048"]),
    "names": Target(
        "names, SPIFFE ids, values of keys", [*COMMON, "tests/fuzz/accounts.c"],
        ["src/common/names.c", "src/common/conf-value.c", "src/common/errors.c"],
        Edit("src/common/names.c", "	if (length >= size)\n		return false;\n	memcpy",
             "	if (length >= size + 99)\n		return false;\n	memcpy"),
        ["-max_len=1024"]),
    "config": Target(
        "the host's configuration", COMMON + CAD_CORE + FILES,
        ["src/common/conf-lines.c", "src/sivshm-cad/config.c", "src/sivshm-cad/config-load.c"],
        Edit("src/common/conf-lines.c", "while (length > 0 && strchr", "while (strchr"),
        ["-max_len=2048"], includes=["src/sivshm-cad"]),
    "policy": Target(
        "a guest's policy", COMMON + GUEST_CORE + FILES,
        ["src/common/conf-lines.c", "src/sivshmd/policy.c", "src/sivshmd/policy-load.c"],
        Edit("src/sivshmd/policy.c", "	if (s->uid != q->uid)\n		return", "	if (0)\n		return"), ["-max_len=2048"], includes=["src/sivshmd"]),
    "hello": Target(
        "handshake, flight 1 at the responder", COMMON + PEER, ["src/common/handshake.c"],
        Edit("src/common/handshake.c", "if (h->last_sent != SSL3_MT_FINISHED)", "if (0)"), ["-max_len=512"]),
    "server": Target(
        "handshake, flight 2 at the initiator", COMMON + PEER,
        ["src/common/handshake.c", "src/common/handshake-verify.c"],
        Edit("src/common/handshake.c", "	if (h->wrong) {\n		X509", "	if (0) {\n		X509"),
        ["-max_len=512"]),
    "finish": Target(
        "handshake, flight 3 at the responder", COMMON + PEER,
        ["src/common/handshake.c", "src/common/handshake-verify.c"],
        Edit("src/common/handshake.c", "	if (!input_is_used_up(h))\n		return fail(h, error, \"data after Finished",
             "	if (0)\n		return fail(h, error, \"data after Finished"), ["-max_len=512"]),
    "certificate": Target(
        "a peer's certificate", COMMON + PEER, ["src/common/handshake-verify.c"],
        Edit("src/common/handshake-verify.c", "if (sk_GENERAL_NAME_num(names) != 1)", "if (0)"), ["-max_len=512"]),
    "csr": Target(
        "a certificate request of a guest", [*COMMON, "src/sivshm-cad/csr.c"], ["src/sivshm-cad/csr.c"],
        Edit("src/sivshm-cad/csr.c", "	if (csr && end != der + size)", "	if (0)"), ["-max_len=1024"],
        includes=["src/sivshm-cad"]),
    "ivshmem": Target(
        "what a QEMU does to its ivshmem server", HOST,
        ["src/sivshm-cad/ivshmem-server.c", "src/sivshm-cad/member.c"],
        Edit("src/sivshm-cad/ivshmem-server.c", "	if (s->source) {", "	if (0) {"), ["-max_len=512"], HOST_LIBS,
        ["src/sivshm-cad"]),
    "control": Target(
        "the host's control ports, all methods", HOST,
        ["src/sivshm-cad/control.c", "src/sivshm-cad/control-methods.c", "src/sivshm-cad/session.c",
         "src/sivshm-cad/session-relay.c", "src/sivshm-cad/channel.c", "src/sivshm-cad/channel-grant.c",
         "src/common/rpc-link.c", "src/common/rpc-link-message.c"],
        Edit("src/sivshm-cad/control.c", "if (i < c->n_listeners)\n", "if (c->listeners)\n"), ["-max_len=4096"],
        HOST_LIBS, ["src/sivshm-cad"]),
    "bus_host": Target(
        "methods of org.sivshm.ca1", [*HOST, "tests/fuzz/bus.c"],
        ["src/sivshm-cad/manager-bus.c", "src/sivshm-cad/manager-list.c", "src/sivshm-cad/revoke.c",
         "src/common/bus-access.c"],
        Edit("src/sivshm-cad/manager-bus.c", "	if (!*ret)\n		return sd_bus_error_setf", "	if (0)\n		return sd_bus_error_setf"),
        ["-max_len=512"], HOST_LIBS, ["src/sivshm-cad"]),
    "bus_guest": Target(
        "methods of org.sivshm1", GUEST,
        ["src/sivshmd/manager-bus.c", "src/sivshmd/listener-bus.c", "src/sivshmd/bus-args.c", "src/sivshmd/listener.c",
         "src/sivshmd/connect.c"],
        Edit("src/sivshmd/manager-bus.c", ">= 0 && !now[0])", ">= 0 && now[0])"), ["-max_len=512"],
        ["-ljansson", "-lssl", "-lcrypto", "-lsystemd", "-lkmod"], ["src/sivshmd"]),
    "grant": Target(
        "grant table and grant at the module", ["src/kmod/grant.c"], ["src/kmod/grant.c"],
        Edit("src/kmod/grant.c", "offset > section_size || size > section_size - offset",
             "offset + size > section_size"), ["-max_len=512"], []),
    "ring": Target(
        "ring, sender and receiver, against a hostile peer", ["src/client/ring.c"],
        ["src/client/ring.c", "src/client/ring.h"],
        Edit("src/client/ring.h", "header >> 32 || need > x->producer - x->consumer", "header >> 32"),
        ["-max_len=1024"], [], flags=["-include", "tests/fuzz/hostile_load.h"]),
}


class FuzzError(Exception):
    pass


# builds

class Ninja:
    """Rules of one flavour; objects and programs are added once each."""

    def __init__(self, flavour, where, edits=()):
        self.where, self.flavour, self.edits = where, flavour, {edit.file: edit for edit in edits}
        self.flags, self.fuzz_link, self.plain_link = FLAVOURS[flavour]
        self.lines = ["rule cc", "  command = clang $flags -MD -MF $out.d -c -o $out $in", "  depfile = $out.d",
                      "  deps = gcc", "rule link", "  command = clang -o $out $in $flags"]
        self.known = set()

    def add(self, kind, out, inputs, flags):
        if out not in self.known:
            self.known.add(out)
            self.lines += [f"build {out}: {kind} {' '.join(map(str, inputs))}",
                           f"  flags = {' '.join(map(str, flags))}"]
        return out

    def object(self, source, includes=(), flags=()):
        """@source below the root; a copy of it when it is edited."""
        path, before = paths.ROOT / source, []
        kind = "-".join(sorted({Path(i).name for i in (*includes, *flags) if "/" in i}))
        out = f"o{'-' + kind if kind else ''}/{source}.o"
        if self.edits:
            before = [f"-I{self.where}/src"]
            if source not in self.edits and not any(name.endswith(".h") for name in self.edits):
                return BUILD / "asan" / out  # as it is
        if source in self.edits:
            path, before = self.where / source, [*before, f"-I{(paths.ROOT / source).parent}"]
        include = [*before, *(f"-I{paths.ROOT / i}" for i in [*includes, *INCLUDES])]
        return self.add("cc", out, [path], [*WARNINGS, *COMMON_FLAGS, *self.flags, *include, *flags])

    def program(self, name, sources, libs, includes=(), flags=(), fuzz=True):
        flags = [str(paths.ROOT / f) if f.startswith("tests/") else f for f in flags]
        objects = [self.object(s, includes, flags) for s in sources]
        return self.add("link", name, objects, [*(self.fuzz_link if fuzz else self.plain_link), *libs])

    def target(self, name):
        t = TARGETS[name]
        return self.program(name, [f"tests/fuzz/target_{name}.c", *t.sources], t.libs, t.includes, t.flags)

    def make(self, *programs):
        self.where.mkdir(parents=True, exist_ok=True)
        with locked(self.where / "lock"):
            file, text = self.where / "build.ninja", "\n".join(self.lines) + "\n"
            if not file.exists() or file.read_text() != text:
                file.write_text(text)
            log = self.where / "build.log"
            log.unlink(missing_ok=True)
            build.run(["ninja", "-C", self.where, *programs], log, env=build.environment("clang"))


def compile(flavour="asan", names=None):
    """All targets, or some. Returns the folder that they are in."""
    ninja = Ninja(flavour, BUILD / flavour)
    for name in TARGETS:
        ninja.target(name)
    add_fail_nth(ninja)
    if flavour == "cov":
        add_unit_tests(ninja)
    ninja.make(*(names or []))
    return ninja.where


def plant(where, edit):
    """A copy of the edited file below @where; only when it is another one, for ninja's sake."""
    path = where / edit.file
    text = (paths.ROOT / edit.file).read_text()
    if text.count(edit.old) != 1:
        raise FuzzError(f"{edit.file}: found {text.count(edit.old)} times, not once: {edit.old!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    broken = text.replace(edit.old, edit.new)
    if not path.exists() or path.read_text() != broken:
        path.write_text(broken)


def compile_broken(name, edit):
    """The target with a planted defect. Returns its path."""
    where = BUILD / "broken" / name
    plant(where, edit)
    compile("asan", [name])
    ninja = Ninja("asan", where, [edit])
    ninja.target(name)
    ninja.make(name)
    return where / name


# The pure core with each allocation, read and call of OpenSSL failing in turn: fail_nth.c.
WRAPPED = """malloc calloc realloc reallocarray strdup strndup free asprintf read OSSL_LIB_CTX_new OSSL_PROVIDER_load
    OSSL_PROVIDER_add_builtin SSL_CTX_new_ex SSL_CTX_set_ciphersuites SSL_new BIO_new BIO_write BIO_read
    SSL_use_certificate SSL_use_PrivateKey SSL_ctrl SSL_do_handshake PEM_write_bio_X509
    SSL_export_keying_material""".split()
FAIL_NTH_DEFECT = Edit("src/common/conf-lines.c", "	if (!seen->items[seen->n].name)\n		return -ENOMEM;\n", "")


def add_fail_nth(ninja):
    sources = ["tests/fuzz/fail_nth.c", *COMMON, *CAD_CORE, *FILES, "tests/unit/common/pki.c"]
    libs = ["-ljansson", "-lssl", "-lcrypto", *(f"-Wl,--wrap={name}" for name in WRAPPED)]
    return ninja.program("test_fail_nth", sources, libs, ["src/sivshm-cad"], fuzz=False)


def run_fail_nth(edit=None):
    """Returns (exit code, output)."""
    if edit:
        where = BUILD / "broken/fail_nth"
        plant(where, edit)
    else:
        where = BUILD / "asan"
    compile("asan", ["test_fail_nth"])
    if edit:
        ninja = Ninja("asan", where, [edit])
        add_fail_nth(ninja)
        ninja.make("test_fail_nth")
    with scratch() as folder:
        done = subprocess.run([where / "test_fail_nth", HERE / "corpus"], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment(folder), timeout=900)
    return done.returncode, done.stdout.decode(errors="replace")


# running

Run = namedtuple("Run", "name code seconds figures log crash")


def seeds(name):
    return HERE / "corpus" / name


def grown(name):
    path = paths.cache_dir() / "fuzz" / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def dictionary(name):
    path = HERE / f"{name}.dict"
    return [f"-dict={path}"] if path.exists() else []


@contextlib.contextmanager
def scratch():
    """A folder for one run's files, on memory where there is a /run: a run that falls leaves them there."""
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=paths.run_dir()) as folder:
        os.chmod(folder, 0o711)  # targets connect as other users
        yield folder


def environment(folder):
    asan = "abort_on_error=1:handle_abort=1:strict_string_checks=1:quarantine_size_mb=16"
    return {**build.environment("clang"), **build.SANITIZER_ENV, "ASAN_OPTIONS": asan, "SIVSHM_FUZZ_DIR": str(folder)}


def command(binary, name, *options):
    return [str(binary), *TARGETS[name].options, *RUN_OPTIONS, *dictionary(name), *options]


def merge(name, binary):
    """A corpus that has grown long is cut down to what reaches something."""
    folder = grown(name)
    if len(os.listdir(folder)) <= CORPUS_MOST:
        return
    fresh = folder.with_name(f"{name}.merged")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    with scratch() as files:
        done = subprocess.run(command(binary, name, "-merge=1", fresh, folder), stdin=subprocess.DEVNULL,
                              capture_output=True, env=environment(files))
    if done.returncode == 0:
        shutil.rmtree(folder)
        fresh.rename(folder)


def start(name, seconds, binary=None, corpus=None, log=None, seed=SEED):
    """Starts fuzzing; returns the process, for finish()."""
    binary = binary or BUILD / "asan" / name
    crashes = BUILD / "crashes" / name
    crashes.mkdir(parents=True, exist_ok=True)
    log = log or BUILD / f"{name}.log"
    began = time.time()
    if corpus is None:
        merge(name, binary)
        corpus = grown(name)
    argv = command(binary, name, f"-seed={seed}", f"-max_total_time={seconds}", f"-artifact_prefix={crashes}/", corpus)
    if seeds(name).is_dir():
        argv.append(str(seeds(name)))
    files = contextlib.ExitStack()
    with open(log, "wb") as out:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                                   env=environment(files.enter_context(scratch())))
    process.files = files
    process.name, process.log, process.began, process.crashes = name, Path(log), began, crashes
    return process


def number(pattern, text):
    found = re.findall(pattern, text)
    return int(found[-1]) if found else 0


def finish(process, timeout):
    try:
        code = process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    process.files.close()
    text = process.log.read_text(errors="replace")
    figures = {"executions": number(r"stat::number_of_executed_units:\s*(\d+)", text) or number(r"#(\d+)\s", text),
               "exec_s": number(r"stat::average_exec_per_sec:\s*(\d+)", text),
               "edges": number(r"cov: (\d+)", text), "inputs": number(r"corp: (\d+)", text)}
    crash = re.findall(r"Test unit written to (\S+)", text)
    return Run(process.name, code, time.time() - process.began, figures, text, Path(crash[-1]) if crash else None)


def headline(log):
    """What was found and the input, in one line: of a long report that alone may be at hand."""
    found = re.search(r"^.*(does not hold|runtime error|ERROR: |FATAL: ).*$", log, re.M)
    input64 = re.search(r"^Base64: (\S*)", log, re.M)
    return (found[0].strip() if found else "no word of what") + (f"; input in base64: {input64[1]}" if input64 else "")


def replay(name, files, binary=None, timeout=300):
    """Runs inputs once each. Returns (exit code, output)."""
    argv = command(binary or BUILD / "asan" / name, name, *map(str, files))
    with scratch() as folder:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              env=environment(folder), timeout=timeout)
    return done.returncode, done.stdout.decode(errors="replace")


# coverage

# Unit tests of the pure core: (program, sources, libraries)
CORE_TESTS = ["names", "errors", "frame", "rpc", "field", "message", "conf", "conf-value", "crypto", "handshake",
              "handshake-verify"]
# Files whose every line is to be reached; what is not, and why, is said in tests/fuzz/test_fuzz.py.
CORE = [*COMMON, "src/client/ring.c", "src/client/ring.h", "src/kmod/grant.c"]


def add_unit_tests(ninja):
    libs = ["-lcmocka", "-ljansson", "-lssl", "-lcrypto", "-lpthread"]
    fixtures = ["tests/unit/common/ends.c", "tests/unit/common/pki.c"]
    for name in CORE_TESTS:
        ninja.program(f"test_{name}", [f"tests/unit/common/test_{name}.c", *fixtures, *COMMON], libs, fuzz=False)
    ninja.program("test_ring", ["tests/unit/client/test_ring.c", "src/client/ring.c"], libs, fuzz=False)
    ninja.program("test_grant", ["tests/unit/kmod/test_grant.c", "src/kmod/grant.c"], libs, fuzz=False)


def profile_run(program, argv, raw):
    with scratch() as folder:
        env = {**environment(folder), "LLVM_PROFILE_FILE": str(raw / f"{program.name}.%p.profraw")}
        done = subprocess.run([str(program), *map(str, argv)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, env=env, timeout=900)
    if done.returncode:
        raise FuzzError(f"{program.name}: exit {done.returncode}\n{done.stdout.decode(errors='replace')[-3000:]}")


def collect(names, with_unit_tests):
    """Runs everything that counts; returns (programs, merged profile)."""
    where = compile("cov", None if with_unit_tests else names)
    raw = COVERAGE / ("raw-" + ("all" if with_unit_tests else "-".join(names)))
    shutil.rmtree(raw, ignore_errors=True)
    raw.mkdir(parents=True)
    programs = []
    for name in names:
        folders = [f for f in (seeds(name), grown(name)) if f.is_dir()]
        profile_run(where / name, [*TARGETS[name].options, "-runs=0", "-rss_limit_mb=0", *folders], raw)
        programs.append(where / name)
    for program in sorted(where.glob("test_*")) if with_unit_tests else []:
        profile_run(program, [HERE / "corpus"] if program.name == "test_fail_nth" else [], raw)
        programs.append(program)
    merged = raw / "merged.profdata"
    subprocess.run(["llvm-profdata", "merge", "-sparse", "-o", merged, *raw.glob("*.profraw")], check=True)
    return programs, merged


def llvm_cov(verb, programs, profile, *options):
    objects = [str(programs[0]), *(o for p in programs[1:] for o in ("-object", str(p)))]
    return subprocess.run(["llvm-cov", verb, *objects, f"-instr-profile={profile}", *options], check=True,
                          capture_output=True, text=True).stdout


def uncovered(programs, profile, file):
    """Numbers of the lines of @file that have code and were never run, and how many have code."""
    text = llvm_cov("show", programs, profile, "-show-line-counts", str(paths.ROOT / file))
    missed, n = {}, 0
    for line in text.splitlines():
        found = re.match(r"\s*(\d+)\|\s*([0-9.kMGTE]*)\|(.*)", line)
        if found and found[2]:
            n += 1
            if found[2] == "0":
                missed[int(found[1])] = found[3]
    return missed, n


def coverage(names, files, with_unit_tests=False):
    """{file: (per cent of lines, {number: text of the lines that were not reached})}"""
    programs, profile = collect(names, with_unit_tests)
    result = {}
    for file in files:
        missed, n = uncovered(programs, profile, file)
        result[file] = (100.0 * (n - len(missed)) / n if n else 0.0, missed)
    return result


def write_report(result, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for file, (share, missed) in result.items():
        lines.append(f"{share:6.2f} %  {file}")
        lines += [f"    {number:5}: {text}" for number, text in missed.items()]
    path.write_text("\n".join(lines) + "\n")


# the command

def progress(process):
    """One line whenever libFuzzer has something new to say, at most one each five seconds."""
    seen, last = 0, 0.0
    while process.poll() is None:
        time.sleep(0.5)
        text = process.log.read_text(errors="replace")
        lines = [line for line in text[seen:].splitlines() if line.startswith("#")]
        if lines and time.time() - last > 5:
            print(lines[-1], flush=True)
            seen, last = len(text), time.time()


def fuzz(name, seconds):
    print(f"building {name}", flush=True)
    compile("asan", [name])
    process = start(name, seconds, seed=RANDOM)
    try:
        progress(process)
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
    run = finish(process, 60)
    if run.code and run.crash:
        print(run.log[-6000:])
        print(f"\n{name} fell: {run.crash}\nreplay: tools/fuzz {name} --replay {run.crash}")
        return 1
    if run.code:
        print(run.log[-6000:])
        return 1
    measured = coverage([name], TARGETS[name].measured)
    report = COVERAGE / f"{name}.txt"
    write_report(measured, report)
    print(json.dumps(run.figures))
    for file, (share, missed) in measured.items():
        print(f"{share:6.2f} % of the lines of {file}, {len(missed)} not reached")
    print(f"lines that are not reached: {report}\ncorpus: {grown(name)}")
    return 0


def main():
    parser = argparse.ArgumentParser(prog="tools/fuzz", description="Fuzzes one target.")
    parser.add_argument("target", nargs="?", choices=sorted(TARGETS), metavar="TARGET")
    parser.add_argument("seconds", nargs="?", type=int, default=SECONDS, metavar="SECONDS")
    parser.add_argument("--list", action="store_true", help="print all targets, and what they drive")
    parser.add_argument("--replay", nargs="+", metavar="FILE", help="run these inputs once each")
    parser.add_argument("--broken", action="store_true", help="look for the planted defect instead")
    args = parser.parse_args()
    if args.list:
        for name, target in TARGETS.items():
            print(f"{name:12} {target.about}")
        return 0
    if not args.target:
        parser.error("which target? see --list")
    if args.replay:
        compile("asan", [args.target])
        code, text = replay(args.target, args.replay)
        print(text)
        return 1 if code else 0
    if args.broken:
        process = start(args.target, args.seconds, compile_broken(args.target, TARGETS[args.target].defect),
                        BUILD / "broken" / args.target)
        run = finish(process, args.seconds + 60)
        print(run.log[-3000:])
        return 0 if run.code else 1
    return fuzz(args.target, args.seconds)


if __name__ == "__main__":
    sys.exit(main())
