# SPDX-License-Identifier: LGPL-2.1-or-later
"""What sivshm costs, measured side by side with what there is without it. `tools/bench` runs it.

Each part (a module named in run.PARTS) measures one thing and what it is compared with, in turns, on the
same machine in the same minutes; stats.py says what is made of the samples, aims.py what the ratios should be.
"""
