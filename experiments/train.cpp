// attune-train: teaches a network from the histories of jobs that were tuned in different ways, and
// writes it as a checkpoint that attuned can begin with (--network FILE).
//
// Each plan that a job was run under has a weight beside the others of its group and beside leaving
// the job alone (groups.h), as in advantage-weighted regression (1910.00177). It is imitated not in
// the states of its own run alone but in those that the group's other runs came to (as DAgger does,
// 1011.0686): the network is taught to go where the best of them was by then.
#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <boost/program_options.hpp>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "experiments/groups.h"
#include "experiments/lessons.h"
#include "policies/network.h"

namespace attune {
namespace {

namespace po = boost::program_options;

struct Options {
  std::vector<std::string> stores;
  std::string output;
  std::string from;
  bool greedy = false;
  Weighing weighing;
  double held_out = 0;
  double rate = 0;
  std::int64_t epochs = 0;
  std::uint64_t seed = 0;
};

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

void Report(const char* what, const std::optional<Critic>& critic) {
  if (!critic) return;
  fmt::print("{}: in jobs left out {:.0f} % of the variance is foreseen\n", what,
             100 * critic->Foreseen());
}

void Train(const Options& options) {
  auto groups = ReadGroups(options.stores);
  std::vector<Group*> learned_from;
  std::vector<Group*> held_out;
  std::mt19937_64 random(options.seed);
  std::map<std::string, bool> is_out;  // by the job's name: its seeds are no other jobs
  for (auto& [key, group] : groups) {
    const std::string& name = group.episodes.front().job.spec.name;
    const auto [job, is_new] = is_out.try_emplace(name);
    if (is_new) {
      job->second = std::uniform_real_distribution<double>(0, 1)(random) < options.held_out;
    }
    (job->second ? held_out : learned_from).push_back(&group);
    if (job->second) fmt::print("held out: {}\n", key);
  }
  if (options.greedy) {
    for (auto& [key, group] : groups) WeighGreedily(group);
  } else {
    const auto loss = MakeCritic(learned_from, BudgetKind::kCompute);
    Report("loss, budgets in compute", loss);
    const auto loss_by_steps = MakeCritic(learned_from, BudgetKind::kSteps);
    Report("loss, budgets in steps", loss_by_steps);
    for (auto& [key, group] : groups) {
      const bool in_steps = KindOf(group) == BudgetKind::kSteps;
      const std::optional<Critic>& judge = in_steps ? loss_by_steps : loss;
      if (!judge) {
        throw std::invalid_argument(fmt::format(
            "'{}' has a budget in {}, and fewer than two jobs like it were run in two ways; a "
            "job's worth is learned from runs of the same name and seed that were tuned "
            "differently",
            key, in_steps ? "steps" : "compute"));
      }
      Weigh(group, *judge, options.weighing);
    }
  }
  const auto samples = options.greedy ? DecisionsOf : LessonsOf;
  const std::vector<Sample> lessons = samples(learned_from);
  const std::vector<Sample> tests = samples(held_out);
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
  std::uint64_t trials = network->Trials();
  std::uint64_t openings = network->Openings();
  for (const Group* group : learned_from) {
    for (const Episode& episode : group->episodes) {
      trials += episode.trials.size();
      if (options.greedy) continue;  // they have no reward
      openings += static_cast<std::uint64_t>(std::ranges::count_if(episode.trials, IsOpening));
    }
  }
  network->SetProgress(trials, openings, network->Version() + 1);
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
      ("temperature", po::value(&options.weighing.temperature)->default_value(Weighing{}.temperature, "0.004"),
       "share of the loss by which a plan that is worse than its group's best counts 1/e")
      ("price", po::value(&options.weighing.price)->default_value(Weighing{}.price, "0.05"),
       "of all compute, in shares of the loss, for budgets in steps")
      ("harm", po::value(&options.weighing.harm)->default_value(Weighing{}.harm),
       "how many times loss beyond that of leaving a job alone counts")
      ("caution", po::value(&options.weighing.caution)->default_value(Weighing{}.caution, "0.5"),
       "standard deviations by which a plan's loss is taken to be worse than the critic says")
      ("held-out", po::value(&options.held_out)->default_value(0), "share of the jobs, with all their seeds")
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
