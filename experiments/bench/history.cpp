// The history beside bare SQLite: inserting trials, pages of a large store, opening it.
//
//   attune-bench-history insert [TRIALS [FOLDER]]   rows per second, as the daemon writes them
//   attune-bench-history page [TRIALS [FOLDER]]     filtered, sorted pages; milliseconds
//
// The store of `page` (default: 10,000,000 trials, some 8 GB) is made once and kept in FOLDER
// (default: build/bench). The last line is JSON.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <concepts>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "store/query.h"
#include "store/sqlite.h"

namespace {

using namespace attune;
namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using nlohmann::json;

constexpr std::uint64_t kJobs = 1000;
constexpr std::size_t kHeads = 2;
constexpr std::size_t kBatch = 256;  // trials in a transaction, as Writer takes them together

double Seconds(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double Median(std::vector<double> values) {
  std::ranges::nth_element(values, values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2));
  return values[values.size() / 2];
}

JobRecord MakeJob(std::uint64_t id) {
  JobRecord job;
  job.id = id;
  job.spec.key = fmt::format("{:032x}", id);
  job.spec.name = "run";
  job.spec.topology.sites = {{"attention", SiteKind::kSelf, true, kHeads, 64, 1024}};
  job.spec.budget = {BudgetKind::kSteps, 1000, 0.01};
  job.started = 1.7e9;
  job.outcome = Outcome::kFinished;
  return job;
}

class Trials {
 public:
  Trials() {
    trial_.state.site_offsets = {0, kHeads};
    trial_.state.tokens.assign(kHeads * kTokenFeatures, 0.25F);
    trial_.mask.scale.assign(kHeads, {1, 1, 1, 1, 1});
    trial_.mask.count.assign(1, {1, 1, 1, 1, 1});
    trial_.action = Action::Keep(kHeads, 1);
    trial_.setting = Setting::Neutral(kHeads);
    trial_.why = "every head within its cluster";
  }
  const Trial& Next() {
    constexpr std::array<const char*, 4> kDeciders = {"kmeans", "keep", "network", "governor"};
    ++trial_.id;
    trial_.job = 1 + trial_.id / 24 % kJobs;
    trial_.window = static_cast<std::uint32_t>(trial_.id % 24);
    trial_.decider = kDeciders[random_() % kDeciders.size()];
    trial_.loss = unit_(random_);
    trial_.reward = unit_(random_) - 0.5;
    return trial_;
  }

 private:
  Trial trial_;
  std::mt19937_64 random_{1};
  std::uniform_real_distribution<double> unit_;
};

void Remove(const fs::path& store) {
  for (const char* suffix : {"", "-wal", "-shm"}) fs::remove(store.string() + suffix);
}

void Fill(Store& store, Trials& trials, std::uint64_t count) {
  for (std::uint64_t done = 0; done < count;) {
    store.Begin();
    for (std::size_t i = 0; i < kBatch && done < count; ++i, ++done) store.Put(trials.Next());
    store.Commit();
  }
}

// A prepared statement and the values of its parameters, bound in order as they are.
class BareStatement {
 public:
  BareStatement(sqlite::Database& database, const char* sql) : database_(database) {
    sqlite3_stmt* raw = nullptr;
    database_.Check(
        sqlite3_prepare_v3(database_.Handle(), sql, -1, SQLITE_PREPARE_PERSISTENT, &raw, nullptr));
    statement_.reset(raw);
  }
  template <std::integral T>
  void Bind(T value) {
    sqlite3_bind_int64(statement_.get(), ++index_, static_cast<sqlite3_int64>(value));
  }
  void Bind(double value) { sqlite3_bind_double(statement_.get(), ++index_, value); }
  void Bind(const std::string& value) {
    sqlite3_bind_text(statement_.get(), ++index_, value.data(), static_cast<int>(value.size()),
                      SQLITE_STATIC);
  }
  template <typename T>
  void Bind(const std::vector<T>& values) {
    sqlite3_bind_blob(statement_.get(), ++index_, values.data(),
                      static_cast<int>(values.size() * sizeof(T)), SQLITE_STATIC);
  }
  void Run() {
    database_.Check(sqlite3_step(statement_.get()) == SQLITE_DONE ? SQLITE_OK : SQLITE_ERROR);
    sqlite3_reset(statement_.get());
    index_ = 0;
  }

