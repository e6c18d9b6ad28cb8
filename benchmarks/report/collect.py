#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Turns what the benchmark programs printed into one JSON file.

    python3 collect.py --output figures.json --logs FOLDER [--peers peers.json]

FOLDER holds NAME.txt of benchmark_NAME. A figure is a median with its quartiles, in print
"1.03 [0.99, 1.08]"; what stands before it on the line says of what. A program that failed, and a
figure that is not found, is missing in the result, not guessed.
"""

import argparse
import json
import os
import pathlib
import re
import time

NUMBER = r"([\d.]+)"
FIGURE = re.compile(NUMBER + r" \[ *" + NUMBER + r", *" + NUMBER + r"\]")
RATE = re.compile(NUMBER + r"(?: of +" + NUMBER + r")?,? *(GFLOP/s|GB/s|ns a key|us)")
HEADS = r"d= *(?P<head_dim>\d+) heads +(?P<heads>\d+)/(?P<kv_heads>\d+)"
SHAPE = r"\[(?P<q_len>\d+) x (?P<kv_len>\d+)\] " + HEADS

# For each program: what its lines begin with, and the ends of the labels that precede figures.
PROGRAMS = {
    "attention_prefill": (
        re.compile(r"\[ *(?P<q_len>\d+)\] " + HEADS),
        {"share": "share of the roof", "bf16": "float / bfloat16", "f16": "float / float16",
         "dot_share": "share of the dot roof"},
    ),
    "decode": (
        re.compile(r" *(?P<dtype>f32|f16|bf16|q8_0) +(?P<kv_len>\d+) keys"),
        {"warm": r"warm .*", "cold": r"cold .*", "paged": "paged / contiguous time"},
    ),
    "modifier": (
        re.compile(r"\[ *(?P<q_len>\d+), *(?P<kv_len>\d+)\] " + HEADS),
        {"cost": "initial_token / identity", "noise": "identity / identity",
         "bias": "a bias on every logit"},
    ),
    "rescale": (
        re.compile(r"(?P<dtype>float|float16|bfloat16) +\[1, *(?P<heads>\d+), *(?P<q_len>\d+), *"
                   r"(?P<kv_len>\d+)\]"),
        {"share": "share of the roof", "causal": "causal / roof"},
    ),
    "correction": (re.compile(SHAPE), {"percent": "correction in percent of attention"}),
    "backward": (re.compile(SHAPE), {"ratio": "backward / forward"}),
    "threads": (
        re.compile(r"(?P<threads>\d+) threads, (?P<work>prefill|decode) (?P<dtype>\w+) " + SHAPE),
        {"gain": "one thread / all", "share": "share of the read roof of all",
         "roof": "read by one / by all"},
    ),
    "scaling": (
        re.compile(r"(?P<work>prefill|decode) (?P<dtype>\w+) " + SHAPE),
        {"share": "share of the (?:multiply-add|read) roof"},
    ),
    "products": (
        re.compile(r"(?P<library>OpenBLAS|oneDNN) " + SHAPE),
        {"ratio": "products / ours"},
    ),
    "ggml": (
        re.compile(r"(?P<dtype>f32|f16) " + SHAPE),
        {"fused": "fused / ours", "products": "products / ours"},
    ),
}
ROOF = re.compile(r"roofs, one thread: FMA (?P<fma>[\d.]+) GFLOP/s;")
ROOF_SIZE = re.compile(r"(?P<size>\d+ MiB): read " + NUMBER + r" GB/s, in place \(read \+ write\) "
                       + NUMBER)


def number(text):
    return int(text) if text.isdigit() else float(text)


def parse_line(line, begin, labels):
    """The figures of one line: [{case..., "figure": name, median, quartiles, rates}]."""
    match = begin.match(line)
    if not match:
        return []
    case = {k: int(v) if v.isdigit() else v for k, v in match.groupdict().items() if v}
    found, position = [], match.end()
    for figure in FIGURE.finditer(line, position):
        label = line[position:figure.start()].strip(" :;,")
        position = figure.end()
        for name, end in labels.items():
            if re.search("(?:^|[ ;,:])" + end + "$", label):
                median, low, high = (float(x) for x in figure.groups())
                rates = [[float(x) for x in rate.groups()[:2] if x] + [rate.group(3)]
                         for rate in RATE.finditer(label)]
                found.append({**case, "figure": name, "median": median, "quartiles": [low, high],
                              "rates": rates})
                break
    return found


def parse_program(text, name):
    begin, labels = PROGRAMS[name]
    figures = [figure for line in text.splitlines() for figure in parse_line(line, begin, labels)]
    lines = text.splitlines()
    result = {"head": lines[0] if lines else "", "figures": figures,
              "wrong": [line for line in lines if "WRONG RESULT" in line]}
    roof = ROOF.search(text)
    if roof:
        result["roofs"] = {"fma": number(roof["fma"])}
        for size, read, scale in ROOF_SIZE.findall(text):
            result["roofs"][size] = {"read": float(read), "scale": float(scale)}
    return result


def machine():
    """What the goals depend on."""
    cpu, flags = "unknown CPU", set()
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                cpu = value.strip()
            elif key.strip() == "flags":
                flags = set(value.split())
                break
    features = [x for x in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if x in flags]
    return {"cpu": cpu, "cores": os.cpu_count(), "features": features}


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--peers", type=pathlib.Path)
    parser.add_argument("--load", type=float, help="load of the machine before the run")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    programs = {}
    for name in PROGRAMS:
        log = options.logs / f"{name}.txt"
        if log.exists():
            programs[name] = parse_program(log.read_text(encoding="utf-8"), name)
    document = {"schema": "zerotune-benchmarks/1",
                "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), **machine(),
                "load": options.load, "quick": options.quick, "programs": programs}
    if options.peers and options.peers.exists():
        document["peers"] = json.loads(options.peers.read_text(encoding="utf-8"))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    for name, program in programs.items():
        print(f"{name}: {len(program['figures'])} figures")


if __name__ == "__main__":
    main()
