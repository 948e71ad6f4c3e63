// Means, intervals, curves, halving.
#include "agent/sweep/statistics.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <limits>
#include <vector>

#include "agent/sweep/halving.h"
#include "tests/process/process.h"

namespace attune::sweep {
namespace {

TEST_CASE("the interval of many values is that of the normal distribution") {
  std::vector<double> values;
  for (int i = 0; i < 400; ++i) values.push_back(i % 2 == 0 ? 1.0 : 3.0);
  const Interval interval = Mean(values);
  CHECK(interval.mean == Approx(2.0));
  // Standard error 1 / 20.
  CHECK(*interval.low == Approx(2 - 1.96 / 20).margin(0.006));
  CHECK(*interval.high == Approx(2 + 1.96 / 20).margin(0.006));
  CHECK(*Mean(values).low == *interval.low);
}

TEST_CASE("one value has no interval, and equal values have one of width 0") {
  const std::vector<double> one = {4};
  CHECK(Mean(one).mean == 4);
  CHECK_FALSE(Mean(one).low);
  const std::vector<double> equal = {4, 4, 4};
  CHECK(*Mean(equal).low == 4);
  CHECK(*Mean(equal).high == 4);
}

TEST_CASE("the seeds of a job are drawn with it: they tell nothing of other jobs") {
  std::vector<double> values;
  std::vector<std::string> jobs;
  for (int job = 0; job < 100; ++job) {
    for (int seed = 0; seed < 5; ++seed) {
      values.push_back(job % 2 == 0 ? 1.0 : 3.0);
      jobs.push_back(std::to_string(job));
    }
  }
  const Interval interval = Mean(values, jobs);
  CHECK(interval.mean == Approx(2.0));
  CHECK(interval.count == 500);
  // Standard error 1 / 10: that of 100 values, not of 500.
  CHECK(*interval.low == Approx(2 - 1.96 / 10).margin(0.01));
  CHECK(*interval.high == Approx(2 + 1.96 / 10).margin(0.01));
  const std::vector<std::string> one(values.size(), "one job");
  CHECK(*Mean(values, one).low == *Mean(values).low);
}

TEST_CASE("the geometric mean halves as often as it doubles, and infinity swallows it") {
  const std::vector<double> values = {0.5, 2, 0.25, 4};
  CHECK(GeometricMean(values).mean == Approx(1.0));
  const std::vector<double> unreached = {0.5, std::numeric_limits<double>::infinity()};
  CHECK(std::isinf(GeometricMean(unreached).mean));
}

TEST_CASE("compute to a target lies on the line between two points") {
  const std::vector<Point> curve = {{0, 10, 5.0}, {0, 20, 3.0}, {0, 30, 3.5}, {0, 40, 1.0}};
  CHECK(*ComputeToTarget(curve, 4.0, true) == Approx(15));
  CHECK(*ComputeToTarget(curve, 3.0, true) == Approx(20));
  CHECK(*ComputeToTarget(curve, 6.0, true) == Approx(10));
  CHECK(*ComputeToTarget(curve, 2.25, true) == Approx(35));
  CHECK_FALSE(ComputeToTarget(curve, 0.5, true));
  CHECK(*ComputeToTarget(curve, 4.0, false) == Approx(10));
  CHECK(*ValueAt(curve, 15) == Approx(4.0));
  CHECK(*ValueAt(curve, 40) == 1.0);
  CHECK_FALSE(ValueAt(curve, 9));
  CHECK_FALSE(ValueAt(curve, 41));
}

TEST_CASE("a run goes on while it is among the best third of its rung so far") {
  const std::vector<double> rung = {1, 2, 3, 4, 5, 6, 7};  // the best ceil(7 / 3) = 3 go on
  CHECK(GoesOn(rung, 3, 3, true));
  CHECK_FALSE(GoesOn(rung, 4, 3, true));
  CHECK(GoesOn(rung, 5, 3, false));
  CHECK_FALSE(GoesOn(rung, 4, 3, false));
  const std::vector<double> first = {9};
  CHECK(GoesOn(first, 9, 3, true));
}

TEST_CASE("runs meet at the rungs of their seed, and one that began anew counts once") {
  const test::TemporaryDirectory folder;
  const auto file = folder.Path() / "rungs.jsonl";
  const Halving halving{.by_step = true, .least = 10, .factor = 2};
  const auto judge = [&](std::uint64_t run, std::uint64_t seed, double step, double value) {
    Run who;
    who.id = run;
    who.seed = seed;
    return Ladder(file, halving, true, who).Judge({step, 0, value});
  };
  CHECK_FALSE(judge(1, 0, 9, 100));  // below the first rung
  CHECK_FALSE(judge(1, 0, 10, 1.0));
  CHECK(judge(2, 0, 12, 2.0));        // second of two
  CHECK_FALSE(judge(3, 1, 10, 5.0));  // another seed
  CHECK_FALSE(judge(2, 0, 11, 0.5));  // anew, and better
  CHECK(judge(1, 0, 10, 1.0));        // now second of two
  CHECK_FALSE(judge(4, 0, 20, 9.0));  // the first at the rung of 20
}

}  // namespace
}  // namespace attune::sweep
