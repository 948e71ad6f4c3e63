// Baselines from profiles.
#include "env/baseline.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace attune {

Baseline UniformBaseline(std::size_t heads) {
  return {.kind = BaselineKind::kUniform,
          .profile = std::vector<float>(heads * kProfileBins, 1.0F / kProfileBins)};
}

Baseline BaselineFrom(BaselineKind kind, std::span<const float> profile) {
  if (profile.size() % kProfileBins != 0) {
    throw std::invalid_argument("baseline: a profile of " + std::to_string(profile.size()) +
                                " values does not divide into " + std::to_string(kProfileBins) +
                                " bins for each head");
  }
  Baseline baseline = UniformBaseline(profile.size() / kProfileBins);
  baseline.kind = kind;
  for (std::size_t begin = 0; begin < profile.size(); begin += kProfileBins) {
    double sum = 0;
    // Rounding may leave a share below 0.
    for (const float share : profile.subspan(begin, kProfileBins)) sum += std::max(share, 0.0F);
    if (!(sum > 0)) continue;
    for (std::size_t bin = begin; bin < begin + kProfileBins; ++bin) {
      baseline.profile[bin] = static_cast<float>(
          (1 - kUniformPart) * std::max(profile[bin], 0.0F) / sum + kUniformPart / kProfileBins);
    }
  }
  return baseline;
}

}  // namespace attune
