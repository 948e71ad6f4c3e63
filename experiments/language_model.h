// A small pre-norm transformer over characters whose attention attune can tune, and the ways in
// which it can be born sick (LibTorch).
#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <string>
#include <vector>

#include "collectors/attention.h"

namespace attune {

// Multi-head attention whose logit scale and output gain of every head are learned by gradient, as
// the weights are (HeadScale of NormFormer, 2110.09456): a baseline.
struct LearnedAttentionImpl : torch::nn::Module {
  explicit LearnedAttentionImpl(const AttentionOptions& options);
  torch::Tensor forward(const torch::Tensor& x);

  torch::nn::Linear query, key, value, output;  // in the order of TunableAttention's
  torch::Tensor log_scale, gain;                // [heads, 1, 1]

 private:
  AttentionOptions options_;
  CausalMask causal_mask_;
};
TORCH_MODULE(LearnedAttention);

struct ModelOptions {
  std::int64_t vocabulary = 0;
  std::int64_t context = 0;
  std::int64_t width = 0;
  std::int64_t heads = 0;
  std::int64_t layers = 0;
  bool causal = true;
  bool learned_scale = false;  // LearnedAttention instead of what attune tunes
};

struct BlockImpl : torch::nn::Module {
  explicit BlockImpl(const ModelOptions& options);
  // Once baked it runs the plain attention.
  void Bake();
  torch::Tensor forward(const torch::Tensor& x);

  TunableAttention attention{nullptr};
  LearnedAttention learned{nullptr};
  PlainAttention baked{nullptr};
  torch::nn::LayerNorm before_attention, before_layers;
  torch::nn::Linear widen, narrow;
};
TORCH_MODULE(Block);

// Characters in, logits of the next character (causal) or of each character (not causal) out.
struct LanguageModelImpl : torch::nn::Module {
  explicit LanguageModelImpl(const ModelOptions& options);
  void Bake();
  // x: [batch, length] → [batch, length, vocabulary]
  torch::Tensor forward(const torch::Tensor& x);

  torch::nn::Embedding characters, positions;
  std::vector<Block> blocks;
  torch::nn::LayerNorm norm;
  torch::nn::Linear head;
};
TORCH_MODULE(LanguageModel);

// Makes a new model sick: "hot" (query and key weights × 8), "cold" (× 0.1), "dead" (half of the
// heads of each site have no value and no output), "identical" (all heads of a site have the
// weights of its first); "none" leaves it. Throws std::invalid_argument for another name.
void MakeSick(LanguageModel& model, const std::string& defect);

}  // namespace attune
