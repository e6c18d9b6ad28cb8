#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The check of the include graph finds what it is there for."""

import pathlib
import tempfile

import include_graph

HEADER = "// SPDX-License-Identifier: Apache-2.0\n#pragma once\n"


def errors_of(files: dict[str, str]) -> list[str]:
    with tempfile.TemporaryDirectory() as directory:
        root = pathlib.Path(directory)
        for name, body in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(HEADER + body, encoding="utf-8")
        return include_graph.check(root)


def include(name: str) -> str:
    return f'#include "zerotune/{name}"\n'


def main() -> None:
    good = {
        "core/a.hpp": "#include <vector>\n",
        "policy/b.hpp": include("core/a.hpp"),
        "zerotune.hpp": include("policy/b.hpp"),
    }
    assert errors_of(good) == [], errors_of(good)

    def expect(change: dict[str, str], text: str) -> None:
        found = errors_of(good | change)
        assert any(text in error for error in found), (text, found)

    expect({"core/a.hpp": include("policy/b.hpp")}, "layer core may not include policy/b.hpp")
    expect({"core/a.hpp": include("policy/b.hpp")}, "cycle: ")
    expect({"core/a.hpp": "#include <xsimd/xsimd.hpp>\n"}, "third-party header xsimd/xsimd.hpp")
    expect({"policy/c.hpp": ""}, "the umbrella does not reach policy/c.hpp")
    expect({"helpers/c.hpp": include("core/a.hpp")}, "helpers is not a layer")
    expect({"core/a.hpp": "#include <zerotune/core/a.hpp>\n"}, "angle brackets")
    expect({"core/a.hpp": include("core/none.hpp")}, "does not exist")
    expect({"core/a.hpp": "#if defined(__AVX2__)\n#endif\n"}, "asks for an instruction set")
    expect({"core/a.hpp": "//\n" * 400}, "more than 400")
    expect(
        {
            "kernel/simd/s.hpp": "#include <xsimd/xsimd.hpp>\n",
            "zerotune.hpp": include("policy/b.hpp") + include("kernel/simd/s.hpp"),
        },
        "the umbrella reaches kernel/simd/s.hpp",
    )


if __name__ == "__main__":
    main()
