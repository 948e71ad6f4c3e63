#include "policies/inference.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "env/vectors.h"
#include "policies/layers.h"

namespace attune {
namespace {

// x · p(x²) / q(x²), the cubics that come nearest to tanh up to kFlat (minimax, by reweighted least
// squares).
float Tanh(float x) {
  constexpr float kFlat = 7.2F;  // where tanh is 1 − 1.1e-6, and the fraction 1
  x = x > kFlat ? kFlat : x;
  x = x < -kFlat ? -kFlat : x;
  const float y = x * x;
  const float above = 0.999994695F + y * (0.122759625F + y * (0.00225372985F + y * 3.82138114e-6F));
  const float below = 1 + y * (0.456075042F + y * (0.0209633261F + y * 0.000139836368F));
  return x * above / below;
}

std::span<float> Rows(const torch::Tensor& tensor) {
  return {tensor.data_ptr<float>(), static_cast<std::size_t>(tensor.numel())};
}

// tanh(x · weightᵀ + bias).
torch::Tensor Squashed(const torch::Tensor& x, const torch::nn::Linear& layer) {
  torch::Tensor y = at::mm(x, layer->weight.t());
  AddAndSquash(Rows(y), Rows(layer->bias));
  return y;
}

torch::Tensor Linear(const torch::Tensor& x, const torch::nn::Linear& layer) {
  return at::addmm(layer->bias, x, layer->weight.t());
}

// Of the sites' heads: mean ‖ maximum ‖ mean over the whole job, [sites, 3 × hidden].
torch::Tensor Pool(std::span<const float> heads, const State& state, std::size_t hidden) {
  const std::size_t sites = state.Sites();
  torch::Tensor pooled =
      torch::zeros({static_cast<std::int64_t>(sites), static_cast<std::int64_t>(3 * hidden)});
  float* const all = pooled.data_ptr<float>();
  std::vector<float> job(hidden, 0.0F);
  for (std::size_t site = 0; site < sites; ++site) {
    float* const mean = all + site * 3 * hidden;
    float* const most = mean + hidden;
    const std::size_t begin = state.site_offsets[site];
    const std::size_t end = state.site_offsets[site + 1];
    std::copy_n(heads.begin() + static_cast<std::ptrdiff_t>(begin * hidden), hidden, most);
    for (std::size_t head = begin; head < end; ++head) {
      const float* const row = heads.data() + head * hidden;
      for (std::size_t i = 0; i < hidden; ++i) mean[i] += row[i];
      for (std::size_t i = 0; i < hidden; ++i) most[i] = std::max(most[i], row[i]);
    }
    const float share = 1 / static_cast<float>(end - begin);
    for (std::size_t i = 0; i < hidden; ++i) {
      job[i] += mean[i];
      mean[i] *= share;
    }
  }
  for (float& sum : job) sum /= static_cast<float>(state.Heads());
  for (std::size_t site = 0; site < sites; ++site) {
    std::ranges::copy(job, all + (3 * site + 2) * hidden);
  }
  return pooled;
}

// Log-probabilities of `logits`, the closed ones left out, into `out`.
template <std::size_t N>
void LogSoftmax(const float* logits, const std::array<std::uint8_t, N>& open, float* out) {
  std::array<float, N> masked;
  for (std::size_t i = 0; i < N; ++i) masked[i] = open[i] != 0 ? logits[i] : kClosed;
  const float most = *std::ranges::max_element(masked);
  float sum = 0;
  for (std::size_t i = 0; i < N; ++i) sum += open[i] != 0 ? std::exp(masked[i] - most) : 0;
  const float all = most + std::log(sum);
  for (std::size_t i = 0; i < N; ++i) out[i] = masked[i] - all;
}

}  // namespace

ATTUNE_WIDEST_VECTORS
void AddAndSquash(std::span<float> rows, std::span<const float> bias) {
  for (std::size_t row = 0; row < rows.size(); row += bias.size()) {
    for (std::size_t i = 0; i < bias.size(); ++i) rows[row + i] = Tanh(rows[row + i] + bias[i]);
  }
}

Preferences Prefer(const Layers& layers, const State& state, const ActionMask& mask) {
  const c10::InferenceMode no_gradients;
  const std::size_t heads = state.Heads();
  const std::size_t sites = state.Sites();
  const torch::Tensor tokens = torch::from_blob(
      const_cast<float*>(state.tokens.data()),  // is only read
      {static_cast<std::int64_t>(heads), static_cast<std::int64_t>(kTokenFeatures)});
  const torch::Tensor head = Squashed(Squashed(tokens, layers.encoder1), layers.encoder2);
  const std::int64_t hidden = head.size(1);
  const auto units = static_cast<std::size_t>(hidden);
  const torch::Tensor pooled = Pool(Rows(head), state, units);

  // head1 of head ‖ site ‖ job: the last two are the same for all heads of a site.
  const torch::Tensor of_head = at::mm(head, layers.head1->weight.narrow(1, 0, hidden).t());
  const torch::Tensor of_pooled =
      at::addmm(layers.head1->bias, pooled, layers.head1->weight.narrow(1, hidden, 3 * hidden).t());
  for (std::size_t site = 0; site < sites; ++site) {
    const std::size_t first = state.site_offsets[site];
    const std::size_t count = state.site_offsets[site + 1] - first;
    AddAndSquash(Rows(of_head).subspan(first * units, count * units),
                 Rows(of_pooled).subspan(site * units, units));
  }
  const torch::Tensor for_heads = Linear(of_head, layers.head2);
  const torch::Tensor for_sites = Linear(Squashed(pooled, layers.site1), layers.site2);

  Preferences preferences{.scale = std::vector<float>(heads * kScaleChoices),
                          .count = std::vector<float>(sites * kCountChoices),
                          .score = std::vector<float>(heads)};
  const float* const rows = for_heads.data_ptr<float>();
  for (std::size_t h = 0; h < heads; ++h) {
    const float* const row = rows + h * (kScaleChoices + 1);
    LogSoftmax(row, mask.scale[h], preferences.scale.data() + h * kScaleChoices);
    preferences.score[h] = row[kScaleChoices];
  }
  for (std::size_t site = 0; site < sites; ++site) {
    LogSoftmax(for_sites.data_ptr<float>() + site * kCountChoices, mask.count[site],
               preferences.count.data() + site * kCountChoices);
  }
  return preferences;
}

float LogProbability(const Preferences& preferences, const State& state, const Action& action,
                     std::span<const std::uint8_t> before, std::span<const std::uint8_t> after) {
  double sum = 0;
  for (std::size_t head = 0; head < state.Heads(); ++head) {
    if (before[head] != 0) sum += preferences.scale[head * kScaleChoices + action.scale[head]];
  }
  std::vector<std::size_t> drawn;
  for (std::size_t site = 0; site < state.Sites(); ++site) {
    const CountChange change = action.count[site];
    sum += preferences.count[site * kCountChoices + static_cast<std::size_t>(change)];
    if (change == CountChange::kKeep) continue;
    // Plackett–Luce: each drawn head against all that are not drawn before it. A shrinking site
    // draws those that stay, a growing one those that come in.
    const std::uint8_t pool = change < CountChange::kKeep ? 1 : 0;
    double left = 0;
    drawn.clear();
    for (std::size_t head = state.site_offsets[site]; head < state.site_offsets[site + 1]; ++head) {
      if ((before[head] != 0 ? 1 : 0) != pool) continue;
      if (after[head] != 0) {
        drawn.push_back(head);
      } else {
        left += std::exp(static_cast<double>(preferences.score[head]));
      }
    }
    // The last that was drawn first.
    std::ranges::stable_sort(drawn, std::ranges::less{},
                             [&](std::size_t head) { return action.score[head]; });
    for (const std::size_t head : drawn) {
      left += std::exp(static_cast<double>(preferences.score[head]));
      sum += preferences.score[head] - std::log(left);
    }
  }
  return static_cast<float>(sum);
}

}  // namespace attune
