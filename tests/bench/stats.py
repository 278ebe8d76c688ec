# SPDX-License-Identifier: LGPL-2.1-or-later
"""From samples to figures: percentiles of each side, ratios round by round, and how far the rounds lie apart."""

import statistics

from lab.stats import PERCENTILES, percentile, summary  # noqa: F401


def spread(values, digits=4):
    """Of one figure over the rounds: the middle one, and the lowest and highest."""
    return {"median": round(statistics.median(values), digits), "low": round(min(values), digits),
            "high": round(max(values), digits), "rounds": len(values)}


def ratios(ours, theirs, keys=tuple(PERCENTILES)):
    """Summaries of the same rounds, ours and the other's: {percentile: spread of ours / theirs}."""
    return {key: spread([a[key] / b[key] for a, b in zip(ours, theirs, strict=True)]) for key in keys}
