#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Seeds one fault into a copy of the headers, rebuilds the probe and sees it fail.

A test that cannot fail proves nothing. Each fault is a list of edits (file, anchor, replacement); an
anchor that is not found exactly once is an error, so that a fault cannot silently stop applying. The
probe must compile, and the check named by `caught_by` must be among those that fail.

usage: faults.py list | faults.py NAME --compiler CXX --include DIR --work DIR [--simd FLAGS...]
"""

import argparse
import pathlib
import re
import shutil
import subprocess
import sys

WEIGHTS = "kernel/weights_row.hpp"
ATTENTION = "kernel/attention_row.hpp"
PROBLEM = "kernel/attention_problem.hpp"

# name: (needs simd, caught by, edits)
FAULTS: dict[str, tuple[bool, str, list[tuple[str, str, str]]]] = {
    # 1 + (gamma - 1) a_0 in float cancels where a_0 is near 1.
    "divisor_from_the_closed_form": (
        False,
        "weights: a small gamma on a large sink",
        [
            (
                WEIGHTS,
                "const double kept = former + rest, scaled = former * factor + rest;",
                "const float a_0 = static_cast<float>(former);\n"
                "  const float gamma = static_cast<float>(factor);\n"
                "  const double kept = 1.0, scaled = double{1.0f + (gamma - 1.0f) * a_0};",
            )
        ],
    ),
    "column_zero_under_left_padding": (
        False,
        "left padding",
        [
            (
                "policy/initial_token.hpp",
                "return positions_.data() ? positions_(batch) : 0;",
                "return positions_.data() ? index_t{0} * positions_(batch) : 0;",
            )
        ],
    ),
    "unselected_heads_renormalised": (
        False,
        "weights: an unselected head keeps every bit",
        [
            (
                "policy/initial_token.hpp",
                "return {initial, gamma(r.head) == 1.0f ? initial : initial + 1};",
                "return {initial, initial + 1};",
            ),
            (
                "policy/initial_token.hpp",
                "return kv.contains(initial) && gamma(head.head) != 1.0f ?",
                "return kv.contains(initial) ?",
            ),
            (WEIGHTS, "|| factor == 1.0 || former == 0.0) return;", "|| former == 0.0) return;"),
            (
                WEIGHTS,
                "const double kept = former + rest, scaled = former * factor + rest;",
                "const double kept = factor != 1.0 ? former + rest : 1.0,\n"
                "               scaled = former * factor + rest;",
            ),
        ],
    ),
    "key_value_head_under_grouped_heads": (
        False,
        "attention: grouped heads",
        [
            (
                PROBLEM,
                "const index_t kv_head = head / p.group_size();",
                "const index_t kv_head = head % p.num_kv_heads();",
            )
        ],
    ),
    "masked_initial_token_modified": (
        False,
        "weights: masked initial token",
        [
            (
                WEIGHTS,
                "const range changed = intersect(changed_keys(m, r), seen);",
                "const range changed = changed_keys(m, r);",
            ),
            (WEIGHTS, "if (changed.empty() || m.effect(", "if (changed.empty() && m.effect("),
        ],
    ),
    "overflow_at_a_large_gamma": (
        False,
        "attention: gamma 1e38",
        [
            (
                "policy/limits.hpp",
                "const Real value = log_of(static_cast<Real>(gamma));",
                "const Real value = log_of(static_cast<Real>(gamma * gamma)) / Real(2);",
            )
        ],
    ),
    "swapped_strides_of_the_keys": (
        False,
        "attention: grouped heads",
        [
            (
                PROBLEM,
                "p.k.pointer(batch, kv_head, 0, 0), p.k.stride(2), p.k.stride(3),",
                "p.k.pointer(batch, kv_head, 0, 0), p.k.stride(3), p.k.stride(2),",
            )
        ],
    ),
    "gamma_zero_alone_is_excluded": (
        False,
        "attention: gamma 0 and nothing else in view",
        [
            (
                ATTENTION,
                "if (state.count > 0 && state.maximum <= zero_threshold<acc>)",
                "if (state.count < 0)",
            )
        ],
    ),
    "lse_without_the_maximum": (
        False,
        "attention: grouped heads",
        [(ATTENTION, "state.maximum + log_of(state.sum)", "log_of(state.sum)")],
    ),
    "running_sums_not_rescaled": (
        False,
        "attention: a maximum that rises late",
        [
            (
                ATTENTION,
                "if (state.count > 0 && state.maximum != former)",
                "if (state.count < 0 && state.maximum != former)",
            )
        ],
    ),
    "causal_mask_off_by_one": (
        False,
        "attention: grouped heads",
        [
            (
                "policy/masks.hpp",
                "return {everywhere.begin, r.q_pos + 1};",
                "return {everywhere.begin, r.q_pos + 2};",
            )
        ],
    ),
    "tail_lane_of_the_values_skipped": (
        True,
        "simd: attention: every tail",
        [
            (
                "kernel/simd/decode.hpp",
                "weights, values, count, c, dim - c, out + c, out_row,",
                "weights, values, count, c, dim - c - 1, out + c, out_row,",
            )
        ],
    ),
    "tail_lane_of_the_weights_skipped": (
        True,
        "simd: weights: the selected head",
        [
            (
                "kernel/simd/scale.hpp",
                "last.scale_to(x + count - size, f);",
                "static_cast<void>(last);",
            )
        ],
    ),
}


def seed(include: pathlib.Path, edits: list[tuple[str, str, str]]) -> None:
    for name, anchor, replacement in edits:
        path = include / "zerotune" / name
        text = path.read_text(encoding="utf-8")
        # White space may be laid out anew without the fault being another one.
        pattern = r"\s+".join(re.escape(word) for word in anchor.split())
        found = re.findall(pattern, text)
        if len(found) != 1:
            sys.exit(f"{name}: the anchor is there {len(found)} times, not once: {anchor}")
        path.write_text(re.sub(pattern, lambda _: replacement, text), encoding="utf-8")


def main() -> int:
    if sys.argv[1:] == ["list"]:
        print("\n".join(f"{name}{':simd' if FAULTS[name][0] else ''}" for name in FAULTS))
        return 0
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=["none", *FAULTS])
    parser.add_argument("--compiler", required=True)
    parser.add_argument("--include", required=True, type=pathlib.Path)
    parser.add_argument("--work", required=True, type=pathlib.Path)
    parser.add_argument("--simd", nargs=argparse.REMAINDER, default=[])
    options = parser.parse_args()

    work = options.work / options.name
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(options.include, work / "include")
    needs_simd, caught_by, edits = FAULTS.get(options.name, (False, "", []))
    seed(work / "include", edits)

    flags = options.simd if needs_simd or options.name == "none" else []
    probe = pathlib.Path(__file__).with_name("probe.cpp")
    subprocess.run(
        [options.compiler, "-std=c++20", "-O1", f"-I{work / 'include'}", *flags]
        + [str(probe), "-o", str(work / "probe")],
        check=True,
    )
    result = subprocess.run([work / "probe"], capture_output=True, text=True)
    lines = sorted(set(result.stdout.splitlines()))
    print("\n".join(lines))
    if options.name == "none":
        print(f"untouched: exit status {result.returncode}")
        return 0 if result.returncode == 0 else 1
    caught = result.returncode < 0 or any(caught_by in line for line in lines)
    print(f"{options.name}: exit status {result.returncode}, {'caught' if caught else 'NOT CAUGHT'}")
    return 0 if result.returncode != 0 and caught else 1


if __name__ == "__main__":
    sys.exit(main())
