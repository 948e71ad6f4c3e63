#!/usr/bin/env bash
# The anomalies of 10,000 windows beside scikit-learn's KMeans, each on one thread. The last line is
# JSON. Usage: experiments/bench/kmeans.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
.ci/install-packages bench
points="$(mktemp)"
trap 'rm -f "$points"' EXIT
read -r -a figures < <(build/release/bin/attune-bench-kmeans "$points")
OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 /usr/bin/python3 experiments/bench/kmeans.py "$points" "${figures[@]}"
