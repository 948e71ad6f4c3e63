// The policy network beside the bare arithmetic.
//
//   attune-bench-network network   a decision's forward pass, beside its bare matrix products
//   attune-bench-network learn     a PPO update, beside one chain of LibTorch calls
//
// Processor seconds of one thread.
#include "policies/network.h"

#include <torch/torch.h>

#include <cmath>
#include <random>
#include <stdexcept>

#include "experiments/bench/bare_network.h"
#include "experiments/bench/bench.h"

namespace attune::bench {
namespace {

// BLAS's own, as LibTorch calls it: column-major, the last argument's leading dimension.
using Gemm = void (*)(const char*, const char*, const int*, const int*, const int*, const float*,
                      const float*, const int*, const float*, const int*, const float*, float*,
                      const int*);

// y = x · weightᵀ for layers of the network, on `rows` rows each.
class Products {
 public:
  Products(int sites, int heads) {
    constexpr auto kHidden = static_cast<int>(BareNetwork::kHidden);
    const int rows = sites * heads;
    Add(rows, kTokenFeatures, kHidden);
    Add(rows, kHidden, kHidden);
    Add(rows, 4 * kHidden, kHidden);
    Add(rows, kHidden, kScaleChoices + 1);
    Add(sites, 3 * kHidden, kHidden);
    Add(sites, kHidden, kCountChoices);
    Add(1, kHidden, kHidden);
    Add(1, kHidden, 1);
  }
  void Run() {
    const float one = 1, zero = 0;
    for (Layer& layer : layers_) {
      gemm_("T", "N", &layer.outputs, &layer.rows, &layer.inputs, &one, layer.weight.data(),
            &layer.inputs, layer.x.data(), &layer.inputs, &zero, layer.y.data(), &layer.outputs);
    }
  }

 private:
  struct Layer {
    int rows, inputs, outputs;
    std::vector<float> weight, x, y;
  };
  void Add(int rows, std::size_t inputs, std::size_t outputs) {
    const auto n = static_cast<std::size_t>(rows);
    layers_.push_back({rows, static_cast<int>(inputs), static_cast<int>(outputs),
                       std::vector<float>(inputs * outputs, 0.1F),
                       std::vector<float>(n * inputs, 0.1F), std::vector<float>(n * outputs)});
  }

