#include "agent/sweep/join.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "agent/sweep/report.h"
#include "agent/sweep/task.h"

namespace attune::sweep {
namespace {

using nlohmann::json;

struct Ended {
  Run run;
  RunOutcome outcome;
  std::vector<Point> points;
  std::optional<std::size_t> origin;  // of the report's: it had joined the run itself
};

// The runs of a report that are over.
std::vector<Ended> RunsOf(const json& report) {
  std::vector<Ended> runs;
  for (const json& row : report.at("runs")) {
    if (row.at("ending").is_null()) continue;
    Ended ended;
    ended.run.parameters = row.at("parameters");
    ended.run.policy = row.at("policy");
    ended.run.seed = row.at("seed");
    RunOutcome& outcome = ended.outcome;
    const auto ending = EndingFrom(row.at("ending").get<std::string>());
    if (!ending) {
      throw SweepError(
          fmt::format("the report's run {} has an unknown ending", row.at("run").dump()));
    }
    outcome.ending = *ending;
    outcome.why = row.at("why");
    outcome.status = row.at("status");
    outcome.started = row.at("started");
    outcome.seconds = row.at("seconds");
    outcome.cpu_seconds = row.at("cpu_seconds");
    outcome.memory = row.at("memory");
    outcome.host = row.at("host");
    if (!row.at("value").is_null()) {
      outcome.last = Point{row.at("step"), row.at("compute"), row.at("value"), row.at("fields")};
    }
    if (!row.at("origin").is_null()) ended.origin = row.at("origin");
    for (const json& point : row.at("points")) {
      ended.points.push_back({point.at(0), point.at(1), point.at(2)});
    }
    runs.push_back(std::move(ended));
  }
  return runs;
}

}  // namespace

Joined Join(const Folder& folder, const json& report) {
  std::vector<Ended> runs;
  std::set<std::string> unfinished;  // pairs
  json own;                          // provenance of what the report's machine has run itself
  std::vector<json> others;          // and of what it had joined
  const Spec spec = folder.ReadSpec();
  try {
    if (report.at("sweep") != spec.name || report.at("metric") != spec.metric) {
      throw SweepError(fmt::format("the report is of sweep '{}' ({}), not of '{}' ({})",
                                   report.at("sweep").get<std::string>(),
                                   report.at("metric").get<std::string>(), spec.name, spec.metric));
    }
    if (report.at("command") != spec.command) {
      throw SweepError(
          "the report's runs had another command than this sweep's; join it to a sweep "
          "of the same file");
    }
    // Variants that one of the two lacks have no runs to join.
    const json ours = SetupOf(spec);
    const json& theirs = report.at("setup");
    for (const auto& [name, variant] : theirs.at("variants").items()) {
      if (ours.at("variants").contains(name) && ours.at("variants").at(name) != variant) {
        throw SweepError(fmt::format(
            "variant '{}' was another in the report's sweep; join it to a sweep of the same file",
            name));
      }
    }
    if (ours.at("environment") != theirs.at("environment") ||
        ours.at("daemon") != theirs.at("daemon")) {
      throw SweepError(
          "the report's runs had another [environment] or [daemon] than this sweep's; join it to a "
          "sweep of the same file");
    }
    runs = RunsOf(report);
    for (const json& row : report.at("runs")) {
      if (!row.at("ending").is_null()) continue;
      Run run;
      run.parameters = row.at("parameters");
      run.seed = row.at("seed");
      unfinished.insert(run.Pair());
    }
    own = report.at("provenance");
    static_cast<void>(DescribeOrigin(own));  // throws where a report could not show it
    for (const json& origin : own.value("joined", json::array())) {
      others.push_back(origin.at("provenance"));
    }
    own.erase("joined");
    for (const Ended& ended : runs) {
      if (ended.origin && *ended.origin >= others.size()) {
        throw SweepError("the report's runs are from where its provenance does not say");
      }
    }
  } catch (const json::exception& error) {
    throw SweepError(
        fmt::format("this is no report that can be joined; give the .json that attune sweep report "
                    "of this version writes ({})",
                    error.what()));
  }

  const auto key = [](const Run& run) { return fmt::format("{} {}", run.Group(), run.seed); };
  const auto when = [](const RunOutcome& outcome) {
    return fmt::format("{} {}", outcome.host, outcome.started);
  };
  std::set<std::string> theirs;
  std::map<std::string, const RunOutcome*> outcome_of;
  for (const Ended& ended : runs) {
    theirs.insert(when(ended.outcome));
    outcome_of[key(ended.run)] = &ended.outcome;
  }
  // What failed on the other machine when it was joined, and has been done there again since.
  const auto is_redone = [&](const Run& run, const RunOutcome& outcome) {
    const auto now = outcome_of.find(key(run));
    return now != outcome_of.end() && outcome.origin && outcome.ending != Ending::kFinished &&
           outcome.host == now->second->host && outcome.started < now->second->started;
  };
  std::map<std::string, std::uint64_t> planned;
  std::set<std::uint64_t> joined_before;
  std::set<std::string> taken_pairs;
  for (const Run& run : folder.ReadRuns()) {
    planned[key(run)] = run.id;
    const auto outcome = folder.ReadOutcome(run.id);
    if (outcome && theirs.contains(when(*outcome))) joined_before.insert(run.id);
    const bool of_others = outcome && !theirs.contains(when(*outcome)) && !is_redone(run, *outcome);
    // A task that a killed runner has left goes on.
    if (of_others || IsHeld(folder.Of(run.id) / "lock")) taken_pairs.insert(run.Pair());
  }
  Joined joined;
  std::vector<Ended> taken;
  for (Ended& ended : runs) {
    const auto place = planned.find(key(ended.run));
    if (place == planned.end()) {
      ++joined.unplanned;
    } else if (taken_pairs.contains(ended.run.Pair())) {
      ++joined.left_out;
    } else if (!joined_before.contains(place->second)) {
      ended.outcome.id = place->second;
      joined.incomplete += unfinished.contains(ended.run.Pair()) ? 1 : 0;
      taken.push_back(std::move(ended));
    }
  }
  joined.runs = taken.size();
  std::map<std::optional<std::size_t>, std::size_t> numbers;  // of their origins, here
  for (Ended& ended : taken) {
    auto number = numbers.find(ended.origin);
    if (number == numbers.end()) {
      const json& provenance = ended.origin ? others[*ended.origin] : own;
      number = numbers.emplace(ended.origin, folder.AddOrigin(provenance)).first;
    }
    ended.outcome.origin = number->second;
    folder.WritePoints(ended.outcome.id, ended.points);
    folder.WriteOutcome(ended.outcome);
  }
  return joined;
}

}  // namespace attune::sweep
