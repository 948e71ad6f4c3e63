// The programs as people run them: attuned, attune and the demo trainer.
#include "tests/process/process.h"

#include <sys/stat.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <csignal>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>

#include "agent/client.h"
#include "store/store.h"

namespace attune::test {
namespace {

using Catch::Matchers::Contains;
using nlohmann::json;
using namespace std::chrono_literals;

const std::string kBin = ATTUNE_BIN;

// A folder with a text to train on and room for a daemon's state.
class Workplace {
 public:
  Workplace() {
    std::ofstream text(Text());
    std::mt19937 random(1);
    constexpr std::string_view kWords[] = {"head ", "scale ", "attention ", "balance ", "key\n"};
    for (int i = 0; i < 30000; ++i) text << kWords[random() % std::size(kWords)];
  }
  [[nodiscard]] std::filesystem::path Path() const { return directory_.Path(); }
  [[nodiscard]] std::filesystem::path State() const { return Path() / "state"; }
  [[nodiscard]] std::string Text() const { return (Path() / "text.txt").string(); }
  [[nodiscard]] std::string Endpoint() const {
    return "ipc://" + (State() / "attuned.sock").string();
  }
  [[nodiscard]] Store History() const { return {State() / "attune.db", Store::Mode::kReadOnly}; }

  // A training run of a few seconds.
  [[nodiscard]] std::vector<std::string> Demo(int steps) const {
    return {kBin + "/attune-demo-lm",
            "--text",
            Text(),
            "--budget-steps",
            std::to_string(steps),
            "--context",
            "32",
            "--width",
            "32",
            "--heads",
            "4",
            "--layers",
            "2",
            "--batch",
            "4",
            "--report",
            (Path() / "report.json").string()};
  }
  [[nodiscard]] std::vector<std::string> Daemon() const {
    return {kBin + "/attuned", "--config", "/dev/null", "--state-directory", State().string()};
  }
  [[nodiscard]] std::vector<std::string> Attune(std::vector<std::string> words) const {
    words.insert(words.begin(), kBin + "/attune");
    return words;
  }