  Gemm gemm_ = reinterpret_cast<Gemm>(dlsym(RTLD_DEFAULT, "sgemm_"));
  std::vector<Layer> layers_;
};

// A job of equal sites at the end of a window.
struct Window {
  Window(std::size_t sites, std::size_t heads) : setting(Setting::Neutral(sites * heads)) {
    for (std::size_t site = 0; site < sites; ++site) {
      job.topology.sites.push_back({"site" + std::to_string(site), SiteKind::kSelf, true,
                                    static_cast<std::uint32_t>(heads), 64, 1024});
    }
    state.site_offsets = job.topology.SiteOffsets();
    std::mt19937_64 random(1);
    std::normal_distribution<float> normal;
    for (std::size_t i = 0; i < state.Heads() * kTokenFeatures; ++i) {
      state.tokens.push_back(normal(random));
    }
    mask = MaskOf(job.topology, setting);
  }
  JobSpec job;
  Setting setting;
  State state;
  ActionMask mask;
};

void TimeNetwork() {
  struct Size {
    int sites, heads, repetitions;
  };
  NetworkOptions options;
  options.least_trials = 0;
  options.least_confidence =
      2;  // no output is sure enough: the decision ends with the forward pass
  Network network(options);
  std::mt19937_64 random(1);
  nlohmann::ordered_json more;
  std::optional<Figures> worst;
  for (const Size& size : {Size{12, 12, 200}, Size{64, 16, 40}, Size{96, 96, 5}}) {
    const Window window(static_cast<std::size_t>(size.sites), static_cast<std::size_t>(size.heads));
    const WindowReading reading;
    const Situation situation{window.job,   window.setting, reading, nullptr,
                              window.state, window.mask,    0.5,     1};
    Products products(size.sites, size.heads);
    const auto microseconds = [repetitions = size.repetitions](auto work) {
      return [=]() {
        return 1e6 / repetitions * ProcessorSecondsOf([&] {
                 for (int i = 0; i < repetitions; ++i) work();
               });
      };
    };
    const auto ours = microseconds([&] {
      if (!std::holds_alternative<Decline>(network.Decide(situation, random))) {
        throw std::logic_error("the network decided");
      }
    });
    const auto reference = microseconds([&] { products.Run(); });
    ours();
    reference();
    const Figures figures = Figures::Take(21, ours, reference);
    more[std::to_string(size.sites * size.heads)] = {{"ours", Median(figures.ours)},
                                                     {"reference", Median(figures.reference)},
                                                     {"ratio", figures.Ratio()}};
    if (!worst || figures.Ratio() > worst->Ratio()) worst = figures;
  }
  Report("network", *worst, "us", more);
}

constexpr std::int64_t kWindows = 4096;
constexpr std::int64_t kSites = 12;
constexpr std::int64_t kHeads = 12;

// Windows in which every site of an even number halves its heads.
std::vector<Sample> MakeSamples(const Network& network) {
  const Window window(kSites, kHeads);
  std::mt19937_64 random(2);
  std::normal_distribution<float> normal;
  std::vector<Sample> samples;
  for (std::int64_t i = 0; i < kWindows; ++i) {
    State state = window.state;
    for (float& feature : state.tokens) feature = normal(random);
    Action action = Action::Keep(state.Heads(), state.Sites());
    for (std::uint8_t& choice : action.scale) choice = random() % 5;
    for (float& score : action.score) score = normal(random);
    for (std::size_t site = 0; site < state.Sites(); site += 2) {
      action.count[site] = CountChange::kHalve;
    }
    const Setting after = Apply(window.job.topology, window.setting, action);
    Sample sample = MakeSample(state, window.mask, action, window.setting.active, after.active);
    sample.log_probability = network.Evaluate(sample).log_probability;
    sample.advantage = normal(random);
    sample.target_value = normal(random);
    samples.push_back(std::move(sample));
  }
  return samples;
}

template <typename T, typename Row>
torch::Tensor Stacked(std::span<const Sample> samples, torch::IntArrayRef sizes, Row&& row) {
  std::vector<T> all;
  for (const Sample& sample : samples) {
    for (const auto value : row(sample)) all.push_back(static_cast<T>(value));
  }
  return torch::tensor(all).view(sizes);
}

// The samples as tensors, made beforehand.
struct Lesson {
  explicit Lesson(std::span<const Sample> samples) {
    constexpr auto kFeatures = static_cast<std::int64_t>(kTokenFeatures);
    tokens = Stacked<float>(samples, {kWindows, kSites, kHeads, kFeatures},
                            [](const Sample& s) { return s.state.tokens; });
    scale = Stacked<std::int64_t>(samples, {kWindows, kSites, kHeads, 1},
                                  [](const Sample& s) { return s.action.scale; });
    count = Stacked<std::int64_t>(samples, {kWindows, kSites, 1},
                                  [](const Sample& s) { return s.action.count; });
    acted = Stacked<float>(samples, {kWindows},
                           [](const Sample& s) { return std::array{s.log_probability}; });
    advantage = Stacked<float>(samples, {kWindows},
                               [](const Sample& s) { return std::array{s.advantage}; });
    target = Stacked<float>(samples, {kWindows},
                            [](const Sample& s) { return std::array{s.target_value}; });
    // The heads of the even sites in the order of the draw: the lasting ones first, by score.
    order = Stacked<std::int64_t>(samples, {kWindows, kSites / 2, kHeads}, [](const Sample& s) {
      std::vector<std::size_t> all;
      for (std::size_t site = 0; site < kSites; site += 2) {
        std::vector<std::size_t> heads(kHeads);
        std::iota(heads.begin(), heads.end(), std::size_t{0});
        std::ranges::sort(heads, [&](std::size_t a, std::size_t b) {
          return s.action.score[site * kHeads + a] > s.action.score[site * kHeads + b];
        });
        all.insert(all.end(), heads.begin(), heads.end());
      }
      return all;
    });
    scale_open = torch::ones({kSites, kHeads, std::int64_t{kScaleChoices}}, torch::kBool);
    count_open = torch::ones({kSites, std::int64_t{kCountChoices}}, torch::kBool);
    for (std::size_t choice = 0; choice < kCountChoices; ++choice) {
      count_open.select(1, static_cast<std::int64_t>(choice))
          .fill_(samples.front().mask.count.front()[choice] != 0);
    }
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8);
  }

