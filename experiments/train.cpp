// attune-train: teaches a network from the histories of jobs that were tuned in different ways, and
// writes it as a checkpoint that attuned can begin with (--network FILE).
//
// Jobs of the same name, seed and topology form a group: like is compared with like, for the job
// explains most of what comes of it and the actions little. Within its group each job has a weight
// that falls off with what it lost against the best, and its decisions are imitated by that weight
// (advantage-weighted regression, Peng et al., 1910.00177).
#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <boost/program_options.hpp>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <limits>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

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
};

using Group = std::vector<Episode>;

bool IsLesson(const Trial& trial) {
  return trial.action && trial.decider != "keep" &&
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
        if (!IsLesson(*trial)) continue;
        episode.trials.push_back(std::move(*trial));
        episode.returns.push_back(rest);
      }
      const std::string key = fmt::format("{} seed {}", job.spec.name, job.spec.seed);
      episode.job = std::move(job);
      if (!episode.trials.empty()) groups[key].push_back(std::move(episode));
    }
  }
  return groups;
}

// What a job is worth, in shares of the group's best loss. With a budget in compute the loss says
// all. With one in steps a share of compute that was saved is worth `price`, but only at no harm:
// loss beyond the group's best counts `harm` times.
void Weigh(Group& group, const Options& options) {
  double best_loss = std::numeric_limits<double>::infinity();
  double most_compute = 0;
  for (const Episode& episode : group) {
    best_loss = std::min(best_loss, *episode.job.validation_loss);
    most_compute = std::max(most_compute, episode.job.compute_seconds);
  }
  std::vector<double> worth;
  for (const Episode& episode : group) {
    const double behind = *episode.job.validation_loss / best_loss - 1;
    worth.push_back(episode.job.spec.budget.kind == BudgetKind::kCompute
                        ? -behind
                        : -options.harm * behind +
                              options.price * (1 - episode.job.compute_seconds / most_compute));
  }
  const double most = *std::ranges::max_element(worth);
  double sum = 0;
  for (std::size_t i = 0; i < group.size(); ++i) {
    worth[i] = std::exp((worth[i] - most) / options.temperature);
    sum += worth[i];
  }
  for (std::size_t i = 0; i < group.size(); ++i) {
    group[i].weights.assign(group[i].trials.size(), worth[i] / sum);
  }
}

// The same by what the next window alone brought, in standard deviations of the group's in that
// window: a greedy bandit, as a baseline.
void WeighGreedily(Group& group) {
  std::map<std::uint32_t, std::vector<double>> rewards;
  for (const Episode& episode : group) {
    for (const Trial& trial : episode.trials) rewards[trial.window].push_back(*trial.reward);
  }
  for (Episode& episode : group) {
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

std::vector<Sample> SamplesOf(const std::vector<const Group*>& groups) {
  constexpr auto kActive = static_cast<std::size_t>(
      std::ranges::find(kTokenFeatureNames, "active") - kTokenFeatureNames.begin());
  std::vector<Sample> samples;
  for (const Group* group : groups) {
    for (const Episode& episode : *group) {
      for (std::size_t i = 0; i < episode.trials.size(); ++i) {
        const Trial& trial = episode.trials[i];
        std::vector<std::uint8_t> before(trial.state.Heads());
        for (std::size_t head = 0; head < before.size(); ++head) {
          before[head] = trial.state.tokens[head * kTokenFeatures + kActive] > 0.5F ? 1 : 0;
        }
        samples.push_back(
            MakeSample(trial.state, trial.mask, *trial.action, before, trial.setting.active));
        samples.back().weight = episode.weights[i];
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
  std::vector<const Group*> learned_from;
  std::vector<const Group*> held_out;
  std::mt19937_64 random(options.seed);
  std::size_t jobs = 0;
  for (auto& [key, group] : groups) {
    options.greedy ? WeighGreedily(group) : Weigh(group, options);
    jobs += group.size();
    const bool out = std::uniform_real_distribution<double>(0, 1)(random) < options.held_out;
    (out ? held_out : learned_from).push_back(&group);
  }
  const std::vector<Sample> lessons = SamplesOf(learned_from);
  const std::vector<Sample> tests = SamplesOf(held_out);
  if (lessons.empty()) {
    throw std::invalid_argument("there is nothing to learn from in these histories");
  }
  fmt::print("{} jobs in {} groups; {} decisions to learn from, {} held out\n", jobs, groups.size(),
             lessons.size(), tests.size());

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
      ("temperature", po::value(&options.temperature)->default_value(0.01, "0.01"),
       "share of the loss by which a job that is worse than its group's best counts 1/e")
      ("price", po::value(&options.price)->default_value(0.05, "0.05"),
       "of all compute, in shares of the loss, for budgets in steps")
      ("harm", po::value(&options.harm)->default_value(2), "how much loss counts for budgets in steps")
      ("held-out", po::value(&options.held_out)->default_value(0), "share of the groups")
      ("rate", po::value(&options.rate)->default_value(1e-3, "0.001"), "learning rate (Adam)")
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
