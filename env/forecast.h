// Where a job's loss would go by itself: the yardstick for harm.
#pragma once

#include <optional>
#include <span>

namespace attune {

struct CurvePoint {
  double compute_seconds = 0;  // since the job began; never falls
  double loss = 0;             // nats
};

struct Forecast {
  double loss = 0;   // expected at the compute asked for
  double noise = 0;  // standard deviation of the points about the fitted curve
};

// Weighted least squares of the loss on log(compute), later points weighing more (each point half
// as much as the one two behind it); the forecast never rises above the last point. Points before
// the first with compute are left out: a trainer need not say what it has spent. Nothing with fewer
// than three points, or for no compute.
[[nodiscard]] std::optional<Forecast> ForecastLoss(std::span<const CurvePoint> curve,
                                                   double compute_seconds);

}  // namespace attune
