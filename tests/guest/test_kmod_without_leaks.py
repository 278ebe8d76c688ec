# SPDX-License-Identifier: LGPL-2.1-or-later
"""The end of a kernel's cases (the name of the file makes it come last): nothing was lost on the way."""

import pytest

from lab import debug_kernel, leaks, qemu


@pytest.mark.kernels("kasan")
def test_nothing_is_lost(bench, figures):
    found = leaks.unreferenced(bench.guest)
    figures["kmemleak"] = len(found)
    assert not found, "\n".join(found[:5])
    bench.stage.clear()
    assert bench.unload()
    left = leaks.objects(bench.guest)
    bench.load()
    assert not left, left


@pytest.mark.kernels("kasan", "kcsan")
def test_nothing_was_said(bench, figures):
    """The whole log once more, from its first line on: the cases look at what came out on the console."""
    log = bench.guest.kernel_log()
    figures["KiB"] = len(log) >> 10
    assert "Linux version" in log[:200], "the log's beginning is lost: log_buf_len is too small"
    trouble = qemu.trouble_in(log, debug_kernel.no_proc_file)
    assert not trouble, trouble[:20]
