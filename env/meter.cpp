// The attention balance meter.
#include "env/meter.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

#include "env/vectors.h"

// glibc has logarithms of whole vectors (libmvec, to 4 units in the last place), but <cmath> tells
// only programs that forgo exact arithmetic. GCC takes them where errno does not matter
// (-fno-math-errno).
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__)
extern "C" __attribute__((simd("notinbranch"))) double log(double) noexcept;
#endif

namespace attune {
namespace {

// An observation stands for at least this much compute (seconds), so that clocks that stand still
// leave equal weights.
constexpr double kLeastWeight = 1e-9;
// A job's first step that takes more than so many of the next ones has started something up.
constexpr double kStartUp = 3;

void RequireBaseline(const Baseline& baseline) {
  const auto& profile = baseline.profile;
  if (profile.size() % kProfileBins != 0 ||
      !std::all_of(profile.begin(), profile.end(), [](float b) { return b > 0; })) {
    throw std::invalid_argument("meter: every bin of a baseline must be above 0");
  }
}

// All numbers 0.
WindowReading OfHeads(std::size_t heads) {
  WindowReading reading;
  reading.metrics.resize(heads * kMetrics);
  reading.profile.resize(heads * kProfileBins);
  reading.mean.resize(heads);
  reading.deviation.resize(heads);
  reading.difference.resize(heads);
  reading.divergence.resize(heads);
  return reading;
}

std::span<const float> ProfileOf(std::span<const float> profiles, std::size_t head) {
  return profiles.subspan(head * kProfileBins, kProfileBins);
}

void Accumulate(std::vector<float>& sums, float weight, std::span<const float> values) {
  for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += weight * values[i];
}

// Of the Kullback–Leibler divergence of p to m; empty bins add nothing.
double Divergence(double p, double m) { return p * std::log(p > 0 ? p / m : 1.0); }

}  // namespace

ATTUNE_WIDEST_VECTORS
float JensenShannon(std::span<const float> a, std::span<const float> b) {
  std::array<double, kProfileBins> parts;  // not summed up at once, so that logarithms are vectors'
  for (std::size_t bin = 0; bin < kProfileBins; ++bin) {
    const double p = std::max(a[bin], 0.0F);  // rounding may leave a share below 0
    const double q = std::max(b[bin], 0.0F);
    const double middle = (p + q) / 2;
    parts[bin] = Divergence(p, middle) + Divergence(q, middle);
  }
  const double sum = std::accumulate(parts.begin(), parts.end(), 0.0) / 2;
  return static_cast<float>(std::clamp(sum, 0.0, std::numbers::ln2));
}

WindowReading Unmeasured(std::span<const std::uint8_t> active) {
  const std::size_t heads = active.size();
  WindowReading reading = OfHeads(heads);
  reading.active.assign(active.begin(), active.end());
  for (std::size_t head = 0; head < heads; ++head) {
    if (active[head] == 0) continue;
    const auto metrics = std::span(reading.metrics).subspan(head * kMetrics, kMetrics);
    metrics[static_cast<std::size_t>(Metric::kEntropy)] = 0.5F;
    metrics[static_cast<std::size_t>(Metric::kOutputNorm)] = 1;
    std::ranges::fill(std::span(reading.profile).subspan(head * kProfileBins, kProfileBins),
                      1.0F / kProfileBins);
  }
  return reading;
}

Meter::Meter(Baseline baseline, std::uint64_t start_step, double start_compute)
    : start_step_(start_step), start_compute_(start_compute) {
  SetBaseline(std::move(baseline));
  Clear();
}

void Meter::SetBaseline(Baseline baseline) {
  RequireBaseline(baseline);
  baseline_ = std::move(baseline);
  inverse_baseline_.clear();
  for (const float share : baseline_.profile) inverse_baseline_.push_back(1 / share);
}

void Meter::Clear() {
  const std::size_t heads = baseline_.profile.size() / kProfileBins;
  last_compute_ = start_compute_;
  losses_.clear();
  total_weight_ = attention_ = 0;
  weight_.assign(heads, 0);
  metrics_.assign(heads * kMetrics, 0);
  profile_.assign(heads * kProfileBins, 0);
  difference_.assign(heads * kProfileBins, 0);
}

// What the process took to start up (a device's libraries, say) is no cost of a step: with it all
// that follows would look cheap. `second` is the window's second observation, not added yet: a
// first window of one observation shows no usual step to go by.
void Meter::LeaveOutStartUp(const Observation& second) {
  if (start_step_ != 0 || first_step_ != 1) return;  // only a job's very first step has one
  const double first = last_compute_ - start_compute_;
  const double usual = (second.compute_seconds - last_compute_) /
                       static_cast<double>(std::max<std::uint64_t>(second.step, 2) - 1);
  if (!(usual > 0) || first <= kStartUp * usual) return;
  start_compute_ = last_compute_ - usual;
  // So far there is one observation in the sums.
  const double factor = std::max(usual, kLeastWeight) / total_weight_;
  total_weight_ *= factor;
  attention_ *= factor;
  for (std::vector<float>* sums : {&weight_, &metrics_, &profile_, &difference_}) {
    for (float& sum : *sums) sum *= static_cast<float>(factor);
  }
}

ATTUNE_WIDEST_VECTORS
void Meter::Add(const Observation& observation) {
  const std::size_t heads = weight_.size();
  if (observation.active.size() != heads) {
    throw std::invalid_argument("meter: the observation has " +
                                std::to_string(observation.active.size()) +
                                " heads, the baseline " + std::to_string(heads));
  }
  if (losses_.empty()) {
    first_step_ = observation.step;
    // A job that was started anew from a checkpoint has spent less than the window before says.
    start_compute_ = last_compute_ = std::min(start_compute_, observation.compute_seconds);
  }
  if (losses_.size() == 1) LeaveOutStartUp(observation);
  last_step_ = observation.step;
  const double w = std::max(observation.compute_seconds - last_compute_, kLeastWeight);
  last_compute_ = observation.compute_seconds;
  active_ = observation.active;
  losses_.push_back(observation.loss);
  total_weight_ += w;
  attention_ += w * observation.attention_share;
  const auto weight = static_cast<float>(w);
  Accumulate(metrics_, weight, observation.metrics);  // inactive heads report zeros
  Accumulate(profile_, weight, observation.profile);
  // Bin by bin, and summed up at the end of the window: one straight pass over all numbers.
  for (std::size_t head = 0; head < heads; ++head) {
    const float of_head = observation.active[head] == 0 ? 0 : weight;
    weight_[head] += of_head;
    for (std::size_t i = head * kProfileBins; i < (head + 1) * kProfileBins; ++i) {
      difference_[i] += of_head * std::abs(observation.profile[i] * inverse_baseline_[i] - 1);
    }
  }
}

WindowReading Meter::Close() {
  if (losses_.empty()) throw std::logic_error("meter: the window has no observation");
  const std::size_t heads = weight_.size();

  WindowReading reading = OfHeads(heads);
  reading.first_step = std::min(start_step_ + 1, first_step_);
  reading.last_step = last_step_;
  reading.observations = losses_.size();
  reading.start_compute = start_compute_;
  reading.end_compute = last_compute_;
  reading.active = active_;
  reading.attention_share = attention_ / total_weight_;

  const auto tail = std::span(losses_).subspan(losses_.size() / 2);
  const auto tail_count = static_cast<double>(tail.size());
  for (const double loss : tail) reading.loss += loss / tail_count;
  if (tail.size() > 1) {
    double squares = 0;
    for (const double loss : tail) squares += (loss - reading.loss) * (loss - reading.loss);
    reading.loss_noise = std::sqrt(squares / (tail_count - 1) / tail_count);
  }

  double differences = 0;
  std::size_t active = 0;
  for (std::size_t head = 0; head < heads; ++head) {
    if (active_[head] == 0) continue;
    const double weight = weight_[head];
    for (std::size_t i = head * kMetrics; i < (head + 1) * kMetrics; ++i) {
      reading.metrics[i] = static_cast<float>(metrics_[i] / weight);
    }
    // Reported shares sum to 1 but for rounding; the moments below take the sum as it is.
    double mass = 0;
    double first_moment = 0;
    double second_moment = 0;
    double difference = 0;
    for (std::size_t bin = 0; bin < kProfileBins; ++bin) {
      const double share = profile_[head * kProfileBins + bin];
      const double distance = (static_cast<double>(bin) + 0.5) / kProfileBins;
      mass += share;
      first_moment += share * distance;
      second_moment += share * distance * distance;
      difference += difference_[head * kProfileBins + bin] / kProfileBins;
      reading.profile[head * kProfileBins + bin] = static_cast<float>(share / weight);
    }
    const double mean = first_moment / mass;
    reading.mean[head] = static_cast<float>(mean);
    reading.deviation[head] =
        static_cast<float>(std::sqrt(std::max(second_moment / mass - mean * mean, 0.0)));
    reading.difference[head] = static_cast<float>(difference / weight);
    reading.divergence[head] =
        JensenShannon(ProfileOf(reading.profile, head), ProfileOf(baseline_.profile, head));
    differences += difference / weight;
    ++active;
  }
  reading.imbalance = active > 0 ? differences / static_cast<double>(active) : 0;

  start_step_ = reading.last_step;
  start_compute_ = reading.end_compute;
  Clear();
  return reading;
}

}  // namespace attune
