// The network's gradients against finite differences, found through its checkpoints: Adam's first
// step moves every weight by the learning rate against the sign of its gradient.
#include <torch/csrc/jit/serialization/import.h>
#include <torch/torch.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "policies/network.h"

namespace attune {
namespace {

constexpr float kDifference = 2e-3F;
// Differences below this are lost in the rounding of float32.
constexpr double kLeastGradient = 1e-3;

// Two sites, one that shrinks and one that grows, all kinds of choices among them.
Sample MixedSample() {
  Topology topology;
  topology.sites.push_back({.name = "shrinks", .heads = 4, .head_width = 8, .context = 16});
  topology.sites.push_back({.name = "grows", .heads = 3, .head_width = 8, .context = 16});
  Setting setting = Setting::Neutral(7);
  setting.active = {1, 1, 1, 1, 1, 0, 0};
  State state;
  state.site_offsets = topology.SiteOffsets();
  std::mt19937_64 random(3);
  std::normal_distribution<float> normal;
  state.tokens.resize(state.Heads() * kTokenFeatures);
  for (float& feature : state.tokens) feature = normal(random);
  Action action = Action::Keep(7, 2);
  action.scale = {0, 1, 2, 3, 4, kKeepScale, kKeepScale};
  action.count = {CountChange::kHalve, CountChange::kDouble};
  action.score = {0.1F, 0.9F, 0.3F, 0.5F, 0.2F, 0.4F, 0.8F};
  return MakeSample(state, MaskOf(topology, setting), action, setting.active,
                    Apply(topology, setting, action).active);
}

// The network with its weights, laid end to end, replaced.
std::unique_ptr<Network> WithWeights(const std::filesystem::path& path,
                                     const torch::Tensor& weights, const NetworkOptions& options) {
  torch::jit::Module checkpoint = torch::jit::load(path.string());
  checkpoint.setattr("weights", weights);
  const std::filesystem::path changed = path.string() + ".changed";
  checkpoint.save(changed.string());
  return Network::Load(changed, options);
}

torch::Tensor WeightsOf(const Network& network, const std::filesystem::path& path) {
  network.Save(path);
  return torch::jit::load(path.string()).attr("weights").toTensor().clone();
}

TEST_CASE("a step of learning goes against the gradient that finite differences find") {
  const auto folder = std::filesystem::temp_directory_path() /
                      ("attune-gradient-test-" + std::to_string(::getpid()));
  std::filesystem::create_directories(folder);
  const auto path = folder / "network";
  NetworkOptions options;
  options.hidden = 5;
  options.seed = 11;
  options.learning_rate = 1e-5;
  options.epochs = 1;
  const Sample sample = MixedSample();
  // Away from the small last layers of a new network every weight counts.
  NetworkOptions fast = options;
  fast.learning_rate = 0.02;
  fast.epochs = 10;
  Network moved(fast);
  Sample other = sample;
  other.action = Action::Keep(7, 2);
  other.active_after = other.active_before;
  other.log_probability = moved.Evaluate(other).log_probability;
  other.target_value = 3;
  moved.Clone(std::vector{other});
  for (int i = 0; i < 5; ++i) moved.Update(std::vector{other});
  const torch::Tensor weights = WeightsOf(moved, path);

  for (const bool of_value : {false, true}) {
    CAPTURE(of_value);
    // The loss is the value's error alone, or the log-probability alone.
    NetworkOptions one_term = options;
    one_term.entropy_weight = 0;
    one_term.value_weight = of_value ? 1 : 0;
    const auto learner = WithWeights(path, weights, one_term);
    Sample lesson = sample;
    const auto before = learner->Evaluate(lesson);
    lesson.log_probability = before.log_probability;
    lesson.advantage = of_value ? 0 : 1;
    lesson.target_value = before.value + 1.0;
    const auto objective = [&](const Network& at) {
      const auto now = at.Evaluate(lesson);
      return of_value ? now.value : now.log_probability;
    };
    std::vector<double> differences;
    for (std::int64_t i = 0; i < weights.numel(); ++i) {
      torch::Tensor up = weights.clone();
      torch::Tensor down = weights.clone();
      up.view(-1)[i] += kDifference;
      down.view(-1)[i] -= kDifference;
      differences.push_back((objective(*WithWeights(path, up, options)) -
                             objective(*WithWeights(path, down, options))) /
                            (2 * kDifference));
    }
    learner->Update(std::vector{lesson});
    const torch::Tensor after = WeightsOf(*learner, folder / "after");
    int compared = 0;
    int agreed = 0;
    for (std::int64_t i = 0; i < weights.numel(); ++i) {
      const auto index = static_cast<std::size_t>(i);
      if (std::abs(differences[index]) < kLeastGradient) continue;
      const double step = after.view(-1)[i].item<double>() - weights.view(-1)[i].item<double>();
      ++compared;
      agreed += step * differences[index] > 0 ? 1 : 0;
    }
    CHECK(compared > weights.numel() / 10);
    CHECK(agreed == compared);
  }
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace attune
