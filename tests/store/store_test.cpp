// The store on real files: what is put is read back, foreign and newer files are refused, and what
// was committed survives a killed program.
#include "store/store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <limits>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "store/maintenance.h"
#include "store/migrations.h"
#include "store/sqlite.h"
#include "store/writer.h"
#include "tests/temporary_directory.h"

namespace attune {
namespace {

using Catch::Matchers::Contains;
using test::TemporaryDirectory;
using Mode = Store::Mode;

JobRecord SampleJob(std::uint64_t id) {
  JobRecord job;
  job.id = id;
  job.spec.key = "run-" + std::to_string(id);
  job.spec.name = "Öl und Wasser";
  job.spec.topology.sites = {
      {.name = "encoder.0", .kind = SiteKind::kSelf, .heads = 2, .head_width = 16, .context = 128},
      {.name = "decoder.0",
       .kind = SiteKind::kCross,
       .causal = true,
       .heads = 1,
       .head_width = 32,
       .context = 64}};
  job.spec.budget = {.kind = BudgetKind::kCompute, .amount = 1200.5, .price = 0.03};
  job.spec.seed = std::numeric_limits<std::uint64_t>::max() - 4;
  job.spec.learning_rate = 3e-4;
  job.spec.policy = "kmeans";
  job.spec.optimizer = "AdamW";
  job.started = 1700000000.25;
  job.ended = 1700001000.75;
  job.outcome = Outcome::kFinished;
  job.steps = 123456789012;
  job.compute_seconds = 1199.125;
  job.loss = 1.5;
  job.validation_loss = 1.625;
  return job;
}

Trial SampleTrial(std::uint64_t id, std::uint64_t job) {
  Trial trial;
  trial.id = id;
  trial.job = job;
  trial.window = 7;
  trial.step = 4200;
  trial.loss = 2.25;
  trial.imbalance = 0.1;
  trial.state.site_offsets = {0, 2, 3};
  for (std::size_t i = 0; i < 3 * kTokenFeatures; ++i) {
    trial.state.tokens.push_back(static_cast<float>(i) / 7 - 2);
  }
  trial.mask.scale = {{1, 1, 1, 0, 0}, {0, 1, 1, 1, 1}, {0, 0, 1, 0, 0}};
  trial.mask.count = {{1, 0, 1, 0, 0}, {0, 0, 1, 0, 1}};
  trial.action = Action{.scale = {0, 4, 2},
                        .count = {CountChange::kHalve, CountChange::kDouble},
                        .score = {0.5F, -0.25F, 1e-30F}};
  trial.setting = {.scale = {0.0625F, 1.15F, 16}, .gain = {0, 1, 16}, .active = {1, 0, 1}};
  trial.decider = "network";
  trial.why = "head 1 repeats head 0";
  trial.policy_version = 12;
  trial.log_probability = -3.7F;
  trial.acknowledgement = {.status = AckStatus::kRejected, .step = 4210, .why = "no such head"};
  trial.reward = -0.0125;
  return trial;
}

ObservationRecord SampleObservation(std::uint64_t job, std::uint32_t window) {
  ObservationRecord observation;
  observation.job = job;
  observation.window = window;
  WindowReading& reading = observation.reading;
  reading.first_step = 100;
  reading.last_step = 200;
  reading.observations = 11;
  reading.start_compute = 10.5;
  reading.end_compute = 20.25;
  reading.loss = 3.125;
  reading.loss_noise = 0.01;
  reading.attention_share = 0.4;
  reading.imbalance = 0.75 + window;
  reading.active = {1, 0, 1};
  const auto ramp = [](std::size_t size, float first) {
    std::vector<float> values(size);
    for (std::size_t i = 0; i < size; ++i) values[i] = first + static_cast<float>(i) / 3;
    return values;
  };
  reading.metrics = ramp(3 * kMetrics, -1);
  reading.profile = ramp(3 * kProfileBins, 0);
  reading.mean = ramp(3, 1);
  reading.deviation = ramp(3, 2);
  reading.difference = ramp(3, 3);
  reading.divergence = ramp(3, 4);
  return observation;
}

void CheckEqual(const JobRecord& a, const JobRecord& b) {
  CHECK(a.id == b.id);
  CHECK(a.spec == b.spec);
  CHECK(a.started == b.started);
  CHECK(a.ended == b.ended);
  CHECK(a.outcome == b.outcome);
  CHECK(a.steps == b.steps);
  CHECK(a.compute_seconds == b.compute_seconds);
  CHECK(a.loss == b.loss);
  CHECK(a.validation_loss == b.validation_loss);
}

void CheckEqual(const Trial& a, const Trial& b) {
  CHECK(a.id == b.id);
  CHECK(a.job == b.job);
  CHECK(a.window == b.window);
  CHECK(a.step == b.step);
  CHECK(a.loss == b.loss);
  CHECK(a.imbalance == b.imbalance);
  CHECK(a.state == b.state);
  CHECK(a.mask == b.mask);
  CHECK(a.action == b.action);
  CHECK(a.setting == b.setting);
  CHECK(a.decider == b.decider);
  CHECK(a.why == b.why);
  CHECK(a.policy_version == b.policy_version);
  CHECK(a.log_probability == b.log_probability);
  CHECK(a.acknowledgement == b.acknowledgement);
  CHECK(a.reward == b.reward);
}

void CheckEqual(const ObservationRecord& a, const ObservationRecord& b) {
  CHECK(a.job == b.job);
  CHECK(a.window == b.window);
  CHECK(a.reading.first_step == b.reading.first_step);
  CHECK(a.reading.last_step == b.reading.last_step);
  CHECK(a.reading.observations == b.reading.observations);
  CHECK(a.reading.start_compute == b.reading.start_compute);
  CHECK(a.reading.end_compute == b.reading.end_compute);
  CHECK(a.reading.loss == b.reading.loss);
  CHECK(a.reading.loss_noise == b.reading.loss_noise);
  CHECK(a.reading.attention_share == b.reading.attention_share);
  CHECK(a.reading.imbalance == b.reading.imbalance);
  CHECK(a.reading.active == b.reading.active);
  CHECK(a.reading.metrics == b.reading.metrics);
  CHECK(a.reading.profile == b.reading.profile);
  CHECK(a.reading.mean == b.reading.mean);
  CHECK(a.reading.deviation == b.reading.deviation);
  CHECK(a.reading.difference == b.reading.difference);
  CHECK(a.reading.divergence == b.reading.divergence);
}

template <class Row>
std::vector<std::uint64_t> Ids(const std::vector<Row>& rows) {
  std::vector<std::uint64_t> ids;
  for (const Row& row : rows) ids.push_back(row.id);
  return ids;
}

using IdList = std::vector<std::uint64_t>;

sqlite::Database OpenRaw(const std::filesystem::path& path) {
  return sqlite::Database(path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE);
}

std::vector<std::string> Strings(sqlite::Database& database, const std::string& sql) {
  std::vector<std::string> rows;
  sqlite::Cursor cursor = database.Select(sql);
  while (cursor.Step()) cursor.Read(rows.emplace_back());
  return rows;
}

// A store with one job (id 1).
Store StoreWithJob(const std::filesystem::path& path) {
  Store store(path, Mode::kReadWrite);
  store.Put(SampleJob(1));
  return store;
}

TEST_CASE("a job is read back as it was put, its seed above 2^63 included") {
  const TemporaryDirectory folder;
  Store store = StoreWithJob(folder / "store.db");
  const auto job = store.FindJob(1);
  REQUIRE(job);
  CheckEqual(*job, SampleJob(1));
  CHECK(job->trials == 0);
  CHECK_FALSE(store.FindJob(2));

  JobRecord running = SampleJob(2);
  running.loss.reset();
  running.validation_loss.reset();
  running.spec.fresh = true;
  running.spec.budget.kind = BudgetKind::kSteps;
  store.Put(running);
  CheckEqual(store.FindJob(2).value(), running);
}

TEST_CASE("a trial is read back as it was put") {
  const TemporaryDirectory folder;
  Store store = StoreWithJob(folder / "store.db");
  const Trial trial = SampleTrial(5, 1);
  store.Put(trial);
  CheckEqual(store.FindTrial(5).value(), trial);
  CHECK_FALSE(store.FindTrial(4));
}

TEST_CASE("a trial without action, state and reward is read back as it was put") {
  const TemporaryDirectory folder;
  Store store = StoreWithJob(folder / "store.db");
  Trial trial;
  trial.id = 1;
  trial.job = 1;
  trial.setting = Setting{.scale = {2}, .gain = {1}, .active = {1}};
  trial.decider = "hand";
  store.Put(trial);
  const Trial read = store.FindTrial(1).value();
  CheckEqual(read, trial);
  CHECK_FALSE(read.action);
  CHECK_FALSE(read.reward);
}

TEST_CASE("a table row of a trial has its scalars and the number of active heads") {
  const TemporaryDirectory folder;
  Store store = StoreWithJob(folder / "store.db");
  const Trial trial = SampleTrial(5, 1);
  const auto seconds = [] {
    return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch())
        .count();
  };
  const double before = seconds();
  store.Put(trial);
  const double after = seconds();
  const std::vector<TrialRow> rows = store.Trials(1, 10);
  REQUIRE(rows.size() == 1);
  const TrialRow& row = rows.front();
  CHECK(row.id == 5);
  CHECK(row.job == 1);
  CHECK(row.window == trial.window);
  CHECK(row.step == trial.step);
  CHECK(row.loss == trial.loss);
  CHECK(row.imbalance == trial.imbalance);
  CHECK(row.active_heads == 2);
  CHECK(row.decider == trial.decider);
  CHECK(row.why == trial.why);
  CHECK(row.status == AckStatus::kRejected);
  CHECK(row.ack_step == 4210);
  CHECK(row.ack_why == "no such head");
  CHECK(row.reward == trial.reward);
  // SQLite's clock counts milliseconds.
  CHECK(row.created >= before - 0.002);
  CHECK(row.created <= after + 0.002);
}

TEST_CASE("a trial that is put again keeps the time of its first writing") {
  const TemporaryDirectory folder;
  const auto path = folder / "store.db";
  Store store = StoreWithJob(path);
  Trial trial = SampleTrial(1, 1);
  store.Put(trial);
  OpenRaw(path).Script("UPDATE trials SET created = 17.5");
  trial.why = "second thoughts";
  store.Put(trial);
  CheckEqual(store.FindTrial(1).value(), trial);
  CHECK(store.Trials(1, 1).at(0).created == 17.5);
}

TEST_CASE("windows are read back as they were put, in their order") {
  const TemporaryDirectory folder;
  Store store = StoreWithJob(folder / "store.db");
  store.Put(SampleObservation(1, 3));
  store.Put(SampleObservation(1, 2));
  ObservationRecord replaced = SampleObservation(1, 3);
  replaced.reading.loss = 9;
  store.Put(replaced);
  const std::vector<ObservationRecord> read = store.Observations(1);
  REQUIRE(read.size() == 2);
  CheckEqual(read[0], SampleObservation(1, 2));
  CheckEqual(read[1], replaced);
  CHECK(store.Observations(2).empty());
}

TEST_CASE("the anomalies of a job are replaced as a whole") {
  const TemporaryDirectory folder;
  Store store = StoreWithJob(folder / "store.db");
  store.Put(SampleJob(2));
  const std::vector<Anomaly> first = {
      {.site = 1, .head = 0, .first_step = 5, .last_step = 9, .severity = 0.3F},
      {.site = 0,
       .head = 1,
       .first_step = 1,
       .last_step = 2,
       .severity = 2,
       .kind = AnomalyKind::kDrifting}};
  const std::vector<Anomaly> second = {first[1]};
  store.PutAnomalies(1, first);
  store.PutAnomalies(2, first);
  CHECK(store.Anomalies(1) == first);
  store.PutAnomalies(1, second);
  CHECK(store.Anomalies(1) == second);
  CHECK(store.Anomalies(2) == first);
}

TEST_CASE("policies are read back newest first") {
  const TemporaryDirectory folder;
  Store store(folder / "store.db", Mode::kReadWrite);
  store.Put(PolicyRecord{"network", 1, 100.5, "/var/lib/attune/1.pt", 640, "suite a, seed 1"});
  store.Put(PolicyRecord{"network", 2, 200.5, "/var/lib/attune/2.pt", 1280, "suite a, seed 2"});
  store.Put(PolicyRecord{"network", 1, 100.5, "/elsewhere/1.pt", 641, "moved"});
  const std::vector<PolicyRecord> policies = store.Policies();
  REQUIRE(policies.size() == 2);
  CHECK(policies[0].version == 2);
  CHECK(policies[1].name == "network");
  CHECK(policies[1].version == 1);
  CHECK(policies[1].created == 100.5);
  CHECK(policies[1].path == "/elsewhere/1.pt");
  CHECK(policies[1].trials == 641);
  CHECK(policies[1].provenance == "moved");
}

TEST_CASE("a job that is put again keeps its introduction, trials, windows and anomalies") {
  const TemporaryDirectory folder;
  Store store = StoreWithJob(folder / "store.db");
  store.Put(SampleTrial(1, 1));
  store.Put(SampleTrial(2, 1));
  store.Put(SampleObservation(1, 0));
  store.PutAnomalies(1, std::vector<Anomaly>(1));
  JobRecord job = SampleJob(1);
  job.outcome = Outcome::kFailed;
  job.steps += 10;
  JobRecord other = job;
  other.spec.name = "another";
  other.spec.topology.sites.pop_back();
  store.Put(other);
  const JobRecord read = store.FindJob(1).value();
  CheckEqual(read, job);
  CHECK(read.trials == 2);
  CHECK(store.Observations(1).size() == 1);
  CHECK(store.Anomalies(1).size() == 1);
}

TEST_CASE("jobs and trials are listed newest first, up to the limit") {
  const TemporaryDirectory folder;
  Store store(folder / "store.db", Mode::kReadWrite);
  CHECK(store.LastJobId() == 0);
  CHECK(store.LastTrialId() == 0);
  for (const std::uint64_t job : {1, 2, 3}) store.Put(SampleJob(job));
  for (const std::uint64_t trial : {1, 2, 3, 4}) store.Put(SampleTrial(trial, 1 + trial % 2));
  CHECK(Ids(store.Jobs(2)) == IdList{3, 2});
  CHECK(Ids(store.Jobs(std::numeric_limits<std::size_t>::max())) == IdList{3, 2, 1});
  CHECK(store.Jobs(3).at(1).trials == 2);
  CHECK(Ids(store.Trials(0, 3)) == IdList{4, 3, 2});
  CHECK(Ids(store.Trials(2, 9)) == IdList{3, 1});
  CHECK(Ids(store.Trials(2, 1)) == IdList{3});
  CHECK(store.Trials(3, 9).empty());
  CHECK(store.LastJobId() == 3);
  CHECK(store.LastTrialId() == 4);
}

TEST_CASE("the newest job is found by a key that was used twice") {
  const TemporaryDirectory folder;
  Store store = StoreWithJob(folder / "store.db");
  JobRecord again = SampleJob(2);
  again.spec.key = "run-1";
  store.Put(again);
  CHECK(store.FindJobByKey("run-1").value().id == 2);
  CHECK_FALSE(store.FindJobByKey("run-2"));
}

TEST_CASE("jobs left running are marked lost, ended ones are not touched") {
  const TemporaryDirectory folder;
  Store store = StoreWithJob(folder / "store.db");
  JobRecord running = SampleJob(2);
  running.outcome = Outcome::kRunning;
  running.ended = 0;
  store.Put(running);
  store.MarkRunningLost(1800000000.5);
  CHECK(store.FindJob(2).value().outcome == Outcome::kLost);
  CHECK(store.FindJob(2).value().ended == 1800000000.5);
  CheckEqual(store.FindJob(1).value(), SampleJob(1));
}

TEST_CASE("trials are complete with an action and a reward, and all are those of their job") {
  const TemporaryDirectory folder;
  Store store = StoreWithJob(folder / "store.db");
  for (const std::uint64_t id : {1, 2, 3, 4, 5}) {
    Trial trial = SampleTrial(id, 1);
    if (id == 2) trial.reward.reset();
    if (id == 3) trial.action.reset();
    store.Put(trial);
  }
  store.Put(SampleJob(2));
  store.Put(SampleTrial(6, 2));
  CHECK(Ids(store.JobTrials(1)) == IdList{1, 2, 3, 4, 5});
  CHECK_FALSE(store.JobTrials(1)[2].action);
  CheckEqual(store.JobTrials(2).at(0), SampleTrial(6, 2));
  CHECK(store.JobTrials(3).empty());
  const std::vector<Trial> trials = store.CompleteTrials(0, 3);
  REQUIRE(Ids(trials) == IdList{1, 4, 5});
  CheckEqual(trials[1], SampleTrial(4, 1));
  CHECK(Ids(store.CompleteTrials(1, 10)) == IdList{4, 5, 6});
  CHECK(Ids(store.CompleteTrials(0, 2)) == IdList{1, 4});
  store.SetReward(2, 0.5);
  CHECK(Ids(store.CompleteTrials(1, 1)) == IdList{2});
}

TEST_CASE("an acknowledgement and a reward complete a trial and leave the rest of it") {
  const TemporaryDirectory folder;
  Store store = StoreWithJob(folder / "store.db");
  Trial trial = SampleTrial(1, 1);
  trial.acknowledgement = {.status = AckStatus::kPending, .step = 0, .why = ""};
  trial.reward.reset();
  store.Put(trial);
  trial.acknowledgement = {.status = AckStatus::kExpired, .step = 77, .why = "too late"};
  trial.reward = 0.25;
  store.SetAcknowledgement(1, trial.acknowledgement);
  store.SetReward(1, 0.25);
  CheckEqual(store.FindTrial(1).value(), trial);
}

TEST_CASE("a record that cannot be written is refused and changes nothing") {
  const TemporaryDirectory folder;
  Store store = StoreWithJob(folder / "store.db");
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_AS(store.Put(SampleTrial(1, 9)), RecordError);  // no such job
  Trial trial = SampleTrial(1, 1);
  trial.loss = nan;
  CHECK_THROWS_AS(store.Put(trial), RecordError);
  trial = SampleTrial(1, 1);
  trial.state.tokens.pop_back();
  CHECK_THROWS_WITH(store.Put(trial), Contains("trial 1") && Contains("tokens"));
  trial = SampleTrial(1, 1);
  trial.action->score.pop_back();
  CHECK_THROWS_AS(store.Put(trial), RecordError);
  CHECK(store.LastTrialId() == 0);

  ObservationRecord observation = SampleObservation(1, 0);
  observation.reading.profile.pop_back();
  CHECK_THROWS_WITH(store.Put(observation), Contains("window 0 of job 1"));
  CHECK(store.Observations(1).empty());

  CHECK_THROWS_WITH(store.SetReward(8, 1), Contains("no trial 8"));
  CHECK_THROWS_WITH(store.SetWhy(8, "because"), Contains("no trial 8"));
  CHECK_THROWS_WITH(store.SetAcknowledgement(8, {}), Contains("no trial 8"));
  store.Put(SampleTrial(1, 1));
  CHECK_THROWS_AS(store.SetReward(1, nan), RecordError);
  CHECK(store.FindTrial(1).value().reward == SampleTrial(1, 1).reward);

  // Of a record of several rows nothing stays, also within a transaction that goes on.
  store.PutAnomalies(1, std::vector<Anomaly>(1));
  std::vector<Anomaly> broken(2);
  broken[1].severity = std::numeric_limits<float>::quiet_NaN();
  store.Begin();
  CHECK_THROWS_AS(store.PutAnomalies(1, broken), RecordError);
  store.Put(SampleTrial(2, 1));
  store.Commit();
  CHECK(store.Anomalies(1) == std::vector<Anomaly>(1));
  CHECK(store.LastTrialId() == 2);
}

TEST_CASE("a transaction that is rolled back leaves nothing") {
  const TemporaryDirectory folder;
  Store store(folder / "store.db", Mode::kReadWrite);
  store.Begin();
  store.Put(SampleJob(1));
  store.Rollback();
  CHECK(store.LastJobId() == 0);
  store.Rollback();
  store.Begin();
  store.Put(SampleJob(2));
  store.Commit();
  CHECK(store.LastJobId() == 2);
}

TEST_CASE("a fresh store has the schema of its version, no more and no less") {
  const TemporaryDirectory folder;
  const auto path = folder / "store.db";
  { const Store store(path, Mode::kReadWrite); }
  sqlite::Database database = OpenRaw(path);
  CHECK(database.Integer("PRAGMA application_id") == 0x6174746e);
  CHECK(database.Integer("PRAGMA user_version") == 5);
  CHECK(Strings(database, "PRAGMA journal_mode") == std::vector<std::string>{"wal"});
  CHECK(Strings(database,
                "SELECT type || ' ' || name FROM sqlite_schema WHERE name NOT LIKE 'sqlite%'"
                " ORDER BY 1") ==
        std::vector<std::string>{
            "index jobs_by_key", "index trials_by_created", "index trials_by_decider",
            "index trials_by_decider_reward", "index trials_by_job", "index trials_by_reward",
            "index trials_to_learn", "table anomalies", "table jobs", "table policies",
            "table sites", "table trial_arrays", "table trials", "table windows",
            "view history_anomalies", "view history_jobs", "view history_trials"});
  // Files with these columns exist: a change is a new migration.
  const auto columns = [&database](const std::string& table) {
    return Strings(database,
                   "SELECT group_concat(name || ' ' || type || iif(\"notnull\", '!', ''),"
                   " ', ') FROM pragma_table_info('" +
                       table + "')")
        .at(0);
  };
  CHECK(columns("jobs") ==
        "id INTEGER, key TEXT!, name TEXT!, budget_kind INTEGER!, budget_amount REAL!,"
        " budget_price REAL!, seed INTEGER!, learning_rate REAL!, started REAL!, ended REAL!,"
        " outcome INTEGER!, steps INTEGER!, compute_seconds REAL!, loss REAL, validation_loss REAL,"
        " policy TEXT!, optimizer TEXT!, fresh INTEGER!");
  CHECK(columns("sites") ==
        "job INTEGER!, position INTEGER!, name TEXT!, kind INTEGER!, causal INTEGER!,"
        " heads INTEGER!, head_width INTEGER!, context INTEGER!");
  CHECK(columns("windows") ==
        "job INTEGER!, window INTEGER!, first_step INTEGER!, last_step INTEGER!,"
        " observations INTEGER!, start_compute REAL!, end_compute REAL!, loss REAL!,"
        " loss_noise REAL!, attention_share REAL!, imbalance REAL!, active BLOB!, metrics BLOB!,"
        " profile BLOB!, mean BLOB!, deviation BLOB!, difference BLOB!, divergence BLOB!");
  CHECK(columns("trials") ==
        "id INTEGER, job INTEGER!, window INTEGER!, step INTEGER!, created REAL!, loss REAL!,"
        " imbalance REAL!, active_heads INTEGER!, decider TEXT!, why TEXT!,"
        " policy_version INTEGER!, log_probability REAL!, ack_status INTEGER!, ack_step INTEGER!,"
        " ack_why TEXT!, reward REAL, has_action INTEGER!");
  CHECK(columns("trial_arrays") ==
        "trial INTEGER, site_offsets BLOB!, tokens BLOB!, mask_scale BLOB!, mask_count BLOB!,"
        " action_scale BLOB, action_count BLOB, action_score BLOB, setting_scale BLOB!,"
        " setting_gain BLOB!, setting_active BLOB!");
  CHECK(columns("anomalies") ==
        "job INTEGER!, position INTEGER!, site INTEGER!, head INTEGER!, first_step INTEGER!,"
        " last_step INTEGER!, severity REAL!, kind INTEGER!");
  CHECK(columns("policies") ==
        "name TEXT!, version INTEGER!, created REAL!, path TEXT!, trials INTEGER!,"
        " provenance TEXT!");
}

TEST_CASE("blobs are what the schema says: little-endian, row by row") {
  const TemporaryDirectory folder;
  const auto path = folder / "store.db";
  Store store = StoreWithJob(path);
  Trial trial = SampleTrial(1, 1);
  trial.action->score = {1.0F, -2.0F, 0.5F};
  store.Put(trial);
  sqlite::Database database = OpenRaw(path);
  const auto hex = [&database](const std::string& column) {
    return Strings(database, "SELECT hex(" + column + ") FROM trial_arrays").at(0);
  };
  CHECK(hex("site_offsets") == "000000000200000003000000");
  CHECK(hex("mask_scale") == "010101000000010101010000010000");
  CHECK(hex("mask_count") == "01000100000000010001");
  CHECK(hex("action_scale") == "000402");
  CHECK(hex("action_count") == "0004");
  CHECK(hex("action_score") == "0000803F000000C00000003F");
  CHECK(hex("setting_active") == "010001");
}

TEST_CASE("lists and counts use indexes") {
  const TemporaryDirectory folder;
  const auto path = folder / "store.db";
  { const Store store(path, Mode::kReadWrite); }
  sqlite::Database database = OpenRaw(path);
  const auto plan = [&database](const std::string& sql) {
    std::string details;
    int id = 0;
    int parent = 0;
    int unused = 0;
    std::string detail;
    sqlite::Cursor cursor = database.Select("EXPLAIN QUERY PLAN " + sql);
    while (cursor.Step()) {
      cursor.Read(id, parent, unused, detail);
      details += detail + "\n";
    }
    return details;
  };
  CHECK_THAT(plan("SELECT id, (SELECT count(*) FROM trials WHERE trials.job = jobs.id) FROM jobs"
                  " ORDER BY id DESC LIMIT 20"),
             Contains("trials USING COVERING INDEX trials_by_job") && !Contains("B-TREE"));
  CHECK_THAT(plan("SELECT why FROM trials WHERE job = 1 ORDER BY id DESC LIMIT 20"),
             Contains("INDEX trials_by_job") && !Contains("B-TREE"));
  CHECK_THAT(plan("SELECT tokens FROM trials JOIN trial_arrays ON trial = id"
                  " WHERE has_action = 1 AND reward IS NOT NULL AND id > 7 ORDER BY id LIMIT 20"),
             Contains("INDEX trials_to_learn") && !Contains("B-TREE"));
}

TEST_CASE("a store that is opened again is as it was left") {
  const TemporaryDirectory folder;
  const auto path = folder / "store.db";
  StoreWithJob(path).Put(SampleTrial(1, 1));
  const Store store(path, Mode::kReadWrite);
  CheckEqual(store.FindJob(1).value(), SampleJob(1));
  CheckEqual(store.FindTrial(1).value(), SampleTrial(1, 1));
}

TEST_CASE("a broken migration leaves the schema before it") {
  const TemporaryDirectory folder;
  const auto path = folder / "store.db";
  sqlite::Database database = OpenRaw(path);
  const std::array<std::string_view, 2> broken = {
      "PRAGMA application_id = 5; CREATE TABLE a (x);",
      "PRAGMA application_id = 6; CREATE TABLE b (x); INSERT INTO a VALUES (1); CREATE TABL c;"};
  CHECK_THROWS_WITH(sqlite::Migrate(database, broken),
                    Contains(path.string()) && Contains("schema 2"));
  CHECK(database.Integer("PRAGMA user_version") == 1);
  CHECK(database.Integer("PRAGMA application_id") == 5);
  CHECK(database.Integer("SELECT count(*) FROM a") == 0);
  CHECK(Strings(database, "SELECT name FROM sqlite_schema") == std::vector<std::string>{"a"});

  const std::array<std::string_view, 2> mended = {broken[0], "CREATE TABLE b (x);"};
  sqlite::Migrate(database, mended);
  CHECK(database.Integer("PRAGMA user_version") == 2);
  sqlite::Migrate(database, mended);  // nothing is left to do
  CHECK(Strings(database, "SELECT name FROM sqlite_schema") == std::vector<std::string>{"a", "b"});
}

TEST_CASE("a store of the schema before comes to this one with all its trials") {
  const TemporaryDirectory folder;
  const auto path = folder / "store.db";
  {
    sqlite::Database database = OpenRaw(path);
    database.Script("PRAGMA journal_mode = WAL; PRAGMA foreign_keys = ON");
    sqlite::Migrate(database, sqlite::Migrations().first(2));
    database.Script(
        "INSERT INTO jobs VALUES (1, 'k', 'name', 1, 100, 0.01, 7, 0.1, 5, 0, 0, 4, 2, NULL, NULL,"
        " '');"
        "INSERT INTO trials VALUES (3, 1, 0, 40, 17.5, 2.5, 0.25, 1, 'network', 'because', 9, -1.5,"
        " 2, 44, '', 0.125, x'0000000001000000', zeroblob(112), x'0101010101', x'0001010101',"
        " x'03', x'02', x'0000803f', x'0000c03f', x'0000803f', x'01');"
        "INSERT INTO trials VALUES (5, 1, 1, 80, 18.5, 2.25, 0.5, 1, 'hand', '', 0, 0, 3, 81, 'no',"
        " NULL, x'', x'', x'', x'', NULL, NULL, NULL, x'0000803f', x'0000803f', x'01')");
  }
  Store store(path, Mode::kReadWrite);
  const Trial trial = store.FindTrial(3).value();
  CHECK(trial.why == "because");
  CHECK(trial.log_probability == -1.5);
  CHECK(trial.acknowledgement.step == 44);
  CHECK(trial.reward == 0.125);
  CHECK(trial.state.site_offsets == std::vector<std::uint32_t>{0, 1});
  CHECK(store.FindJob(1).value().spec.optimizer.empty());
  CHECK(store.FindJob(1).value().spec.fresh);
  CHECK(trial.mask.count.at(0) == std::array<std::uint8_t, 5>{0, 1, 1, 1, 1});
  REQUIRE(trial.action);
  CHECK(trial.action->scale == std::vector<std::uint8_t>{3});
  CHECK(trial.action->score == std::vector<float>{1.0F});
  CHECK(trial.setting.scale == std::vector<float>{1.5F});
  CHECK_FALSE(store.FindTrial(5).value().action);
  CHECK(store.Trials(1, 9).at(1).created == 17.5);
  CHECK(Ids(store.CompleteTrials(0, 9)) == IdList{3});
  sqlite::Database database = OpenRaw(path);
  CHECK(database.Integer("SELECT trials FROM history_jobs") == 2);
  CHECK(Strings(database, "SELECT ack_why FROM history_trials WHERE trial = 5").at(0) == "no");
  database.Script("PRAGMA foreign_keys = ON; DELETE FROM jobs");
  CHECK(database.Integer("SELECT count(*) FROM trial_arrays") == 0);
}

TEST_CASE("features that a trial was written without are 0, at the end of each head's token") {
  const TemporaryDirectory folder;
  const auto path = folder / "store.db";
  const Trial written = SampleTrial(1, 1);
  StoreWithJob(path).Put(written);
  // Each head's token cut to the features of the first stores, one head behind the other.
  std::string cut;
  for (std::size_t head = 0; head < written.state.Heads(); ++head) {
    cut += fmt::format("{}substr(hex(tokens), {}, {})", head == 0 ? "" : " || ",
                       head * kTokenFeatures * 8 + 1, kOldestTokenFeatures * 8);
  }
  sqlite::Database database = OpenRaw(path);
  const std::string hex = Strings(database, "SELECT " + cut + " FROM trial_arrays").at(0);
  const auto misfits = [&] {
    const std::vector<std::string> faults = Check(path);
    return std::ranges::count_if(faults, [](const std::string& fault) {
      return fault.find("has an action that is not of its job's heads") != std::string::npos;
    });
  };
  database.Script("UPDATE trial_arrays SET tokens = x'" + hex + "'");
  CHECK(misfits() == 0);

  const Trial read = Store(path, Mode::kReadOnly).FindTrial(1).value();
  REQUIRE(read.state.tokens.size() == written.state.tokens.size());
  for (std::size_t head = 0; head < written.state.Heads(); ++head) {
    for (std::size_t feature = 0; feature < kTokenFeatures; ++feature) {
      CAPTURE(head, feature);
      CHECK(read.state.At(head, feature) ==
            (feature < kOldestTokenFeatures ? written.state.At(head, feature) : 0.0F));
    }
  }

  database.Script("UPDATE trial_arrays SET tokens = x'" + hex.substr(8) + "'");  // one number less
  CHECK(misfits() == 1);
  CHECK_THROWS_WITH(Store(path, Mode::kReadOnly).FindTrial(1), Contains("its tokens are not"));
}

TEST_CASE("a newer schema is refused with both versions and a way out") {
  const TemporaryDirectory folder;
  const auto path = folder / "store.db";
  { const Store store(path, Mode::kReadWrite); }
  OpenRaw(path).Script("PRAGMA user_version = 41");
  for (const Mode mode : {Mode::kReadOnly, Mode::kReadWrite}) {
    CHECK_THROWS_WITH(Store(path, mode), Contains(path.string()) && Contains("schema 41") &&
                                             Contains("up to 5") && Contains("upgrade attune"));
  }
  CHECK(OpenRaw(path).Integer("PRAGMA user_version") == 41);
}

TEST_CASE("a file that is not SQLite is refused and left as it is") {
  const TemporaryDirectory folder;
  const auto path = folder / "notes.txt";
  const std::string text(5000, 'x');
  std::ofstream(path) << text;
  for (const Mode mode : {Mode::kReadOnly, Mode::kReadWrite}) {
    CHECK_THROWS_WITH(Store(path, mode), Contains(path.string()) && Contains("not an SQLite"));
  }
  std::ifstream file(path);
  CHECK(std::string(std::istreambuf_iterator<char>(file), {}) == text);
}

TEST_CASE("another program's database is refused and left as it is") {
  const TemporaryDirectory folder;
  const auto path = folder / "other.db";
  OpenRaw(path).Script("CREATE TABLE songs (title)");
  SECTION("without an application id") {}
  SECTION("with one") { OpenRaw(path).Script("PRAGMA application_id = 77"); }
  for (const Mode mode : {Mode::kReadOnly, Mode::kReadWrite}) {
    CHECK_THROWS_WITH(Store(path, mode), Contains(path.string()) && Contains("another program"));
  }
  sqlite::Database database = OpenRaw(path);
  CHECK(Strings(database, "SELECT name FROM sqlite_schema") == std::vector<std::string>{"songs"});
  CHECK(Strings(database, "PRAGMA journal_mode") == std::vector<std::string>{"delete"});
}

TEST_CASE("a reader says that there is no store yet, and makes none") {
  const TemporaryDirectory folder;
  const auto path = folder / "store.db";
  CHECK_THROWS_WITH(Store(path, Mode::kReadOnly),
                    Contains("no store at " + path.string()) && Contains("attuned"));
  CHECK_FALSE(std::filesystem::exists(path));
  std::ofstream(path).close();  // a writer has just begun to make it
  CHECK_THROWS_WITH(Store(path, Mode::kReadOnly), Contains("no store at " + path.string()));
}

TEST_CASE("a store in a folder that is not there is refused") {
  const TemporaryDirectory folder;
  const auto path = folder / "nowhere/store.db";
  CHECK_THROWS_WITH(Store(path, Mode::kReadWrite), Contains(path.string()) && Contains("folder"));
}

TEST_CASE("a store that may not be written is refused by a writer") {
  const TemporaryDirectory folder;
  const auto path = folder / "store.db";
  StoreWithJob(path);
  std::filesystem::permissions(path, std::filesystem::perms(0444));
  std::filesystem::permissions(folder / "", std::filesystem::perms(0555));
  // Permissions do not bind root: it becomes nobody for the call.
  const bool root = geteuid() == 0;
  if (root) REQUIRE(seteuid(65534) == 0);
  std::string message;
  try {
    const Store store(path, Mode::kReadWrite);
  } catch (const StoreError& error) {
    message = error.what();
  }
  if (root) REQUIRE(seteuid(0) == 0);
  std::filesystem::permissions(folder / "", std::filesystem::perms(0755));
  CHECK_THAT(message, Contains(path.string()) && Contains("writable"));
}

TEST_CASE("a reader sees what is committed while a writer is open, and cannot write") {
  const TemporaryDirectory folder;
  const auto path = folder / "store.db";
  Store writer = StoreWithJob(path);
  Store reader(path, Mode::kReadOnly);
  CHECK(reader.LastJobId() == 1);
  writer.Begin();
  writer.Put(SampleJob(2));
  CHECK(reader.LastJobId() == 1);
  writer.Commit();
  CHECK(reader.LastJobId() == 2);
  CHECK_THROWS_WITH(reader.Put(SampleJob(3)), Contains("read-only"));
  CHECK(writer.LastJobId() == 2);
}

TEST_CASE("a finished store can be read") {
  const TemporaryDirectory folder;
  const auto path = folder / "store.db";
  StoreWithJob(path);
  CHECK_FALSE(std::filesystem::exists(folder / "store.db-wal"));
  const Store reader(path, Mode::kReadOnly);
  CheckEqual(reader.FindJob(1).value(), SampleJob(1));
}

TEST_CASE("checkpoints that are left to the caller are made by the caller alone") {
  const TemporaryDirectory folder;
  const auto path = folder / "store.db";
  Store store = StoreWithJob(path);
  store.LeaveCheckpoints();
  const auto before = std::filesystem::file_size(path);
  std::uint64_t trials = 0;
  while (store.LogPages() < 3000) store.Put(SampleTrial(++trials, 1));
  CHECK(std::filesystem::file_size(path) == before);

  Store(path, Mode::kReadWrite).Checkpoint();
  CHECK(std::filesystem::file_size(path) > before);
  store.Put(SampleTrial(++trials, 1));
  CHECK(store.LogPages() < 100);  // begun anew
  CHECK(Store(path, Mode::kReadOnly).FindJob(1).value().trials == trials);
}

TEST_CASE("a second writer waits for the first") {
  const TemporaryDirectory folder;
  const auto path = folder / "store.db";
  Store first = StoreWithJob(path);
  first.Begin();
  first.Put(SampleTrial(1, 1));
  std::promise<void> opened;
  auto second = std::async(std::launch::async, [&path, &opened] {
    Store store(path, Mode::kReadWrite);
    opened.set_value();
    store.Begin();
    store.Put(SampleTrial(store.LastTrialId() + 1, 1));
    store.Commit();
  });
  opened.get_future().wait();
  first.Put(SampleTrial(2, 1));
  first.Commit();
  second.get();
  CHECK(Ids(first.Trials(1, 9)) == IdList{3, 2, 1});
}

TEST_CASE("a lock that is not given up is an error that says so") {
  const TemporaryDirectory folder;
  const auto path = folder / "store.db";
  Store store = StoreWithJob(path);
  store.Begin();
  sqlite::Database impatient = OpenRaw(path);  // has no busy timeout
  CHECK_THROWS_WITH(impatient.Script("BEGIN IMMEDIATE"),
                    Contains(path.string()) && Contains("locked"));
}

TEST_CASE("a full disk is an error that says so, and the store goes on when there is room") {
  const TemporaryDirectory folder;
  const auto path = folder / "store.db";
  StoreWithJob(path);
  sqlite::Database database = OpenRaw(path);
  const std::string pages = std::to_string(database.Integer("PRAGMA page_count"));
  database.Script("PRAGMA max_page_count = " + pages);
  CHECK_THROWS_WITH(
      database.Execute("INSERT INTO policies VALUES ('p', 1, 0, zeroblob(0) || ?, 0, '')",
                       std::string(100000, 'x')),
      Contains(path.string()) && Contains("no space left"));
  database.Script("PRAGMA max_page_count = 1000000");
  database.Execute("INSERT INTO policies VALUES ('p', 1, 0, ?, 0, '')", std::string(100000, 'x'));
  CHECK(database.Integer("SELECT length(path) FROM policies") == 100000);
}

TEST_CASE("a damaged blob is an error that names the trial or its column") {
  const TemporaryDirectory folder;
  const auto path = folder / "store.db";
  Store store = StoreWithJob(path);
  store.Put(SampleTrial(1, 1));
  OpenRaw(path).Script("UPDATE trial_arrays SET tokens = x'0000803f'");
  CHECK_THROWS_WITH(store.FindTrial(1), Contains("trial 1") && Contains("tokens"));
  OpenRaw(path).Script("UPDATE trial_arrays SET tokens = x'0000803fff'");
  CHECK_THROWS_WITH(store.CompleteTrials(0, 1), Contains("tokens"));
}

// What a writer's callbacks reported.
class Reports {
 public:
  std::function<void(std::uint64_t)> Committed() {
    return [this](std::uint64_t ticket) {
      const std::lock_guard lock(mutex_);
      tickets_.push_back(ticket);
    };
  }
  std::function<void(const std::string&)> Failed() {
    return [this](const std::string& message) {
      const std::lock_guard lock(mutex_);
      messages_.push_back(message);
    };
  }
  std::vector<std::uint64_t> Tickets() {
    const std::lock_guard lock(mutex_);
    return tickets_;
  }
  std::vector<std::string> Messages() {
    const std::lock_guard lock(mutex_);
    return messages_;
  }

