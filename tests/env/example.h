// A small job for the tests of env/: two sites, the first with four heads, the second with two.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "env/job.h"
#include "env/observation.h"
#include "env/topology.h"

namespace attune {

inline Topology ExampleTopology() {
  return {.sites = {{.name = "block0.attention",
                     .kind = SiteKind::kSelf,
                     .causal = true,
                     .heads = 4,
                     .head_width = 16,
                     .context = 64},
                    {.name = "block1.cross",
                     .kind = SiteKind::kCross,
                     .causal = false,
                     .heads = 2,
                     .head_width = 32,
                     .context = 256}}};
}

inline JobSpec ExampleSpec() {
  return {.key = "run-1",
          .name = "a small job",
          .topology = ExampleTopology(),
          .budget = {.kind = BudgetKind::kCompute, .amount = 100, .price = 0.01},
          .seed = 7,
          .learning_rate = 1e-3};
}

// Every head active, with a uniform profile and metrics that differ from head to head.
inline Observation ExampleObservation(const Topology& topology) {
  const std::size_t heads = topology.Heads();
  Observation observation;
  observation.step = 10;
  observation.compute_seconds = 1;
  observation.loss = 2;
  observation.attention_share = 0.25F;
  observation.active.assign(heads, 1);
  observation.profile.assign(heads * kProfileBins, 1.0F / kProfileBins);
  for (std::size_t head = 0; head < heads; ++head) {
    const float part = static_cast<float>(head + 1) / static_cast<float>(heads + 1);
    const float metrics[kMetrics] = {part, 3 * part, 1 - part, part / 2, 2 * part, part, part / 3};
    observation.metrics.insert(observation.metrics.end(), std::begin(metrics), std::end(metrics));
  }
  return observation;
}

inline void SetInactive(Observation& observation, std::size_t head) {
  observation.active[head] = 0;
  std::fill_n(observation.metrics.begin() + static_cast<long>(head * kMetrics), kMetrics, 0.0F);
  std::fill_n(observation.profile.begin() + static_cast<long>(head * kProfileBins), kProfileBins,
              0.0F);
}

// All of the head's attention on one bin.
inline void SetOneHot(Observation& observation, std::size_t head, std::size_t bin) {
  for (std::size_t b = 0; b < kProfileBins; ++b) {
    observation.profile[head * kProfileBins + b] = b == bin ? 1.0F : 0.0F;
  }
}

inline bool Contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace attune
