// Tests of what actions are open and where they lead.
#include "env/action.h"

#include <catch2/catch.hpp>
#include <limits>
#include <numeric>
#include <random>
#include <stdexcept>

#include "tests/env/example.h"

namespace attune {
namespace {

// A setting within the bounds, with at least one active head in every site.
Setting RandomSetting(const Topology& topology, std::mt19937& random) {
  Setting setting = Setting::Neutral(topology.Heads());
  for (float& scale : setting.scale) {
    scale = std::exp2(static_cast<float>(random() % 8001) / 1000 - 4);
  }
  for (std::uint8_t& active : setting.active) active = random() % 2;
  const auto offsets = topology.SiteOffsets();
  for (std::size_t s = 0; s < topology.sites.size(); ++s) {
    setting.active[offsets[s] + random() % topology.sites[s].heads] = 1;
  }
  return setting;
}

// Any of the open choices.
Action RandomAction(const ActionMask& mask, std::mt19937& random) {
  Action action = Action::Keep(mask.scale.size(), mask.count.size());
  for (std::size_t head = 0; head < mask.scale.size(); ++head) {
    do {
      action.scale[head] = static_cast<std::uint8_t>(random() % kScaleChoices);
    } while (mask.scale[head][action.scale[head]] == 0);
    action.score[head] = static_cast<float>(random() % 1000);
  }
  for (std::size_t site = 0; site < mask.count.size(); ++site) {
    do {
      action.count[site] = static_cast<CountChange>(random() % kCountChoices);
    } while (mask.count[site][static_cast<std::size_t>(action.count[site])] == 0);
  }
  return action;
}

Topology OneSite(std::uint32_t heads) {
  return {.sites = {{.name = "a", .heads = heads, .head_width = 8, .context = 8}}};
}

Setting WithActive(std::vector<std::uint8_t> active) {
  Setting setting = Setting::Neutral(active.size());
  setting.active = std::move(active);
  return setting;
}

TEST_CASE("counts change as named and stay within 1 and the site's heads") {
  CHECK(ChangedCount(8, CountChange::kHalve, 8) == 4);
  CHECK(ChangedCount(5, CountChange::kHalve, 8) == 2);
  CHECK(ChangedCount(1, CountChange::kHalve, 8) == 1);
  CHECK(ChangedCount(8, CountChange::kMinusOne, 8) == 7);
  CHECK(ChangedCount(1, CountChange::kMinusOne, 8) == 1);
  CHECK(ChangedCount(3, CountChange::kKeep, 8) == 3);
  CHECK(ChangedCount(3, CountChange::kPlusOne, 8) == 4);
  CHECK(ChangedCount(8, CountChange::kPlusOne, 8) == 8);
  CHECK(ChangedCount(3, CountChange::kDouble, 8) == 6);
  CHECK(ChangedCount(5, CountChange::kDouble, 8) == 8);
}

TEST_CASE("count choices that do nothing or repeat a larger one are masked") {
  using Row = std::array<std::uint8_t, kCountChoices>;  // halve, −1, keep, +1, double
  const auto counts = [](std::vector<std::uint8_t> active) {
    const Topology topology = OneSite(static_cast<std::uint32_t>(active.size()));
    return MaskOf(topology, WithActive(std::move(active))).count[0];
  };
  CHECK(counts({1}) == Row{0, 0, 1, 0, 0});
  CHECK(counts({1, 1}) == Row{1, 0, 1, 0, 0});
  CHECK(counts({1, 0}) == Row{0, 0, 1, 0, 1});
  CHECK(counts({1, 1, 1, 1}) == Row{1, 1, 1, 0, 0});
  CHECK(counts({1, 1, 1, 0}) == Row{1, 1, 1, 0, 1});
  CHECK(counts({1, 1, 0, 0}) == Row{1, 0, 1, 1, 1});
  CHECK(counts({1, 0, 0, 0}) == Row{0, 0, 1, 0, 1});
}

TEST_CASE("scale choices that leave the bounds are masked, and all but keep of inactive heads") {
  using Row = std::array<std::uint8_t, kScaleChoices>;
  const Topology topology = OneSite(6);
  Setting setting = Setting::Neutral(6);
  setting.scale = {1, kMaxScale, kMinScale, kMaxScale / 2, kMinScale * 2, 1};
  setting.active[5] = 0;
  const ActionMask mask = MaskOf(topology, setting);
  CHECK(mask.scale[0] == Row{1, 1, 1, 1, 1});
  CHECK(mask.scale[1] == Row{1, 1, 1, 0, 0});
  CHECK(mask.scale[2] == Row{0, 0, 1, 1, 1});
  CHECK(mask.scale[3] == Row{1, 1, 1, 1, 0});
  CHECK(mask.scale[4] == Row{0, 1, 1, 1, 1});
  CHECK(mask.scale[5] == Row{0, 0, 1, 0, 0});
}

TEST_CASE("rounding does not close the way back to a bound") {
  const Topology topology = OneSite(1);
  for (const float bound : {kMinScale, kMaxScale}) {
    for (const std::size_t away : {0, 1, 3, 4}) {
      Setting setting = Setting::Neutral(1);
      setting.scale[0] = bound * kScaleFactors[away];
      if (setting.scale[0] < kMinScale || setting.scale[0] > kMaxScale) continue;
      Action back = Action::Keep(1, 1);
      back.scale[0] = static_cast<std::uint8_t>(kScaleChoices - 1 - away);
      const Setting returned = Apply(topology, setting, back);
      CHECK(returned.scale[0] == Approx(bound));
      CHECK(FindFault(returned, topology) == std::nullopt);
    }
  }
}

TEST_CASE("keeping changes nothing and is always open") {
  std::mt19937 random(1);
  const Topology topology = ExampleTopology();
  for (int i = 0; i < 100; ++i) {
    const Setting setting = RandomSetting(topology, random);
    CHECK(Apply(topology, setting, Action::Keep(6, 2)) == setting);
  }
}

TEST_CASE("any open action leads to a usable setting with the counts it asked for") {
  std::mt19937 random(2);
  const Topology topology = ExampleTopology();
  const auto offsets = topology.SiteOffsets();
  Setting setting = RandomSetting(topology, random);
  for (int i = 0; i < 2000; ++i) {
    const Action action = RandomAction(MaskOf(topology, setting), random);
    const Setting next = Apply(topology, setting, action);
    REQUIRE(FindFault(next, topology) == std::nullopt);
    CHECK(next.gain == setting.gain);
    for (std::size_t s = 0; s < 2; ++s) {
      const std::size_t heads = topology.sites[s].heads;
      const auto before = std::span(setting.active).subspan(offsets[s], heads);
      const auto after = std::span(next.active).subspan(offsets[s], heads);
      CHECK(CountActive(after) == ChangedCount(CountActive(before), action.count[s], heads));
    }
    for (std::size_t head = 0; head < 6; ++head) {
      const float factor = next.active[head] != 0 ? kScaleFactors[action.scale[head]] : 1.0F;
      CHECK(next.scale[head] == Approx(setting.scale[head] * factor).epsilon(2e-4));
    }
    setting = next;
  }
}

TEST_CASE("halving and doubling again brings the same heads back by score") {
  const Topology topology = OneSite(8);
  const Setting full = Setting::Neutral(8);
  Action halve = Action::Keep(8, 1);
  halve.count[0] = CountChange::kHalve;
  halve.score = {0, 7, 1, 6, 2, 5, 3, 4};
  const Setting half = Apply(topology, full, halve);
  CHECK(half.active == std::vector<std::uint8_t>{0, 1, 0, 1, 0, 1, 0, 1});
  Action twice = Action::Keep(8, 1);
  twice.count[0] = CountChange::kDouble;
  CHECK(Apply(topology, half, twice) == full);
}

TEST_CASE("the best heads stay, active ones before inactive ones, equals by index") {
  std::vector<std::uint8_t> active = {1, 1, 0, 1, 0};
  const std::vector<float> score = {1, 3, 9, 3, 8};
  SelectHeads(active, score, 1);
  CHECK(active == std::vector<std::uint8_t>{0, 1, 0, 0, 0});
  active = {1, 1, 0, 1, 0};
  SelectHeads(active, score, 2);
  CHECK(active == std::vector<std::uint8_t>{0, 1, 0, 1, 0});
  active = {1, 1, 0, 1, 0};
  SelectHeads(active, score, 4);
  CHECK(active == std::vector<std::uint8_t>{1, 1, 1, 1, 0});
}

TEST_CASE("a head that goes out keeps its scale, and one that comes in has its old one") {
  const Topology topology = OneSite(2);
  Setting setting = Setting::Neutral(2);
  setting.scale = {2, 3};
  Action action = Action::Keep(2, 1);
  action.scale = {4, 4};
  action.count[0] = CountChange::kHalve;
  action.score = {1, 0};
  const Setting half = Apply(topology, setting, action);
  CHECK(half.scale == std::vector<float>{2 * 4, 3});
  Action twice = Action::Keep(2, 1);
  twice.count[0] = CountChange::kDouble;
  CHECK(Apply(topology, half, twice).scale == half.scale);
}

TEST_CASE("masked choices, strange choices and sizes are refused") {
  const Topology topology = OneSite(2);
  Setting setting = Setting::Neutral(2);
  setting.scale[0] = kMaxScale;
  const auto refuses = [&](auto change) {
    Action action = Action::Keep(2, 1);
    change(action);
    CHECK_THROWS_AS(Apply(topology, setting, action), std::invalid_argument);
  };
  refuses([](Action& a) { a.scale[0] = 4; });
  refuses([](Action& a) { a.scale[1] = kScaleChoices; });
  refuses([](Action& a) { a.count[0] = CountChange::kMinusOne; });  // is halve at two heads
  refuses([](Action& a) { a.count[0] = static_cast<CountChange>(5); });
  refuses([](Action& a) { a.scale.pop_back(); });
  refuses([](Action& a) { a.count.push_back(CountChange::kKeep); });
  refuses([](Action& a) { a.score.pop_back(); });
  refuses([](Action& a) {
    a.count[0] = CountChange::kHalve;
    a.score[1] = std::numeric_limits<float>::quiet_NaN();
  });
  setting.scale.pop_back();
  CHECK_THROWS_AS(MaskOf(topology, setting), std::invalid_argument);
}

}  // namespace
}  // namespace attune
