// Merging, pruning, copying and checking real files.
#include "store/maintenance.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <fstream>
#include <string>
#include <vector>

#include "store/migrations.h"
#include "store/sqlite.h"
#include "tests/process/process.h"

namespace attune {
namespace {

using Catch::Matchers::Contains;
using Mode = Store::Mode;
using test::TemporaryDirectory;

// Two sites, of two heads and of one. Every job begins a second after the one before it.
JobRecord SampleJob(std::uint64_t id, const std::string& key) {
  JobRecord job;
  job.id = id;
  job.spec.key = key;
  job.spec.name = "job of " + key;
  job.spec.topology.sites = {{"first", SiteKind::kSelf, true, 2, 8, 64},
                             {"second", SiteKind::kCross, false, 1, 8, 64}};
  job.spec.budget = {BudgetKind::kSteps, 100, 0.01};
  job.spec.seed = id;
  job.started = 1700000000 + static_cast<double>(id);
  job.ended = job.started + 100;
  job.outcome = Outcome::kFinished;
  job.steps = 100;
  job.loss = 1.5;
  return job;
}

ObservationRecord SampleWindow(std::uint64_t job, std::uint32_t window) {
  ObservationRecord record;
  record.job = job;
  record.window = window;
  WindowReading& reading = record.reading;
  reading.first_step = 10 * window + 1;
  reading.last_step = 10 * window + 10;
  reading.observations = 3;
  reading.end_compute = reading.start_compute + 1;
  reading.loss = 2.5 + window;
  reading.active.assign(3, 1);
  reading.metrics.assign(3 * kMetrics, 0.25F);
  reading.profile.assign(3 * kProfileBins, 1.0F / kProfileBins);
  for (auto* values :
       {&reading.mean, &reading.deviation, &reading.difference, &reading.divergence}) {
    values->assign(3, 0.5F);
  }
  return record;
}

Trial SampleTrial(std::uint64_t id, std::uint64_t job, std::uint32_t window) {
  Trial trial;
  trial.id = id;
  trial.job = job;
  trial.window = window;
  trial.step = 10 * (window + 1);
  trial.loss = 2.25;
  trial.state.site_offsets = {0, 2, 3};
  trial.state.tokens.assign(3 * kTokenFeatures, static_cast<float>(window));
  trial.mask.scale.assign(3, {1, 1, 1, 1, 1});
  trial.mask.count.assign(2, {1, 1, 1, 1, 1});
  trial.action = Action::Keep(3, 2);
  trial.setting = Setting::Neutral(3);
  trial.decider = "kmeans";
  trial.why = "window " + std::to_string(window) + " of job " + std::to_string(job);
  return trial;
}

// A job with as many windows and trials; the trials are numbered from `trial`.
void Add(Store& store, const JobRecord& job, std::uint64_t trial, std::uint32_t trials) {
  store.Begin();
  store.Put(job);
  for (std::uint32_t window = 0; window < trials; ++window) {
    store.Put(SampleWindow(job.id, window));
    store.Put(SampleTrial(trial + window, job.id, window));
  }
  const std::vector<Anomaly> anomalies = {{1, 0, 10, 20, 1.5F, AnomalyKind::kDormant}};
  store.PutAnomalies(job.id, anomalies);
  store.Commit();
}

// Every value of every table, a line a row.
std::vector<std::string> Dump(const std::filesystem::path& path) {
  sqlite::Database database(path, SQLITE_OPEN_READONLY);
  std::vector<std::string> lines;
  for (const std::string table :
       {"jobs", "sites", "windows", "trials", "trial_arrays", "anomalies", "policies"}) {
    std::string columns;
    sqlite::Cursor names = database.Select("SELECT name FROM pragma_table_info('" + table + "')");
    std::string text;
    while (names.Step()) {
      names.Read(text);
      columns += (columns.empty() ? "" : " || ',' || ") + ("quote(" + text + ")");
    }
    sqlite::Cursor rows = database.Select("SELECT " + columns + " FROM " + table + " ORDER BY 1");
    while (rows.Step()) {
      rows.Read(text);
      lines.push_back(table + ": " + text);
    }
  }
  return lines;
}

// The store's jobs by key, with everything that belongs to them but the numbers given by stores.
std::vector<std::string> Content(const std::filesystem::path& path) {
  sqlite::Database database(path, SQLITE_OPEN_READONLY);
  std::vector<std::string> lines;
  std::string text;
  for (const std::string sql :
       {"SELECT key || started || outcome || steps || ended FROM jobs ORDER BY key, started",
        "SELECT key || started || position || sites.name || heads FROM jobs JOIN sites ON job = id"
        " ORDER BY 1",
        "SELECT key || started || window || hex(windows.metrics) || windows.loss"
        " FROM jobs JOIN windows ON job = id ORDER BY 1",
        "SELECT key || started || row_number() OVER (PARTITION BY job ORDER BY t.id) || ' ' ||"
        " window || why || quote(reward) || ack_status || hex(tokens) || created"
        " FROM jobs JOIN trials AS t ON job = jobs.id JOIN trial_arrays ON trial = t.id"
        " ORDER BY 1",
        "SELECT key || started || position || site || kind || last_step"
        " FROM jobs JOIN anomalies ON job = id ORDER BY 1"}) {
    sqlite::Cursor rows = database.Select(sql);
    while (rows.Step()) {
      rows.Read(text);
      lines.push_back(text);
    }
  }
  return lines;
}

struct Stores {
  TemporaryDirectory folder;
  std::filesystem::path into = folder.Path() / "into.db";
  std::filesystem::path from = folder.Path() / "from.db";
};

TEST_CASE("merging brings whole jobs under new numbers and leaves those that are there") {
  const Stores stores;
  {
    Store into(stores.into, Mode::kReadWrite);
    Add(into, SampleJob(1, "here"), 1, 4);
    Store from(stores.from, Mode::kReadWrite);
    Add(from, SampleJob(1, "there"), 1, 3);
    Add(from, SampleJob(2, "there too"), 4, 2);
    // Trials of jobs that ran side by side.
    from.Put(SampleWindow(1, 3));
    from.Put(SampleTrial(6, 1, 3));
    from.Put(PolicyRecord{"network", 3, 1700000000, "network.pt", 512, "cloned"});
  }
  const auto here = Dump(stores.into);
  const auto there = Dump(stores.from);
  const MergeReport report = Merge(stores.into, stores.from);
  CHECK(report.new_jobs == 2);
  CHECK(report.grown_jobs == 0);
  CHECK(report.trials == 6);
  CHECK(report.policies == 1);
  CHECK(Dump(stores.from) == there);
  const auto both = Dump(stores.into);
  for (const std::string& line : here) {
    CHECK(std::ranges::find(both, line) != both.end());
  }

  const Store into(stores.into, Mode::kReadOnly);
  CHECK(into.FindJobByKey("there")->id == 2);
  CHECK(into.FindJobByKey("there too")->id == 3);
  CHECK(into.FindJob(2)->spec == SampleJob(1, "there").spec);
  std::vector<std::uint64_t> jobs;
  std::vector<std::uint64_t> ids;
  for (const TrialRow& row : into.Trials(0, 100)) {
    ids.insert(ids.begin(), row.id);
    jobs.insert(jobs.begin(), row.job);
  }
  CHECK(ids == std::vector<std::uint64_t>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10});
  CHECK(jobs == std::vector<std::uint64_t>{1, 1, 1, 1, 2, 2, 2, 3, 3, 2});
  CHECK(into.FindTrial(10)->why == "window 3 of job 1");
  CHECK(into.FindTrial(10)->state.tokens == SampleTrial(6, 1, 3).state.tokens);
  CHECK(into.Observations(2).size() == 4);
  CHECK(into.Anomalies(3).size() == 1);
  CHECK(into.Policies().size() == 1);
}

TEST_CASE("merging into nothing makes a store with the same content") {
  const Stores stores;
  {
    Store from(stores.from, Mode::kReadWrite);
    Add(from, SampleJob(1, "a"), 1, 3);
    Add(from, SampleJob(2, "b"), 4, 3);
  }
  Merge(stores.into, stores.from);
  CHECK(Content(stores.into) == Content(stores.from));
  CHECK(Check(stores.into).empty());
}

TEST_CASE("merging a second time changes nothing") {
  const Stores stores;
  {
    Store into(stores.into, Mode::kReadWrite);
    Add(into, SampleJob(1, "here"), 1, 4);
    Store from(stores.from, Mode::kReadWrite);
    Add(from, SampleJob(1, "there"), 1, 3);
    JobRecord running = SampleJob(2, "runs");
    running.outcome = Outcome::kRunning;
    running.ended = 0;
    Add(from, running, 4, 2);
  }
  Merge(stores.into, stores.from);
  const auto once = Dump(stores.into);
  const MergeReport report = Merge(stores.into, stores.from);
  CHECK(report.new_jobs + report.grown_jobs + report.trials + report.policies == 0);
  CHECK(Dump(stores.into) == once);
}

TEST_CASE(
    "a job that was merged while it ran is brought up to date and keeps its trials' numbers") {
  const Stores stores;
  JobRecord job = SampleJob(1, "runs");
  job.outcome = Outcome::kRunning;
  job.ended = 0;
  job.steps = 20;
  {
    Store from(stores.from, Mode::kReadWrite);
    Add(from, job, 1, 2);
  }
  Merge(stores.into, stores.from);
  {
    // A daemon of its own has begun to write the merged history meanwhile.
    Store into(stores.into, Mode::kReadWrite);
    into.MarkRunningLost(1800000000);
    Add(into, SampleJob(2, "here"), 3, 1);
    Store from(stores.from, Mode::kReadWrite);
    job = SampleJob(1, "runs");
    from.Put(job);
    from.SetReward(2, 0.75);
    from.SetAcknowledgement(2, {AckStatus::kApplied, 21, ""});
    from.Put(SampleWindow(1, 2));
    from.Put(SampleTrial(3, 1, 2));
    from.PutAnomalies(1, {});
  }
  const MergeReport report = Merge(stores.into, stores.from);
  CHECK(report.new_jobs == 0);
  CHECK(report.grown_jobs == 1);
  CHECK(report.trials == 1);
  const Store into(stores.into, Mode::kReadOnly);
  CHECK(into.FindJob(1)->outcome == Outcome::kFinished);
  CHECK(into.FindJob(1)->ended == job.ended);
  CHECK(into.FindTrial(2)->reward == 0.75);
  CHECK(into.FindTrial(2)->acknowledgement.status == AckStatus::kApplied);
  CHECK(into.FindTrial(3)->job == 2);
  CHECK(into.FindTrial(4)->job == 1);
  CHECK(into.FindTrial(4)->window == 2);
  CHECK(into.Anomalies(1).empty());
  CHECK(into.Anomalies(2).size() == 1);

  SECTION("and an older copy of it changes nothing") {
    const auto newest = Dump(stores.into);
    const std::filesystem::path old = stores.folder.Path() / "old.db";
    {
      Store copy(old, Mode::kReadWrite);
      job.outcome = Outcome::kRunning;
      job.ended = 0;
      job.steps = 20;
      Add(copy, job, 1, 2);
    }
    CHECK(Merge(stores.into, old).grown_jobs == 0);
    CHECK(Dump(stores.into) == newest);
  }
}

TEST_CASE(
    "a job that was begun again from a checkpoint is brought up to date, though it stands "
    "earlier") {
  const Stores stores;
  JobRecord job = SampleJob(1, "runs");
  job.outcome = Outcome::kRunning;
  job.ended = 0;
  job.steps = 50;
  {
    Store from(stores.from, Mode::kReadWrite);
    Add(from, job, 1, 2);
  }
  Merge(stores.into, stores.from);
  {
    Store from(stores.from, Mode::kReadWrite);
    job.outcome = Outcome::kFailed;
    job.ended = 1800000000;
    job.steps = 45;
    from.Put(job);
    from.Put(SampleTrial(3, 1, 2));
  }
  CHECK(Merge(stores.into, stores.from).grown_jobs == 1);
  CHECK(Store(stores.into, Mode::kReadOnly).FindJob(1)->outcome == Outcome::kFailed);
}

TEST_CASE("jobs of one key that began at different times are two") {
  const Stores stores;
  {
    Store into(stores.into, Mode::kReadWrite);
    Add(into, SampleJob(1, "same"), 1, 1);
    Store from(stores.from, Mode::kReadWrite);
    JobRecord job = SampleJob(1, "same");
    job.started += 0.25;
    Add(from, job, 1, 2);
  }
  CHECK(Merge(stores.into, stores.from).new_jobs == 1);
  CHECK(Store(stores.into, Mode::kReadOnly).Jobs(10).size() == 2);
}

TEST_CASE("a store of an older schema is merged from a copy; one of a newer schema is refused") {
  const Stores stores;
  {
    sqlite::Database old(stores.from, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE);
    sqlite::Migrate(old, sqlite::Migrations().first(1));
    old.Script(
        "INSERT INTO jobs VALUES (7, 'old', 'old', 1, 100, 0.01, 1, 0, 1600000000, 1600000100, 1,"
        " 100, 1, NULL, NULL);"
        "INSERT INTO sites VALUES (7, 0, 'only', 0, 1, 2, 8, 64)");
  }
  const std::string bytes = test::ReadFile(stores.from);
  CHECK(Merge(stores.into, stores.from).new_jobs == 1);
  CHECK(test::ReadFile(stores.from) == bytes);
  CHECK(Store(stores.into, Mode::kReadOnly).FindJobByKey("old")->spec.topology.Heads() == 2);

  const auto merged = Dump(stores.into);
  sqlite::Database(stores.from, SQLITE_OPEN_READWRITE).Script("PRAGMA user_version = 41");
  CHECK_THROWS_WITH(Merge(stores.into, stores.from),
                    Contains(stores.from.string()) && Contains("upgrade attune"));
  CHECK(Dump(stores.into) == merged);
  std::size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(stores.folder.Path())) {
    files += entry.path().string().find("merging") != std::string::npos ? 1 : 0;
  }
  CHECK(files == 0);
}

