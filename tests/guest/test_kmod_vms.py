# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests of their own, booted for one case each. The name of the file makes them come last."""

from lab.kmod_world import Bench
from lab import kmod, puppet, qemu
from lab.ivshmem_host import PAGE, IvshmemHost
from lab.puppet import error_of


def test_hot_unplug_of_own_section(kernel, programs, log_dir):
    """The guest ends with it: emulating QEMU leaves handlers behind that crash it sooner or later."""
    uid = 64205
    with IvshmemHost({"rtos": uid, "ivi": 64202}) as host:
        port = puppet.Port(host.folder / "puppet.sock", uid)
        args = [*host.qemu_args("rtos"), *port.qemu_args()]
        with kernel.guest(f"unplug-{kernel.name}", uid=uid, machine="pc", args=args, log_dir=log_dir) as guest:
            guest.wait_up()
            k = Bench(guest, host, port, programs).begin()
            channel = k.channel(0)
            tx = channel.map_tx()
            channel.worker.poke(tx, b"data")
            guest.device_del("dev-own")
            assert k.events() == ["REVOKED"]
            assert k.owner.section(0).state == 0
            assert error_of(channel.notify) == "ENOLINK"
            channel.worker.poke(tx, b"into nothing")
            assert k.member.section.read(channel.offset, 4) == b"data"
            assert error_of(k.open, 1, k.grant(1)) == "ENXIO"
            k.end()
            guest.assert_kernel_clean()


def test_two_guests(kernel, programs, log_dir):
    """Both ends real, on the other machine type: data and doorbells both ways, revocation at both."""
    vms = {"rtos": 64203, "ivi": 64204}
    with IvshmemHost(vms) as host:
        ports = {vm: puppet.Port(host.folder / f"puppet.{vm}", uid) for vm, uid in vms.items()}
        guests = [kernel.guest(vm, uid=uid, args=host.qemu_args(vm) + ports[vm].qemu_args(), log_dir=log_dir)
                  for vm, uid in vms.items()]
        try:
            qemu.boot(guests)
            rtos, ivi = (Bench(guest, host, ports[vm], programs, vm, other).begin()
                         for guest, (vm, other) in zip(guests, [("rtos", "ivi"), ("ivi", "rtos")]))
            assert [rtos.owner.section(i).mapping for i in range(2)] == [kmod.MAPPING_WB] * 2
            a = rtos.channel(2, peer_vector=3, tx_offset=8 * PAGE, rx_offset=16 * PAGE)
            b = ivi.channel(5, local_vector=3, tx_offset=16 * PAGE, rx_offset=8 * PAGE)
            for one, two in ((a, b), (b, a)):
                tx, rx = one.map_tx(), two.map_rx()
                two.begin_wait()
                one.worker.poke(tx + 2 * PAGE, b"hello")
                one.notify()
                assert two.finish_wait() >= 1
                assert two.worker.peek(rx + PAGE, 5) == two.worker.peek(rx + 2 * PAGE, 5) == b"hello"
            rtos.revoke(a), ivi.revoke(b)
            for bench in (rtos, ivi):
                bench.end()
                bench.guest.assert_kernel_clean()
        finally:
            for guest in guests:
                guest.close()
