// jobs, trials, anomalies, sql: questions to the history.
#include <fmt/format.h>

#include <chrono>
#include <sstream>
#include <utility>

#include "agent/cli/command.h"
#include "store/query.h"

namespace attune::cli {
namespace {

using nlohmann::json;

std::vector<std::string> Split(const std::string& text) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, ',');) {
    part.erase(0, part.find_first_not_of(' '));
    part.erase(part.find_last_not_of(' ') + 1);
    parts.push_back(std::move(part));
  }
  return parts;
}

Table ToTable(const Page& page) {
  Table table(page.columns);
  for (const auto& row : page.rows) {
    std::vector<json> cells;
    for (const Cell& cell : row) {
      cells.push_back(std::visit(
          [](const auto& content) {
            if constexpr (std::is_same_v<std::decay_t<decltype(content)>, std::monostate>) {
              return json();
            } else {
              return json(content);
            }
          },
          cell));
    }
    table.Add(std::move(cells));
  }
  return table;
}

int List(Listing listing, const Arguments& arguments, std::uint64_t job, const std::string& empty) {
  const auto text = [&](const char* flag) {
    return arguments.Has(flag) ? arguments.Get<std::string>(flag) : std::string();
  };
  Query query;
  query.listing = listing;
  query.where = text("where");
  query.job = job;
  query.sort = Split(text("sort"));
  query.limit = arguments.Get<std::size_t>("limit");
  query.after = text("after");
  query.group_by = Split(text("group-by"));
  query.show = Split(text("show"));
  const double now =
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  History history(arguments.paths.Store());
  Page page;
  try {
    page = history.Select(query, now);
  } catch (const FilterError& error) {
    throw UsageError(error.what());
  }
  const int status = Print(ToTable(page), arguments.format, empty);
  if (!page.next.empty()) fmt::print(stderr, "there are more: --after {}\n", page.next);
  if (page.cut) fmt::print(stderr, "there are more: --limit {}\n", 10 * query.limit);
  return status;
}

}  // namespace

int ListJobs(const std::vector<std::string>& words) {
  const Arguments arguments = Parse("jobs", words);
  return List(Listing::kJobs, arguments, arguments.Get<std::uint64_t>("job"),
              "no job found; start one with attune run");
}

int ListTrials(const std::vector<std::string>& words) {
  const Arguments arguments = Parse("trials", words);
  return List(Listing::kTrials, arguments, arguments.Get<std::uint64_t>("job"),
              "no trial found; see attune jobs");
}

int ListAnomalies(const std::vector<std::string>& words) {
  const Arguments arguments = Parse("anomalies", words);
  auto job = arguments.Get<std::uint64_t>("job");
  if (job != 0 || (!arguments.Has("where") && !arguments.Has("group-by"))) {
    const Store store = OpenHistory(arguments.paths);
    if (job == 0) job = store.LastJobId();
    if (job == 0) {
      fmt::print(stderr, "attune: there is no job yet\n");
      return kNothing;
    }
    if (!store.FindJob(job)) {
      fmt::print(stderr, "attune: there is no job {}; see attune jobs\n", job);
      return kNothing;
    }
  }
  return List(Listing::kAnomalies, arguments, job, "no anomaly found");
}

int Sql(const std::vector<std::string>& words) {
  const Arguments arguments = Parse("sql", words);
  if (!arguments.Has("query"))
    throw UsageError("give a question, such as 'SELECT * FROM history_jobs'");
  History history(arguments.paths.Store());
  try {
    return Print(ToTable(history.Sql(arguments.Get<std::string>("query"))), arguments.format,
                 "no row");
  } catch (const FilterError& error) {
    throw UsageError(error.what());
  }
}

}  // namespace attune::cli
