// What a policy may do at the end of a window, and what it may not.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "env/setting.h"
#include "env/topology.h"

namespace attune {

// Factors on a head's logit scale, by choice index.
inline constexpr std::size_t kScaleChoices = 5;
inline constexpr std::array<float, kScaleChoices> kScaleFactors = {1 / 4.0F, 1 / 1.5F, 1.0F, 1.5F,
                                                                   4.0F};
inline constexpr std::uint8_t kKeepScale = 2;

// Changes of a site's number of active heads, by choice index.
enum class CountChange : std::uint8_t {
  kHalve = 0,
  kMinusOne = 1,
  kKeep = 2,
  kPlusOne = 3,
  kDouble = 4
};
inline constexpr std::size_t kCountChoices = 5;
[[nodiscard]] std::string_view Name(CountChange change);

// A policy's choices for a whole job. Heads that are left inactive keep their scale.
struct Action {
  std::vector<std::uint8_t> scale;  // [heads], index into kScaleFactors
  std::vector<CountChange> count;   // [sites]
  std::vector<float> score;         // [heads]; where the count changes, the highest stay or come in

  // The action that changes nothing.
  [[nodiscard]] static Action Keep(std::size_t heads, std::size_t sites);

  friend bool operator==(const Action&, const Action&) = default;
};

// Which choices are open: 1 allowed, 0 not. Keeping is always allowed.
struct ActionMask {
  std::vector<std::array<std::uint8_t, kScaleChoices>> scale;  // [heads]
  std::vector<std::array<std::uint8_t, kCountChoices>> count;  // [sites]

  friend bool operator==(const ActionMask&, const ActionMask&) = default;
};

// Active heads of a site of `heads` heads after the change, within 1 to heads.
[[nodiscard]] std::size_t ChangedCount(std::size_t active, CountChange change, std::size_t heads);

// Masks what would leave the bounds of setting.h, what would do nothing, and what another choice
// already does (at two heads, minus one is halve): of two equal changes the larger name stays.
[[nodiscard]] ActionMask MaskOf(const Topology& topology, const Setting& setting);

// What makes the action unusable where `mask` says what is open (sizes, a closed choice, a score
// that is not finite), in one line that names the head or the site by its number, or nothing.
[[nodiscard]] std::optional<std::string> FindFault(const Action& action, const ActionMask& mask);

// The setting that the action leads to. Throws std::invalid_argument where FindFault finds one
// under MaskOf(topology, setting).
[[nodiscard]] Setting Apply(const Topology& topology, const Setting& setting, const Action& action);

// Keeps the `count` heads of highest score of one site; equal scores: the lower index first. Heads
// now active are preferred to inactive ones: a shrinking site keeps some of its active heads, a
// growing one all of them. `active` and `score` are one site's parts, `active` is changed in place.
void SelectHeads(std::span<std::uint8_t> active, std::span<const float> score, std::size_t count);

}  // namespace attune
