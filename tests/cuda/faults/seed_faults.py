#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Seeds faults in the CUDA kernels, one at a time, and runs a small test on the host context: each
fault must make it fail, and the untouched kernels must pass.

    seed_faults.py ROOT WORK_DIR COMPILER [--boost LIBRARY] [--only NAME ...]

A fault is a text edit (faults.txt) whose anchor must be found exactly once, in a copy of one header
that is found before the untouched one.
"""

import argparse
import collections
import concurrent.futures
import pathlib
import shutil
import subprocess
import sys

CASES = {"prefill": 1, "decode": 2, "generic": 3, "rows": 4}  # ZEROTUNE_FAULT_CASE of small.cpp
Fault = collections.namedtuple("Fault", "name case sanitizer header anchor replacement")


def read_faults(path):
    faults = []
    for block in path.read_text(encoding="utf-8").split("\n["):
        title, *lines = block.splitlines()
        if title.startswith("#"):
            continue
        name, case, *sanitizer, header = title.replace("]", "").split()
        changes = ["\n".join(line[2:] for line in lines if line.startswith(sign)) for sign in "-+"]
        faults.append(Fault(name, CASES[case], "".join(sanitizer), header, *changes))
    return faults


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
        header = pathlib.Path("zerotune") / fault.header
        text = (self.root / "include" / header).read_text(encoding="utf-8")
        if text.count(fault.anchor) != 1:
            return f"{fault.name}: the anchor is found {text.count(fault.anchor)} times in {header}"
        copy = self.work / f"headers_{fault.name}"
        (copy / header).parent.mkdir(parents=True)
        (copy / header).write_text(text.replace(fault.anchor, fault.replacement), encoding="utf-8")
        passed, output = self.run(fault.name, fault.case, fault.sanitizer, [copy])
        shutil.rmtree(copy)
        if passed:
            return f"{fault.name}: not found by the tests"
        print(f"found  {fault.name}: {(output or [''])[0][:90]}")
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
    faults = [f for f in read_faults(pathlib.Path(__file__).parent / "faults.txt")
              if not options.only or f.name in options.only]
    for sanitizer in sorted({f.sanitizer for f in faults}):
        builder.scheduler(sanitizer)
    errors = []
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        pairs = sorted({(f.case, f.sanitizer) for f in faults})
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
