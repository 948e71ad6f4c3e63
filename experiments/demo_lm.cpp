// attune-demo-lm: trains a small character language model on real text, tuned where a daemon is
// there to tune it (ATTUNE_ENDPOINT).
#include <dlfcn.h>
#include <malloc.h>
#include <torch/torch.h>

#include <algorithm>
#include <array>
#include <boost/program_options.hpp>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "collectors/attach.h"
#include "experiments/text.h"

namespace attune {
namespace {

namespace po = boost::program_options;

struct Options {
  std::string text;
  std::string name;
  std::string report;
  std::string format;
  std::uint64_t seed = 0;
  double budget_seconds = 0;
  std::uint64_t budget_steps = 0;  // counts where it is not 0
  std::int64_t context = 0;
  std::int64_t width = 0;
  std::int64_t heads = 0;
  std::int64_t layers = 0;
  std::int64_t batch = 0;
  double rate = 0;
  double evaluate_every = 0;
};

void Require(bool condition, const std::string& what) {
  if (!condition) throw std::invalid_argument(what);
}

po::options_description Describe(Options& options) {
  po::options_description all(
      "attune-demo-lm trains a small character language model on real text, on one processor "
      "core.\nWith a daemon in ATTUNE_ENDPOINT (attune run sets it) its attention is tuned "
      "meanwhile;\nATTUNE_MODE=off trains it untuned.\n\nOptions",
      100);
  // clang-format off
  all.add_options()
      ("help,h", "say this")
      ("text", po::value(&options.text)->value_name("FILE"),
       "what to train on; default: Debian's package descriptions, from apt")
      ("seed", po::value(&options.seed)->value_name("N")->default_value(0),
       "of the weights and the batches")
      ("budget-seconds", po::value(&options.budget_seconds)->value_name("S")->default_value(90),
       "processor seconds of training; evaluation does not count")
      ("budget-steps", po::value(&options.budget_steps)->value_name("N"),
       "optimiser steps, instead of seconds")
      ("context", po::value(&options.context)->value_name("N")->default_value(256),
       "characters that the model sees")
      ("width", po::value(&options.width)->value_name("N")->default_value(64),
       "of the model, a multiple of the heads")
      ("heads", po::value(&options.heads)->value_name("N")->default_value(8), "in a layer")
      ("layers", po::value(&options.layers)->value_name("N")->default_value(3), "of the model")
      ("batch", po::value(&options.batch)->value_name("N")->default_value(12),
       "sequences in a step")
      ("rate", po::value(&options.rate)->value_name("R")->default_value(3e-3, "0.003"),
       "learning rate of AdamW at its highest: up in 2 % of the budget, then a cosine to 0")
      ("evaluate-every",
       po::value(&options.evaluate_every)->value_name("SHARE")->default_value(0.05, "0.05"),
       "of the budget between two evaluations, 0.001 to 1")
      ("name", po::value(&options.name)->value_name("NAME")->default_value("demo-lm"),
       "of the job, for people")
      ("format", po::value(&options.format)->value_name("F")->default_value("text"),
       "of what each evaluation prints: text, or json, a line each, for sweeps")
      ("report", po::value(&options.report)->value_name("FILE"),
       "write what came of it there, as JSON");
  // clang-format on
  return all;
}

// False where only help was asked for. Throws std::invalid_argument.
bool Parse(int argc, char** argv, Options& options) {
  const po::options_description all = Describe(options);
  po::variables_map values;
  try {
    po::store(
        po::command_line_parser(argc, argv)
            .options(all)
            .positional({})
            .style(po::command_line_style::default_style & ~po::command_line_style::allow_guessing)
            .run(),
        values);
    po::notify(values);
  } catch (const po::error& error) {
    throw std::invalid_argument(std::string(error.what()) + "; see --help");
  }
  if (values.count("help") > 0) {
    std::cout << all << std::flush;
    return false;
  }
  Require(values.count("budget-steps") == 0 || values["budget-seconds"].defaulted(),
          "give --budget-seconds or --budget-steps, not both");
  Require(values.count("budget-steps") == 0 || options.budget_steps > 0,
          "--budget-steps must be at least 1");
  Require(options.budget_seconds > 0 && std::isfinite(options.budget_seconds),
          "--budget-seconds must be above 0");
  Require(options.context >= 2 && options.context <= 65536, "--context must be 2 to 65536");
  Require(options.layers >= 1 && options.layers <= 1024, "--layers must be 1 to 1024");
  Require(options.heads >= 1 && options.heads <= 1024, "--heads must be 1 to 1024");
  Require(options.width >= 1 && options.width <= 65536, "--width must be 1 to 65536");
  Require(options.width % options.heads == 0, "--width must be a multiple of --heads");
  Require(options.batch >= 1 && options.batch <= 65536, "--batch must be 1 to 65536");
  Require(options.rate > 0 && std::isfinite(options.rate), "--rate must be above 0");
  Require(options.evaluate_every >= 0.001 && options.evaluate_every <= 1,
          "--evaluate-every must be 0.001 to 1");
  Require(options.format == "text" || options.format == "json", "--format must be text or json");
  Require(!options.name.empty() && options.name.size() <= kMaxNameBytes,
          "--name must have 1 to 200 bytes");
  return true;
}

// Pre-norm transformer block. Once baked it runs the plain attention.
struct BlockImpl : torch::nn::Module {
  BlockImpl(std::int64_t width, std::int64_t heads, std::int64_t context)
      : attention(
            AttentionOptions{.width = width, .heads = heads, .causal = true, .context = context}),
        before_attention(torch::nn::LayerNormOptions({width})),
        before_layers(torch::nn::LayerNormOptions({width})),
        widen(width, 4 * width),
        narrow(4 * width, width) {
    register_module("before_attention", before_attention);
    register_module("attention", attention);
    register_module("before_layers", before_layers);
    register_module("widen", widen);
    register_module("narrow", narrow);
  }

