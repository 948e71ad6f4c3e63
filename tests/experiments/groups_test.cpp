// Groups of jobs that were tuned in several ways: what each way was worth.
#include "experiments/groups.h"

#include <cmath>
#include <random>
#include <vector>

#include "tests/catch.hpp"

namespace attune::test {
namespace {

constexpr double kSteepness = 0.3;  // of the curves here

// A job of one head that took 1,000 steps; its loss falls as step^−kSteepness behind the middle.
Episode Run(BudgetKind budget, double plan, double loss, double step_compute = 1) {
  Episode episode;
  episode.job.spec.budget.kind = budget;
  episode.job.steps = 1000;
  episode.job.compute_seconds = 1000 * step_compute;
  episode.job.validation_loss = loss;
  episode.plan = {plan};
  for (const std::uint64_t step : {500, 1000}) {
    Trial trial;
    trial.step = step;
    trial.loss = loss * std::pow(static_cast<double>(step) / 1000, -kSteepness);
    trial.state.site_offsets = {0, 1};
    trial.state.tokens.resize(kTokenFeatures);
    trial.state.tokens[TokenFeature("progress")] = static_cast<float>(step) / 1000;
    episode.trials.push_back(trial);
  }
  return episode;
}

struct Known {
  std::vector<Group> groups;
  std::vector<double> slowness;  // of their episodes, one group after the other
  [[nodiscard]] std::vector<Group*> Pointers() {
    std::vector<Group*> pointers;
    for (Group& group : groups) pointers.push_back(&group);
    return pointers;
  }
};

// 50 jobs of four runs, the first left alone: a unit of the plan takes 0.7 off the log of a step's
// compute and puts `harm` on that of the loss; machines are slower or faster by a tenth.
Known Jobs(double harm) {
  std::mt19937_64 random(3);
  std::normal_distribution<double> normal;
  Known known;
  for (std::size_t number = 0; number < 50; ++number) {
    Group& group = known.groups.emplace_back();
    group.number = number;
    group.job = {normal(random)};
    const double offset = 2 * normal(random);
    for (std::size_t i = 0; i < 4; ++i) {
      const double plan = i == 0 ? 0 : std::uniform_real_distribution<double>(0.2, 1)(random);
      known.slowness.push_back(0.1 * normal(random));
      group.episodes.push_back(Run(BudgetKind::kSteps, plan, 2 * std::exp(harm * plan),
                                   std::exp(offset - 0.7 * plan + known.slowness.back())));
    }
  }
  return known;
}

TEST_CASE("what steps cost beyond job and plan is the machine's slowness") {
  Known known = Jobs(0);
  const auto critic = MakeCritic(known.Pointers(), {BudgetKind::kSteps}, LogStepComputes);
  REQUIRE(critic);
  double both = 0;
  double found = 0;
  double truth = 0;
  for (std::size_t number = 0; number < known.groups.size(); ++number) {
    Group& group = known.groups[number];
    FindSlowness(group, *critic);
    const double* const own = known.slowness.data() + 4 * number;
    const double mean = (own[0] + own[1] + own[2] + own[3]) / 4;
    double sum = 0;
    for (std::size_t i = 0; i < 4; ++i) {
      const double slowness = group.episodes[i].slowness;
      sum += slowness;
      both += slowness * (own[i] - mean);
      found += slowness * slowness;
      truth += (own[i] - mean) * (own[i] - mean);
    }
    CHECK(sum == Approx(0).margin(1e-9));
  }
  CHECK(both / std::sqrt(found * truth) > 0.9);
}

TEST_CASE("with a budget in compute, a slow machine is not held against a plan") {
  Group group;
  group.episodes = {Run(BudgetKind::kCompute, 0, 2),
                    Run(BudgetKind::kCompute, 1, 2 * std::exp(kSteepness * 0.1))};
  group.episodes[1].slowness = 0.1;
  CHECK(LogLosses(group)[1] == Approx(0).margin(1e-9));
  for (Episode& episode : group.episodes) episode.job.spec.budget.kind = BudgetKind::kSteps;
  CHECK(LogLosses(group)[0] == 0);
  CHECK(LogLosses(group)[1] == Approx(kSteepness * 0.1));
}

TEST_CASE("a run that diverged is as bad as any bad one") {
  Group group;
  group.episodes = {Run(BudgetKind::kSteps, 0, 2), Run(BudgetKind::kSteps, 1, 2000)};
  CHECK(LogLosses(group)[1] == kLargestCost);
}

TEST_CASE("where fewer than two jobs were run in two ways there is no critic") {
  Known known = Jobs(0);
  std::vector<Group*> groups = {&known.groups[0]};
  CHECK_FALSE(MakeCritic(groups, {BudgetKind::kSteps}, LogLosses));
  groups.push_back(&known.groups[1]);
  CHECK_FALSE(MakeCritic(groups, {BudgetKind::kCompute}, LogLosses));
  CHECK(MakeCritic(groups, {BudgetKind::kSteps}, LogLosses));
}

TEST_CASE("a plan that saves compute outweighs leaving the job alone, unless it does harm") {
  const auto alone = [](double harm) {
    Known known = Jobs(harm);
    const auto loss = MakeCritic(known.Pointers(), {BudgetKind::kSteps}, LogLosses);
    const auto compute = MakeCritic(known.Pointers(), {BudgetKind::kSteps}, LogStepComputes);
    Group& group = known.groups[0];
    Weigh(group, *loss, &*compute, {});
    double sum = group.alone;
    for (const Episode& episode : group.episodes) {
      CHECK(episode.weights.size() == episode.trials.size());
      sum += episode.weights[0];
    }
    CHECK(sum == Approx(1));
    return group.alone;
  };
  CHECK(alone(0) < 0.1);
  CHECK(alone(0.05) > 0.9);
}

TEST_CASE("a greedy weight is by the next window's reward, in deviations of the group's") {
  Group group;
  for (const double reward : {3.0, 1.0}) {
    Trial trial;
    trial.window = 7;
    trial.reward = reward;
    group.episodes.emplace_back().trials = {trial};
  }
  WeighGreedily(group);
  REQUIRE(group.episodes[0].weights.size() == 1);
  CHECK(group.episodes[0].weights[0] == Approx(std::exp(1.0) / 2));
  CHECK(group.episodes[1].weights.at(0) == Approx(std::exp(-1.0) / 2));
}

}  // namespace
}  // namespace attune::test
