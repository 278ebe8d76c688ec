# SPDX-License-Identifier: LGPL-2.1-or-later
"""org.sivshm.ca1: revoking, reloading, explaining, and who may."""

import os
import subprocess
import xml.etree.ElementTree as etree
from pathlib import Path

import pytest

pytest.importorskip("gi")

from cad import CONFIG, MANAGER, NAME, PATH, UID_A, UID_B, UID_C, BusError, wait_for  # noqa: E402
from cad_fixtures import cad, cad_binary, pair, private_bus  # noqa: E402, F401
from fake_vm import ACTIVE, REVOKED, Handshake, RpcError, Vm  # noqa: E402
from test_cad_control import make_csr  # noqa: E402
from test_cad_handshake import REVOKED as ERROR_REVOKED, connect, refused  # noqa: E402

CA = CONFIG["ca.conf"]


@pytest.fixture
def channel(pair):
    cad, a, b = pair
    b.daemon.call("Listen", service="dashboard")
    return cad, a, b, Handshake(a, b).run()


def bus_refused(name, action, word=""):
    with pytest.raises(BusError) as caught:
        action()
    assert caught.value.name.endswith(name), caught.value
    assert word in caught.value.text, caught.value


def release(a, b, h):
    a.daemon.call("Released", **h.at_a)
    b.daemon.call("Released", **h.at_b)


# the contract

def test_interface_is_the_documented_one(cad):
    cad.start()
    answer = cad.bus().call_sync(NAME, PATH, "org.freedesktop.DBus.Introspectable", "Introspect", None, None, 0,
                                 5000, None).unpack()[0]
    documented = Path(__file__).parents[2] / "dbus/org.sivshm.ca1.xml"

    def members(root):
        (interface,) = [i for i in root.findall("interface") if i.get("name") == MANAGER]
        return sorted((m.tag, m.get("name"), m.get("type") or "",
                       tuple((a.get("name"), a.get("type"), a.get("direction") or "out") for a in m.findall("arg")))
                      for m in interface if m.tag in ("method", "signal", "property"))

    assert members(etree.fromstring(answer)) == members(etree.parse(documented).getroot())


def test_other_users_may_not_change_anything(pair, private_bus):
    cad, *_ = pair
    calls = {"RevokeChannel": ["ss", "00", "x"], "RevokeService": ["ss", "a/sensor", "x"],
             "RevokeVM": ["ss", "a", "x"], "Restore": ["s", "a"], "Reload": []}
    for method, arguments in calls.items():
        done = subprocess.run(
            ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--", "busctl",
             f"--address={private_bus.address}", "call", NAME, PATH, MANAGER, method, *arguments],
            capture_output=True, text=True)
        assert done.returncode != 0
        assert "denied" in done.stderr.lower() or "not permitted" in done.stderr.lower(), done.stderr
    assert not cad.vms()["a"]["revoked"]


def test_bad_arguments(pair):
    cad, *_ = pair
    bus_refused("NoSuchVM", lambda: cad.call("GetQemuArguments", "s", "x"))
    bus_refused("NoSuchVM", lambda: cad.call("GetLibvirtXML", "s", "../a"))
    bus_refused("NoSuchVM", lambda: cad.call("RevokeVM", "ss", "x", ""))
    bus_refused("NoSuchService", lambda: cad.call("RevokeService", "ss", "a/other", ""))
    bus_refused("NoSuchService", lambda: cad.call("RevokeService", "ss", "a", ""))
    bus_refused("NoSuchChannel", lambda: cad.call("RevokeChannel", "ss", "zz", ""))
    bus_refused("NoSuchChannel", lambda: cad.call("RevokeChannel", "ss", "00" * 16, ""))
    bus_refused("NoSuchVM", lambda: cad.call("Restore", "s", "a"), "not revoked")
    bus_refused("NoSuchService", lambda: cad.call("Restore", "s", "a/sensor"), "not revoked")
    bus_refused("InvalidArgs", lambda: cad.call("ExplainPolicy", "ss", "sensor", "b/dashboard"))


def test_explain(pair):
    cad, *_ = pair
    assert cad.call("ExplainPolicy", "ss", "a/sensor", "b/dashboard") == (
        True, f"{cad.folder}/etc/sivshm-ca/policy.d/10-demo.conf:1 allows it")
    allowed, reason = cad.call("ExplainPolicy", "ss", "a/camera", "b/dashboard")
    assert not allowed and "[Allow a/camera b/dashboard]" in reason


