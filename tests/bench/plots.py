# SPDX-License-Identifier: LGPL-2.1-or-later
"""Plots of a result, by gnuplot, as SVG and PNG. Each is made of one table, or not at all if that was not measured."""

import subprocess

COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"]
TERMINALS = {"svg": 'svg size 760,440 font "sans,13" background "white"', "png": 'pngcairo size 760,440 font "sans,11"'}

STYLE = """
set encoding utf8
set termoption noenhanced
set border 3 lc rgb "#555555"
set tics nomirror tc rgb "#333333"
set grid ytics lc rgb "#dddddd" lt 1
set key top left reverse Left samplen 2
set style fill solid 0.8 noborder
set bars 0.5
"""

BYTE_TICS = ", ".join(f'"{name}" {value}' for name, value in (
    ("8 B", 8), ("64 B", 64), ("512 B", 512), ("4 KiB", 4096), ("32 KiB", 32768), ("256 KiB", 262144), ("1 MiB", 1 << 20)))


class Plot:
    """A gnuplot script that grows, with its data in the script."""

    def __init__(self, title, ylabel, *, sizes=False, logy=False, xlabel=None):
        self.setup = [STYLE, f'set title "{title}"', f'set ylabel "{ylabel}"']
        if sizes:
            self.setup += ["set logscale x 2", f"set xtics ({BYTE_TICS})", 'set xlabel "message"']
        if xlabel:
            self.setup.append(f'set xlabel "{xlabel}"')
        if logy:
            self.setup.append("set logscale y")
        self.data, self.parts = [], []

    def add(self, title, rows, how="linespoints lw 2 pt 7 ps 0.6", columns="1:2"):
        name = f"$d{len(self.data)}"
        lines = "\n".join(" ".join(str(v) for v in row) for row in rows)
        self.data.append(f"{name} << EOD\n{lines}\nEOD")
        colour = COLOURS[len(self.parts) % len(COLOURS)]
        self.parts.append(f'{name} using {columns} with {how} lc rgb "{colour}" title "{title}"')

    def line_at(self, y, title):
        self.parts.append(f'{y} with lines dt 2 lw 1.5 lc rgb "#555555" title "{title}"')

    def write(self, folder, name, kinds):
        for kind in kinds:
            script = "\n".join([f"set terminal {TERMINALS[kind]}", f'set output "{folder}/{name}.{kind}"', *self.setup, *self.data,
                                "plot " + ", \\\n".join(self.parts)]) + "\n"
            done = subprocess.run(["gnuplot"], input=script, text=True, capture_output=True)
            if done.returncode:
                raise RuntimeError(f"gnuplot, {name}: {done.stderr[-2000:]}")


def series(rows, x, y, **wanted):
    return [(row[x], row[y]) for row in rows if all(row[key] == value for key, value in wanted.items())]


def rtt_poll(rows):
    plot = Plot("Round trip by polling, two emulated guests, p50", "microseconds", sizes=True, logy=True)
    for kind in ("sivshm", "plain"):
        plot.add(kind, [(r["size"], r["p50_us"], r["p50_low_us"], r["p50_high_us"]) for r in rows if r["kind"] == kind],
                 "yerrorlines lw 2 pt 7 ps 0.6", "1:2:3:4")
    return plot


def rtt_poll_ratio(rows):
    plot = Plot("Round trip by polling: sivshm / plain ivshmem, median over blocks", "ratio", sizes=True)
    for key in ("p50", "p99"):
        plot.add(key, [(r["size"], r[key]) for r in rows])
    plot.line_at(1, "the same")
    plot.setup.append("set yrange [0.5:1.5]")
    return plot


def rtt_sleep(rows):
    rows = [r for r in rows if r["size"] == 64]
    plot = Plot("Round trip of 64 B, p50 (bar: lowest and highest block)", "microseconds")
    plot.setup += ["set style data histogram", "set style histogram errorbars gap 1 lw 1", "unset key",
                   "set logscale y", "set xtics rotate by -25"]
    plot.add("", [(f'"{r["case"]}"', r["p50_us"], r["p50_low_us"], r["p50_high_us"]) for r in rows], "histograms",
             "2:3:4:xtic(1)")
    return plot


