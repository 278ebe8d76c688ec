# SPDX-License-Identifier: LGPL-2.1-or-later
"""Lets the test files import what lies beside them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
