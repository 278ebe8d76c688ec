# SPDX-License-Identifier: LGPL-2.1-or-later
"""Processes that must not outlive the test run, however that ends."""

import contextlib
import select
import threading
from pathlib import Path


def tied(keep=False, signal="KILL"):
    """Arguments of setpriv that let a child die with this process, also when that is killed.

    The signal follows the *thread* that forked, so only the main thread may ask for it; others
    rely on close() and atexit.
    """
    if keep or threading.current_thread() is not threading.main_thread():
        return []
    return [f"--pdeathsig={signal}"]


def readable(files, timeout):
    """Those of `files` (sockets or descriptors) that can be read, or have ended. Unlike select(), also above 1023."""
    numbers = {file if isinstance(file, int) else file.fileno(): file for file in files}
    poll = select.poll()
    for fd in numbers:
        poll.register(fd, select.POLLIN)
    return [numbers[fd] for fd, _ in poll.poll(max(0, timeout) * 1000)]


def descendants(pid):
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found, wave = [], [pid]
    while wave:
        wave = [child for child, parent in parents.items() if parent in wave]
        found += wave
    return found
