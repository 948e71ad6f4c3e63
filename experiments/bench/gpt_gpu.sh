#!/usr/bin/env bash
# gpt_gpu.py untuned and tuned, three kinds of jobs, three seeds, on this machine's GPU: a line a run.
# Usage: experiments/bench/gpt_gpu.sh PYTHON    (which has PyTorch and the package attune)
#        attune must be on the PATH; ten minutes or so of an H200.
set -euo pipefail
python="$(command -v "${1:?usage: gpt_gpu.sh PYTHON}")"
python="$(realpath -s "$python")"
cd "$(dirname "$0")/../.."
state="$(mktemp -d)"
trap 'rm -rf "$state"' EXIT
printf 'learn = false\n' >"$state/attuned.conf"

run() {  # KIND SEED OPTION…
  local kind="$1" seed="$2" line program
  shift 2
  program=("$python" experiments/bench/gpt_gpu.py --steps 600 --seed "$seed" "$@")
  line="$(ATTUNE_MODE=off "${program[@]}" | tail -n 1)"
  echo "$kind, seed $seed, untuned: $line"
  line="$(attune run --config "$state/attuned.conf" --state-directory "$state" -- "${program[@]}" |
    grep '^{"validation_loss')"
  echo "$kind, seed $seed, tuned: $line"
}

for seed in 0 1 2; do
  run medium "$seed"
  run long "$seed" --context 4096 --batch 4
  run fast "$seed" --rate 0.02
done
