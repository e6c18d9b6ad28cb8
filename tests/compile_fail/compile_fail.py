#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Wrong code does not compile, and the message says why.

Each case is compiled twice: with ZEROTUNE_WRONG it must be rejected with a message that matches
every `// expect: REGEX` line; without it, its twin must compile, so that the rejection is for the
reason that the case is about.

usage: compile_fail.py COMPILER CASE FLAGS...
"""

import os
import pathlib
import re
import subprocess
import sys


def compile_case(command: list[str]) -> tuple[int, str]:
    environment = os.environ | {"LC_ALL": "C"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    return result.returncode, result.stderr


def main() -> int:
    compiler, case, *flags = sys.argv[1:]
    command = [compiler, "-std=c++20", "-fsyntax-only", *flags, case]
    expected = re.findall(r"^// expect: (.*)$", pathlib.Path(case).read_text("utf-8"), re.MULTILINE)
    if not expected:
        sys.exit("the case expects no message")
    status, message = compile_case(command)
    if status != 0:
        sys.exit(f"the right twin does not compile:\n{message[:4000]}")
    status, message = compile_case([*command, "-DZEROTUNE_WRONG"])
    if status == 0:
        sys.exit("the wrong twin compiles")
    for pattern in expected:
        if not re.search(pattern, message):
            sys.exit(f"rejected, but no message matches {pattern!r}:\n{message[:6000]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
