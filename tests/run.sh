#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what is missing, builds with GCC and runs every test; among them are builds with Clang and
# with sanitizers. Ends with the summary of CTest. Can be repeated.
#
# usage: bash tests/run.sh [options of ctest, e.g. -L unit]
#
# ZEROTUNE_MODEL_FILE  a GGUF file of SmolLM2-135M-Instruct; fetched if it is not set and there is
#                      network. Tests that need it are skipped without it.
# ZEROTUNE_DATA_DIR    a folder with the public models and data sets that some tests read
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

packages=(
  g++ clang libclang-rt-dev cmake ninja-build pkg-config python3 python3-pip
  libgtest-dev librapidcheck-dev libbenchmark-dev libboost-context-dev
  libxsimd-dev libeigen3-dev nlohmann-json3-dev libcli11-dev libpcre2-dev libdnnl-dev libomp-dev
)
bash cmake/install_packages.sh "${packages[@]}"

for tool in cmake ctest g++ ninja python3; do
  if ! command -v "$tool" >/dev/null; then
    echo "zerotune: $tool is needed and missing" >&2
    exit 1
  fi
done

if [[ -z ${ZEROTUNE_MODEL_FILE:-} ]]; then
  if ZEROTUNE_MODEL_FILE=$(bash examples/fetch_model.sh | tail -n 1); then
    export ZEROTUNE_MODEL_FILE
  else
    unset ZEROTUNE_MODEL_FILE
    echo "zerotune: without the model, the tests that need it are skipped" >&2
  fi
fi

jobs=$(nproc)
launcher=()
if command -v ccache >/dev/null; then
  launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
  export CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
fi

cmake -S . -B build -G Ninja -DCMAKE_CXX_COMPILER=g++ -DCMAKE_BUILD_TYPE=Release \
  -DZEROTUNE_TEST_CONFIGURATIONS=ON -DZEROTUNE_BENCHMARK_OPTIMIZATION=-O0 "${launcher[@]}"
cmake --build build --parallel "$jobs"
ctest --test-dir build --parallel "$jobs" --output-on-failure -LE '^long$' "$@"
