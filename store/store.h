// The history of every job and trial: one SQLite file (schema in migrations/).
//
// WAL, synchronous=NORMAL, foreign keys on. One Store is one connection, used by one thread at a
// time; the daemon has exactly one that writes (writer.h), readers open their own with kReadOnly.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "env/anomalies.h"
#include "env/job.h"
#include "env/meter.h"
#include "env/trial.h"

namespace attune {

// A failure of the store; what() names the file, what failed and what to do. Thrown by all calls.
class StoreError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The file is damaged, or no store at all.
class DamagedError : public StoreError {
 public:
  using StoreError::StoreError;
};

// A record that can never be written as it is: its job or trial is not in the store, a number is
// NaN, or its arrays do not fit together. The store is as it was before the call.
class RecordError : public StoreError {
 public:
  using StoreError::StoreError;
};

struct JobRecord {
  std::uint64_t id = 0;
  JobSpec spec;
  double started = 0;  // Unix time, seconds
  double ended = 0;    // 0 while it runs
  Outcome outcome = Outcome::kRunning;
  std::uint64_t steps = 0;
  double compute_seconds = 0;
  std::optional<double> loss;             // last smoothed training loss
  std::optional<double> validation_loss;  // as the trainer reported it
  std::uint64_t trials = 0;               // counted from the trials; ignored by Put
};

// A window's reading, thinned from the observations: what the heat maps and recorded baselines
// need.
struct ObservationRecord {
  std::uint64_t job = 0;
  std::uint32_t window = 0;
  WindowReading reading;
};

struct PolicyRecord {
  std::string name;
  std::uint64_t version = 0;
  double created = 0;        // Unix time, seconds
  std::string path;          // of the checkpoint; empty for rules
  std::uint64_t trials = 0;  // learned from
  std::string provenance;    // one line: data, seed, agreement, loss
};

// A trial as a table shows it, without the tensors.
struct TrialRow {
  std::uint64_t id = 0;
  std::uint64_t job = 0;
  std::uint32_t window = 0;
  std::uint64_t step = 0;
  double created = 0;  // Unix time, seconds
  double loss = 0;
  double imbalance = 0;
  std::uint32_t active_heads = 0;  // of the trial's setting
  std::string decider;
  std::string why;
  AckStatus status = AckStatus::kNone;
  std::uint64_t ack_step = 0;
  std::string ack_why;
  std::optional<double> reward;
};

class Store {
 public:
  enum class Mode { kReadOnly, kReadWrite };

  // Creates the file (kReadWrite; its folder must exist) or refuses (kReadOnly) if it is not there;
  // brings an older schema up to date (kReadWrite); refuses a newer one, naming both versions, and
  // a file that is not attune's, which it leaves as it is. Readers may open a store that is being
  // written.
  Store(const std::filesystem::path& path, Mode mode);
  // An open transaction is rolled back.
  ~Store();
  Store(Store&&) noexcept;
  Store& operator=(Store&&) noexcept;

  // As it was given.
  [[nodiscard]] const std::string& Path() const;

  // Between Begin and Commit nothing is on disk; without them every call is a transaction of its
  // own. Begin waits up to 5 s for another writer, then throws. Rollback without Begin does
  // nothing.
  void Begin();
  void Commit();
  void Rollback() noexcept;

  // SQLite's own checkpoints let one commit in some hundred wait for the disk. From now on this
  // connection's make none: the caller does, when the log is long, perhaps by another connection.
  void LeaveCheckpoints();
  // Pages in the log after the last commit since then.
  [[nodiscard]] std::size_t LogPages() const;
  // Copies the log into the database, but for what readers still need of it. Waits for nobody;
  // while another connection does the same it does nothing. Commits go on meanwhile.
  void Checkpoint();

  // Inserts, or replaces what has the same id (jobs, trials) or (job, window) or (name, version). A
  // job keeps its introduction, trials, windows and anomalies, a trial the time at which it was
  // first put. All but policies need their job in the store; RecordError where a record cannot be
  // written.
  void Put(const JobRecord& job);
  void Put(const Trial& trial);
  void Put(const ObservationRecord& observation);
  void Put(const PolicyRecord& policy);
  // Replaces all anomalies of the job.
  void PutAnomalies(std::uint64_t job, std::span<const Anomaly> anomalies);
  // What became of a trial's action; the window that followed; a longer reason than was known when
  // it was put. RecordError for an unknown trial.
  void SetAcknowledgement(std::uint64_t trial, const Acknowledgement& acknowledgement);
  void SetReward(std::uint64_t trial, double reward);
  void SetWhy(std::uint64_t trial, std::string_view why);
  // Marks running jobs as lost and ended at `now` (Unix time, seconds): what a daemon finds at its
  // start was left by one that died.
  void MarkRunningLost(double now);

  [[nodiscard]] std::uint64_t LastJobId() const;    // 0 when there is none
  [[nodiscard]] std::uint64_t LastTrialId() const;  // 0 when there is none

  // Newest first; at most `limit`.
  [[nodiscard]] std::vector<JobRecord> Jobs(std::size_t limit) const;
  [[nodiscard]] std::optional<JobRecord> FindJob(std::uint64_t id) const;
  // The newest job that goes by the key.
  [[nodiscard]] std::optional<JobRecord> FindJobByKey(std::string_view key) const;
  // Newest first, of one job or of all (0); at most `limit`.
  [[nodiscard]] std::vector<TrialRow> Trials(std::uint64_t job, std::size_t limit) const;
  [[nodiscard]] std::optional<Trial> FindTrial(std::uint64_t id) const;
  // Oldest first.
  [[nodiscard]] std::vector<ObservationRecord> Observations(std::uint64_t job) const;
  // As they were put.
  [[nodiscard]] std::vector<Anomaly> Anomalies(std::uint64_t job) const;
  [[nodiscard]] std::vector<PolicyRecord> Policies() const;  // newest first
  // All of one job, oldest first, with their tensors.
  [[nodiscard]] std::vector<Trial> JobTrials(std::uint64_t job) const;
  // Those of which an action of a policy and its reward are known, with id > after, oldest first.
  [[nodiscard]] std::vector<Trial> CompleteTrials(std::uint64_t after, std::size_t limit) const;

 private:
  struct Connection;
  std::unique_ptr<Connection> connection_;
};

}  // namespace attune
