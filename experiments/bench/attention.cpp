// What attune costs inside a trainer, beside the same attention bare.
//
//   attune-bench-attention meter     measuring a step, beside that step's forward pass
//   attune-bench-attention slim      a step with a part of the heads, beside attention so small
//   attune-bench-attention overhead  a step with attune at the default cadence, beside a bare one
//
// Attention has the shape of GPT-2 small: width 768, 12 heads. Processor seconds of one thread.
#include "collectors/attention.h"

#include <torch/torch.h>

#include <functional>
#include <string>

#include "agent/child.h"
#include "collectors/attach.h"
#include "experiments/bench/bench.h"
#include "experiments/bench/load.h"
#include "experiments/language_model.h"

namespace attune::bench {
namespace {

constexpr std::int64_t kWidth = 768;
constexpr std::int64_t kHeads = 12;

AttentionOptions Shape(std::int64_t context) {
  return {.width = kWidth, .heads = kHeads, .causal = true, .context = context};
}

// The input of a layer inside a model: its gradient is wanted too.
torch::Tensor Input(std::int64_t batch, std::int64_t context) {
  return torch::randn({batch, context, kWidth}).requires_grad_(true);
}

constexpr std::int64_t kContext = 1024;
constexpr std::int64_t kBatch = 4;

// The forward part of a step's measuring is told from the rest of that very pass; the backward part
// is the median difference between a measured pass and the one beside it. Backward goes no further
// than the values: measuring has no part in what lies before them.
void TimeMeter() {
  constexpr int kRounds = 30;
  const AttachOptions sampling;
  TunableAttention attention(Shape(kContext));
  const torch::Tensor x = Input(kBatch, kContext);
  const torch::Tensor slope = torch::randn({kBatch, kContext, kWidth});
  std::vector<double> forward, measuring;
  const auto backward = [&](bool measured) {
    attention->zero_grad();
    if (measured) attention->MeasureNext(sampling.sampled_rows, sampling.sampled_sequences);
    torch::Tensor y;
    const double forward_seconds = ProcessorSecondsOf([&] { y = attention->forward(x); });
    return ProcessorSecondsOf([&] {
      y.backward(slope, {}, false, {{attention->output->weight, attention->value->weight}});
      if (!measured) return;
      forward.push_back(attention->TakeMeasurement()->forward_seconds);
      measuring.push_back(forward_seconds - forward.back());
    });
  };
  backward(true);
  backward(false);
  const Figures passes = Figures::Take(
      kRounds, [&] { return backward(true); }, [&] { return backward(false); });
  const double in_forward = 1e3 * Median(measuring);
  std::vector<double> differences;
  for (std::size_t i = 0; i < passes.ours.size(); ++i) {
    differences.push_back(passes.ours[i] - passes.reference[i]);
  }
  const double in_backward = 1e3 * Median(differences);
  const double reference = 1e3 * Median(forward);
  const double ours = in_forward + std::max(in_backward, 0.0);
  Report("meter", ours, reference, "ms", ours / reference,
         {{"context", kContext},
          {"batch", kBatch},
          {"in_forward_ms", in_forward},
          {"in_backward_ms", in_backward}});
}

// Processor seconds of a training step of one layer.
template <typename Attention>
std::function<double()> StepOf(Attention attention, const torch::Tensor& x) {
  auto adam = std::make_shared<torch::optim::AdamW>(attention->parameters());
  return [=]() mutable {
    return ProcessorSecondsOf([&] {
      attention->zero_grad(/*set_to_none=*/true);  // as PyTorch does by itself since 2.0
      attention->forward(x).square().mean().backward();
      adam->step();
    });
  };
}

void TimeSlim() {
  constexpr int kRounds = 21;
  const torch::Tensor x = Input(kBatch, kContext);
  std::vector<Figures> all;
  nlohmann::ordered_json more;
  for (const std::int64_t part : {2, 4}) {
    // Every second, every fourth head: no two of them lie side by side.
    std::vector<std::uint8_t> active(kHeads, 0);
    for (std::size_t head = 0; head < active.size(); head += static_cast<std::size_t>(part)) {
      active[head] = 1;
    }
    const std::vector<float> ones(kHeads, 1);
    TunableAttention slim(Shape(kContext));
    slim->Apply(ones, ones, active);
    PlainAttention small(Shape(kContext), kHeads / part, kWidth / kHeads);
    auto ours = StepOf(slim, x);
    auto reference = StepOf(small, x);
    ours();
    reference();
    all.push_back(Figures::Take(kRounds, ours, reference));
    for (auto* seconds : {&all.back().ours, &all.back().reference}) {
      for (double& value : *seconds) value *= 1e3;
    }
    more[part == 2 ? "half" : "quarter"] = all.back().Ratio();
  }
  const bool worse = all[1].Ratio() > all[0].Ratio();
  Report("slim", all[worse ? 1 : 0], "ms", more);
}

// Attention layers one behind the other, each added to its input.
template <typename Attention>
struct Stack : torch::nn::Module {
  explicit Stack(const std::vector<Attention>& sites) : layers(sites) {
    for (std::size_t i = 0; i < layers.size(); ++i) {
      register_module("layer" + std::to_string(i), layers[i]);
    }
  }
  torch::Tensor Loss(torch::Tensor x) {
    for (Attention& layer : layers) x = x + layer->forward(x);
    return x.square().mean();
  }
  std::vector<Attention> layers;
};

// Steps of a model beside a daemon, in turn with steps of its bare twin.
struct Cost {
  double ours, reference;   // processor seconds of a step, measured ones counted by the cadence
  double measured, others;  // ratios of steps beside each other
  double ratio;             // of both by the cadence
};

// Lets the twin train the model's own weights: where weights, gradients and moments lie in memory
// moves a step by more than attune does.
void Share(torch::nn::Module& model, torch::nn::Module& twin) {
  const auto weights = model.named_parameters();
  for (const auto& item : twin.named_parameters()) {
    torch::Tensor own = item.value();
    torch::Tensor weight = weights[item.key()];
    weight.mutable_grad() = torch::zeros_like(weight);
    own.set_data(weight.detach());
    own.mutable_grad() = weight.grad();
  }
}

Cost CostOf(torch::nn::Module& model, const std::function<torch::Tensor()>& loss,
            torch::nn::Module& bare, const std::function<torch::Tensor()>& bare_loss,
            const std::string& endpoint, int measured_steps) {
  Share(model, bare);
  torch::optim::AdamW adam(model.parameters());
  AttachOptions options;
  options.budget = {BudgetKind::kSteps, 1e4};  // a longer one is measured more seldom
  options.endpoint = endpoint;
  Handle handle = Attach(model, options);
  const auto train = [&adam](const auto& loss_of) {
    adam.zero_grad();
    const torch::Tensor value = loss_of();
    value.backward();
    adam.step();
    return value.template item<double>();
  };
  const auto ours = [&] {
    return ProcessorSecondsOf([&] {
      handle.StartStep();
      handle.Step(train(loss));
    });
  };
  const auto reference = [&] { return ProcessorSecondsOf([&] { train(bare_loss); }); };
  const auto cadence = static_cast<int>(attune::Options().measure_every);
  for (int step = 0; step < 2 * cadence; ++step) ours();  // says hello, hears the cadence
  reference();
  const Figures steps = Figures::Take(measured_steps * cadence, ours, reference);
  Figures measured, others;
  for (std::size_t i = 0; i < steps.ours.size(); ++i) {
    const bool is_measured = (i + 1) % static_cast<std::size_t>(cadence) == 0;
    Figures& part = is_measured ? measured : others;
    part.ours.push_back(steps.ours[i]);
    part.reference.push_back(steps.reference[i]);
  }
  handle.Finish(std::nullopt);
  const auto by_cadence = [cadence](double of_measured, double of_others) {
    return (of_measured + (cadence - 1) * of_others) / cadence;
  };
  return {by_cadence(Median(measured.ours), Median(others.ours)), Median(steps.reference),
          measured.Ratio(), others.Ratio(), by_cadence(measured.Ratio(), others.Ratio())};
}

Cost StackCost(const std::string& endpoint) {
  constexpr std::int64_t kShort = 128;
  std::vector<TunableAttention> sites;
  std::vector<PlainAttention> plain;
  for (int layer = 0; layer < 12; ++layer) {
    sites.emplace_back(Shape(kShort));
    plain.push_back(sites.back()->Bake());
  }
  const auto stack = std::make_shared<Stack<TunableAttention>>(sites);
  const auto bare = std::make_shared<Stack<PlainAttention>>(plain);
  const torch::Tensor x = torch::randn({1, kShort, kWidth});
  return CostOf(
      *stack, [=] { return stack->Loss(x); }, *bare, [=] { return bare->Loss(x); }, endpoint, 40);
}

Cost DemoCost(const std::string& endpoint) {
  const ModelOptions shape{.vocabulary = 96, .context = 256, .width = 64, .heads = 8, .layers = 3};
  LanguageModel model(shape);
  LanguageModel bare(shape);
  bare->Bake();
  const torch::Tensor text = torch::randint(96, {12, 257}, torch::kLong);
  const auto loss = [text](LanguageModel of) {
    return [text, of]() mutable {
      return torch::nn::functional::cross_entropy(of->forward(text.narrow(1, 0, 256)).flatten(0, 1),
                                                  text.narrow(1, 1, 256).flatten());
    };
  };
  return CostOf(*model, loss(model), *bare, loss(bare), endpoint, 40);
}

void TimeOverhead() {
  const Running daemon({"--policy", "keep"});
  const Cost stack = StackCost(daemon.Endpoint());
  const Cost demo = DemoCost(daemon.Endpoint());
  const Cost& worse = stack.ratio > demo.ratio ? stack : demo;
  Report("overhead", 1e3 * worse.ours, 1e3 * worse.reference, "ms", worse.ratio,
         {{"stack", stack.ratio},
          {"stack_measured", stack.measured},
          {"stack_others", stack.others},
          {"demo", demo.ratio},
          {"demo_measured", demo.measured},
          {"demo_others", demo.others},
          {"stack_step_ms", 1e3 * stack.reference},
          {"demo_step_ms", 1e3 * demo.reference}});
}

}  // namespace
}  // namespace attune::bench

int main(int argc, char** argv) {
  using namespace attune::bench;
  UseOneThread();
  torch::set_num_threads(1);
  torch::manual_seed(1);
  return RunNamed(argc, argv,
                  {{"meter", TimeMeter}, {"slim", TimeSlim}, {"overhead", TimeOverhead}});
}
