#!/usr/bin/env bash
# Does a trainer's step cost more while its daemon is stopped, or dead? Trains the demo model for the
# same processor seconds with no daemon, a live one, one stopped by SIGSTOP and one killed (policy
# keep, so that nothing else changes), in turn, and counts the steps. The last line is JSON: steps
# of each, and the ratio of step times to those beside a live daemon.
# Usage: experiments/bench/stopped.sh [rounds (default 3)] [seconds of each run (default 15)]
set -euo pipefail
cd "$(dirname "$0")/../.."
rounds="${1:-3}" seconds="${2:-15}" bin=build/release/bin
work="$(mktemp -d)"
trap 'kill -KILL $(jobs -p) 2>/dev/null || true; rm -rf "$work"' EXIT

for round in $(seq "$rounds"); do
  for daemon in none alive stopped killed; do
    echo "round $round of $rounds, daemon $daemon" >&2
    if [ "$daemon" = none ]; then
      ATTUNE_MODE=off "$bin/attune-demo-lm" --seed "$round" --budget-seconds "$seconds" \
        --evaluate-every 1 --report "$work/none-$round.json" >/dev/null
      continue
    fi
    state="$work/$daemon-$round"
    mkdir "$state"
    "$bin/attuned" --config /dev/null --state-directory "$state" --policy keep 2>/dev/null &
    pid=$!
    until "$bin/attune" status --config /dev/null --state-directory "$state" >/dev/null 2>&1; do :; done
    ATTUNE_ENDPOINT="ipc://$state/attuned.sock" "$bin/attune-demo-lm" --seed "$round" \
      --budget-seconds "$seconds" --evaluate-every 1 --report "$work/$daemon-$round.json" >/dev/null &
    trainer=$!
    until [ "$("$bin/attune" status --config /dev/null --state-directory "$state" --format json | grep -c '"step"')" -gt 0 ]; do :; done
    case "$daemon" in stopped) kill -STOP "$pid" ;; killed) kill -KILL "$pid" ;; esac
    wait "$trainer"
    kill -CONT "$pid" 2>/dev/null || true
    kill "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
done
python3 - "$work" "$rounds" <<'PY'
import json, sys
work, rounds = sys.argv[1], int(sys.argv[2])
steps = {d: [json.load(open(f"{work}/{d}-{r}.json"))["steps"] for r in range(1, rounds + 1)]
         for d in ("none", "alive", "stopped", "killed")}
mean = {d: sum(s) / rounds for d, s in steps.items()}
print(json.dumps({"name": "stopped", "steps": steps,
                  "ratio": {d: round(mean["alive"] / mean[d], 3) for d in mean}}))
PY
