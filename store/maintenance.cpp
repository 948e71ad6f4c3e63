// Merging, pruning, copying and checking stores, in SQL over whole tables.
#include "store/maintenance.h"

#include <fmt/format.h>

#include <string_view>
#include <system_error>

#include "env/anomalies.h"
#include "env/observation.h"
#include "env/state.h"
#include "store/migrations.h"
#include "store/sqlite.h"

namespace attune {
namespace {

namespace fs = std::filesystem;
using sqlite::Cursor;
using sqlite::Database;

// A file is written anew for what is free in it where that is at least one part in so many.
constexpr std::uint64_t kWorthwhile = 10;
constexpr int kFindingsOfAKind = 100;

// Refuses what is not a store of this program's schema.
void RequireStore(const fs::path& path) { const Store store(path, Store::Mode::kReadOnly); }

Database Open(const fs::path& path, int flags) {
  Database database(path, flags | SQLITE_OPEN_URI);
  database.Script("PRAGMA busy_timeout = 5000; PRAGMA foreign_keys = ON");
  return database;
}

// The path as SQLite's URI, which can say that nothing is to be written.
std::string ReadOnlyUri(const fs::path& path) {
  std::string uri = "file:";
  for (const char c : fs::absolute(path).string()) {
    uri += c == '%' || c == '?' || c == '#' ? fmt::format("%{:02x}", static_cast<unsigned>(c))
                                            : std::string(1, c);
  }
  return uri + "?mode=ro";
}

// The schema of a store that is older than this program's.
std::optional<std::uint64_t> OlderSchema(const fs::path& path) {
  if (!fs::is_regular_file(path)) return std::nullopt;
  const std::uint64_t version = Open(path, SQLITE_OPEN_READONLY).Integer("PRAGMA user_version");
  if (version == 0 || version >= sqlite::Migrations().size()) return std::nullopt;
  return version;
}

// A file that goes with the object, and what SQLite keeps beside it.
class TemporaryFile {
 public:
  explicit TemporaryFile(fs::path path) : path_(std::move(path)) { Remove(); }
  ~TemporaryFile() { Remove(); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  [[nodiscard]] const fs::path& Path() const { return path_; }

 private:
  void Remove() const {
    for (const char* suffix : {"", "-wal", "-shm", "-journal"}) {
      std::error_code ignored;
      fs::remove(path_.string() + suffix, ignored);
    }
  }
  fs::path path_;
};

void Copy(const fs::path& from, const fs::path& to) {
  Database source = Open(from, SQLITE_OPEN_READONLY);
  Database target(to, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE);
  source.CopyTo(target);
}

// Throws StoreError where SQLite finds the copy of a store, or itself, damaged.
void RequireWhole(const fs::path& copy, const fs::path& store) {
  std::string found = "it cannot be read through";
  try {
    Database database = Open(copy, SQLITE_OPEN_READONLY);
    Cursor cursor = database.Select("PRAGMA quick_check(1)");
    if (cursor.Step()) cursor.Read(found);
  } catch (const DamagedError&) {  // it would name the copy
  }
  if (found == "ok") return;
  throw StoreError(fmt::format(
      "{} is damaged ({}): stop attuned and put a backup in its place, without the -wal "
      "and -shm beside it, or recover it with `sqlite3 {} .recover`",
      store.string(), found, store.string()));
}

// The columns of a table but the numbers that merging gives anew, `id`, `job` and `trial`: with
// `format` around each, commas between.
std::string Columns(Database& database, std::string_view table,
                    fmt::format_string<std::string&> format) {
  std::string list;
  Cursor cursor = database.Select(
      "SELECT name FROM pragma_table_info(?) WHERE name NOT IN ('id', 'job', 'trial')"
      " ORDER BY cid",
      table);
  std::string name;
  while (cursor.Step()) {
    cursor.Read(name);
    list += (list.empty() ? "" : ", ") + fmt::format(format, name);
  }
  return list;
}

// How far a job has come: trials, which are only ever added to, then steps (fewer where it was
// begun again from a checkpoint), and whether it is still to do something.
std::string Reached(std::string_view job, std::string_view schema) {
  return fmt::format(
      "((SELECT count(*) FROM {1}.trials WHERE job = {0}.id), {0}.steps,"
      " CASE {0}.outcome WHEN 0 THEN 0 WHEN 3 THEN 1 ELSE 2 END)",
      job, schema);
}

// Into temp.merging: which jobs are to be brought, and their numbers here.
void ChooseJobs(Database& database, MergeReport& report) {
  database.Script(
      "CREATE TEMP TABLE merging (source INTEGER PRIMARY KEY, target INTEGER NOT NULL,"
      " grown INTEGER NOT NULL)");
  database.Execute(
      "INSERT OR IGNORE INTO temp.merging SELECT s.id, t.id, 1 FROM source.jobs AS s"
      " JOIN main.jobs AS t ON t.key = s.key AND t.started = s.started WHERE " +
      Reached("s", "source") + " > " + Reached("t", "main"));
  report.grown_jobs = static_cast<std::uint64_t>(database.Changes());
  const std::uint64_t last = database.Integer("SELECT max(id) FROM main.jobs");
  database.Execute(
      "INSERT INTO temp.merging SELECT s.id, ? + row_number() OVER (ORDER BY s.id), 0"
      " FROM source.jobs AS s WHERE NOT EXISTS (SELECT 1 FROM main.jobs AS t"
      " WHERE t.key = s.key AND t.started = s.started)",
      last);
  report.new_jobs = static_cast<std::uint64_t>(database.Changes());
}

// Into temp.moving: their trials, and their numbers here. A job's trials are only ever added to, so
// the n-th here is the n-th there.
void ChooseTrials(Database& database, MergeReport& report) {
  database.Script(
      "CREATE TEMP TABLE moving (source INTEGER PRIMARY KEY, target INTEGER NOT NULL,"
      " job INTEGER NOT NULL)");
  database.Execute(
      "INSERT INTO temp.moving SELECT s.id, t.id, m.target FROM temp.merging AS m"
      " JOIN (SELECT id, job, row_number() OVER (PARTITION BY job ORDER BY id) AS n"
      "  FROM source.trials WHERE job IN (SELECT source FROM temp.merging WHERE grown)) AS s"
      " ON s.job = m.source"
      " JOIN (SELECT id, job, row_number() OVER (PARTITION BY job ORDER BY id) AS n"
      "  FROM main.trials WHERE job IN (SELECT target FROM temp.merging WHERE grown)) AS t"
      " ON t.job = m.target AND t.n = s.n");
  const std::uint64_t last = database.Integer("SELECT max(id) FROM main.trials");
  database.Execute(
      "INSERT INTO temp.moving SELECT s.id, ? + row_number() OVER (ORDER BY s.id), m.target"
      " FROM temp.merging AS m JOIN source.trials AS s ON s.job = m.source"
      " WHERE s.id NOT IN (SELECT source FROM temp.moving)",
      last);
  report.trials = static_cast<std::uint64_t>(database.Changes());
}

void BringRows(Database& database) {
  database.Execute("INSERT INTO main.jobs (id, " + Columns(database, "jobs", "{}") +
                   ") SELECT m.target, " + Columns(database, "jobs", "s.{}") +
                   " FROM temp.merging AS m JOIN source.jobs AS s ON s.id = m.source"
                   " WHERE true ORDER BY m.target ON CONFLICT (id) DO UPDATE SET " +
                   Columns(database, "jobs", "{0} = excluded.{0}"));
  database.Execute(
      "DELETE FROM main.anomalies"
      " WHERE job IN (SELECT target FROM temp.merging WHERE grown)");
  for (const char* table : {"sites", "windows", "anomalies"}) {
    database.Execute(
        fmt::format("INSERT OR REPLACE INTO main.{0} (job, {1}) SELECT m.target, {2}"
                    " FROM temp.merging AS m JOIN source.{0} AS s ON s.job = m.source",
                    table, Columns(database, table, "{}"), Columns(database, table, "s.{}")));
  }
  database.Execute("INSERT OR REPLACE INTO main.trials (id, job, " +
                   Columns(database, "trials", "{}") + ") SELECT m.target, m.job, " +
                   Columns(database, "trials", "s.{}") +
                   " FROM temp.moving AS m CROSS JOIN source.trials AS s ON s.id = m.source"
                   " ORDER BY m.source");
  database.Execute("INSERT OR REPLACE INTO main.trial_arrays (trial, " +
                   Columns(database, "trial_arrays", "{}") + ") SELECT m.target, " +
                   Columns(database, "trial_arrays", "s.{}") +
                   " FROM temp.moving AS m CROSS JOIN source.trial_arrays AS s"
                   " ON s.trial = m.source ORDER BY m.source");
}

// One of attune's rules: rows that break it, and how they are called. `heads` and `sites` of the
// row's job can be used in it.
struct Rule {
  const char* table;   // or a subquery
  const char* row;     // SQL: the row's name
  std::string broken;  // SQL: whether it breaks the rule
  const char* fault;
};

std::vector<Rule> Rules() {
  constexpr const char* kJob = "'job ' || r.id";
  constexpr const char* kOfJob = "'site ' || r.position || ' of job ' || r.job";
  constexpr const char* kWindow = "'window ' || r.window || ' of job ' || r.job";
  constexpr const char* kTrial = "'trial ' || r.id";
  constexpr const char* kWholeTrials =
      "(SELECT * FROM trials LEFT JOIN trial_arrays ON trial = id)";
  constexpr const char* kAnomaly = "'anomaly ' || r.position || ' of job ' || r.job";
  return {
      {"jobs", kJob, "outcome NOT BETWEEN 0 AND 3 OR budget_kind NOT BETWEEN 0 AND 1",
       "has an unknown outcome or kind of budget"},
      {"jobs", kJob, "(outcome = 0) <> (ended = 0)", "has ended and runs, or neither"},
      {"jobs", kJob, "coalesce(j.sites, 0) = 0", "has no sites"},
      {"sites", kOfJob, "kind NOT BETWEEN 0 AND 1 OR causal NOT BETWEEN 0 AND 1",
       "is of an unknown kind"},
      {"sites", kOfJob, "r.heads < 1 OR head_width < 1 OR context < 1 OR position >= j.sites",
       "has no heads, width or context, or leaves a gap before it"},
      {"windows", kWindow,
       fmt::format("length(active) <> j.heads OR length(metrics) <> j.heads * {} OR"
                   " length(profile) <> j.heads * {} OR length(mean) <> j.heads * 4 OR"
                   " length(deviation) <> j.heads * 4 OR length(difference) <> j.heads * 4 OR"
                   " length(divergence) <> j.heads * 4",
                   kMetrics * sizeof(float), kProfileBins * sizeof(float)),
       "has arrays that are not of its job's heads"},
      {"windows", kWindow, "first_step > last_step OR start_compute > end_compute",
       "ends before it begins"},
      {kWholeTrials, kTrial, "r.trial IS NULL", "has no arrays"},
      {kWholeTrials, kTrial, "has_action <> (action_scale IS NOT NULL)",
       "has an action and says that it has none, or the other way round"},
      {kWholeTrials, kTrial,
       fmt::format("length(site_offsets) <> (j.sites + 1) * 4 OR length(mask_scale) <> j.heads * {}"
                   " OR length(mask_count) <> j.sites * {} OR length(setting_scale) <> j.heads * 4"
                   " OR length(setting_gain) <> j.heads * 4 OR length(setting_active) <> j.heads",
                   kScaleChoices, kCountChoices),
       "has arrays that are not of its job's heads and sites"},
      {kWholeTrials, kTrial,
       fmt::format("action_scale IS NOT NULL AND (length(tokens) % (j.heads * 4) <> 0 OR"
                   " length(tokens) / (j.heads * 4) NOT BETWEEN {} AND {} OR"
                   " length(action_scale) <> j.heads OR length(action_count) <> j.sites OR"
                   " length(action_score) <> j.heads * 4)",
                   kOldestTokenFeatures, kTokenFeatures),
       "has an action that is not of its job's heads and sites"},
      {"trials", kTrial, "ack_status NOT BETWEEN 0 AND 4", "has an unknown answer (ack_status)"},
      {"trials", kTrial,
       // Both of these may act within a window, of which nothing may be measured any more; and a
       // policy before the first step.
       "decider NOT IN ('hand', 'governor') AND step > 0 AND NOT EXISTS"
       " (SELECT 1 FROM windows AS w WHERE w.job = r.job AND w.window = r.window)",
       "was decided on a window that is not there"},
      {"anomalies", kAnomaly,
       fmt::format("kind NOT BETWEEN 0 AND {} OR first_step > last_step OR NOT EXISTS"
                   " (SELECT 1 FROM sites AS s WHERE s.job = r.job AND s.position = r.site"
                   " AND r.head BETWEEN 0 AND s.heads - 1)",
                   kAnomalyKinds - 1),
       "is of an unknown kind, or of a head that is not there"},
  };
}

}  // namespace

void Upgrade(const fs::path& store, const std::function<void(std::uint64_t schema)>& begins) {
  const auto schema = OlderSchema(store);
  if (!schema) return;
  begins(*schema);
  const Store upgraded(store, Store::Mode::kReadWrite);
}

MergeReport Merge(const fs::path& into, const fs::path& from) {
  std::error_code missing;
  if (fs::equivalent(into, from, missing)) {
    throw StoreError(from.string() + " is the store to merge into: give another one");
  }
  // Its own schema is brought up to date in a copy: it belongs to somebody else.
  std::optional<TemporaryFile> copy;
  if (OlderSchema(from)) {
    copy.emplace(into.string() + ".merging");
    Copy(from, copy->Path());
    const Store migrated(copy->Path(), Store::Mode::kReadWrite);
  }
  const fs::path& source = copy ? copy->Path() : from;
  RequireStore(source);
  RequireWhole(source, from);  // SQLite would name the store that it is merged into
  { const Store made(into, Store::Mode::kReadWrite); }

  Database database = Open(into, SQLITE_OPEN_READWRITE);
  database.Script("PRAGMA synchronous = NORMAL; PRAGMA cache_size = -65536");
  database.Execute("ATTACH ? AS source", ReadOnlyUri(source));
  database.Script("BEGIN IMMEDIATE");
  MergeReport report;
  ChooseJobs(database, report);
  ChooseTrials(database, report);
  BringRows(database);
  database.Execute("INSERT OR IGNORE INTO main.policies SELECT * FROM source.policies");
  report.policies = static_cast<std::uint64_t>(database.Changes());
  database.Script("COMMIT");
  return report;
}

PruneReport Prune(const fs::path& store, const Retention& retention, bool only_ask) {
  RequireStore(store);
  Database database = Open(store, SQLITE_OPEN_READWRITE);
  if (database.ReadOnly()) database.Check(SQLITE_READONLY);
  // What is deleted is not written over: the file is written anew behind it.
  database.Script("PRAGMA synchronous = NORMAL; PRAGMA secure_delete = OFF");
  const auto size = [&] {
    return (database.Integer("PRAGMA page_count") - database.Integer("PRAGMA freelist_count")) *
           database.Integer("PRAGMA page_size");
  };
  PruneReport report;
  database.Script("BEGIN IMMEDIATE");
  report.bytes_before =
      database.Integer("PRAGMA page_count") * database.Integer("PRAGMA page_size");
  std::vector<PrunedJob> ended;
  {
    Cursor cursor = database.Select(
        "SELECT id, name, ended, (SELECT count(*) FROM trials WHERE trials.job = jobs.id) FROM jobs"
        " WHERE outcome <> 0 AND id <> (SELECT max(id) FROM jobs)"
        " AND id IS NOT (SELECT job FROM trials ORDER BY id DESC LIMIT 1) ORDER BY ended, id");
    while (cursor.Step()) {
      PrunedJob& job = ended.emplace_back();
      cursor.Read(job.id, job.name, job.ended, job.trials);
    }
  }
  for (PrunedJob& job : ended) {
    const bool old = retention.ended_before && job.ended < *retention.ended_before;
    const bool large = retention.most_bytes && size() > *retention.most_bytes;
    if (!old && !large) break;  // those behind it ended later
    database.Execute("DELETE FROM jobs WHERE id = ?", job.id);
    report.jobs.push_back(std::move(job));
  }
  // Room that is free already is given back where the file is too large with it, and enough of it.
  const std::uint64_t free = report.bytes_before - size();
  const bool shrinks = !report.jobs.empty() ||
                       (retention.most_bytes && report.bytes_before > *retention.most_bytes &&
                        free >= report.bytes_before / kWorthwhile);
  report.bytes_after = shrinks ? size() : report.bytes_before;
  if (only_ask) {
    database.Rollback();
    return report;
  }
  database.Script("COMMIT");
  if (!shrinks) return report;
  try {
    database.Script("VACUUM; PRAGMA wal_checkpoint(TRUNCATE)");
  } catch (const StoreError& error) {
    throw StoreError(fmt::format(
        "{} jobs are forgotten, but {} bytes are not given back: {}; new trials will use them",
        report.jobs.size(), free, error.what()));
  }
  report.bytes_after = size();
  return report;
}

void Backup(const fs::path& store, const fs::path& file, bool replace) {
  RequireStore(store);
  std::error_code failed;
  if (fs::equivalent(store, file, failed)) {
    throw StoreError(file.string() + " is the store itself: give another name");
  }
  if (fs::exists(file) && !replace) {
    throw StoreError(file.string() + " is there already: give another name, or --force");
  }
  for (const std::string_view suffix : {"-wal", "-shm", "-journal"}) {
    const std::string name = file.string();
    if (name.ends_with(suffix) && fs::exists(name.substr(0, name.size() - suffix.size()), failed)) {
      throw StoreError(name + " belongs to the store beside it: give another name");
    }
  }
  const TemporaryFile partial(file.string() + ".partial");
  Copy(store, partial.Path());
  RequireWhole(partial.Path(), store);  // before it takes the place of one that is
  // What a killed program left of the file's old content would be played back into the new one.
  for (const char* suffix : {"-wal", "-shm", "-journal"}) {
    fs::remove(file.string() + suffix, failed);
  }
  fs::rename(partial.Path(), file, failed);
  if (failed) throw StoreError("cannot name the copy " + file.string() + ": " + failed.message());
}

std::vector<std::string> Check(const fs::path& store) {
  RequireStore(store);
  Database database = Open(store, SQLITE_OPEN_READONLY);
  std::vector<std::string> findings;
  try {
    database.Script("BEGIN");  // all of it as of one moment
    {
      Cursor cursor = database.Select("PRAGMA integrity_check(100)");
      std::string line;
      while (cursor.Step()) {
        cursor.Read(line);
        if (line != "ok") findings.push_back("SQLite: " + line);
      }
    }
    {
      Cursor cursor = database.Select(
          "SELECT \"table\", coalesce(' row ' || rowid, ''), parent"
          " FROM pragma_foreign_key_check LIMIT ?",
          kFindingsOfAKind);
      std::string table;
      std::string parent;
      std::string row;
      while (cursor.Step()) {
        cursor.Read(table, row, parent);
        findings.push_back(
            fmt::format("{}{}: belongs to a row of {} that is not there", table, row, parent));
      }
    }
    for (const Rule& rule : Rules()) {
      const bool of_jobs = std::string_view(rule.table) == "jobs";
      Cursor cursor = database.Select(
          fmt::format("SELECT {} FROM {} AS r LEFT JOIN (SELECT job, sum(heads) AS heads,"
                      " count(*) AS sites FROM sites GROUP BY job) AS j ON j.job = r.{}"
                      " WHERE {} LIMIT ?",
                      rule.row, rule.table, of_jobs ? "id" : "job", rule.broken),
          kFindingsOfAKind);
      std::string row;
      while (cursor.Step()) {
        cursor.Read(row);
        findings.push_back(row + " " + rule.fault);
      }
    }
  } catch (const StoreError& error) {
    // A page that cannot be read ends the search.
    findings.emplace_back(error.what());
  }
  return findings;
}

}  // namespace attune