# revoking

def test_revoke_channel(channel):
    cad, a, b, h = channel
    (c,) = cad.channels()
    cad.call("RevokeChannel", "ss", c["id"], "two\nlines é")
    # when the call returns, both grants are withdrawn
    assert a.table.grant(h.at_a["slot"])["state"] == b.table.grant(h.at_b["slot"])["state"] == REVOKED
    assert a.device.bell() and b.device.bell()
    for vm, ref in ((a, h.at_a), (b, h.at_b)):
        assert vm.daemon.await_method("Revoked")["params"] == {**ref, "reason": "revoked: two?lines ??"}
    assert cad.signal("ChannelClosed") == (c["id"], "revoked: two?lines ??")
    bus_refused("NoSuchChannel", lambda: cad.call("RevokeChannel", "ss", c["id"], ""))
    release(a, b, h)
    Handshake(a, b).run()  # the services may go on


@pytest.mark.parametrize("name, method", [("a/sensor", "RevokeService"), ("b/dashboard", "RevokeService"),
                                          ("a", "RevokeVM"), ("b", "RevokeVM")])
def test_revoke_ends_everything(channel, name, method):
    cad, a, b, h = channel
    victim = a if name.startswith("a") else b
    service = "sensor" if victim is a else "dashboard"
    victim.daemon.call("IssueCertificate", service=service, csr=make_csr())
    waiting = Handshake(a, b).connect()
    waiting.incoming()
    cad.call(method, "ss", name, "stolen")
    assert a.daemon.await_method("Revoked")["params"]["reason"].startswith(f"revoked: {name} is revoked (stolen)")
    refused(ERROR_REVOKED, lambda: a.daemon.answer(waiting.asked), "stolen")
    assert b.daemon.await_method("Abort")["params"]["error"]["code"] == ERROR_REVOKED
    assert victim.daemon.await_method("CertificateRevoked")
    assert cad.call("ListCertificates")[0][0][4] is True
    assert cad.vms()[victim.name]["listeners"] == []
    refused(ERROR_REVOKED, lambda: victim.daemon.call("IssueCertificate", service=service, csr=make_csr()))
    refused(ERROR_REVOKED, lambda: victim.daemon.call("Listen", service=service))
    refused(ERROR_REVOKED, lambda: connect(a))
    assert cad.vms()[victim.name]["revoked"] == (method == "RevokeVM")
    release(a, b, h)

    cad.restart()  # it stays, and over a restart of the machine
    cad.restart(restore=False)
    assert not cad.call("ExplainPolicy", "ss", "a/sensor", "b/dashboard")[0]
    cad.call("Restore", "s", name)
    assert cad.call("ExplainPolicy", "ss", "a/sensor", "b/dashboard")[0]
    cad.restart(restore=False)
    assert cad.call("ExplainPolicy", "ss", "a/sensor", "b/dashboard")[0]


def test_revoking_one_leaves_the_others(cad):
    cad.configure({**CONFIG, "policy.d/20-more.conf": "[Allow a/camera b/recorder]\n"})
    cad.start()
    a, b = Vm(cad, "a", UID_A).boot(), Vm(cad, "b", UID_B).boot()
    b.daemon.call("Listen", service="dashboard")
    b.daemon.call("Listen", service="recorder")
    one, two = Handshake(a, b).run(), Handshake(a, b, "camera", "recorder").run()
    cad.call("RevokeService", "ss", "a/sensor", "x")
    assert a.table.states() == {one.at_a["slot"]: REVOKED, two.at_a["slot"]: ACTIVE}
    assert cad.vms()["b"]["listeners"] == ["dashboard", "recorder"]
    a.close(), b.close()


# reloading

def test_reload_with_an_error_changes_nothing(channel):
    cad, a, b, h = channel
    for bad, word in ({"vm.d/30-c.conf": "[VM c]\nUser=1\nColour=red\n"}, "30-c.conf:3"), \
            ({"policy.d/10-demo.conf": "[Allow a/sensor nobody/x]\n"}, "10-demo.conf:1"), \
            ({"ca.conf": "[CA]\nTrustDomain=other.example\n"}, "restart"):
        cad.configure({**CONFIG, **bad})
        bus_refused("BadConfiguration", lambda: cad.call("Reload"), word)
        assert cad.vms().keys() == {"a", "b"}
        assert a.table.grant(h.at_a["slot"])["state"] == ACTIVE
    os.kill(cad.pid, 1)
    wait_for(lambda: "stays in force" in cad.log().splitlines()[-1], what="SIGHUP was taken")
    Handshake(a, b).run()


