// Tests of the tokens that a policy sees.
#include "env/state.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <numbers>
#include <stdexcept>
#include <vector>

#include "tests/env/example.h"

namespace attune {
namespace {

WindowReading Read(const Observation& observation) {
  Meter meter(UniformBaseline(observation.active.size()));
  meter.Add(observation);
  return meter.Close();
}

float Feature(const State& state, std::size_t head, std::string_view name) {
  return state.At(head, TokenFeature(name));
}

std::vector<float> Token(const State& state, std::size_t head) {
  const auto begin = state.tokens.begin() + static_cast<long>(head * kTokenFeatures);
  return {begin, begin + kTokenFeatures};
}

TEST_CASE("every feature of a token has its closed form") {
  const JobSpec spec = ExampleSpec();
  Observation observation = ExampleObservation(spec.topology);
  SetOneHot(observation, 1, 0);
  const WindowReading first = Read(observation);

  Observation later = observation;
  later.step = 20;
  later.compute_seconds = 40;
  later.loss = 1.5;
  later.metrics[1 * kMetrics] += 0.1F;  // entropy of head 1
  WindowReading now = Read(later);
  now.first_step = 11;
  now.start_compute = 36;

  Setting setting = Setting::Neutral(6);
  setting.scale[1] = 4;
  setting.active[0] = 0;
  const State state = MakeState(spec, setting, now, &first, first);

  CHECK(state.site_offsets == std::vector<std::uint32_t>{0, 4, 6});
  CHECK(state.Sites() == 2);
  CHECK(state.Heads() == 6);
  REQUIRE(state.tokens.size() == 6 * kTokenFeatures);

  const double part = 2.0 / 7;  // head 1 of ExampleObservation
  const double before = Progress(spec.budget, first.last_step, first.end_compute);
  CHECK(Feature(state, 1, "entropy") == Approx(part + 0.1));
  CHECK(Feature(state, 1, "largest_logit") == Approx(std::tanh(3 * part / 20)));
  CHECK(Feature(state, 1, "top_weight") == Approx(1 - part));
  CHECK(Feature(state, 1, "first_token_mass") == Approx(part / 2));
  CHECK(Feature(state, 1, "output_norm") == Approx(std::log(2 * part + 0.01) / 2));
  // The site's importances are 1, 2, 3, 4 sevenths: head 1 has 2 / 2.5 of their mean.
  CHECK(Feature(state, 1, "importance") == Approx(std::log(0.8 + 0.01) / 2));
  CHECK(Feature(state, 1, "redundancy") == Approx(part / 3));
  CHECK(Feature(state, 1, "divergence") == Approx(now.divergence[1] / std::numbers::ln2));
  CHECK(Feature(state, 1, "entropy_change") == Approx(0.1).epsilon(1e-4));
  CHECK(Feature(state, 1, "output_norm_change") == Approx(0).margin(1e-6));
  CHECK(Feature(state, 1, "redundancy_change") == Approx(0).margin(1e-6));
  CHECK(Feature(state, 0, "active") == 0);
  CHECK(Feature(state, 1, "active") == 1);
  CHECK(Feature(state, 1, "scale") == Approx(0.5));
  CHECK(Feature(state, 1, "active_share") == 0.75F);
  CHECK(Feature(state, 4, "active_share") == 1);
  CHECK(Feature(state, 1, "site_heads") == 0.5F);
  CHECK(Feature(state, 4, "site_heads") == 0.25F);
  CHECK(Feature(state, 1, "depth") == 0);
  CHECK(Feature(state, 4, "depth") == 1);
  CHECK(Feature(state, 1, "context") == 0.5F);
  CHECK(Feature(state, 1, "head_width") == 0.5F);
  CHECK(Feature(state, 1, "cross") == 0);
  CHECK(Feature(state, 4, "cross") == 1);
  for (std::size_t head = 0; head < 6; ++head) {
    CHECK(Feature(state, head, "progress") == Approx(0.4));
    CHECK(Feature(state, head, "loss") == Approx(0.75));
    CHECK(Feature(state, head, "loss_slope") == Approx(0.5 / 2 / (0.4 - before) / 2));
    CHECK(Feature(state, head, "attention_share") == 0.25F);
    CHECK(Feature(state, head, "step_cost") == Approx(2));  // 0.4 s a step against 0.1 s
    CHECK(Feature(state, head, "learning_rate") == Approx(-0.75));
    CHECK(Feature(state, head, "budget_in_compute") == 1);
    CHECK(Feature(state, head, "sgd") == 0);
    CHECK(Feature(state, head, "first_loss") == Approx(std::log(2.0) / 2));
  }
}

TEST_CASE("the first window has no changes and no slope") {
  const JobSpec spec = ExampleSpec();
  const WindowReading first = Read(ExampleObservation(spec.topology));
  const State state = MakeState(spec, Setting::Neutral(6), first, nullptr, first);
  for (std::size_t head = 0; head < 6; ++head) {
    for (const std::string_view name :
         {"entropy_change", "output_norm_change", "redundancy_change", "loss_slope", "step_cost"}) {
      CHECK(Feature(state, head, name) == 0);
    }
    CHECK(Feature(state, head, "loss") == 1);
  }
}

TEST_CASE("before the first step a token has the job and its setting, and nothing measured") {
  JobSpec spec = ExampleSpec();
  spec.learning_rate = 0.01;
  spec.budget = {.kind = BudgetKind::kSteps, .amount = 1000};
  Setting setting = Setting::Neutral(6);
  setting.active[1] = 0;
  const WindowReading nothing = Unmeasured(setting.active);
  const State state = MakeState(spec, setting, nothing, nullptr, nothing);
  CHECK(Feature(state, 0, "entropy") == 0.5F);
  CHECK(Feature(state, 0, "active") == 1);
  CHECK(Feature(state, 1, "active") == 0);
  CHECK(Feature(state, 0, "active_share") == 0.75F);
  CHECK(Feature(state, 0, "learning_rate") == Approx(-0.5));
  CHECK(Feature(state, 0, "budget_steps") == Approx(0.75));
  for (const char* name : {"progress", "loss", "loss_slope", "attention_share", "step_cost",
                           "first_loss", "divergence", "largest_logit"}) {
    CAPTURE(name);
    CHECK(Feature(state, 0, name) == 0);
  }
  CHECK(Feature(state, 0, "sgd") == 0);
  spec.optimizer = "SGD";
  CHECK(Feature(MakeState(spec, setting, nothing, nullptr, nothing), 0, "sgd") == 1);
  spec.budget.kind = BudgetKind::kCompute;  // how many steps it will hold is not known
  CHECK(Feature(MakeState(spec, setting, nothing, nullptr, nothing), 0, "budget_steps") == 0);
}

TEST_CASE("a head that was switched shows no change") {
  const JobSpec spec = ExampleSpec();
  Observation before = ExampleObservation(spec.topology);
  SetInactive(before, 2);
  const WindowReading first = Read(before);
  const WindowReading now = Read(ExampleObservation(spec.topology));
  const State state = MakeState(spec, Setting::Neutral(6), now, &first, first);
  CHECK(Feature(state, 2, "entropy") > 0);
  CHECK(Feature(state, 2, "entropy_change") == 0);
  CHECK(Feature(state, 2, "output_norm_change") == 0);
}

TEST_CASE("tokens move with the heads of their site") {
  const JobSpec spec = ExampleSpec();
  Observation observation = ExampleObservation(spec.topology);
  SetOneHot(observation, 0, 5);
  Setting setting = Setting::Neutral(6);
  setting.scale = {1, 2, 3, 4, 5, 6};
  const WindowReading reading = Read(observation);
  const State state = MakeState(spec, setting, reading, nullptr, reading);

  // Heads 0 and 3 of the first site change places.
  std::swap(setting.scale[0], setting.scale[3]);
  std::swap_ranges(observation.metrics.begin(), observation.metrics.begin() + kMetrics,
                   observation.metrics.begin() + 3 * kMetrics);
  std::swap_ranges(observation.profile.begin(), observation.profile.begin() + kProfileBins,
                   observation.profile.begin() + 3 * kProfileBins);
  const WindowReading swapped_reading = Read(observation);
  const State swapped = MakeState(spec, setting, swapped_reading, nullptr, swapped_reading);
  const std::vector<std::size_t> place = {3, 1, 2, 0, 4, 5};
  for (std::size_t head = 0; head < 6; ++head) {
    const auto a = Token(state, place[head]);
    const auto b = Token(swapped, head);
    for (std::size_t f = 0; f < kTokenFeatures; ++f) {
      CAPTURE(head, kTokenFeatureNames[f]);
      CHECK(a[f] == Approx(b[f]).margin(1e-6));
    }
  }
  CHECK(Token(state, 0) != Token(state, 3));
}

TEST_CASE("features stay finite and within 4 whatever the job reports") {
  JobSpec spec = ExampleSpec();
  spec.budget = {.kind = BudgetKind::kSteps, .amount = 1};
  spec.learning_rate = 0;
  Observation observation = ExampleObservation(spec.topology);
  for (float& metric : observation.metrics) metric = 0;
  observation.metrics[1] = 3e38F;  // logit of head 0
  observation.metrics[static_cast<int>(Metric::kOutputNorm)] = 3e38F;
  SetInactive(observation, 5);
  observation.loss = 1e300;
  WindowReading first = Read(ExampleObservation(spec.topology));
  first.last_step = 0;
  WindowReading zero = first;
  zero.loss = 0;
  zero.end_compute = zero.start_compute;
  const WindowReading now = Read(observation);
  Setting setting = Setting::Neutral(6);
  setting.active[5] = 0;
  for (const WindowReading& start : {first, zero}) {
    const State state = MakeState(spec, setting, now, &start, start);
    for (const float feature : state.tokens) {
      CHECK(std::isfinite(feature));
      CHECK(std::abs(feature) <= 4);
    }
    CHECK(Feature(state, 0, "learning_rate") == 0);
    CHECK(Feature(state, 0, "budget_in_compute") == 0);
    CHECK(Feature(state, 0, "progress") == 1);
    CHECK(Feature(state, 0, "loss") == 4);
    CHECK(Feature(state, 0, "loss_slope") == -4);
  }
}

TEST_CASE("readings of another topology are refused") {
  const JobSpec spec = ExampleSpec();
  const WindowReading good = Read(ExampleObservation(spec.topology));
  WindowReading bad = good;
  bad.active.pop_back();
  const Setting setting = Setting::Neutral(6);
  CHECK_THROWS_AS(MakeState(spec, setting, bad, nullptr, good), std::invalid_argument);
  CHECK_THROWS_AS(MakeState(spec, setting, good, &bad, good), std::invalid_argument);
  CHECK_THROWS_AS(MakeState(spec, Setting::Neutral(5), good, nullptr, good), std::invalid_argument);
}

}  // namespace
}  // namespace attune
