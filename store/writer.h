// The one thread that writes the store.
//
// Callers post records and go on; the thread takes everything that waits and commits it as one
// transaction. `committed` then runs on the writer's thread with the highest ticket on disk, which
// is how the daemon knows that a trial's action may leave. Another thread copies the write-ahead
// log into the database beside it: a commit that did so would wait for the disk.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "store/store.h"

namespace attune {

struct AnomaliesRecord {
  std::uint64_t job = 0;
  std::vector<Anomaly> anomalies;
};
struct AcknowledgementRecord {
  std::uint64_t trial = 0;
  Acknowledgement acknowledgement;
};
struct RewardRecord {
  std::uint64_t trial = 0;
  double reward = 0;
};
struct WhyRecord {
  std::uint64_t trial = 0;
  std::string why;
};

using Record = std::variant<JobRecord, Trial, ObservationRecord, PolicyRecord, AnomaliesRecord,
                            AcknowledgementRecord, RewardRecord, WhyRecord>;

class Writer {
 public:
  // `committed(ticket)` and `failed(message)` run on the writer's thread and must neither block nor
  // throw. After a failed transaction (disk full, say) its records are kept and tried again every
  // second, so nothing is lost while the daemon lives. A record that can never be written
  // (RecordError) is left out and reported by `failed` before the others' `committed`.
  // Throws StoreError where the store cannot be opened once more.
  Writer(Store store, std::function<void(std::uint64_t)> committed,
         std::function<void(const std::string&)> failed);
  // Commits what waits, then ends the thread. Another program that holds the store's lock is waited
  // for, 50 s in all. What cannot be written even then is reported, and lost.
  ~Writer();
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  // Thread safe; never blocks on the disk. Tickets count up from 1.
  std::uint64_t Post(Record record);
  // These are committed together. Returns the ticket of the last; 0 if there is none.
  std::uint64_t Post(std::vector<Record> records);
  // Waits until everything posted so far is committed and `committed` has returned, then true;
  // false as soon as an attempt to write fails meanwhile (the records stay and are tried again).
  // Records waiting to be tried again are tried at once. Thread safe; not from the callbacks.
  // `most`: false also when this has passed, while another program holds the store's lock, say.
  [[nodiscard]] bool Flush(std::optional<std::chrono::milliseconds> most = std::nullopt);

 private:
  struct Queue;
  std::unique_ptr<Queue> queue_;
};

}  // namespace attune
