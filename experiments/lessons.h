// What a network is taught from groups of jobs whose plans have their weights (groups.h):
// decisions, each with how much it counts.
#pragma once

#include <cstdint>
#include <vector>

#include "experiments/groups.h"
#include "policies/network.h"

namespace attune {

// The decisions of the episodes as they were made, each by its own weight.
[[nodiscard]] std::vector<Sample> DecisionsOf(const std::vector<Group*>& groups);

// What the plans that are worth it would have done. A plan is taught in the states of its own run;
// and, early in the budget, in those of all other runs of its job: to go where its run was by then.
// So a policy learns one way for a job, from wherever it stands, where plans that are mixed lead
// nowhere. To leave the job alone is one of the plans: to go no further, wherever it stands.
// Decisions of other plans have no weight, and teach the value alone. Where no job of a name was
// decided on before its first step, the lesson is to keep everything there.
[[nodiscard]] std::vector<Sample> LessonsOf(const std::vector<Group*>& groups);

// The action that brings a job from where it stood in `trial` nearest to `goal`, which another run
// of the same weights had come to by then, with the heads that are active behind it. Heads that the
// goal does not tell apart stay, or come in, by `score`. Heads that are not active at the goal are
// to have the scale of those of their site that are. Before the first step none comes in.
struct Step {
  Action action;
  std::vector<std::uint8_t> active;
};
[[nodiscard]] Step Towards(const Trial& trial, const Setting& goal,
                           const std::vector<float>& score);
// The run's last decision in or before the window of `trial`, its first one at the earliest; of one
// before the first step, the last of those. None where it has none of them.
[[nodiscard]] const Trial* TrialAt(const Episode& episode, const Trial& trial);

}  // namespace attune
