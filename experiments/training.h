// Training a LanguageModel on stretches of a text (LibTorch).
#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <filesystem>
#include <random>
#include <vector>

#include "experiments/language_model.h"

namespace attune {

struct TextBatch {
  torch::Tensor inputs;   // [batch, context]
  torch::Tensor targets;  // [batch, context]; kUnasked where nothing is asked
};

// Drawn by a generator of its own: the same seed, the same batches. Not thread-safe.
class Batches {
 public:
  // `text`: numbers of characters, more than `context`. `mask`: the number that stands for a hidden
  // character, one in seven (BERT, 1810.04805) being asked for; 0: the next character is.
  Batches(const std::vector<std::int64_t>& text, std::int64_t batch, std::int64_t context,
          std::int64_t mask, std::uint64_t seed);
  [[nodiscard]] TextBatch Next();

 private:
  torch::Tensor text_;
  std::int64_t batch_, context_, mask_;
  std::mt19937_64 generator_;
};

// The batch's loss, in nats per character asked for.
[[nodiscard]] torch::Tensor Loss(LanguageModel& model, const TextBatch& batch);

// Mean loss of the batches, in nats per character asked for; the model is in training mode behind
// it.
[[nodiscard]] double Evaluate(LanguageModel& model, const std::vector<TextBatch>& batches);

// Share of the highest learning rate at this share (0 to 1) of the budget: up, then a cosine to 0.
[[nodiscard]] double Schedule(double progress);

// One step at this learning rate; the batch's loss before it, in nats per character asked for.
double Optimize(LanguageModel& model, torch::optim::Optimizer& optimizer, const TextBatch& batch,
                double rate);

// What the model has learned before its job, by AdamW at 0.003 in so many steps: the same whoever
// tunes it then. From `file` where it is there, else written there, whole or not at all (where that
// cannot be done, stderr says so). Scales and gains that a model learns (LearnedAttention) stay as
// they are. Throws std::invalid_argument if the file is of another model.
void Pretrain(LanguageModel& model, Batches batches, std::uint64_t steps,
              const std::filesystem::path& file);

}  // namespace attune
