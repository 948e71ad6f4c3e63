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
  double loss = 0;      // expected at the compute asked for: the line, or the last point if lower
  double noise = 0;     // standard deviation of the points about the fitted line
  double line = 0;      // the line itself there, which may rise
  double leverage = 0;  // variance of that value of the line, in variances of a point
};

// Weighted least squares of the loss on log(compute), later points weighing more (each point half
// as much as the one `half_life` points behind it). Points before
// the first with compute are left out: a trainer need not say what it has spent. Nothing with fewer
// than three points, or for no compute.
[[nodiscard]] std::optional<Forecast> ForecastLoss(std::span<const CurvePoint> curve,
                                                   double compute_seconds, double half_life = 2);

}  // namespace attune
