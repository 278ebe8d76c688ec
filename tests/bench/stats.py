# SPDX-License-Identifier: LGPL-2.1-or-later
"""From samples to figures: percentiles of each side, ratios round by round, and how far the rounds lie apart."""

import statistics

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


def spread(values, digits=4):
    """Of one figure over the rounds: the middle one, and the lowest and highest."""
    return {"median": round(statistics.median(values), digits), "low": round(min(values), digits),
            "high": round(max(values), digits), "rounds": len(values)}


def ratios(ours, theirs, keys=tuple(PERCENTILES)):
    """Summaries of the same rounds, ours and the other's: {percentile: spread of ours / theirs}."""
    return {key: spread([a[key] / b[key] for a, b in zip(ours, theirs, strict=True)]) for key in keys}
