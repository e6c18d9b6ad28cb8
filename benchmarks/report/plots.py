#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws the pictures of docs/performance.md from figures.json: roofline, peers, threads, scaling.

    python3 plots.py --figures figures.json --output FOLDER
"""

import argparse
import json
import pathlib
import sys

try:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
except ImportError:
    sys.exit("plots.py: matplotlib is missing (Debian: python3-matplotlib)")

from goals import shape_name

COLOURS = ["#1d5fc4", "#c2410c", "#0f766e", "#7c3aed", "#a16207", "#be185d"]


def figures_of(document, program):
    return document["programs"].get(program, {}).get("figures", [])


def first_rate(figure, unit):
    return next((r[0] for r in figure["rates"] if r[-1] == unit), None)


def save(figure, axes, folder, name):
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(True, alpha=0.25, linewidth=0.6)
    figure.tight_layout()
    # Without a date, so that the same figures give the same file.
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)


def plot_roofline(document, folder):
    """FLOP/s over FLOPs per byte of q, k, v and out: decode left, prefill right."""
    program = document["programs"].get("attention_prefill", {})
    roofs = program.get("roofs")
    if not roofs:
        return
    figure, axis = plt.subplots(figsize=(7, 4.2))
    largest = max((key for key in roofs if key != "fma"), key=lambda key: int(key.split()[0]))
    intensities = [0.5 * 2**i for i in range(14)]
    for bandwidth, style, text in ((roofs[largest]["read"], "-", f"memory, {largest}"),
                                   (roofs["1 MiB"]["read"], ":", "L2, 1 MiB")):
        axis.plot(intensities, [min(roofs["fma"], bandwidth * x) for x in intensities], style,
                  color="#444444", linewidth=1.2,
                  label=f"roof of float: {roofs['fma']:.0f} GFLOP/s; {text}: {bandwidth:.0f} GB/s")

    def points(name, figures, marker, colour):
        if figures:
            axis.plot([x for x, _ in figures], [y for _, y in figures], marker, color=colour,
                      label=name, markersize=5, alpha=0.85)

    def prefill(name, size):
        found = []
        for f in program["figures"]:
            speed = first_rate(f, "GFLOP/s")
            if f["figure"] == name and speed:
                group = f["heads"] / f["kv_heads"]
                # 2 d (Q + 1) FLOPs a row of q; a row of q and out, its share of k and v
                found.append((2 * (f["q_len"] + 1) / (2 + 2 / group) / size, speed))
        return found

    points("prefill f32", prefill("share", 4), "o", COLOURS[0])
    points("prefill bf16", prefill("bf16", 2), "s", COLOURS[1])
    decode = [f for f in figures_of(document, "decode") if f["figure"] == "cold"]
    for dtype, size, marker, colour in (("f32", 4, "^", COLOURS[0]), ("bf16", 2, "v", COLOURS[1])):
        # 4 heads of a group share a key: 16 FLOPs for two elements
        points(f"decode {dtype}, from memory",
               [(8 / size, 8 / size * first_rate(f, "GB/s")) for f in decode
                if f["dtype"] == dtype and first_rate(f, "GB/s")], marker, colour)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xlabel("FLOPs per byte of q, k, v and out")
    axis.set_ylabel("GFLOP/s, one thread")
    axis.legend(fontsize=7, frameon=False)
    save(figure, [axis], folder, "roofline")


def plot_peers(document, folder):
    figures = [f for f in document.get("peers", {}).get("figures", [])
               if f["work"] in ("prefill", "decode")]
    if not figures:
        return
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.6), gridspec_kw={"width_ratios": [1.4, 1]})
    for axis, work in zip(axes, ("prefill", "decode")):
        found = [f for f in figures if f["work"] == work]
        cases = list(dict.fromkeys(f"{f['dtype']} {shape_name(f)}" for f in found))
        peers = list(dict.fromkeys(f["peer"] for f in found))
        height = 0.8 / max(1, len(peers))
        for i, peer in enumerate(peers):
            bars = [(cases.index(f"{f['dtype']} {shape_name(f)}"), f["median"]) for f in found
                    if f["peer"] == peer]
            axis.barh([x + (i - (len(peers) - 1) / 2) * height for x, _ in bars],
                      [y for _, y in bars], height, color=COLOURS[i], label=peer)
        axis.set_yticks(range(len(cases)), cases, fontsize=6.5)
        axis.invert_yaxis()
        axis.axvline(1, color="#444444", linewidth=1)
        if work == "decode":
            axis.set_xscale("log")
        axis.set_xlabel(f"{work}: time of the peer / zerotune's")
        axis.legend(fontsize=7, frameon=False)
    save(figure, axes, folder, "peers")


def plot_threads(document, folder):
    figures = [f for f in figures_of(document, "threads") if f["figure"] == "gain"]
    if not figures:
        return
    figure, axis = plt.subplots(figsize=(6, 3.6))
    most = max(f["threads"] for f in figures)
    axis.plot([1, most], [1, most], "--", color="#444444", linewidth=1, label="linear")
    cases = list(dict.fromkeys((f["work"], f["dtype"], shape_name(f)) for f in figures))
    for i, case in enumerate(cases):
        points = [(1, 1.0)] + [(f["threads"], f["median"]) for f in figures
                               if (f["work"], f["dtype"], shape_name(f)) == case]
        axis.plot(*zip(*points), "o-" if case[0] == "prefill" else "^:",
                  color=COLOURS[i % len(COLOURS)], markersize=4, linewidth=1,
                  label=" ".join(case))
    axis.set_xticks(range(1, most + 1))
    axis.set_xlabel("threads")
    axis.set_ylabel("times the speed of one")
    axis.legend(fontsize=6, frameon=False, ncol=2)
    save(figure, [axis], folder, "threads")


def plot_scaling(document, folder):
    figures = [f for f in figures_of(document, "scaling") if f["figure"] == "share"]
    if not figures:
        return
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6))
    for axis, work, unit, label in ((axes[0], "prefill", "GFLOP/s", "prefill, GFLOP/s"),
                                    (axes[1], "decode", "ns a key", "decode, ns a key")):
        series = {}
        for f in figures:
            value = first_rate(f, unit)
            if f["work"] == work and value:
                series.setdefault((f["dtype"], f["head_dim"]), []).append((f["kv_len"], value))
        for i, ((dtype, head_dim), points) in enumerate(series.items()):
            axis.plot(*zip(*points), "o-", color=COLOURS[i], markersize=4, linewidth=1.2,
                      label=f"{dtype} d={head_dim}")
        axis.set_xscale("log", base=2)
        axis.set_ylim(bottom=0)
        axis.set_xlabel("length")
        axis.set_ylabel(label)
        axis.legend(fontsize=7, frameon=False)
    save(figure, axes, folder, "scaling")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figures", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    options = parser.parse_args()
    matplotlib.rcParams["svg.hashsalt"] = "zerotune"
    document = json.loads(options.figures.read_text(encoding="utf-8"))
    options.output.mkdir(parents=True, exist_ok=True)
    for plot in (plot_roofline, plot_peers, plot_threads, plot_scaling):
        plot(document, options.output)


if __name__ == "__main__":
    main()
