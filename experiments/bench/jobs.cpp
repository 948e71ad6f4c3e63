// How far one daemon goes: JOBS jobs of 144 heads report to it for some seconds, each once a second
// (as a trainer with steps of 0.25 s does at the default cadence).
//
//   attune-bench-jobs STATE_DIRECTORY JOBS [SECONDS]
//
// Prints one line of JSON: observations sent, dropped, and the share of a core that attuned used.
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "agent/options.h"
#include "agent/paths.h"
#include "collectors/probe.h"
#include "experiments/bench/bench.h"
#include "experiments/bench/load.h"

namespace {

using namespace attune;
using Clock = std::chrono::steady_clock;

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    fmt::print(stderr, "usage: attune-bench-jobs STATE_DIRECTORY JOBS [SECONDS]\n");
    return 2;
  }
  Options options;
  options.state_directory = argv[1];
  const Paths paths = Paths::Find(options);
  const int jobs = std::stoi(argv[2]);
  const int seconds = argc > 3 ? std::stoi(argv[3]) : 20;
  pid_t daemon = 0;
  std::ifstream(paths.Lock()) >> daemon;

  std::vector<std::unique_ptr<Probe>> probes;
  for (int number = 0; number < jobs; ++number) {
    const JobSpec job = bench::MakeJob(fmt::format("load-{}-{}", getpid(), number), 10000);
    probes.push_back(std::make_unique<Probe>(ProbeOptions{.endpoint = paths.Endpoint()}, job,
                                             Setting::Neutral(job.topology.Heads())));
  }
  std::uint64_t sent = 0;
  const std::vector<std::uint8_t> all_active(bench::kJobHeads, 1);
  const auto round = [&](std::uint64_t step) {
    const auto end = Clock::now() + std::chrono::seconds(1);
    const Observation observation = bench::MakeObservation(step, all_active);
    for (const auto& probe : probes) {
      if (const auto action = probe->Poll(step)) probe->Applied(*action, step);
      probe->Observe(observation);
      ++sent;
    }
    std::this_thread::sleep_until(end);
  };
  for (std::uint64_t step = 1; step <= 3; ++step) round(step);  // greeting
  std::uint64_t before = 0;
  for (const auto& probe : probes) before += probe->Dropped();
  sent = 0;
  const double used = bench::ProcessorSeconds(daemon);
  const auto start = Clock::now();
  for (std::uint64_t step = 4; step < 4 + static_cast<std::uint64_t>(seconds); ++step) round(step);
  const double elapsed = std::chrono::duration<double>(Clock::now() - start).count();
  const double share = (bench::ProcessorSeconds(daemon) - used) / elapsed;
  std::uint64_t dropped = 0;
  for (const auto& probe : probes) dropped += probe->Dropped();
  fmt::print("{}\n",
             nlohmann::json{{"name", "jobs"},
                            {"jobs", jobs},
                            {"heads", 144},
                            {"observations_per_second", static_cast<double>(sent) / elapsed},
                            {"dropped", dropped - before},
                            {"daemon_core_share", share}}
                 .dump());
  for (const auto& probe : probes) probe->Finish(Outcome::kFinished, 4, 4, std::nullopt);
  return 0;
}
