#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Translates the PTX that nvcc made into C++ that runs on the fibre scheduler.

    translate.py INPUT.ptx ... --to OUTPUT.cpp ...

One function per kernel, one statement per instruction. The kernels of all inputs, each once, are
spread over the outputs, so that none takes a compiler too much memory. An instruction, state space
or operand that is not known here ends the translation with its line: nothing is guessed.
"""

import argparse
import re
import sys

from instructions import REGISTER, Kernel, Unsupported, split


def translate(source):
    kernels, kernel, header, zero = [], None, "", set()
    for line, text in enumerate(source.splitlines(), 1):
        s = re.sub(r"//.*", "", text).strip()
        match = re.match(r"\.extern \.shared .* (\w+)\[\];", s)
        if match:
            zero.add(match[1])
        match = re.match(r"\.(?:visible|weak) \.entry (\w+)\(", s)
        if match:
            header = match[1]
        match = re.match(r"\.param [^%]*?(\w+)(\[\d+\])?,?$", s)
        if match and kernel is None:
            if not match[1].endswith("_param_0"):
                raise Unsupported(f"line {line}: a second parameter")
            zero.add(match[1])
        if kernel is None:
            if s == "{":
                kernel = Kernel(header, zero)
            continue
        if s == "}":
            kernels.append(kernel)
            kernel = None
            continue
        s = s.removeprefix("{").strip()
        s = s[:-1].strip() if s.endswith(";}") or s.endswith("; }") else s
        if not s or s == "}" or s.startswith((".pragma", ".loc")):
            continue
        match = re.fullmatch(r"\.reg \.(\w+)\s+%(\w+)<(\d+)>;", s)
        if match:
            kernel.registers[match[2]] = (REGISTER[match[1]], match[3])
            continue
        match = re.fullmatch(r"\$(\w+):", s)
        if match:
            kernel.statements.append(f"{match[1]}:;")
            continue
        match = re.fullmatch(r"(?:@(!?)(%p\d+)\s+)?([a-z][\w.]*)\s*(.*?);?", s)
        if not match:
            raise Unsupported(f"line {line}: {s}")
        try:
            statement = kernel.instruction(match[3], split(match[4]), line)
        except Unsupported as error:
            raise Unsupported(f"line {line}: {s}: {error}") from None
        if match[2]:
            statement = f"if ({match[1]}{kernel.register(match[2])}) {{ {statement} }}"
        kernel.statements.append(statement)
    return kernels


def spread(kernels, count):
    """The kernels in `count` lists of about the same number of statements."""
    shares = [[] for _ in range(count)]
    sizes = [0] * count
    for kernel in sorted(kernels, key=lambda k: -len(k.statements)):
        least = sizes.index(min(sizes))
        shares[least].append(kernel)
        sizes[least] += len(kernel.statements)
    return shares


def write(path, kernels):
    with open(path, "w", encoding="utf-8") as file:
        file.write('#include "ptx/runtime.hpp"\n\nnamespace zerotune_ptx {\nnamespace {\n\n')
        for kernel in kernels:
            file.write(kernel.cpp() + "\n")
            file.write(f'const zerotune_test::ptx_registration registration{kernel.name}'
                       f'{{"{kernel.name}", &{kernel.name}}};\n\n')
        file.write("}  // namespace\n}  // namespace zerotune_ptx\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("inputs", nargs="+")
    parser.add_argument("--to", nargs="+", required=True)
    options = parser.parse_args()
    kernels = {}  # by name: kernels of one name are the same, as the linker takes them
    for path in options.inputs:
        with open(path, encoding="utf-8") as file:
            source = file.read()
        try:
            found = translate(source)
        except Unsupported as error:
            sys.exit(f"{path}: {error}")
        if not found:
            sys.exit(f"{path}: no kernel")
        for kernel in found:
            kernels.setdefault(kernel.name, kernel)
    for path, share in zip(options.to, spread(kernels.values(), len(options.to))):
        write(path, share)
    print(f"{len(kernels)} kernels translated")


if __name__ == "__main__":
    main()
