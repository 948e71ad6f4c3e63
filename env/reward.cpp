// What a window earned.
#include "env/reward.h"

namespace attune {

double WindowReward(const Budget& budget, const WindowCost& before, const WindowCost& now,
                    const WindowCost& untuned) {
  const double drop = before.loss - now.loss;
  const bool known = untuned.compute_seconds > 0 && untuned.windows > 0;
  if (budget.kind == BudgetKind::kCompute || !known) return drop;
  const double window_compute = untuned.compute_seconds / untuned.windows;
  const double saved = now.windows - now.compute_seconds / window_compute;
  return drop + budget.price * saved;
}

double FinalCorrection(double last_training_loss, double validation_loss) {
  return last_training_loss - validation_loss;
}

}  // namespace attune
