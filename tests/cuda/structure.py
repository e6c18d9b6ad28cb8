#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks the *.cuh headers: the order of the layers, the SPDX line, the length, that intrinsics and the
CUDA runtime are named in their one place only; and that the snippets of docs/cuda.md are compiled.

    structure.py ROOT
"""

import pathlib
import re
import sys

ALLOWED = {"kernel": {"core", "policy", "kernel"}, "apply": {"core", "policy", "kernel", "apply"}}
# The only files that may ask for the toolkit.
DEVICE = {"kernel/cuda/device_context.cuh", "kernel/cuda/cuda_launcher.cuh"}
# No header waits for the device or takes memory of its own.
HIDDEN = re.compile(r"\bcuda(Malloc|Free|Host|\w*Synchronize)\w*")
TOOLKIT = re.compile(r"\bcuda_runtime\.h|\basm\b|__syncthreads|__shfl|threadIdx|blockIdx|"
                     r"\bcuda(Memcpy|Launch|Malloc|Func|Stream|Get)\w*\(|<<<")


def check(root):
    headers = root / "include/zerotune"
    errors = []
    for path in sorted(headers.rglob("*.cuh")):
        name = path.relative_to(headers).as_posix()
        text = path.read_text(encoding="utf-8")
        if not text.startswith("// SPDX-License-Identifier: Apache-2.0\n"):
            errors.append(f"{name}: the first line is not the SPDX line")
        if "#pragma once" not in text:
            errors.append(f"{name}: no #pragma once")
        if text.count("\n") > 400:
            errors.append(f"{name}: more than 400 lines")
        if name not in DEVICE and TOOLKIT.search(text):
            errors.append(f"{name}: names {TOOLKIT.search(text)[0]}")
        if HIDDEN.search(text):
            errors.append(f"{name}: calls {HIDDEN.search(text)[0]}")
        for target in re.findall(r'#include "zerotune/([^"]+)"', text):
            if target.split("/")[0] not in ALLOWED[name.split("/")[0]]:
                errors.append(f"{name}: may not include {target}")
            if not (headers / target).exists():
                errors.append(f"{name}: includes {target}, which does not exist")
    for path in sorted((root / "tests/cuda").rglob("*")):
        if path.suffix not in {".cpp", ".hpp", ".h", ".cu", ".py"}:
            continue
        if "SPDX" not in "".join(path.read_text(encoding="utf-8").splitlines()[:2]):
            errors.append(f"{path.name}: no SPDX line")
    compiled = [part.strip() for path in sorted((root / "tests/cuda").glob("*.cu"))
                for part in path.read_text(encoding="utf-8").split("// [snippet]\n")[1::2]]
    page = (root / "docs/cuda.md").read_text(encoding="utf-8")
    blocks = [block.strip() for block in re.findall(r"```cuda\n(.*?)```", page, re.S)]
    for block in blocks:
        if block not in compiled:
            errors.append(f"docs/cuda.md: not a compiled snippet: {block.splitlines()[0]}")
    if not blocks:
        errors.append("docs/cuda.md: no snippet was found")
    return errors


def main():
    errors = check(pathlib.Path(sys.argv[1]))
    for error in errors:
        print(error)
    print(f"{len(errors)} errors")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
