#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Repeats the experiments behind docs/results.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

help() {
  cat <<'HELP'
usage: bash examples/reproduce.sh [--quick] [--only NAME]... [--program FILE] [--model FILE]
                                  [--data DIR] [--results DIR] [--compute fp32|bf16] [--threads N]
                                  [--minutes N] [--known DIR] [--seed N] [--list]

Installs what is missing (Debian and Ubuntu packages), builds the program in build-demo, fetches
SmolLM2-135M-Instruct (94 MiB, checked by its hash), runs the experiments of examples/reproduce and
writes a page with their figures. All of it takes many hours; it can be stopped at any time and goes
on where it was when it is started again.

  --quick         few tasks and rows, minutes for each experiment; the figures say little
  --only NAME     only this experiment, may be given several times: quality, methods,
                  learning-curve, descent, context, shots, weights, decoding, heads
  --program FILE  a program that was built before, in place of building one
  --model FILE    a GGUF file in place of the one that is fetched
  --data DIR      the folder with the rows of the tasks; by default ZEROTUNE_DATA_DIR. They are not
                  part of this project: JSON lines {"id", "text", "choices", "label"}, optionally
                  "context", in the files that examples/reproduce/tasks.json names
  --results DIR   where results go, by default build-reproduce (build-reproduce/quick with --quick)
  --compute KIND  fp32 (default), or bf16: products of numbers rounded to bfloat16, in about half
                  the time (AVX512-BF16 or AMX, and oneDNN)
  --threads N     threads of the program, by default all cores
  --minutes N     begin no run after so many minutes
  --seed N        only runs with this seed (1, 2 or 3); may be given several times
  --known DIR     runs that DIR holds (docs/results, say) count as finished and are not repeated
  --list          only say which runs there are and which are done
  --help          this text

The figures are in DIR/results.md at the end; docs/results.md was made in the same way by
examples/reproduce/results.py.
HELP
}

program=''
model=''
results=''
quick=''
data=${ZEROTUNE_DATA_DIR:-}
options=()
while (($# > 0)); do
  case $1 in
    --help | -h)
      help
      exit 0
      ;;
    --quick)
      quick=--quick
      shift
      ;;
    --list)
      options+=("$1")
      shift
      ;;
    --program | --model | --results | --data | --only | --compute | --threads | --minutes | --known | --seed)
      if (($# < 2)); then
        echo "reproduce.sh: $1 needs a value" >&2
        exit 2
      fi
      case $1 in
        --program) program=$2 ;;
        --model) model=$2 ;;
        --results) results=$2 ;;
        --data) data=$2 ;;
        *) options+=("$1" "$2") ;;
      esac
      shift 2
      ;;
    --*=*)
      set -- "${1%%=*}" "${1#*=}" "${@:2}"
      ;;
    *)
      echo "reproduce.sh: unknown option $1; --help says which there are" >&2
      exit 2
      ;;
  esac
done
for file in "$program" "$model"; do
  if [[ -n $file && ! -r $file ]]; then
    echo "reproduce.sh: there is no file $file that can be read" >&2
    exit 2
  fi
done
if [[ -z $data || ! -d $data ]]; then
  echo "reproduce.sh: the rows of the tasks are not part of this project. Name the folder with them" \
    "with --data DIR or ZEROTUNE_DATA_DIR; --help says what must be in it" >&2
  exit 2
fi
results=${results:-build-reproduce${quick:+/quick}}

if [[ -z $program ]]; then
  program=$(bash examples/build_program.sh zerotune_requantise | tail -n 1)
fi
if [[ -z $model ]]; then
  model=$(bash examples/fetch_model.sh | tail -n 1)
fi

status=0
python3 -u examples/reproduce/run.py --program "$program" --model "$model" --data "$data" \
  --results "$results" $quick "${options[@]}" || status=$?
if [[ ! " ${options[*]} " =~ " --list " ]]; then
  python3 examples/reproduce/results.py $quick --results "$results" --output "$results/results.md"
  echo "The figures: $results/results.md"
fi
exit $status
