#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes docs/performance.md, the page with the figures of a run.

    python3 page.py --figures figures.json --notes performance_notes.md --output performance.md

The figures come from the run; what explains them is written by hand in the notes, whose parts begin
with a line <!-- NAME --> and go under the heading of that name.
"""

import argparse
import json
import pathlib
import re
import sys

from goals import goals_elsewhere, goals_for, machine_kind, rescale_name, shape_name

TYPES = {"float": "f32", "bfloat16": "bf16", "float16": "f16"}


def read_notes(path):
    parts, name = {}, None
    for line in path.read_text(encoding="utf-8").splitlines():
        begin = re.fullmatch(r"<!-- (\w+) -->", line)
        if begin:
            name = begin[1]
            parts[name] = []
        elif name:
            parts[name].append(line)
    return {key: "\n".join(lines).strip() for key, lines in parts.items()}


def table(head, rows):
    if not rows:
        return "Not measured in this run."
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(x) for x in row) + " |" for row in rows]
    return "\n".join(lines)


def show(value, digits=2):
    return f"{value:.{digits}f}"


def spread(figure, digits=2):
    if figure is None:
        return ""
    low, high = figure["quartiles"]
    return f"{show(figure['median'], digits)} [{show(low, digits)}, {show(high, digits)}]"


def rate(figure, unit, position=0):
    """The position-th rate in that unit which the program printed before the figure."""
    if figure is None:
        return ""
    found = [r for r in figure["rates"] if r[-1] == unit]
    return f"{found[position][0]:.0f}" if position < len(found) else ""


class Figures:
    """Figures of a program, found by what they are of."""

    def __init__(self, document, program):
        self.all = document["programs"].get(program, {}).get("figures", [])

    def find(self, **wanted):
        for figure in self.all:
            if all(figure.get(key) == value for key, value in wanted.items()):
                return figure
        return None

    def cases(self, *keys):
        """The different values of the keys, in the order of the run."""
        return list(dict.fromkeys(tuple(f[key] for key in keys) for f in self.all
                                  if all(key in f for key in keys)))


def goal_limits(goal):
    sign = "at most " if goal.at_most else ""
    stretch = f"{goal.stretch:g}{goal.unit}" if goal.stretch else "the noise"
    return f"{sign}{goal.must:g}{goal.unit}", stretch


def goal_row(goal, document):
    values = goal.select(document)
    must, stretch = goal_limits(goal)
    if not values:
        return [goal.work, must, stretch, "", goal.verdict(values)]
    short = [f"{show(v)} ({name})" if name else show(v) for name, v in values]
    verdict = goal.verdict(values)
    if verdict == "not met":
        reached = sum(v <= goal.must if goal.at_most else v >= goal.must for _, v in values)
        verdict = f"**not met** ({reached} of {len(values)})" if reached else "**not met**"
    return [goal.work, must, stretch, ", ".join(short), verdict]


def goals_section(document):
    head = ["work", "must", "stretch", "figures", ""]
    text = table(head, [goal_row(goal, document) for goal in goals_for(document)])
    other = goals_elsewhere(document)
    if other:
        text += ("\n\nGoals for CPUs of another kind, which this run cannot say anything of: "
                 + "; ".join(f"{goal.work} ({goal.only})" for goal in other) + ".")
    return text


SUMMARY = [  # a goal's work, and what README calls it
    ("fp32 prefill / FMA roof, 2048, d=128", "prefill of 2048 tokens in float: share of the multiply-add roof"),
    ("bf16 prefill / bf16 dot roof, 2048, d=128", "the same in bfloat16: share of the dot products' roof"),
    ("what gamma adds to the fused kernel, beyond the noise", "what gamma adds to attention: percent, beyond the noise"),
    ("with gamma vs SDPA with a mask, from 2048", "PyTorch's attention with gamma in its mask, from 2048"),
    ("vs compiled FlexAttention", "PyTorch's compiled FlexAttention"),
    ("vs vLLM f32, its packing included, from 2048", "vLLM's CPU attention in float, from 2048"),
    ("vs vLLM bf16", "vLLM's CPU attention in bfloat16"),
    ("decode vs vLLM and SGLang, from 4k keys", "vLLM's and SGLang's decode, from 4096 keys"),
    ("backward / forward, with d log gamma", "the backward pass as a multiple of the forward one"),
]


def summary(document):
    """README's table: the range of each goal's figures, and the goal."""
    goals = {goal.work: goal for goal in goals_for(document)}
    rows = []
    for work, name in SUMMARY:
        values = [value for _, value in goals[work].select(document)] if work in goals else []
        if values:
            low, high = show(min(values)), show(max(values))
            rows.append([name, low if low == high else f"{low} to {high}", goal_limits(goals[work])[0]])
    return table([f"one thread of an {document['cpu']}", "measured", "goal"], rows)


def replace_between(path, begin, end, text):
    """The lines between two marks of a file."""
    whole = path.read_text(encoding="utf-8")
    if whole.count(begin) != 1 or whole.count(end) != 1:
        sys.exit(f"page.py: {path}: expected one {begin} and one {end}")
    head, rest = whole.split(begin)
    path.write_text(head + begin + "\n" + text + "\n" + end + rest.split(end)[1], encoding="utf-8")


def machine_section(document):
    kind = machine_kind(document)
    lines = [f"{document['cpu']}, {document['cores']} cores, with "
             + ", ".join(document["features"]) + f"; {document['date']}."]
    if document.get("load") is not None:
        lines[0] += f" Load of the machine before the run: {document['load']:.1f}."
    if document.get("quick"):
        lines.append("A quick run: few shapes and short samples; the figures say little.")
    if kind is None:
        lines.append("The goals for AMX and for AVX512-BF16 do not apply.")
    rows = []
    for name, program in document["programs"].items():
        roofs = program.get("roofs")
        if roofs:
            sizes = [key for key in roofs if key != "fma"]
            rows.append([name, f"{roofs['fma']:.0f}"]
                        + [f"{roofs[s]['read']:.0f}; {roofs[s]['scale']:.0f}" for s in sizes])
            head = ["program", "multiply-add, GFLOP/s"] + [f"{s}: read; in place, GB/s"
                                                           for s in sizes]
    if rows:
        lines.append("\nRoofs, one thread, as each program measured them before its figures:\n")
        lines.append(table(head, rows))
        heads = {p["head"] for p in document["programs"].values()}
        lines.append("\n" + "\n".join(f"    {text}" for text in sorted(heads)))
    return "\n".join(lines)


def prefill_section(document):
    figures = Figures(document, "attention_prefill")
    rows = []
    for q_len, head_dim, heads, kv_heads in figures.cases("q_len", "head_dim", "heads", "kv_heads"):
        case = {"q_len": q_len, "head_dim": head_dim, "heads": heads, "kv_heads": kv_heads}
        share, bf16, dot, f16 = (figures.find(figure=x, **case)
                                 for x in ("share", "bf16", "dot_share", "f16"))
        rows.append([f"{q_len} x {q_len}", head_dim, f"{heads}/{kv_heads}",
                     rate(share, "GFLOP/s"), spread(share), rate(bf16, "GFLOP/s"), spread(bf16),
                     spread(dot), rate(f16, "GFLOP/s"), spread(f16)])
    return table(["queries x keys", "head_dim", "heads", "f32, GFLOP/s", "share of the roof",
                  "bf16, GFLOP/s", "f32 / bf16", "bf16, share of the dot roof", "f16, GFLOP/s",
                  "f32 / f16"], rows)


def peer_rows(document, work, dtype, peers, name):
    found = {}
    for f in document.get("peers", {}).get("figures", []):
        if f["work"] == work and f["dtype"] == dtype:
            found.setdefault(name(f), {})[f["peer"]] = f
    for f in document.get("peers", {}).get("skipped", []):
        if f["work"] == work and f.get("dtype") == dtype:
            found.setdefault(name(f), {}).setdefault(f["peer"], "skipped")
    rows = []
    for key, by_peer in found.items():
        cells = [by_peer.get(peer) for peer in peers]
        rows.append([key] + [c if isinstance(c, str) else spread(c) for c in cells])
    return rows


def peers_section(document):
    if "peers" not in document:
        return "Not measured in this run (`--peers`)."
    peers = document["peers"]
    parts = [f"PyTorch {peers['torch']}; zerotune through its C interface, kernels for "
             f"{peers['zerotune']}."]
    for title, work, dtype, names, label in (
            ("Prefill, f32", "prefill", "f32",
             ["SDPA causal", "SDPA with mask", "FlexAttention", "vLLM"], shape_name),
            ("Prefill, bf16", "prefill", "bf16", ["SDPA causal", "vLLM"], shape_name),
            ("Decode, f32", "decode", "f32", ["SDPA", "vLLM"], shape_name),
            ("Decode, bf16", "decode", "bf16", ["SDPA", "vLLM", "SGLang"], shape_name),
            ("Decode, f16", "decode", "f16", ["SDPA", "vLLM", "SGLang"], shape_name),
            ("Rescaling weights", "rescale", "f32", ["mul_ and F.normalize", "the same, out="],
             rescale_name)):
        rows = peer_rows(document, work, dtype, names, label)
        if rows:
            parts.append(table([title] + names, rows))
    figures = Figures(document, "ggml")
    rows = []
    for dtype, q_len, kv_len, head_dim, heads, kv_heads in figures.cases(
            "dtype", "q_len", "kv_len", "head_dim", "heads", "kv_heads"):
        case = {"dtype": dtype, "q_len": q_len, "kv_len": kv_len, "head_dim": head_dim,
                "heads": heads, "kv_heads": kv_heads}
        rows.append([f"{dtype} {shape_name(case)}"]
                    + [spread(figures.find(figure=x, **case)) for x in ("fused", "products")])
    if rows:
        parts.append(table(["ggml", "its fused operator", "two products and a softmax"], rows))
    figures = Figures(document, "products")
    libraries = [x for (x,) in figures.cases("library")]
    rows = []
    for q_len, head_dim, heads, kv_heads in figures.cases("q_len", "head_dim", "heads", "kv_heads"):
        case = {"q_len": q_len, "head_dim": head_dim, "heads": heads, "kv_heads": kv_heads}
        rows.append([shape_name(case)] + [spread(figures.find(library=x, **case))
                                          for x in libraries])
    if rows:
        parts.append(table(["products and our softmax, f32"] + libraries, rows))
    host = [f for f in peers["figures"] if f["work"] == "host"]
    if host:
        parts.append(table(
            ["reference host, SmolLM2-135M, next-token logits of 8 prompts of 64 tokens",
             "tokens/s", "transformers fp32, tokens/s", "their time / ours"],
            [[f"{f['dtype']} ({f['product']})", f"{512 / f['seconds'][1]:.0f}",
              f"{512 / f['seconds'][0]:.0f}", spread(f)] for f in host]))
    skipped = sorted({f"{f['peer']} ({f['work']}{' ' + f['dtype'] if 'dtype' in f else ''}): "
                      f"{f['reason']}" for f in peers["skipped"]})
    if skipped:
        parts.append("Skipped:\n\n" + "\n".join(f"- {text}" for text in skipped))
    return "\n\n".join(parts)


def decode_section(document):
    figures = Figures(document, "decode")
    rows = []
    for (kv_len,) in figures.cases("kv_len"):
        row = [f"{kv_len // 1024}k"]
        for dtype in ("f32", "bf16", "f16", "q8_0"):
            warm, cold = (figures.find(figure=x, dtype=dtype, kv_len=kv_len)
                          for x in ("warm", "cold"))
            row.append(f"{rate(warm, 'GB/s')}; {spread(warm)} / {spread(cold)}"
                       if warm and cold else "")
        paged = figures.find(figure="paged", dtype="f32", kv_len=kv_len)
        rows.append(row + [spread(paged)])
    return table(["keys", "f32: GB/s; share warm / cold", "bf16", "f16", "q8_0",
                  "pages / contiguous, f32"], rows)


def rescale_section(document):
    figures = Figures(document, "rescale")
    rows = []
    for heads, q_len, kv_len in figures.cases("heads", "q_len", "kv_len"):
        case = {"heads": heads, "q_len": q_len, "kv_len": kv_len}
        cells = [spread(figures.find(figure="share", dtype=x, **case)) for x in TYPES]
        rows.append([rescale_name(case)] + cells
                    + [spread(figures.find(figure="causal", dtype="float", **case))])
    return table(["[batch, heads, queries, keys]", "f32", "bf16", "f16", "f32, causal"], rows)


def modifier_section(document):
    figures = Figures(document, "modifier")
    rows = []
    for q_len, kv_len, head_dim, heads, kv_heads in figures.cases(
            "q_len", "kv_len", "head_dim", "heads", "kv_heads"):
        case = {"q_len": q_len, "kv_len": kv_len, "head_dim": head_dim, "heads": heads,
                "kv_heads": kv_heads}
        cells = [spread(figures.find(figure=x, **case), 3) for x in ("cost", "noise", "bias")]
        rows.append([f"{q_len} x {kv_len}, {head_dim}, {heads}/{kv_heads}"] + cells)
    return table(["queries x keys, head_dim, heads", "with gamma / without", "without / without",
                  "a bias on every logit / without"], rows)


def correction_section(document):
    figures = Figures(document, "correction")
    rows = [[f"{f['q_len']} x {f['kv_len']}", f["head_dim"], f"{f['heads']}/{f['kv_heads']}",
             spread(f, 3)] for f in figures.all]
    return table(["queries x keys", "head_dim", "heads", "percent of attention's time"], rows)


def backward_section(document):
    figures = Figures(document, "backward")
    rows = [[f"{f['q_len']} x {f['kv_len']}", f["head_dim"], f"{f['heads']}/{f['kv_heads']}",
             rate(f, "GFLOP/s"), rate(f, "GFLOP/s", 1), spread(f)] for f in figures.all]
    return table(["queries x keys", "head_dim", "heads", "forward, GFLOP/s", "backward, GFLOP/s",
                  "backward / forward"], rows)


def threads_section(document):
    figures = Figures(document, "threads")
    rows = []
    for threads, work, dtype, q_len, kv_len, head_dim, heads, kv_heads in figures.cases(
            "threads", "work", "dtype", "q_len", "kv_len", "head_dim", "heads", "kv_heads"):
        case = {"threads": threads, "work": work, "dtype": dtype, "q_len": q_len, "kv_len": kv_len,
                "head_dim": head_dim, "heads": heads, "kv_heads": kv_heads}
        cells = [spread(figures.find(figure=x, **case)) for x in ("gain", "share", "roof")]
        rows.append([threads, f"{work} {dtype}", f"{q_len} x {kv_len}", head_dim,
                     f"{heads}/{kv_heads}"] + cells)
    return table(["threads", "", "queries x keys", "head_dim", "heads", "one thread / all",
                  "share of the read roof of all", "plain read: one thread / all"], rows)


def scaling_section(document):
    figures = Figures(document, "scaling")
    rows = []
    for (length,) in figures.cases("kv_len"):
        row = [length]
        for dtype, head_dim in (("f32", 128), ("f32", 64), ("bf16", 128)):
            row.append(rate(figures.find(work="prefill", dtype=dtype, head_dim=head_dim,
                                         kv_len=length), "GFLOP/s"))
        for dtype in ("f32", "bf16"):
            f = figures.find(work="decode", dtype=dtype, kv_len=length)
            keys = [r for r in f["rates"] if r[-1] == "ns a key"] if f else []
            row.append(f"{keys[0][0]:.1f}" if keys else "")
        rows.append(row)
    return table(["length", "prefill f32, d=128, GFLOP/s", "f32, d=64", "bf16, d=128",
                  "decode f32, 32/8 heads, d=128, ns a key", "bf16"], rows)


SECTIONS = [  # name of the notes' part, heading, tables, pictures
    ("machine", "The machine", machine_section, []),
    ("prefill", "Prefill", prefill_section, [("roofline", "Share of the roofs over the arithmetic "
                                                          "intensity")]),
    ("peers", "Beside others", peers_section, [("peers", "Time of others over zerotune's")]),
    ("decode", "Decode", decode_section, []),
    ("rescale", "Rescaling weights in place", rescale_section, []),
    ("modifier", "The modifier in fused attention", modifier_section, []),
    ("correction", "Correcting an output", correction_section, []),
    ("backward", "The backward pass", backward_section, []),
    ("threads", "Threads", threads_section, [("threads", "Speed over the number of threads")]),
    ("scaling", "Over the length", scaling_section, [("scaling", "Speed over the length")]),
]


def write_page(document, notes, pictures):
    parts = ["<!-- Written by benchmarks/run.sh: the figures from docs/performance/figures.json, "
             "the text from docs/performance_notes.md. Edit there. -->\n\n# Performance",
             notes.get("introduction", ""), "## Goals", notes.get("goals", ""),
             goals_section(document)]
    for name, heading, tables, plots in SECTIONS:
        parts += [f"## {heading}"]
        for part in (notes.get(name, ""), tables(document)):
            parts += [part] if part else []
        parts += [f"![{text}](performance/{plot}.svg)" for plot, text in plots
                  if (pictures / f"{plot}.svg").exists()]
        after = notes.get(f"{name}_after", "")
        parts += [after] if after else []
    return "\n\n".join(part for part in parts if part) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figures", type=pathlib.Path, required=True)
    parser.add_argument("--notes", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--readme", type=pathlib.Path,
                        help="a page whose short table, between two marks, is replaced too")
    options = parser.parse_args()
    document = json.loads(options.figures.read_text(encoding="utf-8"))
    if document.get("schema") != "zerotune-benchmarks/1":
        sys.exit(f"page.py: {options.figures}: expected the schema zerotune-benchmarks/1")
    notes = read_notes(options.notes)
    unused = set(notes) - {"introduction", "goals"} - {s[0] for s in SECTIONS} - {
        s[0] + "_after" for s in SECTIONS}
    if unused:
        sys.exit(f"page.py: {options.notes}: no section of the name {', '.join(sorted(unused))}")
    options.output.write_text(write_page(document, notes, options.figures.parent), encoding="utf-8")
    if options.readme:
        replace_between(options.readme, "<!-- speed -->", "<!-- /speed -->", summary(document))


if __name__ == "__main__":
    main()
