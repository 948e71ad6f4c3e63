// Attention whose heads can be tuned while the model trains (LibTorch).
#pragma once

#include <torch/torch.h>

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "env/observation.h"
#include "env/setting.h"
#include "env/topology.h"

namespace attune {

struct AttentionOptions {
  std::int64_t width = 0;  // of the queries' input and of the output; a multiple of heads
  std::int64_t heads = 1;
  std::int64_t key_width = 0;  // of the keys' input, makes it cross-attention; 0: self-attention
  bool causal = false;         // self-attention only
  bool bias = true;            // of the four projections
  std::int64_t context = 0;    // keys at most, for the topology; at least 1
};

// The additive mask of causal attention, kept for the largest length seen so far. Thread safe, so
// that a baked model serves several threads as any module does.
class CausalMask {
 public:
  // [length, length]: 0 where a query sees the key, −∞ elsewhere.
  [[nodiscard]] torch::Tensor Of(std::int64_t length, const torch::TensorOptions& options);

 private:
  std::mutex mutex_;  // guards what follows
  torch::Tensor mask_;
};

// Plain multi-head attention with `heads` heads of `head_width` dimensions, whatever the model's
// width: what TunableAttention bakes to. Parameters query, key, value, output (torch::nn::Linear).
class PlainAttentionImpl : public torch::nn::Module {
 public:
  PlainAttentionImpl(const AttentionOptions& options, std::int64_t heads, std::int64_t head_width);
  // x: [batch, queries, width]; memory: [batch, keys, key_width], x itself when undefined;
  // mask: added to the logits, broadcast to [batch, 1, queries, keys], or undefined.
  // Returns [batch, queries, width]. Throws std::invalid_argument for a mask of its own per head
  // and for a memory given to causal attention.
  torch::Tensor forward(const torch::Tensor& x, const torch::Tensor& memory = {},
                        const torch::Tensor& mask = {});

  torch::nn::Linear query{nullptr}, key{nullptr}, value{nullptr}, output{nullptr};

 protected:
  FORWARD_HAS_DEFAULT_ARGS({1, torch::nn::AnyValue(torch::Tensor())},
                           {2, torch::nn::AnyValue(torch::Tensor())})

 private:
  std::int64_t heads_, head_width_;
  bool causal_;
  CausalMask causal_mask_;
};
TORCH_MODULE(PlainAttention);

// The numbers of a site's heads in a measured step; inactive heads carry zeros.
struct SiteMeasurement {
  std::vector<std::uint8_t> active;  // [heads], in the forward pass; of others all is 0
  std::vector<float> metrics;        // [heads × kMetrics]
  std::vector<float> profile;        // [heads × kProfileBins]
  double forward_seconds =
      0;  // the process's processor time in the forward passes, measuring left out
};

// Multi-head attention with per-head logit scale, output gain and activity. Inactive heads are not
// computed: their rows of the projections are left out, their weights kept. (Those weights get a
// zero gradient; an optimiser with momentum or weight decay still moves them a little.) Scale, gain
// and activity are buffers: they travel in the state_dict, and writing to them takes effect at the
// next forward. With neutral values it computes bit for bit what PlainAttention with the same
// weights computes. Not thread safe.
class TunableAttentionImpl : public torch::nn::Module {
 public:
  // Throws std::invalid_argument where heads do not divide the width, for causal cross-attention
  // and where width, heads or context is below 1.
  explicit TunableAttentionImpl(const AttentionOptions& options);

  // As PlainAttentionImpl::forward. Throws std::invalid_argument also where the buffers were
  // loaded with what Apply refuses.
  torch::Tensor forward(const torch::Tensor& x, const torch::Tensor& memory = {},
                        const torch::Tensor& mask = {});

  // This site's part of the topology.
  [[nodiscard]] Site Describe(std::string name) const;

  // Takes effect at the next forward. Spans are [heads]; at least one head must be active, scales
  // and gains within the bounds of env/setting.h. Throws std::invalid_argument otherwise.
  void Apply(std::span<const float> scale, std::span<const float> gain,
             std::span<const std::uint8_t> active);
  // What the buffers say now, [heads] each. Throws as forward does.
  [[nodiscard]] Setting Current() const;

