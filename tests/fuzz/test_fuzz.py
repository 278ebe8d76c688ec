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
    assert done.code == 0, done.log[-8000:] + again
    assert done.figures["executions"] > 0, done.log[-2000:]


@pytest.mark.parametrize("name", list(fuzz.TARGETS))
def test_broken(runs, figures, name):
    """With its planted defect the target falls: it reaches that line, and would tell."""
    done = runs["test_broken", name].result()
    figures.update({"seconds": round(done.seconds, 1), "executions": done.figures.get("executions")})
    assert done.code != 0 and done.crash, f"not found in {done.seconds:.0f} s: {fuzz.TARGETS[name].defect}"
