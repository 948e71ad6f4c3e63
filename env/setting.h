// What can be tuned, and its present value: the logit scale, output gain and activity of every
// head.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "env/topology.h"

namespace attune {

// Logit scales stay within these bounds, whoever sets them.
inline constexpr float kMinScale = 1.0F / 16.0F;
inline constexpr float kMaxScale = 16.0F;
// Output gains likewise.
inline constexpr float kMinGain = 0.0F;
inline constexpr float kMaxGain = 16.0F;

// A complete setting of a job, one entry for each head of its topology.
struct Setting {
  std::vector<float> scale;          // factor on the head's logits, kMinScale to kMaxScale
  std::vector<float> gain;           // factor on the head's output, kMinGain to kMaxGain
  std::vector<std::uint8_t> active;  // 1: computed; 0: skipped, its weights kept

  // The model as its author built it: scales and gains 1, every head active.
  [[nodiscard]] static Setting Neutral(std::size_t heads);

  friend bool operator==(const Setting&, const Setting&) = default;
};

// Active heads in a mask such as Setting::active, or in the part of it that is one site.
[[nodiscard]] std::size_t CountActive(std::span<const std::uint8_t> active);

// What makes the setting unusable for the topology (sizes, bounds, a site without an active head),
// in one line for a person, or nothing.
[[nodiscard]] std::optional<std::string> FindFault(const Setting& setting,
                                                   const Topology& topology);

}  // namespace attune
