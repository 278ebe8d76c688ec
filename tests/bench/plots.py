# SPDX-License-Identifier: LGPL-2.1-or-later
"""Plots of a result, by gnuplot, as SVG."""


def draw(result, folder):
    """All plots that the tables of *result* allow."""
