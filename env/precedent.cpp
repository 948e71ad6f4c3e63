#include "env/precedent.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace attune {
namespace {

constexpr std::size_t kFewHeads = 2;  // a site

struct Mean {
  std::size_t runs = 0;
  double log_loss = 0;

  void Add(double loss) {
    ++runs;
    log_loss += (std::log(loss) - log_loss) / static_cast<double>(runs);
  }
  [[nodiscard]] bool Beats(const Mean& other) const {
    return runs > 0 && (other.runs == 0 || log_loss < other.log_loss);
  }
  [[nodiscard]] std::string Describe() const {
    return fmt::format("{:.4g} in {} earlier {}", std::exp(log_loss), runs,
                       runs == 1 ? "run" : "runs");
  }
};

}  // namespace

bool IsSameJob(const JobSpec& a, const JobSpec& b) {
  JobSpec other = b;
  other.key = a.key;
  other.seed = a.seed;
  other.policy = a.policy;
  return a == other;
}

std::optional<Precedent> FollowEarlier(std::span<const EarlierRun> runs, const Topology& topology,
                                       bool explore) {
  const auto is_small = [](const Site& site) { return site.heads <= kFewHeads; };
  if (std::ranges::all_of(topology.sites, is_small)) return std::nullopt;
  std::array<Mean, 3> arms;
  for (const EarlierRun& run : runs) arms[static_cast<std::size_t>(run.arm)].Add(run.loss);
  const auto& [own, few, alone] = arms;
  if (own.runs == 0) return std::nullopt;
  if (few.runs == 0 && explore) {
    return Precedent{kFewHeads, fmt::format("{} heads a site, to see; as policies decide it was {}",
                                            kFewHeads, own.Describe())};
  }
  if (alone.Beats(own) && alone.Beats(few)) {
    return Precedent{
        std::nullopt,
        fmt::format("nothing, as it ended lowest left alone: {}; as policies decide {}",
                    alone.Describe(), own.Describe())};
  }
  if (!few.Beats(own)) return std::nullopt;
  return Precedent{kFewHeads, fmt::format("{} heads a site: {}; as policies decide {}", kFewHeads,
                                          few.Describe(), own.Describe())};
}

}  // namespace attune
