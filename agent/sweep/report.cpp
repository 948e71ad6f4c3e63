// A sweep's report for people and for programs.
#include "agent/sweep/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <set>
#include <utility>

namespace attune::sweep {
namespace {

using nlohmann::json;

constexpr std::size_t kCurvePoints = 20;
constexpr int kBarDigits = 5;  // a bar of 1.005 that 1.0053 does not hold is to be seen

json OrNull(const std::optional<double>& value) {
  return value && std::isfinite(*value) ? json(*value) : json();
}

json ToJson(const std::optional<Figure>& figure) {
  if (!figure) return nullptr;
  const Interval& interval = figure->interval;
  return {{"mean", OrNull(interval.mean)}, {"low", OrNull(interval.low)},
          {"high", OrNull(interval.high)}, {"runs", interval.count},
          {"left_out", figure->left_out},  {"stand_ins", figure->stand_ins}};
}

std::string Text(const std::optional<Figure>& figure, int digits = 4) {
  if (!figure) return "-";
  const Interval& interval = figure->interval;
  std::string text = fmt::format("{:.{}g}", interval.mean, digits);
  if (interval.low) {
    text += fmt::format(" [{:.{}g}, {:.{}g}]", *interval.low, digits, *interval.high, digits);
  }
  return text;
}

std::string Word(const json& value) {
  if (value.is_number_float()) return fmt::format("{:.4g}", value.get<double>());
  return value.is_string() ? value.get<std::string>() : value.dump();
}

std::size_t Columns(std::string_view text) {
  return static_cast<std::size_t>(std::ranges::count_if(
      text, [](char byte) { return (static_cast<unsigned char>(byte) & 0xC0U) != 0x80U; }));
}

// Rows under a head, as aligned text or as Markdown.
struct Grid {
  std::vector<std::string> head;
  std::vector<std::vector<std::string>> rows;

