// TunableAttention against a reference written out in loops, and against closed forms.
#include "collectors/attention.h"

#include <ATen/autocast_mode.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

namespace attune {
namespace {

// Double-precision numbers of one batch: weights[b][h][t][j], and each head's output rows.
struct Reference {
  torch::Tensor logits;   // [batch, heads, queries, keys], scaled; −∞ where hidden
  torch::Tensor weights;  // [batch, heads, queries, keys]
  torch::Tensor heads;    // [batch, heads, queries, head_width], after the gain
  torch::Tensor output;   // [batch, queries, width]
};

torch::Tensor Project(const torch::nn::Linear& linear, const torch::Tensor& x) {
  torch::Tensor y = torch::matmul(x.to(torch::kFloat64), linear->weight.to(torch::kFloat64).t());
  return linear->bias.defined() ? y + linear->bias.to(torch::kFloat64) : y;
}

// Attention by its definition, head by head and key by key; inactive heads put out zeros.
Reference Compute(TunableAttention& module, const Setting& setting, bool causal,
                  const torch::Tensor& x, const torch::Tensor& memory, const torch::Tensor& mask) {
  const torch::NoGradGuard no_grad;
  const torch::Tensor& source = memory.defined() ? memory : x;
  const auto heads = static_cast<std::int64_t>(setting.scale.size());
  const std::int64_t batch = x.size(0), queries = x.size(1), keys = source.size(1);
  const torch::Tensor query = Project(module->query, x);
  const torch::Tensor key = Project(module->key, source);
  const torch::Tensor value = Project(module->value, source);
  const std::int64_t width = query.size(2) / heads;
  const auto q = query.accessor<double, 3>();
  const auto k = key.accessor<double, 3>();
  const auto v = value.accessor<double, 3>();
  torch::Tensor full;
  if (mask.defined()) {
    full = mask.to(torch::kFloat64).expand({batch, 1, queries, keys}).contiguous();
  } else {
    full = torch::zeros({batch, 1, queries, keys}, torch::kFloat64);
  }
  const auto m = full.accessor<double, 4>();

  Reference result;
  result.logits = torch::full({batch, heads, queries, keys},
                              -std::numeric_limits<double>::infinity(), torch::kFloat64);
  result.weights = torch::zeros({batch, heads, queries, keys}, torch::kFloat64);
  result.heads = torch::zeros({batch, heads, queries, width}, torch::kFloat64);
  auto s = result.logits.accessor<double, 4>();
  auto p = result.weights.accessor<double, 4>();
  auto o = result.heads.accessor<double, 4>();
  for (std::int64_t b = 0; b < batch; ++b) {
    for (std::int64_t h = 0; h < heads; ++h) {
      const auto head = static_cast<std::size_t>(h);
      if (setting.active[head] == 0) continue;
      for (std::int64_t t = 0; t < queries; ++t) {
        double sum = 0;
        for (std::int64_t j = 0; j < keys; ++j) {
          if (causal && j > t) continue;
          double dot = 0;
          for (std::int64_t c = 0; c < width; ++c)
            dot += q[b][t][h * width + c] * k[b][j][h * width + c];
          s[b][h][t][j] =
              dot * setting.scale[head] / std::sqrt(static_cast<double>(width)) + m[b][0][t][j];
          sum += std::exp(s[b][h][t][j]);
        }
        for (std::int64_t j = 0; j < keys; ++j) {
          p[b][h][t][j] = std::exp(s[b][h][t][j]) / sum;
          for (std::int64_t c = 0; c < width; ++c) {
            o[b][h][t][c] += setting.gain[head] * p[b][h][t][j] * v[b][j][h * width + c];
          }
        }
      }
    }
  }
  result.output = Project(module->output, result.heads.transpose(1, 2).flatten(2));
  return result;
}

bool Near(const torch::Tensor& a, const torch::Tensor& b, double tolerance = 1e-5) {
  return a.sizes() == b.sizes() &&
         (a.to(torch::kFloat64) - b.to(torch::kFloat64)).abs().max().item<double>() <= tolerance;
}

enum class Shape { kSelf, kCausal, kCross, kNoBias };

AttentionOptions Options(Shape shape) {
  AttentionOptions options{.width = 24, .heads = 4, .context = 64};
  options.causal = shape == Shape::kCausal;
  options.bias = shape != Shape::kNoBias;
  options.key_width = shape == Shape::kCross ? 10 : 0;
  return options;
}

struct Inputs {
  torch::Tensor x, memory;
};
Inputs MakeInputs(Shape shape, std::int64_t length = 20) {
  Inputs inputs{torch::randn({3, length, 24}), {}};
  if (shape == Shape::kCross) inputs.memory = torch::randn({3, length + 5, 10});
  return inputs;
}

const std::vector<Setting>& Settings() {
  static const std::vector<Setting> settings = {
      Setting::Neutral(4),
      {{1, 1, 1, 1}, {1, 1, 1, 1}, {0, 1, 1, 0}},               // one run of heads
      {{1, 1, 1, 1}, {1, 1, 1, 1}, {1, 0, 0, 1}},               // not one run
      {{0.5F, 2, 3, 1}, {1, 1, 1, 1}, {1, 1, 1, 1}},            // scales
      {{1, 1, 1, 1}, {0, 0.5F, 2, 1}, {1, 1, 1, 1}},            // gains
      {{0.25F, 4, 2, 1.5F}, {2, 0.5F, 3, 0.1F}, {1, 0, 1, 1}},  // all together
      {{1, 1, 16, 1}, {1, 1, 0.3F, 1}, {0, 0, 1, 0}},
  };
  return settings;
}

void Apply(TunableAttention& module, const Setting& setting) {
  module->Apply(setting.scale, setting.gain, setting.active);
}

float At(const SiteMeasurement& measured, std::size_t head, Metric metric) {
  return measured.metrics[head * kMetrics + static_cast<std::size_t>(metric)];
}

}  // namespace

TEST_CASE("neutral tunable attention equals plain attention bit for bit") {
  const auto shape = GENERATE(Shape::kSelf, Shape::kCausal, Shape::kCross, Shape::kNoBias);
  torch::manual_seed(1);
  TunableAttention tunable(Options(shape));
  PlainAttention plain(Options(shape), 4, 6);
  {
    const torch::NoGradGuard no_grad;
    const auto from = tunable->named_parameters();
    for (auto& item : plain->named_parameters()) item.value().copy_(from[item.key()]);
  }
  const Inputs in = MakeInputs(shape);
  const torch::Tensor expected = plain->forward(in.x, in.memory);
  CHECK(torch::equal(tunable->forward(in.x, in.memory), expected));
  tunable->MeasureNext(8, 2);
  CHECK(torch::equal(tunable->forward(in.x, in.memory), expected));
}

TEST_CASE("every setting computes what its definition says") {
  const auto shape = GENERATE(Shape::kSelf, Shape::kCausal, Shape::kCross, Shape::kNoBias);
  torch::manual_seed(2);
  TunableAttention module(Options(shape));
  const Inputs in = MakeInputs(shape);
  const std::int64_t keys = in.memory.defined() ? in.memory.size(1) : in.x.size(1);
  const torch::Tensor mask = torch::randn({3, 1, in.x.size(1), keys});
  for (const Setting& setting : Settings()) {
    Apply(module, setting);
    CHECK(module->Current() == setting);
    for (const torch::Tensor& m : {torch::Tensor(), mask}) {
      const Reference expected =
          Compute(module, setting, shape == Shape::kCausal, in.x, in.memory, m);
      CHECK(Near(module->forward(in.x, in.memory, m), expected.output));
    }
  }
}

TEST_CASE("inactive heads are not computed and get no gradient") {
  torch::manual_seed(3);
  const auto active =
      GENERATE(std::vector<std::uint8_t>{0, 1, 1, 0}, std::vector<std::uint8_t>{1, 0, 0, 1});
  TunableAttention module(Options(Shape::kCausal));
  const std::vector<float> ones(4, 1.0F);
  module->Apply(ones, ones, active);
  {
    // A head that took part in any product would spread its NaN.
    const torch::NoGradGuard no_grad;
    const float nan = std::numeric_limits<float>::quiet_NaN();
    for (std::int64_t head = 0; head < 4; ++head) {
      if (active[static_cast<std::size_t>(head)] != 0) continue;
      for (const auto& linear : {module->query, module->key, module->value}) {
        linear->weight.narrow(0, head * 6, 6).fill_(nan);
        linear->bias.narrow(0, head * 6, 6).fill_(nan);
      }
      module->output->weight.narrow(1, head * 6, 6).fill_(nan);
    }
  }
  const torch::Tensor y = module->forward(torch::randn({2, 9, 24}));
  REQUIRE(torch::isfinite(y).all().item<bool>());
  y.square().sum().backward();
  for (std::int64_t head = 0; head < 4; ++head) {
    const bool on = active[static_cast<std::size_t>(head)] != 0;
    for (const auto& linear : {module->query, module->key, module->value}) {
      CHECK((linear->weight.grad().narrow(0, head * 6, 6).abs().sum().item<float>() > 0) == on);
    }
    CHECK((module->output->weight.grad().narrow(1, head * 6, 6).abs().sum().item<float>() > 0) ==
          on);
  }
}

TEST_CASE("measurements of all rows are those of the whole attention matrix") {
  const auto shape = GENERATE(Shape::kSelf, Shape::kCausal, Shape::kCross);
  torch::manual_seed(4);
  TunableAttention module(Options(shape));
  {
    const torch::NoGradGuard no_grad;  // apart from uniform attention
    module->query->weight.mul_(4);
    module->key->weight.mul_(2);
  }
  for (const Setting& setting : Settings()) {
    Apply(module, setting);
    const Inputs in = MakeInputs(shape);
    module->MeasureNext(1000, 1000);
    module->forward(in.x, in.memory).sum().backward();
    const auto measured = module->TakeMeasurement();
    REQUIRE(measured);
    REQUIRE(measured->metrics.size() == 4 * kMetrics);
    REQUIRE(measured->profile.size() == 4 * kProfileBins);

    const Reference all = Compute(module, setting, shape == Shape::kCausal, in.x, in.memory, {});
    const auto p = all.weights.accessor<double, 4>();
    const auto s = all.logits.accessor<double, 4>();
    const std::int64_t keys = all.weights.size(3);
    const std::int64_t first = shape == Shape::kCausal ? 15 : 0;  // rows that see 16 keys
    const double rows = 3.0 * static_cast<double>(in.x.size(1) - first);
    std::vector<double> norms(4, 0.0);
    std::vector<double> profile(4 * kProfileBins, 0.0);
    std::vector<double> entropy(4, 0.0), top(4, 0.0), sink(4, 0.0), largest(4, -1e30);
    std::vector<std::vector<double>> cosine(4, std::vector<double>(4, 0.0));
    for (std::int64_t b = 0; b < 3; ++b) {
      for (std::int64_t t = first; t < in.x.size(1); ++t) {
        const std::int64_t n = shape == Shape::kCausal ? t + 1 : keys;
        for (std::size_t h = 0; h < 4; ++h) {
          const auto head = static_cast<std::int64_t>(h);
          if (setting.active[h] == 0) continue;
          double most = 0;
          for (std::int64_t j = 0; j < n; ++j) {
            const double w = p[b][head][t][j];
            if (w > 0) entropy[h] -= w * std::log(w) / std::log(static_cast<double>(n)) / rows;
            most = std::max(most, w);
            largest[h] = std::max(largest[h], s[b][head][t][j]);
            profile[h * kProfileBins + static_cast<std::size_t>(16 * (n - 1 - j) / n)] += w / rows;
          }
          top[h] += most / rows;
          sink[h] += p[b][head][t][0] / rows;
          norms[h] += all.heads[b][head][t].norm().item<double>() / rows;
          for (std::size_t g = 0; g < 4; ++g) {
            if (g == h || setting.active[g] == 0) continue;
            const torch::Tensor x = all.weights[b][head][t];
            const torch::Tensor y = all.weights[b][static_cast<std::int64_t>(g)][t];
            cosine[h][g] += ((x * y).sum() / x.norm() / y.norm()).item<double>() / rows;
          }
        }
      }
    }
    double mean_norm = 0;
    for (const double norm : norms) mean_norm += norm;
    mean_norm /= static_cast<double>(CountActive(setting.active));
    for (std::size_t h = 0; h < 4; ++h) {
      if (setting.active[h] == 0) {
        for (std::size_t i = 0; i < kMetrics; ++i) CHECK(measured->metrics[h * kMetrics + i] == 0);
        for (std::size_t i = 0; i < kProfileBins; ++i) {
          CHECK(measured->profile[h * kProfileBins + i] == 0);
        }
        continue;
      }
      CHECK(At(*measured, h, Metric::kEntropy) == Approx(entropy[h]).margin(1e-5));
      CHECK(At(*measured, h, Metric::kLargestLogit) == Approx(largest[h]).epsilon(1e-4));
      CHECK(At(*measured, h, Metric::kTopWeight) == Approx(top[h]).margin(1e-5));
      CHECK(At(*measured, h, Metric::kFirstTokenMass) == Approx(sink[h]).margin(1e-5));
      CHECK(At(*measured, h, Metric::kOutputNorm) == Approx(norms[h] / mean_norm).margin(1e-5));
      CHECK(At(*measured, h, Metric::kRedundancy) ==
            Approx(*std::max_element(cosine[h].begin(), cosine[h].end())).margin(1e-5));
      for (std::size_t i = 0; i < kProfileBins; ++i) {
        CHECK(measured->profile[h * kProfileBins + i] ==
              Approx(profile[h * kProfileBins + i]).margin(1e-5));
      }
    }
  }
}

TEST_CASE("uniform attention has entropy 1, a flat profile and redundancy 1") {
  torch::manual_seed(5);
  TunableAttention module(Options(Shape::kSelf));
  {
    const torch::NoGradGuard no_grad;
    module->query->weight.zero_();
    module->query->bias.zero_();
  }
  module->MeasureNext(4, 1);
  module->forward(torch::randn({2, 32, 24}));
  const auto measured = module->TakeMeasurement();
  REQUIRE(measured);
  for (std::size_t head = 0; head < 4; ++head) {
    CHECK(At(*measured, head, Metric::kEntropy) == Approx(1).margin(1e-5));
    CHECK(At(*measured, head, Metric::kTopWeight) == Approx(1.0 / 32).margin(1e-6));
    CHECK(At(*measured, head, Metric::kRedundancy) == Approx(1).margin(1e-5));
    CHECK(At(*measured, head, Metric::kLargestLogit) == 0);
    for (std::size_t bin = 0; bin < kProfileBins; ++bin) {
      CHECK(measured->profile[head * kProfileBins + bin] == Approx(1.0 / 16).margin(1e-6));
    }
  }
}

// The slopes of each example's loss by finite differences beside what was measured.
void CheckImportance(TunableAttention& module, std::vector<float> gain, std::int64_t tokens) {
  constexpr std::int64_t kExamples = 4;
  module->to(torch::kFloat64);
  const std::vector<float> scale = {1, 2, 1, 0.5F};
  const std::vector<std::uint8_t> active = {1, 1, 0, 1};
  const torch::Tensor x = torch::randn({kExamples, tokens, 24}, torch::kFloat64);
  // So far off that which way a head pushes is chance, example by example.
  const torch::Tensor target = 30 * torch::randn({kExamples, tokens, 24}, torch::kFloat64);
  // Of the examples, which share the mean: [kExamples].
  const auto losses = [&] {
    return (module->forward(x) - target).square().mean(torch::IntArrayRef{1, 2}) / kExamples;
  };
  module->Apply(scale, gain, active);
  module->MeasureNext(4, 1);
  losses().sum().backward();
  const auto measured = module->TakeMeasurement();
  REQUIRE(measured);
  CHECK(At(*measured, 2, Metric::kImportance) == 0);
  constexpr float kStep = 1.0F / 1024;
  bool cancels = false;  // examples that disagree
  for (const std::size_t head : {0U, 1U, 3U}) {
    const auto loss_at = [&](float moved) {
      std::vector<float> gains = gain;
      gains[head] = moved;
      module->Apply(scale, gains, active);
      return losses().detach();
    };
    const float below = std::max(gain[head] - kStep, 0.0F);
    const float above = below + 2 * kStep;
    const torch::Tensor middle = (loss_at(above) - loss_at(below)) / (2.0 * kStep);
    // At the bound of 0 the difference is of one side alone: the loss is a parabola there.
    const torch::Tensor curve =
        (loss_at(above) - 2 * loss_at(below + kStep) + loss_at(below)) / (kStep * kStep);
    const torch::Tensor slopes = middle - curve * (below + kStep - gain[head]);
    CHECK(At(*measured, head, Metric::kImportance) ==
          Approx(slopes.abs().sum().item<double>()).epsilon(1e-3));
    cancels = cancels || (slopes.min() * slopes.max()).item<double>() < 0;
  }
  CHECK(cancels);
}

TEST_CASE(
    "importance is the sum of the sizes of the slopes of the examples along the head's gain") {
  torch::manual_seed(6);
  const auto gain = GENERATE(std::vector<float>{1, 1.5F, 1, 0.75F}, std::vector<float>{0, 1, 1, 2},
                             std::vector<float>{1, 1, 1, 1});
  const auto tokens = GENERATE(4, 130);  // fewer and more rows than are summed at a time
  const bool trains_projection = GENERATE(true, false);
  const bool trains_heads = GENERATE(true, false);
  if (!trains_projection && !trains_heads) return;
  TunableAttention module(Options(Shape::kCausal));
  for (const auto& linear : {module->query, module->key, module->value}) {
    for (torch::Tensor& weight : linear->parameters()) weight.set_requires_grad(trains_heads);
  }
  module->output->weight.set_requires_grad(trains_projection);
  CheckImportance(module, gain, tokens);
  CHECK(module->output->weight.grad().defined() == trains_projection);
}

TEST_CASE("where nothing is learned no importance is measured, and gains hold all the same") {
  torch::manual_seed(6);
  TunableAttention module(Options(Shape::kCausal));
  for (torch::Tensor& weight : module->parameters()) weight.set_requires_grad(false);
  module->Apply(std::vector<float>{1, 1, 1, 1}, std::vector<float>{0, 2, 1, 1},
                std::vector<std::uint8_t>{1, 1, 1, 1});
  const torch::Tensor x = torch::randn({2, 18, 24});
  const torch::Tensor bare = module->forward(x);
  module->MeasureNext(4, 1);
  const torch::Tensor measured = module->forward(x);
  CHECK_FALSE(measured.requires_grad());
  CHECK(torch::equal(measured, bare));
  const auto numbers = module->TakeMeasurement();
  REQUIRE(numbers);
  for (std::size_t head = 0; head < 4; ++head) CHECK(At(*numbers, head, Metric::kImportance) == 0);
}

TEST_CASE("the passes of several micro-batches count together in one measurement") {
  torch::manual_seed(6);
  TunableAttention module(Options(Shape::kCausal));
  const torch::Tensor x = torch::randn({2, 18, 24});
  const torch::Tensor slope = torch::randn({2, 18, 24});
  const auto measure = [&](const std::vector<torch::Tensor>& weights) {
    module->MeasureNext(4, 1);
    for (const torch::Tensor& weight : weights) (module->forward(x) * weight).sum().backward();
    return module->TakeMeasurement().value();
  };
  const SiteMeasurement whole = measure({slope});
  const SiteMeasurement parts = measure({0.25 * slope, 0.75 * slope});
  const SiteMeasurement opposed = measure({slope, -slope});
  for (std::size_t head = 0; head < 4; ++head) {
    const float importance = At(whole, head, Metric::kImportance);
    CHECK(At(parts, head, Metric::kImportance) == Approx(importance).epsilon(1e-3));
    CHECK(At(opposed, head, Metric::kImportance) == Approx(2 * importance).epsilon(1e-3));
  }
}

TEST_CASE("a measurement is made in single precision, also where autocast is on") {
  torch::manual_seed(10);
  TunableAttention single(Options(Shape::kCausal));
  TunableAttention half(Options(Shape::kCausal));
  {
    const torch::NoGradGuard no_grad;
    single->query->weight.mul_(20);
    const auto theirs = half->parameters();
    for (std::size_t i = 0; i < theirs.size(); ++i) theirs[i].copy_(single->parameters()[i]);
  }
  half->to(torch::kBFloat16);
  const torch::Tensor x = torch::randn({1, 18, 24});
  half->MeasureNext(18, 1);
  half->forward(x.to(torch::kBFloat16));
  const auto wanted = half->TakeMeasurement();
  at::autocast::set_cpu_enabled(true);
  single->MeasureNext(18, 1);
  single->forward(x);
  at::autocast::set_cpu_enabled(false);
  at::autocast::clear_cache();
  const auto measured = single->TakeMeasurement();
  REQUIRE(measured);
  for (std::size_t head = 0; head < 4; ++head) {
    // The products of the same halves; those of halves would be rounded to a sixteenth.
    CHECK(At(*measured, head, Metric::kLargestLogit) ==
          Approx(At(*wanted, head, Metric::kLargestLogit)).epsilon(0).margin(2e-3));
  }
}

TEST_CASE("measuring leaves the model's random numbers alone and draws fresh rows each time") {
  torch::manual_seed(7);
  TunableAttention module(Options(Shape::kCausal));
  const torch::Tensor x = torch::randn({4, 64, 24});
  torch::manual_seed(8);
  const torch::Tensor expected = torch::rand({5});
  torch::manual_seed(8);
  std::vector<float> entropies;
  for (int i = 0; i < 3; ++i) {
    module->MeasureNext(4, 2);
    module->forward(x);
    const auto measured = module->TakeMeasurement();
    REQUIRE(measured);
    CHECK(measured->forward_seconds > 0);
    entropies.push_back(At(*measured, 0, Metric::kEntropy));
  }
  CHECK(torch::equal(torch::rand({5}), expected));
  CHECK(entropies[0] != entropies[1]);
  CHECK(entropies[1] != entropies[2]);
}

TEST_CASE("keys that a mask hides count as little in a measurement as keys that are not there") {
  torch::manual_seed(9);
  TunableAttention module(Options(Shape::kCross));
  const torch::Tensor x = torch::randn({1, 12, 24});
  const torch::Tensor memory = torch::randn({1, 32, 10});
  const float hidden = GENERATE(-1e9F, -std::numeric_limits<float>::infinity());
  torch::Tensor mask = torch::zeros({1, 1, 1, 32});
  const std::int64_t first = GENERATE(0, 24);  // of the eight that are hidden
  mask.narrow(3, first, 8).fill_(hidden);
  module->MeasureNext(12, 1);
  module->forward(x, memory, mask).sum().backward();
  const auto masked = module->TakeMeasurement();
  module->MeasureNext(12, 1);
  module->forward(x, memory.narrow(1, first == 0 ? 8 : 0, 24)).sum().backward();
  const auto cut = module->TakeMeasurement();
  REQUIRE(masked);
  REQUIRE(cut);
  for (std::size_t i = 0; i < cut->metrics.size(); ++i) {
    CHECK(masked->metrics[i] == Approx(cut->metrics[i]).margin(1e-4));
  }
  for (std::size_t i = 0; i < cut->profile.size(); ++i) {
    CHECK(masked->profile[i] == Approx(cut->profile[i]).margin(1e-5));
  }
}

TEST_CASE("nothing is measured without a wish, out of training, or where no query sees two keys") {
  TunableAttention module(Options(Shape::kCausal));
  module->forward(torch::randn({1, 20, 24}));
  CHECK_FALSE(module->TakeMeasurement());
  module->eval();
  module->MeasureNext(4, 1);
  module->forward(torch::randn({1, 20, 24}));
  CHECK_FALSE(module->TakeMeasurement());
  module->train();
  module->forward(torch::randn({1, 20, 24}));
  CHECK_FALSE(module->TakeMeasurement());  // the wish was taken back
  module->MeasureNext(4, 1);
  module->forward(torch::randn({1, 1, 24}));
  CHECK_FALSE(module->TakeMeasurement());
  module->MeasureNext(4, 1);
  module->forward(torch::randn({1, 1, 24}));
  module->forward(torch::randn({1, 2, 24}));  // of a step's passes the first that shows something
  CHECK(module->TakeMeasurement());           // ... and there the second query sees two
  CHECK_FALSE(module->TakeMeasurement());
}

TEST_CASE("a baked module gives the same outputs and knows nothing of tuning") {
  const auto shape = GENERATE(Shape::kSelf, Shape::kCausal, Shape::kCross, Shape::kNoBias);
  torch::manual_seed(10);
  TunableAttention module(Options(shape));
  const Inputs in = MakeInputs(shape);
  for (const Setting& setting : Settings()) {
    Apply(module, setting);
    PlainAttention plain = module->Bake();
    CHECK(Near(plain->forward(in.x, in.memory), module->forward(in.x, in.memory)));
    CHECK(plain->buffers().empty());
    CHECK(plain->parameters().size() == (shape == Shape::kNoBias ? 4 : 8));
    CHECK(plain->query->weight.size(0) ==
          6 * static_cast<std::int64_t>(CountActive(setting.active)));
    CHECK(plain->query->weight.requires_grad());
  }
  PlainAttention plain = module->Bake();
  const torch::Tensor before = module->forward(in.x, in.memory);
  {
    const torch::NoGradGuard no_grad;
    for (auto& parameter : plain->parameters()) parameter.zero_();
  }
  CHECK(torch::equal(module->forward(in.x, in.memory), before));
}

TEST_CASE("a setting travels in the state_dict and takes effect when it is loaded") {
  torch::manual_seed(11);
  const torch::Tensor x = torch::randn({2, 20, 24});
  TunableAttention saved(Options(Shape::kCausal));
  Apply(saved, Settings()[5]);
  std::stringstream file;
  torch::save(saved, file);
  TunableAttention loaded(Options(Shape::kCausal));
  static_cast<void>(loaded->forward(x));  // has prepared the neutral setting
  torch::load(loaded, file);
  CHECK(loaded->Current() == Settings()[5]);
  CHECK(torch::equal(loaded->forward(x), saved->forward(x)));

  SECTION("so does writing to a buffer") {
    loaded->named_buffers()["active"].copy_(torch::tensor({1, 1, 1, 1}));
    CHECK(loaded->Current().active == std::vector<std::uint8_t>{1, 1, 1, 1});
    Setting setting = Settings()[5];
    setting.active = {1, 1, 1, 1};
    CHECK(Near(loaded->forward(x), Compute(loaded, setting, true, x, {}, {}).output));
  }
  SECTION("and what cannot be used is refused") {
    loaded->named_buffers()["active"].zero_();
    CHECK_THROWS_AS(loaded->forward(x), std::invalid_argument);
  }
}

TEST_CASE("a module keeps its setting in another precision") {
  torch::manual_seed(12);
  TunableAttention module(Options(Shape::kCausal));
  Apply(module, Settings()[5]);
  const torch::Tensor x = torch::randn({2, 20, 24});
  const torch::Tensor before = module->forward(x);
  module->to(torch::kFloat64);
  CHECK(Near(module->forward(x.to(torch::kFloat64)), before));
}

TEST_CASE("a first pass in inference mode does not spoil training") {
  torch::manual_seed(13);
  TunableAttention module(Options(Shape::kCausal));
  Apply(module, Settings()[5]);
  const torch::Tensor x = torch::randn({2, 20, 24});
  {
    const c10::InferenceMode inference;
    static_cast<void>(module->forward(x));
  }
  module->forward(x).sum().backward();
  CHECK(module->query->weight.grad().defined());
}

TEST_CASE("settings and shapes that cannot be are refused and change nothing") {
  TunableAttention module(Options(Shape::kSelf));
  const std::vector<float> ones(4, 1.0F);
  const std::vector<std::uint8_t> all(4, 1);
  CHECK_THROWS_AS(module->Apply(ones, ones, std::vector<std::uint8_t>(4, 0)),
                  std::invalid_argument);
  CHECK_THROWS_AS(module->Apply(std::vector<float>(3, 1.0F), ones, all), std::invalid_argument);
  CHECK_THROWS_AS(module->Apply(std::vector<float>(4, 17.0F), ones, all), std::invalid_argument);
  CHECK_THROWS_AS(module->Apply(ones, std::vector<float>(4, std::nanf("")), all),
                  std::invalid_argument);
  CHECK(module->Current() == Setting::Neutral(4));

  CHECK_THROWS_AS(TunableAttention(AttentionOptions{.width = 10, .heads = 4, .context = 8}),
                  std::invalid_argument);
  CHECK_THROWS_AS(TunableAttention(AttentionOptions{.width = 8, .heads = 4}),
                  std::invalid_argument);
  CHECK_THROWS_AS(TunableAttention(AttentionOptions{
                      .width = 8, .heads = 4, .key_width = 8, .causal = true, .context = 8}),
                  std::invalid_argument);
  CHECK_THROWS_AS(module->forward(torch::randn({1, 5, 24}), {}, torch::zeros({1, 4, 5, 5})),
                  std::invalid_argument);
  // It would be added as 0 and 1, and hide nothing.
  CHECK_THROWS_AS(
      module->forward(torch::randn({1, 5, 24}), {}, torch::ones({1, 1, 5, 5}, torch::kBool)),
      std::invalid_argument);
}

TEST_CASE("a site describes itself") {
  TunableAttention self(Options(Shape::kCausal));
  CHECK(self->Describe("a") == Site{"a", SiteKind::kSelf, true, 4, 6, 64});
  TunableAttention cross(Options(Shape::kCross));
  CHECK(cross->Describe("b") == Site{"b", SiteKind::kCross, false, 4, 6, 64});
}

}  // namespace attune
