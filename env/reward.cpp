// What a window earned.
#include "env/reward.h"

namespace attune {

double WindowReward(const Budget& budget, const WindowCost& before, const WindowCost& now,
                    double untuned_window_compute) {
  const double drop = before.loss - now.loss;
  if (budget.kind == BudgetKind::kCompute || !(untuned_window_compute > 0)) return drop;
  const double saved = (untuned_window_compute - now.compute_seconds) / untuned_window_compute;
  return drop + budget.price * saved;
}

double FinalCorrection(double last_training_loss, double validation_loss) {
  return last_training_loss - validation_loss;
}

}  // namespace attune
