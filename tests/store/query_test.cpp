// Lists, pages, groups and people's own SQL, over a real store.
#include "store/query.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <functional>
#include <random>
#include <set>

#include "env/observation.h"
#include "store/sqlite.h"
#include "tests/process/process.h"

namespace attune {
namespace {

using Catch::Matchers::Contains;
using test::TemporaryDirectory;

constexpr double kNow = 2e9;

JobRecord MakeJob(std::uint64_t id) {
  JobRecord job;
  job.id = id;
  job.spec.key = "key-" + std::to_string(id);
  job.spec.name = id % 2 == 0 ? "even" : "odd";
  job.spec.topology.sites = {{"first", SiteKind::kSelf, true, 2, 8, 64},
                             {"second", SiteKind::kSelf, true, 2, 8, 64}};
  job.spec.budget = {BudgetKind::kSteps, 100, 0.01};
  job.started = 1e9 + static_cast<double>(id);
  job.outcome = static_cast<Outcome>(id % 4);
  if (id % 3 != 0) job.validation_loss = 1.0 / static_cast<double>(id);
  return job;
}

Trial MakeTrial(std::uint64_t id, std::uint64_t job, std::mt19937_64& random) {
  Trial trial;
  trial.id = id;
  trial.job = job;
  trial.window = static_cast<std::uint32_t>(id % 7);
  trial.step = random() % 5;  // many ties
  trial.loss = static_cast<double>(random() % 4);
  trial.decider = random() % 2 == 0 ? "kmeans" : "keep";
  trial.why = "because";
  trial.state.site_offsets = {0, 2, 4};
  trial.state.tokens.assign(4 * kTokenFeatures, 0);
  trial.mask.scale.resize(4);
  trial.mask.count.resize(2);
  trial.setting = Setting::Neutral(4);
  trial.acknowledgement.status = static_cast<AckStatus>(random() % 5);
  if (random() % 3 != 0) trial.reward = static_cast<double>(random() % 6) / 10;
  return trial;
}

// A store of 5 jobs and 300 trials.
class Filled {
 public:
  Filled() : store(Path(), Store::Mode::kReadWrite) {
    std::mt19937_64 random(3);
    store.Begin();
    for (std::uint64_t job = 1; job <= 5; ++job) store.Put(MakeJob(job));
    for (std::uint64_t id = 1; id <= 300; ++id) store.Put(MakeTrial(id, 1 + random() % 5, random));
    const std::vector<Anomaly> anomalies = {{1, 1, 10, 20, 1.5F, AnomalyKind::kDormant},
                                            {0, 0, 5, 20, 2.5F, AnomalyKind::kSaturated}};
    store.PutAnomalies(2, anomalies);
    store.PutAnomalies(4, anomalies);
    store.Commit();
  }
  [[nodiscard]] std::filesystem::path Path() const { return directory.Path() / "attune.db"; }
  [[nodiscard]] Page Ask(const Query& query) const { return History(Path()).Select(query, kNow); }

