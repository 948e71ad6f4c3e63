#!/usr/bin/env bash
# Installs what is needed, builds the release preset and runs every test.
# Usage: tests/run.sh [arguments for ctest, e.g. -R governor]
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-}" in -h | --help) sed -n '2,3s/^# //p' "$0"; exit 0 ;; esac

.ci/install-packages build test
cmake --preset release >/dev/null
cmake --build --preset release -j "$(nproc)"
ctest --preset release -j "$(nproc)" "$@"
