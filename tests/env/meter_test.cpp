// Tests of the attention balance meter against closed forms.
#include "env/meter.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <numbers>
#include <stdexcept>
#include <vector>

#include "tests/env/example.h"

namespace attune {
namespace {

std::vector<float> OneHot(std::size_t bin) {
  std::vector<float> profile(kProfileBins, 0.0F);
  profile[bin] = 1;
  return profile;
}

const std::vector<float> kUniform(kProfileBins, 1.0F / kProfileBins);

// What a window of one observation reads of a head with such a profile.
float Difference(const std::vector<float>& profile, const std::vector<float>& baseline) {
  Observation observation;
  observation.step = 1;
  observation.active = {1};
  observation.metrics.assign(kMetrics, 0.0F);
  observation.profile = profile;
  Meter meter(Baseline{BaselineKind::kRecorded, baseline});
  meter.Add(observation);
  return meter.Close().difference.at(0);
}

TEST_CASE("a profile like its baseline has no difference and no divergence") {
  CHECK(Difference(kUniform, kUniform) == 0);
  CHECK(JensenShannon(kUniform, kUniform) == 0);
}

TEST_CASE("all attention on one bin differs from uniform by (15 + 15) / 16") {
  for (const std::size_t bin : {0, 7, 15}) {
    CHECK(Difference(OneHot(bin), kUniform) == Approx(30.0 / 16));
  }
}

TEST_CASE("the divergence is log 2 between disjoint profiles and symmetric") {
  CHECK(JensenShannon(OneHot(0), OneHot(1)) == Approx(std::numbers::ln2));
  CHECK(JensenShannon(OneHot(3), kUniform) == Approx(JensenShannon(kUniform, OneHot(3))));
}

TEST_CASE("the divergence of one bin from uniform has its closed form") {
  // With m = 17/32 on the bin and 1/32 elsewhere: ½ log(32/17) + ½ (1/16 log(2/17) + 15/16 log 2).
  const double expected =
      0.5 * std::log(32.0 / 17) + 0.5 * (std::log(2.0 / 17) / 16 + 15.0 / 16 * std::numbers::ln2);
  CHECK(JensenShannon(OneHot(4), kUniform) == Approx(expected));
}

TEST_CASE("a divergence takes a share that rounding left below 0 for none") {
  auto rounded = OneHot(4);
  rounded[0] = -0.0008F;
  CHECK(JensenShannon(rounded, kUniform) == Approx(JensenShannon(OneHot(4), kUniform)));
}

TEST_CASE("a head that moved its attention gets a larger difference") {
  auto little = kUniform;
  little[0] += 0.02F;
  little[15] -= 0.02F;
  auto much = kUniform;
  much[0] += 0.05F;
  much[15] -= 0.05F;
  CHECK(Difference(little, kUniform) == Approx(2 * 0.02 * 16 / 16));
  CHECK(Difference(much, kUniform) > Difference(little, kUniform));
  CHECK(JensenShannon(much, kUniform) > JensenShannon(little, kUniform));
}

TEST_CASE("a balanced window reads zero, and means and deviations of a uniform profile") {
  const Topology topology = ExampleTopology();
  Meter meter(UniformBaseline(6));
  const Observation observation = ExampleObservation(topology);
  meter.Add(observation);
  const WindowReading reading = meter.Close();
  CHECK(reading.observations == 1);
  CHECK(reading.imbalance == 0);
  CHECK(reading.loss == 2);
  CHECK(reading.loss_noise == 0);
  CHECK(reading.attention_share == 0.25);
  CHECK(reading.active == observation.active);
  for (std::size_t head = 0; head < 6; ++head) {
    CHECK(reading.difference[head] == 0);
    CHECK(reading.divergence[head] == 0);
    CHECK(reading.mean[head] == Approx(0.5));
    // Variance of sixteen equally spaced points 1/16 apart: (16² − 1) / 12 / 16².
    CHECK(reading.deviation[head] == Approx(std::sqrt(255.0 / 12 / 256)));
    for (std::size_t m = 0; m < kMetrics; ++m) {
      CHECK(reading.At(head, static_cast<Metric>(m)) ==
            Approx(observation.metrics[head * kMetrics + m]));
    }
  }
}

TEST_CASE("the imbalance is the mean over the active heads") {
  Observation observation = ExampleObservation(ExampleTopology());
  SetOneHot(observation, 0, 15);
  SetInactive(observation, 3);
  Meter meter(UniformBaseline(6));
  meter.Add(observation);
  const WindowReading reading = meter.Close();
  CHECK(reading.difference[0] == Approx(30.0 / 16));
  CHECK(reading.imbalance == Approx(30.0 / 16 / 5));
  CHECK(reading.mean[0] == Approx(15.5 / 16));
  CHECK(reading.deviation[0] == Approx(0).margin(1e-6));
}

TEST_CASE("observations weigh by the compute that they stand for") {
  const Topology topology = ExampleTopology();
  Observation balanced = ExampleObservation(topology);
  balanced.compute_seconds = 3;  // stands for 3 s
  balanced.attention_share = 0.2F;
  Observation moved = balanced;
  moved.step = 20;
  moved.compute_seconds = 4;  // stands for 1 s
  moved.attention_share = 0.6F;
  for (std::size_t head = 0; head < 6; ++head) SetOneHot(moved, head, 0);
  moved.metrics[0] = balanced.metrics[0] + 0.4F;
  Meter meter(UniformBaseline(6));
  meter.Add(balanced);
  meter.Add(moved);
  const WindowReading reading = meter.Close();
  CHECK(reading.imbalance == Approx(30.0 / 16 / 4));
  CHECK(reading.profile[0] == Approx((3.0 / 16 + 1) / 4));
  CHECK(reading.metrics[0] == Approx(balanced.metrics[0] + 0.1));
  CHECK(reading.attention_share == Approx(0.3));
  CHECK(reading.start_compute == 0);
  CHECK(reading.end_compute == 4);
}

TEST_CASE("a window begins where the one before ended") {
  Meter meter(UniformBaseline(6));
  Observation observation = ExampleObservation(ExampleTopology());
  meter.Add(observation);
  CHECK(meter.Close().first_step == 1);
  CHECK(meter.Empty());
  observation.step = 20;
  observation.compute_seconds = 5;
  meter.Add(observation);
  const WindowReading reading = meter.Close();
  CHECK(reading.first_step == 11);
  CHECK(reading.last_step == 20);
  CHECK(reading.start_compute == 1);
  CHECK(reading.end_compute == 5);
}

TEST_CASE("what a job's first step took to start up is no cost of a step") {
  const double first_seconds = GENERATE(2.9, 100.0);
  Meter meter(UniformBaseline(6));
  Observation observation = ExampleObservation(ExampleTopology());
  for (const std::uint64_t step : {1, 2, 4}) {
    observation.step = step;
    observation.compute_seconds = first_seconds + static_cast<double>(step - 1);
    observation.attention_share = step == 1 ? 0.8F : 0.2F;
    meter.Add(observation);
  }
  const WindowReading reading = meter.Close();
  CHECK(reading.first_step == 1);
  CHECK(reading.end_compute == first_seconds + 3);
  if (first_seconds < 3) {  // a slow step, as the first one often is
    CHECK(reading.start_compute == 0);
    CHECK(reading.attention_share == Approx((2.9 * 0.8 + 3 * 0.2) / 5.9));
  } else {
    CHECK(reading.start_compute == first_seconds - 1);  // four steps of a second each
    CHECK(reading.attention_share == Approx((0.8 + 3 * 0.2) / 4));
  }
}

TEST_CASE("a later window's first step is a step as any other") {
  Meter meter(UniformBaseline(6), 10, 5);
  Observation observation = ExampleObservation(ExampleTopology());
  for (const std::uint64_t step : {11, 12}) {
    observation.step = step;
    observation.compute_seconds = 100 + static_cast<double>(step);
    meter.Add(observation);
  }
  CHECK(meter.Close().start_compute == 5);
}

TEST_CASE("a meter that joins late counts only what it saw") {
  Observation first = ExampleObservation(ExampleTopology());
  first.step = 1010;
  first.compute_seconds = 101;
  Observation second = first;
  second.step = 1020;
  second.compute_seconds = 102;
  SetOneHot(second, 0, 0);
  Meter meter(UniformBaseline(6), 1000, 100);
  meter.Add(first);
  meter.Add(second);
  const WindowReading reading = meter.Close();
  CHECK(reading.first_step == 1001);
  CHECK(reading.start_compute == 100);
  CHECK(reading.difference[0] == Approx(30.0 / 16 / 2));
}

TEST_CASE("the loss is the mean of the window's second half with its standard error") {
  Meter meter(UniformBaseline(6));
  Observation observation = ExampleObservation(ExampleTopology());
  const std::vector<double> losses = {9, 8, 4, 2, 3};
  for (std::size_t i = 0; i < losses.size(); ++i) {
    observation.loss = losses[i];
    observation.compute_seconds = static_cast<double>(i + 1);
    meter.Add(observation);
  }
  const WindowReading reading = meter.Close();
  CHECK(reading.loss == Approx(3));
  // Variance of 4, 2, 3 is 1; of their mean a third of it.
  CHECK(reading.loss_noise == Approx(std::sqrt(1.0 / 3)));
}

TEST_CASE("a head counts only while it was active, and zeros when it no longer is") {
  const Topology topology = ExampleTopology();
  Observation before = ExampleObservation(topology);
  SetInactive(before, 1);  // comes in
  SetOneHot(before, 2, 0);
  Observation after = ExampleObservation(topology);
  after.compute_seconds = 2;
  SetOneHot(after, 1, 15);
  SetInactive(after, 2);  // goes out
  Meter meter(UniformBaseline(6));
  meter.Add(before);
  meter.Add(after);
  const WindowReading reading = meter.Close();
  CHECK(reading.active == after.active);
  CHECK(reading.difference[1] == Approx(30.0 / 16));
  CHECK(reading.At(1, Metric::kEntropy) == Approx(after.metrics[kMetrics]));
  CHECK(reading.difference[2] == 0);
  CHECK(reading.divergence[2] == 0);
  CHECK(reading.mean[2] == 0);
  CHECK(reading.At(2, Metric::kOutputNorm) == 0);
  CHECK(reading.profile[2 * kProfileBins] == 0);
}

TEST_CASE("a clock that stands still leaves equal weights") {
  Observation a = ExampleObservation(ExampleTopology());
  a.compute_seconds = 0;
  Observation b = a;
  SetOneHot(b, 0, 0);
  Meter meter(UniformBaseline(6));
  meter.Add(a);
  meter.Add(b);
  CHECK(meter.Close().difference[0] == Approx(30.0 / 16 / 2));
}

TEST_CASE("differences are against the baseline that is set when the observation comes") {
  Observation observation = ExampleObservation(ExampleTopology());
  for (std::size_t head = 0; head < 6; ++head) SetOneHot(observation, head, 3);
  Meter meter(UniformBaseline(6));
  meter.SetBaseline(BaselineFrom(BaselineKind::kWarmUp, observation.profile));
  meter.Add(observation);
  CHECK(meter.Base().kind == BaselineKind::kWarmUp);
  const double bin = 1 - kUniformPart + kUniformPart / 16;
  CHECK(meter.Close().imbalance == Approx((15 + (1 - bin) / bin) / 16));
}

TEST_CASE("empty windows, strange sizes and baselines with empty bins are refused") {
  Meter meter(UniformBaseline(5));
  CHECK_THROWS_AS(meter.Close(), std::logic_error);
  CHECK_THROWS_AS(meter.Add(ExampleObservation(ExampleTopology())), std::invalid_argument);
  Baseline empty = UniformBaseline(5);
  empty.profile[7] = 0;
  CHECK_THROWS_AS(meter.SetBaseline(empty), std::invalid_argument);
  CHECK_THROWS_AS(Meter(empty), std::invalid_argument);
}

}  // namespace
}  // namespace attune
