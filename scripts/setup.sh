#!/usr/bin/env bash
# Make the virtual environment of one variant from its hashed lock: scripts/setup.sh [cpu|gpu] [directory]
# Does nothing when the environment is already what the lock says.
set -euo pipefail
variant=${1:-cpu}
venv=${2:-.venv}
cd "$(dirname "$0")/.."
lock=requirements/$variant.lock
[ -f "$lock" ] || { echo "setup: there is no variant '$variant'; use cpu or gpu" >&2; exit 2; }
wanted=$(cat "$lock" requirements/extra.lock pyproject.toml scripts/setup.sh | sha256sum | cut -d' ' -f1)
[ "$(cat "$venv/.locked" 2>/dev/null || true)" = "$wanted" ] && exit 0
if [ "$(uname -s)-$(uname -m)" != Linux-x86_64 ]; then
  echo "setup: the locks are for Linux on x86-64; on $(uname -s) $(uname -m) install by hand: see README, Installation" >&2
  exit 2
fi

is311() { "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1; }
if [ ! -x "$venv/bin/python" ]; then
  for python in "${PYTHON:-python3.11}" python3.11 python3; do
    if is311 "$python"; then "$python" -m venv "$venv"; break; fi
  done
fi
if [ ! -x "$venv/bin/python" ] && command -v uv >/dev/null; then uv venv --seed --python 3.11 "$venv"; fi
if [ ! -x "$venv/bin/python" ]; then
  echo "setup: Python 3.11 with venv is needed; install it (Debian: apt install python3.11-venv) or uv, or set PYTHON" >&2
  exit 2
fi

echo "setup: installing the $variant variant into $venv (4 GB, some minutes)"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check "uv==0.13.8"
# The CPU build of torch is not on the default index: take it from where pip is told to look, else from PyTorch.
backend=()
if [ -n "${PIP_FIND_LINKS:-}" ]; then
  export UV_FIND_LINKS=${UV_FIND_LINKS:-$PIP_FIND_LINKS}
elif [ "$variant" = cpu ] && [ -z "${UV_FIND_LINKS:-}" ]; then
  backend=(--torch-backend cpu)
fi
# Compiled once here, or every process of a run would compile torch and vLLM anew where bytecode is not written.
uv=("$venv/bin/uv" pip install --quiet --compile-bytecode --python "$venv/bin/python")
"${uv[@]}" "${backend[@]}" --no-deps --require-hashes -r "$lock"
"${uv[@]}" --no-deps --no-build-isolation -e .
# One package of the extra is compiled here; everything else works without it.
if [ "$variant" = cpu ] && ! "${uv[@]}" --no-deps --require-hashes -r requirements/extra.lock; then
  echo "setup: going on without the extras reasoning-gym and trackio (one needs a C compiler); their tests will be skipped" >&2
fi
echo "$wanted" > "$venv/.locked"
