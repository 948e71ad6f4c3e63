#include "experiments/reference_clock.h"

#include <algorithm>
#include <ctime>
#include <stdexcept>
#include <vector>

namespace attune {
namespace {

constexpr double kStepSeconds = 1.0 / 390;  // of a reference second
constexpr double kBetween = 0.1;            // processor seconds from one timing to the next
constexpr std::size_t kKept = 9;            // timings, of which the median counts
constexpr int kAtFirst = 3;
constexpr ModelOptions kModel = {
    .vocabulary = 64, .context = 48, .width = 48, .heads = 4, .layers = 1};
constexpr std::int64_t kBatch = 4;

}  // namespace

double ProcessorSeconds() {
  timespec time{};
  if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time) != 0) {
    throw std::runtime_error("the processor's time cannot be read");
  }
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

ReferenceClock::ReferenceClock()
    : model_(kModel),
      inputs_(torch::arange(kBatch * kModel.context)
                  .remainder(kModel.vocabulary)
                  .view({kBatch, kModel.context})),
      targets_(inputs_.roll(-1, 1)) {
  for (int i = 0; i < kAtFirst; ++i) TimeStep();
  until_ = timed_at_;
}

double ReferenceClock::Seconds() {
  const double now = ProcessorSeconds();
  seconds_ += (now - until_) * speed_;
  until_ = now;
  if (now - timed_at_ >= kBetween) {
    TimeStep();
    until_ = timed_at_;
  }
  return seconds_;
}

void ReferenceClock::TimeStep() {
  // The first one brings what it needs into the caches.
  double seconds = 0;
  for (int i = 0; i < 2; ++i) {
    const double start = ProcessorSeconds();
    torch::nn::functional::cross_entropy(model_->forward(inputs_).flatten(0, 1), targets_.flatten())
        .backward();
    model_->zero_grad();
    timed_at_ = ProcessorSeconds();
    seconds = timed_at_ - start;
  }
  timed_.push_back(seconds);
  if (timed_.size() > kKept) timed_.pop_front();
  std::vector<double> sorted(timed_.begin(), timed_.end());
  const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2);
  std::nth_element(sorted.begin(), middle, sorted.end());
  speed_ = kStepSeconds / *middle;
}

}  // namespace attune
