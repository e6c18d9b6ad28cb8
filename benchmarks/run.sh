#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Measures the library and writes docs/performance.md with its figures and pictures.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

programs=(attention_prefill decode modifier rescale correction backward threads scaling)

help() {
  cat <<HELP
usage: bash benchmarks/run.sh [--quick] [--peers] [--only NAME]... [--build DIR] [--docs DIR]

Installs what is missing (Debian and Ubuntu packages), builds the benchmarks in Release, runs them one
after the other (each interleaves what it compares and measures the machine's roofs itself) and writes
the figures to DIR/performance/figures.json, the pictures beside it and the page DIR/performance.md,
whose text comes from DIR/performance_notes.md. Nothing else should run on the machine meanwhile.

  --quick      short samples and no long shapes, a few minutes; the figures say little
  --peers      also others: ggml, OpenBLAS and oneDNN in C++; PyTorch, vLLM's and SGLang's operators
               and transformers through libzerotune_c.so. benchmarks/peers/install.sh installs them in
               the cache folder (about 6 GB). What cannot be installed or run here is skipped, with
               the reason
  --only NAME  only this part, may be given several times: ${programs[*]},
               and with --peers: ggml, products, peers. The page keeps the figures of the others
               from the run before
  --build DIR  where to build and to keep what the programs print, by default build-benchmarks
  --docs DIR   where the page goes, by default docs; with --quick by default build-benchmarks/docs
  --help       this text

ZEROTUNE_MODEL_FILE names a GGUF file of SmolLM2-135M for the comparison of the reference host in place
of the one that is fetched.
HELP
}

say() { echo "zerotune: $*" >&2; }

quick="" peers="" build=build-benchmarks docs=""
only=()
while (($# > 0)); do
  case $1 in
    --help | -h)
      help
      exit 0
      ;;
    --quick) quick=--quick ;;
    --peers) peers=yes ;;
    --only | --build | --docs)
      if (($# < 2)); then
        echo "run.sh: $1 needs a value" >&2
        exit 2
      fi
      case $1 in
        --only) only+=("$2") ;;
        --build) build=$2 ;;
        --docs) docs=$2 ;;
      esac
      shift
      ;;
    --*=*)
      set -- "${1%%=*}" "${1#*=}" "${@:2}"
      continue
      ;;
    *)
      echo "run.sh: unknown option $1; --help says which there are" >&2
      exit 2
      ;;
  esac
  shift
done
for name in "${only[@]}"; do
  if [[ " ${programs[*]} ggml products peers " != *" $name "* ]]; then
    echo "run.sh: there is no part $name; --help says which there are" >&2
    exit 2
  fi
done
docs=${docs:-${quick:+$build/}docs}

