# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lab: guest images, QEMU guests, booted containers and builds for the tests."""