  [[nodiscard]] std::string Render(bool markdown) const {
    std::vector<std::size_t> widths;
    for (const std::string& cell : head) widths.push_back(Columns(cell));
    for (const auto& row : rows) {
      for (std::size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], Columns(row[c]));
    }
    const auto line = [&](const std::vector<std::string>& cells) {
      std::string text = markdown ? "|" : "";
      for (std::size_t c = 0; c < cells.size(); ++c) {
        const std::string pad(widths[c] - Columns(cells[c]), ' ');
        text += markdown ? fmt::format(" {}{} |", cells[c], pad)
                         : fmt::format("{}{}{}", c == 0 ? "" : "  ", cells[c], pad);
      }
      while (text.back() == ' ') text.pop_back();
      return text + "\n";
    };
    std::string text = line(head);
    if (markdown) {
      text += "|";
      for (const std::size_t width : widths) text += std::string(width + 2, '-') + "|";
      text += "\n";
    }
    for (const auto& row : rows) text += line(row);
    return text;
  }
};

std::vector<std::string> ParameterNames(const Results& results) {
  std::vector<std::string> names;
  if (results.runs.empty()) return names;
  for (const auto& [name, value] : results.runs[0].run.parameters.items()) names.push_back(name);
  return names;
}

// The policies that tune within the budget, in the order of the plan.
std::vector<std::string> Tuners(const Results& results) {
  std::vector<std::string> tuners;
  for (const Result& result : results.runs) {
    if (result.run.policy != kUntuned && !results.spec.IsLonger(result.run.policy) &&
        std::ranges::find(tuners, result.run.policy) == tuners.end()) {
      tuners.push_back(result.run.policy);
    }
  }
  return tuners;
}

bool HasTwins(const Results& results) {
  return std::ranges::any_of(results.runs,
                             [](const Result& r) { return r.run.policy == kUntuned; }) &&
         !Tuners(results).empty();
}

// Runs that are repetitions of each other: one row each.
struct Group {
  const Run* run;  // the first of them
  Selection selection;
};

std::vector<Group> Groups(const Results& results) {
  std::vector<Group> groups;
  std::set<std::string> seen;
  for (const Result& result : results.runs) {
    if (!seen.insert(result.run.Group()).second) continue;
    Selection selection;
    selection.policy = result.run.policy;
    selection.where = result.run.parameters;
    groups.push_back({&result.run, std::move(selection)});
  }
  return groups;
}

// Best first where there is a result.
std::vector<Group> Ranked(const Results& results) {
  std::vector<std::pair<double, Group>> ranked;
  for (Group& group : Groups(results)) {
    const auto figure = Compute("value", results, group.selection);
    const double value = figure ? figure->interval.mean : std::nan("");
    ranked.emplace_back(results.spec.minimize ? value : -value, std::move(group));
  }
  std::ranges::stable_sort(ranked, [](const auto& a, const auto& b) {
    return std::isnan(b.first) ? !std::isnan(a.first) : a.first < b.first;
  });
  std::vector<Group> groups;
  for (auto& [value, group] : ranked) groups.push_back(std::move(group));
  return groups;
}

Grid GroupGrid(const Results& results) {
  const auto names = ParameterNames(results);
  Grid grid;
  grid.head = names;
  const bool twins = HasTwins(results);
  grid.head.insert(grid.head.end(), {"policy", "runs", results.spec.metric});
  if (twins) grid.head.insert(grid.head.end(), {"less the twin's", "compute to its result"});
  for (const Group& group : Ranked(results)) {
    const auto value = Compute("value", results, group.selection);
    // Still to be done, without a result, or with another budget than the others.
    if (!value || results.spec.IsLonger(group.run->policy)) continue;
    std::vector<std::string> row;
    for (const std::string& name : names) row.push_back(Word(group.run->parameters.at(name)));
    row.push_back(group.run->policy);
    row.push_back(std::to_string(value->interval.count));
    row.push_back(Text(value));
    if (twins) {
      row.push_back(Text(Compute("difference", results, group.selection)));
      row.push_back(Text(Compute("compute_to_target", results, group.selection)));
    }
    grid.rows.push_back(std::move(row));
  }
  return grid;
}

Grid PolicyGrid(const Results& results) {
  Grid grid;
  grid.head = {"policy",        "pairs",   "less the twin's",       "over the twin's",
               "worst of them", "compute", "compute to its result", "reached"};
  for (const std::string& policy : Tuners(results)) {
    Selection selection;
    selection.policy = policy;
    const auto figure = [&](const char* name) { return Compute(name, results, selection); };
    const auto difference = figure("difference");
    grid.rows.push_back({policy, difference ? std::to_string(difference->interval.count) : "0",
                         Text(difference), Text(figure("relative")), Text(figure("worst_relative")),
                         Text(figure("compute")), Text(figure("compute_to_target")),
                         Text(figure("reached"))});
  }
  return grid;
}

std::map<std::string, std::size_t> Endings(const Results& results) {
  std::map<std::string, std::size_t> endings;
  for (const Result& result : results.runs) {
    ++endings[result.outcome ? std::string(Name(result.outcome->ending)) : "still to be done"];
  }
  return endings;
}

double ComputeSpent(const Results& results) {
  double spent = 0;
  for (const Result& result : results.runs) {
    if (result.outcome) spent += result.outcome->cpu_seconds;
  }
  return spent;
}

std::string Summary(const Results& results) {
  std::string text;
  for (const auto& [ending, count] : Endings(results)) {
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", count, ending);
  }
  return fmt::format("{} runs: {}; {:.0f} processor seconds in all", results.runs.size(), text,
                     ComputeSpent(results));
}

// The mean metric of a group over compute, at equal steps up to where its shortest curve ends.
json Curve(const Results& results, const Selection& selection, bool by_step) {
  std::vector<std::vector<Point>> curves;
  double end = 0;
  for (const Result& result : results.runs) {
    if (result.run.policy != selection.policy || result.run.parameters != selection.where ||
        result.points.size() < 2) {
      continue;
    }
    std::vector<Point> curve = result.points;
    if (by_step) {
      for (Point& point : curve) point.compute = point.step;
    }
    end = curves.empty() ? curve.back().compute : std::min(end, curve.back().compute);
    curves.push_back(std::move(curve));
  }
  json points = json::array();
  for (std::size_t i = 0; i <= kCurvePoints && !curves.empty() && end > 0; ++i) {
    const double at = end * static_cast<double>(i) / static_cast<double>(kCurvePoints);
    std::vector<double> values;
    for (const auto& curve : curves) {
      if (const auto value = ValueAt(curve, at)) values.push_back(*value);
    }
    if (values.size() != curves.size()) continue;
    const Interval mean = Mean(values);
    points.push_back({{by_step ? "step" : "compute", at},
                      {"mean", mean.mean},
                      {"low", OrNull(mean.low)},
                      {"high", OrNull(mean.high)}});
  }
  return points;
}

std::string Failures(const Results& results) {
  constexpr std::size_t kShown = 10;
  std::string text;
  std::size_t count = 0;
  for (const Result& result : results.runs) {
    if (!result.outcome || result.outcome->ending == Ending::kFinished ||
        result.outcome->ending == Ending::kHalved) {
      continue;
    }
    if (++count <= kShown) {
      text += fmt::format("- run {} ({}): {}: {}\n", result.run.id, result.run.Describe(),
                          Name(result.outcome->ending), result.outcome->why);
    }
  }
  if (count > kShown) text += fmt::format("- and {} more: see the CSV\n", count - kShown);
  return text;
}

// Under "joined" as the report has it: how many runs are from there, and their provenance.
json Counted(json provenance, const Results& results) {
  if (!provenance.contains("joined")) return provenance;
  for (std::size_t origin = 0; origin < provenance["joined"].size(); ++origin) {
    const auto runs = std::ranges::count_if(results.runs, [&](const Result& result) {
      return result.outcome && result.outcome->origin == origin;
    });
    json theirs = std::move(provenance["joined"][origin]);
    provenance["joined"][origin] = {{"runs", runs}, {"provenance", std::move(theirs)}};
  }
  return provenance;
}

std::string Repeat(const json& provenance) {
  std::string text = DescribeOrigin(provenance);
  for (const json& origin : provenance.value("resumed", json::array())) {
    text += "\nGone on with: " + DescribeOrigin(origin);
  }
  for (const json& origin : provenance.value("joined", json::array())) {
    if (origin.at("runs") == 0) continue;  // this machine has run them itself since
    const json& theirs = origin.at("provenance");
    text += fmt::format("\nJoined: {} runs of {}", origin.at("runs").get<std::size_t>(),
                        DescribeOrigin(theirs));
    for (const json& resumed : theirs.value("resumed", json::array())) {
      text += "\n  gone on with: " + DescribeOrigin(resumed);
    }
  }
  return text;
}

std::string Render(const Results& results, const json& provenance, bool markdown) {
  const auto section = [&](const char* title) {
    return markdown ? fmt::format("\n## {}\n\n", title) : fmt::format("\n{}\n", title);
  };
  std::string text =
      markdown ? fmt::format("# Sweep {}\n\n", results.spec.name) : results.spec.name + ": ";
  text += Summary(results) + "\n";
  if (HasTwins(results)) {
    text += section("By policy, paired with the untuned twin of the same parameters and seed");
    text += PolicyGrid(results).Render(markdown);
  }
  text += section("By parameters, best first");
  text += GroupGrid(results).Render(markdown);
  if (const std::string failures = Failures(results); !failures.empty()) {
    text += section("Without a result") + failures;
  }
  if (!results.spec.bars.empty()) {
    text += section("Bars");
    for (const BarResult& bar : Judge(results)) {
      text += fmt::format("{}{}\n", markdown ? "- " : "", Describe(bar));
    }
  }
  text += section("To repeat it");
  text += Repeat(Counted(provenance, results)) + "\n";
  const auto& clusters = results.spec.clusters;
  text += fmt::format(
      "In brackets: 95 % intervals by the bootstrap over {}; where there is one alone, over its "
      "jobs or runs ({} resamples, "
      "seed {}).\n",
      clusters.empty()
          ? "jobs, each with all its seeds"
          : fmt::format("jobs that share {}, each with all its runs", fmt::join(clusters, ", ")),
      kResamples, kBootstrapSeed);
  return text;
}

std::string ForCsv(const json& value) {
  if (value.is_null()) return "";
  if (!value.is_string()) return value.dump();
  const std::string text = value;
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? "\"\"" : std::string(1, c);
  return quoted + "\"";
}

}  // namespace

