// The forecast of a job's loss: a weighted line in log(compute).
#include "env/forecast.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace attune {
namespace {

constexpr std::size_t kLeastPoints = 3;

bool HasLog(double compute_seconds) {
  return compute_seconds > 0 && std::isfinite(compute_seconds);
}

}  // namespace

std::optional<Forecast> ForecastLoss(std::span<const CurvePoint> curve, double compute_seconds,
                                     double half_life) {
  const auto measured = std::ranges::find_if(
      curve, [](const CurvePoint& point) { return HasLog(point.compute_seconds); });
  curve = curve.subspan(static_cast<std::size_t>(measured - curve.begin()));
  if (curve.size() < kLeastPoints || !HasLog(compute_seconds)) return std::nullopt;
  const double target = std::log(compute_seconds);
  const auto weight = [&](std::size_t i) {
    return std::exp2(-static_cast<double>(curve.size() - 1 - i) / half_life);
  };
  double total = 0;
  double total_squares = 0;
  double mean_x = 0;
  double mean_loss = 0;
  for (std::size_t i = 0; i < curve.size(); ++i) {
    const double w = weight(i);
    total += w;
    total_squares += w * w;
    mean_x += w * std::log(curve[i].compute_seconds);
    mean_loss += w * curve[i].loss;
  }
  mean_x /= total;
  mean_loss /= total;
  double spread = 0;
  double product = 0;
  for (std::size_t i = 0; i < curve.size(); ++i) {
    const double x = std::log(curve[i].compute_seconds) - mean_x;
    spread += weight(i) * x * x;
    product += weight(i) * x * (curve[i].loss - mean_loss);
  }
  const double slope = spread > 0 ? product / spread : 0;
  double squares = 0;
  for (std::size_t i = 0; i < curve.size(); ++i) {
    const double x = std::log(curve[i].compute_seconds) - mean_x;
    const double residual = curve[i].loss - mean_loss - slope * x;
    squares += weight(i) * residual * residual;
  }
  // Points of unequal weight count as Kish's effective number of equal ones; two of them are spent
  // on the line.
  const double points = total * total / total_squares;
  const double variance = squares / total * points / std::max(points - 2, 1.0);
  const double away = target - mean_x;
  const double line = mean_loss + slope * away;
  return Forecast{.loss = std::min(line, curve.back().loss),
                  .noise = std::sqrt(variance),
                  .line = line,
                  .leverage = (1 + (spread > 0 ? away * away * total / spread : 0)) / points};
}

}  // namespace attune