  void Bake() {
    baked = attention->Bake();
    replace_module("attention", baked);
  }

  torch::Tensor forward(const torch::Tensor& x) {
    const torch::Tensor input = before_attention->forward(x);
    const torch::Tensor y =
        x + (baked.is_empty() ? attention->forward(input) : baked->forward(input));
    return y + narrow->forward(torch::gelu(widen->forward(before_layers->forward(y))));
  }

  TunableAttention attention;
  PlainAttention baked{nullptr};
  torch::nn::LayerNorm before_attention, before_layers;
  torch::nn::Linear widen, narrow;
};
TORCH_MODULE(Block);

// Characters in, logits of the next character out.
struct LanguageModelImpl : torch::nn::Module {
  LanguageModelImpl(std::int64_t vocabulary, const Options& options)
      : characters(register_module("characters", torch::nn::Embedding(vocabulary, options.width))),
        positions(
            register_module("positions", torch::nn::Embedding(options.context, options.width))),
        norm(register_module("norm",
                             torch::nn::LayerNorm(torch::nn::LayerNormOptions({options.width})))),
        head(register_module("head", torch::nn::Linear(options.width, vocabulary))) {
    const torch::NoGradGuard no_grad;
    characters->weight.mul_(0.02);
    positions->weight.mul_(0.02);
    for (std::int64_t layer = 0; layer < options.layers; ++layer) {
      blocks.push_back(register_module("block" + std::to_string(layer),
                                       Block(options.width, options.heads, options.context)));
    }
  }

  // x: [batch, length] → [batch, length, vocabulary]
  torch::Tensor forward(const torch::Tensor& x) {
    torch::Tensor y = characters->forward(x) + positions->weight.narrow(0, 0, x.size(1));
    for (Block& block : blocks) y = block->forward(y);
    return head->forward(norm->forward(y));
  }

  void Bake() {
    for (Block& block : blocks) block->Bake();
  }

  torch::nn::Embedding characters, positions;
  std::vector<Block> blocks;
  torch::nn::LayerNorm norm;
  torch::nn::Linear head;
};
TORCH_MODULE(LanguageModel);

// The bytes of a text as numbers from 0, without gaps.
class Vocabulary {
 public:
  explicit Vocabulary(std::string_view text) {
    numbers_.fill(-1);
    for (const unsigned char c : text) numbers_[c] = 0;
    for (std::int64_t& number : numbers_) {
      if (number == 0) number = size_++;
    }
  }
  [[nodiscard]] std::int64_t Size() const { return size_; }
  [[nodiscard]] std::vector<std::int64_t> Encode(std::string_view text) const {
    std::vector<std::int64_t> numbers;
    numbers.reserve(text.size());
    for (const unsigned char c : text) numbers.push_back(numbers_[c]);
    return numbers;
  }