json SetupOf(const Spec& spec) {
  json setup = {
      {"environment", spec.environment}, {"daemon", spec.daemon}, {"variants", json::object()}};
  for (const auto& [name, variant] : spec.variants) {
    setup["variants"][name] = {
        {"policy", variant.policy}, {"arguments", variant.arguments}, {"daemon", variant.daemon}};
  }
  return setup;
}

std::string DescribeOrigin(const json& provenance) {
  std::string packages;
  for (const auto& [name, version] : provenance.at("packages").items()) {
    packages +=
        fmt::format("{}{} {}", packages.empty() ? "" : ", ", name, version.get<std::string>());
  }
  const json& revision = provenance.at("revision");
  return fmt::format(
      "attune {}, revision {}{}; {}; {} processors ({}), {}; {}",
      provenance.at("attune").get<std::string>(),
      revision.is_null() ? "unknown" : revision.get<std::string>().substr(0, 12),
      provenance.at("modified").get<bool>() ? ", modified" : "",
      provenance.at("system").get<std::string>(), provenance.at("processors").get<int>(),
      provenance.at("processor").get<std::string>(), provenance.at("memory").get<std::string>(),
      packages.empty() ? "no packages known" : packages);
}

std::string Describe(const BarResult& result) {
  const Bar& bar = result.bar;
  const std::string claim =
      fmt::format("{} {:g}", bar.at_most ? "at most" : "at least", bar.threshold);
  const std::string end = bar.bound == "mean" ? "" : fmt::format(" ({} end)", bar.bound);
  if (!result.figure) {
    return fmt::format("FAILS  {}: {}{} {}: no run has what it needs", bar.name, bar.figure, end,
                       claim);
  }
  const Interval& interval = result.figure->interval;
  return fmt::format(
      "{}  {}: {}{} {}, is {} over {} {}{}{}", result.holds ? "holds" : "FAILS", bar.name,
      bar.figure, end, claim, Text(result.figure, kBarDigits), interval.count,
      bar.figure == "gap_closed" ? (interval.count == 1 ? "job" : "jobs")
                                 : (interval.count == 1 ? "run" : "runs"),
      result.figure->stand_ins == 0
          ? ""
          : fmt::format(", {} of them by a longer budget", result.figure->stand_ins),
      result.figure->left_out == 0 ? "" : fmt::format("; {} left out", result.figure->left_out));
}

