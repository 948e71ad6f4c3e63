// Tests of the loss forecast.
#include "env/forecast.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <vector>

namespace attune {
namespace {

std::vector<CurvePoint> Line(double a, double b, std::size_t points) {
  std::vector<CurvePoint> curve;
  for (std::size_t i = 1; i <= points; ++i) {
    const auto compute = 3.0 * static_cast<double>(i);
    curve.push_back({compute, a + b * std::log(compute)});
  }
  return curve;
}

TEST_CASE("the forecast is exact on a line in log compute") {
  for (const std::size_t points : {3, 4, 20, 200}) {
    const auto forecast = ForecastLoss(Line(5, -0.7, points), 1000);
    REQUIRE(forecast);
    CHECK(forecast->loss == Approx(5 - 0.7 * std::log(1000.0)));
    CHECK(forecast->noise == Approx(0).margin(1e-9));
  }
}

TEST_CASE("the forecast never rises above the last point") {
  const auto curve = Line(1, 0.5, 10);
  CHECK(ForecastLoss(curve, 1000)->loss == curve.back().loss);
}

TEST_CASE("the line may rise, and is known the less the farther it is from its points") {
  const auto curve = Line(1, 0.5, 10);
  CHECK(ForecastLoss(curve, 1000)->line == Approx(1 + 0.5 * std::log(1000.0)));
  // Of equal points at one compute the mean has the variance of one over their number.
  const std::vector<CurvePoint> alike(8, {10, 2});
  CHECK(ForecastLoss(alike, 50, 1e9)->leverage == Approx(1.0 / 8));
  CHECK(ForecastLoss(alike, 50)->leverage > 1.0 / 8);
  CHECK(ForecastLoss(curve, 1000)->leverage > ForecastLoss(curve, 30)->leverage);
}

TEST_CASE("fewer than three points give no forecast") {
  CHECK(ForecastLoss(Line(5, -0.7, 2), 10) == std::nullopt);
  CHECK(ForecastLoss({}, 10) == std::nullopt);
}

TEST_CASE("later points weigh more") {
  // The loss fell fast until the tenth point and slowly since.
  std::vector<CurvePoint> curve = Line(5, -0.7, 10);
  const double bend = curve.back().loss;
  for (std::size_t i = 11; i <= 30; ++i) {
    const auto compute = 3.0 * static_cast<double>(i);
    curve.push_back({compute, bend - 0.1 * std::log(compute / 30)});
  }
  const auto forecast = ForecastLoss(curve, 93);
  CHECK(forecast->loss == Approx(bend - 0.1 * std::log(93.0 / 30)).margin(0.01));
  // The line through all points alike would have gone on falling by about 0.4 for each e-fold.
  CHECK(forecast->loss > bend - 0.2 * std::log(93.0 / 30));
}

TEST_CASE("the weighted residuals give the noise") {
  // Losses +s and −s in turn about a line: every residual is near s.
  std::vector<CurvePoint> curve = Line(5, -0.7, 60);
  for (std::size_t i = 0; i < curve.size(); ++i) curve[i].loss += i % 2 == 0 ? 0.05 : -0.05;
  const double noise = ForecastLoss(curve, 200)->noise;
  CHECK(noise > 0.045);
  CHECK(noise < 0.075);
}

TEST_CASE("points at one compute forecast their mean") {
  const std::vector<CurvePoint> curve = {{10, 2}, {10, 2}, {10, 2}};
  CHECK(ForecastLoss(curve, 50)->loss == Approx(2));
  CHECK(ForecastLoss(curve, 50)->noise == Approx(0).margin(1e-12));
}

TEST_CASE("a job that does not say what it has spent has no forecast") {
  const auto curve = Line(5, -0.7, 5);
  CHECK(ForecastLoss(curve, 0) == std::nullopt);
  CHECK(ForecastLoss(curve, -1) == std::nullopt);
  CHECK(ForecastLoss(curve, std::numeric_limits<double>::quiet_NaN()) == std::nullopt);
  CHECK(ForecastLoss(std::vector<CurvePoint>(9, {0, 2}), 0) == std::nullopt);
  // From the first point on at which it does, it has one.
  std::vector<CurvePoint> late(3, {0, 9});
  late.insert(late.end(), curve.begin(), curve.end());
  CHECK(ForecastLoss(late, 1000)->loss == Approx(5 - 0.7 * std::log(1000.0)));
}

}  // namespace
}  // namespace attune
