// What a sweep's results amount to: figures over chosen runs, paired by parameters and seed.
#pragma once

#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "agent/sweep/plan.h"
#include "agent/sweep/spec.h"
#include "agent/sweep/statistics.h"

namespace attune::sweep {

inline constexpr std::array<std::string_view, 11> kFigureNames = {
    "value",           // mean of the metric at the end
    "difference",      // mean of the metric less the partner's
    "relative",        // geometric mean of the metric over the partner's
    "worst_relative",  // the worst of these ratios: no harm
    "worst_job",       // the worst of their geometric means over the seeds of a job (the same
                       // parameters)
    "gap_closed",      // share of the way from the partner's metric to that of a healthy run, the
                       // partner's but for the parameters that the bar names; mean over the jobs
    "hindsight",       // gain over the partners, as a share of what the best policy of `among`,
                       // chosen for each job after the fact, gains; over all jobs
    "compute",         // geometric mean of the compute used over the partner's
    "compute_to_target",  // of the compute at which the partner's result is reached, over what the
                          // partner took for it; where a run does not reach it, by the first of
                          // `longer` that does, but at least the run's own; infinite where none
                          // does
    "reached",            // share of the runs that reach the partner's result
    "failed",             // share of the runs that ended without a result
};

struct Result {
  Run run;
  std::optional<RunOutcome> outcome;  // none: still to be done
  std::vector<Point> points;
};

struct Results {
  Spec spec;
  std::vector<Result> runs;

  [[nodiscard]] static Results Read(const Folder& folder);
  [[nodiscard]] std::size_t Missing() const;
};

// Of which runs: those of `policy` (empty: all tuned ones, or all where nobody tunes) whose
// parameters are as `where` says.
struct Selection {
  std::string policy;
  std::string against{kUntuned};  // whom the paired figures compare with
  nlohmann::json where = nlohmann::json::object();
  std::string field = {};  // as Bar has them
  nlohmann::json healthy = nlohmann::json::object();
  std::vector<std::string> among = {};
  std::vector<std::string> longer = {};
};

struct Figure {
  Interval interval;
  // Runs without a result, or whose partner has none; of worst_job, gap_closed, hindsight, compute,
  // compute_to_target, reached and fields also those that halving stopped; of ratios those of
  // numbers that are not above 0; of gap_closed those of jobs without a gap; of compute_to_target
  // those whose partner was never better than where it began.
  std::size_t left_out = 0;
  std::size_t stand_ins = 0;  // of compute_to_target: pairs that a longer budget decided
};

// Nothing where no run has what the figure needs. Throws std::invalid_argument for a figure that is
// not in kFigureNames.
[[nodiscard]] std::optional<Figure> Compute(std::string_view name, const Results& results,
                                            const Selection& selection);

struct BarResult {
  Bar bar;
  std::optional<Figure> figure;
  double value = 0;  // the end of the interval that the bar is about
  bool holds = false;
};
// A bar holds only where every run that it is about has a result, and an interval where it asks for
// an end of one.
[[nodiscard]] std::vector<BarResult> Judge(const Results& results);

}  // namespace attune::sweep
