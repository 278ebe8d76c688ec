# SPDX-License-Identifier: LGPL-2.1-or-later
"""Real, unpatched QEMU with exactly the words of GetQemuArguments, each VM as its own user."""

import shutil
import subprocess
import xml.etree.ElementTree as etree

import pytest

pytest.importorskip("gi")

from cad import UID_A, UID_B, wait_for  # noqa: E402
from cad_fixtures import cad, cad_binary, private_bus  # noqa: E402, F401
from fake_vm import Table, Vm  # noqa: E402

QEMU = shutil.which("qemu-system-x86_64")


class Qemu:
    """TCG without a disk: the firmware finds nothing to boot, and the devices are all there."""

    def __init__(self, cad, name, uid, machine):
        self.arguments = cad.call("GetQemuArguments", "s", name)[0]
        self.log = cad.folder / f"qemu-{name}.log"
        argv = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--pdeathsig=KILL", "--", QEMU,
                "-accel", "tcg", "-machine", machine, "-m", "64", "-nodefaults", "-display", "none",
                "-monitor", "stdio", *self.arguments]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=open(self.log, "wb"),
                                        stderr=subprocess.STDOUT)

    def ask(self, command):
        """The monitor's answer, after its prompt shows up again."""
        before = len(self.text())
        self.process.stdin.write(command.encode() + b"\n")
        self.process.stdin.flush()
        wait_for(lambda: self.text()[before:].count("(qemu)") >= 1, what=f"answer to {command}")
        return self.text()[before:]

    def text(self):
        return self.log.read_text(errors="replace")

    def close(self):
        self.process.kill()
        self.process.wait()


@pytest.mark.skipif(not QEMU, reason="no qemu-system-x86_64")
@pytest.mark.parametrize("machine", ["q35", "pc"])
def test_qemu_connects_to_everything(cad, machine):
    cad.start()
    a, b = Qemu(cad, "a", UID_A, machine), None
    try:
        wait_for(lambda: cad.vms()["a"]["connected"] == 1, 20, "device of a: " + a.text())
        wait_for(lambda: cad.vms()["a"]["control"], what="control port of a")
        assert not cad.vms()["a"]["hello"]
        b = Qemu(cad, "b", UID_B, machine)
        wait_for(lambda: cad.vms()["b"]["connected"] == 1, 20, "device of b: " + b.text())
        wait_for(lambda: cad.vms()["b"]["control"], what="control port of b")
        pci = a.ask("info pci").lower()
        places = {16, 17, 18}
        assert pci.count("1af4:1110") == len(places)
        for slot in places:
            assert f"device {slot:3d}, function 0" in pci.replace("  ", " ").replace("  ", " ") or \
                f"device {slot}, function 0" in " ".join(pci.split())
        sections = Table(cad.runtime / "vm/a/grants", UID_A).sections()
        assert [(s["slot"], s["own"], s["vm"]) for s in sections] == [(17, 1, "a"), (18, 0, "b")]
        assert a.process.poll() is None and b.process.poll() is None
        assert "error" not in a.text().lower()
    finally:
        a.close()
        if b:
            b.close()
    wait_for(lambda: cad.vms()["a"]["connected"] == 0 and not cad.vms()["a"]["control"], what="a is gone")


@pytest.mark.skipif(not QEMU, reason="no qemu-system-x86_64")
def test_qemu_of_another_user_gets_nothing(cad):
    cad.start()
    wrong = Qemu(cad, "a", UID_B, "q35")
    try:
        assert wrong.process.wait(20) != 0
        assert "Permission denied" in wrong.text()
    finally:
        wrong.close()


@pytest.mark.skipif(not QEMU, reason="no qemu-system-x86_64")
def test_qemu_outlives_its_peers(cad):
    """A QEMU that is told of a peer's end and return writes into memory that it freed, and dies of it sooner or later."""
    cad.start()
    a, b = Qemu(cad, "a", UID_A, "q35"), Vm(cad, "b", UID_B)
    try:
        wait_for(lambda: cad.vms()["a"]["connected"] == 1, 20, "device of a: " + a.text())
        wait_for(lambda: cad.vms()["a"]["control"], what="control port of a")
        a.ask("info pci")
        for _ in range(200):
            b.plug()
            b.unplug()
            wait_for(lambda: cad.vms()["b"]["connected"] == 0, what="b is gone")
        assert "ivshmem" in a.ask("info qtree") and a.process.poll() is None
    finally:
        a.close()
        b.close()


def test_libvirt_xml(cad):
    cad.start()
    text = cad.call("GetLibvirtXML", "s", "a")[0]
    root = etree.fromstring(f"<domain>{text}</domain>")
    (shmem,) = root.findall("devices/shmem")
    assert shmem.find("server").get("path") == str(cad.runtime / "vm/a/demo.sock")
    assert shmem.find("address").get("slot") == "0x11"
    arguments = [arg.get("value") for arg in root.iter("{http://libvirt.org/schemas/domain/qemu/1.0}arg")]
    assert sum("readonly=on" in arg for arg in arguments) == 2
    head = ("<domain type='qemu'><name>a</name><memory>65536</memory>"
            "<os><type arch='x86_64' machine='q35'>hvm</type></os>")
    path = cad.folder / "domain.xml"
    path.write_text(f"{head}{text}</domain>")
    done = subprocess.run(["virt-xml-validate", str(path), "domain"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
