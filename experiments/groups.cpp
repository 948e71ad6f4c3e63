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

// What the job was like at its first window. The bounds are those of kmeans.
std::vector<double> JobTraits(const State& state) {
  const auto heads = static_cast<double>(state.Heads());
  std::vector<double> traits;
  for (const char* name : {"attention_share", "site_heads", "context", "head_width", "budget_steps",
                           "learning_rate", "loss", "first_loss", "largest_logit"}) {
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

// What was done, on average over each third of the budget: halvings of the heads, share of the
// heads that was removed, logits sharpened and softened (log2); all 0 where nothing was.
std::vector<double> PlanTraits(const std::vector<Trial>& trials) {
  constexpr std::size_t kThirds = 3;
  constexpr std::size_t kKinds = 4;
  std::array<std::array<double, kKinds>, kThirds> sums{};
  std::array<double, kThirds> windows{};
  for (const Trial& trial : trials) {
    const double progress = trial.state.At(0, TokenFeature("progress"));
    const auto third = std::min(static_cast<std::size_t>(progress * kThirds), kThirds - 1);
    std::array<double, kKinds> done{};
    const auto& offsets = trial.state.site_offsets;
    for (std::size_t site = 0; site < trial.state.Sites(); ++site) {
      const std::size_t heads = offsets[site + 1] - offsets[site];
      const auto active = static_cast<double>(
          CountActive(std::span(trial.setting.active).subspan(offsets[site], heads)));
      const double share = active / static_cast<double>(heads);
      done[0] -= std::log2(share) / static_cast<double>(trial.state.Sites());
      done[1] += (1 - share) / static_cast<double>(trial.state.Sites());
    }
    const auto active = static_cast<double>(CountActive(trial.setting.active));
    for (std::size_t head = 0; head < trial.state.Heads(); ++head) {
      if (trial.setting.active[head] == 0) continue;
      const double scale = std::log2(trial.setting.scale[head]);
      done[scale > 0 ? 2 : 3] += std::abs(scale) / active;
    }
    for (std::size_t kind = 0; kind < kKinds; ++kind) sums[third][kind] += done[kind];
    ++windows[third];
  }
  std::vector<double> traits;
  for (std::size_t third = 0; third < kThirds; ++third) {
    for (double& sum : sums[third]) sum /= std::max(windows[third], 1.0);
    traits.insert(traits.end(), sums[third].begin(), sums[third].end());
  }
  return traits;
}

// A job whose policy is to keep everything shows what comes of leaving it alone; elsewhere a window
// was kept for reasons of the governor's.
bool IsLesson(const JobRecord& job, const Trial& trial) {
  return trial.action && (trial.decider != "keep" || job.spec.policy == "keep") &&
         (trial.acknowledgement.status == AckStatus::kNone ||
          trial.acknowledgement.status == AckStatus::kApplied);
}

// How much of its loss a job wins by its last steps, −d log loss / d log step: the median over its
// runs of the mean over the second half of the budget; from 0 to 1.
double Steepness(const Group& group) {
  std::vector<double> slopes;
  for (const Episode& episode : group.episodes) {
    const auto middle = std::ranges::find_if(episode.trials, [](const Trial& trial) {
      return trial.state.At(0, TokenFeature("progress")) >= 0.5F;
    });
    if (middle == episode.trials.end()) continue;
    const Trial& last = episode.trials.back();
    if (last.step <= middle->step || !(last.loss > 0) || !(middle->loss > 0)) continue;
    slopes.push_back(std::log(middle->loss / last.loss) /
                     std::log(static_cast<double>(last.step) / static_cast<double>(middle->step)));
  }
  if (slopes.empty()) return 0;
  const auto median = slopes.begin() + static_cast<std::ptrdiff_t>(slopes.size() / 2);
  std::ranges::nth_element(slopes, median);
  return std::clamp(*median, 0.0, 1.0);
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
      std::string key = fmt::format("{} seed {} {} {}", job.spec.name, job.spec.seed,
                                    Name(job.spec.budget.kind), job.spec.budget.amount);
      for (const Site& site : job.spec.topology.sites) {
        key += fmt::format(" {}x{} of {}", site.heads, site.head_width, site.context);
      }
      episode.job = std::move(job);
      if (episode.trials.empty()) continue;
      std::ranges::reverse(episode.trials);
      std::ranges::reverse(episode.returns);
      episode.plan = PlanTraits(episode.trials);
      groups[key].episodes.push_back(std::move(episode));
    }
  }
  std::size_t number = 0;
  for (auto& [key, group] : groups) {
    group.number = number++;
    const auto count = static_cast<double>(group.episodes.size());
    for (const Episode& episode : group.episodes) {
      const std::vector<double> traits = JobTraits(episode.trials.front().state);
      group.job.resize(traits.size());
      for (std::size_t i = 0; i < traits.size(); ++i) group.job[i] += traits[i] / count;
    }
  }
  return groups;
}

