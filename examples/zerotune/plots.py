#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Pictures of what `zerotune tune` and `zerotune analyze` wrote, as PNG and SVG, with matplotlib.

    python3 plots.py --output DIR [--profile P.json] [--analysis A.json]

Writes heads, curves, descent (of a profile), attention, sweep, groups, positions and key_form (of an
analysis) to DIR, each as .png and .svg. `zerotune report` needs none of this.
"""

import argparse
import json
import math
import pathlib
import sys

try:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.colors import TwoSlopeNorm
except ImportError:
    sys.exit("plots.py: matplotlib is missing (Debian: python3-matplotlib)")

COLOURS = ["#1d5fc4", "#c2410c", "#0f766e", "#7c3aed", "#a16207", "#be185d"]


def read(name, schema):
    try:
        with open(name, encoding="utf-8") as file:
            document = json.load(file)
    except (OSError, ValueError) as error:
        sys.exit(f"plots.py: {name}: {error}")
    if not isinstance(document, dict) or document.get("schema") != schema:
        sys.exit(f"plots.py: {name}: expected the schema {schema}")
    return document


def plain(text):
    """A text of a file as matplotlib should show it: without its mathematics."""
    return str(text).replace("$", r"\$")


def save(figure, folder, name):
    for suffix in ("png", "svg"):
        figure.savefig(folder / f"{name}.{suffix}", dpi=150, bbox_inches="tight")
    plt.close(figure)
    print(folder / f"{name}.png")


def gamma_axis(axes):
    """Logarithmic, with its numbers as they are."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def heat_map(axes, table, title, colours, norm):
    image = axes.imshow(table, aspect="auto", cmap=colours, norm=norm, interpolation="nearest")
    axes.set(title=title, xlabel="head", ylabel="layer")
    axes.figure.colorbar(image, ax=axes, shrink=0.8)


def around(table, middle):
    """Colours that part at `middle`, as strong on both sides."""
    reach = max((abs(value - middle) for row in table for value in row), default=0) or 1.0
    return TwoSlopeNorm(middle, middle - reach, middle + reach)


def plot_heads(profile, analysis, folder):
    maps = []
    if profile:
        # Gamma counts by its logarithm; a gamma of 0 as 1/64.
        table = [[math.log2(max(value, 1 / 64)) for value in row] for row in profile["gamma"]]
        maps.append((table, "log2 of the chosen gamma", "RdBu_r", around(table, 0)))
        if "gradient" in profile:
            table = [[-value for value in row] for row in profile["gradient"]["mean"]]
            maps.append((table, "-d loss / d log gamma", "RdBu_r", around(table, 0)))
    if analysis:
        if not (profile and "gradient" in profile):
            kind = "loss" if "loss" in analysis["heads"] else "entropy"
            table = [[-value for value in row] for row in analysis["heads"][kind]["mean"]]
            maps.append((table, f"-d {kind} / d log gamma", "RdBu_r", around(table, 0)))
        maps.append((analysis["sink_mass"], "sink mass", "viridis", plt.Normalize(0, 1)))
    figure, axes = plt.subplots(1, len(maps), figsize=(4.2 * len(maps), 6), squeeze=False)
    for place, (table, title, colours, norm) in zip(axes[0], maps):
        heat_map(place, table, title, colours, norm)
    figure.tight_layout()
    save(figure, folder, "heads")


def plot_candidates(profile, folder):
    """Both scores of the candidates: by gamma where they come from a grid, else by strength."""
    scored = [c for c in profile.get("candidates", []) if "scores" in c]
    grid = [c for c in scored if "gamma" in c]
    if not scored:
        return
    by_gamma = len(grid) > 2
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    for place, score in zip(axes, ("likelihood", "generated")):
        methods = sorted({c["method"] for c in (grid if by_gamma else scored)})
        for index, method in enumerate(methods):
            chosen = [c for c in (grid if by_gamma else scored) if c["method"] == method]
            x = [max(c["gamma"], 1 / 64) if by_gamma else c["strength"] for c in chosen]
            y = [c["scores"][score] for c in chosen]
            bounds = [c["scores"].get(f"{score}_interval", [v, v]) for c, v in zip(chosen, y)]
            # Rounding may put a share a bit outside its interval.
            errors = [[max(0, v - b[0]) for v, b in zip(y, bounds)],
                      [max(0, b[1] - v) for v, b in zip(y, bounds)]]
            place.errorbar(x, y, errors, fmt="o", markersize=4, capsize=2, linewidth=1,
                           color=COLOURS[index % len(COLOURS)], label=plain(method))
        if by_gamma:
            gamma_axis(place)
        place.set(title=score, ylim=(0, 1), xlabel="gamma" if by_gamma else
                  "strength: root mean square of log gamma")
        place.grid(alpha=0.3)
    axes[0].set_ylabel("accuracy on the search split [95%]")
    axes[1].legend(frameon=False)
    save(figure, folder, "curves")


def plot_descent(profile, folder):
    steps = profile.get("descent", [])
    if not steps:
        return
    figure, axes = plt.subplots(figsize=(5, 3.5))
    axes.plot([s["step"] for s in steps], [s["loss"] for s in steps], "o-", color=COLOURS[0])
    axes.set(title="Descent", xlabel="step", ylabel="loss of its rows")
    axes.grid(alpha=0.3)
    save(figure, folder, "descent")


