// The numbers of sampled rows against closed forms.
#include "collectors/measure.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <vector>

#include "env/observation.h"

namespace attune {
namespace {

constexpr float kHidden = -std::numeric_limits<float>::infinity();

// One sequence's rows by head: logits [heads][rows][keys], their softmax worked out here.
struct Rows {
  Rows(std::size_t head_count, std::size_t row_count, std::vector<float> of_keys)
      : heads(head_count),
        rows(row_count),
        keys(of_keys.size() / (head_count * row_count)),
        logits(std::move(of_keys)),
        norms(head_count * row_count, 1.0F) {
    for (std::size_t first = 0; first < logits.size(); first += keys) {
      double sum = 0;
      for (std::size_t key = 0; key < keys; ++key) sum += std::exp(double{logits[first + key]});
      for (std::size_t key = 0; key < keys; ++key) {
        weights.push_back(static_cast<float>(std::exp(double{logits[first + key]}) / sum));
      }
    }
  }
  std::size_t Take() {
    metrics.assign(heads * kMetrics, -7.0F);
    profile.assign(heads * kProfileBins, -7.0F);
    return Measure({1, heads, rows, keys, logits, weights, norms}, metrics, profile);
  }
  [[nodiscard]] float At(std::size_t head, Metric metric) const {
    return metrics[head * kMetrics + static_cast<std::size_t>(metric)];
  }

  std::size_t heads, rows, keys;
  std::vector<float> logits, weights, norms;
  std::vector<float> metrics, profile;
};

TEST_CASE("a row that looks at all keys alike has entropy 1 and a flat profile") {
  Rows rows(2, 1, std::vector<float>(64, 0.5F));
  REQUIRE(rows.Take() == 1);
  for (const std::size_t head : {0U, 1U}) {
    CHECK(rows.At(head, Metric::kEntropy) == Approx(1));
    CHECK(rows.At(head, Metric::kLargestLogit) == 0.5F);
    CHECK(rows.At(head, Metric::kTopWeight) == Approx(1.0 / 32));
    CHECK(rows.At(head, Metric::kFirstTokenMass) == Approx(1.0 / 32));
    CHECK(rows.At(head, Metric::kRedundancy) == Approx(1));
    CHECK(rows.At(head, Metric::kImportance) == -7);  // left alone
    for (std::size_t bin = 0; bin < kProfileBins; ++bin) {
      CHECK(rows.profile[head * kProfileBins + bin] == Approx(1.0 / 16));
    }
  }
}

TEST_CASE("what a row does not see is not there, and a row of one key says nothing") {
  const float three = std::log(3.0F);
  // The first row sees one key, the second two with others hidden before, between and behind them.
  Rows rows(1, 2,
            {5, kHidden, kHidden, kHidden, kHidden,  //
             kHidden, 0, kHidden, three, kHidden});
  REQUIRE(rows.Take() == 1);
  const double entropy = -(0.25 * std::log(0.25) + 0.75 * std::log(0.75)) / std::log(2.0);
  CHECK(rows.At(0, Metric::kEntropy) == Approx(entropy));
  CHECK(rows.At(0, Metric::kLargestLogit) == three);
  CHECK(rows.At(0, Metric::kTopWeight) == Approx(0.75));
  CHECK(rows.At(0, Metric::kFirstTokenMass) == Approx(0.25));
  CHECK(rows.At(0, Metric::kRedundancy) == 0);  // there is no other head
  CHECK(rows.profile[8] == Approx(0.25));       // ⌊16 · 1 / 2⌋
  CHECK(rows.profile[0] == Approx(0.75));
  CHECK(rows.profile[1] == 0);
}

TEST_CASE("heads are as redundant as their weights are parallel, and as loud as their outputs") {
  // Heads 0 and 1 look at one key each, head 2 at both.
  Rows rows(3, 1, {40, 0, 0, 40, 1, 1});
  rows.norms = {1, 2, 6};
  REQUIRE(rows.Take() == 1);
  CHECK(rows.At(0, Metric::kRedundancy) == Approx(std::sqrt(0.5)));
  CHECK(rows.At(1, Metric::kRedundancy) == Approx(std::sqrt(0.5)));
  CHECK(rows.At(2, Metric::kRedundancy) == Approx(std::sqrt(0.5)));
  CHECK(rows.At(0, Metric::kOutputNorm) == Approx(1.0 / 3));
  CHECK(rows.At(2, Metric::kOutputNorm) == Approx(2));
}

TEST_CASE("where no row counts nothing is written") {
  Rows rows(1, 1, {1, kHidden});
  CHECK(rows.Take() == 0);
  CHECK(rows.At(0, Metric::kEntropy) == -7);
  CHECK(rows.profile[0] == -7);
}

TEST_CASE("numbers that are none stay none: a model that diverged is seen to have") {
  Rows rows(1, 1, {std::numeric_limits<float>::quiet_NaN(), 0, 0});
  REQUIRE(rows.Take() == 1);
  CHECK(std::isnan(rows.At(0, Metric::kEntropy)));
}

}  // namespace
}  // namespace attune
