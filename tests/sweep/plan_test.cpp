// From a sweep's file to its runs, and its folder.
#include "agent/sweep/plan.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <set>

#include "tests/process/process.h"

namespace attune::sweep {
namespace {

using Catch::Matchers::Contains;
using nlohmann::json;
using test::TemporaryDirectory;

std::vector<Run> Plan(const std::string& text) { return PlanRuns(ParseSpec(text, "/s.toml")); }

TEST_CASE("a grid gives every combination once, seeds innermost but for policies") {
  const auto runs = Plan(R"(
command = ["t", "{a}", "{b}", "{seed}"]
seeds = [5, 6]
[parameters]
a = [1, 2]
b = ["x", "y", "z"])");
  REQUIRE(runs.size() == 12);
  std::set<std::vector<std::string>> commands;
  for (const Run& run : runs) commands.insert(run.command);
  CHECK(commands.size() == 12);
  CHECK(runs[0].command == std::vector<std::string>{"t", "1", "x", "5"});
  CHECK(runs[1].command == std::vector<std::string>{"t", "1", "x", "6"});
  CHECK(runs[11].command == std::vector<std::string>{"t", "2", "z", "6"});
  CHECK(runs[11].id == 12);
  CHECK(runs[0].environment.at("ATTUNE_MODE") == "off");
}

TEST_CASE("each tuned run has an untuned twin of its parameters and seed, and policies share it") {
  const auto runs = Plan(R"(
command = ["t", "{a}", "{seed}"]
seeds = 2
twin = true
[parameters]
a = [1, 2]
policy = ["kmeans", "keep"])");
  REQUIRE(runs.size() == 12);
  std::map<std::string, std::multiset<std::string>> policies;
  for (const Run& run : runs) policies[run.Pair()].insert(run.policy);
  CHECK(policies.size() == 4);
  for (const auto& [pair, own] : policies) {
    CHECK(own == std::multiset<std::string>{"keep", "kmeans", "untuned"});
  }
  CHECK(runs[0].policy == kUntuned);
  CHECK(runs[1].environment == std::map<std::string, std::string>{{"ATTUNE_POLICY", "kmeans"}});
}

TEST_CASE("a variant is a policy with a name, words and a daemon of its own") {
  const Spec spec = ParseSpec(R"(
command = ["t", "{a}"]
[parameters]
a = [1]
policy = ["untuned", "network", "zero", "wide"]
[variant.zero]
policy = "network"
daemon = {network = "none"}
[variant.wide]
arguments = ["--wide", "{a}"])",
                              "/s.toml");
  const auto runs = PlanRuns(spec);
  REQUIRE(runs.size() == 4);
  CHECK(runs[2].environment.at("ATTUNE_POLICY") == "network");
  CHECK(runs[2].policy == "zero");
  CHECK(spec.DaemonOf("zero") == "zero");
  CHECK(spec.DaemonOf("network").empty());
  CHECK(spec.DaemonOf("wide").empty());
  CHECK(runs[3].command == std::vector<std::string>{"t", "1", "--wide", "1"});
  CHECK(runs[3].environment.at("ATTUNE_MODE") == "off");
  CHECK_FALSE(spec.Tunes("wide"));
  CHECK_FALSE(spec.Tunes("untuned"));
  CHECK(spec.Tunes("zero"));
  CHECK(runs[3].Pair() == runs[0].Pair());
}

TEST_CASE("cases keep their parameters together, and those that differ in policy share a twin") {
  const auto runs = Plan(R"(
command = ["t", "{a}", "{b}"]
twin = true
[[case]]
a = 1
b = 10
policy = "kmeans"
[[case]]
a = 2
b = 20
policy = "kmeans"
[[case]]
a = 1
b = 10
policy = "keep")");
  std::vector<std::string> seen;
  for (const Run& run : runs) seen.push_back(run.command[1] + run.command[2] + run.policy);
  CHECK(seen ==
        std::vector<std::string>{"110untuned", "110kmeans", "220untuned", "220kmeans", "110keep"});
}

TEST_CASE("draws stay in their ranges, are even, and depend on the sampler's seed alone") {
  const auto draw = [](const std::string& sampler, int seed) {
    std::vector<double> values;
    for (const Run& run : Plan("command = ['t', '{u}', '{l}', '{n}']\nsamples = 64\nsampler = '" +
                               sampler + "'\nsampler_seed = " + std::to_string(seed) + R"(
[parameters]
u = {uniform = [-1, 3]}
l = {log_uniform = [1e-4, 1]}
n = {integers = [1, 4]})")) {
      values.push_back(run.parameters.at("u"));
      values.push_back(run.parameters.at("l"));
      values.push_back(run.parameters.at("n"));
    }
    return values;
  };
  for (const std::string sampler : {"random", "sobol"}) {
    INFO(sampler);
    const auto values = draw(sampler, 1);
    CHECK(values == draw(sampler, 1));
    CHECK(values != draw(sampler, 2));
    std::map<int, int> integers;
    int low_rates = 0;
    for (std::size_t i = 0; i < values.size(); i += 3) {
      CHECK((values[i] >= -1 && values[i] < 3));
      CHECK((values[i + 1] >= 1e-4 && values[i + 1] < 1));
      low_rates += values[i + 1] < 1e-2 ? 1 : 0;
      ++integers[static_cast<int>(values[i + 2])];
    }
    CHECK(integers.size() == 4);
    CHECK(integers.begin()->first == 1);
    CHECK(integers.rbegin()->first == 4);
    if (sampler == "sobol") {  // of 64 points every dyadic part has its share, but for the shift
      CHECK(std::abs(low_rates - 32) <= 2);
      for (const auto& [integer, count] : integers) CHECK(std::abs(count - 16) <= 2);
    }
  }
}

TEST_CASE("a sweep that began is opened again, and refused with another content") {
  const TemporaryDirectory home;
  const auto file = home.Path() / "first.toml";
  std::ofstream(file) << "command = ['true']\n";
  const Folder folder = Folder::Begin(home.Path() / "sweeps", ReadPlan(file));
  CHECK(folder.ReadRuns().size() == 1);
  CHECK(folder.Provenance().at("processors") >= 1);
  CHECK(Folder::Begin(home.Path() / "sweeps", ReadPlan(file)).Path() == folder.Path());
  std::ofstream(file) << "command = ['false']\n";
  CHECK_THROWS_WITH(Folder::Begin(home.Path() / "sweeps", ReadPlan(file)),
                    Contains("another content"));
  CHECK_THROWS_WITH(Folder::Open(home.Path() / "sweeps", "second"), Contains("there are first"));
  CHECK_THROWS_WITH(ReadPlan(home.Path() / "none.toml"), Contains("cannot read"));
}

TEST_CASE("what a sweep is gone on with is noted, and its own report is no modification") {
  const TemporaryDirectory home;
  const auto run = [&](const std::string& command) {
    return std::system(("cd " + home.Path().string() + " && " + command).c_str());
  };
  const auto write = [&](const char* name, const char* content) {
    std::ofstream(home.Path() / name) << content;
  };
  write("s.toml", "command = ['true']\nresults = '.'\n");
  write("s.md", "");
  write("code", "");
  REQUIRE(run("git init -q && git add . && git -c user.name=a -c user.email=a@b commit -q -m a") ==
          0);
  const auto plan = ReadPlan(home.Path() / "s.toml");
  const Folder folder = Folder::Begin(home.Path() / "sweeps", plan);
  CHECK_FALSE(folder.Provenance().at("modified"));
  write("s.md", "what came of the first part");
  folder.AddResumed(plan.spec);
  CHECK_FALSE(folder.Provenance().contains("resumed"));
  write("code", "changed");
  folder.AddResumed(plan.spec);
  REQUIRE(folder.Provenance().contains("resumed"));
  CHECK(folder.Provenance().at("resumed").at(0).at("modified"));
}

TEST_CASE("an outcome is read as it was written, and a point that was cut short is left out") {
  const TemporaryDirectory home;
  const Folder folder(home.Path());
  std::filesystem::create_directories(folder.Of(7));
  CHECK_FALSE(folder.ReadOutcome(7));
  RunOutcome outcome{.id = 7,
                     .ending = Ending::kTime,
                     .why = "over its limit, \"so\" to say \xff",
                     .status = 143,
                     .last = Point{10, 1.5, 0.25},
                     .started = 1.75e9,
                     .seconds = 3,
                     .cpu_seconds = 2,
                     .memory = 1 << 20,
                     .host = "here"};
  folder.WriteOutcome(outcome);
  const auto read = folder.ReadOutcome(7);
  REQUIRE(read);
  CHECK(read->ending == Ending::kTime);
  CHECK_THAT(read->why, Contains("\"so\" to say"));
  CHECK(read->last->value == 0.25);
  CHECK(read->memory == 1 << 20);
  std::ofstream(folder.Of(7) / "points.jsonl")
      << ToLine({1, 2, 3}) << ToLine({4, 5, 6}).substr(0, 9);
  const auto points = folder.ReadPoints(7);
  REQUIRE(points.size() == 1);
  CHECK(points[0].compute == 2);
}

}  // namespace
}  // namespace attune::sweep
