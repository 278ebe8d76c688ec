# SPDX-License-Identifier: LGPL-2.1-or-later
"""Percentiles of samples."""

PERCENTILES = {"p50": 50, "p99": 99, "p999": 99.9}


def percentile(ordered, percent):
    """The smallest value that at least *percent* of all are not above."""
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, min(len(ordered), int(rank)) - 1)]


def summary(values, digits=3):
    ordered = sorted(values)
    return {"n": len(ordered), "min": round(ordered[0], digits),
            **{name: round(percentile(ordered, p), digits) for name, p in PERCENTILES.items()},
            "max": round(ordered[-1], digits)}