  TemporaryDirectory directory;
  Store store;
};

std::int64_t Whole(const Cell& cell) { return std::get<std::int64_t>(cell); }
std::string Text(const Cell& cell) { return std::get<std::string>(cell); }

TEST_CASE("lists show the newest first, words as words and times as times") {
  const Filled filled;
  const Page page = filled.Ask({.listing = Listing::kJobs, .limit = 2});
  REQUIRE(page.rows.size() == 2);
  CHECK(page.columns.at(2) == "outcome");
  CHECK(Whole(page.rows[0][0]) == 5);
  CHECK(Text(page.rows[0][2]) == "finished");
  CHECK(Text(page.rows[0][3]) == "2001-09-09T01:46:45Z");
  CHECK(page.next == "4");
  const Page anomalies = filled.Ask({.listing = Listing::kAnomalies, .job = 4});
  REQUIRE(anomalies.rows.size() == 2);
  CHECK(Text(anomalies.rows[0][1]) == "second");
  CHECK(Text(anomalies.rows[0][3]) == "dormant");
}

TEST_CASE("pages one after the other show every row once, in order, while rows are added behind") {
  Filled filled;
  std::mt19937_64 random(5);
  const std::vector<std::vector<std::string>> sorts = {{},
                                                       {"reward"},
                                                       {"-reward"},
                                                       {"loss", "-reward"},
                                                       {"trial"},
                                                       {"-decider", "step"},
                                                       {"ack", "-ack_step"},
                                                       {"-created", "reward", "-loss"},
                                                       {"-trial"},
                                                       {"-reward", "-job", "window"}};
  for (const auto& sort : sorts) {
    for (const char* where : {"", "loss < 3 and not decider = keep"}) {
      Query query{.where = where, .sort = sort, .limit = 1000};
      const Page all = filled.Ask(query);
      std::vector<std::int64_t> expected;
      for (const auto& row : all.rows) expected.push_back(Whole(row[0]));
      CHECK(std::set(expected.begin(), expected.end()).size() == expected.size());
      std::vector<std::int64_t> seen;
      do {
        query.limit = 1 + random() % 40;
        const Page page = filled.Ask(query);
        for (const auto& row : page.rows) seen.push_back(Whole(row[0]));
        query.after = page.next;
      } while (!query.after.empty());
      INFO(where << " by " << (sort.empty() ? "" : sort[0]));
      CHECK(seen == expected);
    }
  }
  // New trials come first in the list of the newest: pages behind do not move.
  Query query{.limit = 100};
  const Page first = filled.Ask(query);
  filled.store.Put(MakeTrial(301, 1, random));
  query.after = first.next;
  CHECK(Whole(filled.Ask(query).rows[0][0]) == 200);
}

TEST_CASE("null sorts below every value, up and down") {
  const Filled filled;
  const auto up = filled.Ask({.sort = {"reward"}, .limit = 1000}).rows;
  const auto down = filled.Ask({.sort = {"-reward"}, .limit = 1000}).rows;
  CHECK(std::holds_alternative<std::monostate>(up.front()[10]));
  CHECK(std::get<double>(up.back()[10]) == 0.5);
  CHECK(std::holds_alternative<std::monostate>(down.back()[10]));
}

TEST_CASE("groups show counts, means and quantiles that a naive computation gives") {
  const Filled filled;
  const Page groups =
      filled.Ask({.where = "loss < 3",
                  .limit = 100,
                  .group_by = {"decider", "ack"},
                  .show = {"count", "mean(reward)", "p50(reward)", "p90(reward)", "max(trial)"}});
  CHECK(groups.columns == std::vector<std::string>{"decider", "ack", "count", "mean(reward)",
                                                   "p50(reward)", "p90(reward)", "max(trial)"});
  CHECK(groups.rows.size() == 10);
  for (const auto& group : groups.rows) {
    const auto rows = filled
                          .Ask({.where = "loss < 3 and decider = " + Text(group[0]) +
                                         " and ack = " + Text(group[1]),
                                .limit = 1000})
                          .rows;
    std::vector<double> rewards;
    for (const auto& row : rows) {
      if (const auto* reward = std::get_if<double>(&row[10])) rewards.push_back(*reward);
    }
    std::ranges::sort(rewards);
    double sum = 0;
    for (const double reward : rewards) sum += reward;
    const auto quantile = [&](double q) {
      const double place = q * static_cast<double>(rewards.size() - 1);
      const auto below = static_cast<std::size_t>(place);
      const double high = rewards[std::min(below + 1, rewards.size() - 1)];
      return rewards[below] + (place - std::floor(place)) * (high - rewards[below]);
    };
    CHECK(Whole(group[2]) == static_cast<std::int64_t>(rows.size()));
    CHECK(std::get<double>(group[3]) == Approx(sum / static_cast<double>(rewards.size())));
    CHECK(std::get<double>(group[4]) == Approx(quantile(0.5)));
    CHECK(std::get<double>(group[5]) == Approx(quantile(0.9)));
    CHECK(Whole(group[6]) == Whole(rows[0][0]));
  }
}

TEST_CASE("groups are sorted by what they show, and say that there are more than the limit") {
  const Filled filled;
  const Query query{.sort = {"-mean(loss)", "count"},
                    .group_by = {"decider", "ack"},
                    .show = {"count", "mean(loss)"}};
  const Page all = filled.Ask(query);
  CHECK_FALSE(all.cut);
  CHECK(std::ranges::is_sorted(all.rows, std::greater<>(), [](const std::vector<Cell>& row) {
    return std::get<double>(row[3]);
  }));
  Query three = query;
  three.limit = 3;
  const Page some = filled.Ask(three);
  CHECK(some.cut);
  CHECK(some.next.empty());
  CHECK(some.rows == std::vector(all.rows.begin(), all.rows.begin() + 3));
}

TEST_CASE("what a question gets wrong is said") {
  const Filled filled;
  CHECK_THROWS_WITH(filled.Ask({.sort = {"loss"}, .group_by = {"ack"}}),
                    Contains("sorted by what they show, ack, count"));
  CHECK_THROWS_WITH(filled.Ask({.after = "3", .group_by = {"ack"}}), Contains("one page"));
  CHECK_THROWS_WITH(filled.Ask({.where = "rewrd > 1"}), Contains("--where, column 1"));
  CHECK_THROWS_WITH(filled.Ask({.sort = {"-rewrd"}}), Contains("did you mean reward?"));
  CHECK_THROWS_WITH(filled.Ask({.group_by = {"decidr"}}), Contains("did you mean decider?"));
  CHECK_THROWS_WITH(filled.Ask({.group_by = {"ack"}, .show = {"median(reward)"}}),
                    Contains("no function 'median'"));
  CHECK_THROWS_WITH(filled.Ask({.group_by = {"ack"}, .show = {"p101(reward)"}}),
                    Contains("p0 to p100"));
  CHECK_THROWS_WITH(filled.Ask({.group_by = {"ack"}, .show = {"mean(why)"}}),
                    Contains("has no numbers"));
  CHECK_THROWS_WITH(filled.Ask({.show = {"count"}}), Contains("--group-by"));
  CHECK_THROWS_WITH(filled.Ask({.after = "x"}), Contains("--after 'x'"));
  CHECK_THROWS_WITH(filled.Ask({.sort = {"loss"}, .after = "9999"}),
                    Contains("not there any more"));
  CHECK_THROWS_WITH(filled.Ask({.listing = Listing::kAnomalies, .after = "4"}),
                    Contains("--after '4'"));
}

TEST_CASE("the words of the history are those of the program") {
  const auto words = [](Listing listing, std::string_view name) {
    return FindField(name, Fields(listing)).words;
  };
  const auto outcomes = words(Listing::kJobs, "outcome");
  for (std::size_t i = 0; i < outcomes.size(); ++i) CHECK(outcomes[i] == Name(Outcome(i)));
  const auto acks = words(Listing::kTrials, "ack");
  for (std::size_t i = 0; i < acks.size(); ++i) CHECK(acks[i] == Name(AckStatus(i)));
  const auto kinds = words(Listing::kAnomalies, "kind");
  for (std::size_t i = 0; i < kinds.size(); ++i) CHECK(kinds[i] == Name(AnomalyKind(i)));
  const auto budgets = words(Listing::kJobs, "budget_kind");
  for (std::size_t i = 0; i < budgets.size(); ++i) CHECK(budgets[i] == Name(BudgetKind(i)));
}

TEST_CASE("the views say what the lists say") {
  const Filled filled;
  History history(filled.Path());
  const auto jobs = history.Sql(
      "SELECT job, outcome, started_at, trials, heads FROM history_jobs "
      "ORDER BY job DESC");
  const Page list = filled.Ask({.listing = Listing::kJobs});
  REQUIRE(jobs.rows.size() == list.rows.size());
  for (std::size_t i = 0; i < jobs.rows.size(); ++i) {
    CHECK(jobs.rows[i][1] == list.rows[i][2]);
    CHECK(jobs.rows[i][2] == list.rows[i][3]);
    CHECK(jobs.rows[i][3] == list.rows[i][8]);
    CHECK(jobs.rows[i][4] == list.rows[i][10]);
  }
  const auto trials =
      history.Sql("SELECT trial, ack, ack_step, reward FROM history_trials ORDER BY trial DESC");
  const Page listed = filled.Ask({.limit = 1000});
  REQUIRE(trials.rows.size() == listed.rows.size());
  for (std::size_t i = 0; i < trials.rows.size(); ++i) {
    CHECK(trials.rows[i][1] == listed.rows[i][8]);
    CHECK(trials.rows[i][2] == listed.rows[i][9]);
    CHECK(trials.rows[i][3] == listed.rows[i][10]);
  }
  CHECK(history.Sql("SELECT site, kind FROM history_anomalies WHERE job = 2").rows ==
        std::vector<std::vector<Cell>>{{std::string("second"), std::string("dormant")},
                                       {std::string("first"), std::string("saturated")}});
}

TEST_CASE("SQL of one's own reads, one statement at a time, and changes nothing") {
  const Filled filled;
  History history(filled.Path());
  CHECK(Whole(history.Sql("SELECT count(*) FROM trials; ").rows[0][0]) == 300);
  CHECK(std::get<double>(
            history
                .Sql("WITH v(x) AS (VALUES (1.0), (2.0), (4.0), (NULL)) SELECT quantile(x, 0.75) "
                     "FROM v")
                .rows[0][0]) == 3.0);
  CHECK(Text(history.Sql("SELECT x'0aff'").rows[0][0]) == "x'0aff'");
  for (const char* table : {"trials", "history_jobs"}) {
    CHECK(history.Sql("SELECT name FROM pragma_table_info('" + std::string(table) + "')")
              .rows.size() > 5);
  }
  CHECK_THAT(Text(history.Sql("SELECT zeroblob(100)").rows[0][0]), Contains("(100 bytes)"));
  for (const char* text :
       {"DELETE FROM jobs", "UPDATE jobs SET name = ''", "INSERT INTO jobs DEFAULT VALUES",
        "DROP TABLE jobs", "ATTACH 'x.db' AS x", "PRAGMA user_version = 9", "VACUUM",
        "CREATE TEMP TABLE x (y)", "SELECT load_extension('x')", "BEGIN"}) {
    INFO(text);
    CHECK_THROWS_AS(history.Sql(text), FilterError);
  }
  CHECK_THROWS_WITH(history.Sql("SELECT 1; SELECT 2"), Contains("column 11: one statement"));
  CHECK_THROWS_WITH(history.Sql("SELECT nowhere FROM jobs"), Contains("column 8: no such column"));
  CHECK_THROWS_WITH(history.Sql(" -- nothing"), Contains("no statement"));
  CHECK(filled.Ask({.listing = Listing::kJobs}).rows.size() == 5);
}

TEST_CASE("a sorted page and a time range are found through an index") {
  const Filled filled;
  History history(filled.Path());
  const auto plan = [&](const std::string& sql) {
    std::string text;
    for (const auto& row : history.Sql("EXPLAIN QUERY PLAN " + sql).rows)
      text += Text(row[3]) + "\n";
    return text;
  };
  CHECK_THAT(plan("SELECT why FROM trials WHERE loss < 3 ORDER BY reward DESC, id DESC LIMIT 50"),
             Contains("trials_by_reward") && !Contains("B-TREE"));
  CHECK_THAT(plan("SELECT why FROM trials WHERE created > 5 ORDER BY created, id LIMIT 50"),
             Contains("trials_by_created (created>?)") && !Contains("B-TREE"));
  CHECK_THAT(plan("SELECT why FROM trials WHERE decider = 'hand' ORDER BY id DESC LIMIT 50"),
             Contains("trials_by_decider (decider=?)") && !Contains("B-TREE"));
}

}  // namespace
}  // namespace attune
