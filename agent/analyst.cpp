#include "agent/analyst.h"

#include <spdlog/spdlog.h>
#include <sys/resource.h>

#include <chrono>
#include <utility>
#include <vector>

namespace attune {
namespace {

// It gives way to training, and rests this many times as long as it looked.
constexpr int kNiceness = 10;
constexpr int kRest = 19;

}  // namespace

AnomaliesRecord AnomaliesOf(const Store& store, std::uint64_t job) {
  const auto record = store.FindJob(job);
  if (!record) return {job, {}};
  std::vector<WindowReading> windows;
  for (ObservationRecord& window : store.Observations(job)) {
    windows.push_back(std::move(window.reading));
  }
  AnomalyOptions options;
  options.seed = record->spec.seed;
  return {job, FindAnomalies(windows, record->spec.topology.SiteOffsets(), options)};
}

Analyst::Analyst(const std::filesystem::path& store, Writer& writer)
    : store_(store, Store::Mode::kReadOnly), writer_(writer), thread_(&Analyst::Run, this) {}

Analyst::~Analyst() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void Analyst::Look(std::uint64_t job) {
  {
    const std::lock_guard lock(mutex_);
    jobs_.insert(job);
  }
  wake_.notify_one();
}

void Analyst::Run() {
  using Clock = std::chrono::steady_clock;
  setpriority(PRIO_PROCESS, 0, kNiceness);  // of this thread alone (setpriority(2), Linux)
  std::unique_lock lock(mutex_);
  std::uint64_t last = 0;
  while (true) {
    wake_.wait(lock, [this] { return ending_ || !jobs_.empty(); });
    if (jobs_.empty()) return;
    const auto start = Clock::now();
    // In turn: the first ones are soon back in the set.
    auto next = jobs_.upper_bound(last);
    if (next == jobs_.end()) next = jobs_.begin();
    const std::uint64_t job = last = jobs_.extract(next).value();
    lock.unlock();
    try {
      writer_.Post(AnomaliesOf(store_, job));
    } catch (const std::exception& error) {
      spdlog::error("job {}: looking for anomalies failed: {}", job, error.what());
    }
    lock.lock();
    wake_.wait_for(lock, kRest * (Clock::now() - start), [this] { return ending_; });
  }
}

}  // namespace attune
