// Jobs that were tuned in several ways, and what each way was worth: what attune-train teaches by.
//
// Jobs of the same name and seed form a group: like is compared with like, for the job
// explains most of what comes of it and the actions little. A critic learns from all groups what a
// plan is worth to a job (critic.h). By that, each job of a group has a weight beside the others
// and beside leaving the job alone.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "experiments/critic.h"
#include "store/store.h"

namespace attune {

// A job under one plan.
struct Episode {
  JobRecord job;
  std::vector<Trial> trials;    // that were somebody's decision
  std::vector<double> returns;  // from each of them to the end
  std::vector<double> weights;  // of each
  std::vector<double> plan;     // its traits
  double slowness = 0;          // of the machine: log of a step's compute over what it costs anyway
};

// The same job under several.
struct Group {
  std::vector<Episode> episodes;
  std::size_t number = 0;
  std::vector<double> job;  // its traits, as they were before anything was done
  double alone = 0;         // weight of leaving the job alone
};

// By what its jobs share, "NAME seed N": the finished jobs of these histories whose decisions may
// be learned from. Throws StoreError.
[[nodiscard]] std::map<std::string, Group> ReadGroups(const std::vector<std::string>& stores);

[[nodiscard]] BudgetKind KindOf(const Group& group);

// Of each episode of a group, in logs.
using Costs = std::vector<double> (*)(const Group&);
// Of the loss over the group's best, at most kLargestCost. With a budget in compute a machine that
// was slow for a while did fewer steps, which is no plan's doing: the loss is taken to be what it
// would have been at the group's usual speed, by the slope of its own curve.
[[nodiscard]] std::vector<double> LogLosses(const Group& group);
[[nodiscard]] std::vector<double> LogStepComputes(const Group& group);
inline constexpr double kLargestCost = 0.2;  // that is as bad as any

// Learns from all groups with a budget of one of these kinds; none where fewer than two of them
// have two runs.
[[nodiscard]] std::optional<Critic> MakeCritic(const std::vector<Group*>& groups,
                                               std::initializer_list<BudgetKind> kinds,
                                               Costs costs);

// Fills in the slowness of the episodes: what is left of the compute of their steps when the plans
// have explained their part, less its mean over the group.
void FindSlowness(Group& group, const Critic& step_compute);

struct Weighing {
  double temperature = 0.015;  // logs of loss over the best by which a plan counts 1/e
  double price = 0.12;         // of all compute, in logs of loss; for budgets in steps
  double harm = 8;             // how many times loss beyond that of the job left alone counts there
  double caution = 0.5;        // standard deviations by which a plan is taken to be worse
};
// Gives the decisions of each episode a weight, and leaving the job alone: by what the plans cost
// over that. With `compute`, a share of it that was saved is worth the price, but only at no harm.
void Weigh(Group& group, const Critic& loss, const Critic* compute, const Weighing& weighing);

// The same by what the next window alone brought, in standard deviations of the group's in that
// window: a greedy bandit, as a baseline.
void WeighGreedily(Group& group);

}  // namespace attune
