// Small jobs for the tests of the agent.
#pragma once

#include <cstdint>
#include <string>

#include "collectors/messages.h"
#include "env/observation.h"

namespace attune::test {

// A job of two sites of four heads with a budget of 100 processor seconds.
inline Hello SmallJob(const std::string& key = "key") {
  Hello hello;
  hello.job.key = key;
  hello.job.name = "small";
  hello.job.topology.sites = {{"first", SiteKind::kSelf, true, 4, 8, 64},
                              {"second", SiteKind::kSelf, true, 4, 8, 64}};
  hello.job.budget = {BudgetKind::kCompute, 100.0, 0.01};
  hello.job.fresh = true;
  hello.setting = Setting::Neutral(8);
  return hello;
}

// A measured step of that job, one second of compute a step, with healthy heads.
inline Observation HealthyStep(std::uint64_t step, double loss, const Setting& setting) {
  Observation observation;
  observation.step = step;
  observation.compute_seconds = static_cast<double>(step);
  observation.loss = loss;
  observation.attention_share = 0.1F;
  observation.active = setting.active;
  const std::size_t heads = setting.active.size();
  observation.metrics.assign(heads * kMetrics, 0.0F);
  observation.profile.assign(heads * kProfileBins, 0.0F);
  for (std::size_t head = 0; head < heads; ++head) {
    if (setting.active[head] == 0) continue;
    float* metrics = &observation.metrics[head * kMetrics];
    metrics[static_cast<std::size_t>(Metric::kEntropy)] = 0.6F;
    metrics[static_cast<std::size_t>(Metric::kLargestLogit)] = 3.0F;
    metrics[static_cast<std::size_t>(Metric::kTopWeight)] = 0.3F;
    metrics[static_cast<std::size_t>(Metric::kFirstTokenMass)] = 0.1F;
    metrics[static_cast<std::size_t>(Metric::kOutputNorm)] = 1.0F;
    metrics[static_cast<std::size_t>(Metric::kImportance)] = 0.1F;
    metrics[static_cast<std::size_t>(Metric::kRedundancy)] = 0.4F;
    for (std::size_t bin = 0; bin < kProfileBins; ++bin) {
      observation.profile[head * kProfileBins + bin] = 1.0F / kProfileBins;
    }
  }
  return observation;
}

}  // namespace attune::test
