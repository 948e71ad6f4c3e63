// Jobs: how far one is, and checking how it introduces itself.
#include "env/job.h"

#include <algorithm>
#include <cmath>

namespace attune {

double Progress(const Budget& budget, std::uint64_t step, double compute_seconds) {
  const double used =
      budget.kind == BudgetKind::kSteps ? static_cast<double>(step) : compute_seconds;
  return std::clamp(used / budget.amount, 0.0, 1.0);
}

std::uint32_t FullWindows(double progress, std::uint32_t windows) {
  const double full = progress * windows;
  if (full >= 1) return static_cast<std::uint32_t>(full) + 2;
  return full >= 0.5 ? 2 : full >= 0.25 ? 1 : 0;
}

std::string_view Name(Outcome outcome) {
  switch (outcome) {
    case Outcome::kRunning:
      return "running";
    case Outcome::kFinished:
      return "finished";
    case Outcome::kFailed:
      return "failed";
    case Outcome::kLost:
      return "lost";
  }
  return "unknown";
}

std::string_view Name(BudgetKind kind) {
  switch (kind) {
    case BudgetKind::kCompute:
      return "compute";
    case BudgetKind::kSteps:
      return "steps";
  }
  return "unknown";
}

bool IsSgd(std::string_view optimizer) {
  const auto same = [](char of_name, char lower) {
    return of_name == lower || of_name == lower - 'a' + 'A';
  };
  const auto contains = [&](std::string_view word) {
    return !std::ranges::search(optimizer, word, same).empty();
  };
  return contains("sgd") && !contains("signsgd");
}

std::optional<std::string> FindFault(const JobSpec& spec) {
  if (const auto fault = FindNameFault(spec.key)) return "key " + *fault;
  if (const auto fault = FindNameFault(spec.name)) return "name " + *fault;
  if (!spec.policy.empty()) {
    if (const auto fault = FindNameFault(spec.policy)) return "policy " + *fault;
  }
  if (!spec.optimizer.empty()) {
    if (const auto fault = FindNameFault(spec.optimizer)) return "optimizer " + *fault;
  }
  const Budget& budget = spec.budget;
  if (budget.kind != BudgetKind::kCompute && budget.kind != BudgetKind::kSteps) {
    return "budget: kind " + std::to_string(static_cast<int>(budget.kind)) +
           " is unknown; use 0 (compute) or 1 (steps)";
  }
  if (!std::isfinite(budget.amount) || budget.amount <= 0) {
    return "budget: the amount is " + std::to_string(budget.amount) + "; use a finite one above 0";
  }
  if (!std::isfinite(budget.price) || budget.price < 0) {
    return "budget: the price is " + std::to_string(budget.price) +
           "; use a finite one of at least 0";
  }
  if (!std::isfinite(spec.learning_rate) || spec.learning_rate < 0) {
    return "learning rate: it is " + std::to_string(spec.learning_rate) +
           "; use a finite one of at least 0 (0: unknown)";
  }
  return FindFault(spec.topology);
}

}  // namespace attune
