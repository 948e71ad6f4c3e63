#include "agent/sweep/join.h"

#include <fmt/format.h>

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace attune::sweep {
namespace {

using nlohmann::json;

struct Over {
  Run run;
  RunOutcome outcome;
  std::vector<Point> points;
};

// The runs of a report that are over, but for halved ones.
std::vector<Over> RunsOf(const json& report) {
  std::vector<Over> runs;
  for (const json& row : report.at("runs")) {
    if (row.at("ending").is_null()) continue;
    Over over;
    over.run.parameters = row.at("parameters");
    over.run.policy = row.at("policy");
    over.run.seed = row.at("seed");
    RunOutcome& outcome = over.outcome;
    outcome.ending = EndingFrom(row.at("ending").get<std::string>());
    if (outcome.ending == Ending::kHalved) continue;
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
    for (const json& point : row.at("points")) {
      over.points.push_back({point.at(0), point.at(1), point.at(2)});
    }
    runs.push_back(std::move(over));
  }
  return runs;
}

}  // namespace

Joined Join(const Folder& folder, const json& report) {
  std::vector<Over> runs;
  json origins = json::array();
  const Spec spec = folder.ReadSpec();
  try {
    if (report.at("sweep") != spec.name || report.at("metric") != spec.metric) {
      throw SweepError(fmt::format("the report is of sweep '{}' ({}), not of '{}' ({})",
                                   report.at("sweep").get<std::string>(),
                                   report.at("metric").get<std::string>(), spec.name, spec.metric));
    }
    runs = RunsOf(report);
    origins.push_back({{"provenance", report.at("provenance")}});
  } catch (const json::exception& error) {
    throw SweepError(
        fmt::format("this is no report that can be joined; give the .json that attune sweep report "
                    "of this version writes ({})",
                    error.what()));
  }

  const auto key = [](const Run& run) { return fmt::format("{} {}", run.Group(), run.seed); };
  std::map<std::string, std::uint64_t> planned;
  std::set<std::string> here;  // pairs
  for (const Run& run : folder.ReadRuns()) {
    planned[key(run)] = run.id;
    if (folder.ReadOutcome(run.id)) here.insert(run.Pair());
  }
  Joined joined;
  std::vector<Over> taken;
  for (Over& over : runs) {
    const auto place = planned.find(key(over.run));
    if (place == planned.end()) {
      ++joined.unplanned;
    } else if (here.contains(over.run.Pair())) {
      ++joined.left_out;
    } else {
      over.outcome.id = place->second;
      taken.push_back(std::move(over));
    }
  }
  joined.runs = taken.size();
  if (taken.empty()) return joined;

  // What the report itself had joined comes from where it came from.
  json& provenance = origins[0]["provenance"];
  origins[0]["runs"] = joined.runs;
  if (provenance.contains("joined")) {
    for (const json& further : provenance["joined"]) origins.push_back(further);
    provenance.erase("joined");
  }
  folder.AddOrigins(origins);
  for (const Over& over : taken) {
    folder.WritePoints(over.outcome.id, over.points);
    folder.WriteOutcome(over.outcome);
  }
  return joined;
}

}  // namespace attune::sweep
