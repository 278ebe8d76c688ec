# SPDX-License-Identifier: LGPL-2.1-or-later
"""The end of a kernel's cases (the name of the file makes it come last): nothing was lost on the way."""

import pytest

from lab import leaks


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
