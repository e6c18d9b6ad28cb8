#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compiles a translation unit for one architecture and finds every weak symbol tagged.

An untagged inline function compiled with AVX-512 in one translation unit and with SSE2 in another is
one weak symbol, and the linker may keep the wrong one (docs/design.md, "One definition").

Without optimisation xsimd's own functions stay behind as well. They are told apart by the
architecture in their types, so each must name one, and one of the translation unit's own family:
--xsimd REGEX. With optimisation nothing may stay.

usage: symbols.py COMPILER NM SOURCE OUTPUT [--xsimd REGEX] FLAGS...
"""

import re
import subprocess
import sys

# Made by the compiler, the same whatever the instruction set: the address of the personality
# routine, and the call of std::terminate that ends a noexcept function.
COMPILER_MADE = {"DW.ref.__gxx_personality_v0", "__clang_call_terminate"}
# Constants: data without code.
CONSTANTS = {"zerotune::everywhere"}


def typed_by(family: str, name: str) -> bool:
    """A function of xsimd, all of whose architectures match."""
    named = re.findall(r"\bxsimd::(?:types::simd_)?((?:s?sse\d|avx|fma\d)\w*)", name)
    return bool(named) and all(re.fullmatch(family, architecture) for architecture in named)


def main() -> int:
    compiler, nm, source, output, *flags = sys.argv[1:]
    family = None
    if flags[0] == "--xsimd":
        family, flags = flags[1], flags[2:]
    subprocess.run([compiler, "-std=c++20", *flags, "-c", source, "-o", output], check=True)
    symbols = subprocess.run(
        [nm, "-C", "--defined-only", output], check=True, capture_output=True, text=True
    ).stdout
    weak, untagged, tags = 0, [], set()
    for line in symbols.splitlines():
        match = re.match(r"^[0-9a-f]* ([A-Za-z]) (.*)$", line)
        if not match or match[1] not in "WVu":
            continue
        name = match[2]
        weak += 1
        found = re.findall(r"\bzt_([a-z0-9_]+)::", name)
        tags.update(found)
        if found or name in COMPILER_MADE | CONSTANTS or (family and typed_by(family, name)):
            continue
        untagged.append(name)
    for name in sorted(set(untagged)):
        print(f"untagged: {name}")
    print(f"{weak} weak symbols, {len(set(untagged))} untagged, tags {sorted(tags)}")
    if len(tags) > 1:
        print("more than one tag in one translation unit")
    return 1 if untagged or len(tags) > 1 else 0


if __name__ == "__main__":
    sys.exit(main())
