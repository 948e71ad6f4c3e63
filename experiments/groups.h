// Jobs that were tuned in several ways, and what each way was worth: what attune-train teaches by.
//
// Jobs of the same name and seed form a group: like is compared with like, for the job
// explains most of what comes of it and the actions little. A critic learns from all groups what a
// plan is worth to a job (critic.h). By that, each job of a group has a weight beside the others
// and beside leaving the job alone.
#pragma once

#include <cstddef>
#include <cstdint>
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
  std::vector<double> plan;     // its traits, all 0 where nothing was done
};

// The same job under several.
struct Group {
  std::vector<Episode> episodes;
  std::size_t number = 0;
  std::vector<double> job;  // its traits, before anything was done where a run shows them so
  double alone = 0;         // weight of leaving the job alone
};

// By what its jobs share (name, seed, budget, rate, optimiser, sites): the finished jobs of these
// histories whose decisions may be learned from. Throws StoreError.
[[nodiscard]] std::map<std::string, Group> ReadGroups(const std::vector<std::string>& stores);

[[nodiscard]] BudgetKind KindOf(const Group& group);

// Of each episode's loss over that of the job left alone (where none was, the group's best), in
// logs, from -kLargestGain to kLargestCost: more is as good, or as bad, as any.
[[nodiscard]] std::vector<double> LogLosses(const Group& group);
inline constexpr double kLargestGain = 0.3;
inline constexpr double kLargestCost = 0.1;

// Learns from all groups with a budget of this kind; none where fewer than two of them have two
// runs.
[[nodiscard]] std::optional<Critic> MakeCritic(const std::vector<Group*>& groups, BudgetKind kind);

struct Weighing {
  double temperature = 0.004;  // logs of loss over the best by which a plan counts 1/e
  double price = 0.05;         // of all compute, in logs of loss; for budgets in steps
  double harm = 8;             // how many times loss beyond that of the job left alone counts
  double caution = 0.5;        // standard deviations by which a plan is taken to be worse
};
// Gives the decisions of each episode a weight, and leaving the job alone: by what the plans cost
// over that. With a budget in steps the share of compute that was saved is worth the price. All
// plans together have one vote against leaving the job alone, and a job counts by what is at stake:
// by how far its best and its worst plan are apart.
void Weigh(Group& group, const Critic& loss, const Weighing& weighing);
// The same by what the next window alone brought, in standard deviations of the group's in that
// window: a greedy bandit, as a baseline.
void WeighGreedily(Group& group);

// Whether all heads are active with their logits as they are.
[[nodiscard]] bool IsUntouched(const State& state);

}  // namespace attune
