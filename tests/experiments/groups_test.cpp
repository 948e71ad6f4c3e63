// Groups of jobs that were tuned in several ways: what each way was worth.
#include "experiments/groups.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "env/meter.h"
#include "tests/temporary_directory.h"

namespace attune::test {
namespace {

// A job of one head that took 1,000 steps.
Episode Run(BudgetKind budget, double plan, double loss, double step_compute = 1) {
  Episode episode;
  episode.job.spec.budget.kind = budget;
  episode.job.steps = 1000;
  episode.job.compute_seconds = 1000 * step_compute;
  episode.job.validation_loss = loss;
  episode.plan = {plan};
  episode.trials.resize(2);
  return episode;
}

struct Known {
  std::vector<Group> groups;
  [[nodiscard]] std::vector<Group*> Pointers() {
    std::vector<Group*> pointers;
    for (Group& group : groups) pointers.push_back(&group);
    return pointers;
  }
};

// 50 jobs of four runs, the first left alone: a unit of the plan takes 0.7 off the log of a step's
// compute and puts `harm` on that of the loss.
Known Jobs(double harm, BudgetKind budget = BudgetKind::kSteps) {
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
      group.episodes.push_back(
          Run(budget, plan, 2 * std::exp(harm * plan), std::exp(offset - 0.7 * plan)));
    }
  }
  return known;
}

TEST_CASE("losses are counted over that of the job left alone, within bounds") {
  Group group;
  group.episodes = {Run(BudgetKind::kSteps, 0, 2), Run(BudgetKind::kSteps, 0, 2),
                    Run(BudgetKind::kSteps, 1, 1.9), Run(BudgetKind::kSteps, 1, 1),
                    Run(BudgetKind::kSteps, 1, 2000)};
  const std::vector<double> losses = LogLosses(group);
  CHECK(losses[0] == 0);
  CHECK(losses[2] == Approx(std::log(0.95)));
  CHECK(losses[3] == -kLargestGain);
  CHECK(losses[4] == kLargestCost);
}

TEST_CASE("where no run was left alone, losses are counted over the best") {
  Group group;
  group.episodes = {Run(BudgetKind::kSteps, 1, 2.1), Run(BudgetKind::kSteps, 1, 2)};
  CHECK(LogLosses(group)[0] == Approx(std::log(1.05)));
  CHECK(LogLosses(group)[1] == 0);
}

TEST_CASE("where fewer than two jobs were run in two ways there is no critic") {
  Known known = Jobs(0);
  std::vector<Group*> groups = {&known.groups[0]};
  CHECK_FALSE(MakeCritic(groups, BudgetKind::kSteps));
  groups.push_back(&known.groups[1]);
  CHECK_FALSE(MakeCritic(groups, BudgetKind::kCompute));
  CHECK(MakeCritic(groups, BudgetKind::kSteps));
}

// Of all weight in its group.
double AloneIn(Known known) {
  const auto loss = MakeCritic(known.Pointers(), KindOf(known.groups[0]));
  Group& group = known.groups[0];
  Weigh(group, *loss, {});
  double sum = group.alone;
  for (const Episode& episode : group.episodes) {
    CHECK(episode.weights.size() == episode.trials.size());
    sum += episode.weights[0];
  }
  return group.alone / sum;
}

TEST_CASE("a plan that saves compute outweighs leaving the job alone, unless it does harm") {
  CHECK(AloneIn(Jobs(0)) < 0.1);
  CHECK(AloneIn(Jobs(0.05)) > 0.9);
}

TEST_CASE("with a budget in compute only the loss counts, and many plans no more than one") {
  CHECK(AloneIn(Jobs(-0.05, BudgetKind::kCompute)) < 0.1);
  CHECK(AloneIn(Jobs(0.01, BudgetKind::kCompute)) > 0.9);
  CHECK(AloneIn(Jobs(0, BudgetKind::kCompute)) >= 0.49);
}

TEST_CASE("a job counts by what is at stake in it") {
  const auto weight = [](double harm) {
    Known known = Jobs(harm, BudgetKind::kCompute);
    const auto loss = MakeCritic(known.Pointers(), BudgetKind::kCompute);
    Weigh(known.groups[0], *loss, {});
    return known.groups[0].alone;
  };
  CHECK(weight(0.05) > 2 * weight(0.005));
}

