#!/usr/bin/env bash
# One real job, tuned end to end: installs what is needed, builds, trains a small language model on
# real text twice (untuned, tuned; same seed, same processor seconds) and shows both side by side.
# The last line of stdout is the result as JSON.
#
# Usage: experiments/quickstart.sh [--seed N] [--budget-seconds S] [--text FILE]
#   --seed N             of the model and its batches (default 0)
#   --budget-seconds S   processor seconds of training for each of the two runs (default 90)
#   --text FILE          what to train on (default: Debian's package descriptions)
set -euo pipefail
here="$(cd "$(dirname "$0")/.." && pwd)"

seed=0 budget=90 text=()
while [ $# -gt 0 ]; do
  case "$1" in
    --seed) seed="${2:?--seed needs a number}"; shift 2 ;;
    --budget-seconds) budget="${2:?--budget-seconds needs a number}"; shift 2 ;;
    --text) text=(--text "$(realpath "${2:?--text needs a file}")"); shift 2 ;;
    -h | --help) sed -n '2,/^set /{s/^# \{0,1\}//p}' "$0"; exit 0 ;;
    *) echo "quickstart: unknown argument '$1'; see --help" >&2; exit 2 ;;
  esac
done

cd "$here"
.ci/install-packages build
cmake --preset release >/dev/null
cmake --build --preset release -j "$(nproc)" --target attuned attune attune_pages attune-demo-lm attune-demo-report >&2

bin=build/release/bin
out="build/quickstart/seed-$seed"
rm -rf "$out"
mkdir -p "$out"
job=("$bin/attune-demo-lm" --seed "$seed" --budget-seconds "$budget" "${text[@]}")

printf '\n── untuned: %s processor seconds, seed %s\n' "$budget" "$seed"
ATTUNE_MODE=off "${job[@]}" --report "$out/untuned.json"

printf '\n── tuned: the same under attune run\n'
"$bin/attune" run --config /dev/null --state-directory "$out" --report "$out/job.json" -- \
  "${job[@]}" --report "$out/tuned.json"

printf '\n── side by side\n'
"$bin/attune-demo-report" --untuned "$out/untuned.json" --tuned "$out/tuned.json" --job "$out/job.json"
