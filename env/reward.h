// What a window earned.
#pragma once

#include "env/job.h"

namespace attune {

// What is compared: the smoothed training loss at the end of a window, and the window's compute.
struct WindowCost {
  double loss = 0;             // nats
  double compute_seconds = 0;  // spent in the window
  double windows = 1;          // its length, in equal slices of the budget
};

// The reward of the window `now`, in nats, given the window before it and a window of the
// untuned job. Budget in compute: the drop of the loss, so that the rewards of a job sum
// to the loss it gained. Budget in steps: also budget.price for every untuned window's compute that
// was saved (negative where more was spent).
[[nodiscard]] double WindowReward(const Budget& budget, const WindowCost& before,
                                  const WindowCost& now, const WindowCost& untuned);

// What the last window's reward is corrected by once the validation loss is known, so that the
// job's rewards sum to first loss − validation loss (and the saved compute's price).
[[nodiscard]] double FinalCorrection(double last_training_loss, double validation_loss);

}  // namespace attune
