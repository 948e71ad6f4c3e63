// attune-demo-lm: trains a small character language model on real text, tuned where a daemon is
// there to tune it (ATTUNE_ENDPOINT).
#include <dlfcn.h>
#include <fmt/format.h>
#include <malloc.h>
#include <torch/torch.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/program_options.hpp>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "collectors/attach.h"
#include "experiments/language_model.h"
#include "experiments/reference_clock.h"
#include "experiments/text.h"

namespace attune {
namespace {

namespace po = boost::program_options;

struct Options {
  std::string text;
  std::string data;
  std::uint64_t pretrain_steps = 0;
  std::string pretrained;  // a folder
  std::string task;
  std::string optimizer;
  std::string defect;
  std::int64_t active_heads = 0;  // 0: all
  double logit_scale = 1;
  bool grow = false;
  bool learned_scale = false;
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
  double rate_factor = 1;
  double budget_factor = 1;
  double evaluate_every = 0;
  std::string clock;
};

void Require(bool condition, const std::string& what) {
  if (!condition) throw std::invalid_argument(what);
}

// Of the XDG base directory specification.
std::string CacheFolder() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && *cache == '/') return std::string(cache) + "/attune";
  const char* home = std::getenv("HOME");
  return std::string(home == nullptr ? "." : home) + "/.cache/attune";
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
      ("data", po::value(&options.data)->value_name("NAME"),
       "or a text by name: packages, licences, headers, cmake, perl (this system's), or generated: "
       "sums, triples, sessions, shapes. Two, as in cmake,perl: the model has been trained on the "
       "first before the job, which is on the second (fine-tuning)")
      ("pretrain-steps",
       po::value(&options.pretrain_steps)->value_name("N")->default_value(3000),
       "on the first of two texts, by AdamW at 0.003 whatever the job's rate; neither tuned nor "
       "part of the budget")
      ("pretrained", po::value(&options.pretrained)->value_name("FOLDER")
           ->default_value(CacheFolder() + "/pretrained", "~/.cache/attune/pretrained"),
       "where models that were so trained are kept for the next run that begins with the same")
      ("task", po::value(&options.task)->value_name("T")->default_value("next"),
       "next: the next character; masked: one of seven characters, from those on both sides")
      ("optimizer", po::value(&options.optimizer)->value_name("O")->default_value("adamw"),
       "adamw or sgd (momentum 0.9)")
      ("seed", po::value(&options.seed)->value_name("N")->default_value(0),
       "of the weights and the batches")
      ("budget-seconds", po::value(&options.budget_seconds)->value_name("S")->default_value(90),
       "seconds of training (see --clock); evaluation does not count")
      ("clock", po::value(&options.clock)->value_name("C")->default_value("processor"),
       "what seconds are: processor, or reference: what the processor's would be at one speed, "
       "whatever slows it, for runs that are compared")
      ("budget-steps", po::value(&options.budget_steps)->value_name("N"),
       "optimiser steps, instead of seconds")
      ("budget-factor", po::value(&options.budget_factor)->value_name("F")->default_value(1),
       "on that budget: what a longer one does")
      ("context", po::value(&options.context)->value_name("N")->default_value(256),
       "characters that the model sees")
      ("width", po::value(&options.width)->value_name("N")->default_value(64),
       "of the model, a multiple of the heads")
      ("heads", po::value(&options.heads)->value_name("N")->default_value(8), "in a layer")
      ("layers", po::value(&options.layers)->value_name("N")->default_value(3), "of the model")
      ("batch", po::value(&options.batch)->value_name("N")->default_value(12),
       "sequences in a step")
      ("rate", po::value(&options.rate)->value_name("R")->default_value(3e-3, "0.003"),
       "learning rate at its highest: up in 2 % of the budget, then a cosine to 0")
      ("rate-factor", po::value(&options.rate_factor)->value_name("F")->default_value(1),
       "on that rate: what a change of it does")
      ("defect", po::value(&options.defect)->value_name("D")->default_value("none"),
       "how its attention is born sick: none, hot, cold, dead, identical")
      ("active-heads", po::value(&options.active_heads)->value_name("N")->default_value(0),
       "in a layer, from the start; 0: all")
      ("logit-scale", po::value(&options.logit_scale)->value_name("S")->default_value(1),
       "of all heads, from the start, 0.0625 to 16")
      ("grow", po::bool_switch(&options.grow),
       "an eighth of the heads in the first quarter of the budget, then a quarter, half, all")
      ("learned-scale", po::bool_switch(&options.learned_scale),
       "logit scale and output gain of each head learned by gradient; nothing is tuned")
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
  Require(options.budget_factor > 0 && options.budget_factor <= 1000,
          "--budget-factor must be above 0, at most 1000");
  Require(options.context >= 2 && options.context <= 65536, "--context must be 2 to 65536");
  Require(options.layers >= 1 && options.layers <= 1024, "--layers must be 1 to 1024");
  Require(options.heads >= 1 && options.heads <= 1024, "--heads must be 1 to 1024");
  Require(options.width >= 1 && options.width <= 65536, "--width must be 1 to 65536");
  Require(options.width % options.heads == 0, "--width must be a multiple of --heads");
  Require(options.batch >= 1 && options.batch <= 65536, "--batch must be 1 to 65536");
  Require(options.rate > 0 && std::isfinite(options.rate), "--rate must be above 0");
  Require(options.rate_factor > 0 && std::isfinite(options.rate_factor),
          "--rate-factor must be above 0");
  options.rate *= options.rate_factor;
  Require(options.evaluate_every >= 0.001 && options.evaluate_every <= 1,
          "--evaluate-every must be 0.001 to 1");
  Require(options.text.empty() || options.data.empty(), "give --text or --data, not both");
  Require(options.pretrain_steps >= 1, "--pretrain-steps must be at least 1");
  Require(options.task == "next" || options.task == "masked", "--task must be next or masked");
  Require(options.optimizer == "adamw" || options.optimizer == "sgd",
          "--optimizer must be adamw or sgd");
  Require(options.active_heads >= 0 && options.active_heads <= options.heads,
          "--active-heads must be 0 to --heads");
  Require(options.logit_scale >= kMinScale && options.logit_scale <= kMaxScale,
          "--logit-scale must be 0.0625 to 16");
  Require(!options.learned_scale ||
              (!options.grow && options.active_heads == 0 && options.logit_scale == 1),
          "--learned-scale has all heads, and scales of its own");
  Require(options.format == "text" || options.format == "json", "--format must be text or json");
  Require(options.clock == "processor" || options.clock == "reference",
          "--clock must be processor or reference");
  Require(!options.name.empty() && options.name.size() <= kMaxNameBytes,
          "--name must have 1 to 200 bytes");
  return true;
}

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

