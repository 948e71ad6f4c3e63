#include "env/trust.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace attune {
namespace {

constexpr std::size_t kBefore = 10;  // windows before a change
constexpr double kTolerance = 3;

// A loss of 2 nats that swings by a share of itself from window to window.
std::vector<CurvePoint> Flat(std::size_t points, double swing = 0) {
  std::vector<CurvePoint> curve;
  for (std::size_t i = 1; i <= points; ++i) {
    curve.push_back({10.0 * static_cast<double>(i), 2 * (1 + (i % 2 == 0 ? swing : -swing))});
  }
  return curve;
}

Setting Without(std::size_t heads) {
  Setting setting = Setting::Neutral(16);
  for (std::size_t head = 0; head < heads; ++head) setting.active[head] = 0;
  return setting;
}

// What the first windows behind a change of one head lead to, that are no longer open: the loss is
// `factor` of what it was. The change is in `curve` from its end on.
Trust::Finding FirstFinding(Trust& trust, std::vector<CurvePoint> curve, double factor,
                            double swing = 0) {
  const std::size_t before = curve.size();
  trust.Changed(before, curve, Without(0), Without(1));
  const std::vector<CurvePoint> flat = Flat(before + 40, swing);
  for (std::size_t i = before; i < flat.size(); ++i) {
    curve.push_back({flat[i].compute_seconds, factor * flat[i].loss});
    auto finding = trust.Judge(curve);
    if (!std::holds_alternative<Trust::Open>(finding)) return finding;
  }
  return Trust::Open{};
}

// Whether nothing may be changed for a reason that says so.
bool Says(const Trust& trust, const std::vector<CurvePoint>& curve, const std::string& what,
          double left = 25) {
  const auto why = trust.WhyNot(curve, left);
  return why && why->find(what) != std::string::npos;
}

TEST_CASE("a model that was trained before is watched, then one head of it may be changed") {
  const Trust trust(kTolerance);
  CHECK(Says(trust, {}, "watched for 8 windows"));
  CHECK(Says(trust, Flat(7), "watched for 8 windows"));
  CHECK_FALSE(trust.WhyNot(Flat(8), 25));
  CHECK(trust.Left() == 1);
}

TEST_CASE("nothing is changed where the loss swings too much to tell in time what it would cost") {
  const Trust trust(kTolerance);
  CHECK(Says(trust, Flat(20, 0.02), "swings by 2."));
  CHECK_FALSE(trust.WhyNot(Flat(20, 0.003), 20));
  CHECK(Says(trust, Flat(20, 0.003), "swings", 1));  // what is left is too short
  CHECK(Says(trust, std::vector<CurvePoint>(20, {0, 2}), "does not say what it has spent"));
}

TEST_CASE("nothing more is changed before what was is shown to do no harm, then twice as much") {
  Trust trust(kTolerance);
  std::vector<CurvePoint> curve = Flat(kBefore);
  trust.Changed(kBefore, curve, Without(0), Without(1));
  CHECK(trust.Left() == 0);
  CHECK(Says(trust, curve, "was changed (1)"));
  curve = Flat(kBefore + 2);  // the second window is the first that is wholly behind the change
  CHECK(std::holds_alternative<Trust::Open>(trust.Judge(curve)));
  curve = Flat(kBefore + 17);
  CHECK(std::holds_alternative<Trust::Harmless>(trust.Judge(curve)));
  CHECK(trust.Left() == 2);
  CHECK(FirstFinding(trust, curve, 1).index() == Trust::Finding(Trust::Harmless{}).index());
  CHECK(trust.Left() == 4);
  trust.Lose();
  CHECK(trust.Left() == 1);
}

TEST_CASE("a lower loss lets more be changed, one a little higher never does") {
  Trust better(kTolerance);
  CHECK(std::holds_alternative<Trust::Harmless>(FirstFinding(better, Flat(kBefore), 0.95)));
  Trust worse(kTolerance);
  CHECK_FALSE(std::holds_alternative<Trust::Harmless>(FirstFinding(worse, Flat(kBefore), 1.006)));
}

TEST_CASE("a loss that has risen is harm, and says what was in force before") {
  Trust trust(kTolerance);
  const auto finding = FirstFinding(trust, Flat(kBefore), 1.02);
  REQUIRE(std::holds_alternative<Trust::Harm>(finding));
  CHECK(std::get<Trust::Harm>(finding).before == Without(0));
  Trust broken(kTolerance);
  CHECK(std::holds_alternative<Trust::Harm>(
      FirstFinding(broken, Flat(kBefore), std::numeric_limits<double>::quiet_NaN())));
}

TEST_CASE("what cannot be told from the loss's own swing stays open") {
  Trust trust(kTolerance);
  CHECK(std::holds_alternative<Trust::Open>(FirstFinding(trust, Flat(kBefore, 0.05), 1, 0.05)));
  CHECK(trust.Left() == 0);
}

TEST_CASE("a head that goes, one that comes and one with another scale count one each") {
  Trust trust(kTolerance);
  Setting after = Without(1);
  after.active[0] = 1;
  after.active[1] = 0;
  after.scale[1] = 2;  // of a head that is off now
  after.scale[5] = 2;
  trust.Changed(kBefore, Flat(kBefore), Without(1), after);
  CHECK(Says(trust, Flat(kBefore), "was changed (3)"));
  trust.Forget();
  CHECK(trust.Left() == 1);
}

// The share of 400 jobs of 36 windows, with noise in each, that end with that finding of a change.
template <typename Finding>
double ShareOfJobs(std::size_t before, double noise, double cost) {
  std::mt19937_64 random(before);
  std::normal_distribution<double> normal;
  int found = 0;
  constexpr int kJobs = 400;
  for (int job = 0; job < kJobs; ++job) {
    std::vector<CurvePoint> curve;
    Trust trust(kTolerance);
    Trust::Finding finding = Trust::Open{};
    for (std::size_t i = 0; i < 36 && std::holds_alternative<Trust::Open>(finding); ++i) {
      if (i == before) trust.Changed(before, curve, Without(0), Without(1));
      const double loss = 2 * (1 + noise * normal(random)) + (i > before ? 2 * cost : 0);
      curve.push_back({10.0 * static_cast<double>(i + 1), loss});
      finding = trust.Judge(curve);
    }
    found += std::holds_alternative<Finding>(finding) ? 1 : 0;
  }
  return static_cast<double>(found) / kJobs;
}

TEST_CASE("of twenty changes that cost half a percent one is taken for harmless") {
  for (const std::size_t before : {8, 12, 20}) {
    for (const double noise : {0.001, 0.003, 0.005}) {
      CAPTURE(before, noise);
      CHECK(ShareOfJobs<Trust::Harmless>(before, noise, 0.005) <= 0.08);  // 0.05, as luck has it
    }
  }
}

TEST_CASE("most changes that cost nothing are shown to where the loss is even, few called harm") {
  CHECK(ShareOfJobs<Trust::Harmless>(12, 0.001, 0) > 0.9);
  CHECK(ShareOfJobs<Trust::Harmless>(20, 0.003, 0) > 0.7);
  CHECK(ShareOfJobs<Trust::Harm>(12, 0.005, 0) < 0.05);
  CHECK(ShareOfJobs<Trust::Harm>(20, 0.003, 0.03) > 0.95);
}

TEST_CASE("what was changed back is not to be proven any more") {
  Trust trust(kTolerance);
  trust.Changed(kBefore, Flat(kBefore), Without(0), Without(1));
  REQUIRE(trust.Oldest());
  trust.Changed(kBefore + 1, Flat(kBefore + 1), Without(1), Without(0));
  CHECK_FALSE(trust.Oldest());
  CHECK(trust.Left() == 1);
}

}  // namespace
}  // namespace attune
