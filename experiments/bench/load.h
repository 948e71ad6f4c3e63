// Jobs as a daemon sees them, and a daemon of the benchmark's own to load with them.
#pragma once

#include <fmt/format.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "agent/child.h"
#include "agent/options.h"
#include "agent/paths.h"
#include "collectors/messages.h"

namespace attune::bench {

constexpr std::size_t kJobSites = 12;
constexpr std::size_t kJobHeads = 144;

inline JobSpec MakeJob(const std::string& key, double budget_steps) {
  JobSpec job;
  job.key = key;
  job.name = "load";
  job.fresh = true;
  for (std::size_t site = 0; site < kJobSites; ++site) {
    job.topology.sites.push_back(
        {fmt::format("block{}", site), SiteKind::kSelf, true, kJobHeads / kJobSites, 64, 1024});
  }
  job.budget = {BudgetKind::kSteps, budget_steps, 0.01};
  return job;
}

// Plausible numbers, different for every head and step.
inline Observation MakeObservation(std::uint64_t step, std::vector<std::uint8_t> active) {
  std::mt19937_64 random(step);
  std::uniform_real_distribution<float> unit(0, 1);
  Observation observation;
  observation.step = step;
  observation.compute_seconds = static_cast<double>(step);
  observation.loss = 2 + 1 / (1 + 1e-3 * static_cast<double>(step));
  observation.attention_share = 0.5F;
  observation.active = std::move(active);
  for (const std::uint8_t on : observation.active) {
    for (std::size_t m = 0; m < kMetrics; ++m) {
      observation.metrics.push_back(on != 0 ? 0.1F + 0.8F * unit(random) : 0);
    }
    const float first = unit(random) / kProfileBins;
    for (std::size_t bin = 0; bin < kProfileBins; ++bin) {
      const float share = bin == 0                  ? first
                          : bin == kProfileBins - 1 ? 2.0F / kProfileBins - first
                                                    : 1.0F / kProfileBins;
      observation.profile.push_back(on != 0 ? share : 0);
    }
  }
  return observation;
}

// attuned in a new folder, for as long as this lives.
class Running {
 public:
  explicit Running(std::vector<std::string> flags) {
    std::string folder = std::filesystem::temp_directory_path() / "attune-bench-XXXXXX";
    if (mkdtemp(folder.data()) == nullptr) throw std::runtime_error("no folder " + folder);
    folder_ = folder;
    Options options;
    options.state_directory = folder;
    const Paths paths = Paths::Find(options);
    flags.insert(flags.begin(), {"--config", "/dev/null", "--state-directory", folder});
    daemon_ = StartDaemon(paths, flags, [] { return false; });
    endpoint_ = paths.Endpoint();
  }
  ~Running() {
    daemon_.reset();
    std::filesystem::remove_all(folder_);
  }
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;

  [[nodiscard]] const std::string& Endpoint() const { return endpoint_; }
  [[nodiscard]] pid_t Process() const { return daemon_->Id(); }

 private:
  std::filesystem::path folder_;
  std::string endpoint_;
  std::unique_ptr<Child> daemon_;
};

}  // namespace attune::bench
