#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Seeds faults in the CUDA kernels, one at a time, and runs a small test on the host context: each
fault must make it fail, and the untouched kernels must pass.

    seed_faults.py ROOT WORK_DIR COMPILER [--boost LIBRARY] [--only NAME ...]

A fault is a text edit whose anchor must be found exactly once, in a copy of one header that is found
before the untouched one.
"""

import argparse
import concurrent.futures
import pathlib
import shutil
import subprocess
import sys

PREFILL, DECODE, GENERIC, ROWS = 1, 2, 3, 4
KERNEL = "include/zerotune/kernel/cuda/"

# name, case, sanitizer ("" or "thread"), file, anchor, replacement
FAULTS = [
    ("swapped_mma_registers", PREFILL, "", KERNEL + "flash.cuh",
     "const std::uint32_t first[2] = {v[0], v[1]}, second[2] = {v[2], v[3]};",
     "const std::uint32_t first[2] = {v[0], v[2]}, second[2] = {v[1], v[3]};"),
    ("missing_barrier_after_values", PREFILL, "thread", KERNEL + "flash.cuh",
     "c.barrier();  // the keys are there, and every warp has left the values", ""),
    ("missing_barrier_before_output", PREFILL, "thread", KERNEL + "flash.cuh",
     "c.barrier();  // every warp has left the values, whose place the output takes", ""),
    ("missing_syncwarp", PREFILL, "thread", KERNEL + "flash.cuh",
     "if (a.partial.splits > 1) return;\n    c.warp_barrier();", "if (a.partial.splits > 1) return;"),
    ("missing_wait_for_copies", PREFILL, "", KERNEL + "flash.cuh",
     "c.template wait_copies<0>();\n      c.barrier();  // the values",
     "c.template wait_copies<1>();\n      c.barrier();  // the values"),
    ("wrong_warp_index", PREFILL, "", KERNEL + "flash.cuh",
     "const int row = c.warp() * 16 + c.lane() % 16, column = step * 16 + c.lane() / 16 * 8;",
     "const int row = c.lane() % 16, column = step * 16 + c.lane() / 16 * 8;"),
    ("too_little_shared_memory", PREFILL, "", KERNEL + "flash.cuh",
     "(2 * tile_keys + (queries_in_registers ? 0 : tile_rows)) * pitch",
     "(2 * tile_keys + (queries_in_registers ? 0 : tile_rows)) * HeadDim"),
    ("tile_tail_off_by_one", PREFILL, "", KERNEL + "flash.cuh",
     "const bool valid = key >= seen_begin_ && key < seen_end_;",
     "const bool valid = key >= seen_begin_ && key < seen_end_ - 1;"),
    ("scores_of_the_tail_not_masked", PREFILL, "", KERNEL + "scores.cuh",
     "return key >= seen_begin && key < seen_end; }",
     "return key >= seen_begin && key <= seen_end; }"),
    ("lse_in_base_two", PREFILL, "", KERNEL + "scores.cuh",
     "maximum * ln_2 + impl::log_of(sum)", "maximum + impl::log_of(sum)"),
    ("lse_in_base_ten", ROWS, "", KERNEL + "softmax.cuh",
     "total.maximum + impl::log_of(total.sum)", "total.maximum + ::log10f(total.sum)"),
    ("gamma_on_the_first_column_of_each_tile", PREFILL, "", KERNEL + "flash.cuh",
     "score(a.modifier, rows_[i / 2], tile + group * 8 + c.lane() % 4 * 2 + i % 2,",
     "score(a.modifier, rows_[i / 2], (group == 0 && c.lane() % 4 * 2 + i % 2 == 0) ? 0 : "
     "tile + group * 8 + c.lane() % 4 * 2 + i % 2,"),
    ("wrong_key_value_head", PREFILL, "", KERNEL + "attention_arguments.cuh",
     "kv_head = first_head / a.group_size;",
     "kv_head = first_head % (shape.num_heads / a.group_size);"),
    ("missed_window_bound", PREFILL, "", "include/zerotune/policy/masks.hpp",
     "return {r.q_pos - size + 1, everywhere.end};", "return {r.q_pos - size, everywhere.end};"),
    ("unmerged_split", DECODE, "", KERNEL + "merge.cuh",
     "if (weight != 0.0f) x += weight",
     "if (weight != 0.0f && split == 0) x += weight"),
    ("merge_forgets_the_maximum", DECODE, "", KERNEL + "merge.cuh",
     "none ? impl::minus_infinity(0.0f) : maximum + impl::log_of(sum);",
     "none ? impl::minus_infinity(0.0f) : impl::log_of(sum);"),
    ("split_overlaps_the_next", DECODE, "", KERNEL + "flash.cuh",
     "end = end < to ? end : static_cast<int>(to);",
     "end = end < to + 1 ? end : static_cast<int>(to + 1);"),
    ("stale_page_index", DECODE, "", KERNEL + "arguments.cuh",
     "const index_t page = table[batch * stride + (position >> shift)];",
     "const index_t page = table[batch * stride];"),
    ("gamma_zero_on_a_row_that_sees_nothing_else", PREFILL, "", KERNEL + "rows.cuh",
     "view.keep_excluded = sees_excluded_only(m, r, view.seen, view.changed);",
     "view.keep_excluded = false;"),
    ("wrong_head_of_a_group", DECODE, "", KERNEL + "attention_arguments.cuh",
     "return first_head + (first_pair + tile_row) % a.heads_per_tile;",
     "return first_head + first_pair % a.heads_per_tile;"),
    ("closed_form_of_the_divisor", ROWS, "", KERNEL + "elementwise.cuh",
     "const float d = (after + rest) / (before + rest);",
     "const float d = 1.0f + (after / before - 1.0f) * before;"),
    ("lse_of_a_lone_token_is_kept", ROWS, "", KERNEL + "output.cuh",
     "if (lse && c.lane() == 0) *lse += bias;", ""),
    ("missing_barrier_in_a_reduction", ROWS, "thread", KERNEL + "softmax.cuh",
     "c.barrier();\n    softmax_state total;", "softmax_state total;"),
    ("generic_forgets_the_former_maximum", GENERIC, "", KERNEL + "attention_generic.cuh",
     "maximum = maximum > state[r].maximum ? maximum : state[r].maximum;", ""),
    ("generic_missing_barrier", GENERIC, "thread", KERNEL + "attention_generic.cuh",
     "c.barrier();  // every warp has left the former chunk and the values", ""),
]


class Builder:
    def __init__(self, options):
        self.root, self.work, self.compiler = options.root, options.work, options.compiler
        self.tests = self.root / "tests/cuda"
        self.boost = options.boost
        self.objects = {}

    def call(self, arguments):
        return subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=600)

    def scheduler(self, sanitizer):
        objects = []
        for name in ("scheduler", "collectives"):
            target = self.work / f"{name}_{sanitizer or 'plain'}.o"
            flags = ["-DZEROTUNE_TEST_TSAN"] if sanitizer == "thread" else []
            flags += ["-DZEROTUNE_TEST_BOOST_CONTEXT"] if self.boost else []
            run = self.call([self.compiler, "-std=c++20", "-O1", f"-I{self.root / 'include'}",
                             f"-I{self.tests}", *flags, "-c",
                             str(self.tests / f"scheduler/{name}.cpp"), "-o", str(target)])
            if run.returncode:
                sys.exit(run.stderr)
            objects.append(str(target))
        self.objects[sanitizer] = objects

    def run(self, name, case, sanitizer, changed=()):
        """True if the small test passes; headers in `changed` stand before the untouched ones."""
        program = self.work / name
        flags = [f"-fsanitize={sanitizer}"] if sanitizer else []
        build = self.call([self.compiler, "-std=c++20", "-O0", "-w", *flags,
                           *(f"-I{folder}" for folder in changed), f"-I{self.root / 'include'}",
                           f"-I{self.tests}", f"-DZEROTUNE_FAULT_CASE={case}",
                           str(self.tests / "faults/small.cpp"), *self.objects[sanitizer], "-o",
                           str(program), *([self.boost] if self.boost else []), "-pthread"])
        if build.returncode:
            sys.exit(f"{name}: does not compile\n{build.stderr[:2000]}")
        run = subprocess.run([str(program)], capture_output=True, text=True, check=False,
                             timeout=600, errors="replace",
                             env={"TSAN_OPTIONS": "halt_on_error=1:symbolize=0"})
        program.unlink()
        return run.returncode == 0, (run.stdout + run.stderr).strip().splitlines()

    def fault(self, fault):
        name, case, sanitizer, file, anchor, replacement = fault
        text = (self.root / file).read_text(encoding="utf-8")
        if text.count(anchor) != 1:
            return f"{name}: the anchor is found {text.count(anchor)} times in {file}"
        copy = self.work / f"headers_{name}"
        header = copy / pathlib.Path(file).relative_to("include")
        header.parent.mkdir(parents=True)
        header.write_text(text.replace(anchor, replacement), encoding="utf-8")
        passed, output = self.run(name, case, sanitizer, [copy])
        shutil.rmtree(copy)
        if passed:
            return f"{name}: not found by the tests"
        print(f"found  {name}: {(output or [''])[0][:90]}")
        return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=pathlib.Path)
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("compiler")
    parser.add_argument("--boost", default="")
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True)
    builder = Builder(options)
    faults = [f for f in FAULTS if not options.only or f[0] in options.only]
    for sanitizer in sorted({f[2] for f in faults}):
        builder.scheduler(sanitizer)
    errors = []
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        pairs = sorted({(f[1], f[2]) for f in faults})
        clean = pool.map(lambda p: (p, builder.run(f"clean_{p[0]}_{p[1] or 'plain'}", *p)), pairs)
        for pair, (passed, output) in clean:
            if not passed:
                errors.append(f"the untouched kernels fail case {pair}: {output[:20]}")
        errors += [e for e in pool.map(builder.fault, faults) if e]
    for error in errors:
        print(error)
    print(f"{len(faults) - len(errors)} of {len(faults)} faults found")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
