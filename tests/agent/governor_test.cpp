#include "agent/governor.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <vector>

namespace attune {
namespace {

// A curve that falls by 1 nat with every e-fold of compute, at 10, 20, … seconds.
std::vector<CurvePoint> Falling(std::size_t points) {
  std::vector<CurvePoint> curve;
  for (std::size_t i = 1; i <= points; ++i) {
    const double compute = 10.0 * static_cast<double>(i);
    curve.push_back({compute, 8.0 - std::log(compute)});
  }
  return curve;
}

WindowReading At(const CurvePoint& point) {
  WindowReading reading;
  reading.end_compute = point.compute_seconds;
  reading.loss = point.loss;
  return reading;
}

Setting FourHeads() { return Setting::Neutral(4); }

TEST_CASE("a job that follows its forecast is free to change") {
  Governor governor(Options{}, true);
  const auto curve = Falling(6);
  governor.Changed(3, std::span(curve).first(4), FourHeads(), FourHeads());
  CHECK(std::holds_alternative<Governor::Free>(governor.Rule(5, 0.5, At(curve.back()), curve)));
}

TEST_CASE("an action whose loss falls behind the forecast is taken back, then nothing changes") {
  Options options;
  options.hold = 3;
  Governor governor(options, true);
  auto curve = Falling(6);
  Setting before = FourHeads();
  before.scale[2] = 2.0F;
  governor.Changed(3, std::span(curve).first(4), before, FourHeads());
  curve.back().loss += 0.5;
  const auto ruling = governor.Rule(5, 0.5, At(curve.back()), curve);
  REQUIRE(std::holds_alternative<Governor::Rollback>(ruling));
  CHECK(std::get<Governor::Rollback>(ruling).setting == before);
  CHECK(std::holds_alternative<Governor::Keep>(governor.Rule(6, 0.6, At(curve.back()), curve)));
  CHECK(std::holds_alternative<Governor::Keep>(governor.Rule(8, 0.6, At(curve.back()), curve)));
  CHECK(std::holds_alternative<Governor::Free>(governor.Rule(9, 0.6, At(curve.back()), curve)));
}

TEST_CASE("with every action that is taken back a job is left alone for twice as long") {
  Options options;
  options.hold = 2;
  Governor governor(options, true);
  const auto held = [&](std::uint32_t window) {
    auto curve = Falling(6);
    governor.Changed(window, std::span(curve).first(4), FourHeads(), FourHeads());
    curve.back().loss += 0.5;
    REQUIRE(std::holds_alternative<Governor::Rollback>(
        governor.Rule(window + 2, 0.5, At(curve.back()), curve)));
    governor.Forget();
    std::uint32_t windows = 0;
    while (!std::holds_alternative<Governor::Free>(
        governor.Rule(window + 3 + windows, 0.5, At(curve.back()), curve))) {
      ++windows;
    }
    return windows;
  };
  CHECK(held(3) == 2);
  CHECK(held(10) == 4);
  CHECK(held(20) == 8);
}

TEST_CASE("what an action that was taken back did to the loss does not excuse the next") {
  Governor governor(Options{}, true);
  auto curve = Falling(10);
  for (CurvePoint& point : curve) point.loss = 2;
  curve[3].loss = curve[4].loss = 4;  // until what takes it back is in force
  governor.Changed(3, std::span(curve).first(3), FourHeads(), FourHeads());
  REQUIRE(std::holds_alternative<Governor::Rollback>(
      governor.Rule(3, 0.3, At(curve[3]), std::span(curve).first(4))));
  governor.Forget();
  governor.Changed(9, std::span(curve).first(9), FourHeads(), FourHeads());
  curve.back().loss = 2.4;
  CHECK(std::holds_alternative<Governor::Rollback>(governor.Rule(9, 0.8, At(curve.back()), curve)));
}

TEST_CASE("an action whose rollback did not arrive is taken back again") {
  Options options;
  options.hold = 1;
  Governor governor(options, true);
  auto curve = Falling(6);
  governor.Changed(3, std::span(curve).first(4), FourHeads(), FourHeads());
  curve.back().loss += 0.5;
  const auto rolls_back = [&](std::uint32_t window) {
    return std::holds_alternative<Governor::Rollback>(
        governor.Rule(window, 0.5, At(curve.back()), curve));
  };
  CHECK(rolls_back(5));
  CHECK_FALSE(rolls_back(6));
  governor.Missed();
  CHECK(rolls_back(7));
  governor.Forget();
  governor.Missed();
  CHECK_FALSE(rolls_back(9));
}

TEST_CASE("a small lag in the first window behind an action is forgiven, a gross one is not") {
  auto curve = Falling(5);
  Governor lenient(Options{}, true);
  lenient.Changed(4, std::span(curve).first(4), FourHeads(), FourHeads());
  // Noise is taken for at least half a percent of the loss: this is four of it.
  curve.back().loss *= 1.02;
  CHECK(std::holds_alternative<Governor::Free>(lenient.Rule(4, 0.5, At(curve.back()), curve)));
  Governor strict(Options{}, true);
  strict.Changed(4, std::span(curve).first(4), FourHeads(), FourHeads());
  curve.back().loss *= 1.10;
  CHECK(std::holds_alternative<Governor::Rollback>(strict.Rule(4, 0.5, At(curve.back()), curve)));
}

TEST_CASE("in the first fifth of the windows a loss that still falls does no harm") {
  Options options;
  options.windows = 20;  // a fifth of which is four
  const auto lagging = [&](std::size_t points_before) {
    auto curve = Falling(points_before + 2);
    // Twice as far behind as a forecast forgives, yet below what it was before the action.
    curve.back().loss += 0.06 * curve.back().loss;
    curve.back().loss = std::min(curve.back().loss, curve[points_before - 1].loss - 0.01);
    Governor governor(options, true);
    const auto window = static_cast<std::uint32_t>(points_before);
    governor.Changed(window, std::span(curve).first(points_before), FourHeads(), FourHeads());
    return governor.Rule(window + 2, 0.5, At(curve.back()), curve);
  };
  CHECK(std::holds_alternative<Governor::Free>(lagging(3)));
  CHECK(std::holds_alternative<Governor::Rollback>(lagging(4)));
}

TEST_CASE("a loss that is not a number is taken back at once") {
  const double loss =
      GENERATE(std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN());
  auto curve = Falling(5);
  Governor governor(Options{}, true);
  governor.Changed(4, std::span(curve).first(4), FourHeads(), FourHeads());
  curve.back().loss = loss;
  CHECK(std::holds_alternative<Governor::Rollback>(governor.Rule(4, 0.5, At(curve.back()), curve)));
}

TEST_CASE("a loss that has reached 0 does no harm by staying there") {
  std::vector<CurvePoint> curve = Falling(6);
  for (CurvePoint& point : curve) point.loss = 0;
  Governor governor(Options{}, true);
  governor.Changed(3, std::span(curve).first(4), FourHeads(), FourHeads());
  CHECK(std::holds_alternative<Governor::Free>(governor.Rule(5, 0.5, At(curve.back()), curve)));
}

TEST_CASE("nothing changes in the frozen last part of a job") {
  Governor governor(Options{}, true);
  const auto curve = Falling(6);
  CHECK(std::holds_alternative<Governor::Free>(governor.Rule(5, 0.89, At(curve.back()), curve)));
  CHECK(std::holds_alternative<Governor::Keep>(governor.Rule(5, 0.9, At(curve.back()), curve)));
}

TEST_CASE("changes beyond the change budget are left out and said so") {
  Options options;
  options.change_budget = 0.25;  // two of eight heads
  const Governor governor(options, true);
  Topology topology;
  topology.sites = {{"a", SiteKind::kSelf, true, 4, 8, 64}, {"b", SiteKind::kSelf, true, 4, 8, 64}};
  Action action = Action::Keep(8, 2);
  action.count = {CountChange::kHalve, CountChange::kHalve};
  action.scale[7] = kKeepScale + 1;
  std::string note;
  const Action limited = governor.Limit(topology, Setting::Neutral(8), action, note);
  CHECK(limited.count[0] == CountChange::kHalve);
  CHECK(limited.count[1] == CountChange::kKeep);
  CHECK(limited.scale[7] == kKeepScale);
  CHECK(note.find("3 changes") != std::string::npos);
}

TEST_CASE("a decision may halve every site and scale every head: those that leave count once") {
  const Governor governor(Options{}, true);  // all heads
  Topology topology;
  topology.sites = {{"a", SiteKind::kSelf, true, 4, 8, 64}, {"b", SiteKind::kSelf, true, 4, 8, 64}};
  Action action = Action::Keep(8, 2);
  action.count = {CountChange::kHalve, CountChange::kHalve};
  action.scale.assign(8, 0);
  std::string note;
  CHECK(governor.Limit(topology, Setting::Neutral(8), action, note) == action);
  CHECK(note.empty());
}

TEST_CASE("a model that was trained before is watched first, then changed by one head") {
  Options options;
  options.windows = 40;
  Governor governor(options, false);
  CHECK(governor.SmallSteps());
  CHECK_FALSE(Governor(options, true).SmallSteps());
  const auto curve = Falling(9);
  const auto ruling = governor.Rule(6, 0.2, At(curve[6]), std::span(curve).first(7));
  REQUIRE(std::holds_alternative<Governor::Keep>(ruling));
  CHECK(std::get<Governor::Keep>(ruling).why.find("trained before") != std::string::npos);
  CHECK(std::holds_alternative<Governor::Free>(governor.Rule(8, 0.2, At(curve.back()), curve)));

  Topology topology;
  topology.sites = {{"a", SiteKind::kSelf, true, 4, 8, 64}, {"b", SiteKind::kSelf, true, 8, 8, 64}};
  Action action = Action::Keep(12, 2);
  action.count = {CountChange::kHalve, CountChange::kHalve};
  action.scale[0] = kKeepScale + 1;
  std::string note;
  const Action limited = governor.Limit(topology, Setting::Neutral(12), action, note);
  CHECK(limited.count[0] == CountChange::kKeep);
  CHECK(limited.count[1] == CountChange::kMinusOne);  // of the site with more heads
  CHECK(limited.scale[0] == kKeepScale);
  CHECK(note.find("trained before") != std::string::npos);

  Setting after = Setting::Neutral(12);
  after.active[4] = 0;
  governor.Changed(9, curve, Setting::Neutral(12), after);
  CHECK(std::holds_alternative<Governor::Keep>(governor.Rule(10, 0.3, At(curve.back()), curve)));
}

// A loss of 2 nats that stays where it is.
std::vector<CurvePoint> Level(std::size_t points, double loss = 2) {
  auto curve = Falling(points);
  for (CurvePoint& point : curve) point.loss = loss;
  return curve;
}

Setting WithoutHeads(std::size_t first, std::size_t count) {
  Setting setting = Setting::Neutral(12);
  for (std::size_t head = first; head < first + count; ++head) setting.active[head] = 0;
  return setting;
}

TEST_CASE("of a model trained before all that is not proven goes back at once") {
  Options options;
  options.windows = 40;
  options.hold = 1;
  Governor governor(options, false);
  auto curve = Level(10);
  // One head is proven to cost nothing, so two are trusted: they go one behind the other.
  governor.Changed(10, curve, WithoutHeads(0, 0), WithoutHeads(0, 1));
  std::uint32_t window = 10;
  const auto next = [&](double loss) {
    auto point = Level(curve.size() + 1, loss).back();
    curve.push_back(point);
    return governor.Rule(window++, 0.5, At(point), curve);
  };
  for (int i = 0; i < 3; ++i) static_cast<void>(next(2));
  REQUIRE(std::holds_alternative<Governor::Free>(next(2)));
  governor.Changed(window, curve, WithoutHeads(0, 1), WithoutHeads(0, 2));
  for (int i = 0; i < 2; ++i) CHECK(std::holds_alternative<Governor::Free>(next(2.0)));
  governor.Changed(window, curve, WithoutHeads(0, 2), WithoutHeads(0, 3));
  Governor::Ruling ruling = Governor::Free{};
  for (int i = 0; i < 9 && !std::holds_alternative<Governor::Rollback>(ruling); ++i) {
    ruling = next(2.025);  // too little for the forecast of a single window
  }
  REQUIRE(std::holds_alternative<Governor::Rollback>(ruling));
  CHECK(std::get<Governor::Rollback>(ruling).setting == WithoutHeads(0, 1));
  governor.Missed();
  ruling = next(2.025);
  REQUIRE(std::holds_alternative<Governor::Rollback>(ruling));
  CHECK(std::get<Governor::Rollback>(ruling).setting == WithoutHeads(0, 1));
  governor.Forget();
  CHECK(std::holds_alternative<Governor::Keep>(next(2)));
  CHECK(governor.TakeBackUnjudged(window, curve.size()) == std::nullopt);
}

TEST_CASE(
    "of a model trained before a change that the policy undoes itself is not judged any more") {
  Options options;
  options.windows = 40;
  Governor governor(options, false);
  auto curve = Level(12);
  governor.Changed(12, curve, WithoutHeads(0, 0), WithoutHeads(0, 1));
  governor.Changed(13, curve, WithoutHeads(0, 1), WithoutHeads(0, 0));
  std::uint32_t window = 13;
  for (int i = 0; i < 4; ++i) {
    curve.push_back(Level(curve.size() + 1, 50).back());
    const auto ruling = governor.Rule(window++, 0.5, At(curve.back()), curve);
    CHECK_FALSE(std::holds_alternative<Governor::Rollback>(ruling));
  }
}

TEST_CASE("what is not proven is taken back where nothing is measured any more") {
  Governor governor(Options{}, false);
  auto curve = Level(13);  // with a swing that leaves it open
  for (std::size_t i = 0; i < curve.size(); ++i) curve[i].loss += i % 2 == 0 ? 0.008 : -0.008;
  governor.Changed(10, std::span(curve).first(10), WithoutHeads(0, 0), WithoutHeads(0, 1));
  static_cast<void>(governor.Rule(12, 0.5, At(curve.back()), curve));  // judged, not proven
  CHECK(governor.TakeBackUnjudged(13, 13) == WithoutHeads(0, 0));
}

}  // namespace
}  // namespace attune
