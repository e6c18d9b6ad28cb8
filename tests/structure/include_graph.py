#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks that the headers keep the order of the layers (docs/design.md, section 3).

Also: a third-party library is included only by the part that is named after it, the umbrella
reaches every header of the core and none of a third party, there are no cycles, no header is longer
than 400 lines, and macros of the instruction set are asked for in core/config.hpp and kernel/ only.
"""

import pathlib
import re
import sys

LAYERS = {
    "core": {"core"},
    "policy": {"core", "policy"},
    "kernel": {"core", "policy", "kernel"},
    "apply": {"core", "policy", "kernel", "apply"},
    "analysis": {"core", "policy", "apply", "analysis"},
    "tuning": {"core", "policy", "analysis", "tuning"},
    "interop": {"core", "policy", "apply", "tuning", "interop"},
}
# interop/eigen.hpp and the like bring their back end with them.
EXCEPTIONS = {("interop/eigen.hpp", "kernel/eigen")}

# Headers with a dependency, and what they may include of it.
THIRD_PARTY = {
    r"kernel/simd/": r"xsimd/",
    r"(kernel|interop)/eigen": r"(unsupported/)?Eigen/",
    r"tuning/json": r"nlohmann/",
    r"interop/openmp": r"omp\.h$",
    r"core/instruction_set": r"(cpuid|unistd|sys/syscall)\.h$",  # asks the CPU and the system
}
# Parts that the umbrella leaves out.
OPTIONAL = re.compile(r"^(core/instruction_set|kernel/(simd|eigen|cuda)/|apply/cuda/|interop/|tuning/json)")
STANDARD = re.compile(r"^[a-z_0-9]+$|^(immintrin|arm_neon)\.h$")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)
ISA_MACRO = re.compile(r"^\s*#\s*(?:el)?if.*__(AVX|SSE|FMA|ARM_|CUDACC|AMX|F16C)", re.MULTILINE)
MAX_LINES = 400


def check(root: pathlib.Path) -> list[str]:
    errors: list[str] = []
    graph: dict[str, list[str]] = {}
    third_party: dict[str, list[str]] = {}
    for path in sorted(root.rglob("*.hpp")):
        name = path.relative_to(root).as_posix()
        text = path.read_text(encoding="utf-8")
        if not text.startswith("// SPDX-License-Identifier: Apache-2.0\n"):
            errors.append(f"{name}: the first line is not the SPDX line")
        if "#pragma once" not in text:
            errors.append(f"{name}: no #pragma once")
        if text.count("\n") > MAX_LINES:
            errors.append(f"{name}: {text.count(chr(10))} lines, more than {MAX_LINES}")
        if name != "core/config.hpp" and not name.startswith("kernel/") and ISA_MACRO.search(text):
            errors.append(f"{name}: asks for an instruction set outside core/config.hpp and kernel/")
        graph[name], third_party[name] = [], []
        layer = name.split("/")[0] if "/" in name else None
        for quote, target in INCLUDE.findall(text):
            if target.startswith("zerotune/"):
                to = target.removeprefix("zerotune/")
                graph[name].append(to)
                if quote != '"':
                    errors.append(f"{name}: includes <{target}> with angle brackets")
                if not (root / to).exists():
                    errors.append(f"{name}: includes {target}, which does not exist")
                if layer is None:
                    continue
                allowed = LAYERS.get(layer)
                if allowed is None:
                    errors.append(f"{name}: the folder {layer} is not a layer")
                elif to.split("/")[0] not in allowed and not any(
                    name == a and to.startswith(b) for a, b in EXCEPTIONS
                ):
                    errors.append(f"{name}: layer {layer} may not include {to}")
            elif quote == '"':
                errors.append(f'{name}: includes "{target}", which is not below zerotune/')
            elif not STANDARD.match(target):
                third_party[name].append(target)
                if not any(
                    re.search(where, name) and re.match(what, target)
                    for where, what in THIRD_PARTY.items()
                ):
                    errors.append(f"{name}: may not include the third-party header {target}")

    errors += cycles(graph)
    umbrella = "zerotune.hpp"
    if umbrella not in graph:
        errors.append("zerotune.hpp is missing")
        return errors
    reached, stack = set(), [umbrella]
    while stack:
        name = stack.pop()
        if name in reached or name not in graph:
            continue
        reached.add(name)
        stack += graph[name]
    for name in sorted(reached):
        for target in third_party[name]:
            errors.append(f"the umbrella reaches {name}, which includes {target}")
    for name in sorted(set(graph) - reached):
        if not OPTIONAL.match(name):
            errors.append(f"the umbrella does not reach {name}")
    return errors


def cycles(graph: dict[str, list[str]]) -> list[str]:
    errors, done = [], set()

    def visit(name: str, trail: list[str]) -> None:
        if name in trail:
            errors.append("cycle: " + " -> ".join(trail[trail.index(name) :] + [name]))
            return
        if name in done:
            return
        for target in graph.get(name, []):
            visit(target, trail + [name])
        done.add(name)

    for name in graph:
        visit(name, [])
    return errors


def main() -> int:
    root = pathlib.Path(sys.argv[1])
    errors = check(root)
    for error in errors:
        print(error)
    print(f"{len(list(root.rglob('*.hpp')))} headers, {len(errors)} errors")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
