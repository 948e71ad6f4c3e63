#include "experiments/training.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <iostream>
#include <stdexcept>
#include <string>
#include <utility>

namespace attune {
namespace {

constexpr std::int64_t kUnasked = -100;  // as cross_entropy has it
constexpr double kMasked = 1.0 / 7;      // of the characters

// The model's parameters but for scales and gains.
std::vector<torch::Tensor> Weights(LanguageModel& model) {
  std::vector<torch::Tensor> weights;
  for (const auto& item : model->named_parameters()) {
    if (!item.key().ends_with(".log_scale") && !item.key().ends_with(".gain")) {
      weights.push_back(item.value());
    }
  }
  return weights;
}

void Load(const std::filesystem::path& file, std::vector<torch::Tensor>& weights) {
  std::vector<torch::Tensor> kept;
  torch::load(kept, file.string());
  const bool fits = std::ranges::equal(
      kept, weights, [](const auto& a, const auto& b) { return a.sizes() == b.sizes(); });
  if (!fits) throw std::invalid_argument(file.string() + " is of another model; remove it");
  const torch::NoGradGuard no_grad;
  for (std::size_t i = 0; i < kept.size(); ++i) weights[i].copy_(kept[i]);
}

void Save(const std::filesystem::path& file, const std::vector<torch::Tensor>& weights) {
  try {
    std::filesystem::create_directories(file.parent_path());
    const std::string beside = file.string() + "." + std::to_string(getpid());
    torch::save(weights, beside);
    std::filesystem::rename(beside, file);
  } catch (const std::exception&) {
    std::cerr << "attune-demo-lm: cannot keep " << file.string()
              << "; the next run trains it anew\n";
  }
}

}  // namespace

torch::Tensor Loss(LanguageModel& model, const TextBatch& batch) {
  return torch::nn::functional::cross_entropy(model->forward(batch.inputs).flatten(0, 1),
                                              batch.targets.flatten());
}

Batches::Batches(const std::vector<std::int64_t>& text, std::int64_t batch, std::int64_t context,
                 std::int64_t mask, std::uint64_t seed)
    : text_(torch::tensor(text)), batch_(batch), context_(context), mask_(mask), generator_(seed) {}

TextBatch Batches::Next() {
  std::uniform_int_distribution<std::int64_t> start(0, text_.size(0) - context_ - 1);
  std::vector<torch::Tensor> rows;
  for (std::int64_t row = 0; row < batch_; ++row) {
    rows.push_back(text_.narrow(0, start(generator_), context_ + 1));
  }
  const torch::Tensor all = torch::stack(rows);
  if (mask_ == 0) return {all.narrow(1, 0, context_), all.narrow(1, 1, context_)};
  const torch::Tensor whole = all.narrow(1, 0, context_);
  std::bernoulli_distribution hide(kMasked);
  std::vector<std::uint8_t> hidden(static_cast<std::size_t>(batch_ * context_));
  for (std::uint8_t& one : hidden) one = hide(generator_) ? 1 : 0;
  hidden[0] = 1;  // something is always asked
  const torch::Tensor is_hidden =
      torch::from_blob(hidden.data(), {batch_, context_}, torch::kByte).to(torch::kBool);
  return {whole.masked_fill(is_hidden, mask_),
          whole.masked_fill(is_hidden.logical_not(), kUnasked)};
}

double Evaluate(LanguageModel& model, const std::vector<TextBatch>& batches) {
  const torch::NoGradGuard no_grad;
  model->eval();
  double sum = 0;
  for (const TextBatch& batch : batches) sum += Loss(model, batch).item<double>();
  model->train();
  return sum / static_cast<double>(batches.size());
}

double Schedule(double progress) {
  constexpr double kWarmUp = 0.02;
  constexpr double kLowest = 0.01;  // the first step's
  if (progress < kWarmUp) return std::max(kLowest, progress / kWarmUp);
  return 0.5 * (1 + std::cos(M_PI * (progress - kWarmUp) / (1 - kWarmUp)));
}

double Optimize(LanguageModel& model, torch::optim::Optimizer& optimizer, const TextBatch& batch,
                double rate) {
  for (auto& group : optimizer.param_groups()) group.options().set_lr(rate);
  const torch::Tensor loss = Loss(model, batch);
  optimizer.zero_grad();
  loss.backward();
  torch::nn::utils::clip_grad_norm_(optimizer.param_groups()[0].params(), 1.0);
  optimizer.step();
  return loss.item<double>();
}

void Pretrain(LanguageModel& model, Batches batches, std::uint64_t steps,
              const std::filesystem::path& file) {
  constexpr double kRate = 3e-3;
  std::vector<torch::Tensor> weights = Weights(model);
  if (std::filesystem::exists(file)) {
    Load(file, weights);
    return;
  }
  torch::optim::AdamW optimizer(weights, torch::optim::AdamWOptions(kRate));
  for (std::uint64_t step = 0; step < steps; ++step) {
    const double progress = static_cast<double>(step) / static_cast<double>(steps);
    static_cast<void>(Optimize(model, optimizer, batches.Next(), kRate * Schedule(progress)));
  }
  model->zero_grad();
  Save(file, weights);
}

}  // namespace attune
