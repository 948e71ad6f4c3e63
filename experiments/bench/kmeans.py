"""scikit-learn's KMeans on the points of attune-bench-kmeans; prints the line of JSON.

Usage: kmeans.py FILE CLUSTERS RESTARTS SECONDS INERTIA
"""

import json
import sys
import time

import numpy
from sklearn.cluster import KMeans

points = numpy.fromfile(sys.argv[1], dtype=numpy.float32).reshape(-1, 6)
clusters, restarts = int(sys.argv[2]), int(sys.argv[3])
seconds, inertia = float(sys.argv[4]), float(sys.argv[5])

times = []
for _ in range(3):
    start = time.process_time()
    fitted = KMeans(clusters, n_init=restarts, random_state=0).fit(points)
    times.append(time.process_time() - start)
reference = sorted(times)[1]
excess = inertia / fitted.inertia_ - 1
print(
    json.dumps(
        {
            "name": "kmeans",
            "ours": seconds,
            "reference": reference,
            "unit": "s",
            "ratio": seconds / reference,
            "inertia_excess": excess,
            "points": len(points),
        }
    )
)
if excess > 0.01:
    sys.exit("kmeans: the inertia is more than 1 % above scikit-learn's")
