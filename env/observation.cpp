// Observation: checking what a trainer reports before anything is computed from it.
#include "env/observation.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <span>
#include <sstream>

#include "env/setting.h"
#include "env/vectors.h"

namespace attune {
namespace {

// Rounding in a trainer's sums may carry a share this far out of [0, 1].
constexpr float kShareTolerance = 1e-3F;
// Likewise the sum of a profile's bins, which the trainer may add in half precision.
constexpr float kSumTolerance = 1e-2F;

std::optional<std::string> FindSizeFault(const char* field, std::size_t size, std::size_t heads,
                                         std::size_t per_head) {
  if (size == heads * per_head) return std::nullopt;
  std::ostringstream text;
  text << field << ": there are " << size << " values; report " << heads * per_head << " (" << heads
       << " heads with " << per_head << " each)";
  return text.str();
}

// Neither NaN nor infinity lies between finite bounds.
struct Range {
  float least, most;
  [[nodiscard]] bool Holds(float value) const { return (value >= least) & (value <= most); }
};
constexpr float kLargest = std::numeric_limits<float>::max();
constexpr Range kShare = {-kShareTolerance, 1 + kShareTolerance};
constexpr Range kNorm = {0, kLargest};
// In the order of Metric.
constexpr std::array<Range, kMetrics> kRanges = {
    kShare, {-kLargest, kLargest}, kShare, kShare, kNorm, kNorm, kShare};

// What is wrong with a number, as the end of a sentence: it is none, is infinite, or `range` says
// where it should have been.
template <typename Number>
std::string NumberFault(Number value, const char* range) {
  if (std::isnan(value)) return " is not a number; report a finite value";
  if (std::isinf(value)) return " is infinite; report a finite value";
  std::ostringstream text;
  text << " is " << value << "; report " << range;
  return text.str();
}

const char* NameOfRange(Metric metric) {
  const bool norm = metric == Metric::kOutputNorm || metric == Metric::kImportance;
  return norm ? "at least 0" : "a value in [0, 1]";
}

// The bounds of several heads' metrics side by side: a stretch that vectors divide.
constexpr std::size_t kStretch = 16 * kMetrics;
struct Bounds {
  std::array<float, kStretch> least, most;
};
constexpr Bounds kBounds = [] {
  Bounds bounds{};
  for (std::size_t i = 0; i < kStretch; ++i) {
    bounds.least[i] = kRanges[i % kMetrics].least;
    bounds.most[i] = kRanges[i % kMetrics].most;
  }
  return bounds;
}();

// Whether no active head has a fault, found without a branch for every number. The zeros of
// inactive heads are within all bounds.
ATTUNE_WIDEST_VECTORS
bool AreNumbersFaultless(const Observation& observation) {
  int fine = 1;
  const std::span<const float> metrics = observation.metrics;
  for (std::size_t first = 0; first < metrics.size(); first += kStretch) {
    const std::size_t count = std::min(kStretch, metrics.size() - first);
    for (std::size_t i = 0; i < count; ++i) {
      const float value = metrics[first + i];
      fine &= (value >= kBounds.least[i]) & (value <= kBounds.most[i]);
    }
  }
  for (const float share : observation.profile) fine &= kShare.Holds(share);
  for (std::size_t head = 0; head < observation.active.size(); ++head) {
    const float* const profile = observation.profile.data() + head * kProfileBins;
    std::array<float, kProfileBins / 2> halves;  // folded, so that the sums are those of vectors
    for (std::size_t i = 0; i < 8; ++i) halves[i] = profile[i] + profile[i + 8];
    for (std::size_t i = 0; i < 4; ++i) halves[i] += halves[i + 4];
    const float sum = (halves[0] + halves[2]) + (halves[1] + halves[3]);
    fine &= (observation.active[head] == 0) | (std::abs(sum - 1) <= kSumTolerance);
  }
  return fine != 0;
}

// A fault in the metrics and profile of one active head.
std::optional<std::string> FindHeadFault(const Observation& observation, std::size_t head,
                                         const Topology& topology) {
  for (std::size_t m = 0; m < kMetrics; ++m) {
    const float value = observation.metrics[head * kMetrics + m];
    if (kRanges[m].Holds(value)) continue;
    return "metrics: " + std::string(kMetricNames[m]) + " of " + DescribeHead(topology, head) +
           NumberFault(value, NameOfRange(static_cast<Metric>(m)));
  }
  float sum = 0;
  for (std::size_t bin = 0; bin < kProfileBins; ++bin) {
    const float value = observation.profile[head * kProfileBins + bin];
    sum += value;
    if (kShare.Holds(value)) continue;
    return "profile: bin " + std::to_string(bin) + " of " + DescribeHead(topology, head) +
           NumberFault(value, "a value in [0, 1]");
  }
  if (std::abs(sum - 1) > kSumTolerance) {
    return "profile: the bins of " + DescribeHead(topology, head) + " sum to " +
           std::to_string(sum) + "; report shares that sum to 1";
  }
  return std::nullopt;
}

// An inactive head has nothing to report.
std::optional<std::string> FindInactiveFault(const Observation& observation, std::size_t head,
                                             const Topology& topology) {
  for (std::size_t m = 0; m < kMetrics; ++m) {
    if (observation.metrics[head * kMetrics + m] != 0) {
      return "metrics: " + std::string(kMetricNames[m]) + " of inactive " +
             DescribeHead(topology, head) + " is not 0; report zeros for inactive heads";
    }
  }
  for (std::size_t bin = 0; bin < kProfileBins; ++bin) {
    if (observation.profile[head * kProfileBins + bin] != 0) {
      return "profile: bin " + std::to_string(bin) + " of inactive " +
             DescribeHead(topology, head) + " is not 0; report zeros for inactive heads";
    }
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::string> FindFault(const Observation& observation, const Topology& topology) {
  const std::size_t heads = topology.Heads();
  if (auto fault = FindSizeFault("active", observation.active.size(), heads, 1)) return fault;
  if (auto fault = FindSizeFault("metrics", observation.metrics.size(), heads, kMetrics)) {
    return fault;
  }
  if (auto fault = FindSizeFault("profile", observation.profile.size(), heads, kProfileBins)) {
    return fault;
  }
  if (observation.step > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
    return "step " + std::to_string(observation.step) + " is none; use at most 2^63 - 1";
  }
  if (!std::isfinite(observation.compute_seconds) || observation.compute_seconds < 0) {
    return "compute_seconds" + NumberFault(observation.compute_seconds, "at least 0");
  }
  if (!std::isfinite(observation.loss)) {
    return "loss" + NumberFault(observation.loss, "a finite value");
  }
  if (!kShare.Holds(observation.attention_share)) {
    return "attention_share" + NumberFault(observation.attention_share, "a value in [0, 1]");
  }
  const bool faultless = AreNumbersFaultless(observation);
  if (faultless && std::ranges::count(observation.active, 1) == std::ssize(observation.active)) {
    return std::nullopt;
  }
  std::size_t head = 0;
  for (const Site& site : topology.sites) {
    if (CountActive(std::span(observation.active).subspan(head, site.heads)) == 0) {
      return "active: site '" + site.name + "' has no active head; keep at least one";
    }
    for (const std::size_t end = head + site.heads; head < end; ++head) {
      if (observation.active[head] > 1) {
        return "active: " + DescribeHead(topology, head) + " has " +
               std::to_string(observation.active[head]) + "; use 0 or 1";
      }
      std::optional<std::string> fault;
      if (observation.active[head] == 0) {
        fault = FindInactiveFault(observation, head, topology);
      } else if (!faultless) {
        fault = FindHeadFault(observation, head, topology);
      }
      if (fault) return fault;
    }
  }
  return std::nullopt;
}

}  // namespace attune
