// Merging two stores of a million trials each, beside a bare INSERT … SELECT of the same tables.
//
//   attune-bench-merge [TRIALS [FOLDER]]
//
// Prints one line of JSON: seconds of both, and their ratio. Needs about 5 GB in FOLDER (default:
// the temporary one) for a million trials.
#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <string>

#include "store/maintenance.h"
#include "store/sqlite.h"

namespace {

using namespace attune;
namespace fs = std::filesystem;

constexpr std::uint32_t kTrialsOfAJob = 100;
constexpr std::uint32_t kHeads = 8;

JobRecord MakeJob(std::uint64_t id) {
  JobRecord job;
  job.id = id;
  job.spec.key = fmt::format("{:032x}", id * 0x9e3779b97f4a7c15U);
  job.spec.name = fmt::format("run {}", id);
  job.spec.topology.sites = {{"block0.attention", SiteKind::kSelf, true, kHeads / 2, 64, 1024},
                             {"block1.attention", SiteKind::kSelf, true, kHeads / 2, 64, 1024}};
  job.spec.budget = {BudgetKind::kSteps, 1000, 0.01};
  job.spec.seed = id;
  job.started = 1.7e9 + static_cast<double>(id);
  job.ended = job.started + 100;
  job.outcome = Outcome::kFinished;
  job.steps = 1000;
  job.loss = 1.5;
  return job;
}

Trial MakeTrial() {
  Trial trial;
  trial.state.site_offsets = {0, kHeads / 2, kHeads};
  trial.state.tokens.assign(kHeads * kTokenFeatures, 0.25F);
  trial.mask.scale.assign(kHeads, {1, 1, 1, 1, 1});
  trial.mask.count.assign(2, {1, 1, 1, 1, 1});
  trial.action = Action::Keep(kHeads, 2);
  trial.setting = Setting::Neutral(kHeads);
  trial.decider = "kmeans";
  trial.why = "every head within its cluster; nothing stands out in this window";
  trial.reward = 0.01;
  return trial;
}

ObservationRecord MakeWindow() {
  ObservationRecord window;
  WindowReading& reading = window.reading;
  reading.observations = 5;
  reading.active.assign(kHeads, 1);
  reading.metrics.assign(kHeads * kMetrics, 0.5F);
  reading.profile.assign(kHeads * kProfileBins, 1.0F / kProfileBins);
  for (auto* values :
       {&reading.mean, &reading.deviation, &reading.difference, &reading.divergence}) {
    values->assign(kHeads, 0.5F);
  }
  return window;
}

void Fill(const fs::path& path, std::uint64_t trials) {
  Store store(path, Store::Mode::kReadWrite);
  Trial trial = MakeTrial();
  ObservationRecord window = MakeWindow();
  for (std::uint64_t job = 1; trial.id < trials; ++job) {
    store.Begin();
    store.Put(MakeJob(job));
    trial.job = window.job = job;
    for (std::uint32_t i = 0; i < kTrialsOfAJob && trial.id < trials; ++i) {
      ++trial.id;
      trial.window = window.window = i;
      trial.step = window.reading.last_step = 10 * (i + 1);
      store.Put(window);
      store.Put(trial);
    }
    store.Commit();
  }
}

template <typename Work>
double Seconds(const Work& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// What nobody has to look for: every row, its numbers moved by as much as is known beforehand.
void InsertAll(const fs::path& into, const fs::path& from, std::uint64_t jobs,
               std::uint64_t trials) {
  sqlite::Database database(into, SQLITE_OPEN_READWRITE);
  database.Script("PRAGMA synchronous = NORMAL; PRAGMA cache_size = -65536");
  database.Execute("ATTACH ? AS source", from.string());
  database.Script("BEGIN IMMEDIATE");
  for (const std::string table :
       {"jobs", "sites", "windows", "anomalies", "trials", "trial_arrays"}) {
    std::string columns;
    {
      sqlite::Cursor cursor = database.Select("SELECT name FROM pragma_table_info(?)", table);
      std::string name;
      while (cursor.Step()) {
        cursor.Read(name);
        columns += columns.empty() ? "" : ", ";
        columns += name == "job" || (name == "id" && table == "jobs")
                       ? fmt::format("{} + {}", name, jobs)
                   : name == "id" || name == "trial" ? fmt::format("{} + {}", name, trials)
                                                     : name;
      }
    }
    database.Script(fmt::format("INSERT INTO main.{0} SELECT {1} FROM source.{0}", table, columns));
  }
  database.Script("COMMIT");
}

}  // namespace

int main(int argc, char** argv) {
  const std::uint64_t trials = argc > 1 ? std::stoull(argv[1]) : 1'000'000;
  const fs::path folder =
      (argc > 2 ? fs::path(argv[2]) : fs::temp_directory_path()) / "attune-bench-merge";
  fs::remove_all(folder);
  fs::create_directories(folder);
  const fs::path from = folder / "from.db";
  const fs::path into = folder / "into.db";
  const fs::path ours = folder / "ours.db";
  Fill(from, trials);
  fs::copy_file(from, into);
  // Other runs, and other numbers than those that they come from.
  sqlite::Database(into, SQLITE_OPEN_READWRITE).Script("UPDATE jobs SET started = started + 0.5");
  const std::uint64_t jobs = (trials + kTrialsOfAJob - 1) / kTrialsOfAJob;

  fs::copy_file(into, ours);
  const double merge = Seconds([&] { Merge(ours, from); });
  const std::uint64_t rows =
      sqlite::Database(ours, SQLITE_OPEN_READONLY).Integer("SELECT count(*) FROM trials");
  fs::remove(ours);
  const double reference = Seconds([&] { InsertAll(into, from, jobs, trials); });
  fs::remove_all(folder);
  if (rows != 2 * trials) {
    fmt::print(stderr, "attune-bench-merge: {} trials instead of {}\n", rows, 2 * trials);
    return 1;
  }
  fmt::print(R"({{"name":"merge","ours":{:.3f},"reference":{:.3f},"unit":"s","ratio":{:.3f}}})"
             "\n",
             merge, reference, merge / reference);
  return 0;
}