 private:
  sqlite::Database& database_;
  std::unique_ptr<sqlite3_stmt, sqlite::Finalize> statement_;
  int index_ = 0;
};

// The same rows into the same schema, by a bare prepared statement for each of the two tables.
void FillBare(sqlite::Database& database, Trials& trials, std::uint64_t count) {
  BareStatement row(
      database,
      "INSERT INTO trials (id, job, window, step, created, loss, imbalance, active_heads, decider,"
      " why, policy_version, log_probability, ack_status, ack_step, ack_why, reward, has_action)"
      " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
  BareStatement arrays(
      database,
      "INSERT INTO trial_arrays (trial, site_offsets, tokens, mask_scale, mask_count,"
      " action_scale, action_count, action_score, setting_scale, setting_gain, setting_active)"
      " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
  const auto run = [](BareStatement& statement, const auto&... values) {
    (statement.Bind(values), ...);
    statement.Run();
  };
  for (std::uint64_t done = 0; done < count;) {
    database.Script("BEGIN IMMEDIATE");
    for (std::size_t i = 0; i < kBatch && done < count; ++i, ++done) {
      const Trial& trial = trials.Next();
      run(row, trial.id, trial.job, trial.window, trial.step, 1.7e9, trial.loss, trial.imbalance,
          kHeads, trial.decider, trial.why, trial.policy_version, trial.log_probability,
          static_cast<int>(trial.acknowledgement.status), trial.acknowledgement.step,
          trial.acknowledgement.why, *trial.reward, 1);
      run(arrays, trial.id, trial.state.site_offsets, trial.state.tokens, trial.mask.scale,
          trial.mask.count, trial.action->scale, trial.action->count, trial.action->score,
          trial.setting.scale, trial.setting.gain, trial.setting.active);
    }
    database.Script("COMMIT");
  }
}

void AddJobs(Store& store) {
  store.Begin();
  for (std::uint64_t id = 1; id <= kJobs; ++id) store.Put(MakeJob(id));
  store.Commit();
}

void TimeInsertions(std::uint64_t count, const fs::path& folder) {
  constexpr int kRounds = 5;
  std::vector<double> ours;
  std::vector<double> bare;
  const fs::path path = folder / "insert.db";
  for (int round = 0; round < kRounds; ++round) {
    for (const bool is_ours : {true, false}) {
      Remove(path);
      Store store(path, Store::Mode::kReadWrite);
      AddJobs(store);
      Trials trials;
      if (is_ours) {
        const auto start = Clock::now();
        Fill(store, trials, count);
        ours.push_back(static_cast<double>(count) / Seconds(start));
      } else {
        sqlite::Database database(path, SQLITE_OPEN_READWRITE);
        database.Script("PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON");
        const auto start = Clock::now();
        FillBare(database, trials, count);
        bare.push_back(static_cast<double>(count) / Seconds(start));
      }
    }
  }
  Remove(path);
  fmt::print("{}\n", json{{"name", "insert"},
                          {"ours", Median(ours)},
                          {"reference", Median(bare)},
                          {"unit", "trials/s"},
                          {"ratio", Median(ours) / Median(bare)}}
                         .dump());
}

void TimePages(std::uint64_t count, const fs::path& folder) {
  constexpr int kRounds = 101;
  const fs::path path = folder / fmt::format("page-{}.db", count);
  if (!fs::exists(path)) {
    fmt::print(stderr, "making a store of {} trials\n", count);
    const fs::path part = path.string() + ".part";
    Remove(part);
    {
      Store store(part, Store::Mode::kReadWrite);
      AddJobs(store);
      // Its indexes are made when it is full, which takes a tenth of the time.
      sqlite::Database database(part, SQLITE_OPEN_READWRITE);
      database.Script("PRAGMA synchronous = OFF; PRAGMA cache_size = -1000000");
      std::vector<std::pair<std::string, std::string>> indexes;
      {
        sqlite::Cursor cursor = database.Select(
            "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND tbl_name = 'trials'");
        std::string name;
        std::string sql;
        while (cursor.Step()) {
          cursor.Read(name, sql);
          indexes.emplace_back(name, sql);
        }
      }
      for (const auto& [name, sql] : indexes) database.Script("DROP INDEX " + name);
      Trials trials;
      FillBare(database, trials, count);
      for (const auto& [name, sql] : indexes) {
        fmt::print(stderr, "index {}\n", name);
        database.Script(sql);
      }
    }
    fs::rename(part, path);
  }
  std::vector<double> openings;
  for (int round = 0; round < 9; ++round) {
    const auto start = Clock::now();
    const Store store(path, Store::Mode::kReadOnly);
    static_cast<void>(store.LastTrialId());
    openings.push_back(1e3 * Seconds(start));
  }

  constexpr std::string_view kColumns =
      "SELECT id, job, window, step, loss, imbalance, active_heads, decider, ack_status,"
      " CASE ack_status WHEN 0 THEN NULL ELSE ack_step END, reward,"
      " CASE ack_why WHEN '' THEN why ELSE why || ' (' || ack_why || ')' END FROM trials ";
  struct Case {
    const char* name;
    Query query;
    std::string sql;
  };
  const std::string half = std::to_string(count / 2);
  const std::vector<Case> cases = {
      {"best of one decider",
       {.where = "reward > 0.01 and decider = kmeans", .sort = {"-reward"}},
       "WHERE reward > 0.01 AND decider = 'kmeans' ORDER BY reward DESC, id DESC LIMIT 51"},
      {"newest of one decider",
       {.where = "decider = governor and loss < 0.5"},
       "WHERE decider = 'governor' AND loss < 0.5 ORDER BY id DESC LIMIT 51"},
      {"worst of a job",
       {.where = "job = 7 and reward is not null", .sort = {"reward"}},
       "WHERE job = 7 AND reward IS NOT NULL ORDER BY reward, id LIMIT 51"},
      {"page from the middle",
       {.where = "loss < 0.5", .after = half},
       "WHERE loss < 0.5 AND id < " + half + " ORDER BY id DESC LIMIT 51"},
  };
  History history(path);
  sqlite::Database database(path, SQLITE_OPEN_READONLY);
  json list = json::array();
  double worst = 0;
  double slowest = 0;
  for (const Case& item : cases) {
    std::vector<double> ours;
    std::vector<double> bare;
    for (int round = 0; round < kRounds; ++round) {
      auto start = Clock::now();
      const auto page = history.Select(item.query, 2e9);
      ours.push_back(1e3 * Seconds(start));
      start = Clock::now();
      sqlite3_stmt* raw = nullptr;
      const std::string sql = std::string(kColumns) + item.sql;
      database.Check(sqlite3_prepare_v2(database.Handle(), sql.c_str(), -1, &raw, nullptr));
      const std::unique_ptr<sqlite3_stmt, sqlite::Finalize> statement(raw);
      std::vector<std::vector<Cell>> rows;
      while (sqlite3_step(raw) == SQLITE_ROW) {
        auto& row = rows.emplace_back(12);
        for (int column = 0; column < 12; ++column) {
          Cell& cell = row[static_cast<std::size_t>(column)];
          switch (sqlite3_column_type(raw, column)) {
            case SQLITE_INTEGER:
              cell = std::int64_t{sqlite3_column_int64(raw, column)};
              break;
            case SQLITE_FLOAT:
              cell = sqlite3_column_double(raw, column);
              break;
            case SQLITE_TEXT:
              cell = reinterpret_cast<const char*>(sqlite3_column_text(raw, column));
              break;
            default:
              break;
          }
        }
      }
      bare.push_back(1e3 * Seconds(start));
      if (rows.empty() || page.rows.size() != std::min<std::size_t>(rows.size(), 50) ||
          page.rows[0][0] != rows[0][0]) {
        throw std::runtime_error("the two do not agree");
      }
    }
    const double ratio = Median(ours) / Median(bare);
    worst = std::max(worst, ratio);
    slowest = std::max(slowest, *std::ranges::max_element(ours));
    list.push_back({{"page", item.name},
                    {"ours", Median(ours)},
                    {"slowest", *std::ranges::max_element(ours)},
                    {"reference", Median(bare)},
                    {"ratio", ratio}});
    fmt::print(stderr, "{}\n", list.back().dump());
  }
  fmt::print("{}\n", json{{"name", "page"},
                          {"trials", count},
                          {"ours", slowest},
                          {"unit", "ms"},
                          {"ratio", worst},
                          {"pages", list},
                          {"open_ms", *std::ranges::max_element(openings)}}
                         .dump());
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  if (what != "insert" && what != "page") {
    fmt::print(stderr, "usage: attune-bench-history insert|page [TRIALS [FOLDER]]\n");
    return 2;
  }
  const std::uint64_t count = argc > 2         ? std::stoull(argv[2])
                              : what == "page" ? 10'000'000
                                               : 50'000;
  const fs::path folder = argc > 3 ? argv[3] : "build/bench";
  fs::create_directories(folder);
  what == "page" ? TimePages(count, folder) : TimeInsertions(count, folder);
  return 0;
}
