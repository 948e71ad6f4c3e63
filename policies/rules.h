// The policies that need no learning. Each is defined in the file of its name.
#pragma once

#include <memory>
#include <string_view>

#include "policies/policy.h"

namespace attune {

// Changes nothing.
[[nodiscard]] std::unique_ptr<Policy> MakeKeep();
// Uniform over the allowed choices, with the probability logged: a baseline, and exploration.
[[nodiscard]] std::unique_ptr<Policy> MakeRandom();
// Clusters the heads by k-means++ and follows a stated rule for every kind of cluster (kmeans.cpp).
[[nodiscard]] std::unique_ptr<Policy> MakeKMeans();
// The per-head rule of Kimi K2 (2507.20534): a head whose largest logit exceeds tau = 100 has its
// logits divided by 4 or 1.5, whichever is nearer to largest logit / tau.
[[nodiscard]] std::unique_ptr<Policy> MakeQkClip();

// Half of the heads pruned by their gates' gradient, as Michel et al. (1905.10650) do.
[[nodiscard]] std::unique_ptr<Policy> MakeImportance();
// A plan drawn for each job from its key and held to its end: what networks learn from
// (explore.cpp).
[[nodiscard]] std::unique_ptr<Policy> MakeExplore();

}  // namespace attune
