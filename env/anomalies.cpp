// Finding the heads that attend abnormally, by k-means over the heads' windows.
#include "env/anomalies.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <stdexcept>
#include <tuple>

#include "env/kmeans.h"

namespace attune {
namespace {

// A head is saturated when nearly all of its weight lies on single keys: a spread over a 7th of the
// keys' logarithm (entropy / log n) and seven tenths on the top key. Sinks are let off.
constexpr double kSaturatedEntropy = 0.15;
constexpr double kSaturatedTopWeight = 0.7;
// A head is diffuse when its entropy is within 2% of uniform attention while the window's median
// head has left that by a tenth; early in training all heads are uniform, which is no fault.
constexpr double kDiffuseEntropy = 0.98;
constexpr double kLeftUniform = 0.9;
// A head is dormant when its output is a tenth of its site's mean.
constexpr double kDormantNorm = 0.1;
// A head drifts when its divergence (nats) lies four robust deviations above the window's median
// head, and above a tenth at all.
constexpr double kDriftDeviations = 4;
constexpr double kLeastDrift = 0.1;
// A member this many robust deviations from its cluster's centre is no part of it: it is judged
// alone.
constexpr double kLoneDistance = 2;
// Features are cut to this many robust deviations, so that one wild head does not take every
// cluster for itself.
constexpr double kLargestDeviation = 8;
// The median absolute deviation of a normal distribution, times this, is its standard deviation.
constexpr double kNormalScale = 1.4826;
// Added to shares and norms under a logarithm.
constexpr double kLeastShare = 0.01;

// What a head is judged by, in the units of the meter.
enum Feature : std::size_t {
  kFeatureEntropy,
  kFeatureLargestLogit,
  kFeatureTopWeight,
  kFeatureOutputNorm,
  kFeatureDivergence,
  kFeatureFirstTokenMass,
  kFeatures
};
using Features = std::array<double, kFeatures>;
// Robust deviations are at least these, after Stretched: where most heads agree to the last digit,
// smaller differences are still none.
constexpr Features kLeastDeviation = {0.1, 0.02, 0.1, 0.1, 0.01, 0.1};

struct Sample {
  std::size_t window;
  std::size_t head;
  Features features;
};

// What one window's heads are measured against.
struct Limits {
  double median_entropy;
  double drift;  // divergence above which a head drifts
};

struct Spread {
  double median;
  double deviation;  // robust standard deviation, at least the floor
};

// Half of the values lie below the median; of an even number the mean of the middle two.
double Median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<long>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

Spread SpreadOf(std::vector<double> values, double floor) {
  const double median = Median(values);
  for (double& value : values) value = std::abs(value - median);
  return {.median = median, .deviation = std::max(kNormalScale * Median(std::move(values)), floor)};
}

std::vector<double> Column(std::span<const Sample> samples, Feature feature) {
  std::vector<double> column;
  column.reserve(samples.size());
  for (const Sample& sample : samples) column.push_back(sample.features[feature]);
  return column;
}

Features FeaturesOf(const WindowReading& window, std::size_t head) {
  return {window.At(head, Metric::kEntropy),
          window.At(head, Metric::kLargestLogit),
          window.At(head, Metric::kTopWeight),
          window.At(head, Metric::kOutputNorm),
          window.divergence[head],
          window.At(head, Metric::kFirstTokenMass)};
}

Limits LimitsOf(std::span<const Sample> window) {
  const Spread drift =
      SpreadOf(Column(window, kFeatureDivergence), kLeastDeviation[kFeatureDivergence]);
  return {.median_entropy = Median(Column(window, kFeatureEntropy)),
          .drift = std::max(drift.median + kDriftDeviations * drift.deviation, kLeastDrift)};
}

// How far the features lie beyond the kind's threshold, in its units; 0 or less: they do not.
double Excess(AnomalyKind kind, const Features& features, const Limits& limits) {
  switch (kind) {
    case AnomalyKind::kSaturated:
      if (features[kFeatureTopWeight] <= kSaturatedTopWeight ||
          features[kFeatureFirstTokenMass] >= kSinkFirstTokenMass) {
        return 0;
      }
      return kSaturatedEntropy - features[kFeatureEntropy];
    case AnomalyKind::kDiffuse:
      if (limits.median_entropy >= kLeftUniform) return 0;
      return features[kFeatureEntropy] - kDiffuseEntropy;
    case AnomalyKind::kDormant:
      return kDormantNorm - features[kFeatureOutputNorm];
    case AnomalyKind::kDrifting:
      return features[kFeatureDivergence] - limits.drift;
  }
  return 0;
}

// Log odds of a share: 0.6 and 0.8 are near each other, 0.98 is far from both.
double LogOdds(double share) {
  const double bounded = std::clamp(share, 0.0, 1.0);
  return std::log((bounded + kLeastShare) / (1 - bounded + kLeastShare));
}

// Features on scales on which the distance between heads means the same everywhere.
Features Stretched(const Features& features) {
  return {
      LogOdds(features[kFeatureEntropy]),   std::tanh(features[kFeatureLargestLogit] / 20),
      LogOdds(features[kFeatureTopWeight]), std::log(features[kFeatureOutputNorm] + kLeastShare),
      features[kFeatureDivergence],         LogOdds(features[kFeatureFirstTokenMass])};
}

// The samples, stretched and scaled by the job's own median and deviation, [samples × kFeatures].
std::vector<float> Scaled(std::span<const Sample> samples) {
  std::array<std::vector<double>, kFeatures> stretched;
  for (auto& column : stretched) column.reserve(samples.size());
  for (const Sample& sample : samples) {
    const Features features = Stretched(sample.features);
    for (std::size_t f = 0; f < kFeatures; ++f) stretched[f].push_back(features[f]);
  }
  std::vector<float> scaled(samples.size() * kFeatures);
  for (std::size_t f = 0; f < kFeatures; ++f) {
    const Spread spread = SpreadOf(stretched[f], kLeastDeviation[f]);
    for (std::size_t i = 0; i < samples.size(); ++i) {
      const double deviations = (stretched[f][i] - spread.median) / spread.deviation;
      scaled[i * kFeatures + f] =
          static_cast<float>(std::clamp(deviations, -kLargestDeviation, kLargestDeviation));
    }
  }
  return scaled;
}

// What each sample's cluster looks like in raw units: the mean of the members, or, far from its
// centre, the sample itself.
std::vector<Features> Companies(std::span<const Sample> samples, const AnomalyOptions& options) {
  const std::vector<float> scaled = Scaled(samples);
  const Clusters clusters =
      KMeans(scaled, kFeatures, options.clusters, options.restarts, options.seed);
  std::vector<Features> means(clusters.count, Features{});
  std::vector<double> members(clusters.count, 0);
  for (std::size_t i = 0; i < samples.size(); ++i) {
    const std::uint32_t cluster = clusters.assignment[i];
    for (std::size_t f = 0; f < kFeatures; ++f) means[cluster][f] += samples[i].features[f];
    ++members[cluster];
  }
  std::vector<Features> companies;
  companies.reserve(samples.size());
  for (std::size_t i = 0; i < samples.size(); ++i) {
    const std::uint32_t cluster = clusters.assignment[i];
    double distance = 0;
    Features company = means[cluster];
    for (std::size_t f = 0; f < kFeatures; ++f) {
      const double difference =
          double{scaled[i * kFeatures + f]} - clusters.centers[cluster * kFeatures + f];
      distance += difference * difference;
      company[f] /= members[cluster];
    }
    const bool lone = distance > kLoneDistance * kLoneDistance;
    companies.push_back(lone ? samples[i].features : company);
  }
  return companies;
}

struct Flag {
  std::size_t head;
  AnomalyKind kind;
  std::size_t window;
  double excess;
};

std::vector<Sample> SamplesOf(std::span<const WindowReading> windows, std::size_t heads) {
  std::vector<Sample> samples;
  samples.reserve(windows.size() * heads);
  for (std::size_t w = 0; w < windows.size(); ++w) {
    const WindowReading& window = windows[w];
    if (window.active.size() != heads || window.metrics.size() != heads * kMetrics ||
        window.divergence.size() != heads) {
      throw std::invalid_argument("anomalies: a window's sizes are not the topology's heads");
    }
    for (std::size_t head = 0; head < heads; ++head) {
      if (window.active[head] == 0) continue;
      samples.push_back({.window = w, .head = head, .features = FeaturesOf(window, head)});
    }
  }
  return samples;
}

std::vector<Flag> FlagsOf(std::span<const Sample> samples, const AnomalyOptions& options) {
  const std::vector<Features> companies = Companies(samples, options);
  std::vector<Flag> flags;
  for (std::size_t begin = 0; begin < samples.size();) {
    std::size_t end = begin;
    while (end < samples.size() && samples[end].window == samples[begin].window) ++end;
    const Limits limits = LimitsOf(samples.subspan(begin, end - begin));
    for (; begin < end; ++begin) {
      const Sample& sample = samples[begin];
      for (std::size_t k = 0; k < kAnomalyKinds; ++k) {
        const auto kind = static_cast<AnomalyKind>(k);
        const double excess = Excess(kind, sample.features, limits);
        if (excess <= 0 || Excess(kind, companies[begin], limits) <= 0) continue;
        flags.push_back(
            {.head = sample.head, .kind = kind, .window = sample.window, .excess = excess});
      }
    }
  }
  return flags;
}

}  // namespace

std::string_view Name(AnomalyKind kind) {
  switch (kind) {
    case AnomalyKind::kSaturated:
      return "saturated";
    case AnomalyKind::kDiffuse:
      return "diffuse";
    case AnomalyKind::kDormant:
      return "dormant";
    case AnomalyKind::kDrifting:
      return "drifting";
  }
  return "unknown";
}

std::vector<Anomaly> FindAnomalies(std::span<const WindowReading> windows,
                                   std::span<const std::uint32_t> site_offsets,
                                   const AnomalyOptions& options) {
  if (site_offsets.empty()) throw std::invalid_argument("anomalies: there are no site offsets");
  const std::vector<Sample> samples = SamplesOf(windows, site_offsets.back());
  if (samples.empty()) return {};
  std::vector<Flag> flags = FlagsOf(samples, options);
  std::sort(flags.begin(), flags.end(), [](const Flag& a, const Flag& b) {
    return std::tie(a.head, a.kind, a.window) < std::tie(b.head, b.kind, b.window);
  });

  std::vector<Anomaly> anomalies;
  for (std::size_t begin = 0; begin < flags.size();) {
    const Flag& first = flags[begin];
    double severity = first.excess;
    std::size_t end = begin + 1;
    while (end < flags.size() && flags[end].head == first.head && flags[end].kind == first.kind &&
           flags[end].window - flags[end - 1].window <= options.bridged_windows + 1 &&
           // A job that was started anew from a checkpoint goes back: another stretch.
           windows[flags[end].window].last_step > windows[flags[end - 1].window].last_step) {
      severity = std::max(severity, flags[end++].excess);
    }
    if (end - begin >= options.least_windows) {
      const auto next = std::upper_bound(site_offsets.begin(), site_offsets.end(), first.head);
      const auto site = static_cast<std::uint32_t>(next - site_offsets.begin() - 1);
      anomalies.push_back({.site = site,
                           .head = static_cast<std::uint32_t>(first.head) - site_offsets[site],
                           .first_step = windows[first.window].first_step,
                           .last_step = windows[flags[end - 1].window].last_step,
                           .severity = static_cast<float>(severity),
                           .kind = first.kind});
    }
    begin = end;
  }
  std::stable_sort(anomalies.begin(), anomalies.end(), [](const Anomaly& a, const Anomaly& b) {
    return std::tie(a.site, a.head, a.first_step) < std::tie(b.site, b.head, b.first_step);
  });
  return anomalies;
}

std::vector<float> ClusteredFeatures(std::span<const WindowReading> windows, std::size_t heads) {
  const std::vector<Sample> samples = SamplesOf(windows, heads);
  return samples.empty() ? std::vector<float>() : Scaled(samples);
}

}  // namespace attune
