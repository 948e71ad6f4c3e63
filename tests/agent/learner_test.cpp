// The learner's thread on a real store, with the shipped network.
#include <catch2/catch.hpp>
#include <chrono>
#include <fstream>
#include <iterator>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "agent/network_learner.h"
#include "policies/network.h"
#include "store/writer.h"
#include "tests/process/process.h"

namespace attune {
namespace {

using Catch::Matchers::Contains;

constexpr std::size_t kHeads = 2;

JobRecord Job(std::uint64_t id, Outcome outcome) {
  JobRecord job;
  job.id = id;
  job.spec.key = "key-" + std::to_string(id);
  job.spec.name = "job";
  job.spec.topology.sites = {{"attention", SiteKind::kSelf, true, kHeads, 8, 64}};
  job.spec.budget = {BudgetKind::kSteps, 100, 0.01};
  job.started = 1;
  job.ended = outcome == Outcome::kRunning ? 0 : 2;
  job.outcome = outcome;
  return job;
}

Trial Decided(std::uint64_t id, std::uint64_t job, const std::string& decider) {
  Trial trial;
  trial.id = id;
  trial.job = job;
  trial.window = static_cast<std::uint32_t>(id);
  trial.decider = decider;
  trial.state.site_offsets = {0, kHeads};
  trial.state.tokens.assign(kHeads * kTokenFeatures, 0.25F);
  for (std::size_t head = 0; head < kHeads; ++head) {
    trial.state.tokens[head * kTokenFeatures + TokenFeature("active")] = 1;
  }
  trial.setting = Setting::Neutral(kHeads);
  trial.mask = MaskOf(Job(job, Outcome::kRunning).spec.topology, trial.setting);
  trial.action = Action::Keep(kHeads, 1);
  trial.log_probability = -1;
  trial.reward = 0.01;
  return trial;
}

struct Bench {
  explicit Bench(const std::string& network) {
    options.state_directory = directory.Path().string();
    options.network = network;
    paths = Paths::Find(options);
    writer.emplace(
        Store(paths.Store(), Store::Mode::kReadWrite), [](std::uint64_t) {},
        [](const std::string& fault) { FAIL(fault); });
  }
  void Put(std::vector<Record> records) {
    writer->Post(std::move(records));
    REQUIRE(writer->Flush());
  }
  // What the lessons were, newest first, once there are so many.
  std::vector<PolicyRecord> Lessons(std::size_t count) {
    const Store store(paths.Store(), Store::Mode::kReadOnly);
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (std::chrono::steady_clock::now() < deadline) {
      auto lessons = store.Policies();
      if (lessons.size() >= count) return lessons;
      std::this_thread::yield();
    }
    throw std::runtime_error("no lesson was learned");
  }

  test::TemporaryDirectory directory;
  Options options;
  Paths paths;
  std::optional<Writer> writer;
};

TEST_CASE("a job is learned from when it is finished, each of its trials once") {
  Bench bench("shipped");
  const auto learner = MakeNetworkLearner(bench.options, bench.paths, *bench.writer);
  std::vector<Record> records = {Job(1, Outcome::kFinished), Job(2, Outcome::kRunning)};
  for (std::uint64_t id = 1; id <= 6; ++id) {
    records.emplace_back(Decided(id, id <= 3 ? 1 : 2, "network"));
  }
  bench.Put(std::move(records));
  learner->Wake();
  CHECK_THAT(bench.Lessons(1).front().provenance, Contains(" 3 of its own"));
  const std::uint64_t trials = bench.Lessons(1).front().trials;

  bench.Put({Job(2, Outcome::kFinished), Decided(7, 2, "network")});
  learner->Wake();
  CHECK_THAT(bench.Lessons(2).front().provenance, Contains(" 4 of its own"));
  CHECK(bench.Lessons(2).front().trials == trials + 4);
}

TEST_CASE("what an earlier daemon learned from is not learned again") {
  Bench bench("shipped");
  bench.Put({Job(1, Outcome::kFinished), Decided(1, 1, "network"), Decided(2, 1, "network")});
  {
    const auto learner = MakeNetworkLearner(bench.options, bench.paths, *bench.writer);
    // The network is a taught one, so what is in the store already counts as learned from.
    bench.Put({Job(2, Outcome::kFinished), Decided(3, 2, "network")});
    learner->Wake();
    CHECK_THAT(bench.Lessons(1).front().provenance, Contains(" 1 of its own"));
  }
  const auto learner = MakeNetworkLearner(bench.options, bench.paths, *bench.writer);
  bench.Put({Job(3, Outcome::kFinished), Decided(4, 3, "network"), Decided(5, 3, "network")});
  learner->Wake();
  CHECK_THAT(bench.Lessons(2).front().provenance, Contains(" 2 of its own"));
}

TEST_CASE("a checkpoint that cannot be read is kept beside the one that is begun anew") {
  Bench bench("shipped");
  std::ofstream(bench.paths.Checkpoint()) << "of a later program";
  const auto learner = MakeNetworkLearner(bench.options, bench.paths, *bench.writer);
  bench.Put({Job(1, Outcome::kFinished), Decided(1, 1, "network")});
  learner->Wake();
  static_cast<void>(bench.Lessons(1));  // the new one is written by then
  CHECK(Network::Load(bench.paths.Checkpoint(), {})->Trials() > 0);
  std::ifstream kept(bench.paths.Checkpoint().string() + ".unreadable");
  CHECK(std::string(std::istreambuf_iterator<char>(kept), {}) == "of a later program");
}

// What a network thinks a trial is worth that has learned from it and from one behind it, in which
// the governor decided and so much was earned.
float WorthBehindGovernor(double reward) {
  Bench bench("shipped");
  const auto learner = MakeNetworkLearner(bench.options, bench.paths, *bench.writer);
  Trial own = Decided(1, 1, "network");
  Trial behind = Decided(2, 1, "governor");
  behind.action.reset();
  behind.log_probability = 0;
  behind.reward = reward;
  bench.Put({Job(1, Outcome::kFinished), own, behind});
  learner->Wake();
  CHECK_THAT(bench.Lessons(1).front().provenance, Contains(" 1 of its own"));
  const auto network = Network::Load(bench.paths.Checkpoint(), {});
  const auto active = own.state.Active();
  return network->Evaluate(MakeSample(own.state, own.mask, *own.action, active, active)).value;
}

TEST_CASE("what is earned in the governor's windows is the action's before them") {
  CHECK(WorthBehindGovernor(5.0) > WorthBehindGovernor(-5.0) + 1e-3F);
}

TEST_CASE("what nobody decided teaches nothing") {
  Bench bench("none");
  bench.options.least_trials = 2;
  const auto learner = MakeNetworkLearner(bench.options, bench.paths, *bench.writer);
  std::vector<Record> records = {Job(1, Outcome::kFinished)};
  for (std::uint64_t id = 1; id <= 9; ++id) records.emplace_back(Decided(id, 1, "keep"));
  bench.Put(std::move(records));
  learner->Wake();
  bench.Put({Job(2, Outcome::kFinished), Decided(10, 2, "kmeans")});
  learner->Wake();
  // The one trial of kmeans, whichever of the two lessons came upon it.
  CHECK(bench.Lessons(1).front().trials == 1);
}

}  // namespace
}  // namespace attune