wanted() { ((${#only[@]} == 0)) || [[ " ${only[*]} " == *" $1 "* ]]; }
wants_peer() { [[ -n $peers ]] && wanted "$1"; }

# --- what is needed ------------------------------------------------------------------------------
packages=(g++ cmake ninja-build libbenchmark-dev libxsimd-dev libeigen3-dev python3 python3-matplotlib)
if [[ -n $peers ]]; then
  packages+=(python3-venv python3-pip libnuma1 libpcre2-dev libcli11-dev nlohmann-json3-dev libdnnl-dev
    libopenblas-dev)
fi
bash cmake/install_packages.sh "${packages[@]}"

# The Python that the packages belong to need not be the first of the path.
plot_python=
for candidate in python3 /usr/bin/python3; do
  if "$candidate" -c 'import matplotlib' 2>/dev/null; then
    plot_python=$candidate
    break
  fi
done

peer_python="" ggml=""
if wants_peer peers; then
  peer_python=$(bash benchmarks/peers/install.sh | tail -n 1) || say "PyTorch and the others are skipped"
fi
if wants_peer ggml; then
  ggml=$(bash benchmarks/peers/install.sh --ggml | tail -n 1) || say "ggml is skipped"
fi
model=${ZEROTUNE_MODEL_FILE:-}
if [[ -n $peer_python && -z $model ]]; then
  model=$(bash examples/fetch_model.sh | tail -n 1) || say "the reference host is not compared"
fi

# --- build ---------------------------------------------------------------------------------------
run=()
targets=()
for name in "${programs[@]}"; do
  if wanted "$name"; then
    run+=("$name")
    targets+=("benchmark_$name")
  fi
done
if [[ -n $peer_python ]]; then targets+=(zerotune_c benchmark_host); fi

mkdir -p "$build"
build=$(cd "$build" && pwd)
logs=$build/logs${quick:+-quick}
mkdir -p "$logs"
say "building in $build"
cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DZEROTUNE_BUILD_TESTS=OFF \
  -DZEROTUNE_BUILD_BENCHMARKS=ON -DZEROTUNE_BUILD_EXAMPLES="$([[ -n $peer_python ]] && echo ON || echo OFF)" \
  -DZEROTUNE_GGML_SOURCE="$ggml" >"$build/configure.log" 2>&1 ||
  { cat "$build/configure.log" >&2 && exit 1; }
known=$(cmake --build "$build" --target help)
for name in ggml products; do
  if wants_peer $name && [[ $known == *"benchmark_$name:"* ]]; then
    run+=("$name")
    targets+=("benchmark_$name")
  fi
done
if ((${#targets[@]} == 0)); then
  say "nothing to run: ggml, products and peers need --peers"
  exit 2
fi
cmake --build "$build" --target "${targets[@]}" >&2

# --- run -----------------------------------------------------------------------------------------
load=$(cut -d ' ' -f 1 /proc/loadavg 2>/dev/null || echo 0)
if awk "BEGIN { exit !($load > 1.5) }"; then
  say "the load of this machine is $load: other work on it spoils the figures"
fi
if [[ -n $quick ]]; then export ZEROTUNE_BENCHMARK_QUICK=1; fi
failed=()
for name in "${run[@]}"; do
  say "benchmark_$name"
  program=$build/benchmarks/benchmark_$name
  if [[ ! -x $program ]]; then program=$build/benchmarks/peers/benchmark_$name; fi
  if ! OMP_NUM_THREADS=1 "$program" --benchmark_filter=none 2>"$logs/$name.err" | tee "$logs/$name.txt.part"; then
    cat "$logs/$name.err" >&2
    failed+=("$name")
  fi
  mv -f "$logs/$name.txt.part" "$logs/$name.txt"
done
if [[ -n $peer_python ]]; then
  say "PyTorch and the others"
  host=()
  if [[ -n $model ]]; then host=(--host "$build/benchmarks/peers/benchmark_host" --model "$model"); fi
  # A folder for what PyTorch compiles, kept so that a second run need not wait for it.
  TORCHINDUCTOR_CACHE_DIR=$build/torchinductor OMP_NUM_THREADS=1 "$peer_python" -B \
    benchmarks/peers/compare.py $quick --library "$build/examples/c_api/libzerotune_c.so" \
    --json "$logs/peers.json" "${host[@]}" 2>"$logs/peers.err" ||
    { tail -n 20 "$logs/peers.err" >&2 && failed+=(peers); }
fi

# --- the page ------------------------------------------------------------------------------------
figures=$docs/performance/figures.json
mkdir -p "$docs/performance"
python3 -B benchmarks/report/collect.py --logs "$logs" --output "$figures" --load "$load" \
  --peers "$logs/peers.json" $quick >&2
if [[ -n $plot_python ]]; then
  "$plot_python" -B benchmarks/report/plots.py --figures "$figures" --output "$docs/performance"
else
  say "no Python with matplotlib: no pictures"
fi
notes=$docs/performance_notes.md
readme=()
[[ $docs == docs && -n $peers ]] && readme=(--readme README.md)
python3 -B benchmarks/report/page.py --figures "$figures" --output "$docs/performance.md" \
  "${readme[@]}" \
  --notes "$([[ -f $notes ]] && echo "$notes" || echo docs/performance_notes.md)"
say "the figures: $figures, the page: $docs/performance.md"
if ((${#failed[@]} > 0)); then
  say "failed: ${failed[*]}"
  exit 1
fi
