#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""docs/api.md names every public name of the headers, each beside its header, and nothing else.

usage: api_page.py PROJECT
"""

import pathlib
import re
import sys

LAYERS = ("core", "policy", "apply", "analysis", "tuning", "interop")
TYPE = re.compile(r"(?:struct|class|concept|enum class) (\w+)\b(?!;)|using (\w+) =")
CONSTANT = re.compile(r"inline constexpr [^=({[]*?\b(\w+)(?: =|\{|\[)")
NO_NAME = re.compile(r"(template|requires|static_assert|extern)\b")
FUNCTION = re.compile(r"[\w:<>,&*\[\]\s]*?\b(\w+)\(")


def public_names(text: str) -> set[str]:
    """Names declared at the left margin of a namespace that is not for the library alone."""
    names, nesting = set(), []
    for line in text.split("\n"):
        opened = re.match(r"(?:inline )?namespace (?:\w+::)*(\w+) \{", line)
        if opened:
            nesting.append(opened.group(1))
        elif re.match(r"\}  // namespace", line):
            nesting.pop()
        elif not nesting or {"impl", "detail", "cuda"} & set(nesting):
            continue
        elif not re.match(r"\w|\[\[", line) or NO_NAME.match(line):
            continue
        else:
            found = TYPE.match(line) or CONSTANT.match(line) or FUNCTION.match(line)
            if found:
                name = next(group for group in found.groups() if group)
                names.add(f"backend::{name}" if nesting[-1] == "backend" else name)
    return {name for name in names if not re.match(r"ZEROTUNE_|operator", name)}


def main() -> int:
    project = pathlib.Path(sys.argv[1])
    page = (project / "docs/api.md").read_text(encoding="utf-8")
    listed: dict[str, set[str]] = {}
    for line in page.split("\n"):
        cells = line.split(" | ")
        if len(cells) == 3:
            for header in re.findall(r"\]\(\.\./include/zerotune/([\w/]+\.(?:hpp|cuh))\)", cells[0]):
                listed.setdefault(header, set()).update(re.findall(r"`([\w:]+)`", cells[1]))
    faults = []
    known: set[str] = set()
    total = 0
    headers = project / "include/zerotune"
    for pattern in [f"{layer}/*.hpp" for layer in LAYERS] + ["apply/cuda/*.cuh"]:
        for path in sorted(headers.glob(pattern)):
            header = path.relative_to(headers).as_posix()
            names = public_names(path.read_text(encoding="utf-8"))
            known |= names
            total += len(names)
            for name in sorted(names - listed.get(header, set())):
                faults.append(f"{header}: `{name}` is not in docs/api.md")
    for header, names in sorted(listed.items()):
        if not (project / "include/zerotune" / header).exists():
            faults.append(f"docs/api.md: there is no {header}")
        else:
            # A row may stand for two headers, so a name is looked for in all of them.
            for name in sorted(names - known):
                faults.append(f"docs/api.md: {header} has no `{name}`")
    print("\n".join(faults))
    print(f"{total} names in {len(listed)} headers, {len(faults)} faults")
    return 1 if faults or total < 100 else 0


if __name__ == "__main__":
    sys.exit(main())
