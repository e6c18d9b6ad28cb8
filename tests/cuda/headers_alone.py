#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compiles each *.cuh header alone, with a host compiler and no toolkit, all warnings as errors.

    headers_alone.py COMPILER INCLUDE_DIR
"""

import pathlib
import subprocess
import sys

FLAGS = "-std=c++20 -fsyntax-only -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror".split()


def main():
    compiler, include = sys.argv[1], pathlib.Path(sys.argv[2])
    errors = 0
    headers = sorted(include.rglob("*.cuh"))
    for path in headers:
        name = path.relative_to(include).as_posix()
        run = subprocess.run([compiler, *FLAGS, "-Wno-unknown-pragmas", f"-I{include}", "-x", "c++",
                              "-include", name, "/dev/null"],
                             capture_output=True, text=True, check=False)
        if run.returncode:
            errors += 1
            print(f"{name}\n{run.stderr}")
    print(f"{len(headers)} headers, {errors} errors")
    return 1 if errors or not headers else 0


if __name__ == "__main__":
    sys.exit(main())
