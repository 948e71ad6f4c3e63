// The sweep's file: what is refused, and where the message points.
#include "agent/sweep/spec.h"

#include <catch2/catch.hpp>

namespace attune::sweep {
namespace {

using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;

Spec Parse(const std::string& text) { return ParseSpec(text, "/jobs/rates.toml"); }

std::string Refusal(const std::string& text) {
  try {
    static_cast<void>(Parse(text));
  } catch (const SweepError& error) {
    return error.what();
  }
  return "accepted";
}

constexpr const char* kCommand = "command = ['train', '{rate}', '{seed}']\n";

TEST_CASE("a sweep's file is read with its defaults") {
  const Spec spec = Parse("command = ['./train']");
  CHECK(spec.name == "rates");
  CHECK(spec.directory == "/jobs/");
  CHECK(spec.metric == "validation_loss");
  CHECK(spec.minimize);
  CHECK(spec.seeds == std::vector<std::uint64_t>{0});
  CHECK(spec.limits.parallel == 1);
  CHECK_FALSE(spec.Tunes());
}

TEST_CASE("every key of a sweep's file reaches its place") {
  const Spec spec = Parse(R"(
name = "all"
command = ["train", "--rate={rate}", "--heads={heads}", "--seed={seed}", "${HOME}"]
directory = "sub"
metric = "accuracy"
goal = "maximize"
step = "iteration"
compute = "cpu"
seeds = 3
twin = true
sampler = "random"
samples = 5
sampler_seed = 9
results = "../results"
[parameters]
rate = {log_uniform = [1e-4, 1e-2]}
heads = [2, 4]
policy = ["kmeans", "untuned"]
[environment]
DEPTH = "{depth}"
THREADS = 2
[[case]]
depth = 1
[[case]]
depth = 2
[limits]
parallel = 4
seconds = 60
silence = 30
memory = "1.5G"
compute_seconds = 1000
cpus = 2
pin = true
log = 1000
[halving]
resource = "step"
least = 10
factor = 2
[daemon]
windows = 12
learn = false
[slurm]
partition = "cpu"
options = ["--account=x"]
listen = "tcp://node1:4711"
[[bar]]
name = "gains"
figure = "difference"
policy = "kmeans"
where = {heads = 4}
bound = "high"
at_most = -0.1
)");
  CHECK(spec.name == "all");
  CHECK(spec.directory == "/jobs/sub");
  CHECK_FALSE(spec.minimize);
  CHECK(spec.step == "iteration");
  CHECK(spec.compute == "cpu");
  CHECK(spec.seeds == std::vector<std::uint64_t>{0, 1, 2});
  CHECK(spec.twin);
  CHECK(spec.sampler == Sampler::kRandom);
  CHECK(spec.samples == 5);
  CHECK(spec.sampler_seed == 9);
  CHECK(spec.results == "/results");
  CHECK(spec.parameters.size() == 3);
  CHECK(spec.cases.size() == 2);
  CHECK(spec.environment.at("THREADS") == "2");
  CHECK(spec.limits.memory == 1536ULL << 20U);
  CHECK(spec.limits.pin);
  CHECK(spec.limits.log == 1000);
  CHECK(spec.halving->by_step);
  CHECK(spec.halving->factor == 2);
  CHECK(spec.daemon.at("windows") == "12");
  CHECK(spec.daemon.at("learn") == "false");
  CHECK(spec.slurm.listen == "tcp://node1:4711");
  REQUIRE(spec.bars.size() == 1);
  CHECK(spec.bars[0].where == nlohmann::json{{"heads", 4}});
  CHECK(spec.bars[0].bound == "high");
  CHECK(spec.bars[0].threshold == -0.1);
  CHECK(spec.Tunes());
}

TEST_CASE("what a sweep's file gets wrong is said with line and column") {
  const std::string parameters = "[parameters]\nrate = ";
  CHECK_THAT(Refusal("command = 3"), StartsWith("/jobs/rates.toml:1:11: command: give a list"));
  CHECK_THAT(Refusal("name = 'x'"), Contains("command: give the command"));
  CHECK_THAT(Refusal("command = ['a'\nname="), StartsWith("/jobs/rates.toml:2:"));
  CHECK_THAT(Refusal("command = ['a']\nsead = 1"),
             StartsWith("/jobs/rates.toml:2:1: there is no key 'sead'"));
  CHECK_THAT(Refusal(std::string("seeds = [1, 1]\n") + kCommand + parameters + "1"),
             StartsWith("/jobs/rates.toml:1:13: seeds: 1 stands here twice"));
  CHECK_THAT(Refusal("seeds = [1, 2]\ncommand = ['a']"), Contains("they reach no run"));
  CHECK_THAT(Refusal(kCommand + parameters + "[]"),
             StartsWith("/jobs/rates.toml:3:8: rate: the grid is empty"));
  CHECK_THAT(Refusal(kCommand + parameters + "[1, 1]"), Contains("1 stands here twice"));
  CHECK_THAT(Refusal(kCommand + parameters + "[nan]"), Contains("finite number"));
  CHECK_THAT(Refusal(kCommand + parameters + "{uniform = [2, 1]}"),
             Contains("the first end must be below the second"));
  CHECK_THAT(Refusal(kCommand + parameters + "{log_uniform = [0, 1]}"), Contains("above 0"));
  CHECK_THAT(Refusal(kCommand + parameters + "{normal = [0, 1]}"),
             Contains("there is no key 'normal'") && Contains("log_uniform"));
  CHECK_THAT(Refusal(kCommand), Contains("there is no parameter 'rate'"));
  CHECK_THAT(Refusal("command = ['true']\nclusters = ['mood']\n"),
             Contains("no run has a parameter 'mood'"));
  CHECK_THAT(Refusal(kCommand + parameters + "1\ndepth = 2"),
             StartsWith("/jobs/rates.toml:4:1: parameter 'depth' reaches no run"));
  CHECK_THAT(Refusal(kCommand + parameters + "1\nseed = 2"), Contains("'seed' is attune's own"));
  CHECK_THAT(Refusal(kCommand + parameters + "1\npolicy = ['best']"),
             Contains("there is no policy \"best\""));
  CHECK_THAT(Refusal("samples = 3\n" + std::string(kCommand) + parameters + "1"),
             Contains("no range to draw from"));
  CHECK_THAT(Refusal(kCommand + parameters + "1\n[limits]\nmemory = '3Q'"),
             Contains("limits.memory: give bytes"));
  CHECK_THAT(Refusal(kCommand + parameters + "1\n[limits]\nparallel = -1"),
             Contains("limits.parallel: give a whole number"));
  CHECK_THAT(Refusal(kCommand + parameters + "1\n[daemon]\nwindow = 3"), Contains("window"));
  CHECK_THAT(Refusal(kCommand + parameters + "1\n[[bar]]\nfigure = 'gain'\nat_most = 1"),
             Contains("there is no figure 'gain'"));
  CHECK_THAT(Refusal(kCommand + parameters + "1\n[[bar]]\nfigure = 'value'"),
             Contains("either at_most or at_least"));
  const std::string bar = kCommand + parameters + "1\n[[bar]]\nfigure = 'value'\nat_most = 1\n";
  CHECK_THAT(Refusal(bar + "policy = 'netwrok'"),
             StartsWith("/jobs/rates.toml:7:") && Contains("no run has the policy 'netwrok'"));
  CHECK_THAT(Refusal(bar + "against = 'kmean'"), Contains("no run has the policy 'kmean'"));
  CHECK_THAT(Refusal(bar + "longer = ['kmeans']"),
             Contains("goes with the figure compute_to_target"));
  CHECK_THAT(Refusal(kCommand + parameters +
                     "1\n[[bar]]\nfigure = 'compute_to_target'\nat_most = 1\nlonger = ['twice']"),
             Contains("no run has the policy 'twice'"));
  CHECK_THAT(Refusal(bar + "where = {head = 8}"), Contains("no run has a parameter 'head'"));
  const std::string policies = parameters + "1\npolicy = ['kmeans', 'keep']\n";
  CHECK_THAT(Refusal(kCommand + policies +
                     "[[bar]]\nfigure = 'value'\nat_most = 1\n"
                     "where = {policy = 'keep'}"),
             Contains("no run has a parameter 'policy'"));
  CHECK_THAT(Refusal("twin = false\n" + std::string(kCommand) + policies +
                     "[[bar]]\nfigure = 'difference'\nat_most = 1"),
             Contains("no run has the policy 'untuned'"));
  CHECK_THAT(Refusal(kCommand + parameters +
                     "1\n[[bar]]\nfigure = 'worst_job'\nat_most = 1\nbound = 'high'"),
             Contains("worst_job has no interval"));
  CHECK_THAT(Refusal("command = ['true']\n[parameters]\nheads = [4, 8]\n"
                     "[variant.few]\narguments = ['--heads', '{heads}']"),
             Contains("parameter 'heads' reaches no run"));
  CHECK_THAT(Refusal(kCommand + parameters + "1\n[[case]]\nrate = 2"),
             Contains("'rate' is in [parameters] too"));
  CHECK_THAT(Refusal("command = ['{a}']\n[[case]]\na = 1\n[[case]]\nb = 1"),
             StartsWith("/jobs/rates.toml:4:"));
}

TEST_CASE("placeholders are names in braces, and the shell's are left alone") {
  CHECK(Placeholders("--a={b} ${C} {\"json\": 1} {d-e.f}") ==
        std::vector<std::string>{"b", "d-e.f"});
  CHECK(Fill("{a}{a}-${a}-{", [](const std::string& name) { return "<" + name + ">"; }) ==
        "<a><a>-${a}-{");
}

}  // namespace
}  // namespace attune::sweep
