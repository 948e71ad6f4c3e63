// Tests of baselines.
#include "env/baseline.h"

#include <catch2/catch.hpp>
#include <numeric>
#include <stdexcept>

namespace attune {
namespace {

TEST_CASE("the uniform baseline has the same weight in every bin") {
  const Baseline baseline = UniformBaseline(3);
  CHECK(baseline.kind == BaselineKind::kUniform);
  CHECK(baseline.profile == std::vector<float>(3 * kProfileBins, 0.0625F));
}

TEST_CASE("a recorded baseline keeps its shape, sums to 1 and has no empty bin") {
  std::vector<float> profile(2 * kProfileBins, 0.0F);
  profile[0] = 0.75F;
  profile[15] = 0.25F;  // the second head was inactive: all zeros
  const Baseline baseline = BaselineFrom(BaselineKind::kRecorded, profile);
  CHECK(baseline.kind == BaselineKind::kRecorded);
  const double empty = kUniformPart / kProfileBins;
  CHECK(baseline.profile[0] == Approx(0.75 * (1 - kUniformPart) + empty));
  CHECK(baseline.profile[15] == Approx(0.25 * (1 - kUniformPart) + empty));
  for (std::size_t bin = 1; bin < 15; ++bin) CHECK(baseline.profile[bin] == Approx(empty));
  CHECK(std::accumulate(baseline.profile.begin(), baseline.profile.begin() + 16, 0.0) ==
        Approx(1.0));
  for (std::size_t bin = 16; bin < 32; ++bin) CHECK(baseline.profile[bin] == 0.0625F);
}

TEST_CASE("shares that do not quite sum to 1 are brought to it") {
  const std::vector<float> profile(kProfileBins, 0.063F);
  const Baseline baseline = BaselineFrom(BaselineKind::kWarmUp, profile);
  for (const float share : baseline.profile) CHECK(share == Approx(0.0625));
}

TEST_CASE("a share that rounding left below 0 counts as none") {
  std::vector<float> profile(kProfileBins, 0.0F);
  profile[0] = 1.0009F;
  profile[1] = -0.0009F;
  const Baseline baseline = BaselineFrom(BaselineKind::kWarmUp, profile);
  CHECK(baseline.profile[0] == Approx(1 - kUniformPart + kUniformPart / kProfileBins));
  CHECK(baseline.profile[1] == Approx(kUniformPart / kProfileBins));
}

TEST_CASE("a profile that does not divide into heads is refused") {
  CHECK_THROWS_AS(BaselineFrom(BaselineKind::kWarmUp, std::vector<float>(17, 0.1F)),
                  std::invalid_argument);
}

}  // namespace
}  // namespace attune
