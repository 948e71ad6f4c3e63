// compare: two jobs side by side.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <set>

#include "agent/cli/command.h"
#include "store/query.h"

namespace attune::cli {
namespace {

using nlohmann::json;

// A job's figures by name, in the order in which they are shown.
using Figures = std::vector<std::pair<std::string, json>>;

// The smoothed loss where the job had used so much compute, linearly between windows; null before
// the first and behind the last.
json LossAt(const std::vector<ObservationRecord>& windows, double compute) {
  const WindowReading* before = nullptr;
  for (const ObservationRecord& window : windows) {
    const WindowReading& reading = window.reading;
    if (reading.end_compute >= compute) {
      if (before == nullptr) return reading.end_compute == compute ? json(reading.loss) : json();
      const double share =
          (compute - before->end_compute) / (reading.end_compute - before->end_compute);
      return before->loss + share * (reading.loss - before->loss);
    }
    before = &reading;
  }
  return nullptr;
}

std::map<std::string, int> Counts(History& history, const std::string& sql) {
  std::map<std::string, int> counts;
  for (const auto& row : history.Sql(sql).rows) {
    counts[std::get<std::string>(row[0])] = static_cast<int>(std::get<std::int64_t>(row[1]));
  }
  return counts;
}

std::string Text(const std::map<std::string, int>& counts) {
  std::string text;
  for (const auto& [name, count] : counts) {
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", name, count);
  }
  return text;
}

Figures Describe(const JobRecord& job, const Store& store, History& history) {
  const JobSpec& spec = job.spec;
  std::set<std::string> shapes;
  for (const Site& site : spec.topology.sites) {
    shapes.insert(fmt::format("{}x{}", site.heads, site.head_width));
  }
  const auto windows = store.Observations(job.id);
  json active;
  if (!windows.empty()) active = CountActive(windows.back().reading.active);
  const auto of = [&](const char* what) {
    return Text(Counts(history, fmt::format("SELECT {0}, count(*) FROM history_trials WHERE job = "
                                            "{1} GROUP BY {0}",
                                            what, job.id)));
  };
  const auto reward =
      history.Sql(fmt::format("SELECT sum(reward) FROM history_trials WHERE job = {}", job.id));
  return {
      {"name", spec.name},
      {"outcome", Name(job.outcome)},
      {"policy", spec.policy},
      {"seed", spec.seed},
      {"learning_rate", spec.learning_rate},
      {"optimizer", spec.optimizer},
      {"fresh", spec.fresh},
      {"budget", fmt::format("{:g} {}", spec.budget.amount,
                             spec.budget.kind == BudgetKind::kCompute ? "processor s" : "steps")},
      {"sites", spec.topology.sites.size()},
      {"heads x width", fmt::format("{}", fmt::join(shapes, ", "))},
      {"steps", job.steps},
      {"compute_seconds", job.compute_seconds},
      {"loss", job.loss ? json(*job.loss) : json()},
      {"validation_loss", job.validation_loss ? json(*job.validation_loss) : json()},
      {"active_heads", active},
      {"trials", job.trials},
      {"deciders", of("decider")},
      {"acks", of("ack")},
      {"reward", std::holds_alternative<double>(reward.rows[0][0])
                     ? json(std::get<double>(reward.rows[0][0]))
                     : json()},
      {"anomalies", Text(Counts(history, fmt::format("SELECT kind, count(*) FROM "
                                                     "history_anomalies WHERE job = {} GROUP "
                                                     "BY kind",
                                                     job.id)))}};
}

}  // namespace

int CompareJobs(const std::vector<std::string>& words) {
  const Arguments arguments = Parse("compare", words);
  if (!arguments.Has("a") || !arguments.Has("b")) {
    throw UsageError("which two jobs? see attune jobs");
  }
  const Store store = OpenHistory(arguments.paths);
  History history(arguments.paths.Store());
  std::array<Figures, 2> figures;
  std::array<std::vector<ObservationRecord>, 2> windows;
  const std::array<std::uint64_t, 2> ids = {arguments.Get<std::uint64_t>("a"),
                                            arguments.Get<std::uint64_t>("b")};
  for (std::size_t side = 0; side < 2; ++side) {
    const auto job = store.FindJob(ids[side]);
    if (!job) {
      fmt::print(stderr, "attune: there is no job {}; see attune jobs\n", ids[side]);
      return kNothing;
    }
    figures[side] = Describe(*job, store, history);
    windows[side] = store.Observations(ids[side]);
  }
  // The loss at quarters of the compute that both have used.
  if (!windows[0].empty() && !windows[1].empty()) {
    const double end =
        std::min(windows[0].back().reading.end_compute, windows[1].back().reading.end_compute);
    for (int quarter = 1; quarter <= 4; ++quarter) {
      const double compute = end * quarter / 4;
      for (std::size_t side = 0; side < 2; ++side) {
        figures[side].emplace_back(fmt::format("loss at {:.4g} s", compute),
                                   LossAt(windows[side], compute));
      }
    }
  }
  Table table({"", fmt::format("job {}", ids[0]), fmt::format("job {}", ids[1]), "difference"});
  for (std::size_t row = 0; row < figures[0].size(); ++row) {
    const json& a = figures[0][row].second;
    const json& b = figures[1][row].second;
    table.Add({figures[0][row].first, a, b,
               a.is_number() && b.is_number() ? json(b.get<double>() - a.get<double>()) : json()});
  }
  return Print(table, arguments.format, "");
}

}  // namespace attune::cli
