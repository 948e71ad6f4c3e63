#!/usr/bin/env bash
# Installs what is needed, builds the release preset and runs every test.
# Usage: tests/run.sh [--ecosystem | arguments for ctest, e.g. -R governor]
#   --ecosystem: of the Python package alone, with what people use beside it (PyPI's PyTorch,
#   transformers, …, in a virtual environment in build/), its linters and its type checker
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-}" in -h | --help) sed -n '2,/^set /{s/^# \{0,1\}//p}' "$0"; exit 0 ;; esac

.ci/install-packages build test
cmake --preset release >/dev/null
cmake --build --preset release -j "$(nproc)"

if [ "${1:-}" = --ecosystem ]; then
  tests/python/environment.sh build/python-venv
  bin=build/python-venv/bin
  "$bin/ruff" check --config collectors/python/pyproject.toml collectors/python tests/python experiments
  "$bin/ruff" format --check --config collectors/python/pyproject.toml collectors/python tests/python experiments
  "$bin/mypy" --config-file collectors/python/pyproject.toml collectors/python/src/attune
  "$bin/python" -m pytest -q tests/python
  for older in build/python-venv/transformers-*; do
    PYTHONPATH="$older" "$bin/python" -m pytest -q tests/python/ecosystem/test_transformers.py
  done
  exit
fi

ctest --preset release -j "$(nproc)" "$@"
# The package has to do with Debian's PyTorch 1.13 alone.
[ $# -gt 0 ] || /usr/bin/python3 -m pytest -q tests/python --ignore tests/python/ecosystem
