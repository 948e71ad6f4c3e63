// Tests of the reward's arithmetic.
#include "env/reward.h"

#include <array>
#include <catch2/catch.hpp>

namespace attune {
namespace {

constexpr std::array<WindowCost, 5> kWindows = {
    WindowCost{4.0, 10}, {3.1, 10}, {2.7, 8}, {2.9, 6}, {2.2, 5}};
constexpr double kValidation = 2.4;

double SumOfRewards(const Budget& budget) {
  double sum = FinalCorrection(kWindows.back().loss, kValidation);
  for (std::size_t w = 1; w < kWindows.size(); ++w) {
    sum += WindowReward(budget, kWindows[w - 1], kWindows[w], kWindows[0]);
  }
  return sum;
}

TEST_CASE("with a budget in compute the rewards sum to first loss less validation loss") {
  const Budget budget{.kind = BudgetKind::kCompute, .amount = 100, .price = 5};
  CHECK(SumOfRewards(budget) == Approx(4.0 - kValidation));
}

TEST_CASE("with a budget in steps they also sum the price of the saved compute") {
  const Budget budget{.kind = BudgetKind::kSteps, .amount = 100, .price = 0.5};
  // Saved shares of an untuned window: 0, 0.2, 0.4, 0.5.
  CHECK(SumOfRewards(budget) == Approx(4.0 - kValidation + 0.5 * 1.1));
}

TEST_CASE("compute beyond an untuned window's costs its price") {
  const Budget budget{.kind = BudgetKind::kSteps, .amount = 100, .price = 0.5};
  CHECK(WindowReward(budget, {2, 10}, {2, 15}, {2, 10}) == Approx(-0.25));
}

TEST_CASE("a window that is a quarter as long saves nothing by costing a quarter") {
  const Budget budget{.kind = BudgetKind::kSteps, .amount = 100, .price = 0.5};
  CHECK(WindowReward(budget, {2, 10}, {2, 2.5, 0.25}, {2, 10}) == Approx(0));
  CHECK(WindowReward(budget, {2, 10}, {2, 1.25, 0.25}, {2, 5, 0.5}) == Approx(0.5 * 0.125));
}

TEST_CASE("without a measure of the untuned compute only the loss counts") {
  const Budget budget{.kind = BudgetKind::kSteps, .amount = 100, .price = 0.5};
  CHECK(WindowReward(budget, {2, 10}, {1.5, 1}, {2, 0}) == 0.5);
}

}  // namespace
}  // namespace attune
