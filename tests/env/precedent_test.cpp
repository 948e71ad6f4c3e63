#include "env/precedent.h"

#include <catch2/catch.hpp>
#include <vector>

namespace attune {
namespace {

using Catch::Matchers::Contains;

Topology OfSites(std::vector<std::uint32_t> heads) {
  Topology topology;
  for (std::size_t site = 0; site < heads.size(); ++site) {
    topology.sites.push_back({.name = "s" + std::to_string(site),
                              .kind = SiteKind::kSelf,
                              .causal = true,
                              .heads = heads[site],
                              .head_width = 8,
                              .context = 32});
  }
  return topology;
}

// What a run of two sites of eight heads does after these.
std::optional<Precedent> After(const std::vector<EarlierRun>& runs) {
  return FollowEarlier(runs, OfSites({8, 8}), true);
}

TEST_CASE("a job that policies have not decided about is theirs, whoever watched it") {
  CHECK_FALSE(After({}));
  CHECK_FALSE(After({{Arm::kAlone, 1.0}}));
  CHECK_FALSE(After({{Arm::kFew, 1.0}}));
}

TEST_CASE("the second run tries two heads a site") {
  const auto second = After({{Arm::kOwn, 2.5}});
  REQUIRE(second);
  CHECK(second->heads == 2);
  CHECK_THAT(second->why, Contains("2 heads a site, to see; as policies decide it was 2.5"));
}

TEST_CASE("where nothing is to be explored only what was tried is followed") {
  const Topology sites = OfSites({8, 8});
  CHECK_FALSE(FollowEarlier(std::vector<EarlierRun>{{Arm::kOwn, 1.0}}, sites, false));
  const std::vector<EarlierRun> both = {{Arm::kOwn, 1.0}, {Arm::kFew, 0.9}};
  CHECK(FollowEarlier(both, sites, false));
  const std::vector<EarlierRun> watched = {{Arm::kOwn, 1.0}, {Arm::kAlone, 0.9}};
  const auto alone = FollowEarlier(watched, sites, false);
  REQUIRE(alone);
  CHECK_FALSE(alone->heads);
}

TEST_CASE("from the third run on the lower mean of the logs is followed") {
  CHECK_FALSE(After({{Arm::kOwn, 1.0}, {Arm::kFew, 1.1}}));
  CHECK_FALSE(After({{Arm::kOwn, 1.0}, {Arm::kFew, 1.0}}));
  const auto few = After({{Arm::kOwn, 1.0}, {Arm::kFew, 0.9}});
  REQUIRE(few);
  CHECK(few->heads == 2);
  CHECK_THAT(few->why,
             Contains("0.9 in 1 earlier run") && Contains("as policies decide 1 in 1 earlier run"));
  // exp of the mean of log 0.5 and log 2 is 1: not the 1.25 of their mean.
  CHECK_FALSE(After({{Arm::kOwn, 0.99}, {Arm::kFew, 0.5}, {Arm::kFew, 2.0}}));
  CHECK(After({{Arm::kOwn, 1.01}, {Arm::kFew, 0.5}, {Arm::kFew, 2.0}}));
}

TEST_CASE("a job that nothing did good is left alone, once both were tried") {
  const auto tried = After({{Arm::kAlone, 0.9}, {Arm::kOwn, 1.0}});
  REQUIRE(tried);
  CHECK(tried->heads == 2);
  const auto alone = After({{Arm::kAlone, 0.9}, {Arm::kOwn, 1.0}, {Arm::kFew, 1.1}});
  REQUIRE(alone);
  CHECK_FALSE(alone->heads);
  CHECK_THAT(alone->why, Contains("ended lowest left alone: 0.9"));
  CHECK_FALSE(After({{Arm::kAlone, 1.0}, {Arm::kOwn, 0.9}, {Arm::kFew, 1.1}}));
}

TEST_CASE("where no site has more than two heads there is nothing to try") {
  const std::vector<EarlierRun> runs = {{Arm::kOwn, 1.0}};
  CHECK_FALSE(FollowEarlier(runs, OfSites({2, 1}), true));
  CHECK(FollowEarlier(runs, OfSites({2, 3}), true));
}

TEST_CASE("runs are of one job whatever their key, seed and policy, and of another otherwise") {
  JobSpec job{.key = "a",
              .name = "n",
              .topology = OfSites({4}),
              .budget = {BudgetKind::kSteps, 100},
              .seed = 1,
              .learning_rate = 0.01,
              .policy = "network",
              .optimizer = "adamw",
              .fresh = true};
  JobSpec other = job;
  other.key = "b";
  other.seed = 2;
  other.policy = "";
  CHECK(IsSameJob(job, other));
  const auto differs = [&](auto change) {
    JobSpec changed = other;
    change(changed);
    return !IsSameJob(job, changed);
  };
  CHECK(differs([](JobSpec& of) { of.name = "m"; }));
  CHECK(differs([](JobSpec& of) { of.topology = OfSites({5}); }));
  CHECK(differs([](JobSpec& of) { of.budget.amount = 200; }));
  CHECK(differs([](JobSpec& of) { of.learning_rate = 0.02; }));
  CHECK(differs([](JobSpec& of) { of.optimizer = "sgd"; }));
  CHECK(differs([](JobSpec& of) { of.fresh = false; }));
}

}  // namespace
}  // namespace attune