def bandwidth(rows):
    rows = [r for r in rows if r["ways"] == 1]
    plot = Plot("Bandwidth one way, two emulated guests", "GB/s", sizes=True, logy=True)
    for kind, title in (("sivshm_copy", "sivshm, copying"), ("plain_copy", "plain ivshmem, copying"),
                        ("sivshm_zero", "sivshm, made and read in place"),
                        ("plain_touch", "plain ivshmem, made, copied twice, read")):
        plot.add(title, series(rows, "size", f"{kind}_bytes_per_ns"))
    return plot


def bandwidth_ratio(rows):
    plot = Plot("Bandwidth: sivshm / plain ivshmem, median over blocks", "ratio", sizes=True)
    for ways, text in ((1, "one way"), (2, "both ways")):
        for key in ("copy", "zerocopy"):
            plot.add(f"{key}, {text}", series(rows, "size", key, ways=ways))
    plot.line_at(1, "the same")
    plot.setup.append("set yrange [0.5:*]")
    return plot


def handshake_steps(rows):
    """The connecting end's steps, one on top of the other."""
    rows = [r for r in rows if r["end"] == "connecting" and r["step"] != "whole call"]
    kinds = ["cold", "warm"]
    names = list(dict.fromkeys(r["step"] for r in rows))
    plot = Plot("Connect between emulated guests, means of the connecting end's steps", "milliseconds")
    plot.setup += ["set style data histograms", "set style histogram rowstacked", "set boxwidth 0.5",
                   "set key outside right invert", "set xrange [-0.7:1.7]"]
    for i, name in enumerate(names):
        mean = {r["kind"]: r["mean"] for r in rows if r["step"] == name}
        plot.add(name, [(f'"{kind}"', mean.get(kind, 0)) for kind in kinds], "histograms", "2:xtic(1)")
    return plot


def by_channels(rows, title, ylabel):
    plot = Plot(title, ylabel, xlabel="channels open")
    plot.setup += ["set logscale x 2", "set yrange [0:*]", f"set xtics ({', '.join(str(r['channels']) for r in rows)})"]
    for key in ("p50", "p99"):
        plot.add(key, [(r["channels"], r[key]) for r in rows])
    return plot


def channels_handshake_ms(rows):
    return by_channels(rows, "One more channel, D-Bus call to fd, warm", "milliseconds")


def channels_wakeup_us(rows):
    return by_channels(rows, "Round trip to a receiver that sleeps", "microseconds")


def native_rtt(rows):
    plot = Plot("Round trip between two native processes, p50", "nanoseconds", sizes=True, logy=True)
    for kind in dict.fromkeys(r["kind"] for r in rows):
        plot.add(kind, [(r["size"], r["ns"]) for r in rows if r["kind"] == kind])
    return plot


def realtime(rows):
    plot = Plot("PREEMPT_RT, SCHED_FIFO: round trips of 64 B by their time", "round trips", logy=True,
                xlabel="microseconds, from")
    plot.setup += ["set logscale x", "set key top right"]
    for mode in ("sleep", "poll"):
        for kind, other in (("sivshm", "sivshm"), ("baseline", {"sleep": "UIO", "poll": "plain"}[mode])):
            found = [(r["from_us"], r[kind]) for r in rows if r["mode"] == mode and r[kind]]
            plot.add(f"{mode}: {other}", found, "linespoints lw 2 pt 7 ps 0.5")
    return plot


# plot, and the table that it is made of: its own name
PLOTS = [rtt_poll, rtt_poll_ratio, rtt_sleep, bandwidth, (bandwidth_ratio, "bandwidth"), handshake_steps,
         channels_handshake_ms, channels_wakeup_us, native_rtt, (realtime, "realtime_histogram")]


def draw(result, folder, kinds=tuple(TERMINALS)):
    """All plots that the tables of *result* allow. Returns their names."""
    drawn = []
    for entry in PLOTS:
        make, table = entry if isinstance(entry, tuple) else (entry, entry.__name__)
        rows = result["tables"].get(table)
        if rows:
            make(rows).write(folder, make.__name__, kinds)
            drawn.append(make.__name__)
    return drawn
