#include "agent/sweep/figures.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <stdexcept>

namespace attune::sweep {
namespace {

using nlohmann::json;

// Into `value`, which is what the run ended with, what it had come to at `compute`. False where it
// had said nothing yet.
bool ReadAt(const Result& result, double compute, double& value) {
  if (result.points.empty() || compute >= result.points.back().compute) return true;
  const auto there = ValueAt(result.points, compute);
  if (there) value = *there;
  return there.has_value();
}

bool Selects(const Selection& selection, const Spec& spec, const Run& run) {
  if (selection.policy.empty()
          ? (spec.Tunes() && !spec.Tunes(run.policy)) || spec.IsLonger(run.policy)
          : run.policy != selection.policy) {
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

bool IsHalved(const Result& result) { return result.outcome->ending == Ending::kHalved; }

struct Pair {
  const Result* run;
  const Result* partner;
};

// Of the last line: the metric, or another number of it.
std::optional<double> Number(const Result& result, const std::string& field) {
  if (field.empty()) return result.outcome->last->value;
  const auto found = result.outcome->last->fields.find(field);
  if (found == result.outcome->last->fields.end()) return std::nullopt;
  return found->second;
}

// The runs that have a result, by policy and pair.
using Lookup = std::map<std::string, const Result*>;
std::string Key(const std::string& policy, const Run& run) { return policy + " " + run.Pair(); }

// What is drawn as one for an interval: the clusters of the runs; where all are of one, their jobs.
std::vector<std::string> Drawn(const Spec& spec, const std::vector<const Run*>& runs) {
  std::vector<std::string> clusters;
  std::vector<std::string> jobs;
  for (const Run* run : runs) {
    json cluster = json::object();
    for (const std::string& name : spec.clusters) cluster[name] = run->parameters.at(name);
    clusters.push_back(cluster.dump());
    jobs.push_back(run->parameters.dump());
  }
  const bool several =
      std::ranges::adjacent_find(clusters, std::ranges::not_equal_to{}) != clusters.end();
  return several ? clusters : jobs;
}

double MeanOf(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

std::map<std::string, std::vector<Pair>> ByJob(const std::vector<Pair>& pairs) {
  std::map<std::string, std::vector<Pair>> jobs;
  for (const Pair& pair : pairs) jobs[pair.run->run.Group()].push_back(pair);
  return jobs;
}

Figure WorstJob(const std::vector<Pair>& pairs, bool minimize, std::size_t left_out) {
  std::optional<double> worst;
  for (const auto& [job, runs] : ByJob(pairs)) {
    double sum = 0;
    for (const Pair& pair : runs) {
      sum += std::log(pair.run->outcome->last->value / pair.partner->outcome->last->value);
    }
    const double ratio = std::exp(sum / static_cast<double>(runs.size()));
    if (!worst || (minimize ? ratio > *worst : ratio < *worst)) worst = ratio;
  }
  return {{*worst, std::nullopt, std::nullopt, pairs.size()}, left_out};
}

std::optional<Figure> GapClosed(const std::vector<Pair>& pairs, const Lookup& runs,
                                const Selection& selection, const Spec& spec,
                                std::size_t left_out) {
  const bool minimize = spec.minimize;
  std::vector<double> shares;
  std::vector<const Run*> of;
  for (const auto& [job, own] : ByJob(pairs)) {
    double closed = 0;
    double gap = 0;
    std::size_t compared = 0;
    for (const Pair& pair : own) {
      Run healthy = pair.run->run;
      healthy.parameters.update(selection.healthy);
      const auto found = runs.find(Key(selection.against, healthy));
      if (found == runs.end()) {
        ++left_out;
        continue;
      }
      const double sick = pair.partner->outcome->last->value;
      closed += sick - pair.run->outcome->last->value;
      gap += sick - found->second->outcome->last->value;
      ++compared;
    }
    if ((minimize ? gap : -gap) > 0) {
      shares.push_back(closed / gap);
      of.push_back(&own.front().run->run);
    } else {
      left_out += compared;  // the healthy ones ended no better: there is nothing to close
    }
  }
  if (shares.empty()) return std::nullopt;
  return Figure{Mean(shares, Drawn(spec, of)), left_out};
}

std::optional<Figure> Hindsight(const std::vector<Pair>& pairs, const Lookup& runs,
                                const Selection& selection, bool minimize, std::size_t left_out) {
  double gain = 0;
  double most = 0;
  std::size_t compared = 0;
  for (const auto& [job, own] : ByJob(pairs)) {
    std::vector<double> gains;
    std::map<std::string, std::vector<double>> others;
    for (const Pair& pair : own) {
      // Only beside the whole grid: its best of fewer seeds would be another job's.
      const auto missing = static_cast<std::size_t>(std::ranges::count_if(
          selection.among,
          [&](const std::string& policy) { return !runs.contains(Key(policy, pair.run->run)); }));
      left_out += missing;
      if (missing > 0) continue;
      const double base = pair.partner->outcome->last->value;
      gains.push_back(base - pair.run->outcome->last->value);
      for (const std::string& policy : selection.among) {
        others[policy].push_back(base - runs.at(Key(policy, pair.run->run))->outcome->last->value);
      }
    }
    if (gains.empty()) continue;
    compared += gains.size();
    double best = 0;  // leaving the job alone is always in the grid
    for (const auto& [policy, of_policy] : others) {
      best = std::max(best, (minimize ? 1 : -1) * MeanOf(of_policy));
    }
    gain += (minimize ? 1 : -1) * MeanOf(gains);
    most += best;
  }
  if (most == 0) return std::nullopt;
  return Figure{{gain / most, std::nullopt, std::nullopt, compared}, left_out};
}

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
  std::vector<const Run*> of;
  const auto add = [&](const Result& result, double value) {
    values.push_back(value);
    of.push_back(&result.run);
  };
  if (name == "value" || name == "failed") {
    for (const Result& result : results.runs) {
      if (!Selects(selection, results.spec, result.run)) continue;
      if (name == "failed") {
        if (result.outcome) {
          add(result, HasResult(result) ? 0 : 1);
        } else {
          ++figure.left_out;
        }
      } else if (HasResult(result) && !IsHalved(result) && Number(result, selection.field)) {
        add(result, *Number(result, selection.field));
      } else {
        ++figure.left_out;
      }
    }
    if (values.empty()) return std::nullopt;
    figure.interval = Mean(values, Drawn(results.spec, of));
    return figure;
  }

  // Of these a run that was stopped early can say nothing.
  constexpr std::array<std::string_view, 6> kOfEnds = {
      "worst_job", "gap_closed", "hindsight", "compute", "compute_to_target", "reached"};
  const bool to_the_end =
      std::ranges::find(kOfEnds, name) != kOfEnds.end() || !selection.field.empty();
  const auto can_say = [&](const Result& result) {
    return HasResult(result) && !(to_the_end && IsHalved(result));
  };
  // Of those that are compared with alone: a key is a long text, and sweeps have thousands of runs.
  const auto is_partner = [&](const std::string& policy) {
    return policy == selection.against ||
           std::ranges::find(selection.among, policy) != selection.among.end() ||
           std::ranges::find(selection.longer, policy) != selection.longer.end();
  };
  Lookup runs;
  for (const Result& result : results.runs) {
    if (is_partner(result.run.policy) && can_say(result)) {
      runs[Key(result.run.policy, result.run)] = &result;
    }
  }
  // What has no logarithm has no ratio that tells better from worse.
  const bool by_ratio = name == "relative" || name == "worst_relative" || name == "worst_job";
  const auto has_figure = [&](const Result& result) {
    const auto number = Number(result, selection.field);
    return number && (!by_ratio || *number > 0);
  };
  std::vector<Pair> pairs;
  for (const Result& result : results.runs) {
    if (!Selects(selection, results.spec, result.run) || result.run.policy == selection.against) {
      continue;
    }
    const auto partner = runs.find(Key(selection.against, result.run));
    if (partner == runs.end() || !can_say(result) || !has_figure(result) ||
        !has_figure(*partner->second)) {
      ++figure.left_out;
    } else {
      pairs.push_back({&result, partner->second});
    }
  }
  if (pairs.empty()) return std::nullopt;
  if (name == "worst_job") return WorstJob(pairs, minimize, figure.left_out);
  if (name == "gap_closed") return GapClosed(pairs, runs, selection, results.spec, figure.left_out);
  if (name == "hindsight") return Hindsight(pairs, runs, selection, minimize, figure.left_out);
  for (const Pair& pair : pairs) {
    Point own = *pair.run->outcome->last;
    Point other = *pair.partner->outcome->last;
    // Compared where the first of them was stopped, if the other had said anything by then.
    if (IsHalved(*pair.partner) && other.compute < own.compute) {
      if (!ReadAt(*pair.run, other.compute, own.value)) {
        ++figure.left_out;
        continue;
      }
    } else if (IsHalved(*pair.run)) {
      if (!ReadAt(*pair.partner, own.compute, other.value)) {
        ++figure.left_out;
        continue;
      }
    }
    if (name == "difference") {
      add(*pair.run, own.value - other.value);
    } else if (name == "relative" && !selection.field.empty()) {
      add(*pair.run, *Number(*pair.run, selection.field) / *Number(*pair.partner, selection.field));
    } else if (name == "relative" || name == "worst_relative") {
      add(*pair.run, own.value / other.value);
    } else if (name == "compute") {
      add(*pair.run, own.compute / other.compute);
    } else if (name == "compute_to_target" || name == "reached") {
      auto compute = ComputeToTarget(pair.run->points, other.value, minimize);
      const auto took = ComputeToTarget(pair.partner->points, other.value, minimize);
      if (name == "reached") {
        add(*pair.run, compute ? 1 : 0);
      } else {
        bool all_done = true;
        bool stands_in = false;
        for (const std::string& policy : selection.longer) {
          if (compute) break;
          const auto longer = runs.find(Key(policy, pair.run->run));
          if (longer == runs.end()) {
            all_done = false;
            continue;
          }
          compute = ComputeToTarget(longer->second->points, other.value, minimize);
          if (!compute) continue;
          // What the run itself has spent without reaching it counts, whatever another's luck was.
          compute = std::max(*compute, own.compute);
          stands_in = true;
        }
        if (!compute && !all_done) {
          ++figure.left_out;
          continue;
        }
        // A partner that was never better than where it began took nothing for it.
        if (took && compute && !(*took > 0 && *compute > 0)) {
          ++figure.left_out;
          continue;
        }
        if (stands_in) ++figure.stand_ins;
        add(*pair.run,
            compute && took ? *compute / *took : std::numeric_limits<double>::infinity());
      }
    } else {
      throw std::invalid_argument("there is no figure '" + std::string(name) + "'");
    }
  }
  if (values.empty()) return std::nullopt;
  if (name == "difference" || name == "reached") {
    figure.interval = Mean(values, Drawn(results.spec, of));
  } else if (name == "worst_relative") {
    const auto [least, most] = std::ranges::minmax(values);
    figure.interval = {minimize ? most : least, std::nullopt, std::nullopt, values.size()};
  } else {
    // A ratio of metrics with another sign has no geometric mean.
    if (std::ranges::any_of(values, [](double value) { return !(value > 0); })) {
      return std::nullopt;
    }
    figure.interval = GeometricMean(values, Drawn(results.spec, of));
  }
  return figure;
}

std::vector<BarResult> Judge(const Results& results) {
  std::vector<BarResult> judged;
  for (const Bar& bar : results.spec.bars) {
    BarResult result{bar, Compute(bar.figure, results,
                                  {bar.policy, bar.against, bar.where, bar.field, bar.healthy,
                                   bar.among, bar.longer})};
    if (result.figure) {
      const Interval& interval = result.figure->interval;
      const std::optional<double> value = bar.bound == "low"    ? interval.low
                                          : bar.bound == "high" ? interval.high
                                                                : interval.mean;
      result.value = value.value_or(std::numeric_limits<double>::quiet_NaN());
      // What is no number holds nowhere.
      result.holds = result.figure->left_out == 0 && std::isfinite(result.value) &&
                     (bar.at_most ? result.value <= bar.threshold : result.value >= bar.threshold);
    }
    judged.push_back(std::move(result));
  }
  return judged;
}

}  // namespace attune::sweep
