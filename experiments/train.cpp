// attune-train: teaches a network from the histories of jobs that were tuned in different ways, and
// writes it as a checkpoint that attuned can begin with (--network FILE).
//
// Jobs of the same name, seed and topology form a group: like is compared with like, for the job
// explains most of what comes of it and the actions little. A critic learns from all groups what a
// plan is worth to a job (critic.h). By that, each job of a group has a weight beside the others
// and beside leaving the job alone, and its decisions are imitated by that weight
// (advantage-weighted regression, 1910.00177).
#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <boost/program_options.hpp>
#include <cmath>
#include <cstdio>
#include <initializer_list>
#include <iostream>
#include <limits>
#include <map>
#include <optional>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "experiments/critic.h"
#include "policies/network.h"
#include "store/store.h"

namespace attune {
namespace {

namespace po = boost::program_options;

struct Options {
  std::vector<std::string> stores;
  std::string output;
  std::string from;
  bool greedy = false;
  double temperature = 0;
  double price = 0;
  double harm = 0;
  double caution = 0;
  double held_out = 0;
  double rate = 0;
  std::int64_t epochs = 0;
  std::uint64_t seed = 0;
};

struct Episode {
  JobRecord job;
  std::vector<Trial> trials;    // that were somebody's decision
  std::vector<double> returns;  // from each of them to the end
  std::vector<double> weights;  // of each
  std::vector<double> plan;     // its traits
  double slowness = 0;          // of the machine: log of a step's compute over what it costs anyway
};

struct Group {
  std::vector<Episode> episodes;
  std::size_t number = 0;
  std::vector<double> job;  // its traits, as they were before anything was done
  double alone = 0;         // weight of leaving the job alone
};

constexpr double kLargestCost = 0.2;  // log of a loss over the group's best that is as bad as any

std::size_t Feature(std::string_view name) {
  return static_cast<std::size_t>(std::ranges::find(kTokenFeatureNames, name) -
                                  kTokenFeatureNames.begin());
}

// What the job was like at its first window. The bounds are those of kmeans.
std::vector<double> JobTraits(const State& state) {
  const auto of = [&](std::size_t head, std::size_t feature) {
    return static_cast<double>(state.tokens[head * kTokenFeatures + feature]);
  };
  const auto heads = static_cast<double>(state.Heads());
  std::vector<double> traits;
  for (const char* name : {"attention_share", "site_heads", "context", "head_width", "budget_steps",
                           "learning_rate", "loss", "first_loss", "largest_logit"}) {
    double mean = 0;
    for (std::size_t head = 0; head < state.Heads(); ++head)
      mean += of(head, Feature(name)) / heads;
    traits.push_back(mean);
  }
  const auto share = [&](auto is_so) {
    double count = 0;
    for (std::size_t head = 0; head < state.Heads(); ++head) count += is_so(head) ? 1 : 0;
    traits.push_back(count / heads);
  };
  share([&](std::size_t head) { return of(head, Feature("entropy")) < 0.15; });
  share([&](std::size_t head) { return of(head, Feature("entropy")) > 0.98; });
  share([&](std::size_t head) { return of(head, Feature("redundancy")) > 0.9; });
  share([&](std::size_t head) { return of(head, Feature("output_norm")) < std::log(0.21) / 2; });
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
    const double progress = trial.state.tokens[Feature("progress")];
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

// By what its jobs share.
std::map<std::string, Group> ReadGroups(const std::vector<std::string>& stores) {
  constexpr std::size_t kAll = std::numeric_limits<std::int64_t>::max();
  std::map<std::string, Group> groups;
  for (const std::string& file : stores) {
    const Store store(file, Store::Mode::kReadOnly);
    std::map<std::uint64_t, std::vector<Trial>> trials;
    for (Trial& trial : store.TrialsToLearnFrom(0, kAll)) {
      trials[trial.job].push_back(std::move(trial));
    }
    for (JobRecord& job : store.Jobs(kAll)) {
      if (job.outcome != Outcome::kFinished || !job.validation_loss ||
          !std::isfinite(*job.validation_loss)) {
        continue;
      }
      Episode episode;
      double rest = 0;
      auto& all = trials[job.id];
      for (auto trial = all.rbegin(); trial != all.rend(); ++trial) {
        rest += *trial->reward;
        if (!IsLesson(job, *trial)) continue;
        episode.trials.push_back(std::move(*trial));
        episode.returns.push_back(rest);
      }
      const std::string key = fmt::format("{} seed {}", job.spec.name, job.spec.seed);
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

BudgetKind KindOf(const Group& group) { return group.episodes.front().job.spec.budget.kind; }

// How much of its loss a job wins by its last steps, −d log loss / d log step: the median over its
// runs of the mean over the second half of the budget; from 0 to 1.
double Steepness(const Group& group) {
  std::vector<double> slopes;
  for (const Episode& episode : group.episodes) {
    const auto middle = std::ranges::find_if(episode.trials, [](const Trial& trial) {
      return trial.state.tokens[Feature("progress")] >= 0.5F;
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

// Of each episode of a group.
using Costs = std::vector<double> (*)(const Group&);

// With a budget in compute a machine that was slow for a while did fewer steps, which is no plan's
// doing: the loss is taken to be what it would have been at the group's usual speed.
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

// Learns from all groups with a budget of one of these kinds; none where there are too few.
std::optional<Critic> MakeCritic(const std::vector<Group*>& groups,
                                 std::initializer_list<BudgetKind> kinds, Costs costs,
                                 const char* what) {
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
  Critic critic(runs);
  fmt::print("{}: {} runs of {} jobs; foreseen in jobs left out: {:.0f} % of the variance\n", what,
             runs.size(), pairs, 100 * critic.Foreseen());
  return critic;
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

// What is left of the compute of steps when the plans have explained their part.
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

// Weights by what the plans cost over leaving the job alone, in logs of the loss. With a budget in
// steps a share of compute that was saved is worth `price`, but only at no harm: more loss counts
// `harm` times.
void Weigh(Group& group, const Critic& loss, const Critic* compute, const Options& options) {
  std::vector<double> costs = Differences(group, loss, options.caution);
  if (compute != nullptr) {
    const std::vector<double> spent = Differences(group, *compute, 0);
    for (std::size_t i = 0; i < costs.size(); ++i) {
      costs[i] =
          (costs[i] > 0 ? options.harm : 1) * costs[i] - options.price * (1 - std::exp(spent[i]));
    }
  }
  const double least = std::min(0.0, *std::ranges::min_element(costs));
  group.alone = std::exp(least / options.temperature);
  double sum = group.alone;
  for (std::size_t i = 0; i < costs.size(); ++i) {
    // For an episode that was left alone the weight of that stands already.
    const auto& plan = group.episodes[i].plan;
    const bool alone = std::ranges::all_of(plan, [](double trait) { return trait == 0; });
    costs[i] = alone ? 0 : std::exp((least - costs[i]) / options.temperature);
    sum += costs[i];
  }
  group.alone /= sum;
  for (std::size_t i = 0; i < costs.size(); ++i) {
    Episode& episode = group.episodes[i];
    episode.weights.assign(episode.trials.size(), costs[i] / sum);
  }
}

// The same by what the next window alone brought, in standard deviations of the group's in that
// window: a greedy bandit, as a baseline.
void WeighGreedily(Group& group) {
  std::map<std::uint32_t, std::vector<double>> rewards;
  for (const Episode& episode : group.episodes) {
    for (const Trial& trial : episode.trials) rewards[trial.window].push_back(*trial.reward);
  }
  for (Episode& episode : group.episodes) {
    for (const Trial& trial : episode.trials) {
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

bool IsUntouched(const Trial& trial) {
  for (std::size_t head = 0; head < trial.state.Heads(); ++head) {
    const float* const token = trial.state.tokens.data() + head * kTokenFeatures;
    if (token[Feature("active")] < 0.5F || token[Feature("scale")] != 0) return false;
  }
  return true;
}

// The decisions of all episodes; and, where nothing had been done yet, to go on doing nothing, by
// the weight of that.
std::vector<Sample> SamplesOf(const std::vector<Group*>& groups) {
  std::vector<Sample> samples;
  for (const Group* group : groups) {
    std::map<std::uint32_t, double> untouched;  // trials of each window
    for (const Episode& episode : group->episodes) {
      for (const Trial& trial : episode.trials) untouched[trial.window] += IsUntouched(trial);
    }
    for (const Episode& episode : group->episodes) {
      for (std::size_t i = 0; i < episode.trials.size(); ++i) {
        const Trial& trial = episode.trials[i];
        std::vector<std::uint8_t> before(trial.state.Heads());
        for (std::size_t head = 0; head < before.size(); ++head) {
          before[head] =
              trial.state.tokens[head * kTokenFeatures + Feature("active")] > 0.5F ? 1 : 0;
        }
        samples.push_back(
            MakeSample(trial.state, trial.mask, *trial.action, before, trial.setting.active));
        samples.back().weight = episode.weights[i];
        samples.back().target_value = episode.returns[i];
        if (!IsUntouched(trial)) continue;
        samples.push_back(MakeSample(trial.state, trial.mask,
                                     Action::Keep(trial.state.Heads(), trial.state.Sites()), before,
                                     before));
        samples.back().weight = group->alone / untouched[trial.window];
        samples.back().target_value = episode.returns[i];
      }
    }
  }
  return samples;
}

// Weighted mean negative log-probability of the decisions.
double Surprise(const Network& network, const std::vector<Sample>& samples) {
  double sum = 0;
  double weight = 0;
  for (const Sample& sample : samples) {
    if (sample.weight < 0.01) continue;
    sum -= sample.weight * network.Evaluate(sample).log_probability;
    weight += sample.weight;
  }
  return sum / std::max(weight, 1e-12);
}

void Train(const Options& options) {
  auto groups = ReadGroups(options.stores);
  std::vector<Group*> learned_from;
  std::vector<Group*> held_out;
  std::mt19937_64 random(options.seed);
  for (auto& [key, group] : groups) {
    const bool out = std::uniform_real_distribution<double>(0, 1)(random) < options.held_out;
    (out ? held_out : learned_from).push_back(&group);
    if (out) fmt::print("held out: {}\n", key);
  }
  if (options.greedy) {
    for (auto& [key, group] : groups) WeighGreedily(group);
  } else {
    const auto step_compute = MakeCritic(learned_from, {BudgetKind::kCompute, BudgetKind::kSteps},
                                         LogStepComputes, "compute of a step");
    if (step_compute) {
      for (auto& [key, group] : groups) FindSlowness(group, *step_compute);
    }
    const auto loss =
        MakeCritic(learned_from, {BudgetKind::kCompute}, LogLosses, "loss, budgets in compute");
    const auto loss_by_steps =
        MakeCritic(learned_from, {BudgetKind::kSteps}, LogLosses, "loss, in steps");
    for (auto& [key, group] : groups) {
      const bool in_steps = KindOf(group) == BudgetKind::kSteps;
      const std::optional<Critic>& judge = in_steps ? loss_by_steps : loss;
      if (!judge) {
        throw std::invalid_argument(fmt::format(
            "'{}' has a budget in {}, and fewer than two jobs like it were run in two ways; a "
            "job's "
            "worth is learned from runs of the same name and seed that were tuned differently",
            key, in_steps ? "steps" : "compute"));
      }
      Weigh(group, *judge, in_steps && step_compute ? &*step_compute : nullptr, options);
    }
  }
  const std::vector<Sample> lessons = SamplesOf(learned_from);
  const std::vector<Sample> tests = SamplesOf(held_out);
  if (lessons.empty()) {
    throw std::invalid_argument("there is nothing to learn from in these histories");
  }
  fmt::print("{} groups; {} decisions to learn from, {} held out\n", groups.size(), lessons.size(),
             tests.size());

  NetworkOptions network_options;
  network_options.seed = options.seed;
  network_options.learning_rate = options.rate;
  network_options.epochs = 1;
  auto network = options.from.empty() ? std::make_unique<Network>(network_options)
                                      : Network::Load(options.from, network_options);
  for (std::int64_t epoch = 1; epoch <= options.epochs; ++epoch) {
    const UpdateReport report = network->Clone(lessons);
    if (epoch % 5 != 0 && epoch != options.epochs) continue;
    fmt::print("pass {:3}: cross-entropy {:.4f}, agreement {:.3f}, value error {:.4f}", epoch,
               report.policy_loss, report.agreement, report.value_loss);
    if (!tests.empty()) fmt::print("; held out: {:.4f} nats a decision", Surprise(*network, tests));
    fmt::print("\n");
    std::fflush(stdout);
  }
  network->SetProgress(network->Trials() + lessons.size(), network->Version() + 1);
  network->Save(options.output);
}

int Main(int argc, char** argv) {
  Options options;
  po::options_description all(
      "attune-train teaches a network from the histories of jobs that were tuned in different ways."
      "\nUsage: attune-train STORE… --output FILE\n\nOptions",
      100);
  // clang-format off
  all.add_options()
      ("help,h", "say this")
      ("store", po::value(&options.stores), "a history (attune.db); jobs of one name and seed are compared")
      ("output,o", po::value(&options.output), "the checkpoint that is written")
      ("from", po::value(&options.from), "a checkpoint to go on from")
      ("greedy", po::bool_switch(&options.greedy),
       "weigh each decision by what the next window alone brought: a baseline")
      ("temperature", po::value(&options.temperature)->default_value(0.015, "0.015"),
       "share of the loss by which a plan that is worse than its group's best counts 1/e")
      ("price", po::value(&options.price)->default_value(0.12, "0.12"),
       "of all compute, in shares of the loss, for budgets in steps")
      ("harm", po::value(&options.harm)->default_value(8),
       "how many times loss beyond that of leaving a job alone counts for budgets in steps")
      ("caution", po::value(&options.caution)->default_value(0.5, "0.5"),
       "standard deviations by which a plan's loss is taken to be worse than the critic says")
      ("held-out", po::value(&options.held_out)->default_value(0), "share of the groups")
      ("rate", po::value(&options.rate)->default_value(3e-4, "0.0003"), "learning rate (Adam)")
      ("epochs", po::value(&options.epochs)->default_value(40), "passes over the decisions")
      ("seed", po::value(&options.seed)->default_value(0), "of weights and order");
  // clang-format on
  po::positional_options_description unnamed;
  unnamed.add("store", -1);
  po::variables_map values;
  try {
    po::store(po::command_line_parser(argc, argv).options(all).positional(unnamed).run(), values);
    po::notify(values);
  } catch (const po::error& error) {
    throw std::invalid_argument(std::string(error.what()) + "; see --help");
  }
  if (values.count("help") > 0) {
    std::cout << all << std::flush;
    return 0;
  }
  if (options.stores.empty() || options.output.empty()) {
    throw std::invalid_argument("give a STORE and --output FILE; see --help");
  }
  if (void* set = dlsym(RTLD_DEFAULT, "openblas_set_num_threads"); set != nullptr) {
    reinterpret_cast<void (*)(int)>(set)(1);
  }
  Train(options);
  return 0;
}

}  // namespace
}  // namespace attune

int main(int argc, char** argv) {
  try {
    return attune::Main(argc, argv);
  } catch (const std::invalid_argument& error) {
    fmt::print(stderr, "attune-train: {}\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    fmt::print(stderr, "attune-train: {}\n", error.what());
    return 1;
  }
}
