// Tests of the checks on what trainers report.
#include "env/observation.h"

#include <catch2/catch.hpp>
#include <limits>

#include "tests/env/example.h"

namespace attune {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

template <typename Change>
std::string FaultAfter(Change change) {
  const Topology topology = ExampleTopology();
  Observation observation = ExampleObservation(topology);
  change(observation);
  const std::string fault = FindFault(observation, topology).value_or("");
  CHECK(fault.find('\n') == std::string::npos);
  return fault;
}

float& At(Observation& observation, std::size_t head, Metric metric) {
  return observation.metrics[head * kMetrics + static_cast<std::size_t>(metric)];
}

TEST_CASE("a usable observation has no fault, with and without inactive heads") {
  CHECK(FaultAfter([](Observation&) {}).empty());
  CHECK(FaultAfter([](Observation& o) { SetInactive(o, 5); }).empty());
}

TEST_CASE("a fault names the field, the head and its site") {
  CHECK(FaultAfter([](Observation& o) { At(o, 5, Metric::kEntropy) = kNan; }) ==
        "metrics: entropy of head 5 (site 'block1.cross', head 1) is not a number; report a finite "
        "value");
  CHECK(FaultAfter([](Observation& o) { At(o, 0, Metric::kTopWeight) = 1.5F; }) ==
        "metrics: top_weight of head 0 (site 'block0.attention', head 0) is 1.5; report a value in "
        "[0, 1]");
  CHECK(Contains(FaultAfter([](Observation& o) { o.profile[16 + 3] = -0.5F; }),
                 "profile: bin 3 of head 1"));
}

TEST_CASE("a step that the history could not hold is none") {
  CHECK(FaultAfter([](Observation& o) { o.step = (1ULL << 63U) - 1; }).empty());
  CHECK(Contains(FaultAfter([](Observation& o) { o.step = 1ULL << 63U; }), "at most 2^63 - 1"));
}

TEST_CASE("no metric may be NaN or infinite") {
  for (std::size_t m = 0; m < kMetrics; ++m) {
    for (const float value : {kNan, kInfinity, -kInfinity}) {
      const std::string fault =
          FaultAfter([&](Observation& o) { At(o, 2, static_cast<Metric>(m)) = value; });
      CAPTURE(m, value);
      CHECK(Contains(fault, std::string(kMetricNames[m]) + " of head 2"));
    }
  }
}

TEST_CASE("metrics that are shares stay in [0, 1] but for rounding") {
  for (const Metric metric :
       {Metric::kEntropy, Metric::kTopWeight, Metric::kFirstTokenMass, Metric::kRedundancy}) {
    CHECK(FaultAfter([&](Observation& o) { At(o, 1, metric) = 1.0005F; }).empty());
    CHECK(FaultAfter([&](Observation& o) { At(o, 1, metric) = -0.0005F; }).empty());
    CHECK_FALSE(FaultAfter([&](Observation& o) { At(o, 1, metric) = 1.002F; }).empty());
    CHECK_FALSE(FaultAfter([&](Observation& o) { At(o, 1, metric) = -0.002F; }).empty());
  }
}

TEST_CASE("norms and importances are not negative, logits may be") {
  CHECK(FaultAfter([](Observation& o) { At(o, 1, Metric::kLargestLogit) = -50; }).empty());
  CHECK(FaultAfter([](Observation& o) { At(o, 1, Metric::kOutputNorm) = 50; }).empty());
  CHECK_FALSE(FaultAfter([](Observation& o) { At(o, 1, Metric::kOutputNorm) = -0.1F; }).empty());
  CHECK_FALSE(FaultAfter([](Observation& o) { At(o, 1, Metric::kImportance) = -0.1F; }).empty());
}

TEST_CASE("the profile of an active head sums to 1") {
  CHECK(FaultAfter([](Observation& o) { o.profile[16] += 0.005F; }).empty());
  CHECK(Contains(FaultAfter([](Observation& o) { o.profile[16] += 0.02F; }),
                 "the bins of head 1 (site 'block0.attention', head 1) sum to 1.02"));
  CHECK_FALSE(FaultAfter([](Observation& o) { o.profile[0] = kNan; }).empty());
}

TEST_CASE("inactive heads carry zeros and every site keeps an active head") {
  CHECK(Contains(FaultAfter([](Observation& o) {
                   SetInactive(o, 5);
                   At(o, 5, Metric::kImportance) = 0.1F;
                 }),
                 "importance of inactive head 5"));
  CHECK(Contains(FaultAfter([](Observation& o) {
                   SetInactive(o, 5);
                   o.profile[5 * kProfileBins + 15] = kNan;
                 }),
                 "bin 15 of inactive head 5"));
  CHECK(Contains(FaultAfter([](Observation& o) {
                   SetInactive(o, 4);
                   SetInactive(o, 5);
                 }),
                 "site 'block1.cross' has no active head"));
  CHECK(Contains(FaultAfter([](Observation& o) { o.active[2] = 7; }), "active: head 2"));
}

TEST_CASE("sizes must be the topology's") {
  CHECK(Contains(FaultAfter([](Observation& o) { o.active.pop_back(); }), "active: "));
  CHECK(Contains(FaultAfter([](Observation& o) { o.metrics.pop_back(); }),
                 "metrics: there are 41 values; report 42"));
  CHECK(Contains(FaultAfter([](Observation& o) { o.profile.push_back(0); }), "profile: "));
}

TEST_CASE("loss, compute and attention share must be usable numbers") {
  CHECK(FaultAfter([](Observation& o) { o.loss = kNan; }) ==
        "loss is not a number; report a finite value");
  CHECK(Contains(FaultAfter([](Observation& o) { o.loss = kInfinity; }), "loss is infinite"));
  CHECK(FaultAfter([](Observation& o) { o.loss = -3; }).empty());
  CHECK(Contains(FaultAfter([](Observation& o) { o.compute_seconds = -1; }), "compute_seconds"));
  CHECK(Contains(FaultAfter([](Observation& o) { o.compute_seconds = kNan; }), "compute_seconds"));
  CHECK(Contains(FaultAfter([](Observation& o) { o.attention_share = 1.1F; }), "attention_share"));
  CHECK(Contains(FaultAfter([](Observation& o) { o.attention_share = kNan; }), "attention_share"));
}

}  // namespace
}  // namespace attune
