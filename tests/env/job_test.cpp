// Tests of job introductions and progress.
#include "env/job.h"

#include <catch2/catch.hpp>
#include <cmath>

#include "tests/env/example.h"

namespace attune {
namespace {

TEST_CASE("progress is the used share of the budget in its own unit, at most all of it") {
  const Budget steps{.kind = BudgetKind::kSteps, .amount = 200};
  CHECK(Progress(steps, 50, 1e9) == 0.25);
  CHECK(Progress(steps, 0, 0) == 0);
  CHECK(Progress(steps, 201, 0) == 1);
  const Budget compute{.kind = BudgetKind::kCompute, .amount = 80};
  CHECK(Progress(compute, 1'000'000, 20) == 0.25);
  CHECK(Progress(compute, 0, 81) == 1);
}

TEST_CASE("windows are equal, but for the first, which is cut at a quarter and a half") {
  CHECK(FullWindows(0, 40) == 0);
  CHECK(FullWindows(0.249 / 40, 40) == 0);
  CHECK(FullWindows(0.25 / 40, 40) == 1);
  CHECK(FullWindows(0.5 / 40, 40) == 2);
  CHECK(FullWindows(0.999 / 40, 40) == 2);
  CHECK(FullWindows(1.0 / 40, 40) == 3);
  CHECK(FullWindows(2.0 / 40, 40) == 4);
  CHECK(FullWindows(1, 40) == 42);
}

TEST_CASE("an optimiser is one of stochastic gradient descent by its name, in any library") {
  for (const char* name : {"sgd", "SGD", "ASGD", "SGD8bit", "OptimizerNames.SGD", "Sgd"}) {
    CAPTURE(name);
    CHECK(IsSgd(name));
  }
  for (const char* name : {"", "adamw", "AdamW", "Adagrad", "sg", "gds", "RMSprop", "SignSGD"}) {
    CAPTURE(name);
    CHECK_FALSE(IsSgd(name));
  }
}

TEST_CASE("an introduction is refused with the field that is at fault") {
  const auto fault_after = [](auto change) {
    JobSpec spec = ExampleSpec();
    change(spec);
    return FindFault(spec).value_or("");
  };
  CHECK(fault_after([](JobSpec&) {}).empty());
  CHECK(fault_after([](JobSpec& s) { s.learning_rate = 0; }).empty());
  CHECK(Contains(fault_after([](JobSpec& s) { s.key.clear(); }), "key is empty"));
  CHECK(Contains(fault_after([](JobSpec& s) { s.name.assign(201, 'x'); }), "name has 201 bytes"));
  CHECK(Contains(fault_after([](JobSpec& s) { s.budget.amount = 0; }), "budget: the amount"));
  CHECK(Contains(fault_after([](JobSpec& s) { s.budget.amount = NAN; }), "budget: the amount"));
  CHECK(Contains(fault_after([](JobSpec& s) { s.budget.amount = INFINITY; }), "budget"));
  CHECK(Contains(fault_after([](JobSpec& s) { s.budget.price = -1; }), "budget: the price"));
  CHECK(Contains(fault_after([](JobSpec& s) { s.budget.price = NAN; }), "budget: the price"));
  CHECK(Contains(fault_after([](JobSpec& s) { s.budget.kind = static_cast<BudgetKind>(2); }),
                 "kind 2"));
  CHECK(Contains(fault_after([](JobSpec& s) { s.learning_rate = NAN; }), "learning rate"));
  CHECK(Contains(fault_after([](JobSpec& s) { s.learning_rate = -1e-3; }), "learning rate"));
  CHECK(Contains(fault_after([](JobSpec& s) { s.optimizer = "a\nb"; }), "optimizer "));
  CHECK(Contains(fault_after([](JobSpec& s) { s.topology.sites.clear(); }), "sites"));
}

}  // namespace
}  // namespace attune
