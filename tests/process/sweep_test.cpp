// Sweeps with the real daemon and the demo trainer: twins, policies, a daemon that is killed.
#include <algorithm>
#include <catch2/catch.hpp>
#include <csignal>
#include <fstream>
#include <nlohmann/json.hpp>

#include "agent/client.h"
#include "agent/paths.h"
#include "store/store.h"
#include "tests/process/process.h"

namespace attune::test {
namespace {

using Catch::Matchers::Contains;
using nlohmann::json;

const std::string kBin = ATTUNE_BIN;

// Writes a sweep of `seeds` seeds with twins, each run of so many steps. A run leaves its process
// in the file trainer.
std::string WriteSweep(const std::filesystem::path& folder, int seeds, int steps,
                       const std::string& rest) {
  std::ofstream text(folder / "text");
  for (int i = 0; i < 3000; ++i) text << "a line of text, number " << i << "\n";
  const auto file = folder / "twins.toml";
  std::ofstream(file)
      << R"(command = ['sh', '-c', 'echo $$ > "$0" && exec "$@"', ')"
      << (folder / "trainer").string() << "', '" << kBin
      << "/attune-demo-lm', '--format', 'json', '--text', '" << (folder / "text").string()
      << "', '--seed', '{seed}', '--context', '32', '--width', '32', '--heads', '4',"
         " '--layers', '1', '--batch', '4', '--budget-steps', '"
      << steps << "']\nseeds = " << seeds << "\ntwin = true\n"
      << rest;
  return file.string();
}

std::vector<std::string> SweepWords(const std::filesystem::path& folder,
                                    std::vector<std::string> words) {
  words.insert(words.begin() + 1,
               {"--config=/dev/null", "--state-directory=" + (folder / "state").string()});
  words.insert(words.begin(), {kBin + "/attune", "sweep"});
  return words;
}

std::filesystem::path DaemonState(const std::filesystem::path& folder) {
  return folder / "state" / "sweeps" / "twins" / "attuned";
}

pid_t ReadProcess(const std::filesystem::path& file) {
  pid_t process = 0;
  std::ifstream(file) >> process;
  REQUIRE(process > 0);
  return process;
}

TEST_CASE("a sweep tunes its tuned runs by their own policies, and leaves the twins alone") {
  const TemporaryDirectory home;
  const std::string file = WriteSweep(home.Path(), 2, 120,
                                      "[parameters]\npolicy = ['kmeans', 'keep']\n"
                                      "[daemon]\nwindows = 6\n[limits]\nparallel = 2\n");
  Process sweep(home.Path(), SweepWords(home.Path(), {"run", file}));
  const int status = sweep.Wait();
  INFO(sweep.Err());
  REQUIRE(status == 0);
  CHECK_THAT(sweep.Out(), Contains("6 runs: 6 finished") && Contains("less the twin's"));

  const Store history(DaemonState(home.Path()) / "attune.db", Store::Mode::kReadOnly);
  const auto jobs = history.Jobs(10);
  REQUIRE(jobs.size() == 4);  // the twins are not among them
  std::size_t by_kmeans = 0;
  for (const JobRecord& job : jobs) {
    CHECK(job.outcome == Outcome::kFinished);
    for (const TrialRow& trial : history.Trials(job.id, 100)) {
      by_kmeans += trial.decider == "kmeans" ? 1 : 0;
      CHECK((trial.decider == "keep" || trial.decider == "governor" ||
             trial.decider == job.spec.policy));
    }
  }
  CHECK(by_kmeans > 0);
  CHECK(std::ranges::count(jobs, std::string("kmeans"),
                           [](const JobRecord& job) { return job.spec.policy; }) == 2);
  Process report(home.Path(), SweepWords(home.Path(), {"report", "--format", "json"}));
  CHECK(report.Wait() == 0);
  const json figures = json::parse(report.Out()).at("policies");
  CHECK(figures.at("kmeans").at("difference").at("runs") == 2);
  // Nothing is changed by keep: the same seed trains the same model.
  CHECK(figures.at("keep").at("worst_relative").at("mean") == Approx(1.0));
}

TEST_CASE("a run that was to be tuned and that no daemon has heard of has failed") {
  const TemporaryDirectory home;
  const auto file = home.Path() / "silent.toml";
  std::ofstream(file) << R"(command = ['echo', '{"validation_loss": 1}'])"
                      << "\n[parameters]\npolicy = ['untuned', 'keep']\n";
  Process sweep(home.Path(), SweepWords(home.Path(), {"run", file.string()}));
  CHECK(sweep.Wait() != 0);
  CHECK_THAT(sweep.Err(), Contains("it never said hello to attuned, so nobody tuned it"));
  CHECK_THAT(sweep.Out(), Contains("2 runs: 1 failed, 1 finished"));
}

TEST_CASE("a killed daemon is started again, and the jobs that it had go on with it") {
  const TemporaryDirectory home;
  const std::string file =
      WriteSweep(home.Path(), 1, 2500, "[daemon]\nwindows = 20\nheartbeat = 0.2\n");
  Process sweep(home.Path(), SweepWords(home.Path(), {"run", file}));
  const auto database = DaemonState(home.Path()) / "attune.db";
  const auto trials = [&]() -> std::size_t {
    if (!std::filesystem::exists(database)) return 0;
    try {
      return Store(database, Store::Mode::kReadOnly).Trials(0, 1000).size();
    } catch (const StoreError&) {
      return 0;  // just being made
    }
  };
  REQUIRE(Eventually([&] { return trials() >= 3 || sweep.Ended(); }));
  REQUIRE_FALSE(sweep.Ended());
  // The job waits, lest it come to its end before the next daemon is there.
  const pid_t trainer = ReadProcess(home.Path() / "trainer");
  const pid_t daemon = ReadProcess(DaemonState(home.Path()) / "attuned.lock");
  kill(trainer, SIGSTOP);
  kill(daemon, SIGKILL);
  const std::size_t before = trials();
  const std::string endpoint =
      Paths{.state = DaemonState(home.Path()), .runtime = DaemonState(home.Path())}.Endpoint();
  const bool again = Eventually([&] {
    return sweep.Err().find("attuned is gone") != std::string::npos &&
           Ask(endpoint, StatusRequest{}, std::chrono::milliseconds(200));
  });
  kill(trainer, SIGCONT);
  CHECK(again);
  const int status = sweep.Wait();
  INFO(sweep.Err());
  CHECK(status == 0);
  CHECK_THAT(sweep.Err(), Contains("attuned is gone: starting it again"));
  CHECK(trials() > before);
  const auto jobs = Store(database, Store::Mode::kReadOnly).Jobs(10);
  REQUIRE(jobs.size() == 1);
  CHECK(jobs[0].outcome == Outcome::kFinished);
}

}  // namespace
}  // namespace attune::test
