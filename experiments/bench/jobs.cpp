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
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "agent/options.h"
#include "agent/paths.h"
#include "collectors/probe.h"

namespace {

using namespace attune;
using Clock = std::chrono::steady_clock;

// Processor seconds of a process so far.
double ProcessorSeconds(pid_t process) {
  std::ifstream stream(fmt::format("/proc/{}/stat", process));
  std::string text{std::istreambuf_iterator<char>(stream), {}};
  std::istringstream fields(text.substr(text.rfind(')') + 1));
  std::string field;
  double ticks = 0;
  for (int number = 3; number <= 15 && fields >> field; ++number) {
    if (number >= 14) ticks += std::stod(field);
  }
  return ticks / static_cast<double>(sysconf(_SC_CLK_TCK));
}

JobSpec MakeJob(int number) {
  JobSpec job;
  job.key = fmt::format("load-{}-{}", getpid(), number);
  job.name = "load";
  for (int site = 0; site < 12; ++site) {
    job.topology.sites.push_back(
        {fmt::format("block{}", site), SiteKind::kSelf, true, 12, 64, 1024});
  }
  job.budget = {BudgetKind::kSteps, 10000, 0.01};
  return job;
}

Observation MakeObservation(std::uint64_t step) {
  constexpr std::size_t kHeads = 144;
  Observation observation;
  observation.step = step;
  observation.compute_seconds = static_cast<double>(step);
  observation.loss = 3;
  observation.attention_share = 0.5F;
  observation.active.assign(kHeads, 1);
  observation.metrics.assign(kHeads * kMetrics, 0.5F);
  observation.profile.assign(kHeads * kProfileBins, 1.0F / kProfileBins);
  return observation;
}

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
    const JobSpec job = MakeJob(number);
    probes.push_back(std::make_unique<Probe>(ProbeOptions{.endpoint = paths.Endpoint()}, job,
                                             Setting::Neutral(job.topology.Heads())));
  }
  std::uint64_t sent = 0;
  const auto round = [&](std::uint64_t step) {
    const auto end = Clock::now() + std::chrono::seconds(1);
    for (const auto& probe : probes) {
      if (const auto action = probe->Poll(step)) probe->Applied(*action, step);
      probe->Observe(MakeObservation(step));
      ++sent;
    }
    std::this_thread::sleep_until(end);
  };
  for (std::uint64_t step = 1; step <= 3; ++step) round(step);  // greeting
  std::uint64_t before = 0;
  for (const auto& probe : probes) before += probe->Dropped();
  sent = 0;
  const double used = ProcessorSeconds(daemon);
  const auto start = Clock::now();
  for (std::uint64_t step = 4; step < 4 + static_cast<std::uint64_t>(seconds); ++step) round(step);
  const double elapsed = std::chrono::duration<double>(Clock::now() - start).count();
  const double share = (ProcessorSeconds(daemon) - used) / elapsed;
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
