// Who looks for anomalies: a thread beside the daemon's, since k-means over all windows of a long
// job takes longer than a trainer should wait for its action.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <filesystem>
#include <mutex>
#include <set>
#include <thread>

#include "store/store.h"
#include "store/writer.h"

namespace attune {

// The anomalies in the windows that the store has of a job. Throws StoreError.
[[nodiscard]] AnomaliesRecord AnomaliesOf(const Store& store, std::uint64_t job);

class Analyst {
 public:
  // Reads what `writer` writes. Throws StoreError.
  Analyst(const std::filesystem::path& store, Writer& writer);
  // Looks once more at every job that has windows not looked at.
  ~Analyst();
  Analyst(const Analyst&) = delete;
  Analyst& operator=(const Analyst&) = delete;

  // A window of the job is in the store. Its anomalies are posted in time; of several windows that
  // come meanwhile only the last leads to a look. Thread safe, never waits.
  void Look(std::uint64_t job);

 private:
  void Run();

  Store store_;
  Writer& writer_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::set<std::uint64_t> jobs_;  // with windows to look at
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace attune