 private:
  TemporaryDirectory directory_;
};

bool Answers(const std::string& endpoint) {
  return Ask(endpoint, StatusRequest{}, 200ms).has_value();
}

std::optional<LiveJob> OnlyJob(const std::string& endpoint) {
  const auto answer = Ask(endpoint, StatusRequest{}, 500ms);
  if (!answer || std::get<Status>(*answer).jobs.empty()) return std::nullopt;
  return std::get<Status>(*answer).jobs.front();
}

std::vector<std::string> operator+(std::vector<std::string> a, const std::vector<std::string>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

TEST_CASE("attune run starts a daemon, tunes the job, and leaves its history") {
  const Workplace work;
  const auto report = work.Path() / "job.json";
  Process run(work.Path(), work.Attune({"run", "--state-directory", work.State().string(),
                                        "--windows", "8", "--report", report.string(), "--"}) +
                               work.Demo(120));
  const int status = run.Wait();
  INFO(run.Err());
  REQUIRE(status == 0);
  CHECK_FALSE(Answers(work.Endpoint()));  // the private daemon went with the job

  // What a private daemon has to say is in its log, which is rotated.
  CHECK_THAT(ReadFile(work.State() / "attuned.log"), Contains("'demo-lm'"));
  CHECK_THAT(ReadFile(work.State() / "attuned.err"), !Contains(" info "));

  const json summary = json::parse(ReadFile(report));
  CHECK(summary["outcome"] == "finished");
  CHECK(summary["trials"].get<int>() >= 6);
  int decided = 0;
  for (const auto& [decider, count] : summary["deciders"].items()) decided += count.get<int>();
  CHECK(decided == summary["trials"].get<int>());

  const Store store = work.History();
  const auto jobs = store.Jobs(10);
  REQUIRE(jobs.size() == 1);
  CHECK(jobs[0].outcome == Outcome::kFinished);
  REQUIRE(jobs[0].validation_loss);
  const json trained = json::parse(ReadFile(work.Path() / "report.json"));
  CHECK(*jobs[0].validation_loss == Approx(trained["val_loss"].get<double>()));

  Process list(work.Path(), work.Attune({"trials", "--state-directory", work.State().string(),
                                         "--format", "json"}));
  REQUIRE(list.Wait() == 0);
  CHECK(json::parse(list.Out()).size() == summary["trials"].get<std::size_t>());
}

TEST_CASE("attune run tells of the job of its command also where that has a key of its own") {
  const Workplace work;
  const auto report = work.Path() / "job.json";
  Process run(work.Path(),
              work.Attune({"run", "--state-directory", work.State().string(), "--windows", "8",
                           "--report", report.string(), "--", "env", "ATTUNE_JOB=as-before"}) +
                  work.Demo(40));
  REQUIRE(run.Wait() == 0);
  CHECK_THAT(run.Err(), Contains("job 1 'demo-lm' finished: 40 steps"));
  CHECK(json::parse(ReadFile(report))["steps"] == 40);
  CHECK(work.History().FindJobByKey("as-before"));
}

TEST_CASE("attune run leaves a run the key that it was given") {
  const Workplace work;
  Process run(
      work.Path(),
      work.Attune({"run", "--state-directory", work.State().string(), "--"}) + work.Demo(40),
      {"ATTUNE_JOB=as-before"});
  REQUIRE(run.Wait() == 0);
  CHECK_THAT(run.Err(), Contains("job 1 'demo-lm' finished: 40 steps"));
  CHECK(work.History().FindJobByKey("as-before"));
  Process silent(work.Path(),
                 work.Attune({"run", "--state-directory", work.State().string(), "--", "true"}),
                 {"ATTUNE_JOB=as-before"});
  REQUIRE(silent.Wait() == 0);
  CHECK_THAT(silent.Err(), Contains("never said hello"));  // not the one before
}

TEST_CASE("attune run tells of the last of several jobs of its command, which are its own") {
  const Workplace work;
  Process run(work.Path(),
              work.Attune({"run", "--state-directory", work.State().string(), "--", "sh", "-c",
                           R"("$0" "$@" && ATTUNE_JOB="$ATTUNE_JOB.2" "$0" "$@")"}) +
                  work.Demo(40));
  REQUIRE(run.Wait() == 0);
  CHECK_THAT(run.Err(), Contains("job 2 'demo-lm' finished: 40 steps") &&
                            Contains("the last of 2 jobs of the command"));
  CHECK_FALSE(Answers(work.Endpoint()));
}

TEST_CASE("attune run leaves a daemon that it began to another whose trainer is still silent") {
  const Workplace work;
  const std::string gate = (work.Path() / "gate").string();
  const std::string late_gate = (work.Path() / "late").string();
  const std::string ready = (work.Path() / "ready").string();
  REQUIRE(mkfifo(gate.c_str(), 0600) == 0);
  REQUIRE(mkfifo(late_gate.c_str(), 0600) == 0);
  const auto words =
      work.Attune({"run", "--state-directory", work.State().string(), "--", "sh", "-c"});
  using Words = std::vector<std::string>;
  Process first(work.Path(), words + Words{"read line < \"$0\"", gate});
  REQUIRE(Eventually([&] { return Answers(work.Endpoint()); }));
  Process second(work.Path(),
                 words +
                     Words{R"(: > "$0"; read line < "$1"; shift; exec "$@")", ready, late_gate} +
                     work.Demo(40));
  REQUIRE(Eventually([&] { return std::filesystem::exists(ready); }));
  std::ofstream(gate) << "go\n";
  CHECK(first.Wait() == 0);
  CHECK_THAT(first.Err(), Contains("attuned goes on"));
  std::ofstream(late_gate) << "go\n";
  CHECK(second.Wait() == 0);
  CHECK_THAT(second.Err(), Contains("job 1 'demo-lm' finished: 40 steps"));
  const auto reply = Ask(work.Endpoint(), StatusRequest{}, std::chrono::milliseconds(2000));
  REQUIRE(reply);
  kill(static_cast<pid_t>(std::get<Status>(*reply).pid), SIGTERM);
  CHECK(Eventually([&] { return !Answers(work.Endpoint()); }));
}

TEST_CASE(
    "attune run says that its daemon has ended under the command, and leaves no empty report") {
  const Workplace work;
  const std::string gate = (work.Path() / "gate").string();
  REQUIRE(mkfifo(gate.c_str(), 0600) == 0);
  const std::string ready = (work.Path() / "ready").string();
  const auto report = work.Path() / "job.json";
  std::ofstream(report) << "of another run";
  Process run(work.Path(), work.Attune({"run", "--state-directory", work.State().string(),
                                        "--report", report.string(), "--", "sh", "-c",
                                        R"(: > "$1"; read line < "$0")", gate, ready}));
  REQUIRE(Eventually([&] { return std::filesystem::exists(ready); }));
  const auto answer = Ask(work.Endpoint(), StatusRequest{}, 10s);
  REQUIRE(answer);
  kill(static_cast<pid_t>(std::get<Status>(*answer).pid), SIGKILL);
  REQUIRE(Eventually([&] { return !Answers(work.Endpoint()); }));
  std::ofstream(gate) << "go\n";
  CHECK(run.Wait() == 0);
  CHECK_THAT(run.Err(), Contains("attuned has ended before the command, which went on untuned"));
  CHECK_FALSE(std::filesystem::exists(report));
}

TEST_CASE("attune run leaves a daemon that it began to jobs that have found it meanwhile") {
  const Workplace work;
  const std::string gate = (work.Path() / "gate").string();
  REQUIRE(mkfifo(gate.c_str(), 0600) == 0);
  Process run(work.Path(), work.Attune({"run", "--state-directory", work.State().string(), "--",
                                        "sh", "-c", "read line < \"$0\"", gate}));
  REQUIRE(Eventually([&] { return Answers(work.Endpoint()); }));
  Process trainer(work.Path(), work.Demo(100000), {"ATTUNE_ENDPOINT=" + work.Endpoint()});
  REQUIRE(Eventually([&] { return OnlyJob(work.Endpoint()).has_value(); }));
  std::ofstream(gate) << "go\n";
  CHECK(run.Wait() == 0);
  CHECK_THAT(run.Err(), Contains("attuned goes on, for other jobs have found it"));
  CHECK_THAT(run.Err(), Contains("with a key of its own it is in attune jobs"));
  const auto answer = Ask(work.Endpoint(), StatusRequest{}, 10s);
  REQUIRE(answer);
  const auto& status = std::get<Status>(*answer);
  CHECK(status.jobs.size() == 1);
  kill(static_cast<pid_t>(status.pid), SIGTERM);
  CHECK(Eventually([&] { return !Answers(work.Endpoint()); }));
}

TEST_CASE(
    "a trainer ends normally, with its present setting, when the daemon is stopped or killed") {
  const Workplace work;
  Process daemon(work.Path(), work.Daemon());
  REQUIRE(Eventually([&] { return Answers(work.Endpoint()); }));
  Process trainer(work.Path(), work.Demo(400), {"ATTUNE_ENDPOINT=" + work.Endpoint()});
  REQUIRE(Eventually([&] {
    const auto job = OnlyJob(work.Endpoint());
    return job && job->step > 20;
  }));
  const int signal = GENERATE(SIGSTOP, SIGKILL);
  daemon.Signal(signal);
  const int status = trainer.Wait();
  INFO(trainer.Err());
  CHECK(status == 0);
  CHECK(json::parse(ReadFile(work.Path() / "report.json"))["steps"] == 400);
}

TEST_CASE("TERM ends the daemon cleanly while a job runs, and HUP does not end it") {
  const Workplace work;
  Process daemon(work.Path(), work.Daemon());
  REQUIRE(Eventually([&] { return Answers(work.Endpoint()); }));
  Process trainer(work.Path(), work.Demo(100000), {"ATTUNE_ENDPOINT=" + work.Endpoint()});
  REQUIRE(Eventually([&] { return OnlyJob(work.Endpoint()).has_value(); }));
  daemon.Signal(SIGHUP);
  REQUIRE(Eventually([&] { return daemon.Err().find("read anew") != std::string::npos; }));
  CHECK(Answers(work.Endpoint()));
  daemon.Signal(SIGTERM);
  CHECK(daemon.Wait() == 0);
  CHECK(work.History().Jobs(1).size() == 1);
}

TEST_CASE("a person changes a live job by hand and finds it explained") {
  const Workplace work;
  Process daemon(work.Path(), work.Daemon() + std::vector<std::string>{"--policy", "keep"});
  REQUIRE(Eventually([&] { return Answers(work.Endpoint()); }));
  Process trainer(work.Path(), work.Demo(100000), {"ATTUNE_ENDPOINT=" + work.Endpoint()});
  REQUIRE(Eventually([&] {
    const auto job = OnlyJob(work.Endpoint());
    return job && job->step > 0;
  }));
  const auto state = std::vector<std::string>{"--state-directory", work.State().string()};
  Process adjust(work.Path(), work.Attune({"adjust", "1", "--active-heads", "1"}) + state);
  INFO(adjust.Err());
  REQUIRE(adjust.Wait() == 0);
  REQUIRE(Eventually([&] {
    const auto job = OnlyJob(work.Endpoint());
    return job && job->active_heads == 2;  // one in each of two sites
  }));
  const auto trials = work.History().Trials(1, 100);
  const auto hand = std::ranges::find(trials, std::string("hand"), &TrialRow::decider);
  REQUIRE(hand != trials.end());
  Process explain(work.Path(), work.Attune({"explain", std::to_string(hand->id)}) + state);
  CHECK(explain.Wait() == 0);
  CHECK_THAT(explain.Out(), Contains("hand"));
}

TEST_CASE(
    "the network learns from a finished job, and the next daemon goes on with what it learned") {
  const Workplace work;
  const auto learned = [&] { return !work.History().Policies().empty(); };
  std::uint64_t version = 0;
  {
    Process daemon(work.Path(), work.Daemon());
    REQUIRE(Eventually([&] { return Answers(work.Endpoint()); }));
    Process trainer(work.Path(), work.Demo(120), {"ATTUNE_ENDPOINT=" + work.Endpoint()});
    REQUIRE(trainer.Wait() == 0);
    REQUIRE(Eventually(learned));
    REQUIRE(Eventually([&] {
      const auto answer = Ask(work.Endpoint(), StatusRequest{}, 500ms);
      version = answer ? std::get<Status>(*answer).policy_version : 0;
      return version > 0;
    }));
    daemon.Signal(SIGTERM);
    CHECK(daemon.Wait() == 0);
  }
  const PolicyRecord lesson = work.History().Policies().front();
  CHECK(lesson.version == version);
  CHECK(lesson.trials > 0);
  CHECK(std::filesystem::exists(lesson.path));
  Process next(work.Path(), work.Daemon());
  CHECK(Eventually([&] {
    const auto answer = Ask(work.Endpoint(), StatusRequest{}, 500ms);
    return answer && std::get<Status>(*answer).policy_version == version;
  }));
}

TEST_CASE("wrong use is one clear line and exit status 2") {
  const Workplace work;
  const auto refused = [&](const std::vector<std::string>& arguments, const std::string& word) {
    Process process(work.Path(), arguments);
    CHECK(process.Wait() == 2);
    const std::string error = process.Err();
    CHECK_THAT(error, Contains(word));
    CHECK(std::ranges::count(error, '\n') == 1);
  };
  refused({kBin + "/attuned", "--widows", "3"}, "widows");
  refused({kBin + "/attuned", "--config", "/nowhere"}, "/nowhere");
  refused({kBin + "/attune-demo-lm", "--text", "/nowhere"}, "/nowhere");
  refused({kBin + "/attune-demo-lm", "--rat", "3"}, "rat");
  refused({kBin + "/attune-demo-lm", "--clock", "sundial"}, "clock");
  refused({kBin + "/attuned", "--state-directory", "/proc/attune"}, "/proc/attune");
}

TEST_CASE("a state directory that another daemon holds is refused by its process number") {
  const Workplace work;
  Process first(work.Path(), work.Daemon());
  REQUIRE(Eventually([&] { return Answers(work.Endpoint()); }));
  Process second(work.Path(), work.Daemon());
  CHECK(second.Wait() == 2);
  CHECK_THAT(second.Err(), Contains(std::to_string(first.Id())));
  CHECK(Answers(work.Endpoint()));
}

}  // namespace
}  // namespace attune::test
