#include "experiments/lessons.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <string>

#include "env/meter.h"

namespace attune {
namespace {

// Until then a job can still be brought to where another run of it was.
constexpr float kEarly = 0.25F;  // of the budget
// Plans of less weight in their group teach nothing.
constexpr double kLeastWeight = 0.01;

float ProgressOf(const Trial& trial) { return trial.state.At(0, TokenFeature("progress")); }

// Mean log of the scales of a site's active heads.
float LogScale(const Setting& setting, std::size_t first, std::size_t heads) {
  float sum = 0;
  for (std::size_t head = first; head < first + heads; ++head) {
    if (setting.active[head] != 0) sum += std::log(setting.scale[head]);
  }
  const std::size_t active = CountActive(std::span(setting.active).subspan(first, heads));
  return sum / static_cast<float>(std::max<std::size_t>(active, 1));
}

// What a policy would have been asked before the first step of a job, with all its heads.
Trial BeforeFirstStep(const JobSpec& spec) {
  const Setting setting = Setting::Neutral(spec.topology.Heads());
  const WindowReading nothing = Unmeasured(setting.active);
  Trial trial;
  trial.state = MakeState(spec, setting, nothing, nullptr, nothing);
  trial.mask = MaskOf(spec.topology, setting);
  trial.setting = setting;
  return trial;
}

Step KeepIn(const Trial& trial) {
  return {Action::Keep(trial.state.Heads(), trial.state.Sites()), trial.state.Active()};
}

}  // namespace

Step Towards(const Trial& trial, const Setting& goal, const std::vector<float>& score) {
  // Heads that are active at the goal stay, or come in, before all others.
  constexpr float kFirst = 1e3F;
  constexpr std::size_t kActive = TokenFeature("active");
  constexpr std::size_t kScale = TokenFeature("scale");
  const State& state = trial.state;
  Step step{Action::Keep(state.Heads(), state.Sites()), state.Active()};
  for (std::size_t head = 0; head < state.Heads(); ++head) {
    step.action.score[head] = score[head] + (goal.active[head] != 0 ? kFirst : 0.0F);
  }
  for (std::size_t site = 0; site < state.Sites(); ++site) {
    const std::size_t first = state.site_offsets[site];
    const std::size_t heads = state.site_offsets[site + 1] - first;
    const auto active = std::span(step.active).subspan(first, heads);
    const std::size_t now = CountActive(active);
    const std::size_t wanted = CountActive(std::span(goal.active).subspan(first, heads));
    CountChange best = CountChange::kKeep;
    const auto distance = [&](CountChange change) {
      const std::size_t count = ChangedCount(now, change, heads);
      return count > wanted ? count - wanted : wanted - count;
    };
    for (std::size_t choice = 0; choice < kCountChoices; ++choice) {
      const auto change = static_cast<CountChange>(choice);
      if (IsOpening(trial) && ChangedCount(now, change, heads) > now) continue;
      if (trial.mask.count[site][choice] != 0 && distance(change) < distance(best)) best = change;
    }
    step.action.count[site] = best;
    SelectHeads(active, std::span(step.action.score).subspan(first, heads),
                ChangedCount(now, best, heads));
    const float elsewhere = LogScale(goal, first, heads);
    for (std::size_t head = first; head < first + heads; ++head) {
      if (state.At(head, kActive) == 0) continue;
      const float before = std::log(kMaxScale) * state.At(head, kScale);
      const float wish = goal.active[head] != 0 ? std::log(goal.scale[head]) : elsewhere;
      const auto off = [&](std::size_t choice) {
        return std::abs(before + std::log(kScaleFactors[choice]) - wish);
      };
      std::uint8_t& scale = step.action.scale[head];
      for (std::uint8_t choice = 0; choice < kScaleChoices; ++choice) {
        if (trial.mask.scale[head][choice] != 0 && off(choice) < off(scale) - 1e-6F) scale = choice;
      }
    }
  }
  return step;
}

const Trial* TrialAt(const Episode& episode, const Trial& trial) {
  const bool opening = IsOpening(trial);
  const Trial* last = opening ? nullptr : &episode.trials.front();
  for (const Trial& of_run : episode.trials) {
    if (opening ? IsOpening(of_run) : of_run.window <= trial.window) last = &of_run;
  }
  return last;
}

std::vector<Sample> DecisionsOf(const std::vector<Group*>& groups) {
  std::vector<Sample> samples;
  for (const Group* group : groups) {
    for (const Episode& episode : group->episodes) {
      for (std::size_t i = 0; i < episode.trials.size(); ++i) {
        const Trial& trial = episode.trials[i];
        samples.push_back(MakeSample(trial.state, trial.mask, *trial.action, trial.state.Active(),
                                     trial.setting.active));
        samples.back().weight = episode.weights[i];
        samples.back().target_value = episode.returns[i];
      }
    }
  }
  return samples;
}

std::vector<Sample> LessonsOf(const std::vector<Group*>& groups) {
  std::vector<Sample> samples;
  const auto add = [&](const Trial& trial, const Step& step, double weight, double value) {
    samples.push_back(
        MakeSample(trial.state, trial.mask, step.action, trial.state.Active(), step.active));
    samples.back().weight = weight;
    samples.back().target_value = value;
  };
  std::set<std::string> opened;  // jobs by name
  for (const Group* group : groups) {
    for (const Episode& episode : group->episodes) {
      if (std::ranges::any_of(episode.trials, IsOpening)) opened.insert(episode.job.spec.name);
    }
  }
  for (const Group* group : groups) {
    double most = group->alone;
    std::map<std::uint32_t, double> untouched;  // trials of each window
    for (const Episode& episode : group->episodes) {
      most = std::max(most, episode.weights[0]);
      for (const Trial& trial : episode.trials) untouched[trial.window] += IsUntouched(trial.state);
    }
    const double least = kLeastWeight * most;
    if (!opened.contains(group->episodes.front().job.spec.name)) {
      const Trial trial = BeforeFirstStep(group->episodes.front().job.spec);
      for (const Episode& episode : group->episodes) {
        add(trial, KeepIn(trial),
            group->alone / static_cast<double>(group->episodes.size()) + episode.weights[0],
            episode.returns[0]);
      }
    }
    for (const Episode& visited : group->episodes) {
      for (std::size_t i = 0; i < visited.trials.size(); ++i) {
        const Trial& trial = visited.trials[i];
        const double value = visited.returns[i];
        const bool early = ProgressOf(trial) <= kEarly;
        const Step kept = KeepIn(trial);
        for (const Episode& plan : group->episodes) {
          const double weight = plan.weights[0] < least ? 0 : plan.weights[0];
          if (&plan == &visited) {
            add(trial, {*trial.action, trial.setting.active}, weight, value);
          } else if (early && weight > 0) {
            const Trial* const then = TrialAt(plan, trial);
            add(trial, then == nullptr ? kept : Towards(trial, then->setting, then->action->score),
                weight, value);
          }
        }
        if (group->alone < least) continue;
        // In early states the plans count once for each, and so does this. To bring back the heads
        // that had been removed was worse than either (policies/network_history.md).
        const double alone = group->alone / (early ? 1 : untouched[trial.window]);
        if (early || IsUntouched(trial.state)) {
          add(trial, kept, alone, value);
        }
      }
    }
  }
  return samples;
}

}  // namespace attune
