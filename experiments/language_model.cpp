#include "experiments/language_model.h"

#include <cmath>
#include <stdexcept>

namespace attune {
namespace {

torch::nn::LayerNorm Norm(std::int64_t width) {
  return torch::nn::LayerNorm(torch::nn::LayerNormOptions({width}));
}

void Scale(torch::nn::Linear& layer, double factor) {
  layer->weight.mul_(factor);
  layer->bias.mul_(factor);
}

}  // namespace

LearnedAttentionImpl::LearnedAttentionImpl(const AttentionOptions& options)
    : query(register_module("query", torch::nn::Linear(options.width, options.width))),
      key(register_module("key", torch::nn::Linear(options.width, options.width))),
      value(register_module("value", torch::nn::Linear(options.width, options.width))),
      output(register_module("output", torch::nn::Linear(options.width, options.width))),
      log_scale(register_parameter("log_scale", torch::zeros({options.heads, 1, 1}))),
      gain(register_parameter("gain", torch::ones({options.heads, 1, 1}))),
      options_(options) {}

torch::Tensor LearnedAttentionImpl::forward(const torch::Tensor& x) {
  const std::int64_t width = options_.width / options_.heads;
  const auto split = [&](const torch::Tensor& y) {
    return y.view({x.size(0), x.size(1), options_.heads, width}).transpose(1, 2);
  };
  torch::Tensor logits =
      torch::matmul(split(query->forward(x)), split(key->forward(x)).transpose(2, 3)) *
      (log_scale.exp() / std::sqrt(static_cast<double>(width)));
  if (options_.causal) logits = logits + causal_mask_.Of(x.size(1), x.options());
  const torch::Tensor mixed =
      torch::matmul(torch::softmax(logits, -1), split(value->forward(x))) * gain;
  return output->forward(mixed.transpose(1, 2).flatten(2));
}

BlockImpl::BlockImpl(const ModelOptions& options)
    : before_attention(Norm(options.width)),
      before_layers(Norm(options.width)),
      widen(options.width, 4 * options.width),
      narrow(4 * options.width, options.width) {
  const AttentionOptions of_site{.width = options.width,
                                 .heads = options.heads,
                                 .causal = options.causal,
                                 .context = options.context};
  register_module("before_attention", before_attention);
  if (options.learned_scale) {
    learned = register_module("attention", LearnedAttention(of_site));
  } else {
    attention = register_module("attention", TunableAttention(of_site));
  }
  register_module("before_layers", before_layers);
  register_module("widen", widen);
  register_module("narrow", narrow);
}

void BlockImpl::Bake() {
  if (attention.is_empty()) return;
  baked = attention->Bake();
  replace_module("attention", baked);
}

torch::Tensor BlockImpl::forward(const torch::Tensor& x) {
  const torch::Tensor input = before_attention->forward(x);
  const torch::Tensor y = x + (!baked.is_empty()     ? baked->forward(input)
                               : !learned.is_empty() ? learned->forward(input)
                                                     : attention->forward(input));
  return y + narrow->forward(torch::gelu(widen->forward(before_layers->forward(y))));
}

LanguageModelImpl::LanguageModelImpl(const ModelOptions& options)
    : characters(
          register_module("characters", torch::nn::Embedding(options.vocabulary, options.width))),
      positions(register_module("positions", torch::nn::Embedding(options.context, options.width))),
      norm(register_module("norm", Norm(options.width))),
      head(register_module("head", torch::nn::Linear(options.width, options.vocabulary))) {
  const torch::NoGradGuard no_grad;
  characters->weight.mul_(0.02);
  positions->weight.mul_(0.02);
  for (std::int64_t layer = 0; layer < options.layers; ++layer) {
    blocks.push_back(register_module("block" + std::to_string(layer), Block(options)));
  }
}

void LanguageModelImpl::Bake() {
  for (Block& block : blocks) block->Bake();
}

torch::Tensor LanguageModelImpl::forward(const torch::Tensor& x) {
  torch::Tensor y = characters->forward(x) + positions->weight.narrow(0, 0, x.size(1));
  for (Block& block : blocks) y = block->forward(y);
  return head->forward(norm->forward(y));
}

namespace {

// The four projections of one site.
template <typename Attention>
void MakeSiteSick(Attention& site, std::int64_t heads, const std::string& defect) {
  const std::int64_t width = site->query->weight.size(0) / heads;
  const auto rows = [&](torch::nn::Linear& layer, std::int64_t first, std::int64_t count) {
    return std::pair{layer->weight.narrow(0, first * width, count * width),
                     layer->bias.narrow(0, first * width, count * width)};
  };
  const auto columns = [&](std::int64_t first, std::int64_t count) {
    return site->output->weight.narrow(1, first * width, count * width);
  };
  if (defect == "hot" || defect == "cold") {
    const double factor = defect == "hot" ? 8 : 0.1;
    Scale(site->query, factor);
    Scale(site->key, factor);
  } else if (defect == "dead") {
    const auto [weight, bias] = rows(site->value, heads - heads / 2, heads / 2);
    weight.zero_();
    bias.zero_();
    columns(heads - heads / 2, heads / 2).zero_();
  } else if (defect == "identical") {
    for (torch::nn::Linear* layer : {&site->query, &site->key, &site->value}) {
      const auto [weight, bias] = rows(*layer, 0, 1);
      (*layer)->weight.copy_(weight.repeat({heads, 1}));
      (*layer)->bias.copy_(bias.repeat({heads}));
    }
    site->output->weight.copy_(columns(0, 1).repeat({1, heads}));
  } else {
    throw std::invalid_argument("there is no defect '" + defect +
                                "'; there are none, hot, cold, dead, identical");
  }
}

}  // namespace

void MakeSick(LanguageModel& model, const std::string& defect) {
  if (defect == "none") return;
  const torch::NoGradGuard no_grad;
  for (Block& block : model->blocks) {
    if (block->attention.is_empty()) {
      MakeSiteSick(block->learned, block->learned->gain.size(0), defect);
    } else {
      MakeSiteSick(block->attention, block->attention->Describe("site").heads, defect);
    }
  }
}

}  // namespace attune