  // PPO: the loss of the windows from `first` on.
  torch::Tensor Loss(BareNetwork& network, std::int64_t first, const NetworkOptions& options) {
    const auto some = [&](const torch::Tensor& all) {
      return all.narrow(0, first, options.minibatch);
    };
    const auto outputs = network.Forward(some(tokens), scale_open, count_open);
    const torch::Tensor score = outputs.score.slice(1, 0, kSites, 2).gather(2, some(order));
    const torch::Tensor left = score.flip({2}).logcumsumexp(2).flip({2});
    const torch::Tensor now =
        outputs.scale.gather(3, some(scale)).sum(torch::IntArrayRef({1, 2, 3})) +
        outputs.count.gather(2, some(count)).sum(torch::IntArrayRef({1, 2})) +
        (score - left).narrow(2, 0, kHeads / 2).sum(torch::IntArrayRef({1, 2}));
    const torch::Tensor ratio = (now - some(acted)).clamp(-20, 20).exp();
    const torch::Tensor worth = some(advantage);
    const torch::Tensor policy_loss =
        -torch::min(ratio * worth, ratio.clamp(1 - options.clip, 1 + options.clip) * worth).mean();
    const torch::Tensor value_loss = (outputs.value - some(target)).square().mean();
    const torch::Tensor entropy =
        -(outputs.scale.exp() * outputs.scale).sum(torch::IntArrayRef({1, 2, 3})) -
        (outputs.count.exp() * outputs.count).sum(torch::IntArrayRef({1, 2}));
    return policy_loss + options.value_weight * value_loss -
           options.entropy_weight * entropy.mean();
  }

  torch::Tensor tokens, scale, count, acted, advantage, target, order, scale_open, count_open;
};

void TimeLearn() {
  NetworkOptions options;
  options.learning_rate = 1e-7;  // so that no pass ends early
  Network network(options);
  const std::vector<Sample> samples = MakeSamples(network);
  Lesson lesson(samples);
  BareNetwork bare;
  torch::optim::Adam adam(bare.parameters(), torch::optim::AdamOptions(options.learning_rate));
  const auto ours = [&] {
    return ProcessorSecondsOf([&] {
      const UpdateReport report = network.Update(samples);
      if (!(report.divergence < 1e-3)) throw std::logic_error("the update ended early");
    });
  };
  const auto reference = [&] {
    return ProcessorSecondsOf([&] {
      for (std::int64_t epoch = 0; epoch < options.epochs; ++epoch) {
        for (std::int64_t first = 0; first < kWindows; first += options.minibatch) {
          adam.zero_grad();
          lesson.Loss(bare, first, options).backward();
          torch::nn::utils::clip_grad_norm_(bare.parameters(), options.max_gradient_norm);
          adam.step();
        }
      }
    });
  };
  Report("learn", Figures::Take(2, ours, reference), "s");
}

}  // namespace
}  // namespace attune::bench

int main(int argc, char** argv) {
  using namespace attune::bench;
  UseOneThread();
  torch::set_num_threads(1);
  torch::manual_seed(1);
  return RunNamed(argc, argv, {{"network", TimeNetwork}, {"learn", TimeLearn}});
}
