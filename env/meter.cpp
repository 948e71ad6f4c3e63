// The attention balance meter.
#include "env/meter.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <stdexcept>
#include <string>
#include <utility>

namespace attune {
namespace {

// An observation stands for at least this much compute (seconds), so that clocks that stand still
// leave equal weights.
constexpr double kLeastWeight = 1e-9;

void RequireBaseline(const Baseline& baseline) {
  const auto& profile = baseline.profile;
  if (profile.size() % kProfileBins != 0 ||
      !std::all_of(profile.begin(), profile.end(), [](float b) { return b > 0; })) {
    throw std::invalid_argument("meter: every bin of a baseline must be above 0");
  }
}

std::span<const float> ProfileOf(std::span<const float> profiles, std::size_t head) {
  return profiles.subspan(head * kProfileBins, kProfileBins);
}

// Half of the Kullback–Leibler divergence of p to m; empty bins add nothing.
double HalfDivergence(double p, double m) { return p > 0 ? 0.5 * p * std::log(p / m) : 0; }

}  // namespace

float Difference(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (std::size_t bin = 0; bin < a.size(); ++bin) {
    sum += std::abs(double{a[bin]} - b[bin]) / b[bin];
  }
  return static_cast<float>(sum / static_cast<double>(a.size()));
}

float JensenShannon(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (std::size_t bin = 0; bin < a.size(); ++bin) {
    const double middle = (double{a[bin]} + b[bin]) / 2;
    sum += HalfDivergence(a[bin], middle) + HalfDivergence(b[bin], middle);
  }
  return static_cast<float>(std::clamp(sum, 0.0, std::numbers::ln2));
}

Meter::Meter(Baseline baseline, std::uint64_t start_step, double start_compute)
    : baseline_(std::move(baseline)), start_step_(start_step), start_compute_(start_compute) {
  RequireBaseline(baseline_);
}

void Meter::SetBaseline(Baseline baseline) {
  RequireBaseline(baseline);
  baseline_ = std::move(baseline);
}

void Meter::Add(const Observation& observation) {
  if (observation.active.size() * kProfileBins != baseline_.profile.size()) {
    throw std::invalid_argument(
        "meter: the observation has " + std::to_string(observation.active.size()) +
        " heads, the baseline " + std::to_string(baseline_.profile.size() / kProfileBins));
  }
  observations_.push_back(observation);
}

WindowReading Meter::Close() {
  if (observations_.empty()) throw std::logic_error("meter: the window has no observation");
  const Observation& last = observations_.back();
  const std::size_t heads = last.active.size();
  const std::size_t count = observations_.size();

  WindowReading reading;
  reading.first_step = std::min(start_step_ + 1, observations_.front().step);
  reading.last_step = last.step;
  reading.observations = count;
  reading.start_compute = start_compute_;
  reading.end_compute = last.compute_seconds;
  reading.active = last.active;
  reading.metrics.resize(heads * kMetrics);
  reading.profile.resize(heads * kProfileBins);
  reading.mean.resize(heads);
  reading.deviation.resize(heads);
  reading.difference.resize(heads);
  reading.divergence.resize(heads);

  std::vector<double> weights(count);
  double total = 0;
  double attention = 0;
  double previous = start_compute_;
  for (std::size_t i = 0; i < count; ++i) {
    weights[i] = std::max(observations_[i].compute_seconds - previous, kLeastWeight);
    previous = observations_[i].compute_seconds;
    total += weights[i];
    attention += weights[i] * observations_[i].attention_share;
  }
  reading.attention_share = attention / total;

  const std::size_t half = count / 2;
  const auto tail = std::span(observations_).subspan(half);
  const auto tail_count = static_cast<double>(tail.size());
  for (const Observation& observation : tail) reading.loss += observation.loss / tail_count;
  if (tail.size() > 1) {
    double squares = 0;
    for (const Observation& observation : tail) {
      squares += (observation.loss - reading.loss) * (observation.loss - reading.loss);
    }
    reading.loss_noise = std::sqrt(squares / (tail_count - 1) / tail_count);
  }

  double differences = 0;
  std::size_t active = 0;
  for (std::size_t head = 0; head < heads; ++head) {
    if (last.active[head] == 0) continue;
    const auto base = ProfileOf(baseline_.profile, head);
    std::array<double, kMetrics> metrics{};
    std::array<double, kProfileBins> profile{};
    double difference = 0;
    double weight = 0;
    for (std::size_t i = 0; i < count; ++i) {
      const Observation& observation = observations_[i];
      if (observation.active[head] == 0) continue;
      const double w = weights[i];
      weight += w;
      for (std::size_t m = 0; m < kMetrics; ++m) {
        metrics[m] += w * observation.metrics[head * kMetrics + m];
      }
      const auto shares = ProfileOf(observation.profile, head);
      for (std::size_t bin = 0; bin < kProfileBins; ++bin) profile[bin] += w * shares[bin];
      difference += w * Difference(shares, base);
    }
    for (std::size_t m = 0; m < kMetrics; ++m) {
      reading.metrics[head * kMetrics + m] = static_cast<float>(metrics[m] / weight);
    }
    // Reported shares sum to 1 but for rounding; the moments below take the sum as it is.
    double mass = 0;
    double first_moment = 0;
    double second_moment = 0;
    for (std::size_t bin = 0; bin < kProfileBins; ++bin) {
      const double distance = (static_cast<double>(bin) + 0.5) / kProfileBins;
      mass += profile[bin];
      first_moment += profile[bin] * distance;
      second_moment += profile[bin] * distance * distance;
      reading.profile[head * kProfileBins + bin] = static_cast<float>(profile[bin] / weight);
    }
    const double mean = first_moment / mass;
    reading.mean[head] = static_cast<float>(mean);
    reading.deviation[head] =
        static_cast<float>(std::sqrt(std::max(second_moment / mass - mean * mean, 0.0)));
    reading.difference[head] = static_cast<float>(difference / weight);
    reading.divergence[head] = JensenShannon(ProfileOf(reading.profile, head), base);
    differences += difference / weight;
    ++active;
  }
  reading.imbalance = active > 0 ? differences / static_cast<double>(active) : 0;

  start_step_ = reading.last_step;
  start_compute_ = reading.end_compute;
  observations_.clear();
  return reading;
}

}  // namespace attune