 private:
  std::array<std::int64_t, 256> numbers_{};
  std::int64_t size_ = 0;
};

struct Batch {
  torch::Tensor inputs;   // [batch, context]
  torch::Tensor targets;  // [batch, context], the character after each
};

// Stretches of a text, drawn by a generator of its own: the same seed, the same batches.
class Batches {
 public:
  Batches(const std::vector<std::int64_t>& text, std::int64_t batch, std::int64_t context,
          std::uint64_t seed)
      : text_(torch::tensor(text)), batch_(batch), context_(context), generator_(seed) {}

  Batch Next() {
    std::uniform_int_distribution<std::int64_t> start(0, text_.size(0) - context_ - 1);
    std::vector<torch::Tensor> rows;
    for (std::int64_t row = 0; row < batch_; ++row) {
      rows.push_back(text_.narrow(0, start(generator_), context_ + 1));
    }
    const torch::Tensor all = torch::stack(rows);
    return {all.narrow(1, 0, context_), all.narrow(1, 1, context_)};
  }

 private:
  torch::Tensor text_;
  std::int64_t batch_, context_;
  std::mt19937_64 generator_;
};

// Nats per character.
torch::Tensor Loss(LanguageModel& model, const Batch& batch) {
  return torch::nn::functional::cross_entropy(model->forward(batch.inputs).flatten(0, 1),
                                              batch.targets.flatten());
}

double Evaluate(LanguageModel& model, const std::vector<Batch>& batches) {
  const torch::NoGradGuard no_grad;
  model->eval();
  double sum = 0;
  for (const Batch& batch : batches) sum += Loss(model, batch).item<double>();
  model->train();
  return sum / static_cast<double>(batches.size());
}

// Share of the highest learning rate at this share of the budget.
double Schedule(double progress) {
  constexpr double kWarmUp = 0.02;
  constexpr double kLowest = 0.01;  // the first step's
  if (progress < kWarmUp) return std::max(kLowest, progress / kWarmUp);
  return 0.5 * (1 + std::cos(M_PI * (progress - kWarmUp) / (1 - kWarmUp)));
}

// Of every site in turn.
std::vector<std::uint32_t> ActiveHeads(const Handle& handle) {
  std::vector<std::uint32_t> counts;
  auto active = handle.Current().active.begin();
  for (const Site& site : handle.Sites().sites) {
    counts.push_back(static_cast<std::uint32_t>(std::count(active, active + site.heads, 1)));
    active += site.heads;
  }
  return counts;
}

nlohmann::json Scales(const Handle& handle) {
  nlohmann::json scales = nlohmann::json::array();
  auto scale = handle.Current().scale.begin();
  for (const Site& site : handle.Sites().sites) {
    scales.push_back(std::vector<float>(scale, scale + site.heads));
    scale += site.heads;
  }
  return scales;
}

// LibTorch's own setting does not reach OpenBLAS, whose idle threads spin: with two of them a step
// took four times the processor time.
void UseOneThread() {
  torch::set_num_threads(1);
  if (void* set = dlsym(RTLD_DEFAULT, "openblas_set_num_threads"); set != nullptr) {
    reinterpret_cast<void (*)(int)>(set)(1);
  }
}

void Train(const Options& options) {
  const Text text = LoadText(options.text);
  const SplitText split = HoldOut(text.content);
  const Vocabulary vocabulary(text.content);
  const auto least = static_cast<std::size_t>(options.context) + 2;
  Require(split.validation.size() >= least && split.training.size() >= least,
          "the text (" + text.source + ", " + std::to_string(text.content.size()) +
              " bytes) is too short for a context of " + std::to_string(options.context) +
              ": its held-out part has " + std::to_string(split.validation.size()) + " bytes");
  std::printf("text: %s, %zu bytes, %lld different\n", text.source.c_str(), text.content.size(),
              static_cast<long long>(vocabulary.Size()));

  UseOneThread();
  torch::manual_seed(options.seed);
  LanguageModel model(vocabulary.Size(), options);
  torch::optim::AdamW optimizer(model->parameters(), torch::optim::AdamWOptions(options.rate));
  Batches training(vocabulary.Encode(split.training), options.batch, options.context, options.seed);
  std::vector<Batch> validation;
  Batches held_out(vocabulary.Encode(split.validation), options.batch, options.context, 0);
  for (int i = 0; i < 8; ++i) validation.push_back(held_out.Next());

  const Budget budget = options.budget_steps > 0
                            ? Budget{BudgetKind::kSteps, static_cast<double>(options.budget_steps)}
                            : Budget{BudgetKind::kCompute, options.budget_seconds};
  AttachOptions attach;
  attach.name = options.name;
  attach.budget = budget;
  attach.seed = options.seed;
  attach.learning_rate = options.rate;
  Handle handle = Attach(*model, attach);

  std::uint64_t steps = 0;
  nlohmann::json curve = nlohmann::json::array();
  double validation_loss = 0;
  const auto evaluate = [&](double progress) {
    validation_loss = Evaluate(model, validation);
    curve.push_back({handle.ComputeSeconds(), steps, validation_loss});
    if (options.format == "json") {
      std::cout << nlohmann::json{{"step", steps},
                                  {"compute_seconds", handle.ComputeSeconds()},
                                  {"validation_loss", validation_loss},
                                  {"active_heads", ActiveHeads(handle)}}
                << std::endl;
      return;
    }
    std::string active;
    for (const std::uint32_t count : ActiveHeads(handle)) {
      active.append(" ").append(std::to_string(count));
    }
    std::printf("%3.0f %%  %7.1f CPU s  step %6llu  validation loss %.4f  active heads%s\n",
                100 * progress, handle.ComputeSeconds(), static_cast<unsigned long long>(steps),
                validation_loss, active.c_str());
    std::fflush(stdout);
  };

  evaluate(0);
  int evaluations = 1;
  for (double progress = 0; progress < 1;) {
    for (auto& group : optimizer.param_groups()) {
      static_cast<torch::optim::AdamWOptions&>(group.options())
          .lr(options.rate * Schedule(progress));
    }
    handle.StartStep();
    const torch::Tensor loss = Loss(model, training.Next());
    optimizer.zero_grad();
    loss.backward();
    torch::nn::utils::clip_grad_norm_(model->parameters(), 1.0);
    optimizer.step();
    handle.Step(loss.item<double>());
    ++steps;
    progress = Progress(budget, steps, handle.ComputeSeconds());
    // A little earlier than due rather than a step late for want of the last digit.
    if (progress >= evaluations * options.evaluate_every - 1e-9 || progress >= 1) {
      evaluate(progress);
      evaluations = static_cast<int>(progress / options.evaluate_every + 1e-9) + 1;
    }
  }
  handle.Finish(validation_loss);

  model->Bake();
  const double baked = Evaluate(model, validation);
  std::printf("validation loss %.4f; of the baked, plain model %.4f\n", validation_loss, baked);

  if (options.report.empty()) return;
  const nlohmann::json report = {
      {"name", options.name},
      {"seed", options.seed},
      {"text", {{"source", text.source}, {"bytes", text.content.size()}}},
      {"budget",
       {{"kind", budget.kind == BudgetKind::kCompute ? "cpu_seconds" : "steps"},
        {"amount", budget.amount}}},
      {"config",
       {{"context", options.context},
        {"width", options.width},
        {"heads", options.heads},
        {"layers", options.layers},
        {"batch", options.batch},
        {"rate", options.rate}}},
      {"steps", steps},
      {"cpu_seconds", handle.ComputeSeconds()},
      {"val_loss", validation_loss},
      {"baked_val_loss", baked},
      {"curve", curve},
      {"active_heads", ActiveHeads(handle)},
      {"scales", Scales(handle)}};
  std::ofstream file(options.report);
  file << report.dump(2) << '\n';
  file.close();
  if (!file) throw std::runtime_error("cannot write the report " + options.report);
}

int Main(int argc, char** argv) {
  // Keeps freed memory: a step's tensors are so large that glibc would hand them back and fetch
  // them anew each time, and the kernel's clearing of pages would be a third of the processor time,
  // and its most erratic part.
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);
  try {
    Options options;
    if (!Parse(argc, argv, options)) return 0;
    Train(options);
    return 0;
  } catch (const std::invalid_argument& error) {
    std::cerr << "attune-demo-lm: " << error.what() << '\n';
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "attune-demo-lm: " << error.what() << '\n';
    return 1;
  }
}

}  // namespace
}  // namespace attune

int main(int argc, char** argv) { return attune::Main(argc, argv); }
