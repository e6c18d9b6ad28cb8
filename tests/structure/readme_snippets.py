#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every C++ block of README.md and docs/ is a part of the compiled snippet that its first line names.

Usage: readme_snippets.py ROOT. Blocks without such a line are errors too, so that no snippet goes
uncompiled. Indentation is ignored.
"""
import argparse
import pathlib
import re
import sys


def lines_of(text):
    return [line.strip() for line in text.splitlines() if line.strip()]


def contains(lines, part):
    return any(lines[i:i + len(part)] == part for i in range(len(lines) - len(part) + 1))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=pathlib.Path)
    root = parser.parse_args().root
    failures, blocks = [], 0
    for page in [root / "README.md", *sorted((root / "docs").glob("*.md"))]:
        for block in re.findall(r"```cpp\n(.*?)```", page.read_text(), re.S):
            blocks += 1
            named = re.match(r"// (examples/snippets/\S+\.(?:cpp|hpp))\n", block)
            if not named:
                failures.append(f"{page.name}: a C++ block names no file: {block.splitlines()[0]}")
                continue
            source = root / named[1]
            if not source.is_file():
                failures.append(f"{page.name}: {named[1]} does not exist")
            elif not contains(lines_of(source.read_text()), lines_of(block)[1:]):
                failures.append(f"{page.name}: the block of {named[1]} differs from the file")
    print("\n".join(failures) or f"{blocks} blocks are compiled snippets")
    sys.exit(1 if failures or blocks == 0 else 0)


if __name__ == "__main__":
    main()