struct Texts {
  Text job;
  std::optional<Text> before;  // what the model has been trained on before the job
};

// Throws std::invalid_argument.
Texts LoadTexts(const Options& options) {
  if (options.data.empty()) return {LoadText(options.text), {}};
  const std::size_t comma = options.data.find(',');
  if (comma == std::string::npos) return {LoadNamed(options.data), {}};
  return {LoadNamed(options.data.substr(comma + 1)), LoadNamed(options.data.substr(0, comma))};
}

struct Batch {
  torch::Tensor inputs;   // [batch, context]
  torch::Tensor targets;  // [batch, context]; kUnasked where nothing is asked
};

constexpr std::int64_t kUnasked = -100;  // as cross_entropy has it
constexpr double kMasked = 1.0 / 7;      // of the characters (BERT, 1810.04805)

// Stretches of a text, drawn by a generator of its own: the same seed, the same batches.
class Batches {
 public:
  // `mask`: the number that stands for a hidden character; 0: the next character is asked for.
  Batches(const std::vector<std::int64_t>& text, const Options& options, std::int64_t mask,
          std::uint64_t seed)
      : text_(torch::tensor(text)),
        batch_(options.batch),
        context_(options.context),
        mask_(mask),
        generator_(seed) {}

  Batch Next() {
    std::uniform_int_distribution<std::int64_t> start(0, text_.size(0) - context_ - 1);
    std::vector<torch::Tensor> rows;
    for (std::int64_t row = 0; row < batch_; ++row) {
      rows.push_back(text_.narrow(0, start(generator_), context_ + 1));
    }
    const torch::Tensor all = torch::stack(rows);
    if (mask_ == 0) return {all.narrow(1, 0, context_), all.narrow(1, 1, context_)};
    const torch::Tensor whole = all.narrow(1, 0, context_);
    std::bernoulli_distribution hide(kMasked);
    std::vector<std::uint8_t> hidden(static_cast<std::size_t>(batch_ * context_));
    for (std::uint8_t& one : hidden) one = hide(generator_) ? 1 : 0;
    hidden[0] = 1;  // something is always asked
    const torch::Tensor is_hidden =
        torch::from_blob(hidden.data(), {batch_, context_}, torch::kByte).to(torch::kBool);
    return {whole.masked_fill(is_hidden, mask_),
            whole.masked_fill(is_hidden.logical_not(), kUnasked)};
  }

