#!/usr/bin/env bash
# Builds and runs one benchmark; its last line is JSON with name, ours, reference, unit and ratio.
# Usage: experiments/bench/run.sh NAME | all
#   insert   trials per second as the daemon writes them, beside bare prepared statements
#   page     filtered, sorted pages of 10,000,000 trials, beside SQL by hand; opening that store
#   merge    two stores of 1,000,000 trials, beside a bare INSERT … SELECT
#   sweep    what a sweep costs beside its 100 runs
#   jobs     what 1,000 jobs at a time cost one daemon
#   stopped  a trainer's step beside a stopped and a killed daemon
#   python   a Python trainer's step with attune attached beside a bare one; seconds held up
#   meter    measuring a step, beside that step's attention forward
#   overhead a step with attune at the default cadence, beside the same step bare
#   slim     a step with half and a quarter of the heads, beside attention built so small
#   network  a decision's forward pass, beside the bare matrix products
#   learn    a PPO update over 4,096 windows, beside one chain of LibTorch calls
#   kmeans   anomalies of 10,000 windows, beside scikit-learn's KMeans on the same points
#   ingest   observations per second of 8 connections, beside a ROUTER that drops them
#   decide   from an observation to the action, beside a bare echo, forward pass and commit
#   idle     processor time of a daemon whose job says nothing, beside the clock
#   scale    processor time of a decision with 1,000 jobs, beside 1 job
set -euo pipefail
cd "$(dirname "$0")/../.."
names=(ingest decide network meter overhead slim learn kmeans scale idle insert page merge sweep jobs stopped python)

# A program that measures several things, some beside a daemon, some with a thousand connections.
bench() {
  ulimit -n "$(ulimit -Hn)"
  cmake --build --preset release --target attuned "attune-bench-$1" >&2 && build/release/bin/"attune-bench-$1" "$2"
}

run() {
  cmake --preset release >/dev/null
  case "$1" in
    insert | page) cmake --build --preset release --target attune-bench-history >&2 && build/release/bin/attune-bench-history "$1" ;;
    merge) cmake --build --preset release --target attune-bench-merge >&2 && build/release/bin/attune-bench-merge ;;
    sweep) cmake --build --preset release --target attune >&2 && experiments/bench/sweep.sh ;;
    jobs) cmake --build --preset release --target attuned attune attune-bench-jobs >&2 && experiments/bench/jobs.sh ;;
    stopped) cmake --build --preset release --target attune attuned attune-demo-lm >&2 && experiments/bench/stopped.sh ;;
    python)
      cmake --build --preset release --target attuned >&2 && tests/python/environment.sh build/python-venv >&2
      PYTHONPATH=collectors/python/src build/python-venv/bin/python experiments/bench/python.py
      ;;
    meter | overhead | slim) bench attention "$1" ;;
    network | learn) bench network "$1" ;;
    ingest | decide | scale | idle) bench daemon "$1" ;;
    kmeans) cmake --build --preset release --target attune-bench-kmeans >&2 && experiments/bench/kmeans.sh ;;
  esac
}

case "${1:-}" in
  all) for name in "${names[@]}"; do run "$name" | tail -n 1; done ;;
  -h | --help | "") sed -n '2,/^set /{s/^# \{0,1\}//p}' "$0" ;;
  *)
    printf '%s\n' "${names[@]}" | grep -qx "$1" || { echo "run.sh: there is no benchmark '$1'; there are ${names[*]}" >&2; exit 2; }
    run "$1"
    ;;
esac