  // Lets the next forward pass in training mode measure itself on `rows` sampled query rows of at
  // most `sequences` sequences (both at least 1). The rows are drawn fresh, one in each of `rows`
  // equal stretches of the queries that see at least 16 keys (2 where the input is shorter), by a
  // generator of this module's own. Mask entries of −10,000 and below hide a key. The passes behind
  // it, of further micro-batches, add to the importance and to the seconds.
  void MeasureNext(std::int64_t rows, std::int64_t sequences);
  // What was measured, after the last backward() (importance comes from the gradient of the heads'
  // outputs, example by example: row by row of the batch; 0 where backward() has not passed there);
  // nothing if no forward ran since MeasureNext or no query saw two keys. Clears it, and the wish
  // to measure.
  [[nodiscard]] std::optional<SiteMeasurement> TakeMeasurement();

  // A plain module with the same outputs (to 1e-5): scales folded into the query projection, gains
  // into the output projection, inactive heads left out. Its weights are copies.
  [[nodiscard]] PlainAttention Bake() const;

  torch::nn::Linear query{nullptr}, key{nullptr}, value{nullptr}, output{nullptr};

 protected:
  FORWARD_HAS_DEFAULT_ARGS({1, torch::nn::AnyValue(torch::Tensor())},
                           {2, torch::nn::AnyValue(torch::Tensor())})

 private:
  // The buffers' content, prepared for forward.
  struct Prepared {
    // Of scale, gain and active: where they lay and their version when this was prepared.
    std::array<const void*, 3> place{};
    std::array<std::int64_t, 3> version{};
    Setting setting;
    bool plain_scale = true;  // all scales of active heads are 1
    bool plain_gain = true;
    std::int64_t count = 0;  // active heads
    std::int64_t first = 0;  // the lowest active head
    torch::Tensor heads;     // [count], the active ones; undefined: one run of them
    torch::Tensor factor;    // [count, 1, 1], scale / √head_width
    torch::Tensor gain;      // [count × head_width], of the output projection's columns
  };
  struct Wish {
    std::int64_t rows = 0;
    std::int64_t sequences = 0;
  };
  // Of a measured pass; where its input is.
  struct Sample {
    torch::Tensor logits;  // [sequences, count, rows, keys], −∞ where a row may not look
    torch::Tensor norms;   // [sequences, count, rows] of the outputs after the gain
  };
  // What Measure makes of it; empty where no row counted.
  struct Numbers {
    std::vector<float> metrics;  // [count × kMetrics], without the importance
    std::vector<float> profile;  // [count × kProfileBins]
  };
  struct Measured {
    // Worked out at once on the processor; else when it is taken, so that no pass waits for a
    // device.
    std::variant<Sample, Numbers> content;
    // [count], Σ |∂loss/∂gain| of the examples, once backward() has been there
    std::shared_ptr<torch::Tensor> importance;
    std::vector<std::uint8_t> active;
    double forward_seconds = 0;
  };

  const Prepared& Prepare() const;
  // The part of a projection's weight or bias that belongs to the active heads; `dimension` is that
  // of the heads.
  torch::Tensor Part(const Prepared& now, const torch::Tensor& tensor,
                     std::int64_t dimension) const;
  static Numbers WorkOut(const Sample& sample);
  std::optional<Sample> Draw(const Prepared& now, const torch::Tensor& queries,
                             const torch::Tensor& keys, const torch::Tensor& heads,
                             const torch::Tensor& mask, const Wish& wish);

  AttentionOptions options_;
  std::int64_t head_width_;
  torch::Tensor scale_, gain_, active_;
  mutable Prepared prepared_;
  CausalMask causal_mask_;
  std::optional<Wish> wish_;
  std::optional<Measured> measured_;
  std::mt19937_64 sampler_;
};
TORCH_MODULE(TunableAttention);

}  // namespace attune
