"""The tables of policies/network.md, from the report of heldout.toml. Needs numpy.

python3 experiments/tables.py [experiments/results/heldout.json]

Geometric means; intervals of 95 % by 10,000 resamples of the texts and shapes (`clusters` of the
suite), each with all its runs. They differ from the report's own in the third digit: the draws do.
"""

import json
import sys
from collections import defaultdict

import numpy as np

# The healthy twin of the sick jobs, by the unit of their budget: kind and text.
HEALTHY = {"seconds": ("balanced", "perl"), "steps": ("long", "licences")}
SICK = ("hot", "cold", "fast", "dead", "identical")


def loss(run):
    """At the end, in nats."""
    return run["value"]


def compute(run):
    """Reference seconds of training."""
    return run["compute"]


class Report:
    """Finished runs by policy, then by job and seed."""

    def __init__(self, file):
        with open(file) as stream:
            runs = json.load(stream)["runs"]
        self.jobs = {}  # by their parameters, in the suite's order
        self.of = defaultdict(dict)
        for run in runs:
            if run["ending"] != "finished" or run["value"] is None:
                continue
            job = json.dumps(run["parameters"], sort_keys=True)
            self.jobs[job] = run["parameters"]
            self.of[run["policy"]][job, run["seed"]] = run

    def pairs(self, policy, other, choose=lambda parameters: True):
        """Of the jobs that are chosen, what both have run."""
        return [
            (run, self.of[other][key])
            for key, run in self.of[policy].items()
            if key in self.of[other] and choose(run["parameters"])
        ]


def ratio(pairs, of=loss):
    """The geometric mean of the first's over the second's, with its interval."""
    if not pairs:
        return ""
    sums, counts = defaultdict(float), defaultdict(int)
    for run, other in pairs:
        cluster = tuple(run["parameters"][name] for name in ("data", "task", "context"))
        sums[cluster] += np.log(of(run) / of(other))
        counts[cluster] += 1
    total, count = np.array(list(sums.values())), np.array(list(counts.values()))
    draws = np.random.default_rng(0).integers(0, len(total), (10_000, len(total)))
    means = total[draws].sum(1) / count[draws].sum(1)
    numbers = (total.sum() / count.sum(), *np.quantile(means, [0.025, 0.975]))
    return "{:.3f} [{:.3f}, {:.3f}]".format(*np.exp(numbers))


def by_policy(report):
    """One row a policy."""
    budgets = "loss over untuned | budget in seconds | in steps | compute in steps"
    yield f"policy | pairs | {budgets} | the network over it"
    for policy in report.of:
        if policy in ("untuned", "longer"):
            continue
        all_pairs = report.pairs(policy, "untuned")
        in_seconds, in_steps = (
            report.pairs(policy, "untuned", lambda job, unit=unit: job["unit"] == unit)
            for unit in ("seconds", "steps")
        )
        figures = [ratio(all_pairs), ratio(in_seconds), ratio(in_steps), ratio(in_steps, compute)]
        over = "" if policy == "network" else ratio(report.pairs("network", policy))
        yield " | ".join([policy, str(len(all_pairs)), *figures, over])


def by_job(report):
    """One row a job: percent of the loss above the untuned run's of the same seed."""
    yield "job | budget | untuned | network | compute | heads | grow | kmeans | best of the grid"
    for job in report.jobs.values():

        def own(parameters, job=job):
            return parameters == job

        def over(policy, of=loss, own=own):
            pairs = report.pairs(policy, "untuned", own)
            return np.array([of(run) / of(other) for run, other in pairs])

        def mean(policy, over=over):
            return 100 * (np.exp(np.log(over(policy)).mean()) - 1)

        grid = [(0.0, "untuned")]
        grid += [
            (mean(name), name) for name in report.of if name[:6] == "static" and len(over(name))
        ]
        percent = 100 * (over("network") - 1)
        cost = np.exp(np.log(over("network", compute)).mean())
        tuned = [run for run, _ in report.pairs("network", "untuned", own)]
        untuned = [run["value"] for run, _ in report.pairs("untuned", "untuned", own)]
        yield " | ".join(
            [
                f"{job['kind']}, {job['data']}, {job['task']}, {job['optimizer']}",
                f"{job['budget']} {job['unit']}",
                f"{np.mean(untuned):.3f}",
                f"{mean('network'):+.1f} % ({percent.min():+.1f} to {percent.max():+.1f})",
                f"{cost:.2f}" if job["unit"] == "steps" else "",
                f"{np.mean([run['fields']['active_share'] for run in tuned]):.2f}",
                f"{mean('grow'):+.1f} %",
                f"{mean('kmeans'):+.1f} %",
                "{1} {0:+.1f} %".format(*min(grid)),
            ]
        )


def of_the_grid(report, policy, choose):
    """Of what the best static setting of each job gains, in nats: the share that a policy does."""
    gain = most = 0.0
    for job in filter(choose, report.jobs.values()):

        def mean(name, job=job):
            pairs = report.pairs(name, "untuned", lambda parameters: parameters == job)
            return np.mean([loss(other) - loss(run) for run, other in pairs])

        gain += mean(policy)
        most += max(0.0, *(mean(name) for name in report.of if name[:6] == "static"))
    return f"{gain / most:.3f}"


def by_part(report):
    """The network over others: on all jobs, on text and recommendation, on all else."""

    def others(job):
        return job["kind"] in ("vision", "speech", "graph")

    parts = (lambda _: True, lambda job: not others(job), others)
    yield "the network over | all | text and recommendation | vision, speech, graph"
    policies = ("untuned", "offline", "heads-only", "lot", "kmeans")
    for policy in (*policies, "static-1", "static-2", "grow"):
        yield " | ".join(
            [policy, *(ratio(report.pairs("network", policy, part)) for part in parts)]
        )
    figures = [ratio(report.pairs("offline", "lot", part)) for part in parts]
    yield " | ".join(["offline over lot", *figures])
    for policy in ("network", "offline", "lot", "static-1", "static-2"):
        shares = [of_the_grid(report, policy, part) for part in parts]
        yield " | ".join([f"of what the best of the grid gains: {policy}", *shares])


def by_sickness(report):
    """The gap to the untuned healthy twin that is closed; and less what the twin gains too."""
    policies = ("network", "lot", "grow", "static-1", "kmeans")
    yield " | ".join(["sick job", *policies])
    for sick in report.jobs.values():
        if sick["kind"] not in SICK:
            continue
        kind, data = HEALTHY[sick["unit"]]
        (twin,) = (
            name for name, job in report.jobs.items() if (job["kind"], job["data"]) == (kind, data)
        )
        cells = []
        for policy in policies:
            closed = gap = healed = 0.0
            for run, untuned in report.pairs(policy, "untuned", lambda job, sick=sick: job == sick):
                seed = run["seed"]
                if (twin, seed) not in report.of[policy]:
                    continue
                healthy = loss(report.of["untuned"][twin, seed])
                gain = loss(untuned) - loss(run)
                closed += gain
                healed += gain - (healthy - loss(report.of[policy][twin, seed]))
                gap += loss(untuned) - healthy
            cells.append(f"{closed / gap:.2f} ({healed / gap:.2f})" if gap else "")
        yield " | ".join([f"{sick['kind']}, {sick['unit']}", *cells])


def main():
    report = Report(sys.argv[1] if len(sys.argv) > 1 else "experiments/results/heldout.json")
    for table in (by_policy, by_job, by_part, by_sickness):
        for row in table(report):
            print(f"| {row} |")
        print()


if __name__ == "__main__":
    main()
