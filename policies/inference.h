// The forward pass of a decision, by hand.
//
// Layers::Forward on one job costs more in some forty calls of LibTorch than in arithmetic. Here
// only the matrix products are LibTorch's (BLAS); all else is loops over rows. No gradients.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "env/action.h"
#include "env/state.h"
#include "policies/network.h"

namespace attune {

struct Layers;  // layers.h

// What the network prefers in one situation. Log-probabilities of closed choices are about −1e9.
struct Preferences {
  std::vector<float> scale;  // [heads × kScaleChoices] log-probabilities
  std::vector<float> count;  // [sites × kCountChoices] log-probabilities
  std::vector<float> score;  // [heads] of staying, or coming in
};

// The same as Layers::Forward says of a batch of this situation alone, within 1e-4.
[[nodiscard]] Preferences Prefer(const Layers& layers, const State& state, const ActionMask& mask);

// Log-probability of an action under these preferences, as LogProbability says it of a batch.
// `before` and `after`: the active heads, [heads].
[[nodiscard]] float LogProbability(const Preferences& preferences, const State& state,
                                   const Action& action, std::span<const std::uint8_t> before,
                                   std::span<const std::uint8_t> after);

// tanh of rows + bias in place, the bias being as long as a row; within 2e-6.
void AddAndSquash(std::span<float> rows, std::span<const float> bias);

}  // namespace attune
