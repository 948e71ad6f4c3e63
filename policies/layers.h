// The layers of the policy network (network.h) in LibTorch, and the batches that go through them.
// For the files of the network alone: everybody else sees network.h.
#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <span>
#include <vector>

#include "policies/network.h"

namespace attune {

// Samples side by side: the heads of all samples in a row, and likewise their sites.
// J samples, S sites of W heads at most, H heads. Smaller sites repeat their first head.
struct Batch {
  torch::Tensor tokens;         // [S × W, kTokenFeatures]
  torch::Tensor place_of_head;  // [H] int64, row of `tokens`; undefined: all sites have W heads
  torch::Tensor place_weight;   // [S, W, 1] in the mean of the site; undefined likewise
  torch::Tensor site_weight;    // [J, S] of a site's mean in that of the job
  torch::Tensor job_of_head;    // [H] int64
  torch::Tensor job_of_site;    // [S] int64
  torch::Tensor active;         // [H] 0 or 1
  torch::Tensor scale_open;     // [H, kScaleChoices] bool
  torch::Tensor count_open;     // [S, kCountChoices] bool

  [[nodiscard]] std::int64_t Jobs() const { return site_weight.size(0); }
};

// The actions of a batch. R sites draw some of at most C candidates.
struct Choices {
  torch::Tensor scale;        // [H] int64, keep for inactive heads
  torch::Tensor count;        // [S] int64
  torch::Tensor candidates;   // [R, C] int64, heads: the drawn in their order, the others, padding
  torch::Tensor is_padding;   // [R, C] bool
  torch::Tensor is_drawn;     // [R, C] bool
  torch::Tensor job_of_draw;  // [R] int64
};

// What the network says of a batch.
struct Outputs {
  torch::Tensor scale;  // [H, kScaleChoices] log-probabilities
  torch::Tensor count;  // [S, kCountChoices] log-probabilities
  torch::Tensor score;  // [H]
  torch::Tensor value;  // [J]
};

// Log-probabilities of the choices that make up the actions of a batch.
struct Terms {
  torch::Tensor scale;  // [H], 0 for inactive heads
  torch::Tensor count;  // [S]
  torch::Tensor draws;  // [R]
};

struct Layers : torch::nn::Module {
  // Orthogonal initial weights (1312.6120), the last ones small: the network starts near uniform.
  Layers(std::int64_t hidden, std::uint64_t seed);

  [[nodiscard]] Outputs Forward(const Batch& batch);

  torch::nn::Linear encoder1, encoder2, head1, head2, site1, site2, job1, job2;
};

inline constexpr float kClosed = -1e9F;  // logit of a closed choice

template <typename T>
torch::Tensor ToTensor(const std::vector<T>& values, torch::IntArrayRef sizes,
                       torch::ScalarType type) {
  // from_blob only reads here: the clone is what is kept.
  return torch::from_blob(const_cast<T*>(values.data()), sizes, type).clone();
}

[[nodiscard]] Batch MakeBatch(std::span<const Sample* const> samples);
[[nodiscard]] Choices MakeChoices(std::span<const Sample* const> samples);

[[nodiscard]] Terms Judge(const Batch& batch, const Outputs& outputs, const Choices& choices);
// [J] log-probabilities of the whole actions.
[[nodiscard]] torch::Tensor LogProbability(const Batch& batch, const Choices& choices,
                                           const Terms& terms);
// [J] entropies of the scale and count choices together; that of the draws has no closed form.
[[nodiscard]] torch::Tensor Entropy(const Batch& batch, const Outputs& outputs);

}  // namespace attune