json ReportJson(const Results& results, const json& provenance) {
  json report = {{"sweep", results.spec.name},
                 {"metric", results.spec.metric},
                 {"command", results.spec.command},
                 {"setup", SetupOf(results.spec)},
                 {"goal", results.spec.minimize ? "minimize" : "maximize"},
                 {"provenance", Counted(provenance, results)},
                 {"bootstrap", {{"resamples", kResamples}, {"seed", kBootstrapSeed}}},
                 {"endings", Endings(results)},
                 {"cpu_seconds", ComputeSpent(results)},
                 {"policies", json::object()},
                 {"groups", json::array()},
                 {"bars", json::array()},
                 {"runs", json::array()}};
  if (HasTwins(results)) {
    for (const std::string& policy : Tuners(results)) {
      Selection selection;
      selection.policy = policy;
      for (const std::string_view name : kFigureNames) {
        report["policies"][policy][std::string(name)] = ToJson(Compute(name, results, selection));
      }
    }
  }
  for (const Group& group : Ranked(results)) {
    json row = {{"parameters", group.run->parameters},
                {"policy", group.run->policy},
                {"curve_over_compute", Curve(results, group.selection, false)},
                {"curve_over_steps", Curve(results, group.selection, true)}};
    for (const std::string_view name : kFigureNames) {
      row[std::string(name)] = ToJson(Compute(name, results, group.selection));
    }
    report["groups"].push_back(std::move(row));
  }
  for (const BarResult& bar : Judge(results)) {
    report["bars"].push_back({{"name", bar.bar.name},
                              {"figure", bar.bar.figure},
                              {"bound", bar.bar.bound},
                              {bar.bar.at_most ? "at_most" : "at_least", bar.bar.threshold},
                              {"result", ToJson(bar.figure)},
                              {"holds", bar.holds}});
  }
  for (const Result& result : results.runs) {
    json row = {{"run", result.run.id},
                {"parameters", result.run.parameters},
                {"policy", result.run.policy},
                {"seed", result.run.seed},
                {"ending", nullptr}};
    if (result.outcome) {
      const RunOutcome& outcome = *result.outcome;
      row.update({{"ending", Name(outcome.ending)},
                  {"why", outcome.why},
                  {"value", outcome.last ? json(outcome.last->value) : json()},
                  {"step", outcome.last ? json(outcome.last->step) : json()},
                  {"compute", outcome.last ? json(outcome.last->compute) : json()},
                  {"seconds", outcome.seconds},
                  {"cpu_seconds", outcome.cpu_seconds},
                  {"memory", outcome.memory},
                  {"host", outcome.host},
                  {"origin", outcome.origin ? json(*outcome.origin) : json()},
                  {"status", outcome.status},
                  {"started", outcome.started},
                  {"fields", outcome.last ? json(outcome.last->fields) : json::object()},
                  {"points", json::array()}});
      for (const Point& point : result.points) {
        row["points"].push_back({point.step, point.compute, point.value});
      }
    }
    report["runs"].push_back(std::move(row));
  }
  return report;
}

