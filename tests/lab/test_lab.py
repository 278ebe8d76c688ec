# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lab itself: what the other suites take for granted."""

import os
import shutil

import pytest

from lab import debug_kernel, host, image as images, qemu


def section(folder, name, text):
    path = folder / name
    path.write_bytes(text.ljust(1 << 20, b"\0"))
    os.chmod(path, 0o644)
    return ["-object", f"memory-backend-file,id=m,mem-path={path},size=1M,share=on,readonly=on",
            "-device", "ivshmem-plain,memdev=m,addr=0x10"]


@pytest.fixture
def share():
    path = host.shared_folder("test")
    yield path
    shutil.rmtree(path)


READ_BAR = """
import mmap, os
f = os.open("/sys/bus/pci/devices/0000:00:10.0/resource2", os.O_RDWR)
m = mmap.mmap(f, 4096)
print(m[:5].decode())
m[:5] = b"store"
print(m[:5].decode())
"""


def plug_and_unplug(guest, share, **where):
    (share / "plugged").write_bytes(bytes(1 << 20))
    os.chmod(share / "plugged", 0o666)
    count = "grep -l 0x1110 /sys/bus/pci/devices/*/device | wc -l"
    guest.qmp.command("object-add", **{"qom-type": "memory-backend-file", "id": "plugged", "share": True,
                                       "mem-path": str(share / "plugged"), "size": 1 << 20})
    guest.device_add("ivshmem-plain", "new", memdev="plugged", **where)
    assert guest.run(f"for i in $(seq 100); do [ $({count}) = 2 ] && exit 0; sleep 0.1; done; exit 1")[0] == 0
    guest.device_del("new")
    assert guest.run(count)[1] == "1\n"


def test_two_guests(image, share, tmp_path, log_dir, figures):
    """Two at once, one of each machine: commands, payload, files, clean logs, a read-only BAR."""
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "usr/lib/lab-test").write_text("payload")
    payload = images.make_payload(tmp_path)
    args = section(share, "section", b"hello")
    guests = [qemu.Guest("one", image, args=args, payload=payload, ports=1, log_dir=log_dir),
              qemu.Guest("two", image, args=args, payload=payload, machine="pc", log_dir=log_dir)]
    with guests[0], guests[1]:
        for guest in guests:
            figures[f"boot_s.{guest.name}"] = round(guest.wait_up(), 1)
        for guest in guests:
            assert guest.run("hostname; cat /usr/lib/lab-test; test -L /lib") == (0, f"{guest.name}\npayload", "")
            assert guest.run("exit 7")[0] == 7
            assert guest.run(["/usr/bin/python3", "-"], input=READ_BAR) == (0, "hello\nhello\n", "")
            guest.put_file("/root/file", b"\0\1" * 70000, mode=0o600)
            assert guest.get_file("/root/file") == b"\0\1" * 70000
            assert guest.run("systemctl --failed --no-legend")[1] == ""
            guest.assert_kernel_clean()
            status = open(f"/proc/{guest.process.pid}/status").read()
            assert f"Uid:\t{guest.uid}\t{guest.uid}\t{guest.uid}\t{guest.uid}\n" in status
            assert "CapBnd:\t0000000000000000\n" in status and "Groups:\t \n" in status
        plug_and_unplug(guests[0], share, bus="port0")
        plug_and_unplug(guests[1], share)
        guests[0].mark("trouble")
        guests[0].run("echo 'WARNING: made up' > /dev/kmsg")
        with pytest.raises(AssertionError, match="made up"):
            guests[0].assert_kernel_clean(since="trouble")
        guests[1].kill()
        guests[0].shutdown()
    assert (share / "section").read_bytes()[:5] == b"hello"
    assert not any(guest.folder.exists() for guest in guests)


def test_container(image, share, tmp_path, figures):
    """Debian's systemd as PID 1, with a folder that both sides see."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/lab-test").write_text("payload")
    with host.Nspawn("box", image, payload=tmp_path, binds={share: "/run/share"}) as box:
        assert box.run("cat /etc/lab-test; cat > /run/share/x; hostname", input="seen") == (0, "payloadbox\n", "")
        assert (share / "x").read_text() == "seen"
        unit = box.run("systemd-run --wait --pipe -q -p DynamicUser=yes -p ProtectSystem=strict id -u", check=True)
        assert int(unit[1]) > 60000
        box.stop()
    assert not box.folder.exists()


def test_private_bus():
    import subprocess
    with host.PrivateBus() as bus:
        out = subprocess.run(["busctl", f"--address={bus.address}", "list"], capture_output=True, text=True)
    assert "org.freedesktop.DBus" in out.stdout


SOURCES = """Types: deb
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main

Types: deb
URIs: http://other.example
Suites: nodistro
Components: main

Types: deb
Enabled: no
URIs: http://mirror.example/debian
Suites: bookworm
Components: main
"""


def test_third_party_sources():
    stanzas = SOURCES.split("\n\n")
    assert [images.is_debian_stanza(s) for s in stanzas] == [True, False, False]
    line = images.stanza_from_line("deb [signed-by=/k.gpg arch=amd64] http://mirror.example/d bookworm main contrib # x")
    assert images.is_debian_stanza(line) and "Signed-By: /k.gpg" in line
    for other in ("deb http://o.example bookworm stable", "deb-src http://m.example/d bookworm main", "# deb"):
        assert images.stanza_from_line(other) is None


def test_refused_kernel_options():
    """Kconfig drops an option that it cannot have; a debug kernel without a detector must not pass for one."""
    recipe = {"on": ["KASAN", "SLUB"], "off": ["SLOB"], "values": {"NR_CPUS": "4"}}
    good = "CONFIG_KASAN=y\nCONFIG_SLUB=y\n# CONFIG_SLOB is not set\nCONFIG_NR_CPUS=4\n"
    assert debug_kernel.refusals(good, recipe) == []
    assert debug_kernel.refusals(good.replace("CONFIG_KASAN=y", "# CONFIG_KASAN is not set"), recipe) == ["KASAN"]
    assert debug_kernel.refusals(good.replace("CONFIG_KASAN=y\n", ""), recipe) == ["KASAN"]
    assert debug_kernel.refusals(good.replace("SLUB=y", "SLUB=m"), recipe) == ["SLUB"]
    assert debug_kernel.refusals(good + "CONFIG_SLOB=y\n", recipe) == ["SLOB"]
    assert debug_kernel.refusals(good.replace("=4", "=64"), recipe) == ["NR_CPUS"]
