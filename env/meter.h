// The attention balance meter: from the observations of one window to one reading.
//
// The formula: a head's profile a is compared with its baseline b bin by bin,
//   d_k = (a_k − b_k) / b_k,
// a head's difference is the mean of |d_k| over its bins, and the job's imbalance the mean of the
// active heads' differences; over a window's steps both are sums weighted by the compute that each
// observation stands for (the time since the one before it). A head's weights are those of the
// observations in which it was active. Not thread safe; no I/O.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "env/baseline.h"
#include "env/observation.h"

namespace attune {

// What a window showed. Arrays are per head; heads that were inactive at its end hold zeros.
struct WindowReading {
  std::uint64_t first_step = 0;  // the one after the last step of the window before
  std::uint64_t last_step = 0;   // of its last observation
  std::size_t observations = 0;
  double start_compute = 0;  // compute_seconds of the job when the window began; in a job's first
                             // window without what the process took to start up in its first step
  double end_compute = 0;    // ... and at its last observation
  double loss = 0;           // smoothed loss at the end: mean over the window's second half
  double loss_noise = 0;     // standard error of that mean
  double attention_share = 0;
  double imbalance = 0;              // 0: balanced
  std::vector<std::uint8_t> active;  // [heads], at the window's end
  std::vector<float> metrics;        // [heads × kMetrics], weighted means
  std::vector<float> profile;        // [heads × kProfileBins], weighted mean
  std::vector<float> mean;           // [heads] mean relative distance of the profile, [0, 1]
  std::vector<float> deviation;      // [heads] standard deviation of the relative distance
  std::vector<float> difference;     // [heads] mean over bins of |a − b| / b
  std::vector<float> divergence;     // [heads] Jensen–Shannon, mean profile to b, [0, log 2]

  [[nodiscard]] float At(std::size_t head, Metric metric) const {
    return metrics[head * kMetrics + static_cast<std::size_t>(metric)];
  }
};

// What stands for a reading before a job's first step, when nothing has been measured: nothing in
// it gives a reason to act, and there is no loss, share or imbalance (0).
[[nodiscard]] WindowReading Unmeasured(std::span<const std::uint8_t> active);

class Meter {
 public:
  // `start_step` and `start_compute` say where the job stands: 0 for one watched from its start.
  // Throws std::invalid_argument if a bin of the baseline is not above 0.
  explicit Meter(Baseline baseline, std::uint64_t start_step = 0, double start_compute = 0);

  // Takes an observation that FindFault had nothing to say about. Throws std::invalid_argument if
  // its heads are not the baseline's.
  void Add(const Observation& observation);

  [[nodiscard]] bool Empty() const { return losses_.empty(); }
  [[nodiscard]] const Baseline& Base() const { return baseline_; }
  // What observations from now on are compared with. Throws as the constructor does.
  void SetBaseline(Baseline baseline);

  // The reading of all observations since the last call; throws std::logic_error if there is none.
  // O(observations + heads).
  [[nodiscard]] WindowReading Close();

 private:
  void Clear();
  void LeaveOutStartUp(const Observation& second);

  Baseline baseline_;
  std::vector<float> inverse_baseline_;  // [heads × kProfileBins]
  std::uint64_t start_step_;             // last step of the window before
  double start_compute_;

  // Of the observations since then; sums are weighted.
  std::uint64_t first_step_ = 0, last_step_ = 0;
  double last_compute_ = 0;
  std::vector<std::uint8_t> active_;  // [heads], in the last one
  std::vector<double> losses_;        // [observations]
  double total_weight_ = 0, attention_ = 0;
  std::vector<float> weight_;      // [heads]
  std::vector<float> metrics_;     // [heads × kMetrics]
  std::vector<float> profile_;     // [heads × kProfileBins]
  std::vector<float> difference_;  // [heads × kProfileBins]
};

// JS(a, b) = ½ KL(a, m) + ½ KL(b, m), m = (a + b) / 2, natural logarithm; at most log 2. Of
// profiles of kProfileBins shares.
[[nodiscard]] float JensenShannon(std::span<const float> a, std::span<const float> b);

}  // namespace attune