std::vector<double> LogLosses(const Group& group) {
  const double steepness = KindOf(group) == BudgetKind::kCompute ? Steepness(group) : 0;
  std::vector<double> costs;
  for (const Episode& episode : group.episodes) {
    costs.push_back(std::log(*episode.job.validation_loss) - steepness * episode.slowness);
  }
  const double best = *std::ranges::min_element(costs);
  for (double& cost : costs) cost = std::min(cost - best, kLargestCost);
  return costs;
}

std::vector<double> LogStepComputes(const Group& group) {
  std::vector<double> costs;
  for (const Episode& episode : group.episodes) {
    const auto steps = static_cast<double>(std::max<std::uint64_t>(episode.job.steps, 1));
    costs.push_back(std::log(episode.job.compute_seconds / steps));
  }
  return costs;
}

std::optional<Critic> MakeCritic(const std::vector<Group*>& groups,
                                 std::initializer_list<BudgetKind> kinds, Costs costs) {
  std::vector<PlannedRun> runs;
  std::size_t pairs = 0;
  for (const Group* of_job : groups) {
    const Group& group = *of_job;
    if (std::ranges::find(kinds, KindOf(group)) == kinds.end()) continue;
    pairs += group.episodes.size() > 1 ? 1 : 0;
    const std::vector<double> of_group = costs(group);
    for (std::size_t k = 0; k < group.episodes.size(); ++k) {
      runs.push_back({group.number, group.job, group.episodes[k].plan, of_group[k]});
    }
  }
  if (pairs < 2) return std::nullopt;
  return Critic(runs);
}

void FindSlowness(Group& group, const Critic& step_compute) {
  const std::vector<double> costs = LogStepComputes(group);
  const std::vector<double> explained = Differences(group, step_compute, 0);
  double mean = 0;
  for (std::size_t i = 0; i < costs.size(); ++i) {
    mean += (costs[i] - explained[i]) / static_cast<double>(costs.size());
  }
  for (std::size_t i = 0; i < costs.size(); ++i) {
    group.episodes[i].slowness = costs[i] - explained[i] - mean;
  }
}

void Weigh(Group& group, const Critic& loss, const Critic* compute, const Weighing& weighing) {
  std::vector<double> costs = Differences(group, loss, weighing.caution);
  if (compute != nullptr) {
    const std::vector<double> spent = Differences(group, *compute, 0);
    for (std::size_t i = 0; i < costs.size(); ++i) {
      costs[i] =
          (costs[i] > 0 ? weighing.harm : 1) * costs[i] - weighing.price * (1 - std::exp(spent[i]));
    }
  }
  const double least = std::min(0.0, *std::ranges::min_element(costs));
  group.alone = std::exp(least / weighing.temperature);
  double sum = group.alone;
  for (std::size_t i = 0; i < costs.size(); ++i) {
    // For an episode that was left alone the weight of that stands already.
    const auto& plan = group.episodes[i].plan;
    const bool alone = std::ranges::all_of(plan, [](double trait) { return trait == 0; });
    costs[i] = alone ? 0 : std::exp((least - costs[i]) / weighing.temperature);
    sum += costs[i];
  }
  group.alone /= sum;
  for (std::size_t i = 0; i < costs.size(); ++i) {
    Episode& episode = group.episodes[i];
    episode.weights.assign(episode.trials.size(), costs[i] / sum);
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
      if (!trial.reward) {  // a person was faster
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
