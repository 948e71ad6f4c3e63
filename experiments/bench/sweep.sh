#!/usr/bin/env bash
# What a sweep costs beside its runs: 100 runs of 1 processor second, two at a time. ours: processor
# seconds of everything; reference: those of the runs alone; ratio: ours over reference, less 1.
# Usage: experiments/bench/sweep.sh [runs (default 100)]
set -euo pipefail
cd "$(dirname "$0")/../.."
bin="$PWD/build/release/bin" runs="${1:-100}" work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cat >"$work/bench.toml" <<TOML
command = ["perl", "-e", "while ((times)[0] + (times)[1] < 1) { \$x++ for 1 .. 10000 } print qq({\"validation_loss\": {seed}}\\\\n)"]
seeds = $runs
[limits]
parallel = 2
TOML
export TIMEFORMAT='%U %S'
{ time "$bin/attune" sweep run "$work/bench.toml" --config=/dev/null --state-directory="$work/state" \
    >"$work/report" 2>"$work/log"; } 2>"$work/times" || { cat "$work/log" "$work/report"; exit 1; }
"$bin/attune" sweep report --config=/dev/null --state-directory="$work/state" --format json >"$work/report.json"
python3 - "$work" <<'PY'
import json, sys
work = sys.argv[1]
report = json.load(open(f"{work}/report.json"))
runs = sum(run["cpu_seconds"] for run in report["runs"])
total = sum(map(float, open(f"{work}/times").read().split()))
print(json.dumps({"name": "sweep", "runs": len(report["runs"]), "ours": round(total, 3),
                  "reference": round(runs, 3), "unit": "processor s", "ratio": round(total / runs - 1, 5)}))
PY
