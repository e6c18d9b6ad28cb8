#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compiles every header alone, twice in one file, with all warnings as errors.

usage: headers_alone.py COMPILER INCLUDE_DIR [--skip REGEX] [-- FLAGS...]
"""

import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys

WARNINGS = "-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror".split()


def main() -> int:
    arguments = sys.argv[1:]
    flags: list[str] = []
    if "--" in arguments:
        at = arguments.index("--")
        arguments, flags = arguments[:at], arguments[at + 1 :]
    compiler, include = arguments[0], pathlib.Path(arguments[1])
    skip = re.compile(arguments[3]) if len(arguments) > 3 and arguments[3] else None
    headers = [
        path.relative_to(include).as_posix() for path in sorted(include.rglob("*.hpp"))
    ]
    skipped = [name for name in headers if skip and skip.search(name)]

    def compile_one(name: str) -> tuple[str, str]:
        command = [compiler, "-std=c++20", "-fsyntax-only", *WARNINGS, f"-I{include}", *flags]
        command += ["-x", "c++", "-"]
        source = f'#include "{name}"\n#include "{name}"\nint main() {{}}\n'
        result = subprocess.run(command, input=source, capture_output=True, text=True)
        return name, result.stderr if result.returncode else ""

    failed = 0
    workers = max(1, min(2, os.cpu_count() or 1))
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        for name, message in pool.map(compile_one, [h for h in headers if h not in skipped]):
            if message:
                failed += 1
                print(f"--- {name} does not compile alone:\n{message[:3000]}")
    print(f"{len(headers) - len(skipped)} headers, {failed} failed, skipped: {skipped}")
    return 1 if failed or len(headers) == len(skipped) else 0


if __name__ == "__main__":
    sys.exit(main())
