# SPDX-License-Identifier: LGPL-2.1-or-later
"""sivshm-cad, a real process, between two made-up VMs: the main job."""

import os

import pytest

pytest.importorskip("gi")

from cad import UID_A, UID_B, wait_for  # noqa: E402
from cad_fixtures import cad, cad_binary, pair, private_bus  # noqa: E402, F401
from fake_vm import ACTIVE, FREE, Handshake  # noqa: E402


def test_channel(pair):
    cad, a, b = pair
    b.daemon.call("Listen", service="dashboard")
    a.device.bell(timeout=0), b.device.bell(timeout=0)
    handshake = Handshake(a, b).connect()
    params = handshake.incoming()
    assert (params["from"], params["to"], params["ringSize"]) == ("a/sensor", "dashboard", 4096)
    handshake.offer()
    handshake.confirm()
    handshake.finish()
    handshake.granted()
    at_a, at_b = a.table.grant(handshake.at_a["slot"]), b.table.grant(handshake.at_b["slot"])
    assert at_a["state"] == at_b["state"] == ACTIVE
    assert at_a["generation"] == handshake.at_a["generation"] != 0
    assert at_a["channel"] == at_b["channel"]
    assert (at_a["tx_offset"], at_a["tx_size"]) == (at_b["rx_offset"], at_b["rx_size"])
    assert (at_a["rx_offset"], at_a["rx_size"]) == (at_b["tx_offset"], at_b["tx_size"])
    assert at_a["tx_size"] == at_b["tx_size"] == 4096 + 4096
    assert (at_a["local_vector"], at_a["peer_vector"]) == (at_b["peer_vector"], at_b["local_vector"])
    assert (at_a["local_service"], at_a["peer_vm"], at_a["peer_service"]) == ("sensor", "b", "dashboard")
    assert (at_b["local_service"], at_b["peer_vm"], at_b["peer_service"]) == ("dashboard", "a", "sensor")
    assert a.device.bell() and b.device.bell()
    handshake.opened()
    assert cad.signal("ChannelOpened") == (at_a["channel"].hex(), "a/sensor", "b/dashboard")
    (channel,) = cad.channels()
    assert (channel["state"], channel["region"], channel["ring"]) == ("active", "demo", 4096)

    a.daemon.call("Released", **handshake.at_a)
    assert a.table.grant(handshake.at_a["slot"])["state"] == FREE
    assert cad.signal("ChannelClosed") == (at_a["channel"].hex(), "closed")
    assert b.device.bell()
    b.daemon.call("Released", **handshake.at_b)
    assert not cad.channels()
    assert all(m["granted"] == m["quarantined"] == 0 for m in cad.members().values())
