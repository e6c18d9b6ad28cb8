#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Consumes the library for real, in one of the ways that people will.

usage: consumers.py WAY --compiler CXX --source ROOT --work DIR --version X.Y.Z [--parts simd,eigen]
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
STRICT = "-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror".split()
PLAIN = {
    "plain": [],
    "strict_warnings": STRICT,
    "no_exceptions": ["-fno-exceptions", "-fno-rtti", *STRICT],
    "fast_math": ["-O2", "-ffast-math", *STRICT],
    "fast_math_no_exceptions": ["-O2", "-ffast-math", "-fno-exceptions", "-fno-rtti"],
}


class Consumer:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.work: pathlib.Path = options.work / options.way
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        self.parts = [part for part in options.parts.split(",") if part]

    def run(self, *command: object, **more: object) -> subprocess.CompletedProcess:
        words = [str(word) for word in command]
        print("+", " ".join(words), flush=True)
        return subprocess.run(words, **({"check": True} | more))

    def configure(self, folder: str, *definitions: str, check: bool = True) -> str:
        """Returns what CMake printed; with check=False it must have failed."""
        result = self.run(
            "cmake", "-S", HERE / folder, "-B", self.work / "build", "-G", self.options.generator,
            f"-DCMAKE_CXX_COMPILER={self.options.compiler}", f"-DCONSUMER_SOURCE={HERE}",
            f"-DZEROTUNE_SOURCE={self.options.source}", *definitions,
            check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        print(result.stdout, flush=True)
        if (result.returncode == 0) != check:
            sys.exit("configuring " + ("failed" if check else "succeeded and should not have"))
        return result.stdout

    def build_and_run(self, *programs: str) -> None:
        self.run("cmake", "--build", self.work / "build")
        for program in programs:
            self.run(self.work / "build" / program)

    def install(self) -> pathlib.Path:
        """Installs, then moves the prefix: nothing installed may know where it was."""
        build, prefix = self.work / "library", self.work / "prefix"
        self.run(
            "cmake", "-S", self.options.source, "-B", build, "-G", self.options.generator,
            f"-DCMAKE_CXX_COMPILER={self.options.compiler}", f"-DCMAKE_INSTALL_PREFIX={prefix}",
            "-DZEROTUNE_BUILD_TESTS=OFF", "-DZEROTUNE_BUILD_EXAMPLES=OFF",
            "-DZEROTUNE_BUILD_BENCHMARKS=OFF",
        )  # fmt: skip
        self.run("cmake", "--install", build)
        return prefix.rename(self.work / "moved")

    # --- the ways ---------------------------------------------------------------------------------

    def add_subdirectory(self) -> None:
        self.configure("add_subdirectory", "-DCONSUMER_PARTS=" + ";".join(self.parts))
        self.build_and_run("consumer", "parts", "dispatch")

    def fetch_content(self) -> None:
        self.configure("fetch_content")
        self.build_and_run("consumer")

    def find_package(self) -> None:
        prefix = self.install()
        minor = ".".join(self.options.version.split(".")[:2])
        for parts in [[], self.parts]:
            shutil.rmtree(self.work / "build", ignore_errors=True)
            self.configure(
                "find_package", f"-DCMAKE_PREFIX_PATH={prefix}", f"-DZEROTUNE_VERSION={minor}",
                "-DCONSUMER_PARTS=" + ";".join(parts),
            )  # fmt: skip
            self.build_and_run("consumer", "parts", "dispatch")

    def wrong_version(self) -> None:
        prefix = self.install()
        major, minor, _ = (int(number) for number in self.options.version.split("."))
        for wrong in [f"{major}.{minor + 1}", f"{major + 1}.0"]:
            shutil.rmtree(self.work / "build", ignore_errors=True)
            output = self.configure(
                "wrong_version", f"-DCMAKE_PREFIX_PATH={prefix}", f"-DWRONG_VERSION={wrong}",
                check=False,
            )  # fmt: skip
            expect(output, f'compatible with requested version "{wrong}"')

    def unknown_component(self) -> None:
        prefix = self.install()
        output = self.configure("unknown_component", f"-DCMAKE_PREFIX_PATH={prefix}", check=False)
        expect(output, "no component 'telepathy'")

    def nested_install(self) -> None:
        prefix = self.work / "prefix"
        self.configure("nested_install", f"-DCMAKE_INSTALL_PREFIX={prefix}")
        self.build_and_run("consumer")
        self.run("cmake", "--install", self.work / "build")
        for name in ["include/zerotune/zerotune.hpp", "bin/consumer"]:
            if not (prefix / name).exists():
                sys.exit(f"{name} was not installed")
        if not list(prefix.rglob("zerotune-config.cmake")):
            sys.exit("the package config was not installed")

    def pkg_config(self) -> None:
        prefix = self.install()
        files = list(prefix.rglob("zerotune.pc"))
        if len(files) != 1:
            sys.exit(f"{len(files)} files zerotune.pc")
        os.environ["PKG_CONFIG_PATH"] = str(files[0].parent)
        version = subprocess.check_output(["pkg-config", "--modversion", "zerotune"], text=True)
        if version.strip() != self.options.version:
            sys.exit(f"pkg-config says version {version}")
        flags = subprocess.check_output(["pkg-config", "--cflags", "--libs", "zerotune"], text=True)
        self.one_line(flags.split(), [])

    def one_line(self, includes: list[str], flags: list[str]) -> None:
        program = self.work / "consumer"
        self.run(
            self.options.compiler, "-std=c++20", *flags, HERE / "consumer.cpp", *includes,
            "-o", program,
        )  # fmt: skip
        self.run(program)


def expect(output: str, text: str) -> None:
    if text not in " ".join(output.split()):
        sys.exit(f"the message does not contain: {text}")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("way")
    parser.add_argument("--compiler", required=True)
    parser.add_argument("--source", required=True, type=pathlib.Path)
    parser.add_argument("--work", required=True, type=pathlib.Path)
    parser.add_argument("--version", required=True)
    parser.add_argument("--generator", default="Ninja")
    parser.add_argument("--parts", default="")
    options = parser.parse_args()
    consumer = Consumer(options)
    if options.way in PLAIN:
        consumer.one_line([f"-I{options.source / 'include'}"], PLAIN[options.way])
    else:
        getattr(consumer, options.way)()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(str(error))
