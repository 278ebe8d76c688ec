# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the figures were measured on: without it they say nothing."""

import os
import re
import subprocess
import time
from pathlib import Path


def first_line(*argv):
    return subprocess.run(argv, capture_output=True, text=True).stdout.splitlines()[0]


def processor():
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    return found[1] if found else "unknown"


def describe(bench):
    return {"date": time.strftime("%Y-%m-%d", time.gmtime()),
            "commit": subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True,
                                     cwd=Path(__file__).parent).stdout.strip() or "no git",
            "run": "quick" if bench.quick else "full",
            "processor": processor(), "processors": os.cpu_count(),
            "memory_gib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30,
            "host_kernel": os.uname().release,
            "guest_kernel": bench.image().kver,
            "qemu": first_line("qemu-system-x86_64", "--version"),
            "accelerator": "TCG, one thread for each virtual processor, one virtual processor a guest",
            "mappings": bench.mappings or {}}