 private:
  std::mutex mutex_;
  std::vector<std::uint64_t> tickets_;
  std::vector<std::string> messages_;
};

TEST_CASE("the writer commits every kind of record and reports the last ticket") {
  const TemporaryDirectory folder;
  const auto path = folder / "store.db";
  Reports reports;
  Writer writer(Store(path, Mode::kReadWrite), reports.Committed(), reports.Failed());
  CHECK(writer.Flush());  // nothing to wait for
  CHECK(writer.Post(SampleJob(1)) == 1);
  CHECK(writer.Post(SampleTrial(1, 1)) == 2);
  writer.Post(SampleObservation(1, 0));
  writer.Post(PolicyRecord{"network", 3, 1.0, "", 0, ""});
  writer.Post(AnomaliesRecord{1, std::vector<Anomaly>(2)});
  writer.Post(AcknowledgementRecord{1, {AckStatus::kApplied, 9, ""}});
  CHECK(writer.Post(RewardRecord{1, 0.5}) == 7);
  CHECK(writer.Post(WhyRecord{1, "for a longer reason"}) == 8);
  CHECK(writer.Flush());

  const std::vector<std::uint64_t> tickets = reports.Tickets();
  REQUIRE_FALSE(tickets.empty());
  CHECK(tickets.back() == 8);
  CHECK(std::is_sorted(tickets.begin(), tickets.end()));
  CHECK(reports.Messages().empty());
  const Store reader(path, Mode::kReadOnly);
  CheckEqual(reader.FindJob(1).value(), SampleJob(1));
  const Trial trial = reader.FindTrial(1).value();
  CHECK(trial.acknowledgement == Acknowledgement{AckStatus::kApplied, 9, ""});
  CHECK(trial.reward == 0.5);
  CHECK(trial.why == "for a longer reason");
  CheckEqual(reader.Observations(1).at(0), SampleObservation(1, 0));
  CHECK(reader.Policies().size() == 1);
  CHECK(reader.Anomalies(1).size() == 2);
}

TEST_CASE("a writer that ends commits what waits") {
  const TemporaryDirectory folder;
  const auto path = folder / "store.db";
  Reports reports;
  {
    Writer writer(Store(path, Mode::kReadWrite), reports.Committed(), reports.Failed());
    writer.Post(SampleJob(1));
    for (std::uint64_t id = 1; id <= 100; ++id) writer.Post(SampleTrial(id, 1));
  }
  CHECK(reports.Tickets().back() == 101);
  CHECK(Store(path, Mode::kReadOnly).FindJob(1).value().trials == 100);
}

TEST_CASE("the writer has its long log copied without another commit") {
  const TemporaryDirectory folder;
  const auto path = folder / "store.db";
  Reports reports;
  Writer writer(StoreWithJob(path), reports.Committed(), reports.Failed());
  const auto before = std::filesystem::file_size(path);
  for (std::uint64_t id = 1; id <= 1000; ++id) {
    writer.Post(SampleTrial(id, 1));
    REQUIRE(writer.Flush());
  }
  while (std::filesystem::file_size(path) == before) std::this_thread::yield();
  CHECK(reports.Messages().empty());
}

TEST_CASE("several threads may post at the same time") {
  const TemporaryDirectory folder;
  const auto path = folder / "store.db";
  Reports reports;
  {
    Writer writer(StoreWithJob(path), reports.Committed(), reports.Failed());
    std::vector<std::thread> threads;
    for (std::uint64_t thread = 0; thread < 4; ++thread) {
      threads.emplace_back([&writer, thread] {
        for (std::uint64_t i = 1; i <= 50; ++i) writer.Post(SampleTrial(thread * 50 + i, 1));
        static_cast<void>(writer.Flush());
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(reports.Tickets().back() == 200);
  }
  CHECK(Store(path, Mode::kReadOnly).FindJob(1).value().trials == 200);
}

TEST_CASE("the writer leaves out a record that can never be written, and says so") {
  const TemporaryDirectory folder;
  const auto path = folder / "store.db";
  Reports reports;
  {
    Writer writer(StoreWithJob(path), reports.Committed(), reports.Failed());
    writer.Post(SampleTrial(1, 1));
    writer.Post(SampleTrial(2, 99));
    writer.Post(SampleTrial(3, 1));
    CHECK(writer.Flush());
    CHECK(reports.Tickets().back() == 3);
  }
  REQUIRE(reports.Messages().size() == 1);
  CHECK_THAT(reports.Messages()[0], Contains("FOREIGN KEY"));
  CHECK(Ids(Store(path, Mode::kReadOnly).Trials(0, 9)) == IdList{3, 1});
}

// Lets no file of this process grow beyond `bytes`, as on a full disk, while it lives.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    handler_ = signal(SIGXFSZ, SIG_IGN);  // write() fails with EFBIG instead
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) throw std::runtime_error("cannot limit file sizes");
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    signal(SIGXFSZ, handler_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  rlimit before_{};
  void (*handler_)(int) = nullptr;
};

TEST_CASE("records that failed are kept, and written when the disk takes them again") {
  const TemporaryDirectory folder;
  const auto path = folder / "store.db";
  Reports reports;
  Writer writer(StoreWithJob(path), reports.Committed(), reports.Failed());
  writer.Post(SampleTrial(1, 1));
  REQUIRE(writer.Flush());
  {
    const FileSizeLimit limit(std::filesystem::file_size(folder / "store.db-wal"));
    writer.Post(SampleTrial(2, 1));
    CHECK_FALSE(writer.Flush());
    writer.Post(SampleTrial(3, 1));
    CHECK_FALSE(writer.Flush());
    CHECK(reports.Tickets().back() == 1);
    CHECK(Store(path, Mode::kReadOnly).LastTrialId() == 1);
  }
  CHECK(reports.Messages().size() >= 2);
  CHECK_THAT(reports.Messages().at(0), Contains(path.string()));
  // The thread may be in an attempt that began under the limit: that one may fail still.
  CHECK((writer.Flush() || writer.Flush()));
  CHECK(reports.Tickets().back() == 3);
  CHECK(Ids(Store(path, Mode::kReadOnly).Trials(0, 9)) == IdList{3, 2, 1});
}

TEST_CASE("who waits for what is written waits no longer than he says, whoever holds the lock") {
  const TemporaryDirectory folder;
  const auto path = folder / "store.db";
  Reports reports;
  Writer writer(StoreWithJob(path), reports.Committed(), reports.Failed());
  {
    sqlite::Database other(path, SQLITE_OPEN_READWRITE);
    other.Script("BEGIN IMMEDIATE");
    writer.Post(SampleTrial(1, 1));
    CHECK_FALSE(writer.Flush(std::chrono::milliseconds(1)));
    CHECK(reports.Messages().empty());  // it still waits
  }
  CHECK(writer.Flush());
  CHECK(Store(path, Mode::kReadOnly).LastTrialId() == 1);
}

TEST_CASE("a writer that ends while the disk is full reports it and does not hang") {
  const TemporaryDirectory folder;
  const auto path = folder / "store.db";
  Reports reports;
  {
    Writer writer(StoreWithJob(path), reports.Committed(), reports.Failed());
    const FileSizeLimit limit(std::filesystem::file_size(folder / "store.db-wal"));
    writer.Post(SampleTrial(1, 1));
    CHECK_FALSE(writer.Flush());
  }
  CHECK_FALSE(reports.Messages().empty());
}

TEST_CASE("what was reported as committed survives a killed program") {
  const TemporaryDirectory folder;
  const auto path = folder / "store.db";
  std::array<int, 2> ends{};
  REQUIRE(pipe(ends.data()) == 0);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    close(ends[0]);
    Writer writer(
        StoreWithJob(path),
        [end = ends[1]](std::uint64_t ticket) {
          if (write(end, &ticket, sizeof ticket) != sizeof ticket) _exit(1);
        },
        [](const std::string&) { _exit(2); });
    for (std::uint64_t id = 1;; ++id) {
      writer.Post(SampleTrial(id, 1));  // its ticket is its id
      if (id % 16 == 0 && !writer.Flush()) _exit(3);
    }
  }
  close(ends[1]);
  std::uint64_t committed = 0;
  std::uint64_t ticket = 0;
  while (committed < 500 && read(ends[0], &ticket, sizeof ticket) == sizeof ticket) {
    committed = ticket;
  }
  kill(child, SIGKILL);
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(WIFSIGNALED(status));
  // What it reported between the last look and its end counts too.
  while (read(ends[0], &ticket, sizeof ticket) == sizeof ticket) committed = ticket;
  close(ends[0]);
  REQUIRE(committed >= 500);

  const Store store(path, Mode::kReadWrite);
  CHECK(store.LastTrialId() >= committed);
  CHECK(store.FindJob(1).value().trials == store.LastTrialId());  // no gaps
  CheckEqual(store.FindTrial(committed).value(), SampleTrial(committed, 1));
  sqlite::Database database = OpenRaw(path);
  CHECK(Strings(database, "PRAGMA integrity_check") == std::vector<std::string>{"ok"});
  CHECK(Strings(database, "PRAGMA foreign_key_check").empty());
}

}  // namespace
}  // namespace attune
