#include "experiments/groups.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>

namespace attune {
namespace {

// What the job was like at the end of its first window. The bounds are those of kmeans.
std::vector<double> JobTraits(const State& state) {
  const auto heads = static_cast<double>(state.Heads());
  std::vector<double> traits;
  for (const char* name : {"attention_share", "site_heads", "context", "head_width", "budget_steps",
                           "learning_rate", "loss", "first_loss", "largest_logit", "sgd"}) {
    double mean = 0;
    for (std::size_t head = 0; head < state.Heads(); ++head) {
      mean += state.At(head, TokenFeature(name)) / heads;
    }
    traits.push_back(mean);
  }
  const auto share = [&](std::size_t feature, auto is_so) {
    double count = 0;
    for (std::size_t head = 0; head < state.Heads(); ++head) {
      count += is_so(static_cast<double>(state.At(head, feature))) ? 1 : 0;
    }
    traits.push_back(count / heads);
  };
  share(TokenFeature("entropy"), [](double entropy) { return entropy < 0.15; });
  share(TokenFeature("entropy"), [](double entropy) { return entropy > 0.98; });
  share(TokenFeature("redundancy"), [](double redundancy) { return redundancy > 0.9; });
  share(TokenFeature("output_norm"), [](double norm) { return norm < std::log(0.21) / 2; });
  return traits;
}

// Halvings of the heads that a trial led to, and the share of them that was removed: means over
// the sites.
struct Removal {
  double halvings = 0;
  double share = 0;
};
Removal RemovalOf(const Trial& trial) {
  Removal removal;
  const auto& offsets = trial.state.site_offsets;
  const auto sites = static_cast<double>(trial.state.Sites());
  for (std::size_t site = 0; site < trial.state.Sites(); ++site) {
    const std::size_t heads = offsets[site + 1] - offsets[site];
    const auto active = static_cast<double>(
        CountActive(std::span(trial.setting.active).subspan(offsets[site], heads)));
    const double share = active / static_cast<double>(heads);
    removal.halvings -= std::log2(share) / sites;
    removal.share += (1 - share) / sites;
  }
  return removal;
}

// What was done, on average over each third of the budget: halvings of the heads, share of the
// heads that was removed, logits sharpened and softened (log2); then halvings of the heads and of
// their logits before the first step. All 0 where nothing was done.
std::vector<double> PlanTraits(const std::vector<Trial>& trials) {
  constexpr std::size_t kThirds = 3;
  constexpr std::size_t kKinds = 4;
  std::array<std::array<double, kKinds>, kThirds> sums{};
  std::array<double, kThirds> windows{};
  double fewer = 0;
  double softer = 0;
  for (const Trial& trial : trials) {
    const Removal removal = RemovalOf(trial);
    std::array<double, kKinds> done = {removal.halvings, removal.share, 0, 0};
    const auto active = static_cast<double>(CountActive(trial.setting.active));
    for (std::size_t head = 0; head < trial.state.Heads(); ++head) {
      if (trial.setting.active[head] == 0) continue;
      const double scale = std::log2(trial.setting.scale[head]);
      done[scale > 0 ? 2 : 3] += std::abs(scale) / active;
    }
    if (IsOpening(trial)) {
      fewer = removal.halvings;
      softer = done[3];
      continue;
    }
    const double progress = trial.state.At(0, TokenFeature("progress"));
    const auto third = std::min(static_cast<std::size_t>(progress * kThirds), kThirds - 1);
    for (std::size_t kind = 0; kind < kKinds; ++kind) sums[third][kind] += done[kind];
    ++windows[third];
  }
  std::vector<double> traits;
  for (std::size_t third = 0; third < kThirds; ++third) {
    for (double& sum : sums[third]) sum /= std::max(windows[third], 1.0);
    traits.insert(traits.end(), sums[third].begin(), sums[third].end());
  }
  traits.push_back(fewer);
  traits.push_back(softer);
  return traits;
}

// Of a group's job: means over the runs to which nothing had been done by then, or over all.
std::vector<double> TraitsOf(const Group& group) {
  std::vector<const State*> untouched;
  std::vector<const State*> all;
  for (const Episode& episode : group.episodes) {
    const State& state = std::ranges::find_if_not(episode.trials, IsOpening)->state;
    all.push_back(&state);
    if (IsUntouched(state)) untouched.push_back(&state);
  }
  const std::vector<const State*>& counted = untouched.empty() ? all : untouched;
  std::vector<double> means;
  for (const State* state : counted) {
    const std::vector<double> traits = JobTraits(*state);
    means.resize(traits.size());
    for (std::size_t i = 0; i < traits.size(); ++i) {
      means[i] += traits[i] / static_cast<double>(counted.size());
    }
  }
  return means;
}

// A job whose policy is to keep everything shows what comes of leaving it alone; elsewhere a window
// was kept for reasons of the governor's.
bool IsLesson(const JobRecord& job, const Trial& trial) {
  const auto& [status, step, why] = trial.acknowledgement;
  return trial.action && (trial.decider != "keep" || job.spec.policy == "keep") &&
         (status == AckStatus::kNone ||
          (status == AckStatus::kApplied && (!IsOpening(trial) || step == 0)));
}

bool IsAlone(const Episode& episode) {
  return std::ranges::all_of(episode.plan, [](double trait) { return trait == 0; });
}

// Of a number of each episode: the mean of those that were left alone, if any.
template <typename Number>
std::optional<double> MeanAlone(const Group& group, const Number& number) {
  double sum = 0;
  std::size_t count = 0;
  for (const Episode& episode : group.episodes) {
    if (!IsAlone(episode)) continue;
    sum += number(episode);
    ++count;
  }
  if (count == 0) return std::nullopt;
  return sum / static_cast<double>(count);
}

// Log of a step's compute over that of the job left alone, or over the dearest.
std::vector<double> LogStepComputes(const Group& group) {
  const auto cost = [](const Episode& episode) {
    const auto steps = static_cast<double>(std::max<std::uint64_t>(episode.job.steps, 1));
    return std::log(episode.job.compute_seconds / steps);
  };
  std::vector<double> costs;
  for (const Episode& episode : group.episodes) costs.push_back(cost(episode));
  const double anyway = MeanAlone(group, cost).value_or(*std::ranges::max_element(costs));
  for (double& value : costs) value -= anyway;
  return costs;
}

// What the plans of a group cost over leaving its job alone, as far as the critic knows.
std::vector<double> Differences(const Group& group, const Critic& critic, double caution) {
  std::vector<double> differences;
  for (const Episode& episode : group.episodes) {
    const Critic::Difference judged = critic.Judge(group.job, episode.plan, group.number);
    differences.push_back(judged.mean + caution * judged.deviation);
  }
  return differences;
}

}  // namespace

bool IsUntouched(const State& state) {
  constexpr std::size_t kScale = TokenFeature("scale");
  for (std::size_t head = 0; head < state.Heads(); ++head) {
    if (state.At(head, kScale) != 0) return false;
  }
  return CountActive(state.Active()) == state.Heads();
}

BudgetKind KindOf(const Group& group) { return group.episodes.front().job.spec.budget.kind; }

std::map<std::string, Group> ReadGroups(const std::vector<std::string>& stores) {
  constexpr std::size_t kAll = std::numeric_limits<std::int64_t>::max();
  std::map<std::string, Group> groups;
  for (const std::string& file : stores) {
    const Store store(file, Store::Mode::kReadOnly);
    for (JobRecord& job : store.Jobs(kAll)) {
      // Losses and compute are compared by their logarithms.
      if (job.outcome != Outcome::kFinished || !job.validation_loss ||
          !std::isfinite(*job.validation_loss) || !(*job.validation_loss > 0) ||
          !(job.compute_seconds > 0)) {
        continue;
      }
      Episode episode;
      double rest = 0;
      std::vector<Trial> all = store.JobTrials(job.id);
      for (auto trial = all.rbegin(); trial != all.rend(); ++trial) {
        rest += trial->reward.value_or(0);  // also of what the governor or a person did
        if (!IsLesson(job, *trial)) continue;
        episode.trials.push_back(std::move(*trial));
        episode.returns.push_back(rest);
      }
      std::string key = fmt::format("{} seed {} {} {} {} {}", job.spec.name, job.spec.seed,
                                    Name(job.spec.budget.kind), job.spec.budget.amount,
                                    job.spec.learning_rate, job.spec.optimizer);
      for (const Site& site : job.spec.topology.sites) {
        key += fmt::format(" {}x{} of {}", site.heads, site.head_width, site.context);
      }
      episode.job = std::move(job);
      if (std::ranges::all_of(episode.trials, IsOpening)) continue;
      std::ranges::reverse(episode.trials);
      std::ranges::reverse(episode.returns);
      episode.plan = PlanTraits(episode.trials);
      groups[key].episodes.push_back(std::move(episode));
    }
  }
  std::size_t number = 0;
  for (auto& [key, group] : groups) {
    group.number = number++;
    group.job = TraitsOf(group);
  }
  return groups;
}

std::vector<double> LogLosses(const Group& group) {
  const auto loss = [](const Episode& episode) { return std::log(*episode.job.validation_loss); };
  std::vector<double> costs;
  for (const Episode& episode : group.episodes) costs.push_back(loss(episode));
  const double anyway = MeanAlone(group, loss).value_or(*std::ranges::min_element(costs));
  for (double& cost : costs) cost = std::clamp(cost - anyway, -kLargestGain, kLargestCost);
  return costs;
}

std::optional<Critic> MakeCritic(const std::vector<Group*>& groups, BudgetKind kind) {
  std::vector<PlannedRun> runs;
  std::size_t pairs = 0;
  for (const Group* of_job : groups) {
    const Group& group = *of_job;
    if (KindOf(group) != kind) continue;
    pairs += group.episodes.size() > 1 ? 1 : 0;
    const std::vector<double> costs = LogLosses(group);
    for (std::size_t k = 0; k < group.episodes.size(); ++k) {
      const Episode& episode = group.episodes[k];
      runs.push_back({episode.job.spec.name, group.number, group.job, episode.plan, costs[k]});
    }
  }
  if (pairs < 2) return std::nullopt;
  return Critic(runs);
}

void Weigh(Group& group, const Critic& loss, const Weighing& weighing) {
  // By what is at stake a job counts between these times as much as one at kStake.
  constexpr double kStake = 0.05;
  constexpr double kLeast = 0.2;
  constexpr double kMost = 3;
  std::vector<double> costs = Differences(group, loss, weighing.caution);
  const std::vector<double> believed = Differences(group, loss, 0);
  const std::vector<double> spent = LogStepComputes(group);
  double plans = 0;
  double least = 0;
  double lowest = 0;  // of what is believed, without harm and caution
  double highest = 0;
  for (std::size_t i = 0; i < costs.size(); ++i) {
    if (costs[i] > 0) costs[i] *= weighing.harm;
    double saved = 0;
    if (KindOf(group) == BudgetKind::kSteps) saved = weighing.price * (1 - std::exp(spent[i]));
    costs[i] -= saved;
    if (IsAlone(group.episodes[i])) continue;
    ++plans;
    least = std::min(least, costs[i]);
    lowest = std::min(lowest, believed[i] - saved);
    highest = std::max(highest, believed[i] - saved);
  }
  const auto weight = [&](double cost) { return std::exp((least - cost) / weighing.temperature); };
  group.alone = std::max(plans, 1.0) * weight(0);
  double sum = group.alone;
  for (std::size_t i = 0; i < costs.size(); ++i) {
    // For an episode that was left alone the weight of that stands already.
    costs[i] = IsAlone(group.episodes[i]) ? 0 : weight(costs[i]);
    sum += costs[i];
  }
  const double scale = std::clamp((highest - lowest) / kStake, kLeast, kMost) / sum;
  group.alone *= scale;
  for (std::size_t i = 0; i < costs.size(); ++i) {
    Episode& episode = group.episodes[i];
    episode.weights.assign(episode.trials.size(), costs[i] * scale);
  }
}

void WeighGreedily(Group& group) {
  std::map<std::uint32_t, std::vector<double>> rewards;
  for (const Episode& episode : group.episodes) {
    for (const Trial& trial : episode.trials) {
      if (trial.reward) rewards[trial.window].push_back(*trial.reward);
    }
  }
  for (Episode& episode : group.episodes) {
    for (const Trial& trial : episode.trials) {
      if (!trial.reward) {  // a person was faster, or it was before the first step
        episode.weights.push_back(0);
        continue;
      }
      const std::vector<double>& others = rewards[trial.window];
      const auto count = static_cast<double>(others.size());
      double mean = 0;
      double square = 0;
      for (const double reward : others) mean += reward / count;
      for (const double reward : others) square += (reward - mean) * (reward - mean) / count;
      const double deviation = std::sqrt(square) + 1e-9;
      episode.weights.push_back(std::exp((*trial.reward - mean) / deviation) / count);
    }
  }
}

}  // namespace attune
