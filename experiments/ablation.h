// What each head of a model is worth (LibTorch).
#pragma once

#include <cstddef>
#include <vector>

#include "experiments/language_model.h"
#include "experiments/training.h"

namespace attune {

struct HeadWorth {
  std::size_t layer = 0;
  std::size_t head = 0;   // in the layer
  double cost = 0;        // of leaving it out: the log of the loss without it over that with it
  double importance = 0;  // as a trainer measures it, the mean over the batches
};

// Of all heads, layer by layer, each left out by itself. At least two heads a layer, all of them
// active; so they are behind it too.
[[nodiscard]] std::vector<HeadWorth> Ablate(LanguageModel& model,
                                            const std::vector<TextBatch>& batches);

// How many heads can leave together, tried cheapest first, before the log of the loss has risen by
// more than `margin`; a layer keeps one. All are active behind it.
[[nodiscard]] std::size_t CountFree(LanguageModel& model, const std::vector<TextBatch>& batches,
                                    const std::vector<HeadWorth>& worth, double margin);

// Spearman's rank correlation of importance and cost, -1 to 1; equal ones share the mean of their
// ranks. 0 where all costs or all importances are equal.
[[nodiscard]] double RankCorrelation(const std::vector<HeadWorth>& worth);

}  // namespace attune
