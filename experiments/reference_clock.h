// Processor seconds as a machine of one speed would have taken them (LibTorch).
#pragma once

#include <torch/torch.h>

#include <deque>

#include "experiments/language_model.h"

namespace attune {

// Of the whole process. Throws std::runtime_error where they cannot be read.
double ProcessorSeconds();

// A virtual machine's neighbours slow it, by a third from hour to hour, and a budget of processor
// seconds is then another job each time: what a policy is worth would drown in it. So a small
// training step that is always the same is timed ten times a second, and what passes between counts
// by how fast that was. One second of this clock is 390 such steps, about a processor second of an
// Intel Xeon at 2.5 GHz that nothing disturbs. What slows the machine for less than half a second
// is not seen, and a third program on two cores slows the small step more than a job's, by 3 to 11
// % (policies/network_history.md): what is compared runs under the same load. The timing itself (5
// % of the time) does not count. For one thread.
class ReferenceClock {
 public:
  // Throws std::runtime_error where the processor's time cannot be read.
  ReferenceClock();

  // Since it was made. Never falls.
  double Seconds();

 private:
  void TimeStep();

  LanguageModel model_;
  torch::Tensor inputs_, targets_;  // [batch, context]
  std::deque<double> timed_;        // processor seconds of the last steps that were timed
  double speed_ = 1;                // reference seconds in a processor second
  double until_ = 0;                // processor time up to which seconds_ counts
  double timed_at_ = 0;             // processor time
  double seconds_ = 0;
};

}  // namespace attune
