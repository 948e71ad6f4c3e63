// The critic: what plans are worth, where the truth is known.
#include "experiments/critic.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace attune::test {
namespace {

// Groups of runs whose cost is an offset of the group + plan[0] (2 + job[0]) − 3 plan[1] + luck.
std::vector<PlannedRun> Runs(std::size_t groups, std::size_t runs_each, double luck) {
  std::mt19937_64 random(1);
  std::normal_distribution<double> normal;
  std::vector<PlannedRun> runs;
  for (std::size_t group = 0; group < groups; ++group) {
    const double offset = 100 * normal(random);
    const double job = normal(random);
    for (std::size_t i = 0; i < runs_each; ++i) {
      const double some = std::abs(normal(random));
      const double other = std::abs(normal(random));
      runs.push_back({std::to_string(group),
                      group,
                      {job},
                      {some, other},
                      offset + some * (2 + job) - 3 * other + luck * normal(random)});
    }
  }
  return runs;
}

TEST_CASE("the critic finds what plans are worth to each job, whatever their groups cost anyway") {
  const Critic critic(Runs(200, 4, 0));
  CHECK(critic.Foreseen() > 0.99);
  const std::vector<double> job = {0.5};
  CHECK(critic.Judge(job, std::vector<double>{0, 0}).mean == 0);
  CHECK(critic.Judge(job, std::vector<double>{1, 0}).mean == Approx(2.5).epsilon(0.05));
  CHECK(critic.Judge(job, std::vector<double>{0, 2}).mean == Approx(-6).epsilon(0.05));
  CHECK(critic.Judge(std::vector<double>{-2}, std::vector<double>{1, 0}).mean ==
        Approx(0).margin(0.2));
}

TEST_CASE("what another seed of a job has shown does not count as foreseen") {
  // What each job's one plan is worth is luck, and the same for its two seeds.
  std::mt19937_64 random(3);
  std::normal_distribution<double> normal;
  std::vector<PlannedRun> runs;
  for (std::size_t job = 0; job < 60; ++job) {
    const double worth = normal(random);
    std::vector<double> traits(8);  // so many that no job is like another
    for (double& trait : traits) trait = normal(random);
    for (std::size_t seed = 0; seed < 2; ++seed) {
      for (const double some : {0.0, 1.0}) {
        runs.push_back({std::to_string(job), 2 * job + seed, traits, {some}, some * worth});
      }
    }
  }
  // Some is foreseen: relevances, which few jobs tell by chance, are those of all.
  CHECK(Critic(runs).Foreseen() < 0.3);
  for (PlannedRun& run : runs) run.name = std::to_string(run.group);
  CHECK(Critic(runs).Foreseen() > 0.9);
}

TEST_CASE("the critic says by how much it may be wrong") {
  const std::vector<double> job = {0};
  const std::vector<double> plan = {1, 0};
  const auto few = Critic(Runs(20, 3, 1)).Judge(job, plan);
  const auto many = Critic(Runs(300, 3, 1)).Judge(job, plan);
  CHECK(std::abs(many.mean - 2) < 4 * many.deviation);
  CHECK(many.deviation < few.deviation / 2);
}

TEST_CASE("where all is luck, the critic foresees nothing and says that plans are worth nothing") {
  std::vector<PlannedRun> runs = Runs(60, 3, 0);
  std::mt19937_64 random(2);
  std::normal_distribution<double> normal;
  for (PlannedRun& run : runs) run.cost = normal(random);
  const Critic critic(runs);
  CHECK(critic.Foreseen() < 0.05);
  CHECK(std::abs(critic.Judge(std::vector<double>{0}, std::vector<double>{1, 1}).mean) < 0.3);
}

TEST_CASE("the same runs give the same critic") {
  const std::vector<double> job = {0.3};
  const std::vector<double> plan = {1, 2};
  const auto one = Critic(Runs(20, 3, 1)).Judge(job, plan);
  const auto two = Critic(Runs(20, 3, 1)).Judge(job, plan);
  CHECK(one.mean == two.mean);
  CHECK(one.deviation == two.deviation);
}

TEST_CASE("runs that cannot be compared are refused") {
  CHECK_THROWS_AS(Critic({}), std::invalid_argument);
  CHECK_THROWS_AS(Critic(Runs(1, 3, 0)), std::invalid_argument);
  CHECK_THROWS_AS(Critic(Runs(30, 1, 0)), std::invalid_argument);
  auto runs = Runs(5, 3, 0);
  runs[4].plan.push_back(1);
  CHECK_THROWS_AS(Critic(runs), std::invalid_argument);
  runs = Runs(5, 3, 0);
  runs[4].cost = std::numeric_limits<double>::infinity();
  CHECK_THROWS_AS(Critic(runs), std::invalid_argument);
  const Critic critic(Runs(5, 3, 0));
  CHECK_THROWS_AS(critic.Judge(std::vector<double>{0, 0}, std::vector<double>{1, 1}),
                  std::invalid_argument);
}

}  // namespace
}  // namespace attune::test
