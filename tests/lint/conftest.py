# SPDX-License-Identifier: LGPL-2.1-or-later
"""Modules of this folder that the tests share can be imported by name."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
