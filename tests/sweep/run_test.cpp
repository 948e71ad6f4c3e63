// The real `attune sweep`, with shell scripts as trainers: limits, kills, resumption.
#include <algorithm>
#include <catch2/catch.hpp>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "agent/sweep/plan.h"
#include "agent/sweep/task.h"
#include "tests/process/process.h"

namespace attune::test {
namespace {

using Catch::Matchers::Contains;
using nlohmann::json;

struct Ended {
  int status = 0;
  std::string out, err;
};

// A state directory, and sweeps in it.
class Workplace {
 public:
  [[nodiscard]] std::filesystem::path Path() const { return home_.Path(); }
  [[nodiscard]] std::unique_ptr<Process> Start(std::vector<std::string> words) const {
    words.insert(words.begin(), {ATTUNE_BINARY, "sweep"});
    words.insert(words.begin() + 3,
                 {"--config=/dev/null", "--state-directory=" + (Path() / "state").string()});
    return std::make_unique<Process>(Path(), words);
  }
  [[nodiscard]] Ended Sweep(const std::vector<std::string>& words) const {
    const auto process = Start(words);
    const int status = process->Wait();
    return {status, process->Out(), process->Err()};
  }
  // Writes NAME.toml: `script` is the trainer, for sh, whose $1 is run's number; `rest` follows.
  [[nodiscard]] std::string File(const std::string& name, const std::string& script,
                                 const std::string& rest = "") const {
    std::ofstream(Path() / (name + ".sh")) << script;
    const auto file = Path() / (name + ".toml");
    std::ofstream(file) << "command = ['sh', '" << name << ".sh', '{run}', '{a}']\n" << rest;
    return file.string();
  }
  [[nodiscard]] sweep::Folder FolderOf(const std::string& name) const {
    return sweep::Folder(Path() / "state" / "sweeps" / name);
  }
  // Lines that the runs have left in `begun`, one for each time that one began.
  [[nodiscard]] std::vector<std::string> Begun() const {
    std::vector<std::string> lines;
    std::ifstream stream(Path() / "begun");
    for (std::string line; std::getline(stream, line);) lines.push_back(line);
    std::ranges::sort(lines);
    return lines;
  }

