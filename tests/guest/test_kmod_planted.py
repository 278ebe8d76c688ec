# SPDX-License-Identifier: LGPL-2.1-or-later
"""Is each detector really on? A module with mistakes on purpose, in a guest of its own; each has to be
found by the very look at the kernel log that decides about every other case."""

import pytest

from lab import build, leaks

# In this order: the first report of KASAN turns lockdep off for the rest of a boot.
KASAN = {
    "lock-order": "WARNING: possible circular locking dependency detected",
    "sleep-in-atomic": "BUG: scheduling while atomic",
    "shift": "UBSAN: shift-out-of-bounds",
    "array-index": "UBSAN: array-index-out-of-bounds",
    "out-of-bounds": "BUG: KASAN: slab-out-of-bounds",
    "use-after-free": "BUG: KASAN: use-after-free",
}


@pytest.fixture(scope="module")
def planted(kernel, log_dir):
    with kernel.guest(f"planted-{kernel.name}", machine="pc", args=["-smp", "2"], log_dir=log_dir) as guest:
        guest.wait_up()
        guest.put_file("/root/planted.ko", build.test_module(kernel.image, "planted"))
        yield guest


def plant(guest, bug):
    """Lines of the kernel log that would have failed a test."""
    mark = f"planted {bug}"
    guest.mark(mark)
    guest.run(f"insmod /root/planted.ko bug={bug}")
    assert f"planted: {bug} ends" in guest.kernel_log().rpartition(mark)[2]
    guest.mark(f"end of {mark}")
    guest.console_has(f"lab: end of {mark}")
    return guest.kernel_trouble(since=f"{mark}\n")


@pytest.mark.kernels("kasan")
@pytest.mark.parametrize("bug", KASAN)
def test_is_found(planted, bug):
    assert any(KASAN[bug] in line for line in plant(planted, bug))


@pytest.mark.kernels("kasan")
def test_leak_is_found(planted, figures):
    """By kmemleak, and by counting what the allocator gave to the module."""
    plant(planted, "leak")
    assert sum(leaks.objects(planted, "planted").values()) == 50
    found = [report for report in leaks.unreferenced(planted) if "[planted]" in report]
    figures["of 50 lost objects kmemleak found"] = len(found)
    assert len(found) >= 5  # 2 to 5 of 5 were seen: stale words hide some, which is why there are two looks


@pytest.mark.kernels("kcsan")
def test_race_is_found(planted):
    assert any("BUG: KCSAN: data-race in race_thread" in line for line in plant(planted, "race"))
