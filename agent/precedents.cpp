#include "agent/precedents.h"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <vector>

#include "policies/precedent.h"

namespace attune {
namespace {

constexpr std::size_t kNewestJobs = 1'000;  // of all, that are looked at
constexpr std::size_t kMostRuns = 20;       // of the job, the newest
constexpr std::size_t kMostTrials = 1'000;  // of a run, the newest

// Nothing where somebody else had a hand in it too, or it has no loss.
std::optional<EarlierRun> Look(const Store& store, const JobRecord& job) {
  const std::optional<double> loss = job.validation_loss ? job.validation_loss : job.loss;
  if (!loss || !std::isfinite(*loss) || !(*loss > 0)) return std::nullopt;
  const std::vector<TrialRow> trials = store.Trials(job.id, kMostTrials);
  const auto has = [&](std::string_view decider) {
    return std::ranges::find(trials, decider, &TrialRow::decider) != trials.end();
  };
  const bool own = has("network");
  const bool followed = has(kPrecedentName);
  const auto is_expected = [&](const TrialRow& trial) {
    return trial.decider == "network" || trial.decider == kPrecedentName ||
           trial.decider == "governor" || trial.decider == "keep" ||
           (own && trial.decider == "kmeans");  // where the network declined
  };
  if (trials.empty() || !std::ranges::all_of(trials, is_expected)) return std::nullopt;
  const bool all_heads = std::ranges::all_of(trials, [&](const TrialRow& trial) {
    return trial.active_heads == job.spec.topology.Heads();
  });
  const Arm arm = !own && all_heads ? Arm::kAlone : followed ? Arm::kFew : Arm::kOwn;
  return EarlierRun{arm, *loss};
}

}  // namespace

std::optional<Precedent> PrecedentFor(const Store& store, const JobSpec& spec, double started,
                                      bool explore) {
  if (!spec.fresh) return std::nullopt;
  std::vector<EarlierRun> runs;
  for (const JobRecord& job : store.Jobs(kNewestJobs)) {
    if (job.outcome != Outcome::kFinished || job.ended >= started || !IsSameJob(job.spec, spec)) {
      continue;
    }
    if (const auto run = Look(store, job)) runs.push_back(*run);
    if (runs.size() == kMostRuns) break;
  }
  return FollowEarlier(runs, spec.topology, explore);
}

}  // namespace attune
