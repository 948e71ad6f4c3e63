#!/usr/bin/env bash
# How far one daemon goes: 1,000 jobs of 144 heads, each reporting once a second. The last line is
# JSON: observations sent and dropped, and the share of a core that attuned used.
# Usage: experiments/bench/jobs.sh [jobs (default 1000)] [seconds (default 20)]
set -euo pipefail
cd "$(dirname "$0")/../.."
bin=build/release/bin state="$(mktemp -d)"
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$state"' EXIT
ulimit -n "$(ulimit -Hn)"
"$bin/attuned" --config /dev/null --state-directory "$state" --policy keep 2>/dev/null &
until "$bin/attune" status --config /dev/null --state-directory "$state" >/dev/null 2>&1; do :; done
"$bin/attune-bench-jobs" "$state" "${1:-1000}" "${2:-20}"
