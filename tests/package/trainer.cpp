// Trains one site for a step, as README.md says ("In your trainer"), and bakes it.
#include <cmath>
#include <cstdio>

#include "collectors/attach.h"

int main() {
  attune::TunableAttention attention(
      attune::AttentionOptions{.width = 8, .heads = 2, .context = 4});
  torch::optim::SGD optimizer(attention->parameters(), 0.01);
  auto handle = attune::Attach(
      *attention, {.name = "outside", .budget = {attune::BudgetKind::kSteps, 1}, .fresh = true});
  const torch::Tensor x = torch::ones({1, 4, 8});
  handle.StartStep();
  const torch::Tensor loss = attention->forward(x).square().mean();
  loss.backward();
  optimizer.step();
  handle.Step(loss.item<double>());
  handle.Finish(loss.item<double>());
  const double difference =
      (attention->forward(x) - attention->Bake()->forward(x)).abs().max().item<double>();
  std::printf("baked, off by %g\n", difference);
  return std::isfinite(difference) && difference < 1e-5 ? 0 : 1;
}
