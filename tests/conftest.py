# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fixtures of every pytest suite. `pytest` may be run by hand too; tools/check is the usual way."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pytest  # noqa: E402

from lab import attack, debug_kernel, ivshmem_host, paths, puppet  # noqa: E402
from lab import build as builds  # noqa: E402
from lab import image as images  # noqa: E402
from lab.ivshmem_host import IvshmemHost  # noqa: E402
from lab.kmod_world import FOREIGN_ADDR, Bench, device  # noqa: E402
from lab.world import World  # noqa: E402


@pytest.fixture
def figures(request):
    """A dict for what a test measures; it comes out in the report."""
    values = {}
    yield values
    request.node.user_properties.extend(values.items())


@pytest.fixture(scope="session")
def log_dir():
    path = Path(os.environ.get("SIVSHM_LOGS") or paths.BUILD / "logs")
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture(scope="session")
def image():
    """What guests boot from, see lab.image."""
    return images.ensure(print)


@pytest.fixture(scope="session")
def destdir(image):
    """The project as installed by gcc's build, module included."""
    return builds.install(image)


@pytest.fixture(scope="session")
def payload(destdir):
    """The same as a disk for guests."""
    return images.make_payload(destdir)


# the cockpit example, booted once for all suites

@pytest.fixture(scope="session")
def shared_world(destdir, image, log_dir):
    with World(destdir, image, log_dir=log_dir, progress=print) as world:
        yield world


@pytest.fixture
def world(shared_world, request):
    """Host and both guests. The kernel logs are part of the verdict; no channel is left behind."""
    guests = shared_world.guests.values()
    for guest in guests:
        guest.mark(request.node.nodeid)
    yield shared_world
    for guest in guests:
        guest.assert_kernel_clean(since=request.node.nodeid)


@pytest.fixture
def rtos(world):
    return world.rtos


@pytest.fixture
def ivi(world):
    return world.ivi


# the guest of the module's tests, likewise; one for each kernel

# What PREEMPT_RT turns around in the module: interrupts with threads, locks that sleep, a gate of another make.
ON_RT = """
test_doorbells_both_ways test_wait test_read_and_poll test_vector_wakes_its_channels_only test_storm
test_open_refusals test_data_both_ways test_foreign_device_is_left_alone test_second_table_is_refused
test_revoke_while_mapped test_revoke_wakes_sleepers test_revoke_under_load test_draining_wakes_sleepers
test_unbind_while_in_use
""".split()


def pytest_generate_tests(metafunc):
    """The module's cases run on Debian's kernel and on those that look for mistakes, some on its PREEMPT_RT one too.

    @pytest.mark.kernels("kasan") says which; attacks are tried on Debian's alone unless they say so.
    """
    if "kernel" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("kernels")
    attack_suite = metafunc.definition.path.parent.name == "attack"
    names = marker.args if marker else ["stock"] if attack_suite else ["stock", *debug_kernel.RECIPES]
    if not marker and metafunc.definition.originalname in ON_RT:
        names = [*names, "rt"]
    params = [pytest.param(name, marks=[pytest.mark.slow] if name == "kcsan" else []) for name in names]
    metafunc.parametrize("kernel", params, indirect=True, scope="session")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """One boot for each kernel: the cases of another kernel run in a row, after everything else."""
    order = ["rt", *debug_kernel.RECIPES]

    def place(item):
        params = getattr(item, "callspec", None)
        name = params.params.get("kernel") if params else None
        if name not in order:
            return 0, ""
        return 1 + order.index(name), str(item.path)
    items.sort(key=place)


@pytest.fixture(scope="session")
def progress(request):
    """Says at once how far something long is."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def say(text):
        with capture.global_and_fixture_disabled():
            print(f"         {text}", flush=True)
    return say


@pytest.fixture(scope="session")
def kernel(request, image, progress):
    return debug_kernel.kernel(request.param, image, progress)


@pytest.fixture(scope="session")
def programs(kernel):
    """Module, test module and puppet: {name: bytes}."""
    image = kernel.image
    work, log = paths.BUILD / "kmod-tests" / image.kver, paths.BUILD / "kmod-tests.log"
    work.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    builds.run(["gcc", "-O2", "-Wall", "-static", "-o", work / "puppet", paths.ROOT / "tests/kmod/puppet.c"],
               log, env=builds.environment())
    return {"puppet": (work / "puppet").read_bytes(), "store.ko": builds.test_module(image, "store"),
            "sivshm.ko": builds.module(image, "sivshm", paths.ROOT / "src/kmod")}


@pytest.fixture(scope="session")
def bench(kernel, programs, log_dir):
    """A guest with the module alone."""
    uid = 64201
    with IvshmemHost({"rtos": uid, "ivi": 64202}) as host:
        foreign = ivshmem_host.Memory(host.folder / "foreign", 1 << 20)
        os.chown(foreign.path, uid, uid)
        port = puppet.Port(host.folder / "puppet.sock", uid)
        args = ["-smp", "2", *host.qemu_args("rtos"), *port.qemu_args(),
                "-object", f"memory-backend-file,id=foreign,mem-path={foreign.path},size={foreign.size},share=on",
                "-device", f"ivshmem-plain,memdev=foreign,addr={FOREIGN_ADDR:#x}"]
        with kernel.guest(f"kmod-{kernel.name}", uid=uid, machine="pc", args=args, log_dir=log_dir) as guest:
            guest.wait_up()
            guest.foreign_bars = guest.run(f"cat /sys/bus/pci/devices/{device(FOREIGN_ADDR)}/resource")[1]
            bench = Bench(guest, host, port, programs)
            bench.foreign, bench.kernel = foreign, kernel
            yield bench


@pytest.fixture
def k(bench, request):
    """The bench with an owner. The kernel log is part of the verdict; no channel is left behind."""
    name = request.node.nodeid
    bench.stage.note(f"lab: {name}")
    yield bench.begin()
    bench.end()
    bench.assert_kernel_clean(since=name)
