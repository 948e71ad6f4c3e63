#!/usr/bin/env bash
# Sweeps on a real Slurm of two nodes; run by cluster.sh.
# Usage: sweep_test.sh BIN     BIN: the folder of attune, attuned and attune-demo-lm
set -euo pipefail
bin="$1"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
attune() { "$bin/attune" sweep "$1" --config=/dev/null --state-directory="$work/state" "${@:2}"; }
fail() { echo "FAILED: $1" >&2; exit 1; }
expect() { [ "$2" = "$3" ] || fail "$1: '$2' is not '$3'"; }
until_lines() { touch "$1"; until [ "$(wc -l <"$1")" -ge "$2" ]; do :; done; }

cat >run.sh <<'RUN'
echo "$1" >>begun
echo "$SLURMD_NODENAME" >>nodes
until [ -e go ]; do sleep 0.05; done
echo "{\"validation_loss\": $1}"
RUN
sweep() {  # NAME
  printf 'command = ["sh", "run.sh", "{a}"]\n[parameters]\na = [1, 2, 3, 4, 5, 6]\n[limits]\nparallel = 4\n' >"$1.toml"
}

echo "— every run once, on both nodes, followed to its end"
touch go
sweep first
attune run first.toml --executor slurm >report 2>log || { cat log; fail "the sweep"; }
grep -q "6 runs: 6 finished" report || fail "the report: $(cat report)"
expect "runs" "$(sort begun | tr '\n' ' ')" "1 2 3 4 5 6 "
expect "nodes" "$(sort -u nodes | tr '\n' ' ')" "n1 n2 "

echo "— a killed runner: its tasks go on, resume adopts them and submits the rest, nothing twice"
rm -f go begun
sweep killed
"$bin/attune" sweep run --config=/dev/null --state-directory="$work/state" killed.toml --executor slurm 2>log &
runner=$!
until_lines begun 4
kill -KILL "$runner"
wait "$runner" 2>/dev/null || true
touch go
attune resume killed --executor slurm >report 2>log || { cat log; fail "resuming"; }
expect "runs" "$(sort begun | tr '\n' ' ')" "1 2 3 4 5 6 "

echo "— stop cancels what Slurm has, and resume does it again"
rm -f go begun
sweep stopped
"$bin/attune" sweep run --config=/dev/null --state-directory="$work/state" stopped.toml --executor slurm >/dev/null 2>log &
runner=$!
until_lines begun 4
attune stop stopped >/dev/null
wait "$runner" && fail "a stopped sweep says that it is done"
expect "queue" "$(squeue --noheader)" ""
[ -e state/sweeps/stopped/runs/1/outcome.json ] && fail "a cancelled run has an outcome"
touch go
attune resume stopped --executor slurm >report 2>log || { cat log; fail "resuming"; }
grep -q "6 runs: 6 finished" report || fail "the report: $(cat report)"

echo "— a limit on the compute of all runs holds back what has not begun"
rm -f begun
sweep limited
printf 'compute_seconds = 0.000001\n' >>limited.toml
attune run limited.toml --executor slurm >report 2>log && fail "a limited sweep says that it is done"
grep -q "compute_seconds are spent" log || fail "the limit is not told: $(cat log)"
expect "runs" "$(sort begun | tr '\n' ' ')" "1 2 3 4 "

if [ -x "$bin/attune-demo-lm" ]; then
  echo "— trainers reach the daemon over tcp with the sweep's keys"
  port="$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')"
  cat >tuned.toml <<TOML
command = ["$bin/attune-demo-lm", "--format", "json", "--seed", "{seed}", "--budget-steps", "60",
           "--context", "16", "--width", "16", "--heads", "4", "--layers", "1", "--batch", "4",
           "--text", "$work/text"]
twin = true
[limits]
parallel = 2
[slurm]
listen = "tcp://127.0.0.1:$port"
TOML
  for i in $(seq 3000); do echo "a line of text, the ${i}th of some, to learn from"; done >text
  attune run tuned.toml --executor slurm >report 2>log || { cat log state/sweeps/tuned/runs/*/output; fail "the tuned sweep"; }
  jobs="$("$bin/attune" jobs --config=/dev/null --state-directory="$work/state/sweeps/tuned/attuned" --format csv)"
  expect "jobs that were tuned" "$(grep -c ',finished,' <<<"$jobs")" 1
fi
echo "all as it should be"
