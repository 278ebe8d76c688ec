# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the figures were measured on."""


def describe(bench):
    return {}