def test_reload_while_machines_run(channel):
    """What they were started with cannot change under them; the message says what to do."""
    cad, a, b, h = channel
    for changed in ("Members=a b\nSectionSize=2M\n", "Members=b a\nSectionSize=1M\n",
                    "Members=a b\nSectionSize=1M\nVectors=9\n"):
        cad.configure({**CONFIG, "region.d/10-demo.conf": "[Region demo]\n" + changed})
        bus_refused("BadConfiguration", lambda: cad.call("Reload"), "shut down its VMs")
    cad.configure({**CONFIG, "vm.d/10-a.conf": f"[VM a]\nUser={UID_C}\nServices=sensor camera\n"})
    bus_refused("BadConfiguration", lambda: cad.call("Reload"), "VM a")
    files = {k: v for k, v in CONFIG.items() if not k.startswith(("region", "policy"))}
    cad.configure(files)
    bus_refused("BadConfiguration", lambda: cad.call("Reload"), "region demo")
    assert a.table.grant(h.at_a["slot"])["state"] == ACTIVE
    a.close(), b.close()
    wait_for(lambda: not any(v["connected"] or v["control"] for v in cad.vms().values()), what="all are off")
    cad.call("Reload")
    assert cad.call("ListRegions") == ([],)
    assert not (cad.runtime / "region/demo").exists() and not (cad.runtime / "vm/a/demo.sock").exists()
    assert not [n for n in cad.store.names() if n[0] in "lced"]


def test_reload_takes_policy_away(channel):
    cad, a, b, h = channel
    cad.configure({**CONFIG, "policy.d/10-demo.conf": ""})
    cad.call("Reload")
    assert a.daemon.await_method("Revoked")["params"]["reason"] == "policy"
    assert cad.signal("ChannelClosed")[1] == "policy"
    assert a.table.grant(h.at_a["slot"])["state"] == REVOKED


def test_reload_takes_a_service_away(channel):
    cad, a, b, h = channel
    cad.configure({**CONFIG, "vm.d/20-b.conf": f"[VM b]\nUser={UID_B}\nServices=recorder\n", "policy.d/10-demo.conf": ""})
    cad.call("Reload")
    assert cad.vms()["b"]["listeners"] == []
    assert b.daemon.await_method("CertificateRevoked")["params"] == {"service": "dashboard"}
    assert a.table.grant(h.at_a["slot"])["state"] == REVOKED


def test_reload_adds_machines_and_regions(channel):
    """A running machine keeps its layout until it is started anew; what is new is there at once."""
    cad, a, b, h = channel
    layout = a.table.sections()
    cad.configure({**CONFIG, "vm.d/05-c.conf": f"[VM c]\nUser={UID_C}\nServices=logger\n",
                   "region.d/05-all.conf": "[Region all]\nMembers=c a\nSectionSize=1M\nVectors=2\n",
                   "policy.d/20-c.conf": "[Allow a/camera c/logger]\n"})
    cad.call("Reload")
    assert a.table.sections() == layout and a.table.grant(h.at_a["slot"])["state"] == ACTIVE
    assert not b.daemon.heard("Revoked", 0.1)
    c = Vm(cad, "c", UID_C, vectors=2)
    c.plug("all")
    assert [(s["name"], s["vm"], s["slot"]) for s in c.table.sections()] == [("all", "c", 17), ("all", "a", 18)]
    arguments = cad.call("GetQemuArguments", "s", "a")[0]  # for the next start
    assert sum("ivshmem" in word for word in arguments) == 5
    epoch = a.table.header()["epoch"]
    a.close()
    wait_for(lambda: not cad.vms()["a"]["connected"], what="a is gone")
    assert [(s["name"], s["vm"], s["slot"]) for s in a.table.sections()] == [
        ("all", "a", 17), ("all", "c", 18), ("demo", "a", 19), ("demo", "b", 20)]
    assert a.table.header()["epoch"] == epoch + 1
    numbers = {s["name"]: s["region"] for s in a.table.sections()}
    assert numbers["demo"] == layout[0]["region"] != numbers["all"]
    a.boot()
    a.vectors = 2
    a.plug("all")
    c.start_daemon()
    c.daemon.call("Listen", service="logger")
    other = Handshake(a, c, "camera", "logger").run()
    assert a.table.grant(other.at_a["slot"])["region"] == numbers["all"]
    assert a.table.grant(other.at_a["slot"])["local_vector"] == 1
    c.close()


