#include "agent/sweep/statistics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <string_view>
#include <vector>

namespace attune::sweep {
namespace {

double Average(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

// Linearly interpolated quantile of sorted values.
double Quantile(std::span<const double> sorted, double q) {
  const double place = q * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (place - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

// What is drawn at once.
struct Cluster {
  double sum = 0;
  double count = 0;
};

// The values of each cluster; where there is but one, each value.
std::vector<Cluster> Clusters(std::span<const double> values, std::span<const std::string> of) {
  std::map<std::string_view, Cluster> named;
  for (std::size_t i = 0; i < of.size(); ++i) {
    Cluster& cluster = named[of[i]];
    cluster.sum += values[i];
    ++cluster.count;
  }
  std::vector<Cluster> clusters;
  if (named.size() > 1) {
    for (const auto& [name, cluster] : named) clusters.push_back(cluster);
  } else {
    for (const double value : values) clusters.push_back({value, 1});
  }
  return clusters;
}

}  // namespace

Interval Mean(std::span<const double> values, std::span<const std::string> of) {
  Interval interval{Average(values), std::nullopt, std::nullopt, values.size()};
  if (values.size() < 2) return interval;
  const std::vector<Cluster> clusters = Clusters(values, of);
  std::mt19937_64 random(kBootstrapSeed);
  std::vector<double> means(kResamples);
  for (double& mean : means) {
    Cluster drawn;
    for (std::size_t i = 0; i < clusters.size(); ++i) {
      // The same draws on every machine; the bias of the remainder is below 2^-40.
      const Cluster& cluster = clusters[random() % clusters.size()];
      drawn.sum += cluster.sum;
      drawn.count += cluster.count;
    }
    mean = drawn.sum / drawn.count;
  }
  std::ranges::sort(means);
  interval.low = Quantile(means, 0.025);
  interval.high = Quantile(means, 0.975);
  return interval;
}

Interval GeometricMean(std::span<const double> values, std::span<const std::string> of) {
  if (std::ranges::any_of(values, [](double value) { return std::isinf(value); })) {
    return {std::numeric_limits<double>::infinity(), std::nullopt, std::nullopt, values.size()};
  }
  std::vector<double> logarithms;
  for (const double value : values) logarithms.push_back(std::log(value));
  Interval interval = Mean(logarithms, of);
  interval.mean = std::exp(interval.mean);
  if (interval.low) interval.low = std::exp(*interval.low);
  if (interval.high) interval.high = std::exp(*interval.high);
  return interval;
}

std::optional<double> ComputeToTarget(std::span<const Point> points, double target, bool minimize) {
  const auto reached = [&](double value) { return minimize ? value <= target : value >= target; };
  for (std::size_t i = 0; i < points.size(); ++i) {
    if (!reached(points[i].value)) continue;
    if (i == 0 || points[i].value == points[i - 1].value) return points[i].compute;
    const Point& before = points[i - 1];
    const double share = (target - before.value) / (points[i].value - before.value);
    return before.compute + share * (points[i].compute - before.compute);
  }
  return std::nullopt;
}

std::optional<double> ValueAt(std::span<const Point> points, double compute) {
  for (std::size_t i = 0; i < points.size(); ++i) {
    if (points[i].compute < compute) continue;
    if (points[i].compute == compute) return points[i].value;
    if (i == 0) return std::nullopt;
    const Point& before = points[i - 1];
    const double share = (compute - before.compute) / (points[i].compute - before.compute);
    return before.value + share * (points[i].value - before.value);
  }
  return std::nullopt;
}

}  // namespace attune::sweep
