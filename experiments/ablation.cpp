#include "experiments/ablation.h"

#include <algorithm>
#include <boost/math/statistics/bivariate_statistics.hpp>
#include <cmath>
#include <cstdint>
#include <functional>

namespace attune {
namespace {

using Active = std::vector<std::vector<std::uint8_t>>;  // of each layer, [heads]

void Set(LanguageModel& model, const Active& active) {
  for (std::size_t layer = 0; layer < active.size(); ++layer) {
    const std::vector<float> neutral(active[layer].size(), 1.0F);
    model->blocks[layer]->attention->Apply(neutral, neutral, active[layer]);
  }
}

Active All(const LanguageModel& model) {
  Active active;
  for (const Block& block : model->blocks) {
    active.emplace_back(block->attention->Current().active.size(), 1);
  }
  return active;
}

// The place of each value among them, from the least; equal ones share the mean of theirs.
std::vector<double> Ranks(const std::vector<double>& values) {
  std::vector<double> ranks;
  for (const double value : values) {
    const auto less = std::ranges::count_if(values, [&](double other) { return other < value; });
    const auto equal = std::ranges::count(values, value);
    ranks.push_back(static_cast<double>(less) + static_cast<double>(equal - 1) / 2);
  }
  return ranks;
}

}  // namespace

std::vector<HeadWorth> Ablate(LanguageModel& model, const std::vector<TextBatch>& batches) {
  Active active = All(model);
  model->train();  // as it is measured
  std::vector<HeadWorth> worth;
  for (std::size_t layer = 0; layer < active.size(); ++layer) {
    for (std::size_t head = 0; head < active[layer].size(); ++head) {
      worth.push_back({.layer = layer, .head = head});
    }
  }
  for (const TextBatch& batch : batches) {
    for (Block& block : model->blocks) block->attention->MeasureNext(1, 1);
    Loss(model, batch).backward();
    std::size_t first = 0;
    for (Block& block : model->blocks) {
      const auto measured = block->attention->TakeMeasurement();
      const std::size_t heads = block->attention->Current().active.size();
      for (std::size_t head = 0; measured && head < heads; ++head) {
        const std::size_t place = head * kMetrics + static_cast<std::size_t>(Metric::kImportance);
        worth[first + head].importance +=
            measured->metrics[place] / static_cast<double>(batches.size());
      }
      first += heads;
    }
    model->zero_grad();
  }
  const double whole = Evaluate(model, batches);
  for (HeadWorth& head : worth) {
    active[head.layer][head.head] = 0;
    Set(model, active);
    head.cost = std::log(Evaluate(model, batches) / whole);
    active[head.layer][head.head] = 1;
  }
  Set(model, active);
  return worth;
}

std::size_t CountFree(LanguageModel& model, const std::vector<TextBatch>& batches,
                      const std::vector<HeadWorth>& worth, double margin) {
  Active active = All(model);
  const double whole = Evaluate(model, batches);
  std::vector<HeadWorth> cheapest = worth;
  std::ranges::sort(cheapest, {}, &HeadWorth::cost);
  std::size_t count = 0;
  for (const HeadWorth& head : cheapest) {
    if (CountActive(active[head.layer]) == 1) continue;
    active[head.layer][head.head] = 0;
    Set(model, active);
    const bool is_free = std::log(Evaluate(model, batches) / whole) <= margin;
    if (!is_free) active[head.layer][head.head] = 1;
    count += is_free ? 1 : 0;
  }
  Set(model, All(model));
  return count;
}

double RankCorrelation(const std::vector<HeadWorth>& worth) {
  std::vector<double> costs;
  std::vector<double> importances;
  for (const HeadWorth& head : worth) {
    costs.push_back(head.cost);
    importances.push_back(head.importance);
  }
  const std::vector<double> by_cost = Ranks(costs);
  const std::vector<double> by_importance = Ranks(importances);
  const bool is_flat =
      std::ranges::adjacent_find(by_cost, std::ranges::not_equal_to{}) == by_cost.end();
  if (is_flat) return 0;  // of two that are flat the library says 1
  return boost::math::statistics::correlation_coefficient(by_cost, by_importance);
}

}  // namespace attune
