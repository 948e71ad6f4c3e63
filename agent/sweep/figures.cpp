#include "agent/sweep/figures.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

namespace attune::sweep {
namespace {

using nlohmann::json;

bool Selects(const Selection& selection, bool tunes, const Run& run) {
  if (selection.policy.empty() ? tunes && run.policy == kUntuned : run.policy != selection.policy) {
    return false;
  }
  return std::ranges::all_of(selection.where.items(), [&](const auto& item) {
    return item.key() == "seed" ? item.value() == run.seed
                                : run.parameters.contains(item.key()) &&
                                      run.parameters.at(item.key()) == item.value();
  });
}

// A run that ended with a result: by itself, or halved.
bool HasResult(const Result& result) {
  return result.outcome && result.outcome->last &&
         (result.outcome->ending == Ending::kFinished || result.outcome->ending == Ending::kHalved);
}

struct Pair {
  const Result* run;
  const Result* partner;
};

}  // namespace

Results Results::Read(const Folder& folder) {
  Results results;
  results.spec = folder.ReadSpec();
  for (Run& run : folder.ReadRuns()) {
    Result result;
    result.outcome = folder.ReadOutcome(run.id);
    if (result.outcome) result.points = folder.ReadPoints(run.id);
    result.run = std::move(run);
    results.runs.push_back(std::move(result));
  }
  return results;
}

std::size_t Results::Missing() const {
  return static_cast<std::size_t>(
      std::ranges::count_if(runs, [](const Result& run) { return !run.outcome; }));
}

std::optional<Figure> Compute(std::string_view name, const Results& results,
                              const Selection& selection) {
  const bool minimize = results.spec.minimize;
  Figure figure;
  std::vector<double> values;
  if (name == "value" || name == "failed") {
    for (const Result& result : results.runs) {
      if (!Selects(selection, results.spec.Tunes(), result.run)) continue;
      if (name == "failed") {
        if (result.outcome) {
          values.push_back(HasResult(result) ? 0 : 1);
        } else {
          ++figure.left_out;
        }
      } else if (HasResult(result)) {
        values.push_back(result.outcome->last->value);
      } else {
        ++figure.left_out;
      }
    }
    if (values.empty()) return std::nullopt;
    figure.interval = Mean(values);
    return figure;
  }

  std::map<std::string, const Result*> partners;
  for (const Result& result : results.runs) {
    if (result.run.policy == selection.against) partners[result.run.Pair()] = &result;
  }
  std::vector<Pair> pairs;
  for (const Result& result : results.runs) {
    if (!Selects(selection, results.spec.Tunes(), result.run) ||
        result.run.policy == selection.against) {
      continue;
    }
    const auto partner = partners.find(result.run.Pair());
    if (partner == partners.end() || !HasResult(result) || !HasResult(*partner->second)) {
      ++figure.left_out;
    } else {
      pairs.push_back({&result, partner->second});
    }
  }
  if (pairs.empty()) return std::nullopt;
  for (const Pair& pair : pairs) {
    const Point& own = *pair.run->outcome->last;
    Point other = *pair.partner->outcome->last;
    if (pair.run->outcome->ending == Ending::kHalved) {  // compared where it was stopped
      other.value = ValueAt(pair.partner->points, own.compute).value_or(other.value);
    }
    if (name == "difference") {
      values.push_back(own.value - other.value);
    } else if (name == "relative" || name == "worst_relative") {
      values.push_back(own.value / other.value);
    } else if (name == "compute") {
      values.push_back(own.compute / other.compute);
    } else if (name == "compute_to_target" || name == "reached") {
      const auto compute = ComputeToTarget(pair.run->points, other.value, minimize);
      const auto took = ComputeToTarget(pair.partner->points, other.value, minimize);
      if (name == "reached") {
        values.push_back(compute ? 1 : 0);
      } else {
        values.push_back(compute && took ? *compute / *took
                                         : std::numeric_limits<double>::infinity());
      }
    } else {
      throw std::invalid_argument("there is no figure '" + std::string(name) + "'");
    }
  }
  if (name == "difference" || name == "reached") {
    figure.interval = Mean(values);
  } else if (name == "worst_relative") {
    const auto [least, most] = std::ranges::minmax(values);
    figure.interval = {minimize ? most : least, std::nullopt, std::nullopt, values.size()};
  } else {
    // A ratio of metrics with another sign has no geometric mean.
    if (std::ranges::any_of(values, [](double value) { return !(value > 0); })) {
      return std::nullopt;
    }
    figure.interval = GeometricMean(values);
  }
  return figure;
}

std::vector<BarResult> Judge(const Results& results) {
  std::vector<BarResult> judged;
  for (const Bar& bar : results.spec.bars) {
    BarResult result{bar, Compute(bar.figure, results, {bar.policy, bar.against, bar.where})};
    if (result.figure) {
      const Interval& interval = result.figure->interval;
      const std::optional<double> value = bar.bound == "low"    ? interval.low
                                          : bar.bound == "high" ? interval.high
                                                                : interval.mean;
      result.value = value.value_or(std::numeric_limits<double>::quiet_NaN());
      // What is no number holds nowhere.
      result.holds = result.figure->left_out == 0 &&
                     (bar.at_most ? result.value <= bar.threshold : result.value >= bar.threshold);
    }
    judged.push_back(std::move(result));
  }
  return judged;
}

}  // namespace attune::sweep
