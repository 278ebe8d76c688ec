# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each fuzz target for a minute ($SIVSHM_FUZZ_SECONDS), two side by side; its planted defect is found; coverage.

What a run finds is a file; the case says which, and how to run it again. The corpus that grows is
kept in the cache: the next run begins where this one ended.
"""

import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

from lab import fuzz

SIDE_BY_SIDE = 2
BROKEN_SECONDS = 60
PATIENCE = 120  # over what was asked for: a loaded machine, a slow last input


@pytest.fixture(scope="session")
def built():
    return fuzz.compile("asan")


def run(name):
    """Seeds first, each for itself: a regression is told as one, and at once."""
    seeds = sorted(fuzz.seeds(name).iterdir()) if fuzz.seeds(name).is_dir() else []
    if seeds:
        code, text = fuzz.replay(name, seeds)
        if code:
            return fuzz.Run(name, code, 0, {}, "an input of the tree's corpus:\n" + text[-6000:], None)
    return fuzz.finish(fuzz.start(name, fuzz.SECONDS), fuzz.SECONDS + PATIENCE)


def run_broken(name):
    """With the tree's corpus alone: what the cache has might hold the very input."""
    binary = fuzz.compile_broken(name, fuzz.TARGETS[name].defect)
    corpus = binary.parent / "corpus"
    shutil.rmtree(corpus, ignore_errors=True)
    corpus.mkdir()
    process = fuzz.start(name, BROKEN_SECONDS, binary, corpus, binary.parent / "run.log")
    return fuzz.finish(process, BROKEN_SECONDS + PATIENCE)


@pytest.fixture(scope="session")
def runs(built, request):
    """What the session needs, under way: {(kind, name): future}."""
    wanted = [(item.function.__name__, item.callspec.params["name"]) for item in request.session.items
              if item.module.__name__ == __name__ and hasattr(item, "callspec") and "name" in item.callspec.params]
    kinds = {"test_target": run, "test_broken": run_broken}
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        futures = {(kind, name): pool.submit(kinds[kind], name) for kind, name in wanted if kind in kinds}
        yield futures
        for future in futures.values():
            future.cancel()


@pytest.mark.parametrize("name", list(fuzz.TARGETS))
def test_target(runs, figures, name):
    done = runs["test_target", name].result()
    figures.update(done.figures)
    again = f"\nreplay: tools/fuzz {name} --replay {done.crash}" if done.crash else ""
    assert done.code == 0, f"{fuzz.headline(done.log)}\n{done.log[-8000:]}{again}"
    assert done.figures["executions"] > 0, done.log[-2000:]


@pytest.mark.parametrize("name", list(fuzz.TARGETS))
def test_broken(runs, figures, name):
    """With its planted defect the target falls: it reaches that line, and would tell."""
    done = runs["test_broken", name].result()
    figures.update({"seconds": round(done.seconds, 1), "executions": done.figures.get("executions")})
    assert done.code != 0 and done.crash, f"not found in {done.seconds:.0f} s: {fuzz.TARGETS[name].defect}"


# Lines of the pure core that neither a fuzzer nor a unit test nor a failing call reaches, at most, by
# file. All of them are guards that nothing gets to:
NOT_REACHED = {
    "src/common/bio-text.c": 1,  # a BIO that holds nothing, after something was written to it
    "src/common/field.c": 2,  # a second failure: the first one has ended the reading already
    "src/common/frame.c": 1,  # doubling beyond the limit: both limits are powers of two
    "src/common/handshake.c": 5,  # what OpenSSL 3.0 never does: no output, no verification, a session resumed
}


@pytest.fixture(scope="session")
def core_coverage(runs):
    """After the runs, with what they found."""
    for future in runs.values():
        future.result()
    result = fuzz.coverage(list(fuzz.TARGETS), fuzz.CORE, with_unit_tests=True)
    fuzz.write_report(result, fuzz.COVERAGE / "core.txt")
    return result


@pytest.mark.parametrize("file", fuzz.CORE)
def test_core_coverage(core_coverage, figures, file):
    share, missed = core_coverage[file]
    figures.update({"lines": round(share, 2), "not_reached": len(missed)})
    text = "\n".join(f"{number}: {line}" for number, line in missed.items())
    assert len(missed) <= NOT_REACHED.get(file, 0), f"{file}, build/coverage/core.txt:\n{text}"


@pytest.mark.parametrize("name", list(fuzz.TARGETS))
def test_coverage(runs, figures, name):
    """How much of what it drives this target reaches by itself: a figure, and more than half."""
    runs["test_target", name].result() if ("test_target", name) in runs else None
    result = fuzz.coverage([name], fuzz.TARGETS[name].measured)
    fuzz.write_report(result, fuzz.COVERAGE / f"{name}.txt")
    for file, (share, _) in result.items():
        figures[file.removeprefix("src/")] = round(share, 1)
    assert min(figures.values()) > 40, figures


def test_fail_nth(built, figures):
    """Each allocation, read and call of OpenSSL in the pure core fails once: no crash, nothing left behind."""
    code, text = fuzz.run_fail_nth()
    assert code == 0, text[-6000:]
    figures["failures"] = int(text.split()[0])
    assert figures["failures"] > 1000


def test_fail_nth_broken(built):
    code, text = fuzz.run_fail_nth(fuzz.FAIL_NTH_DEFECT)
    assert code != 0, text[-2000:]
