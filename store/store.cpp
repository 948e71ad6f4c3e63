// The store's statements: what is written and read, column by column.
#include "store/store.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <utility>

#include "store/migrations.h"
#include "store/sqlite.h"

namespace attune {
namespace {

using sqlite::Cursor;
using sqlite::Database;

constexpr std::uint64_t kApplicationId = 0x6174746e;  // "attn", as in migrations/001.sql

double UnixTime() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// What a record of several rows is written in: all of it or nothing, also within a transaction.
class Savepoint {
 public:
  explicit Savepoint(Database& database) : database_(database) {
    database_.Script("SAVEPOINT record");
  }
  ~Savepoint() {
    if (released_) return;
    try {
      database_.Script("ROLLBACK TO record; RELEASE record");
    } catch (const StoreError&) {
      // SQLite has ended the whole transaction by itself, as after a full disk.
    }
  }
  Savepoint(const Savepoint&) = delete;
  Savepoint& operator=(const Savepoint&) = delete;

  void Release() {
    database_.Script("RELEASE record");
    released_ = true;
  }

 private:
  Database& database_;
  bool released_ = false;
};

// Opens the file and refuses what is not a store that this program can use.
Database OpenStore(const std::filesystem::path& path, Store::Mode mode) {
  const bool writes = mode == Store::Mode::kReadWrite;
  const std::string no_store =
      "no store at " + path.string() + " yet: start attuned or attune run first";
  if (std::filesystem::is_directory(path)) {
    throw StoreError(path.string() + " is a directory: give the file in it, such as attune.db");
  }
  if (!writes && !std::filesystem::exists(path)) throw StoreError(no_store);

  Database database(path,
                    writes ? SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE : SQLITE_OPEN_READONLY);
  database.Script("PRAGMA busy_timeout = 5000; PRAGMA foreign_keys = ON");
  const std::uint64_t application = database.Integer("PRAGMA application_id");
  const std::uint64_t version = database.Integer("PRAGMA user_version");
  const std::uint64_t newest = sqlite::Migrations().size();
  const bool fresh = application == 0 && version == 0 &&
                     database.Integer("SELECT count(*) FROM sqlite_schema") == 0;
  if (!fresh && application != kApplicationId) {
    throw StoreError(path.string() +
                     " is another program's database: give another path or move it away");
  }
  if (version > newest) {
    throw StoreError(path.string() + " has schema " + std::to_string(version) +
                     ", this attune knows schemas up to " + std::to_string(newest) +
                     ": upgrade attune");
  }
  if (!writes) {
    if (fresh) throw StoreError(no_store);
    if (version < newest) {
      throw StoreError(path.string() + " has schema " + std::to_string(version) +
                       ", this attune reads schema " + std::to_string(newest) +
                       ": start attuned once to bring it up to date");
    }
    return database;
  }
  // SQLite opens a file that it may not write for reading.
  if (database.ReadOnly()) database.Check(SQLITE_READONLY);
  // A trial's arrays take some 35 kB for 144 heads, and each page of the log two system calls.
  if (fresh) database.Script("PRAGMA page_size = 8192");
  std::string journal;
  {
    Cursor cursor = database.Select("PRAGMA journal_mode = WAL");
    if (cursor.Step()) cursor.Read(journal);
  }
  if (journal != "wal") {
    throw StoreError(path.string() + " cannot use WAL (journal mode is " + journal +
                     "): put it on a local disk");
  }
  database.Script("PRAGMA synchronous = NORMAL");
  if (version < newest) {
    // A table that goes would be written over with zeros, page by page through the log.
    database.Script("PRAGMA secure_delete = OFF");
    sqlite::Migrate(database, sqlite::Migrations());
  }
  return database;
}

// Tokens of a store that knew fewer features: those that have come since, at the end of each row,
// are 0.
void Widen(State& state) {
  const std::size_t heads = state.Heads();
  const std::size_t features = heads > 0 ? state.tokens.size() / heads : 0;
  if (features < kOldestTokenFeatures || features >= kTokenFeatures) return;
  if (state.tokens.size() != heads * features) return;
  std::vector<float> tokens(heads * kTokenFeatures);
  for (std::size_t head = 0; head < heads; ++head) {
    std::ranges::copy(std::span(state.tokens).subspan(head * features, features),
                      std::span(tokens).subspan(head * kTokenFeatures).begin());
  }
  state.tokens = std::move(tokens);
}

// What makes the trial useless to learn from, or nothing. Trials without an action are not learned
// from: a person may act before there is a state.
std::optional<std::string> FindFault(const Trial& trial) {
  if (!trial.action) return std::nullopt;
  const std::vector<std::uint32_t>& offsets = trial.state.site_offsets;
  if (offsets.size() < 2 || offsets.front() != 0 || !std::ranges::is_sorted(offsets)) {
    return "its site offsets do not count up from 0";
  }
  const std::size_t heads = trial.state.Heads();
  const std::size_t sites = trial.state.Sites();
  if (trial.state.tokens.size() != heads * kTokenFeatures) {
    return "its tokens are not " + std::to_string(heads) + " heads of " +
           std::to_string(kTokenFeatures) + " features";
  }
  if (trial.mask.scale.size() != heads || trial.mask.count.size() != sites) {
    return "its mask is of another size than its state";
  }
  if (trial.action->scale.size() != heads || trial.action->count.size() != sites ||
      trial.action->score.size() != heads) {
    return "its action is of another size than its state";
  }
  if (trial.setting.scale.size() != heads || trial.setting.gain.size() != heads ||
      trial.setting.active.size() != heads) {
    return "its setting is of another size than its state";
  }
  return std::nullopt;
}

// What makes the reading unusable, or nothing.
std::optional<std::string> FindFault(const WindowReading& reading) {
  const std::size_t heads = reading.active.size();
  if (reading.metrics.size() == heads * kMetrics &&
      reading.profile.size() == heads * kProfileBins && reading.mean.size() == heads &&
      reading.deviation.size() == heads && reading.difference.size() == heads &&
      reading.divergence.size() == heads) {
    return std::nullopt;
  }
  return "its arrays are not all of " + std::to_string(heads) + " heads";
}

std::string TrialName(const Trial& trial) { return "trial " + std::to_string(trial.id); }

std::string WindowName(const ObservationRecord& observation) {
  return "window " + std::to_string(observation.window) + " of job " +
         std::to_string(observation.job);
}

// The order of columns is that of the Read... functions. Trials are counted on trials_by_job.
constexpr std::string_view kSelectJob =
    "SELECT id, key, name, budget_kind, budget_amount, budget_price, seed, learning_rate, started,"
    " ended, outcome, steps, compute_seconds, loss, validation_loss, policy,"
    " optimizer, fresh, (SELECT count(*) FROM trials WHERE trials.job = jobs.id) FROM jobs ";
constexpr std::string_view kSelectTrialRow =
    "SELECT id, job, window, step, created, loss, imbalance, active_heads, decider, why,"
    " ack_status, ack_step, ack_why, reward FROM trials ";
constexpr std::string_view kSelectTrial =
    "SELECT id, job, window, step, loss, imbalance, decider, why, policy_version, log_probability,"
    " ack_status, ack_step, ack_why, reward, site_offsets, tokens, mask_scale, mask_count,"
    " action_scale, action_count, action_score, setting_scale, setting_gain, setting_active"
    " FROM trials JOIN trial_arrays ON trial = id ";
constexpr std::string_view kSelectObservation =
    "SELECT job, window, first_step, last_step, observations, start_compute, end_compute, loss,"
    " loss_noise, attention_share, imbalance, active, metrics, profile, mean, deviation,"
    " difference, divergence FROM windows ";

// SQLite's LIMIT is signed, and negative means none.
std::uint64_t Limit(std::size_t limit) {
  return std::min<std::uint64_t>(limit, std::numeric_limits<std::int64_t>::max());
}

JobRecord ReadJob(Database& database, const Cursor& cursor) {
  JobRecord job;
  JobSpec& spec = job.spec;
  cursor.Read(job.id, spec.key, spec.name, spec.budget.kind, spec.budget.amount, spec.budget.price,
              spec.seed, spec.learning_rate, job.started, job.ended, job.outcome, job.steps,
              job.compute_seconds, job.loss, job.validation_loss, spec.policy, spec.optimizer,
              spec.fresh, job.trials);
  Cursor sites = database.Select(
      "SELECT name, kind, causal, heads, head_width, context FROM sites WHERE job = ?"
      " ORDER BY position",
      job.id);
  while (sites.Step()) {
    Site& site = spec.topology.sites.emplace_back();
    sites.Read(site.name, site.kind, site.causal, site.heads, site.head_width, site.context);
  }
  return job;
}

Trial ReadTrial(const Database& database, const Cursor& cursor) {
  Trial trial;
  std::optional<std::vector<std::uint8_t>> action_scale;
  std::optional<std::vector<CountChange>> action_count;
  std::optional<std::vector<float>> action_score;
  cursor.Read(trial.id, trial.job, trial.window, trial.step, trial.loss, trial.imbalance,
              trial.decider, trial.why, trial.policy_version, trial.log_probability,
              trial.acknowledgement.status, trial.acknowledgement.step, trial.acknowledgement.why,
              trial.reward, trial.state.site_offsets, trial.state.tokens, trial.mask.scale,
              trial.mask.count, action_scale, action_count, action_score, trial.setting.scale,
              trial.setting.gain, trial.setting.active);
  if (action_scale && action_count && action_score) {
    trial.action =
        Action{std::move(*action_scale), std::move(*action_count), std::move(*action_score)};
  }
  if (!trial.state.site_offsets.empty()) Widen(trial.state);
  if (const auto fault = FindFault(trial)) {
    throw StoreError(database.Path() + ": cannot use " + TrialName(trial) + ": " + *fault);
  }
  return trial;
}

ObservationRecord ReadObservation(const Database& database, const Cursor& cursor) {
  ObservationRecord observation;
  WindowReading& reading = observation.reading;
  cursor.Read(observation.job, observation.window, reading.first_step, reading.last_step,
              reading.observations, reading.start_compute, reading.end_compute, reading.loss,
              reading.loss_noise, reading.attention_share, reading.imbalance, reading.active,
              reading.metrics, reading.profile, reading.mean, reading.deviation, reading.difference,
              reading.divergence);
  if (const auto fault = FindFault(reading)) {
    throw StoreError(database.Path() + ": cannot use " + WindowName(observation) + ": " + *fault);
  }
  return observation;
}

}  // namespace

struct Store::Connection {
  Connection(const std::filesystem::path& path, Mode mode)
      : database(OpenStore(path, mode)), writes(mode == Mode::kReadWrite) {}
  ~Connection() {
    database.Rollback();
    if (!writes) return;
    try {
      // Looks at a sample of the rows, so that closing stays quick.
      database.Script("PRAGMA analysis_limit = 400; PRAGMA optimize");
    } catch (const StoreError&) {
      // Only the query planner's statistics are a little older.
    }
  }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  Database database;
  bool writes;
};

Store::Store(const std::filesystem::path& path, Mode mode)
    : connection_(std::make_unique<Connection>(path, mode)) {}
Store::~Store() = default;
Store::Store(Store&&) noexcept = default;
Store& Store::operator=(Store&&) noexcept = default;

const std::string& Store::Path() const { return connection_->database.Path(); }

void Store::Begin() { connection_->database.Script("BEGIN IMMEDIATE"); }
void Store::Commit() { connection_->database.Script("COMMIT"); }
void Store::Rollback() noexcept { connection_->database.Rollback(); }

void Store::LeaveCheckpoints() { connection_->database.LeaveCheckpoints(); }
std::size_t Store::LogPages() const { return connection_->database.LogPages(); }
void Store::Checkpoint() { connection_->database.Checkpoint(); }

void Store::Put(const JobRecord& job) {
  Database& database = connection_->database;
  database.Execute(
      "UPDATE jobs SET started = ?, ended = ?, outcome = ?, steps = ?, compute_seconds = ?,"
      " loss = ?, validation_loss = ? WHERE id = ?",
      job.started, job.ended, job.outcome, job.steps, job.compute_seconds, job.loss,
      job.validation_loss, job.id);
  if (database.Changes() > 0) return;
  const JobSpec& spec = job.spec;
  Savepoint savepoint(database);
  database.Execute(
      "INSERT INTO jobs (id, key, name, budget_kind, budget_amount, budget_price, seed,"
      " learning_rate, started, ended, outcome, steps, compute_seconds, loss, validation_loss,"
      " policy, optimizer, fresh) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
      job.id, spec.key, spec.name, spec.budget.kind, spec.budget.amount, spec.budget.price,
      spec.seed, spec.learning_rate, job.started, job.ended, job.outcome, job.steps,
      job.compute_seconds, job.loss, job.validation_loss, spec.policy, spec.optimizer, spec.fresh);
  std::size_t position = 0;
  for (const Site& site : spec.topology.sites) {
    database.Execute("INSERT INTO sites VALUES (?, ?, ?, ?, ?, ?, ?, ?)", job.id, position++,
                     site.name, site.kind, site.causal, site.heads, site.head_width, site.context);
  }
  savepoint.Release();
}

void Store::Put(const Trial& trial) {
  Database& database = connection_->database;
  if (const auto fault = FindFault(trial)) {
    throw RecordError(database.Path() + " refuses " + TrialName(trial) + ": " + *fault);
  }
  const auto with_values = [&](const auto& run) {
    return run(trial.job, trial.window, trial.step, trial.loss, trial.imbalance,
               CountActive(trial.setting.active), trial.decider, trial.why, trial.policy_version,
               trial.log_probability, trial.acknowledgement.status, trial.acknowledgement.step,
               trial.acknowledgement.why, trial.reward, trial.action.has_value(), trial.id);
  };
  const Action* action = trial.action ? &*trial.action : nullptr;
  const auto with_arrays = [&](const auto& run) {
    run(trial.state.site_offsets, trial.state.tokens, trial.mask.scale, trial.mask.count,
        action ? &action->scale : nullptr, action ? &action->count : nullptr,
        action ? &action->score : nullptr, trial.setting.scale, trial.setting.gain,
        trial.setting.active, trial.id);
  };
  // What is refused of a trial is refused with its first row: only a crash could part the two.
  std::optional<Savepoint> both;
  if (!database.InTransaction()) both.emplace(database);
  // An upsert takes a third longer than a plain insertion, and nearly every trial is new.
  const bool is_new = with_values([&](const auto&... values) {
    return database.Insert(
        "INSERT INTO trials (job, window, step, loss, imbalance, active_heads, decider, why,"
        " policy_version, log_probability, ack_status, ack_step, ack_why, reward, has_action, id,"
        " created) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        values..., UnixTime());
  });
  if (is_new) {
    with_arrays([&](const auto&... arrays) {
      database.Execute(
          "INSERT INTO trial_arrays (site_offsets, tokens, mask_scale, mask_count, action_scale,"
          " action_count, action_score, setting_scale, setting_gain, setting_active, trial)"
          " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
          arrays...);
    });
  } else {
    with_values([&](const auto&... values) {
      database.Execute(
          "UPDATE trials SET job = ?, window = ?, step = ?, loss = ?, imbalance = ?,"
          " active_heads = ?, decider = ?, why = ?, policy_version = ?, log_probability = ?,"
          " ack_status = ?, ack_step = ?, ack_why = ?, reward = ?, has_action = ? WHERE id = ?",
          values...);
    });
    with_arrays([&](const auto&... arrays) {
      database.Execute(
          "UPDATE trial_arrays SET site_offsets = ?, tokens = ?, mask_scale = ?, mask_count = ?,"
          " action_scale = ?, action_count = ?, action_score = ?, setting_scale = ?,"
          " setting_gain = ?, setting_active = ? WHERE trial = ?",
          arrays...);
    });
  }
  if (both) both->Release();
}

void Store::Put(const ObservationRecord& observation) {
  Database& database = connection_->database;
  const WindowReading& reading = observation.reading;
  if (const auto fault = FindFault(reading)) {
    throw RecordError(database.Path() + " refuses " + WindowName(observation) + ": " + *fault);
  }
  database.Execute(
      "INSERT OR REPLACE INTO windows (job, window, first_step, last_step, observations,"
      " start_compute, end_compute, loss, loss_noise, attention_share, imbalance, active, metrics,"
      " profile, mean, deviation, difference, divergence)"
      " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
      observation.job, observation.window, reading.first_step, reading.last_step,
      reading.observations, reading.start_compute, reading.end_compute, reading.loss,
      reading.loss_noise, reading.attention_share, reading.imbalance, reading.active,
      reading.metrics, reading.profile, reading.mean, reading.deviation, reading.difference,
      reading.divergence);
}

void Store::Put(const PolicyRecord& policy) {
  connection_->database.Execute(
      "INSERT OR REPLACE INTO policies (name, version, created, path, trials, provenance)"
      " VALUES (?, ?, ?, ?, ?, ?)",
      policy.name, policy.version, policy.created, policy.path, policy.trials, policy.provenance);
}

void Store::PutAnomalies(std::uint64_t job, std::span<const Anomaly> anomalies) {
  Database& database = connection_->database;
  Savepoint savepoint(database);
  database.Execute("DELETE FROM anomalies WHERE job = ?", job);
  std::size_t position = 0;
  for (const Anomaly& anomaly : anomalies) {
    database.Execute(
        "INSERT INTO anomalies (job, position, site, head, first_step, last_step, severity, kind)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        job, position++, anomaly.site, anomaly.head, anomaly.first_step, anomaly.last_step,
        anomaly.severity, anomaly.kind);
  }
  savepoint.Release();
}

void Store::SetAcknowledgement(std::uint64_t trial, const Acknowledgement& acknowledgement) {
  Database& database = connection_->database;
  database.Execute("UPDATE trials SET ack_status = ?, ack_step = ?, ack_why = ? WHERE id = ?",
                   acknowledgement.status, acknowledgement.step, acknowledgement.why, trial);
  if (database.Changes() == 0) {
    throw RecordError(database.Path() + " has no trial " + std::to_string(trial) +
                      " to acknowledge");
  }
}

void Store::SetReward(std::uint64_t trial, double reward) {
  Database& database = connection_->database;
  if (std::isnan(reward)) {
    throw RecordError(database.Path() + " refuses the reward of trial " + std::to_string(trial) +
                      ": it is NaN");
  }
  database.Execute("UPDATE trials SET reward = ? WHERE id = ?", reward, trial);
  if (database.Changes() == 0) {
    throw RecordError(database.Path() + " has no trial " + std::to_string(trial) + " to reward");
  }
}

void Store::SetWhy(std::uint64_t trial, std::string_view why) {
  Database& database = connection_->database;
  database.Execute("UPDATE trials SET why = ? WHERE id = ?", why, trial);
  if (database.Changes() == 0) {
    throw RecordError(database.Path() + " has no trial " + std::to_string(trial) + " to explain");
  }
}

void Store::MarkRunningLost(double now) {
  connection_->database.Execute("UPDATE jobs SET outcome = ?, ended = ? WHERE outcome = ?",
                                Outcome::kLost, now, Outcome::kRunning);
}

std::uint64_t Store::LastJobId() const {
  return connection_->database.Integer("SELECT max(id) FROM jobs");
}

std::uint64_t Store::LastTrialId() const {
  return connection_->database.Integer("SELECT max(id) FROM trials");
}

std::vector<JobRecord> Store::Jobs(std::size_t limit) const {
  Database& database = connection_->database;
  std::vector<JobRecord> jobs;
  Cursor cursor =
      database.Select(std::string(kSelectJob) + "ORDER BY id DESC LIMIT ?", Limit(limit));
  while (cursor.Step()) jobs.push_back(ReadJob(database, cursor));
  return jobs;
}

std::optional<JobRecord> Store::FindJob(std::uint64_t id) const {
  Database& database = connection_->database;
  Cursor cursor = database.Select(std::string(kSelectJob) + "WHERE id = ?", id);
  if (!cursor.Step()) return std::nullopt;
  return ReadJob(database, cursor);
}

std::optional<JobRecord> Store::FindJobByKey(std::string_view key) const {
  Database& database = connection_->database;
  Cursor cursor =
      database.Select(std::string(kSelectJob) + "WHERE key = ? ORDER BY id DESC LIMIT 1", key);
  if (!cursor.Step()) return std::nullopt;
  return ReadJob(database, cursor);
}

std::vector<TrialRow> Store::Trials(std::uint64_t job, std::size_t limit) const {
  Database& database = connection_->database;
  std::vector<TrialRow> rows;
  const auto read = [&rows](Cursor cursor) {
    while (cursor.Step()) {
      TrialRow& row = rows.emplace_back();
      cursor.Read(row.id, row.job, row.window, row.step, row.created, row.loss, row.imbalance,
                  row.active_heads, row.decider, row.why, row.status, row.ack_step, row.ack_why,
                  row.reward);
    }
  };
  if (job == 0) {
    read(database.Select(std::string(kSelectTrialRow) + "ORDER BY id DESC LIMIT ?", Limit(limit)));
  } else {
    read(database.Select(std::string(kSelectTrialRow) + "WHERE job = ? ORDER BY id DESC LIMIT ?",
                         job, Limit(limit)));
  }
  return rows;
}

std::optional<Trial> Store::FindTrial(std::uint64_t id) const {
  Database& database = connection_->database;
  Cursor cursor = database.Select(std::string(kSelectTrial) + "WHERE id = ?", id);
  if (!cursor.Step()) return std::nullopt;
  return ReadTrial(database, cursor);
}

std::vector<ObservationRecord> Store::Observations(std::uint64_t job) const {
  Database& database = connection_->database;
  std::vector<ObservationRecord> observations;
  Cursor cursor =
      database.Select(std::string(kSelectObservation) + "WHERE job = ? ORDER BY window", job);
  while (cursor.Step()) observations.push_back(ReadObservation(database, cursor));
  return observations;
}

std::vector<Anomaly> Store::Anomalies(std::uint64_t job) const {
  std::vector<Anomaly> anomalies;
  Cursor cursor = connection_->database.Select(
      "SELECT site, head, first_step, last_step, severity, kind FROM anomalies WHERE job = ?"
      " ORDER BY position",
      job);
  while (cursor.Step()) {
    Anomaly& anomaly = anomalies.emplace_back();
    cursor.Read(anomaly.site, anomaly.head, anomaly.first_step, anomaly.last_step, anomaly.severity,
                anomaly.kind);
  }
  return anomalies;
}

std::vector<PolicyRecord> Store::Policies() const {
  std::vector<PolicyRecord> policies;
  Cursor cursor = connection_->database.Select(
      "SELECT name, version, created, path, trials, provenance FROM policies"
      " ORDER BY created DESC, version DESC, name");
  while (cursor.Step()) {
    PolicyRecord& policy = policies.emplace_back();
    cursor.Read(policy.name, policy.version, policy.created, policy.path, policy.trials,
                policy.provenance);
  }
  return policies;
}

std::vector<Trial> Store::JobTrials(std::uint64_t job) const {
  Database& database = connection_->database;
  std::vector<Trial> trials;
  Cursor cursor = database.Select(std::string(kSelectTrial) + "WHERE job = ? ORDER BY id", job);
  while (cursor.Step()) trials.push_back(ReadTrial(database, cursor));
  return trials;
}

std::vector<Trial> Store::CompleteTrials(std::uint64_t after, std::size_t limit) const {
  Database& database = connection_->database;
  std::vector<Trial> trials;
  // The condition is that of the index trials_to_learn.
  Cursor cursor = database.Select(
      std::string(kSelectTrial) +
          "WHERE has_action = 1 AND reward IS NOT NULL AND id > ? ORDER BY id LIMIT ?",
      after, Limit(limit));
  while (cursor.Step()) trials.push_back(ReadTrial(database, cursor));
  return trials;
}

}  // namespace attune
