# SPDX-License-Identifier: LGPL-2.1-or-later
"""tools/check: every test there is, one line each, and a verdict.

Suites, in this order: the builds, unit tests (under ASan and UBSan with clang, and as gcc builds
them), then the folders of tests/ that hold pytest files. Unit tests run side by side; of the
rest one at a time, for most of them measure something. What takes very long is marked `slow`
and runs with --all.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest

from . import attack, build, host, image, paths, qemu

UNIT_SUITES = {"unit-asan": "clang-asan", "unit": "gcc"}
# quick and telling ones first; folders that are not named here come after
PYTEST_ORDER = ["lint", "lab", "model", "ordering", "fuzz", "integration", "guest", "attack", "bench"]
# has guests of its own, of which there can be one pair at a time: after the end of everything else
ALONE = {"bench"}
NEED_BUILD = {"integration", "guest", "attack", "bench"}
VERDICTS = {"OK": "passed", "EXPECTEDFAIL": "passed", "SKIP": "skipped", "FAIL": "failed",
            "TIMEOUT": "failed", "ERROR": "failed", "UNEXPECTEDPASS": "failed", "INTERRUPT": "failed"}
LOGS = paths.BUILD / "logs"


class Report:
    """Collects verdicts and tells them as they come."""

    def __init__(self, only, everything=False):
        self.only, self.everything, self.cases, self.began = only, everything, [], time.monotonic()

    def say(self, text):
        print(f"[{time.monotonic() - self.began:6.1f}] {text}", flush=True)

    def wants(self, suite, case, slow=False):
        """A slow case has to be asked for: by --all, or by its whole name."""
        name = f"{suite}/{case}"
        if slow and not self.everything and self.only != name:
            return False
        return not self.only or self.only == suite or self.only in name

    def add(self, suite, case, verdict, seconds, figures=None, detail="", row=None):
        self.cases.append({"suite": suite, "case": case, "verdict": verdict, "seconds": round(seconds, 3),
                           "figures": figures or {}, "detail": detail, **({"attack": row} if row else {})})
        text = f"{verdict:7} {suite}/{case} ({seconds:.1f} s)"
        if figures:
            text += "  " + json.dumps(figures, default=str)
        if detail:
            text += "\n" + detail if verdict == "failed" else f"  {detail}"
        self.say(text)

    def count(self, verdict):
        return sum(case["verdict"] == verdict for case in self.cases)

    def seconds(self):
        """Where the time went, by suite."""
        spent = {}
        for case in self.cases:
            spent[case["suite"]] = spent.get(case["suite"], 0) + case["seconds"]
        return ", ".join(f"{suite} {spent[suite]:.0f} s" for suite in spent)

    def failures(self):
        """The names once more, with the last words of each, for who has only the end of the output."""
        for case in self.cases:
            if case["verdict"] == "failed":
                lines = case["detail"].strip().splitlines()
                # pytest marks what failed
                words = [line[1:].strip() for line in lines if line.startswith("E ")][:1] or lines[-1:]
                self.say(f"failed  {case['suite']}/{case['case']}" + "".join(f": {line[:200]}" for line in words))

    def last_line(self):
        skipped = self.count("skipped")
        return (f"{self.count('passed')} passed, {self.count('failed')} failed"
                + (f", {skipped} skipped" if skipped else ""))


# builds

def run_builds(report):
    """Builds are cases too, and run whatever is asked for: the rest stands on them."""
    done = set()
    for name, action in {"gcc": lambda: build.compile("gcc"),
                         "clang-asan": lambda: build.compile("clang-asan"),
                         "image": lambda: image.ensure(report.say)}.items():
        began = time.monotonic()
        try:
            action()
            report.add("build", name, "passed", time.monotonic() - began)
            done.add(name)
        except Exception as error:
            report.add("build", name, "failed", time.monotonic() - began, detail=str(error))
    return done


# unit tests: meson's

def unit_names(config):
    done = subprocess.run(["/usr/bin/meson", "introspect", "--tests", str(build.folder(config))],
                          capture_output=True, text=True, env=build.environment(), check=True)
    return sorted({test["name"] for test in json.loads(done.stdout)})


def run_unit(report, suite, config):
    names = [name for name in unit_names(config) if report.wants(suite, name)]
    if not names:
        return
    where = build.folder(config)
    env = {**build.environment(), **build.SANITIZER_ENV}
    log = where / "meson-logs/testlog.json"
    log.unlink(missing_ok=True)
    subprocess.run(["/usr/bin/meson", "test", "-C", str(where), "--no-rebuild", *names], env=env,
                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seen = set()
    for line in log.read_text().splitlines() if log.exists() else []:
        test = json.loads(line)
        name = test["name"].rpartition(" / ")[2]
        seen.add(name)
        output = (test.get("stdout", "") + test.get("stderr", ""))
        verdict = VERDICTS.get(test["result"], "failed")
        report.add(suite, name, verdict, test["duration"],
                   detail={"failed": output[-6000:], "skipped": output.strip()[-200:]}.get(verdict, ""))
    for name in sorted(set(names) - seen):
        report.add(suite, name, "failed", 0, detail="meson did not run it")


# the rest: pytest's

def pytest_folders():
    found = {p.parent for p in (paths.ROOT / "tests").glob("*/test_*.py")}
    rank = {name: i for i, name in enumerate(PYTEST_ORDER)}
    return sorted(found, key=lambda p: (rank.get(p.name, len(rank)), p.name))


def suite_and_case(nodeid):
    path, _, name = nodeid.partition("::")
    where = Path(path)
    return where.parent.name, f"{where.stem.removeprefix('test_')}/{name.replace('::', '/')}"


class Plugin:
    """Filters by --only, and hands each result to the report."""

    def __init__(self, report, list_only=False):
        self.report, self.list_only, self.parts, self.rows = report, list_only, {}, {}

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config):
        """The report speaks alone; only the options of pytest's own reporter are needed."""
        config.pluginmanager.unregister(name="terminalreporter")
        config.addinivalue_line("markers", "slow: runs with --all, or when --only is its whole name")
        config.addinivalue_line("markers", "kernels: on which kernels a case of the module runs, see conftest.py")
        config.addinivalue_line("markers", "attack: a row of docs/threat-model.md, see lab.attack")

    def pytest_collection_modifyitems(self, config, items):
        keep = [item for item in items
                if self.report.wants(*suite_and_case(item.nodeid), item.get_closest_marker("slow") is not None)]
        self.rows = {item.nodeid: attack.row_of(item) for item in keep}
        config.hook.pytest_deselected(items=[item for item in items if item not in keep])
        items[:] = keep
        if self.list_only:
            for item in items:
                print("/".join(suite_and_case(item.nodeid)))

    def pytest_collectreport(self, report):
        if report.failed and not self.list_only:
            suite, case = suite_and_case(report.nodeid or "?/?")
            self.report.add(suite, case, "failed", 0, detail=str(report.longrepr))

    def pytest_runtest_logreport(self, report):
        """Set-up, call and tear-down come one by one; the case ends with the tear-down."""
        parts = self.parts.setdefault(report.nodeid, [])
        parts.append(report)
        if report.when != "teardown":
            return
        suite, case = suite_and_case(report.nodeid)
        self.report.add(suite, case, *self.sum_up(parts), row=self.rows.get(report.nodeid))
        del self.parts[report.nodeid]

    @staticmethod
    def sum_up(parts):
        seconds = sum(part.duration for part in parts)
        figures = dict(parts[-1].user_properties)
        failed = [part for part in parts if part.failed]
        skipped = [part for part in parts if part.skipped]
        if failed:
            text = "\n".join([str(part.longrepr) for part in failed]
                             + [body for title, body in failed[0].sections if body.strip()])
            return "failed", seconds, figures, text[-12000:]
        if skipped:
            why = skipped[0].longrepr
            return "skipped", seconds, figures, str(why[2] if isinstance(why, tuple) else why)
        return "passed", seconds, figures, ""


