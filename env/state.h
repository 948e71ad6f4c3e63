// What a policy sees: one token for every head.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "env/job.h"
#include "env/meter.h"
#include "env/setting.h"
#include "env/topology.h"

namespace attune {

// Features of a token, each brought to a range of about [-2, 2]. Job features repeat in every token
// of the job. The order is the network's and the store's: only ever add at the end.
inline constexpr std::array kTokenFeatureNames = {
    std::string_view{"entropy"},
    std::string_view{"largest_logit"},  // tanh(x / 20)
    std::string_view{"top_weight"},
    std::string_view{"first_token_mass"},
    std::string_view{"output_norm"},  // log(x + 0.01) / 2
    std::string_view{"importance"},   // its share of the site's mean, log(x + 0.01) / 2
    std::string_view{"redundancy"},
    std::string_view{"divergence"},          // Jensen–Shannon to the baseline / log 2
    std::string_view{"entropy_change"},      // since the window before
    std::string_view{"output_norm_change"},  // of the feature above
    std::string_view{"redundancy_change"},
    std::string_view{"active"},           // 0 or 1
    std::string_view{"scale"},            // log(scale) / log(16)
    std::string_view{"active_share"},     // of the site's heads
    std::string_view{"site_heads"},       // log2(heads) / 4
    std::string_view{"depth"},            // of the site in the model, [0, 1]
    std::string_view{"context"},          // log2(context) / 12
    std::string_view{"head_width"},       // log2(head width) / 8
    std::string_view{"cross"},            // 1 for cross-attention
    std::string_view{"progress"},         // of the job's budget, [0, 1]
    std::string_view{"loss"},             // loss / first window's loss
    std::string_view{"loss_slope"},       // drop in this window / first loss / 2 / its budget share
    std::string_view{"attention_share"},  // of the step time
    std::string_view{"step_cost"},        // log2(seconds per step / first window's)
    std::string_view{"learning_rate"},    // log10(rate) / 4, 0 when unknown
    std::string_view{"budget_in_compute"},  // 1: budget in compute, 0: in steps
    std::string_view{"budget_steps"},  // log10(steps that the budget will hold) / 4, 0 when unknown
    std::string_view{"first_loss"},    // log(first window's loss) / 2: how much there is to learn
    std::string_view{"sgd"},           // 1: the job's optimiser IsSgd, 0: another, or unknown
};
inline constexpr std::size_t kTokenFeatures = kTokenFeatureNames.size();

// As many as the oldest trials and networks have that can still be used: what came behind them is 0
// there.
inline constexpr std::size_t kOldestTokenFeatures = 28;

// The place of a feature in a token. Throws std::out_of_range where no feature has that name; what
// the compiler evaluates does not compile then.
[[nodiscard]] constexpr std::size_t TokenFeature(std::string_view name) {
  for (std::size_t feature = 0; feature < kTokenFeatures; ++feature) {
    if (kTokenFeatureNames[feature] == name) return feature;
  }
  throw std::out_of_range("no feature of tokens is called " + std::string(name));
}

// A job at the end of a window. Any number of sites and heads.
struct State {
  std::vector<std::uint32_t> site_offsets;  // [sites + 1], as Topology::SiteOffsets gives them
  std::vector<float> tokens;                // [heads × kTokenFeatures], row-major, all finite

  // 0 of a state without offsets.
  [[nodiscard]] std::size_t Sites() const {
    return site_offsets.empty() ? 0 : site_offsets.size() - 1;
  }
  [[nodiscard]] std::size_t Heads() const { return site_offsets.empty() ? 0 : site_offsets.back(); }
  [[nodiscard]] float At(std::size_t head, std::size_t feature) const {
    return tokens[head * kTokenFeatures + feature];
  }
  [[nodiscard]] std::vector<std::uint8_t> Active() const;  // [heads], 0 or 1, as the tokens say

  friend bool operator==(const State&, const State&) = default;
};

// `first` is the job's first window (it may be `now` itself), `before` the window before `now` or
// null. Before the first step `now` and `first` are Unmeasured: then what tells of losses, progress
// and time is 0.
[[nodiscard]] State MakeState(const JobSpec& spec, const Setting& setting, const WindowReading& now,
                              const WindowReading* before, const WindowReading& first);

}  // namespace attune
