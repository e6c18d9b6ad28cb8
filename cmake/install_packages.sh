#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the given Debian or Ubuntu packages that are missing; does nothing if none is.
#
# usage: install_packages.sh PACKAGE...
set -euo pipefail

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  echo "zerotune: not a Debian or Ubuntu system; make sure that these are there under the names" \
    "of your system: $*" >&2
  exit 0
fi

missing=()
for package in "$@"; do
  status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [[ $status == installed ]] || missing+=("$package")
done
if ((${#missing[@]} == 0)); then
  exit 0
fi

as_root=()
if [[ $(id -u) != 0 ]]; then
  if ! command -v sudo >/dev/null; then
    echo "zerotune: packages are missing, and this is neither root nor is there sudo. Run:" >&2
    echo "  apt-get install ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi

echo "zerotune: installing ${missing[*]}" >&2
install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y
  --no-install-recommends "${missing[@]}")
if ! "${as_root[@]}" apt-get update >&2; then
  echo "zerotune: the package lists cannot be updated; trying with those that are there" >&2
fi
if ! "${install[@]}" >&2; then
  echo "zerotune: the packages cannot be installed (no network?). Needed: ${missing[*]}" >&2
  exit 1
fi
