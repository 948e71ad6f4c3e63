#include "env/trust.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

namespace attune {
namespace {

constexpr std::size_t kWatched = 8;  // windows before anything is changed
constexpr double kMargin = 0.005;    // of the loss
// Standard errors: with as many looks as there are, of 8 to 20 points before, it takes a change
// that costs the margin for harmless in one job of twenty (tests/env/trust_test.cpp).
constexpr double kConfidence = 2.3;
constexpr std::size_t kMostTrusted = std::size_t{1} << 20U;  // heads
// A curve from before the job: what it did long ago counts too. Windows by which a point's weight
// halves.
constexpr double kHalfLife = 8;
// Noise is never taken for less than this share of the loss: a curve of few points fits too well.
constexpr double kNoiseFloor = 0.002;
constexpr std::size_t kLeastJudged = 2;  // windows: a change disturbs before it pays

// Heads that differ between the two.
std::size_t CountChanged(const Setting& before, const Setting& after) {
  std::size_t count = 0;
  for (std::size_t head = 0; head < before.active.size(); ++head) {
    const bool was = before.active[head] != 0;
    const bool is = after.active[head] != 0;
    const bool tuned =
        before.scale[head] != after.scale[head] || before.gain[head] != after.gain[head];
    if (was != is || (is && tuned)) ++count;
  }
  return count;
}

}  // namespace

Trust::Finding Trust::Judge(std::span<const CurvePoint> curve) {
  if (!unproven_ || curve.size() < unproven_->since + kLeastJudged) return Open{};
  const auto behind = curve.subspan(unproven_->since);
  const auto windows = static_cast<double>(behind.size());
  double loss = 0;
  double log_compute = 0;
  for (const CurvePoint& point : behind) {
    loss += point.loss / windows;
    log_compute += std::log(point.compute_seconds) / windows;
  }
  const auto forecast = ForecastLoss(unproven_->by_itself, std::exp(log_compute), kHalfLife);
  if (!forecast) return Open{};
  const double expected = forecast->line;
  const double noise = std::max(forecast->noise, kNoiseFloor * std::abs(expected));
  const double error = noise * std::sqrt(1 / windows + forecast->leverage);
  const double cost = loss - expected;
  if (!(cost <= tolerance_ * error)) {  // nor is NaN
    return Harm{unproven_->before,
                fmt::format("the mean loss of {} windows, {:.3f}, is behind its forecast {:.3f} by "
                            "{:.1f} standard errors since a trained model was changed",
                            behind.size(), loss, expected, cost / error)};
  }
  // Looked at behind 2, 4, 8 … windows: with every look more chance alone would do.
  const bool looks = std::has_single_bit(behind.size());
  if (!looks || !(cost + kConfidence * error <= kMargin * std::abs(expected))) return Open{};
  Forget();
  heads_ = std::min(2 * heads_, kMostTrusted);
  return Harmless{};
}

std::optional<std::string> Trust::WhyNot(std::span<const CurvePoint> by_itself, double left) const {
  if (Left() == 0) {
    return fmt::format(
        "its weights were trained before: what was changed ({}) is not shown to do "
        "no harm yet",
        changed_);
  }
  if (by_itself.size() < kWatched) {
    return fmt::format("its weights were trained before: watched for {} windows first", kWatched);
  }
  // What could be told, at best, of a change that was made now: by the middle of what is left.
  const double now = by_itself.back().compute_seconds;
  const double window =
      (now - by_itself.front().compute_seconds) / static_cast<double>(by_itself.size() - 1);
  const auto forecast = ForecastLoss(by_itself, std::sqrt(now * (now + left * window)), kHalfLife);
  if (!forecast) return "its weights were trained before, and it does not say what it has spent";
  const double noise = std::max(forecast->noise, kNoiseFloor * std::abs(forecast->line));
  const double error = noise * std::sqrt(1 / std::max(left, 1.0) + forecast->leverage);
  if (kConfidence * error <= kMargin * std::abs(forecast->line)) return std::nullopt;
  return fmt::format(
      "its weights were trained before, and its loss swings by {:.1f} % from window "
      "to window: too much to tell in time what a change would cost",
      100 * forecast->noise / std::abs(forecast->line));
}

void Trust::Changed(std::size_t points, std::vector<CurvePoint> by_itself, Setting before,
                    const Setting& after) {
  if (unproven_ && after == unproven_->before) {
    Forget();
    return;
  }
  changed_ += CountChanged(before, after);
  if (!unproven_) unproven_ = Unproven{std::move(before), points, std::move(by_itself), 0};
  unproven_->since = points + 1;  // the window that it came into is of both
}

}  // namespace attune
