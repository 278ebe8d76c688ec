# SPDX-License-Identifier: LGPL-2.1-or-later
"""What each figure should be. Keys are paths into the JSON that tools/bench writes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Aim:
    part: str  # module that measures it
    key: str
    sign: str  # "<=", "<", ">=", ">"
    bound: float
    text: str
    missed: str = ""  # why, if it is known to be: then tools/check does not fail for the aim,
    floor: float = None  # but if it is missed by more than this

    def met(self, value):
        return self.holds(value, self.bound)

    def holds(self, value, bound):
        return {"<=": value <= bound, "<": value < bound, ">=": value >= bound, ">": value > bound}[self.sign]


AIMS = [
    Aim("native", "native_rtt_ratio", "<=", 1.3, "round trip of 64 B between two processes, to a bare cache line to and fro"),
    Aim("native", "page_faults_after_first_touch", "<=", 0, "page faults of both processes after the first touch, all blocks"),
    Aim("native", "page_faults_with_prefault", "<=", 0, "the same from the first message on, with prefault"),
    Aim("datapath", "rtt_poll_ratio.p50", "<=", 1.01, "round trip by polling, 64 B, to the same ring on plain ivshmem"),
    Aim("datapath", "rtt_poll_ratio.p99", "<=", 1.05, "the same"),
    Aim("datapath", "rtt_poll_ratio_worst.p50", "<=", 1.01, "the same, worst of 8 B to 64 KiB"),
    Aim("datapath", "rtt_poll_ratio_worst.p99", "<=", 1.05, "the same"),
    Aim("datapath", "rtt_sleep_ratio.p50", "<=", 1.0, "round trip to a receiver that sleeps, default options, 64 B, to ivshmem over UIO"),
    Aim("datapath", "rtt_sleep_ratio.p99", "<=", 1.0, "the same"),
    Aim("datapath", "bandwidth_copy_ratio.min", ">=", 0.99, "bandwidth, copying, worst of 64 B to 1 MiB, to the same loop on plain",
        missed="single sizes move by some percent, as they do between two plain memories, see below", floor=0.85),
    Aim("datapath", "bandwidth_copy_ratio.median", ">=", 0.99, "the same, the middle one of all sizes, one way and both ways"),
    Aim("datapath", "bandwidth_zerocopy_ratio.min", ">", 1.0, "the same without a copy, to plain with one, worst size"),
    Aim("datapath", "guest_page_faults", "<=", 0, "page faults of both ends after the first touch, all blocks"),
    Aim("handshake", "handshake_cold_ms.p99", "<", 100, "D-Bus call to fd between emulated guests, no certificates yet"),
    Aim("handshake", "handshake_warm_ms.p99", "<", 100, "the same, both ends have a certificate"),
    Aim("ca", "handshake_native_ms.cold_p99", "<", 5, "the same between native processes of real-time priority, the guests' kernels played, cold"),
    Aim("ca", "handshake_native_ms.warm_p99", "<", 5, "the same, warm"),
    Aim("ca", "ca_signature_rate_ratio", ">=", 0.5,
        "signatures of the CA under the load of 64 VMs without certificates, to those of one core (openssl speed)",
        missed="each comes with a verification, which takes three times as long: 0.25 if there were no other work, see below",
        floor=0.03),
    Aim("scale", "channels_1024_ratio.handshake", "<=", 1.2, "D-Bus call to fd with 1024 channels open, to one open"),
    Aim("scale", "channels_1024_ratio.wakeup", "<=", 1.2, "round trip, both ends asleep, 1024 channels open, to one"),
    Aim("boot", "boot_added_ratio", "<", 0.05, "time to multi-user.target with sivshmd, added to that without it"),
]


def value_at(figures, key):
    """The figure that a key names, None when it was not measured."""
    for name in key.split("."):
        if not isinstance(figures, dict) or name not in figures:
            return None
        figures = figures[name]
    return figures
