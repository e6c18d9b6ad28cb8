#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Tunes a real model's attention to the initial token on two small tasks and shows what it brought.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

help() {
  cat <<'HELP'
usage: bash examples/demo.sh [--model FILE] [options of `zerotune tune`]

Installs what is missing (Debian and Ubuntu packages), builds the program in build-demo, fetches
SmolLM2-135M-Instruct (94 MiB, checked by its hash), tunes its attention to the initial token for the
two tasks in examples/data, reviews and topics, and prints the accuracy before and after.

  --model FILE  a GGUF file to tune instead of the one that is fetched; needs no network
  --help        this text

All other options go to `zerotune tune`, for example --seed 2, --threads 4, --method paper; see
build-demo/examples/zerotune/zerotune tune --help. The profiles are written to build-demo.
HELP
}

model=
options=()
while (($# > 0)); do
  case $1 in
    --help | -h)
      help
      exit 0
      ;;
    --model)
      if (($# < 2)); then
        echo "demo.sh: --model needs a file" >&2
        exit 2
      fi
      model=$2
      shift 2
      ;;
    --model=*)
      model=${1#--model=}
      shift
      ;;
    *)
      options+=("$1")
      shift
      ;;
  esac
done
if [[ -n $model && ! -r $model ]]; then
  echo "demo.sh: there is no file $model that can be read" >&2
  exit 2
fi

program=$(bash examples/build_program.sh | tail -n 1)

if [[ -z $model ]]; then
  model=$(bash examples/fetch_model.sh | tail -n 1)
fi

for task in reviews topics; do
  echo
  echo "== $task =="
  "$program" tune --model "$model" --data "examples/data/$task.jsonl" \
    --template "@examples/data/$task.template.txt" --output "build-demo/$task.profile.json" \
    "${options[@]}"
done