 private:
  TemporaryDirectory home_;
};

constexpr const char* kGrid = "[parameters]\na = [1, 2, 3, 4]\n";
// Says that it began, and its result.
constexpr const char* kQuick = "echo $1 >> begun\necho \"{\\\"validation_loss\\\": $2}\"\n";
// The same, but waits for the file `go` in between.
constexpr const char* kWaits =
    "echo $1 >> begun\nuntil [ -e go ]; do sleep 0.02; done\n"
    "echo \"{\\\"validation_loss\\\": $2}\"\n";

TEST_CASE("a sweep can be done policy by policy, and says what it has left") {
  const Workplace work;
  const std::string file = work.File(
      "parts", kQuick, "[parameters]\na = [1, 2]\npolicy = ['untuned', 'wide']\n[variant.wide]\n");
  const Ended first = work.Sweep({"run", file, "--policies", "wide"});
  CHECK(first.status == 0);
  CHECK_THAT(first.err, Contains("2 more runs are not done, and were not asked for"));
  CHECK(work.Begun() == std::vector<std::string>{"2", "4"});
  const Ended unknown = work.Sweep({"resume", "parts", "--policies", "untuned,wild"});
  CHECK(unknown.status == 2);
  CHECK_THAT(unknown.err, Contains("no run of policy 'wild'"));
  CHECK(work.Sweep({"resume", "parts"}).status == 0);
  CHECK(work.Begun().size() == 4);
}

TEST_CASE("a sweep can be done for some values of its parameters") {
  const Workplace work;
  const std::string file =
      work.File("parts", kQuick,
                "[parameters]\na = [1, 2, 3]\nb = ['x', 'y']\npolicy = ['untuned']\n"
                "[environment]\nB = '{b}'\n");
  const Ended first = work.Sweep({"run", file, "--only", "a=1,a=3,b=y"});
  CHECK(first.status == 0);
  CHECK_THAT(first.err, Contains("4 more runs are not done, and were not asked for"));
  CHECK(work.Begun() == std::vector<std::string>{"2", "6"});
  const auto [only, why] = GENERATE(table<std::string, std::string>(
      {{"b=z", "no run with b = z"},
       {"c=1", "no run with c = 1"},
       {"a", "--only: 'a' is no PARAMETER=VALUE"},
       {"", "--only is empty"},
       {"policy=untuned", "--only: for policies there is --policies"}}));
  const Ended unknown = work.Sweep({"resume", "parts", "--only", only});
  CHECK(unknown.status == 2);
  CHECK_THAT(unknown.err, Contains(why));
  CHECK(work.Sweep({"resume", "parts"}).status == 0);
  CHECK(work.Begun().size() == 6);
}

TEST_CASE("a number of a part of a sweep is taken however it is written, and so is a dry run's") {
  const Workplace work;
  const std::string file =
      work.File("parts", kQuick, "[[case]]\na = 0.001\n[[case]]\na = 12.0\n[[case]]\na = 3\n");
  const auto listed = [&](const std::string& only) {
    const Ended ended = work.Sweep({"run", file, "--dry-run", "--format", "csv", "--only", only});
    CHECK(ended.status == 0);
    return std::ranges::count(ended.out, '\n') - 1;
  };
  CHECK(listed("a=1e-3") == 1);
  CHECK(listed("a=12") == 1);
  CHECK(listed("a=3.0,a=0.001") == 2);
}

TEST_CASE("what no run of a sweep has together is not asked for") {
  const Workplace work;
  const std::string file = work.File("parts", kQuick,
                                     "[[case]]\na = 1\nb = 2\n[[case]]\na = 2\nb = 1\n"
                                     "[environment]\nB = '{b}'\n");
  const Ended none = work.Sweep({"run", file, "--only", "a=1,b=1"});
  CHECK(none.status == 2);
  CHECK_THAT(none.err, Contains("no run of the sweep has all that is asked for"));
  CHECK_FALSE(std::filesystem::exists(work.FolderOf("parts").Path()));
}

TEST_CASE("a report says with what a sweep was gone on with, where that was anything else") {
  const Workplace work;
  const std::string file = work.File(
      "parts", kQuick, "[parameters]\na = [1, 2]\npolicy = ['untuned', 'wide']\n[variant.wide]\n");
  CHECK(work.Sweep({"run", file, "--policies", "wide"}).status == 0);
  CHECK_THAT(work.Sweep({"report", "parts"}).out, !Contains("Gone on with"));
  const auto plan_file = work.FolderOf("parts").Path() / "plan.json";
  json plan = json::parse(std::ifstream(plan_file));
  plan["provenance"]["revision"] = "0123456789abcdef";
  std::ofstream(plan_file) << plan;
  CHECK(work.Sweep({"resume", "parts"}).status == 0);
  CHECK(work.Sweep({"resume", "parts"}).status == 0);
  const json resumed = work.FolderOf("parts").Provenance().at("resumed");
  REQUIRE(resumed.size() == 1);
  CHECK(resumed[0].at("revision") != "0123456789abcdef");
  CHECK_THAT(work.Sweep({"report", "parts"}).out,
             Contains("revision 0123456789ab") && Contains("Gone on with: attune"));
}

TEST_CASE("what two machines have done of a sweep becomes one by joining their reports") {
  const std::string seeds =
      "seeds = [3, 5]\n[parameters]\na = [1, 2]\npolicy = ['untuned', 'wide']\n[variant.wide]\n"
      "[environment]\nSEED = '{seed}'\n";
  const Workplace here;
  const Workplace there;
  const std::string file = here.File("parts", kQuick, seeds);
  const std::string same = there.File("parts", kQuick, seeds);
  CHECK(here.Sweep({"run", file, "--seeds", "3"}).status == 0);
  CHECK(there.Sweep({"run", same, "--seeds", "5", "--policies", "untuned"}).status == 0);
  const std::string report = (there.FolderOf("parts").Path() / "report.json").string();
  CHECK_THAT(here.Sweep({"join", report}).out,
             Contains("2 runs joined; of 2 of them others are not done there"));
  const Ended left = here.Sweep({"resume", "parts"});
  CHECK(left.status == 1);
  CHECK_THAT(left.err,
             Contains("2 of 8 runs to do: others of their parameters and seed were joined"));
  CHECK(there.Sweep({"resume", "parts", "--seeds", "5"}).status == 0);
  const Ended joined = here.Sweep({"join", report});
  CHECK(joined.status == 0);
  CHECK(joined.out == "2 runs joined\n");
  for (const sweep::Run& run : here.FolderOf("parts").ReadRuns()) {
    const auto outcome = here.FolderOf("parts").ReadOutcome(run.id);
    REQUIRE(outcome);
    CHECK(outcome->last->value == run.parameters.at("a"));
    CHECK(here.FolderOf("parts").ReadPoints(run.id).size() == 1);
  }
  CHECK(here.Sweep({"resume", "parts"}).status == 0);
  CHECK(here.Begun().size() == 4);  // nothing was run again
  const Ended whole = here.Sweep({"report", "parts", "--format", "json"});
  const json provenance = json::parse(whole.out).at("provenance");
  CHECK(provenance.at("joined").size() == 1);  // one machine, whose report was joined twice
  CHECK(provenance.at("joined").at(0).at("runs") == 4);
  CHECK(provenance.at("joined").at(0).at("provenance").contains("revision"));
  CHECK_THAT(here.Sweep({"report", "parts"}).out, Contains("Joined: 4 runs of attune"));

  const Ended again = here.Sweep({"join", report});
  CHECK(again.status == 1);
  CHECK(again.out == "0 runs joined\n");
  const Workplace third;
  CHECK(third.Sweep({"run", third.File("parts", kQuick, seeds), "--policies", "wide"}).status == 0);
  CHECK_THAT(third.Sweep({"join", report}).out, Contains("0 runs joined; 4 left out"));
  const Workplace fourth;
  CHECK(fourth.Sweep({"run", fourth.File("parts", kQuick, seeds), "--seeds", "3"}).status == 0);
  const std::string whole_report = (here.FolderOf("parts").Path() / "report.json").string();
  CHECK_THAT(fourth.Sweep({"join", whole_report}).out, Contains("4 runs joined; 4 left out"));
  const json of_two = json::parse(fourth.Sweep({"report", "parts", "--format", "json"}).out);
  REQUIRE(of_two.at("provenance").at("joined").size() == 1);  // not of who had joined them
  CHECK(of_two.at("provenance").at("joined").at(0).at("runs") == 4);
  const auto refusal = [&](const auto& change) {
    json of_another;
    std::ifstream(report) >> of_another;
    change(of_another);
    std::ofstream(here.Path() / "another.json") << of_another;
    return here.Sweep({"join", (here.Path() / "another.json").string()}).err;
  };
  CHECK_THAT(refusal([](json& another) { another["command"].push_back("--more"); }),
             Contains("had another command"));
  CHECK_THAT(
      refusal([](json& another) { another["setup"]["variants"]["wide"]["arguments"] = {"-w"}; }),
      Contains("variant 'wide' was another"));
  CHECK_THAT(refusal([](json& another) { another["setup"]["daemon"]["learn"] = "false"; }),
             Contains("another [environment] or [daemon]"));
  std::ofstream(here.Path() / "other.json") << R"({"sweep": "parts", "metric": "validation_loss"})";
  const Ended other = here.Sweep({"join", (here.Path() / "other.json").string()});
  CHECK(other.status == 2);
  CHECK_THAT(other.err, Contains("no report that can be joined"));
}

TEST_CASE("a sweep can be done seed by seed") {
  const Workplace work;
  const std::string file =
      work.File("parts", kQuick,
                "seeds = [3, 5, 8]\n[parameters]\na = [1, 2]\n[environment]\nSEED = '{seed}'\n");
  const Ended first = work.Sweep({"run", file, "--seeds", "3,8"});
  CHECK(first.status == 0);
  CHECK_THAT(first.err, Contains("2 more runs are not done, and were not asked for"));
  CHECK(work.Begun() == std::vector<std::string>{"1", "3", "4", "6"});
  const Ended unknown = work.Sweep({"resume", "parts", "--seeds", "4"});
  CHECK(unknown.status == 2);
  CHECK_THAT(unknown.err, Contains("no run of seed 4"));
  const Ended wrong = work.Sweep({"resume", "parts", "--seeds", "3,x"});
  CHECK(wrong.status == 2);
  CHECK_THAT(wrong.err, Contains("--seeds: 'x' is no seed"));
  CHECK(work.Sweep({"resume", "parts"}).status == 0);
  CHECK(work.Begun().size() == 6);
}

TEST_CASE("a sweep runs every run once, reports, and has nothing left to do") {
  const Workplace work;
  const std::string file = work.File("quick", kQuick, kGrid);
  const Ended first = work.Sweep({"run", file, "--parallel", "3"});
  INFO(first.err);
  CHECK(first.status == 0);
  CHECK_THAT(first.out, Contains("4 runs: 4 finished"));
  CHECK(work.Begun() == std::vector<std::string>{"1", "2", "3", "4"});
  CHECK(work.Sweep({"run", file}).status == 0);
  CHECK(work.Begun().size() == 4);
  const json report = json::parse(work.Sweep({"report", "--format", "json"}).out);
  CHECK(report.at("groups").at(0).at("parameters").at("a") == 1);
  CHECK(report.at("groups").at(0).at("value").at("mean") == 1.0);
  CHECK(std::filesystem::exists(work.FolderOf("quick").Path() / "report.md"));
  const Ended status = work.Sweep({"status", "--format", "json"});
  CHECK(json::parse(status.out).at(0).at("state") == "done");
}

TEST_CASE("a dry run lists the runs and begins none") {
  const Workplace work;
  const Ended listed = work.Sweep({"run", work.File("dry", kQuick, kGrid), "--dry-run"});
  CHECK_THAT(listed.out, Contains("sh dry.sh 4 4"));
  CHECK(work.Begun().empty());
  CHECK(work.FolderOf("dry").Names(work.Path() / "state" / "sweeps").empty());
}

TEST_CASE(
    "runs that die, hang, fall silent, grow or say nothing have their outcome, and others go on") {
  const Workplace work;
  const std::string script =
      "case $2 in\n"
      "1) echo oops >&2; exit 3 ;;\n"
      "2) kill -KILL $$ ;;\n"
      "3) while :; do echo more; sleep 0.05; done ;;\n"
      "4) sleep 100 ;;\n"
      "5) echo done ;;\n"
      "6) exec perl -e '$x = \"a\" x (200 << 20); print \"{}\\n\" while sleep 1' ;;\n"
      "7) echo '{\"validation_loss\": 1}'; echo '{\"validation_loss\": null}' ;;\n"
      "8) echo '{\"validation_loss\": 0.5}' ;;\n"
      "9) echo '{\"validation_loss\": 1}'; echo '{\"validation_loss\": NaN}' ;;\n"
      "10) exec yes x ;;\n"
      "12) echo '{\"validation_loss\": 1}'; echo '{\"validation_loss\": nan}' ;;\n"
      "11) echo '{\"validation_loss\": 2, \"norm\": NaN, \"least\": -Infinity, \"x\": "
      "\"a\\\"NaN\"}' ;;\n"
      "esac\n";
  const Ended ended = work.Sweep(
      {"run", work.File("bad", script,
                        "[parameters]\na = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]\n"
                        "[limits]\nparallel = 12\nseconds = 4\nsilence = 2\nmemory = '100M'\n")});
  INFO(ended.out << ended.err);
  CHECK(ended.status == 1);
  const auto outcome = [&](std::uint64_t run) { return *work.FolderOf("bad").ReadOutcome(run); };
  CHECK(outcome(1).ending == sweep::Ending::kFailed);
  CHECK(outcome(1).why == "exit status 3: oops");
  CHECK_THAT(outcome(2).why, Contains("killed by signal 9"));
  CHECK(outcome(3).ending == sweep::Ending::kTime);
  CHECK(outcome(4).ending == sweep::Ending::kSilence);
  CHECK_THAT(outcome(5).why, Contains("without a line of JSON with a finite 'validation_loss'"));
  CHECK(outcome(6).ending == sweep::Ending::kMemory);
  CHECK(outcome(7).ending == sweep::Ending::kFailed);
  CHECK_FALSE(outcome(7).last);
  CHECK(outcome(8).ending == sweep::Ending::kFinished);
  CHECK(outcome(9).ending == sweep::Ending::kFailed);  // as Python's json writes it
  CHECK(outcome(10).ending == sweep::Ending::kTime);
  CHECK(outcome(12).ending == sweep::Ending::kFailed);    // as C's printf writes it
  CHECK(outcome(11).ending == sweep::Ending::kFinished);  // only the metric itself must be finite
  CHECK(outcome(11).last->value == 2);
  CHECK_THAT(ended.out, Contains("12 runs: 6 failed, 2 finished, 1 memory, 1 silence, 2 time;"));
}

TEST_CASE("the compute of a run behind a wrapper is the run's own") {
  const Workplace work;
  const std::string script =
      "perl -e '$| = 1; while ((times)[0] < 0.3) {} print \"{\\\"validation_loss\\\": 1}\\n\"; "
      "sleep 1'\n";
  CHECK(work.Sweep({"run", work.File("wrapped", script, "[parameters]\na = [1]\n")}).status == 0);
  CHECK(work.FolderOf("wrapped").ReadOutcome(1)->last->compute > 0.2);
}

TEST_CASE("a command that is not there fails its runs with its name") {
  const Workplace work;
  std::ofstream(work.Path() / "none.toml") << "command = ['./no-such-trainer']\n";
  CHECK(work.Sweep({"run", (work.Path() / "none.toml").string()}).status == 1);
  CHECK_THAT(work.FolderOf("none").ReadOutcome(1)->why,
             Contains("cannot start ./no-such-trainer") && Contains("No such file"));
}

TEST_CASE("what a run prints is kept up to a limit, and its points beyond it") {
  const Workplace work;
  const std::string script =
      "i=0; while [ $i -lt 200 ]; do echo \"{\\\"validation_loss\\\": $i}\"; i=$((i + 1)); done\n";
  CHECK(
      work.Sweep({"run", work.File("loud", script, "[parameters]\na = 1\n[limits]\nlog = 1000\n")})
          .status == 0);
  const sweep::Folder folder = work.FolderOf("loud");
  CHECK(std::filesystem::file_size(folder.Of(1) / "output") < 1200);
  CHECK(folder.ReadPoints(1).size() == 200);
  CHECK(folder.ReadOutcome(1)->last->value == 199);
}

TEST_CASE("after the runner is killed its runs go on, and resume runs the rest, nothing twice") {
  const Workplace work;
  {
    const auto runner = work.Start({"run", work.File("killed", kWaits, kGrid), "--parallel", "2"});
    REQUIRE(Eventually([&] { return work.Begun().size() == 2; }));
    runner->Signal(SIGKILL);
    runner->Wait();
  }
  CHECK_FALSE(work.FolderOf("killed").ReadOutcome(1));
  CHECK(sweep::IsHeld(work.FolderOf("killed").Of(1) / "lock"));
  const auto resumed = work.Start({"resume", "killed", "--parallel", "2"});
  std::ofstream(work.Path() / "go") << "go";
  const int status = resumed->Wait();
  INFO(resumed->Err());
  CHECK(status == 0);
  CHECK(work.Begun() == std::vector<std::string>{"1", "2", "3", "4"});
  CHECK(work.FolderOf("killed").ReadOutcome(1)->ending == sweep::Ending::kFinished);
}

TEST_CASE("a killed task takes its run with it, and only that run is done again") {
  const Workplace work;
  const auto runner = work.Start({"run", work.File("task", kWaits, kGrid), "--parallel", "4"});
  REQUIRE(Eventually([&] { return work.Begun().size() == 4; }));
  pid_t task = 0;
  std::ifstream(work.FolderOf("task").Of(3) / "lock") >> task;
  REQUIRE(task > 0);
  kill(task, SIGKILL);
  std::ofstream(work.Path() / "go") << "go";
  CHECK(runner->Wait() == 1);
  CHECK_THAT(runner->Err(), Contains("run 3") && Contains("is not done"));
  CHECK_FALSE(work.FolderOf("task").ReadOutcome(3));
  CHECK(work.Sweep({"resume", "task"}).status == 0);
  CHECK(work.Begun() == std::vector<std::string>{"1", "2", "3", "3", "4"});
}

TEST_CASE("stop ends the runs under way, without an outcome, and resume does them again") {
  const Workplace work;
  const auto runner = work.Start({"run", work.File("stop", kWaits, kGrid), "--parallel", "1"});
  REQUIRE(Eventually([&] { return work.Begun().size() == 1; }));
  CHECK_THAT(work.Sweep({"run", (work.Path() / "stop.toml").string()}).err,
             Contains("is running this sweep"));
  CHECK(work.Sweep({"stop", "stop"}).status == 0);
  CHECK(runner->Wait() == 1);
  CHECK_FALSE(work.FolderOf("stop").ReadOutcome(1));
  CHECK(work.Sweep({"stop", "stop"}).status == 1);
  std::ofstream(work.Path() / "go") << "go";
  CHECK(work.Sweep({"resume", "stop"}).status == 0);
  CHECK(work.Begun() == std::vector<std::string>{"1", "1", "2", "3", "4"});
}

TEST_CASE("failed runs are done again where that is asked for, and finished ones never") {
  const Workplace work;
  const std::string script = std::string("[ $2 = 2 ] && ! [ -e go ] && exit 1\n") + kQuick;
  CHECK(work.Sweep({"run", work.File("again", script, kGrid)}).status == 1);
  CHECK(work.Sweep({"resume", "again"}).status == 1);
  CHECK(work.Begun() == std::vector<std::string>{"1", "3", "4"});
  std::ofstream(work.Path() / "go") << "go";
  CHECK(work.Sweep({"resume", "again", "--failed"}).status == 0);
  CHECK(work.Begun() == std::vector<std::string>{"1", "2", "3", "4"});
}

TEST_CASE("halving stops the worse runs early and lets the best one end") {
  const Workplace work;
  const std::string script =
      "for i in 1 2 3 4; do echo \"{\\\"step\\\": $i, \\\"validation_loss\\\": $2}\"; done\n"
      "sleep 0.2; echo $1 >> begun\n";
  const Ended ended = work.Sweep({"run", work.File("halve", script,
                                                   "[parameters]\na = [1, 3, 4, 2]\n"
                                                   "[halving]\nresource = 'step'\nleast = 2\n")});
  CHECK(ended.status == 0);
  const auto ending = [&](std::uint64_t run) {
    return work.FolderOf("halve").ReadOutcome(run)->ending;
  };
  CHECK(ending(1) == sweep::Ending::kFinished);
  CHECK(ending(2) == sweep::Ending::kHalved);
  CHECK(ending(3) == sweep::Ending::kHalved);
  CHECK_THAT(work.FolderOf("halve").ReadOutcome(2)->why, Contains("best 1/3 of 2 runs at step 2"));
}

TEST_CASE("what was halved on another machine is over here too") {
  const std::string script =
      "for i in 1 2 3; do echo \"{\\\"step\\\": $i, \\\"validation_loss\\\": $2}\"; done\n"
      "sleep 0.2\n";
  const std::string rest =
      "seeds = [0, 1]\n[parameters]\na = [1, 3, 4]\n[environment]\nSEED = '{seed}'\n"
      "[halving]\nresource = 'step'\nleast = 2\n";
  const Workplace here;
  const Workplace there;
  CHECK(here.Sweep({"run", here.File("halve", script, rest), "--seeds", "0"}).status == 0);
  CHECK(there.Sweep({"run", there.File("halve", script, rest), "--seeds", "1"}).status == 0);
  const std::string report = (there.FolderOf("halve").Path() / "report.json").string();
  CHECK(here.Sweep({"join", report}).out == "3 runs joined\n");
  std::size_t halved = 0;
  for (const sweep::Run& run : here.FolderOf("halve").ReadRuns()) {
    const auto outcome = here.FolderOf("halve").ReadOutcome(run.id);
    REQUIRE(outcome);
    halved += run.seed == 1 && outcome->ending == sweep::Ending::kHalved ? 1 : 0;
  }
  CHECK(halved > 0);
  CHECK(here.Sweep({"resume", "halve"}).status == 0);
}

TEST_CASE("a budget for the whole sweep ends it between two runs") {
  const Workplace work;
  const std::string script =
      std::string("i=0; while [ $i -lt 20000 ]; do i=$((i + 1)); done\n") + kQuick;
  const Ended ended =
      work.Sweep({"run", work.File("budget", script,
                                   std::string(kGrid) + "[limits]\ncompute_seconds = 0.000001\n")});
  CHECK(ended.status == 1);
  CHECK_THAT(ended.err, Contains("3 of 4 runs to do") && Contains("compute_seconds are spent"));
  CHECK(work.Begun() == std::vector<std::string>{"1"});
}

TEST_CASE("report --check prints every bar and exits 0 only if all hold") {
  const Workplace work;
  const std::string bars =
      "[[bar]]\nname = 'low'\nfigure = 'value'\nat_most = 2.5\n"
      "[[bar]]\nname = 'all'\nfigure = 'failed'\nat_most = 0\n";
  CHECK(work.Sweep({"run", work.File("bars", kQuick, std::string(kGrid) + bars)}).status == 0);
  const Ended holds = work.Sweep({"report", "bars", "--check"});
  CHECK(holds.status == 0);
  CHECK_THAT(holds.out,
             Contains("holds  low: value at most 2.5, is 2.5") && Contains("holds  all"));
  const std::string tight = "[[bar]]\nname = 'tight'\nfigure = 'value'\nat_most = 2.4\n";
  CHECK(work.Sweep({"run", work.File("tight", kQuick, std::string(kGrid) + tight)}).status == 0);
  CHECK(work.Sweep({"report", "tight", "--check"}).status == 1);
}

TEST_CASE("pinned runs keep to a processor of their own") {
  const Workplace work;
  const std::string script =
      "echo \"{\\\"validation_loss\\\": $(grep Cpus_allowed_list /proc/self/status | cut -f "
      "2)}\"\n";
  CHECK(
      work.Sweep({"run", work.File("pin", script, "[parameters]\na = [1]\n[limits]\npin = true\n")})
          .status == 0);
  CHECK(work.Sweep({"run", work.File("wide", script,
                                     "[parameters]\na = [1]\n[limits]\npin = true\ncpus = 4096\n")})
            .status == 3);
}

TEST_CASE("a sweep that is not there, or a word that is none, is one clear line") {
  const Workplace work;
  CHECK_THAT(work.Sweep({"resume", "none"}).err, Contains("there is no sweep yet"));
  CHECK_THAT(work.Sweep({"resum", "none"}).err, Contains("did you mean resume?"));
  CHECK(work.Sweep({"resum", "none"}).status == 2);
  CHECK_THAT(work.Sweep({"run", "/none.toml"}).err, Contains("cannot read /none.toml"));
}

}  // namespace
}  // namespace attune::test
