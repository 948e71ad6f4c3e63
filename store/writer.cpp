// The writer's thread and the queue in front of it.
#include "store/writer.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <iterator>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

namespace attune {
namespace {

constexpr std::chrono::seconds kRetryInterval{1};
constexpr int kLastTries = 10;          // to write what waits at the end
constexpr std::size_t kLongLog = 4000;  // pages; what many commits write anew is copied once
constexpr std::size_t kLongestLog = 16 * 1000;  // that commits wait for

struct PutInto {
  Store& store;

  void operator()(const AnomaliesRecord& record) const {
    store.PutAnomalies(record.job, record.anomalies);
  }
  void operator()(const AcknowledgementRecord& record) const {
    store.SetAcknowledgement(record.trial, record.acknowledgement);
  }
  void operator()(const RewardRecord& record) const {
    store.SetReward(record.trial, record.reward);
  }
  void operator()(const WhyRecord& record) const { store.SetWhy(record.trial, record.why); }
  template <class T>
  void operator()(const T& record) const {
    store.Put(record);
  }
};

// On a full disk the log keeps what it has: the next commit fails, or asks again.
void CopyLog(Store& connection) {
  try {
    connection.Checkpoint();
  } catch (const StoreError&) {
  }
}

}  // namespace

struct Writer::Queue {
  Queue(Store store_to_write, std::function<void(std::uint64_t)> when_committed,
        std::function<void(const std::string&)> when_failed)
      : store(std::move(store_to_write)),
        copier(store.Path(), Store::Mode::kReadWrite),
        committed(std::move(when_committed)),
        failed(std::move(when_failed)) {}

  void Run();
  void RunCopies();
  // Writes the batch as one transaction, without the records that can never be written, which
  // leave the batch. Returns what went wrong, if something did; then nothing of it is on disk.
  std::optional<std::string> Write(std::vector<Record>& batch);

  Store store;   // of the writer's thread
  Store copier;  // of the thread that copies the log
  std::function<void(std::uint64_t)> committed;
  std::function<void(const std::string&)> failed;

  std::mutex mutex;                 // guards what follows
  std::condition_variable wake;     // for the thread: something to do
  std::condition_variable written;  // for Flush: an attempt is over
  std::vector<Record> waiting;
  std::uint64_t posted_ticket = 0;     // the last that was given out
  std::uint64_t committed_ticket = 0;  // the last on disk
  std::uint64_t failures = 0;          // of attempts to write
  bool hurry = false;                  // do not wait before the next attempt
  bool ending = false;
  std::condition_variable log_is_long;  // for the copying thread
  bool copy = false;                    // the log is to be copied
  bool written_out = false;             // no commit follows any more

  std::thread thread;
  std::thread copying;
};

void Writer::Queue::Run() {
  std::vector<Record> batch;
  bool again = false;  // the last attempt failed
  int last_tries = 0;
  std::unique_lock lock(mutex);
  while (true) {
    if (again) {
      wake.wait_for(lock, kRetryInterval, [this] { return ending || hurry; });
    } else {
      wake.wait(lock, [this] { return ending || posted_ticket > committed_ticket; });
    }
    const std::uint64_t ticket = posted_ticket;
    if (ticket == committed_ticket) return;  // ending, and all is written
    const bool last_try = ending;
    hurry = false;
    std::move(waiting.begin(), waiting.end(), std::back_inserter(batch));
    waiting.clear();

    lock.unlock();
    const std::optional<std::string> failure = Write(batch);
    if (failure) {
      failed(*failure);
    } else {
      batch.clear();
      committed(ticket);
      // Commits without a pause never find all of the log copied, and begin it anew.
      if (store.LogPages() >= kLongestLog) CopyLog(store);
    }
    lock.lock();

    again = failure.has_value();
    if (again) {
      ++failures;
    } else {
      committed_ticket = ticket;
      if (store.LogPages() >= kLongLog) {
        copy = true;
        log_is_long.notify_one();
      }
    }
    written.notify_all();
    // Another program that holds the lock is waited for at each of them, a full disk at none.
    if (again && last_try && ++last_tries == kLastTries) return;
  }
}

void Writer::Queue::RunCopies() {
  std::unique_lock lock(mutex);
  while (true) {
    log_is_long.wait(lock, [this] { return written_out || copy; });
    if (written_out) return;  // the last connection copies what is left when it is closed
    copy = false;
    lock.unlock();
    CopyLog(copier);
    lock.lock();
  }
}

std::optional<std::string> Writer::Queue::Write(std::vector<Record>& batch) {
  try {
    store.Begin();
    for (auto record = batch.begin(); record != batch.end();) {
      try {
        std::visit(PutInto{store}, *record);
        ++record;
      } catch (const RecordError& error) {
        failed(error.what());
        record = batch.erase(record);
      }
    }
    store.Commit();
    return std::nullopt;
  } catch (const std::exception& error) {
    store.Rollback();
    return error.what();
  }
}

Writer::Writer(Store store, std::function<void(std::uint64_t)> committed,
               std::function<void(const std::string&)> failed)
    : queue_(std::make_unique<Queue>(std::move(store), std::move(committed), std::move(failed))) {
  queue_->store.LeaveCheckpoints();
  queue_->thread = std::thread(&Queue::Run, queue_.get());
  queue_->copying = std::thread(&Queue::RunCopies, queue_.get());
}

Writer::~Writer() {
  {
    const std::lock_guard lock(queue_->mutex);
    queue_->ending = true;
  }
  queue_->wake.notify_one();
  queue_->thread.join();
  {
    const std::lock_guard lock(queue_->mutex);
    queue_->written_out = true;
  }
  queue_->log_is_long.notify_one();
  queue_->copying.join();
}

std::uint64_t Writer::Post(Record record) {
  std::vector<Record> records;
  records.push_back(std::move(record));
  return Post(std::move(records));
}

std::uint64_t Writer::Post(std::vector<Record> records) {
  if (records.empty()) return 0;
  std::uint64_t ticket = 0;
  {
    const std::lock_guard lock(queue_->mutex);
    std::ranges::move(records, std::back_inserter(queue_->waiting));
    ticket = queue_->posted_ticket += records.size();
  }
  queue_->wake.notify_one();
  return ticket;
}

bool Writer::Flush(std::optional<std::chrono::milliseconds> most) {
  std::unique_lock lock(queue_->mutex);
  const std::uint64_t ticket = queue_->posted_ticket;
  const std::uint64_t failures = queue_->failures;
  queue_->hurry = true;
  queue_->wake.notify_one();
  const auto over = [this, ticket, failures] {
    return queue_->committed_ticket >= ticket || queue_->failures != failures;
  };
  if (most) {
    queue_->written.wait_for(lock, *most, over);
  } else {
    queue_->written.wait(lock, over);
  }
  return queue_->committed_ticket >= ticket;
}

}  // namespace attune
