// The numbers of a site's heads, from what one pass shows of its sampled query rows. No LibTorch.
#pragma once

#include <cstddef>
#include <span>

namespace attune {

// The sampled rows of a site's active heads. A row sees the keys whose logit is above −∞, the same
// ones for all heads; rows that see fewer than two are passed over, whatever else they hold.
struct SampledRows {
  std::size_t sequences = 0;
  std::size_t heads = 0;
  std::size_t rows = 0;
  std::size_t keys = 0;
  std::span<const float> logits;   // [sequences × heads × rows × keys]
  std::span<const float> weights;  // their softmax over the keys
  std::span<const float> norms;    // [sequences × heads × rows], of the outputs after the gain
};

// Writes the heads' numbers (env/observation.h): metrics [heads × kMetrics], the importance left
// alone, and profile [heads × kProfileBins]. Returns how many rows counted; with none of them
// nothing is written. Sums over keys are of 32-bit floats, sums over rows of doubles. Thread safe.
std::size_t Measure(const SampledRows& sampled, std::span<float> metrics, std::span<float> profile);

}  // namespace attune