def test_channels_change_for_the_next_start(channel):
    cad, a, b, h = channel
    cad.configure({**CONFIG, "vm.d/10-a.conf": f"[VM a]\nUser={UID_A}\nServices=sensor camera\nChannels=1000\nPciSlot=3\n"})
    cad.call("Reload")
    assert a.table.header()["slots"] == 256
    assert a.table.grant(h.at_a["slot"])["state"] == ACTIVE
    a.close()
    wait_for(lambda: not cad.vms()["a"]["connected"], what="a is gone")
    assert a.table.header()["slots"] == 1000
    assert a.table.sections()[0]["slot"] == 4
    assert "size=262144" in cad.call("GetQemuArguments", "s", "a")[0][1]


def test_bad_configuration_at_start(cad):
    cad.configure({**CONFIG, "vm.d/10-a.conf": "[VM a]\nServices=sensor\n"})
    log = cad.start_fails()
    assert f"{cad.folder}/etc/sivshm-ca/vm.d/10-a.conf:1: VM a: User= is missing" in log
    done = subprocess.run([cad.binary, f"--config-root={cad.folder}", "--check-config"], capture_output=True, text=True)
    assert done.returncode == 1 and "User= is missing" in done.stderr
    cad.configure(CONFIG)
    done = subprocess.run([cad.binary, f"--config-root={cad.folder}", "--check-config"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "2 VMs, 1 regions, 1 rules\n")


def test_without_a_bus(cad):
    """No system bus here: everything but D-Bus works."""
    cad.bus_address, address = None, cad.bus_address
    os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = "unix:path=/nonexistent"
    try:
        cad.start()
    finally:
        del os.environ["DBUS_SYSTEM_BUS_ADDRESS"]
    assert "going on without D-Bus" in cad.log()
    a, b = Vm(cad, "a", UID_A).boot(), Vm(cad, "b", UID_B).boot()
    b.daemon.call("Listen", service="dashboard")
    Handshake(a, b).run()
    a.close(), b.close()
    cad.bus_address = address


def test_bus_goes_away_and_comes_back(cad, tmp_path):
    from lab.host import PrivateBus
    bus = PrivateBus(tmp_path / "bus").start()
    cad.bus_address = bus.address
    try:
        cad.start()
        assert cad.vms()
        cad.connection.set_exit_on_close(False)
        bus.process.kill()
        bus.process.wait()
        wait_for(lambda: "the bus went away" in cad.log(), what="the daemon noticed")
        cad.connection = None
        a, b = Vm(cad, "a", UID_A).boot(), Vm(cad, "b", UID_B).boot()  # nobody else did
        b.daemon.call("Listen", service="dashboard")
        Handshake(a, b).run()
        bus.socket.unlink()
        bus.start()

        def answers():
            try:
                return cad.channels()
            except BusError:
                return None
        assert wait_for(answers, 10, "the name is back")[0]["state"] == "active"
        a.close(), b.close()
    finally:
        cad.connection = None
        bus.close()


def test_leftovers_of_another_configuration(channel):
    """Files that nobody may read any more do not stay."""
    cad, a, b, h = channel
    cad.stop()
    a.close(), b.close()
    (cad.runtime / "region/demo/stranger").write_bytes(b"x")
    cad.configure({**{k: v for k, v in CONFIG.items() if k == "ca.conf"}, "vm.d/a.conf": f"[VM a]\nUser={UID_A}\n",
                   "vm.d/c.conf": f"[VM c]\nUser={UID_A}\n", "region.d/new.conf": "[Region new]\nMembers=a c\n"})
    cad.store.forget()
    cad.start()
    assert sorted(os.listdir(cad.runtime / "vm")) == ["a", "c"]
    assert os.listdir(cad.runtime / "region") == ["new"]
    assert "VMs a and c have the same User=" in cad.log()


def test_options(cad):
    done = subprocess.run([cad.binary, "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    for option in ("--bus=", "--config-root=", "--runtime-dir=", "--state-dir=", "--check-config", "--version"):
        assert option in done.stdout
    assert subprocess.run([cad.binary, "--version"], capture_output=True, text=True).stdout.startswith("sivshm-cad ")
    assert subprocess.run([cad.binary, "--nonsense"], capture_output=True).returncode == 1
    assert subprocess.run([cad.binary, "surplus"], capture_output=True).returncode == 1
