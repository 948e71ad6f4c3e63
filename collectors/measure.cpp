#include "collectors/measure.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "env/observation.h"
#include "env/vectors.h"

namespace attune {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// In any order, as the processor's vectors have it.
template <typename Term>
float Sum(std::size_t first, std::size_t end, Term&& term) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::size_t i = first; i < end; ++i) sum += term(i);
  return sum;
}

float Product(std::span<const float> one, std::span<const float> other) {
  return Sum(0, one.size(), [&](std::size_t i) { return one[i] * other[i]; });
}

float Largest(std::span<const float> values) {
  float largest = kMinusInfinity;
#pragma omp simd reduction(max : largest)
  for (std::size_t i = 0; i < values.size(); ++i) largest = std::max(largest, values[i]);
  return largest;
}

// The keys of a row: how many it sees, which first, and where the bins of the profile end. Of n
// seen keys that of rank r is in bin ⌊16 (n − 1 − r) / n⌋, so each bin is a run of keys, the last
// bin first; a key that is not seen weighs nothing, wherever it falls.
struct Keys {
  explicit Keys(std::span<const float> logits) {
    for (const float logit : logits) seen += logit != kMinusInfinity ? 1 : 0;
    if (seen == 0) return;
    first = static_cast<std::size_t>(
        std::ranges::find_if(logits, [](float logit) { return logit != kMinusInfinity; }) -
        logits.begin());
    std::size_t bin = kProfileBins - 1;
    std::size_t rank = 0;
    for (std::size_t key = first; key < logits.size(); ++key) {
      if (logits[key] == kMinusInfinity) continue;
      for (const std::size_t now = kProfileBins * (seen - 1 - rank) / seen; bin > now; --bin) {
        begin_of_bin[bin - 1] = key;
      }
      ++rank;
    }
  }
  [[nodiscard]] std::size_t EndOfBin(std::size_t bin, std::size_t keys) const {
    return bin == 0 ? keys : begin_of_bin[bin - 1];
  }

  std::size_t seen = 0;
  std::size_t first = 0;
  std::array<std::size_t, kProfileBins> begin_of_bin{};
};

// Sums over the rows of one head.
struct HeadSums {
  double entropy = 0, top = 0, first = 0, norm = 0;
  float largest = kMinusInfinity;
  std::array<double, kProfileBins> profile{};
};

}  // namespace

ATTUNE_WIDEST_VECTORS
std::size_t Measure(const SampledRows& sampled, std::span<float> metrics,
                    std::span<float> profile) {
  const auto& [sequences, heads, rows, keys, logits, weights, norms] = sampled;
  std::vector<HeadSums> sums(heads);
  std::vector<double> cosines(heads * heads, 0.0);  // of a head's weights and an earlier head's
  std::vector<float> lengths(heads);                // of the weights in a row
  std::size_t counted = 0;
  for (std::size_t sequence = 0; sequence < sequences; ++sequence) {
    for (std::size_t row = 0; row < rows; ++row) {
      const auto place = [&](std::size_t head) { return (sequence * heads + head) * rows + row; };
      const Keys seen(logits.subspan(place(0) * keys, keys));
      if (seen.seen < 2) continue;
      ++counted;
      const double evenly = std::log(static_cast<double>(seen.seen));
      for (std::size_t head = 0; head < heads; ++head) {
        const auto s = logits.subspan(place(head) * keys, keys);
        const auto p = weights.subspan(place(head) * keys, keys);
        HeadSums& sum = sums[head];
        const float largest = Largest(s);
        const float top = Largest(p);
        // H = log Σ exp(s) − E[s], and of the largest s the weight is exp(s) / Σ exp(s).
        const float mean = Sum(0, keys, [&](std::size_t i) {
          const float product = p[i] * s[i];
          return p[i] > 0 ? product : 0.0F;  // of 0 and −∞ it is no number
        });
        sum.entropy += (largest - std::log(top) - mean) / evenly;
        sum.top += top;
        sum.first += p[seen.first];
        sum.norm += norms[place(head)];
        sum.largest = std::max(sum.largest, largest);
        for (std::size_t bin = 0; bin < kProfileBins; ++bin) {
          sum.profile[bin] += Sum(seen.begin_of_bin[bin], seen.EndOfBin(bin, keys),
                                  [&](std::size_t i) { return p[i]; });
        }
      }
      for (std::size_t head = 0; head < heads; ++head) {
        const auto p = weights.subspan(place(head) * keys, keys);
        lengths[head] = std::sqrt(Product(p, p));
        for (std::size_t other = 0; other < head; ++other) {
          const auto q = weights.subspan(place(other) * keys, keys);
          cosines[head * heads + other] += Product(p, q) / (lengths[head] * lengths[other]);
        }
      }
    }
  }
  if (counted == 0) return 0;

  const auto share = 1.0 / static_cast<double>(counted);
  double norm = 0;
  for (const HeadSums& sum : sums) norm += sum.norm / static_cast<double>(heads);
  norm = std::max<double>(norm, std::numeric_limits<float>::min());
  for (std::size_t head = 0; head < heads; ++head) {
    const HeadSums& sum = sums[head];
    double nearest = 0;
    for (std::size_t other = 0; other < heads; ++other) {
      if (other == head) continue;
      nearest = std::max(nearest, cosines[std::max(head, other) * heads + std::min(head, other)]);
    }
    const auto put = [&](Metric metric, double value) {
      metrics[head * kMetrics + static_cast<std::size_t>(metric)] = static_cast<float>(value);
    };
    put(Metric::kEntropy, std::clamp(sum.entropy * share, 0.0, 1.0));
    put(Metric::kLargestLogit, sum.largest);
    put(Metric::kTopWeight, sum.top * share);
    put(Metric::kFirstTokenMass, sum.first * share);
    put(Metric::kOutputNorm, sum.norm / norm);
    put(Metric::kRedundancy, std::clamp(nearest * share, 0.0, 1.0));
    for (std::size_t bin = 0; bin < kProfileBins; ++bin) {
      profile[head * kProfileBins + bin] = static_cast<float>(sum.profile[bin] * share);
    }
  }
  return counted;
}

}  // namespace attune
