// The distribution that a head's attention is compared with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "env/observation.h"

namespace attune {

enum class BaselineKind : std::uint8_t {
  kUniform = 0,   // the same weight on every key
  kWarmUp = 1,    // the job's own mean profile over its first window
  kRecorded = 2,  // the mean profile of a window of another job
};

struct Baseline {
  BaselineKind kind = BaselineKind::kUniform;
  std::vector<float> profile;  // [heads × kProfileBins], all above 0, each head's bins sum to 1
};

// Differences are divided by the baseline, so no bin of it may be empty: this share of a recorded
// baseline is uniform. An empty bin then counts as a hundredth of a uniform one.
inline constexpr double kUniformPart = 0.01;

[[nodiscard]] Baseline UniformBaseline(std::size_t heads);

// A baseline of the given kind from a mean profile [heads × kProfileBins]. A head that was inactive
// (all zeros) gets the uniform one. Throws std::invalid_argument where the size does not divide.
// See kUniformPart for empty bins.
[[nodiscard]] Baseline BaselineFrom(BaselineKind kind, std::span<const float> profile);

}  // namespace attune