std::string ReportJsonText(const Results& results, const json& provenance) {
  const json report = ReportJson(results, provenance);
  std::string text = "{";
  for (const auto& [key, value] : report.items()) {
    text += fmt::format("{}\n \"{}\": ", text.size() == 1 ? "" : ",", key);
    if (value.is_array() && !value.empty()) {
      std::string rows;
      for (const json& row : value) rows += (rows.empty() ? "[\n  " : ",\n  ") + row.dump();
      text += rows + "\n ]";
    } else {
      text += value.dump();
    }
  }
  return text + "\n}\n";
}

std::string ReportText(const Results& results, const json& provenance) {
  return Render(results, provenance, false);
}

std::string ReportMarkdown(const Results& results, const json& provenance) {
  return Render(results, provenance, true);
}

std::string ReportCsv(const Results& results) {
  const auto names = ParameterNames(results);
  std::string text = "run";
  for (const std::string& name : names) text += "," + ForCsv(name);
  text += ",policy,seed,ending,why,value,step,compute,seconds,cpu_seconds,memory,host\r\n";
  const json report = ReportJson(results, json::object());
  for (const json& run : report.at("runs")) {
    text += run.at("run").dump();
    for (const std::string& name : names) text += "," + ForCsv(run.at("parameters").at(name));
    for (const char* key : {"policy", "seed", "ending", "why", "value", "step", "compute",
                            "seconds", "cpu_seconds", "memory", "host"}) {
      text += "," + (run.contains(key) ? ForCsv(run.at(key)) : "");
    }
    text += "\r\n";
  }
  return text;
}

}  // namespace attune::sweep
