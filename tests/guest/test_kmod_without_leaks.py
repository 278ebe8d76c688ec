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
def test_nothing_was_said(bench):
    """The whole log once more: the cases look at what came out on the console."""
    log = bench.guest.kernel_log()
    trouble = qemu.trouble_in(log, debug_kernel.no_proc_file)
    assert len(log) > 10000 and not trouble, trouble[:20]
