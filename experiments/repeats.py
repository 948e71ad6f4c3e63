#!/usr/bin/env python3
"""How far what few heads do to a job is the same under another seed.

Usage: python3 experiments/repeats.py STORE…

STORE: the attune.db of a sweep of experiments/suites/train.toml that has `keep` and plans of
`explore` of two seeds or more. Of each job and seed: the mean log of the loss over that of `keep`
(in percent, each from -15 to +15) of the plans that hold a site at a quarter of its heads or fewer
and leave the logits as they are or tune them. Prints, for each kind of budget, the jobs that have
it under two seeds, the mean under either, and the correlation between the two.
"""

import math
import re
import sqlite3
import sys
from collections import defaultdict
from itertools import combinations

PLAN = re.compile(r"its plan: ([0-9.]+) of the heads(?! from the first step)(?!, to)(?!.*× 4)")


def read(stores):
    """The plans' percents by budget and job, then seed."""
    alone, tuned = {}, []
    for store in stores:
        base = sqlite3.connect(f"file:{store}?mode=ro", uri=True)
        for job, name, seed, policy, budget, loss in base.execute(
            "SELECT id, name, seed, policy, budget_kind, validation_loss FROM jobs "
            "WHERE outcome = 1 AND validation_loss > 0"
        ):
            if policy == "keep":
                alone[name, seed] = loss
                continue
            row = base.execute(
                "SELECT why FROM trials WHERE job = ? AND why LIKE 'its plan: %' LIMIT 1", [job]
            ).fetchone()
            plan = row and PLAN.match(row[0])
            if plan and float(plan[1]) <= 0.25:
                tuned.append((budget, name, seed, loss))
    percents = defaultdict(lambda: defaultdict(list))
    for budget, name, seed, loss in tuned:
        if (name, seed) in alone:
            percent = 100 * math.log(loss / alone[name, seed])
            percents[budget, name][seed].append(max(-15, min(15, percent)))
    return percents


def mean(values):
    """Of at least one."""
    values = list(values)
    return sum(values) / len(values)


def correlation(pairs):
    """Pearson's."""
    middles = [mean(pair[side] for pair in pairs) for side in (0, 1)]
    off = [(a - middles[0], b - middles[1]) for a, b in pairs]
    return sum(a * b for a, b in off) / math.sqrt(
        sum(a * a for a, _ in off) * sum(b * b for _, b in off)
    )


def main():
    """Prints a line for each kind of budget."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__.strip())
        sys.exit(0 if len(sys.argv) > 1 else 2)
    percents = read(sys.argv[1:])
    print("| budget | jobs | mean under a seed, under another | correlation |\n|---|---|---|---|")
    for kinds, label in (([0, 1], "any"), ([0], "seconds"), ([1], "steps")):
        pairs, jobs = [], 0
        for (budget, _), seeds in percents.items():
            if budget in kinds and len(seeds) > 1:
                jobs += 1
                means = [mean(seeds[seed]) for seed in sorted(seeds)]
                pairs += combinations(means, 2)
        if len(pairs) > 2:
            sides = ", ".join(f"{mean(pair[side] for pair in pairs):+.1f} %" for side in (0, 1))
            print(f"| {label} | {jobs} | {sides} | {correlation(pairs):.2f} |")


if __name__ == "__main__":
    main()
