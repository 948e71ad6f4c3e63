// What a trainer reports after a measured step.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "env/topology.h"

namespace attune {

// Measurements of one head on the sampled query rows of one step. The order is the wire's and the
// store's: only ever add at the end.
enum class Metric : std::uint8_t {
  kEntropy = 0,         // mean over rows of H(p) / log n, n = keys that the row sees; [0, 1]
  kLargestLogit = 1,    // largest logit after scaling (QK-Clip's S_max); any real number
  kTopWeight = 2,       // mean over rows of max_j p_j (Voita et al. 2019, "confidence"); [0, 1]
  kFirstTokenMass = 3,  // mean over rows of the weight on the first key; [0, 1]
  kOutputNorm = 4,      // norm of the head's output over the mean of its site's heads; >= 0
  // |dLoss/dgain| of each example's part in the batch's loss, summed: where that is the mean of the
  // examples' losses, the mean of Michel et al. (1905.10650), whose signs do not cancel; >= 0.
  kImportance = 5,
  kRedundancy = 6,  // largest cosine to the weights of another active head of its site; [0, 1]
};
inline constexpr std::size_t kMetrics = 7;
inline constexpr std::array<std::string_view, kMetrics> kMetricNames = {
    "entropy",     "largest_logit", "top_weight", "first_token_mass",
    "output_norm", "importance",    "redundancy"};

// A head that gives the first key at least this much of its weight is an attention sink
// (2309.17453): it rests there by design, however sharp it looks.
inline constexpr float kSinkFirstTokenMass = 0.5F;

// A head's profile: the share of its attention that falls on each sixteenth of what the query sees.
// Key j of a row that sees n keys, query at the end, lies at relative distance (n - 1 - j) / n, so
// bin 0 is the nearest sixteenth and bin 15 holds the first token. Bins sum to 1. For sites that
// are not causal the distance is (n - 1 - j) / n as well: the profile is then over positions.
inline constexpr std::size_t kProfileBins = 16;

// One measured step of a job. Inactive heads carry zeros.
struct Observation {
  std::uint64_t step = 0;      // optimiser steps done
  double compute_seconds = 0;  // of training so far, by the trainer's clock, without evaluation
  double loss = 0;             // mean training loss since the observation before, nats
  float attention_share = 0;   // share of the step's time spent in attention, [0, 1]
  std::uint64_t action = 0;    // id of the last action applied, 0 before any
  std::uint32_t dropped = 0;   // observations dropped since the last one that was sent
  std::vector<std::uint8_t> active;  // [heads]
  std::vector<float> metrics;        // [heads × kMetrics], row-major
  std::vector<float> profile;        // [heads × kProfileBins], row-major
};

// What makes the observation unusable for the topology (sizes, NaN, range), in one line that names
// the field and the head, or nothing.
[[nodiscard]] std::optional<std::string> FindFault(const Observation& observation,
                                                   const Topology& topology);

}  // namespace attune
