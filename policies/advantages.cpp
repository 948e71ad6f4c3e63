// Advantages: what an action was worth beyond what was expected.
#include <stdexcept>
#include <string>

#include "policies/network.h"

namespace attune {

std::vector<double> Advantages(std::span<const double> rewards, std::span<const double> values,
                               double discount, double lambda) {
  if (values.size() != rewards.size() + 1) {
    throw std::invalid_argument("advantages: " + std::to_string(rewards.size()) + " rewards need " +
                                std::to_string(rewards.size() + 1) + " values, not " +
                                std::to_string(values.size()));
  }
  std::vector<double> advantages(rewards.size());
  double next = 0;
  for (std::size_t i = rewards.size(); i-- > 0;) {
    const double surprise = rewards[i] + discount * values[i + 1] - values[i];
    next = surprise + discount * lambda * next;
    advantages[i] = next;
  }
  return advantages;
}

}  // namespace attune
