#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what the program zerotune is built with (Debian and Ubuntu packages), builds it in
# build-demo, in Release, and prints its path as the last line.
#
# usage: bash examples/build_program.sh [more targets]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash cmake/install_packages.sh g++ cmake ninja-build python3 python3-pip libpcre2-dev libcli11-dev \
  nlohmann-json3-dev libxsimd-dev libeigen3-dev libdnnl-dev >&2

echo "zerotune: building the program" >&2
mkdir -p build-demo
cmake -S . -B build-demo -G Ninja -DCMAKE_BUILD_TYPE=Release -DZEROTUNE_BUILD_TESTS=OFF \
  -DZEROTUNE_BUILD_BENCHMARKS=OFF -DZEROTUNE_BUILD_EXAMPLES=ON >build-demo/configure.log 2>&1 ||
  { cat build-demo/configure.log >&2 && exit 1; }
cmake --build build-demo --target zerotune_program "$@" >&2
echo build-demo/examples/zerotune/zerotune
