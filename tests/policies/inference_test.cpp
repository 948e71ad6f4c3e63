#include "policies/inference.h"

#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <vector>

namespace attune {
namespace {

TEST_CASE("the squashed sum of rows and bias is its tanh, whatever the width of a row") {
  for (const std::size_t width : {1, 4, 7, 64}) {
    CAPTURE(width);
    const std::size_t count = 501;
    std::vector<float> rows(width * count);
    std::vector<float> bias(width);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      rows[i] = -12 + 24 * static_cast<float>(i) / static_cast<float>(rows.size());
    }
    for (std::size_t i = 0; i < width; ++i) bias[i] = 0.25F * static_cast<float>(i % 5);
    std::vector<float> squashed = rows;
    AddAndSquash(squashed, bias);
    double worst = 0;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const double exact = std::tanh(static_cast<double>(rows[i]) + bias[i % width]);
      worst = std::max(worst, std::abs(squashed[i] - exact));
    }
    CHECK(worst < 2e-6);
  }
}

TEST_CASE("what is not a number stays none when it is squashed, and infinity becomes one") {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  std::vector<float> row = {std::numeric_limits<float>::quiet_NaN(), kInfinity, -kInfinity};
  AddAndSquash(row, std::vector<float>(3, 0.0F));
  CHECK(std::isnan(row[0]));
  CHECK(row[1] == Approx(1).margin(2e-6));
  CHECK(row[2] == Approx(-1).margin(2e-6));
}

TEST_CASE("the probability of an action is that of its choices and of the draw in its order") {
  // One site of three heads, of which two stay: halving is not needed to be open here.
  const std::array<float, 3> odds = {1, 2, 5};  // of being drawn
  State state;
  state.site_offsets = {0, 3};
  Preferences preferences;
  preferences.scale.assign(3 * kScaleChoices, std::log(0.2F));
  preferences.count.assign(kCountChoices, std::log(0.2F));
  for (const float odd : odds) preferences.score.push_back(std::log(odd));
  Action action = Action::Keep(3, 1);
  action.count[0] = CountChange::kMinusOne;
  action.score = {3, 1, 2};  // head 0 is drawn first, then head 2
  const std::vector<std::uint8_t> before = {1, 1, 1};
  const std::vector<std::uint8_t> after = {1, 0, 1};
  const double choices = std::pow(0.2, 3) * 0.2;
  CHECK(std::exp(LogProbability(preferences, state, action, before, after)) ==
        Approx(choices * (1.0 / 8) * (5.0 / 7)));
  // A site that grows draws from its inactive heads; they have no scale to choose.
  action.count[0] = CountChange::kPlusOne;
  CHECK(std::exp(LogProbability(preferences, state, action, std::vector<std::uint8_t>{1, 0, 0},
                                std::vector<std::uint8_t>{1, 1, 0})) ==
        Approx(0.2 * 0.2 * (2.0 / 7)));
}

}  // namespace
}  // namespace attune
