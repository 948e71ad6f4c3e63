// Expands a sweep into its runs.
#include "agent/sweep/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/random/sobol.hpp>
#include <cmath>
#include <limits>
#include <random>
#include <set>

namespace attune::sweep {
namespace {

using nlohmann::json;

constexpr std::size_t kMostRuns = 100'000;

// Points in the unit cube, [samples × dimensions].
std::vector<std::vector<double>> Draw(const Spec& spec, std::size_t dimensions) {
  std::mt19937_64 random(spec.sampler_seed);
  const auto unit = [&random] {
    return static_cast<double>(random() >> 11U) * 0x1p-53;  // the same on every machine
  };
  std::vector<std::vector<double>> points(spec.samples, std::vector<double>(dimensions));
  if (dimensions == 0) return points;
  if (spec.sampler == Sampler::kRandom) {
    for (auto& point : points) std::ranges::generate(point, unit);
    return points;
  }
  // Sobol's sequence, shifted by a random vector modulo 1 (Cranley and Patterson 1976), so that
  // another seed gives another set of the same evenness.
  std::vector<double> shift(dimensions);
  std::ranges::generate(shift, unit);
  boost::random::sobol sequence(dimensions);
  constexpr double kEnd = 0x1p64;
  for (auto& point : points) {
    for (std::size_t d = 0; d < dimensions; ++d) {
      const double x = static_cast<double>(sequence()) / kEnd + shift[d];
      point[d] = x - std::floor(x);
    }
  }
  return points;
}

json Stretch(const Range& range, double unit) {
  switch (range.scale) {
    case Scale::kUniform:
      return range.low + unit * (range.high - range.low);
    case Scale::kLogUniform:
      return range.low * std::pow(range.high / range.low, unit);
    case Scale::kIntegers:
      break;
  }
  const double value = range.low + std::floor(unit * (range.high - range.low + 1));
  return static_cast<std::int64_t>(std::min(value, range.high));
}

Run MakeRun(const Spec& spec, std::uint64_t id, const json& parameters, const std::string& policy,
            std::uint64_t seed) {
  Run run{id, parameters, policy, seed, {}, {}};
  const auto value = [&](const std::string& name) -> std::string {
    if (name == "seed") return std::to_string(seed);
    if (name == "run") return std::to_string(id);
    if (name == "policy") return policy;
    if (name == "directory") return "{directory}";  // known to the task alone
    return CommandWord(parameters.at(name));
  };
  for (const std::string& word : spec.command) run.command.push_back(Fill(word, value));
  for (const auto& [name, text] : spec.environment) run.environment[name] = Fill(text, value);
  const auto variant = spec.variants.find(policy);
  const bool varies = variant != spec.variants.end();
  if (varies) {
    for (const std::string& word : variant->second.arguments) {
      run.command.push_back(Fill(word, value));
    }
  }
  if (spec.Tunes(policy)) {
    run.environment["ATTUNE_POLICY"] = varies ? variant->second.policy : policy;
  } else {
    run.environment["ATTUNE_MODE"] = "off";
  }
  return run;
}

}  // namespace

std::string Run::Pair() const { return json{{"parameters", parameters}, {"seed", seed}}.dump(); }

std::string Run::Group() const {
  return json{{"parameters", parameters}, {"policy", policy}}.dump();
}

std::string CommandWord(const json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

std::string Run::Describe() const {
  std::string text;
  for (const auto& [name, value] : parameters.items()) {
    text += fmt::format(
        "{} {}, ", name,
        value.is_number_float() ? fmt::format("{:.4g}", value.get<double>()) : CommandWord(value));
  }
  return fmt::format("{}policy {}, seed {}", text, policy, seed);
}

std::vector<Run> PlanRuns(const Spec& spec) {
  // The grid's axes, the last varying fastest.
  std::vector<json> points = spec.cases.empty() ? std::vector<json>{json::object()} : spec.cases;
  std::vector<std::string> policies;
  std::vector<const Parameter*> ranges;
  for (const Parameter& parameter : spec.parameters) {
    const auto* values = std::get_if<std::vector<json>>(&parameter.values);
    if (values == nullptr) {
      ranges.push_back(&parameter);
    } else if (parameter.name == "policy") {
      for (const json& value : *values) policies.push_back(value);
    } else {
      if (points.size() * values->size() > kMostRuns) throw SweepError("too many runs");
      std::vector<json> extended;
      for (const json& point : points) {
        for (const json& value : *values) {
          extended.push_back(point);
          extended.back()[parameter.name] = value;
        }
      }
      points = std::move(extended);
    }
  }
  const auto draws = Draw(spec, ranges.size());
  const double count = static_cast<double>(points.size()) * static_cast<double>(draws.size()) *
                       static_cast<double>(spec.seeds.size()) *
                       static_cast<double>(std::max<std::size_t>(policies.size(), 1) + 1);
  if (count > kMostRuns) {
    throw SweepError(
        fmt::format("{}: that would be {} runs, more than {}; take fewer values, "
                    "samples or seeds",
                    spec.name, count, kMostRuns));
  }
  std::vector<Run> runs;
  std::set<std::string> planned;
  for (const auto& draw : draws) {
    for (const json& point : points) {
      json parameters = point;
      for (std::size_t d = 0; d < ranges.size(); ++d) {
        parameters[ranges[d]->name] = Stretch(std::get<Range>(ranges[d]->values), draw[d]);
      }
      std::vector<std::string> who = policies;
      if (const auto own = parameters.find("policy"); own != parameters.end()) {
        who = {own->get<std::string>()};  // of the case
        parameters.erase(own);
      }
      if (who.empty()) who = {spec.twin ? "auto" : std::string(kUntuned)};
      if (spec.twin && std::ranges::find(who, kUntuned) == who.end()) {
        who.insert(who.begin(), std::string(kUntuned));
      }
      for (const std::uint64_t seed : spec.seeds) {
        for (const std::string& policy : who) {
          Run run = MakeRun(spec, runs.size() + 1, parameters, policy, seed);
          // Cases that differ in their policy share a twin.
          if (planned.insert(run.Pair() + policy).second) runs.push_back(std::move(run));
        }
      }
    }
  }
  return runs;
}

}  // namespace attune::sweep