// A history of one job, of one site of eight heads, under several plans.
class History {
 public:
  // `active` heads behind each decision, the first `openings` of which are before the first step
  // and have this answer; all of them with this scale.
  void Add(const std::string& policy, const std::vector<std::size_t>& active,
           std::size_t openings = 0, const Acknowledgement& answer = {AckStatus::kApplied, 0, ""},
           float scale = 1) {
    JobRecord job;
    job.id = ++jobs_;
    job.spec.key = "run " + std::to_string(jobs_);
    job.spec.name = "job";
    job.spec.topology.sites = {{.name = "site", .heads = 8, .head_width = 8, .context = 32}};
    job.spec.budget = {.kind = BudgetKind::kCompute, .amount = 100};
    job.spec.policy = policy;
    job.outcome = Outcome::kFinished;
    job.steps = 100;
    job.compute_seconds = 100;
    job.validation_loss = 2;
    store_.Put(job);
    Setting setting = Setting::Neutral(8);
    for (std::size_t i = 0; i < active.size(); ++i) {
      Trial trial;
      trial.id = ++trials_;
      trial.job = job.id;
      trial.step = i < openings ? 0 : 10 * (i + 1 - openings);
      trial.window = i < openings ? 0 : static_cast<std::uint32_t>(i - openings);
      WindowReading reading = Unmeasured(setting.active);
      reading.end_compute = static_cast<double>(trial.step);
      reading.loss = i < openings ? 0 : 2 * static_cast<double>(scale);
      trial.state = MakeState(job.spec, setting, reading, nullptr, reading);
      trial.mask = MaskOf(job.spec.topology, setting);
      trial.action = Action::Keep(8, 1);
      trial.decider = policy;
      setting.active.assign(8, 0);
      std::fill_n(setting.active.begin(), active[i], std::uint8_t{1});
      setting.scale.assign(8, scale);
      trial.setting = setting;
      if (trial.step == 0) trial.acknowledgement = answer;
      store_.Put(trial);
    }
  }

  [[nodiscard]] Group Read() const {
    auto groups = ReadGroups({(directory_ / "attune.db").string()});
    REQUIRE(groups.size() == 1);
    return groups.begin()->second;
  }

 private:
  test::TemporaryDirectory directory_;
  Store store_{directory_ / "attune.db", Store::Mode::kReadWrite};
  std::uint64_t jobs_ = 0;
  std::uint64_t trials_ = 0;
};

TEST_CASE("a plan tells what was done before the first step from what was done behind it") {
  History history;
  history.Add("keep", {8, 8});
  history.Add("explore", {4, 2, 2, 2}, 2);  // a quarter of the heads from the first step on
  history.Add("explore", {2, 2});           // and from the first window on
  const Group group = history.Read();
  REQUIRE(group.episodes.size() == 3);
  std::vector<double> alone, opened, later;
  for (const Episode& episode : group.episodes) {
    const bool is_opened = std::ranges::any_of(episode.trials, IsOpening);
    std::vector<double>& plan = is_opened                           ? opened
                                : episode.job.spec.policy == "keep" ? alone
                                                                    : later;
    plan = episode.plan;
  }
  CHECK(alone == std::vector<double>(alone.size(), 0.0));
  // The last two of its traits: halvings of the heads and of their logits before the first step.
  CHECK(std::vector(opened.end() - 2, opened.end()) == std::vector<double>{2, 0});
  CHECK(std::vector(later.end() - 2, later.end()) == std::vector<double>{0, 0});
  opened.resize(opened.size() - 2);
  later.resize(later.size() - 2);
  CHECK(opened == later);
  CHECK(later.front() == 2);
}

TEST_CASE("a plan tells how much smaller the logits of its heads were before the first step") {
  History history;
  history.Add("explore", {8, 8, 8}, 1, {AckStatus::kApplied, 0, ""}, 0.25F);
  history.Add("explore", {8, 8, 8}, 0, {AckStatus::kApplied, 0, ""}, 0.25F);  // later
  std::set<std::vector<double>> ends;
  for (const Episode& episode : history.Read().episodes) {
    ends.emplace(episode.plan.end() - 2, episode.plan.end());
  }
  CHECK(ends == std::set<std::vector<double>>{{0, 0}, {0, 2}});
}

TEST_CASE("a decision before the first step that came too late is no lesson") {
  History history;
  const Acknowledgement late = GENERATE(Acknowledgement{AckStatus::kExpired, 3, ""},
                                        Acknowledgement{AckStatus::kApplied, 3, ""});
  history.Add("explore", {4, 4, 4}, 1, late);
  const Group group = history.Read();
  CHECK(group.episodes.at(0).trials.size() == 2);
  const std::vector<double>& plan = group.episodes.at(0).plan;
  CHECK(std::vector(plan.end() - 2, plan.end()) == std::vector<double>{0, 0});
}

TEST_CASE("a job's traits are those of the runs to which nothing was done before they were seen") {
  History history;
  history.Add("explore", {1, 1}, 1);
  const std::vector<double> of_one_head = history.Read().job;
  history.Add("keep", {8, 8});
  const std::vector<double> of_all = history.Read().job;
  CHECK(of_one_head != of_all);  // a head that is not active reads as one without entropy
  history.Add("explore", {2, 2}, 1);
  history.Add("explore", {8, 8}, 1, {AckStatus::kApplied, 0, ""}, 0.25F);
  CHECK(history.Read().job == of_all);
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
