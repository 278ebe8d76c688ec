# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reads a VM's grant table as the host has written it (src/kmod/uapi/sivshm_table.h)."""

import struct

from .world import RUNTIME

HEADER, GRANT = struct.Struct("<QIIIIQ"), struct.Struct("<II16sIIIIQQQQ")
HEADER_SIZE, GRANT_SIZE, ACTIVE = 4096, 256, 1


def active(vm):
    """Every ACTIVE grant of a VM: slot, generation, channel id, and (offset, size) of both windows."""
    table = (RUNTIME / "vm" / vm / "grants").read_bytes()
    slots = HEADER.unpack_from(table)[3]
    rows = [GRANT.unpack_from(table, HEADER_SIZE + slot * GRANT_SIZE) for slot in range(slots)]
    return [{"slot": slot, "generation": row[1], "channel": row[2].hex(), "tx": row[7:9], "rx": row[9:11]}
            for slot, row in enumerate(rows) if row[0] == ACTIVE]