def run_pytest(report, list_only=False, without=frozenset()):
    folders = [folder for folder in pytest_folders() if folder.name not in without]
    for group in ([f for f in folders if f.name not in ALONE], [f for f in folders if f.name in ALONE]):
        if group:
            run_session(report, group, list_only)


def run_session(report, folders, list_only):
    options = ["--import-mode=importlib", "-p", "no:cacheprovider", "--tb=short",
               f"--rootdir={paths.ROOT / 'tests'}", "-c", os.devnull, "--log-level=INFO"]
    if list_only:
        options.append("--collect-only")
    os.environ["SIVSHM_LOGS"] = str(LOGS)
    sys.dont_write_bytecode = True
    plugin = Plugin(report, list_only)
    rc = pytest.main([*options, *map(str, folders)], plugins=[plugin])
    if rc not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
        report.add("check", "pytest", "failed", 0, detail=f"pytest ended with {rc!r}")


# the command

def arguments():
    parser = argparse.ArgumentParser(prog="tools/check", description="Builds and tests everything.")
    parser.add_argument("--only", metavar="NAME",
                        help="a suite, or part of a SUITE/CASE as --list prints it")
    parser.add_argument("--all", action="store_true", help="also what takes very long")
    parser.add_argument("--report", metavar="FILE", type=Path, help="write all verdicts as JSON")
    parser.add_argument("--list", action="store_true", help="print the names of all cases, run none")
    return parser.parse_args()


def list_cases(report):
    for suite, config in UNIT_SUITES.items():
        try:
            build.setup(config)
        except build.BuildError as error:
            print(error, file=sys.stderr)
            return 1
        for name in unit_names(config):
            if report.wants(suite, name):
                print(f"{suite}/{name}")
    run_pytest(report, list_only=True)
    return 0


def run_all(report):
    shutil.rmtree(LOGS, ignore_errors=True)
    LOGS.mkdir(parents=True)
    host.ensure_cgroups()  # unit tests look at their own, too
    built = run_builds(report)
    for suite, config in UNIT_SUITES.items():
        if config in built:
            run_unit(report, suite, config)
    if "gcc" not in built:
        report.say("suites that need the build are not run")
    run_pytest(report, without=set() if "gcc" in built else NEED_BUILD)


def main():
    args = arguments()
    report = Report(args.only, args.all)
    qemu.exit_on_signals()
    if args.list:
        return list_cases(report)
    crashed = False
    try:
        run_all(report)
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        crashed = True
        traceback.print_exc()
        report.add("check", "run", "failed", 0, detail=f"stopped by {type(error).__name__}")
    if args.report:
        args.report.write_text(json.dumps(report.cases, indent=1, default=str) + "\n")
    if args.only and not any(case["suite"] != "build" or args.only == "build" for case in report.cases):
        report.say(f"no case is named {args.only}: see --list")
        crashed = True
    report.say(report.seconds())
    report.failures()
    print(report.last_line(), flush=True)
    return 1 if crashed or report.count("failed") or not report.count("passed") else 0


if __name__ == "__main__":
    sys.exit(main())