def add_measured(axes, name, measured, untouched, quantity, colour):
    """One curve over gamma; its bars are intervals of the change from the untouched model."""
    base = untouched[quantity]
    points = [(max(m["gamma"], 1 / 64), m[quantity], m[f"{quantity}_change"]) for m in measured]
    if all(m["gamma"] != 1 for m in measured):
        points.append((1.0, base, [0.0, 0.0]))
    points.sort(key=lambda point: point[0])
    y = [point[1] for point in points]
    errors = [[max(0, v - base - change[0]) for v, (_, _, change) in zip(y, points)],
              [max(0, base + change[1] - v) for v, (_, _, change) in zip(y, points)]]
    axes.errorbar([point[0] for point in points], y, errors, fmt="o-", markersize=4, capsize=2,
                  linewidth=1.2, color=colour, label=plain(name))


def plot_measured(analysis, folder, name, curves):
    quantities = [q for q in ("loss", "entropy") if q in analysis["untouched"]]
    figure, axes = plt.subplots(1, len(quantities), figsize=(5 * len(quantities), 3.8),
                                squeeze=False)
    for place, quantity in zip(axes[0], quantities):
        for index, (label, measured) in enumerate(curves):
            add_measured(place, label, measured, analysis["untouched"], quantity,
                         COLOURS[index % len(COLOURS)])
        gamma_axis(place)
        place.set(xlabel="gamma", ylabel=f"{quantity}, nats")
        place.grid(alpha=0.3)
    axes[0][0].legend(frameon=False)
    figure.tight_layout()
    save(figure, folder, name)


def mean(rows):
    values = [value for row in rows for value in row]
    return sum(values) / len(values)


def plot_attention(analysis, folder):
    """Entropy of attention by layer group, own gamma and gamma on all heads."""
    gammas = [max(gamma, 1 / 64) for gamma in analysis["gammas"]]
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True)
    kinds = (("own", "that head's gamma alone"), ("all_heads", "gamma on all heads"))
    for place, (kind, title) in zip(axes, kinds):
        for index, group in enumerate(analysis["groups"]):
            layers = slice(group["first_layer"], group["last_layer"] + 1)
            values = [mean(table[layers]) for table in analysis["attention_entropy"][kind]]
            place.plot(gammas, values, "o-", markersize=4, color=COLOURS[index],
                       label=plain(group["name"]))
        gamma_axis(place)
        place.set(title=title, xlabel="gamma")
        place.grid(alpha=0.3)
    axes[0].set_ylabel("mean entropy of attention, nats")
    axes[1].legend(frameon=False)
    save(figure, folder, "attention")


def plot_key_form(analysis, folder):
    """Effective gamma of each head, sorted: what one factor per key makes of one gamma."""
    forms = analysis.get("key_form", [])
    if not forms:
        return
    figure, axes = plt.subplots(1, len(forms), figsize=(5.5 * len(forms), 4), squeeze=False)
    for place, form in zip(axes[0], forms):
        flat = {key: [value for row in rows for value in row]
                for key, rows in form["spread"].items()}
        order = sorted(range(len(flat["least"])), key=lambda i: flat["greatest"][i] /
                       max(flat["least"][i], 1e-300))
        x = range(len(order))
        place.fill_between(x, [flat["least"][i] for i in order],
                           [flat["greatest"][i] for i in order], alpha=0.3, color=COLOURS[0],
                           linewidth=0, label="least to greatest of the queries")
        place.plot(x, [flat["median"][i] for i in order], ".", markersize=3, color=COLOURS[0],
                   label="median")
        place.axhline(form["gamma"], color=COLOURS[1], linewidth=1, label="the logits form")
        place.set_yscale("log")
        place.set_ylim(form["gamma"] / 1000, form["gamma"] * 1000)  # a few heads go far beyond
        place.set(title=f"key form for gamma = {form['gamma']:g}", xlabel="heads, by their spread",
                  ylabel="effective gamma")
    axes[0][0].legend(frameon=False, loc="upper left")
    figure.tight_layout()
    save(figure, folder, "key_form")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", help="tuning profile, as `zerotune tune` writes it")
    parser.add_argument("--analysis", help="as `zerotune analyze` writes it")
    parser.add_argument("--output", required=True, type=pathlib.Path, help="folder to write to")
    options = parser.parse_args()
    if not options.profile and not options.analysis:
        parser.error("expected --profile, --analysis or both")
    profile = read(options.profile, "zerotune-profile") if options.profile else None
    analysis = read(options.analysis, "zerotune-analysis") if options.analysis else None
    options.output.mkdir(parents=True, exist_ok=True)
    plot_heads(profile, analysis, options.output)
    if profile:
        plot_candidates(profile, options.output)
        plot_descent(profile, options.output)
    if analysis:
        plot_attention(analysis, options.output)
        plot_measured(analysis, options.output, "sweep", [("all heads", analysis["sweep"])])
        plot_measured(analysis, options.output, "groups",
                      [(g["name"], g["measured"]) for g in analysis["groups"]])
        plot_measured(analysis, options.output, "positions",
                      [(p["name"], p["measured"]) for p in analysis["positions"]])
        plot_key_form(analysis, options.output)


if __name__ == "__main__":
    main()