 private:
  torch::Tensor text_;
  std::int64_t batch_, context_, mask_;
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

// One step at this learning rate; the batch's loss.
double Optimize(LanguageModel& model, torch::optim::Optimizer& optimizer, const Batch& batch,
                double rate) {
  for (auto& group : optimizer.param_groups()) group.options().set_lr(rate);
  const torch::Tensor loss = Loss(model, batch);
  optimizer.zero_grad();
  loss.backward();
  torch::nn::utils::clip_grad_norm_(optimizer.param_groups()[0].params(), 1.0);
  optimizer.step();
  return loss.item<double>();
}

// The model's parameters without the scales and gains that --learned-scale has beside them: these
// begin as everybody's.
std::vector<torch::Tensor> Weights(LanguageModel& model) {
  std::vector<torch::Tensor> weights;
  for (const auto& item : model->named_parameters()) {
    if (!item.key().ends_with(".log_scale") && !item.key().ends_with(".gain")) {
      weights.push_back(item.value());
    }
  }
  return weights;
}

// Of how models are trained before a job: another number where that changes.
constexpr int kPretraining = 1;

// What the model has learned before the job: the same whoever tunes it, so that runs of one seed
// begin with the same weights.
void Pretrain(LanguageModel& model, Batches batches, std::uint64_t steps) {
  constexpr double kRate = 3e-3;
  torch::optim::AdamW optimizer(Weights(model), torch::optim::AdamWOptions(kRate));
  for (std::uint64_t step = 0; step < steps; ++step) {
    const double progress = static_cast<double>(step) / static_cast<double>(steps);
    static_cast<void>(Optimize(model, optimizer, batches.Next(), kRate * Schedule(progress)));
  }
  model->zero_grad();
}

// The same, from the file where it is there, else written there: whole or not at all.
void PretrainOnce(LanguageModel& model, Batches batches, std::uint64_t steps,
                  const std::filesystem::path& file) {
  std::vector<torch::Tensor> weights = Weights(model);
  if (std::filesystem::exists(file)) {
    std::vector<torch::Tensor> kept;
    torch::load(kept, file.string());
    const bool fits = std::ranges::equal(
        kept, weights, [](const auto& a, const auto& b) { return a.sizes() == b.sizes(); });
    Require(fits, file.string() + " is of another model; remove it");
    const torch::NoGradGuard no_grad;
    for (std::size_t i = 0; i < kept.size(); ++i) weights[i].copy_(kept[i]);
    return;
  }
  Pretrain(model, std::move(batches), steps);
  try {
    std::filesystem::create_directories(file.parent_path());
    const std::string beside = file.string() + "." + std::to_string(getpid());
    torch::save(weights, beside);
    std::filesystem::rename(beside, file);
  } catch (const std::exception&) {
    std::cerr << "attune-demo-lm: cannot keep " << file.string()
              << "; the next run trains it anew\n";
  }
}

// Sets all sites alike, the first heads being the active ones.
void Set(LanguageModel& model, std::int64_t heads, std::int64_t active, double scale) {
  const auto count = static_cast<std::size_t>(heads);
  std::vector<std::uint8_t> is_active(count, 0);
  std::fill_n(is_active.begin(), active, 1);
  for (Block& block : model->blocks) {
    block->attention->Apply(std::vector<float>(count, static_cast<float>(scale)),
                            std::vector<float>(count, 1.0F), is_active);
  }
}

// Active heads of --grow at this share of the budget.
std::int64_t GrownHeads(std::int64_t heads, double progress) {
  const auto quarter = std::min<std::int64_t>(static_cast<std::int64_t>(4 * progress), 3);
  return std::max<std::int64_t>(heads >> (3 - quarter), 1);
}

// Of evaluating the batches, by the clock; the best of three times.
double InferenceSeconds(LanguageModel& model, const std::vector<Batch>& batches,
                        const std::function<double()>& clock) {
  double best = std::numeric_limits<double>::infinity();
  for (int round = 0; round < 3; ++round) {
    const double start = clock();
    static_cast<void>(Evaluate(model, batches));
    best = std::min(best, clock() - start);
  }
  return best;
}

// Of every site in turn.
std::vector<std::int64_t> ActiveHeads(const LanguageModel& model, std::int64_t heads) {
  std::vector<std::int64_t> counts;
  for (const Block& block : model->blocks) {
    counts.push_back(block->attention.is_empty() ? heads
                                                 : static_cast<std::int64_t>(CountActive(
                                                       block->attention->Current().active)));
  }
  return counts;
}

nlohmann::json Scales(const LanguageModel& model) {
  nlohmann::json scales = nlohmann::json::array();
  for (const Block& block : model->blocks) {
    if (!block->attention.is_empty()) scales.push_back(block->attention->Current().scale);
  }
  return scales;
}

// LibTorch's own setting does not reach OpenBLAS, whose idle threads spin: with two of them a step
// took four times the processor time. Denormal numbers are 0: a GPU is no slower for them,
// but a processor took 2.6 times as long for a step of a model whose logits are hot.
void SetUpProcessor() {
  torch::set_num_threads(1);
  if (!torch::globalContext().setFlushDenormal(true)) {
    std::cerr << "attune-demo-lm: this processor cannot flush denormal numbers; models with hot "
                 "logits will be slow\n";
  }
  if (void* set = dlsym(RTLD_DEFAULT, "openblas_set_num_threads"); set != nullptr) {
    reinterpret_cast<void (*)(int)>(set)(1);
  }
}

std::unique_ptr<torch::optim::Optimizer> MakeOptimizer(const torch::nn::Module& model,
                                                       const Options& options) {
  if (options.optimizer == "sgd") {
    return std::make_unique<torch::optim::SGD>(
        model.parameters(), torch::optim::SGDOptions(options.rate).momentum(0.9));
  }
  return std::make_unique<torch::optim::AdamW>(model.parameters(),
                                               torch::optim::AdamWOptions(options.rate));
}

void Train(const Options& options) {
  const auto [text, before] = LoadTexts(options);
  const SplitText split = HoldOut(text.content);
  const Vocabulary vocabulary(before ? before->content + text.content : text.content);
  const auto least = static_cast<std::size_t>(options.context) + 2;
  Require(split.validation.size() >= least && split.training.size() >= least,
          "the text (" + text.source + ", " + std::to_string(text.content.size()) +
              " bytes) is too short for a context of " + std::to_string(options.context) +
              ": its held-out part has " + std::to_string(split.validation.size()) + " bytes");
  std::printf("text: %s, %zu bytes, %lld different\n", text.source.c_str(), text.content.size(),
              static_cast<long long>(vocabulary.Size()));

  SetUpProcessor();
  std::function<double()> clock = ProcessorSeconds;
  if (options.clock == "reference") {
    clock = [reference = std::make_shared<ReferenceClock>()] { return reference->Seconds(); };
  }
  torch::manual_seed(options.seed);
  const bool masked = options.task == "masked";
  const std::int64_t mask = masked ? vocabulary.Size() : 0;
  const ModelOptions model_options{.vocabulary = vocabulary.Size() + (masked ? 1 : 0),
                                   .context = options.context,
                                   .width = options.width,
                                   .heads = options.heads,
                                   .layers = options.layers,
                                   .causal = !masked,
                                   .learned_scale = options.learned_scale};
  LanguageModel model(model_options);
  if (before) {
    const SplitText earlier = HoldOut(before->content);
    Require(earlier.training.size() >= least, "the text (" + before->source + ") is too short");
    std::printf("before the job: %llu steps on %s, %zu bytes\n",
                static_cast<unsigned long long>(options.pretrain_steps), before->source.c_str(),
                before->content.size());
    std::fflush(stdout);
    // Other stretches than the job's own, where both are of one text.
    Batches batches(vocabulary.Encode(earlier.training), options, mask, ~options.seed);
    const std::string name =
        fmt::format("{}-{}-{:016x}-{}-{}-{}-{}-{}-{}-{}-{}.pt", kPretraining, options.data,
                    std::hash<std::string>{}(before->content + text.content), options.task,
                    options.layers, options.width, options.heads, options.context, options.batch,
                    options.pretrain_steps, options.seed);
    PretrainOnce(model, std::move(batches), options.pretrain_steps,
                 std::filesystem::path(options.pretrained) / name);
  }
  MakeSick(model, options.defect);
  if (!options.learned_scale) {
    const std::int64_t asked = options.active_heads == 0 ? options.heads : options.active_heads;
    Set(model, options.heads, options.grow ? GrownHeads(options.heads, 0) : asked,
        options.logit_scale);
  }
  const std::unique_ptr<torch::optim::Optimizer> optimizer = MakeOptimizer(*model, options);
  Batches training(vocabulary.Encode(split.training), options, mask, options.seed);
  std::vector<Batch> validation;
  Batches held_out(vocabulary.Encode(split.validation), options, mask, 0);
  for (int i = 0; i < 8; ++i) validation.push_back(held_out.Next());

  const Budget budget =
      options.budget_steps > 0
          ? Budget{BudgetKind::kSteps,
                   std::max(1.0, std::round(static_cast<double>(options.budget_steps) *
                                            options.budget_factor))}
          : Budget{BudgetKind::kCompute, options.budget_seconds * options.budget_factor};
  AttachOptions attach;
  attach.name = options.name;
  attach.budget = budget;
  attach.seed = options.seed;
  attach.learning_rate = options.rate;
  attach.optimizer = options.optimizer;
  attach.clock = clock;
  attach.fresh = !before;
  std::optional<Handle> handle;
  if (!options.learned_scale) handle.emplace(Attach(*model, attach));
  double own_seconds = 0;  // without a handle, who keeps the clock otherwise
  const auto compute_seconds = [&] { return handle ? handle->ComputeSeconds() : own_seconds; };

  std::uint64_t steps = 0;
  nlohmann::json curve = nlohmann::json::array();
  double validation_loss = 0;
  const auto point = [&] {
    const auto active = ActiveHeads(model, options.heads);
    const auto total = std::accumulate(active.begin(), active.end(), std::int64_t{0});
    return nlohmann::json{
        {"step", steps},
        {"compute_seconds", compute_seconds()},
        {"validation_loss", validation_loss},
        {"active_heads", active},
        {"active_share",
         static_cast<double>(total) / static_cast<double>(options.layers * options.heads)}};
  };
  const auto evaluate = [&](double progress) {
    validation_loss = Evaluate(model, validation);
    curve.push_back({compute_seconds(), steps, validation_loss});
    if (options.format == "json") {
      std::cout << point() << std::endl;
      return;
    }
    std::string active;
    for (const std::int64_t count : ActiveHeads(model, options.heads)) {
      active.append(" ").append(std::to_string(count));
    }
    std::printf("%3.0f %%  %7.1f CPU s  step %6llu  validation loss %.4f  active heads%s\n",
                100 * progress, compute_seconds(), static_cast<unsigned long long>(steps),
                validation_loss, active.c_str());
    std::fflush(stdout);
  };

  evaluate(0);
  int evaluations = 1;
  for (double progress = 0; progress < 1;) {
    if (options.grow) {
      Set(model, options.heads, GrownHeads(options.heads, progress), options.logit_scale);
    }
    const double start = clock();
    if (handle) handle->StartStep();
    const double step_loss =
        Optimize(model, *optimizer, training.Next(), options.rate * Schedule(progress));
    if (handle) handle->Step(step_loss);
    own_seconds += clock() - start;
    ++steps;
    progress = Progress(budget, steps, compute_seconds());
    // A little earlier than due rather than a step late for want of the last digit.
    if (progress >= evaluations * options.evaluate_every - 1e-9 || progress >= 1) {
      evaluate(progress);
      evaluations = static_cast<int>(progress / options.evaluate_every + 1e-9) + 1;
    }
  }
  if (handle) handle->Finish(validation_loss);

  const auto active_heads = ActiveHeads(model, options.heads);
  const nlohmann::json scales = Scales(model);
  nlohmann::json last = point();
  model->Bake();
  const double baked = Evaluate(model, validation);
  if (options.format == "json") {
    // Beside a plain model of all heads, of the same sizes.
    last["inference_seconds"] = InferenceSeconds(model, validation, clock);
    LanguageModel whole(model_options);
    whole->Bake();
    last["whole_inference_seconds"] = InferenceSeconds(whole, validation, clock);
    last["validation_loss"] = baked;
    std::cout << last << std::endl;
  } else {
    std::printf("validation loss %.4f; of the baked, plain model %.4f\n", validation_loss, baked);
  }

  if (options.report.empty()) return;
  const nlohmann::json report = {
      {"name", options.name},
      {"seed", options.seed},
      {"text", {{"source", text.source}, {"bytes", text.content.size()}}},
      {"budget",
       {{"kind", budget.kind == BudgetKind::kCompute ? "cpu_seconds" : "steps"},
        {"amount", budget.amount}}},
      {"config",
       {{"data", options.data},
        {"pretrain_steps", before ? options.pretrain_steps : 0},
        {"task", options.task},
        {"optimizer", options.optimizer},
        {"defect", options.defect},
        {"active_heads", options.active_heads},
        {"logit_scale", options.logit_scale},
        {"grow", options.grow},
        {"learned_scale", options.learned_scale},
        {"context", options.context},
        {"width", options.width},
        {"heads", options.heads},
        {"layers", options.layers},
        {"batch", options.batch},
        {"rate", options.rate},
        {"clock", options.clock}}},
      {"steps", steps},
      {"cpu_seconds", compute_seconds()},
      {"val_loss", validation_loss},
      {"baked_val_loss", baked},
      {"curve", curve},
      {"active_heads", active_heads},
      {"scales", scales}};
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
