# SPDX-License-Identifier: LGPL-2.1-or-later
"""What each figure should be. Keys are paths into the JSON that tools/bench writes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Aim:
    key: str
    sign: str  # "<=", "<", ">=", ">"
    bound: float
    text: str

    def met(self, value):
        return {"<=": value <= self.bound, "<": value < self.bound,
                ">=": value >= self.bound, ">": value > self.bound}[self.sign]


AIMS = [
    Aim("rtt_poll_ratio.p50", "<=", 1.01, "round trip by polling, 64 B, against the same ring on plain ivshmem"),
    Aim("rtt_poll_ratio.p99", "<=", 1.05, "the same"),
]


def value_at(figures, key):
    """The figure that a key names, None when it was not measured."""
    for name in key.split("."):
        if not isinstance(figures, dict) or name not in figures:
            return None
        figures = figures[name]
    return figures
