// Means with intervals, and how soon a curve reaches a target.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "agent/sweep/plan.h"

namespace attune::sweep {

inline constexpr std::uint64_t kBootstrapSeed = 0;
inline constexpr std::size_t kResamples = 10'000;

// A mean with its 95 % interval by the percentile bootstrap (Efron 1979): kResamples resamples of
// the values with replacement, drawn from kBootstrapSeed, so that the same values give the same
// interval. Fewer than two values have none. For pairs give their differences. Where `of` says to
// which cluster each value belongs, and there are several, these are drawn with all their values
// (the cluster bootstrap: Davison and Hinkley 1997, 3.8): the seeds of a job are more alike than
// jobs, and another seed is not another job.
struct Interval {
  double mean = 0;
  std::optional<double> low, high;
  std::size_t count = 0;
};
// `values` must not be empty, and `of` empty or as long.
[[nodiscard]] Interval Mean(std::span<const double> values, std::span<const std::string> of = {});
// Of the logarithms, carried back. Values must be above 0; infinity is allowed and swallows all.
[[nodiscard]] Interval GeometricMean(std::span<const double> values,
                                     std::span<const std::string> of = {});

// The least compute at which the curve is at the target or beyond it, linearly between points;
// nothing where it never is. `points` in the order in which they were reported.
[[nodiscard]] std::optional<double> ComputeToTarget(std::span<const Point> points, double target,
                                                    bool minimize);

// The curve's value at `compute`: the last point's at or before it, linearly between points;
// nothing before the first and behind the last.
[[nodiscard]] std::optional<double> ValueAt(std::span<const Point> points, double compute);

}  // namespace attune::sweep