TEST_CASE("a store is not merged with itself") {
  const Stores stores;
  { const Store store(stores.into, Mode::kReadWrite); }
  CHECK_THROWS_WITH(Merge(stores.into, stores.folder.Path() / "." / "into.db"),
                    Contains("give another"));
}

TEST_CASE("a merge that is killed leaves the store as it was") {
  const Stores stores;
  {
    Store into(stores.into, Mode::kReadWrite);
    Add(into, SampleJob(1, "here"), 1, 4);
    Store from(stores.from, Mode::kReadWrite);
    for (std::uint64_t id = 1; id <= 20; ++id) {
      Add(from, SampleJob(id, "job " + std::to_string(id)), id * 500, 500);
    }
  }
  const auto before = Content(stores.into);
  const pid_t child = fork();
  if (child == 0) {
    Merge(stores.into, stores.from);
    _exit(0);
  }
  // It is killed in the middle of its writing, or has ended by then.
  const std::filesystem::path wal = stores.into.string() + "-wal";
  int status = 0;
  std::error_code missing;
  while (waitpid(child, &status, WNOHANG) == 0) {
    if (std::filesystem::file_size(wal, missing) > 200'000 && !missing) {
      kill(child, SIGKILL);
      waitpid(child, &status, 0);
      break;
    }
  }
  const std::size_t jobs = Store(stores.into, Mode::kReadOnly).Jobs(100).size();
  CHECK((jobs == 1 || jobs == 21));
  if (jobs == 1) CHECK(Content(stores.into) == before);
  CHECK(Check(stores.into).empty());
  Merge(stores.into, stores.from);
  CHECK(Store(stores.into, Mode::kReadOnly).Jobs(100).size() == 21);
  CHECK(Store(stores.into, Mode::kReadOnly).Trials(0, 100000).size() == 10'004);
}

// Jobs 1 to 5, which ended in the order 2, 1, 4, 5; 3 still runs, and 5 has the newest trial.
void AddFive(Store& store) {
  for (std::uint64_t id = 1; id <= 5; ++id) {
    JobRecord job = SampleJob(id, "job " + std::to_string(id));
    job.ended = id == 1 ? 2000 : id == 2 ? 1000 : id == 3 ? 0 : 1000.0 * static_cast<double>(id);
    if (id == 3) job.outcome = Outcome::kRunning;
    Add(store, job, id * 100, 80);
  }
}

std::vector<std::uint64_t> Ids(const PruneReport& report) {
  std::vector<std::uint64_t> ids;
  for (const PrunedJob& job : report.jobs) ids.push_back(job.id);
  return ids;
}

TEST_CASE("an upgrade says so before it begins, and leaves alone what is up to date") {
  const TemporaryDirectory folder;
  const auto path = folder.Path() / "store.db";
  std::vector<std::uint64_t> heard;
  const auto upgrade = [&] {
    Upgrade(path, [&](std::uint64_t schema) { heard.push_back(schema); });
  };
  upgrade();
  CHECK_FALSE(std::filesystem::exists(path));
  {
    sqlite::Database old(path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE);
    sqlite::Migrate(old, sqlite::Migrations().first(2));
  }
  upgrade();
  CHECK(heard == std::vector<std::uint64_t>{2});
  CHECK(Store(path, Mode::kReadOnly).Jobs(1).empty());
  upgrade();
  CHECK(heard.size() == 1);
}

TEST_CASE("pruning by age forgets whole ended jobs and gives their space back") {
  const TemporaryDirectory folder;
  const auto path = folder.Path() / "store.db";
  {
    Store store(path, Mode::kReadWrite);
    AddFive(store);
  }
  const auto before = Dump(path);
  const PruneReport asked = Prune(path, {.ended_before = 4000.5}, true);
  CHECK(Dump(path) == before);
  const std::uintmax_t size = std::filesystem::file_size(path);
  Store(folder.Path() / "empty.db", Mode::kReadWrite);
  const std::uintmax_t empty = std::filesystem::file_size(folder.Path() / "empty.db");
  const PruneReport report = Prune(path, {.ended_before = 4000.5}, false);
  CHECK(Ids(asked) == std::vector<std::uint64_t>{2, 1, 4});
  CHECK(Ids(report) == Ids(asked));
  CHECK(report.jobs[0].trials == 80);
  CHECK(report.bytes_before == size);
  CHECK(report.bytes_after == std::filesystem::file_size(path));
  CHECK(report.bytes_after - empty < (size - empty) / 2);

  // What is left is what was there, row by row, and nothing else.
  std::vector<std::string> left;
  for (const std::string& line : Dump(path)) {
    CHECK(std::ranges::find(before, line) != before.end());
    left.push_back(line);
  }
  const Store store(path, Mode::kReadOnly);
  CHECK(store.Jobs(10).size() == 2);
  CHECK(store.FindJob(3)->outcome == Outcome::kRunning);
  CHECK(store.Trials(0, 1000).size() == 160);
  CHECK(left.size() == 2 * (1 + 2 + 80 + 80 + 80 + 1));
  CHECK(Check(path).empty());
}

TEST_CASE("pruning by size forgets as many jobs as are needed, and never the newest") {
  const TemporaryDirectory folder;
  const auto path = folder.Path() / "store.db";
  {
    Store store(path, Mode::kReadWrite);
    AddFive(store);
  }
  CHECK(Prune(path, {.most_bytes = 1 << 30}, false).jobs.empty());
  const std::uint64_t size = std::filesystem::file_size(path);
  const PruneReport one = Prune(path, {.most_bytes = size - 1}, false);
  CHECK(Ids(one) == std::vector<std::uint64_t>{2});
  CHECK(one.bytes_after < size);
  const PruneReport all = Prune(path, {.most_bytes = 0}, false);
  CHECK(Ids(all) == std::vector<std::uint64_t>{1, 4});  // 5 is the newest, 3 runs
  CHECK(Store(path, Mode::kReadOnly).LastTrialId() == 579);
}

TEST_CASE("pruning by size gives back what is free in the file, and forgets nothing for it") {
  const TemporaryDirectory folder;
  const auto path = folder.Path() / "store.db";
  {
    Store store(path, Mode::kReadWrite);
    AddFive(store);
  }
  const std::uint64_t needed = Prune(path, {.most_bytes = 1 << 30}, true).bytes_before;
  sqlite::Database(path, SQLITE_OPEN_READWRITE)
      .Script("CREATE TABLE free AS SELECT zeroblob(1000000) AS room; DROP TABLE free");
  const PruneReport asked = Prune(path, {.most_bytes = needed + 500000}, true);
  CHECK(asked.jobs.empty());
  CHECK(asked.bytes_before >= needed + 1000000);
  CHECK(asked.bytes_after < needed + 500000);
  const PruneReport report = Prune(path, {.most_bytes = needed + 500000}, false);
  CHECK(report.jobs.empty());
  CHECK(std::filesystem::file_size(path) == report.bytes_after);
  CHECK(report.bytes_after < needed + 500000);
}

TEST_CASE("a backup is whole, as of one moment, while somebody writes") {
  const TemporaryDirectory folder;
  const auto path = folder.Path() / "store.db";
  const auto copy = folder.Path() / "copy.db";
  Store store(path, Mode::kReadWrite);
  Add(store, SampleJob(1, "done"), 1, 50);
  const auto committed = Content(path);
  store.Begin();
  store.Put(SampleJob(2, "half"));
  Backup(path, copy, false);
  store.Put(SampleTrial(51, 2, 0));
  store.Commit();
  CHECK(Content(copy) == committed);
  CHECK(Check(copy).empty());

  CHECK_THROWS_WITH(Backup(path, copy, false), Contains("--force"));
  CHECK(Content(copy) == committed);
  Backup(path, copy, true);
  CHECK(Content(copy) == Content(path));
  CHECK_THROWS_WITH(Backup(path, path, true), Contains("the store itself"));
  CHECK_THROWS_AS(Backup(path, folder.Path() / "nowhere" / "copy.db", false), StoreError);
  CHECK_FALSE(std::filesystem::exists(folder.Path() / "copy.db.partial"));
}

TEST_CASE("a check finds what breaks a rule, and names it") {
  const TemporaryDirectory folder;
  const auto path = folder.Path() / "store.db";
  {
    Store store(path, Mode::kReadWrite);
    Add(store, SampleJob(1, "a"), 1, 3);
    Add(store, SampleJob(2, "b"), 4, 3);
  }
  REQUIRE(Check(path).empty());
  struct Damage {
    const char* sql;
    const char* row;
    const char* fault;
  };
  for (const Damage& damage : std::vector<Damage>{
           {"UPDATE jobs SET outcome = 9 WHERE id = 2", "job 2", "unknown outcome"},
           {"UPDATE jobs SET ended = 0 WHERE id = 2", "job 2", "has ended and runs"},
           {"DELETE FROM sites WHERE job = 2", "job 2", "no sites"},
           {"UPDATE sites SET kind = 7 WHERE job = 1 AND position = 1", "site 1 of job 1", "kind"},
           {"UPDATE sites SET position = 5 WHERE job = 1 AND position = 1", "site 5 of job 1",
            "gap"},
           {"UPDATE windows SET metrics = x'00' WHERE job = 1 AND window = 2", "window 2 of job 1",
            "heads"},
           {"UPDATE windows SET first_step = 900 WHERE job = 1 AND window = 2", "window 2 of job 1",
            "before it begins"},
           {"UPDATE trial_arrays SET setting_active = x'0101' WHERE trial = 5", "trial 5",
            "heads and sites"},
           {"UPDATE trial_arrays SET tokens = x'' WHERE trial = 5", "trial 5", "has an action"},
           {"DELETE FROM trial_arrays WHERE trial = 5", "trial 5", "no arrays"},
           {"UPDATE trials SET has_action = 0 WHERE id = 5", "trial 5", "says that it has none"},
           {"UPDATE trials SET ack_status = 5 WHERE id = 5", "trial 5", "answer"},
           {"DELETE FROM windows WHERE job = 2 AND window = 1", "trial 5", "window that is not"},
           {"UPDATE anomalies SET head = 1 WHERE job = 2", "anomaly 0 of job 2", "not there"},
           {"PRAGMA foreign_keys = OFF; UPDATE anomalies SET job = 77 WHERE job = 2", "anomalies",
            "is not there"}}) {
    const auto copy = folder.Path() / "damaged.db";
    Backup(path, copy, true);
    sqlite::Database(copy, SQLITE_OPEN_READWRITE).Script(damage.sql);
    const std::vector<std::string> findings = Check(copy);
    CAPTURE(damage.sql, findings);
    REQUIRE_FALSE(findings.empty());
    CHECK(std::ranges::any_of(findings, [&](const std::string& finding) {
      return finding.starts_with(damage.row) && finding.find(damage.fault) != std::string::npos;
    }));
  }
}

TEST_CASE("what the governor took back where nothing could be measured any more is no damage") {
  const TemporaryDirectory folder;
  const auto path = folder.Path() / "store.db";
  {
    Store store(path, Mode::kReadWrite);
    Add(store, SampleJob(1, "a"), 1, 3);
  }
  sqlite::Database(path, SQLITE_OPEN_READWRITE)
      .Script(
          "DELETE FROM windows WHERE window = 2; UPDATE trials SET decider = 'governor' "
          "WHERE window = 2");
  CHECK(Check(path).empty());
}

// A store with a job, some of whose pages are none.
void MakeDamaged(const std::filesystem::path& path) {
  {
    Store store(path, Mode::kReadWrite);
    Add(store, SampleJob(1, "a"), 1, 100);
  }
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  for (std::streamoff page = 4; page < 20; ++page) {
    file.seekp(page * 8192);
    file << "nothing that SQLite has written";
  }
}

TEST_CASE("a check finds damaged pages") {
  const TemporaryDirectory folder;
  MakeDamaged(folder.Path() / "store.db");
  CHECK_FALSE(Check(folder.Path() / "store.db").empty());
}

TEST_CASE("a damaged store takes no backup's place, and is not merged, by its own name") {
  const TemporaryDirectory folder;
  const auto path = folder.Path() / "store.db";
  const auto good = folder.Path() / "good.db";
  { const Store store(good, Mode::kReadWrite); }
  MakeDamaged(path);
  CHECK_THROWS_WITH(Backup(path, good, true), Contains(path.string() + " is damaged"));
  CHECK_THROWS_WITH(Merge(good, path), Contains(path.string() + " is damaged"));
  CHECK(Check(good).empty());
  CHECK(Store(good, Mode::kReadOnly).LastJobId() == 0);
  for (const auto& entry : std::filesystem::directory_iterator(folder.Path())) {
    CHECK_THAT(entry.path().string(), !Contains("partial"));
  }
}

TEST_CASE("a backup does not take the name of a file that belongs to a store") {
  const TemporaryDirectory folder;
  const auto path = folder.Path() / "store.db";
  const Store store(path, Mode::kReadWrite);
  for (const char* suffix : {"-wal", "-shm", "-journal"}) {
    CHECK_THROWS_WITH(Backup(path, path.string() + suffix, true),
                      Contains("belongs to the store beside it"));
  }
}

}  // namespace
}  // namespace attune
