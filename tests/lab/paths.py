# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where the lab keeps its things.

The cache outlives a run and is keyed by content. The run directory holds sockets and logs of
one run. Neither lies below the clone: a clone may be under a folder that an unprivileged QEMU
cannot enter.
"""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"


def cache_dir():
    path = Path(os.environ.get("SIVSHM_CACHE") or "/var/cache/sivshm")
    path.mkdir(parents=True, exist_ok=True)
    os.chmod(path, 0o755)
    return path


def run_dir():
    path = Path(os.environ.get("SIVSHM_RUN") or "/run/sivshm-lab")
    path.mkdir(parents=True, exist_ok=True)
    os.chmod(path, 0o755)
    return path
