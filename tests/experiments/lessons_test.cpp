// What a network is taught by the runs of a job: what the plans that are worth it would have done.
#include "experiments/lessons.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace attune::test {
namespace {

// Two sites of four heads where a run stands, all active at a scale of 1 but for what is given.
Trial Where(const Setting& setting) {
  const Topology topology{
      {Site{"a", SiteKind::kSelf, true, 4, 4, 8}, Site{"b", SiteKind::kSelf, true, 4, 4, 8}}};
  Trial trial;
  trial.setting = setting;
  trial.mask = MaskOf(topology, setting);
  trial.action = Action::Keep(8, 2);
  trial.step = 10;
  trial.state.site_offsets = {0, 4, 8};
  trial.state.tokens.assign(8 * kTokenFeatures, 0);
  for (std::size_t head = 0; head < 8; ++head) {
    float* token = &trial.state.tokens[head * kTokenFeatures];
    token[TokenFeature("active")] = setting.active[head];
    token[TokenFeature("scale")] = std::log(setting.scale[head]) / std::log(kMaxScale);
  }
  return trial;
}

TEST_CASE("towards where another run was a job takes the largest steps that do not miss it") {
  Setting goal = Setting::Neutral(8);
  goal.active = {0, 0, 1, 0, 1, 1, 1, 1};
  goal.scale = {1, 1, 0.25F, 1, 1, 1, 1, 1.0F / 16};
  const std::vector<float> score = {3, 2, 1, 0, 3, 2, 1, 0};
  Trial here = Where(Setting::Neutral(8));
  // What the decision made of it there does not matter: heads that it dropped kept their scale.
  here.action->scale[2] = 0;
  here.setting.active[2] = 0;
  const Step step = Towards(here, goal, score);
  CHECK(step.action.count == std::vector{CountChange::kHalve, CountChange::kKeep});
  CHECK(step.active == std::vector<std::uint8_t>{1, 0, 1, 0, 1, 1, 1, 1});
  // Of the first site one head is active at the goal: what it has, the others are to have.
  CHECK(step.action.scale == std::vector<std::uint8_t>{0, 0, 0, 0, 2, 2, 2, 0});

  Setting small = Setting::Neutral(8);
  small.active = {0, 1, 0, 0, 1, 1, 1, 0};
  small.scale[4] = 0.25F;
  const Step back = Towards(Where(small), Setting::Neutral(8), score);
  CHECK(back.action.count == std::vector{CountChange::kDouble, CountChange::kDouble});
  CHECK(CountActive(back.active) == 6);
  CHECK(back.active[1] == 1);
  CHECK(back.action.scale[4] == 4);
  CHECK(Towards(Where(goal), goal, score).action.count ==
        std::vector{CountChange::kKeep, CountChange::kKeep});
}

TEST_CASE(
    "before the first step a job comes nearer to where another run was by no head that comes in") {
  Setting goal = Setting::Neutral(8);
  goal.active = {0, 1, 1, 0, 0, 0, 0, 1};
  goal.scale = {1, 0.25F, 0.25F, 1, 1, 1, 1, 1};
  Setting now = Setting::Neutral(8);
  now.active = {1, 0, 0, 0, 1, 1, 1, 1};
  Trial here = Where(now);
  here.step = 0;
  const Step step = Towards(here, goal, std::vector<float>(8));
  CHECK(step.action.count == std::vector{CountChange::kKeep, CountChange::kHalve});
  CHECK(step.action.scale == std::vector<std::uint8_t>{0, 2, 2, 2, 2, 2, 2, 2});
  here.step = 10;
  CHECK(Towards(here, goal, std::vector<float>(8)).action.count[0] == CountChange::kDouble);
}

Trial Of(std::uint32_t window, std::uint64_t step) {
  Trial trial;
  trial.window = window;
  trial.step = step;
  trial.action = Action::Keep(1, 1);
  trial.decider = "explore";
  return trial;
}

TEST_CASE("in a window that a run was not asked in its decision before it stands") {
  Episode episode;
  episode.trials = {Of(2, 30), Of(5, 60)};
  CHECK(TrialAt(episode, Of(0, 10))->window == 2);
  CHECK(TrialAt(episode, Of(4, 50))->window == 2);
  CHECK(TrialAt(episode, Of(9, 100))->window == 5);
}

TEST_CASE("before the first step a run stands where its last decision before it has led") {
  Episode episode;
  episode.trials = {Of(0, 10), Of(1, 20)};
  CHECK(TrialAt(episode, Of(0, 0)) == nullptr);
  episode.trials = {Of(0, 0), Of(0, 0), Of(0, 10), Of(1, 20)};
  CHECK(TrialAt(episode, Of(0, 0)) == &episode.trials[1]);
  CHECK(TrialAt(episode, Of(0, 12)) == &episode.trials[2]);
}

// Where a run stands in a window at this share of its budget, and what was decided there: so many
// of each site's heads are active behind it.
Trial In(std::uint32_t window, float progress, const Setting& before, std::size_t active) {
  Trial trial = Where(before);
  trial.window = window;
  trial.step = progress > 0 ? 10 * (window + 1) : 0;
  trial.decider = "explore";
  for (std::size_t head = 0; head < 8; ++head) {
    trial.state.tokens[head * kTokenFeatures + TokenFeature("progress")] = progress;
    trial.setting.active[head] = head % 4 < active ? 1 : 0;
  }
  const std::size_t now = CountActive(before.active) / 2;
  const CountChange change = active < now ? CountChange::kHalve : CountChange::kKeep;
  trial.action->count = {change, change};
  trial.action->score = {4, 3, 2, 1, 4, 3, 2, 1};
  return trial;
}

Setting FirstOf(std::size_t active) {
  Setting setting = Setting::Neutral(8);
  for (std::size_t head = 0; head < 8; ++head) setting.active[head] = head % 4 < active ? 1 : 0;
  return setting;
}

Episode Run(std::vector<Trial> trials, double weight) {
  Episode episode;
  episode.job.spec.name = "job";
  episode.job.spec.topology = {
      {Site{"a", SiteKind::kSelf, true, 4, 4, 8}, Site{"b", SiteKind::kSelf, true, 4, 4, 8}}};
  episode.job.spec.budget = {.kind = BudgetKind::kSteps, .amount = 1000};
  episode.trials = std::move(trials);
  episode.weights.assign(episode.trials.size(), weight);
  for (std::size_t i = 0; i < episode.trials.size(); ++i) {
    episode.returns.push_back(static_cast<double>(episode.trials.size() - i));
  }
  return episode;
}

// What weighs something in a state where so many of a site's heads are active at this progress: the
// weights by what is done with the first site's heads.
std::map<CountChange, double> Weights(const std::vector<Sample>& lessons, std::size_t active,
                                      float progress) {
  std::map<CountChange, double> weights;
  for (const Sample& lesson : lessons) {
    if (CountActive(lesson.active_before) != 2 * active) continue;
    if (lesson.state.At(0, TokenFeature("progress")) != progress) continue;
    if (lesson.weight > 0) weights[lesson.action.count[0]] += lesson.weight;
  }
  return weights;
}

using ByChange = std::map<CountChange, double>;

TEST_CASE("early in the budget a plan is taught wherever any run of its job stood") {
  Group group;
  group.alone = 0.5;
  group.episodes.push_back(Run({In(0, 0.1F, FirstOf(4), 2), In(1, 0.2F, FirstOf(2), 2)}, 3));
  group.episodes.push_back(Run({In(0, 0.1F, FirstOf(4), 4), In(1, 0.2F, FirstOf(4), 4)}, 1));
  const auto lessons = LessonsOf({&group});
  // In the first window both stood at all heads. Each is told its own decision and the other's, and
  // once to keep for leaving the job alone.
  CHECK(Weights(lessons, 4, 0.1F) ==
        ByChange{{CountChange::kHalve, 2 * 3}, {CountChange::kKeep, 2 * 1 + 2 * 0.5}});
  // In the second one the run that kept is told to come to where the first was by then, and that to
  // come back to where the other was.
  CHECK(Weights(lessons, 4, 0.2F) ==
        ByChange{{CountChange::kHalve, 3}, {CountChange::kKeep, 1 + 0.5}});
  CHECK(Weights(lessons, 2, 0.2F) ==
        ByChange{{CountChange::kDouble, 1}, {CountChange::kKeep, 3 + 0.5}});
  for (const Sample& lesson : lessons) {
    const float progress = lesson.state.At(0, TokenFeature("progress"));
    if (progress > 0) CHECK(lesson.target_value == (progress < 0.15F ? 2 : 1));
  }
}

TEST_CASE(
    "later a plan is taught in its own run alone, and to leave alone where nothing was done") {
  Group group;
  group.alone = 0.5;
  group.episodes.push_back(Run({In(7, 0.5F, FirstOf(4), 2)}, 3));
  group.episodes.push_back(Run({In(7, 0.5F, FirstOf(2), 2)}, 1));
  group.episodes.push_back(Run({In(7, 0.5F, FirstOf(4), 4)}, 0));
  const auto lessons = LessonsOf({&group});
  // Leaving alone has its weight once in all untouched states of a window.
  CHECK(Weights(lessons, 4, 0.5F) == ByChange{{CountChange::kHalve, 3}, {CountChange::kKeep, 0.5}});
  CHECK(Weights(lessons, 2, 0.5F) == ByChange{{CountChange::kKeep, 1}});
}

TEST_CASE("a plan of less than a hundredth of its group's best weight teaches the value alone") {
  Group group;
  group.episodes.push_back(Run({In(0, 0.1F, FirstOf(4), 2)}, 3));
  group.episodes.push_back(Run({In(0, 0.1F, FirstOf(4), 4)}, 0.029));
  const auto lessons = LessonsOf({&group});
  CHECK(Weights(lessons, 4, 0.1F) == ByChange{{CountChange::kHalve, 2 * 3}});
  CHECK(std::ranges::count_if(lessons, [](const Sample& lesson) {
          return lesson.weight == 0 && lesson.target_value == 1;
        }) == 1);
}

TEST_CASE(
    "where no run of a job was decided on before its first step, the lesson there is to keep") {
  Group group;
  group.alone = 0.5;
  group.episodes.push_back(Run({In(0, 0.1F, FirstOf(4), 2)}, 3));
  group.episodes.push_back(Run({In(0, 0.1F, FirstOf(4), 2)}, 1));
  CHECK(Weights(LessonsOf({&group}), 4, 0) == ByChange{{CountChange::kKeep, 3 + 1 + 0.5}});
}

TEST_CASE("where one was, plans that began before the first step say so, and the others to keep") {
  Group group;
  group.episodes.push_back(Run({In(0, 0, FirstOf(4), 2), In(0, 0.1F, FirstOf(2), 2)}, 3));
  group.episodes.push_back(Run({In(0, 0.1F, FirstOf(4), 2)}, 1));
  CHECK(Weights(LessonsOf({&group}), 4, 0) ==
        ByChange{{CountChange::kHalve, 3}, {CountChange::kKeep, 1}});
}

TEST_CASE("decisions as they were made are taught each by its own weight") {
  Group group;
  group.episodes.push_back(Run({In(0, 0.1F, FirstOf(4), 2), In(1, 0.2F, FirstOf(2), 2)}, 3));
  group.episodes[0].weights = {2, 0.25};
  const auto decisions = DecisionsOf({&group});
  CHECK(Weights(decisions, 4, 0.1F) == ByChange{{CountChange::kHalve, 2}});
  CHECK(Weights(decisions, 2, 0.2F) == ByChange{{CountChange::kKeep, 0.25}});
}

}  // namespace
}  // namespace attune::test
