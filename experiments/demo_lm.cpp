// attune-demo-lm: trains a small character language model on real text, tuned where a daemon is
// there to tune it (ATTUNE_ENDPOINT).
#include <dlfcn.h>
#include <fmt/format.h>
#include <malloc.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "collectors/attach.h"
#include "experiments/ablation.h"
#include "experiments/demo_options.h"
#include "experiments/language_model.h"
#include "experiments/reference_clock.h"
#include "experiments/text.h"
#include "experiments/training.h"

namespace attune {
namespace {

struct Texts {
  Text job;
  std::optional<Text> before;  // what the model has been trained on before the job
};

// Throws std::invalid_argument.
Texts LoadTexts(const DemoOptions& options) {
  if (options.data.empty()) return {LoadText(options.text), {}};
  const std::size_t comma = options.data.find(',');
  if (comma == std::string::npos) return {LoadNamed(options.data), {}};
  return {LoadNamed(options.data.substr(comma + 1)), LoadNamed(options.data.substr(0, comma))};
}

// Throws std::invalid_argument where a part is too short for the context.
SplitText Split(const Text& text, std::int64_t context) {
  SplitText split = HoldOut(text.content);
  const auto least = static_cast<std::size_t>(context) + 2;
  if (split.validation.size() < least || split.training.size() < least) {
    throw std::invalid_argument(fmt::format(
        "the text ({}, {} bytes) is too short for a context of {}: its held-out part has {} bytes",
        text.source, text.content.size(), context, split.validation.size()));
  }
  return split;
}

// Named by all that the weights depend on; `texts`: what the vocabulary is of.
std::filesystem::path PretrainedFile(const DemoOptions& options, const std::string& texts) {
  constexpr int kPretraining = 1;  // how it is done: another number where that changes
  return std::filesystem::path(options.pretrained) /
         fmt::format("{}-{}-{:016x}-{}-{}-{}-{}-{}-{}-{}-{}.pt", kPretraining, options.data,
                     std::hash<std::string>{}(texts), options.task, options.layers, options.width,
                     options.heads, options.context, options.batch, options.pretrain_steps,
                     options.seed);
}

Budget BudgetOf(const DemoOptions& options) {
  if (options.budget_steps == 0) {
    return {BudgetKind::kCompute, options.budget_seconds * options.budget_factor};
  }
  const double steps = static_cast<double>(options.budget_steps) * options.budget_factor;
  return {BudgetKind::kSteps, std::max(1.0, std::round(steps))};
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
double InferenceSeconds(LanguageModel& model, const std::vector<TextBatch>& batches,
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
                                                       const DemoOptions& options) {
  if (options.optimizer == "sgd") {
    return std::make_unique<torch::optim::SGD>(
        model.parameters(), torch::optim::SGDOptions(options.rate).momentum(0.9));
  }
  return std::make_unique<torch::optim::AdamW>(model.parameters(),
                                               torch::optim::AdamWOptions(options.rate));
}

// What --ablate prints.
void PrintWorth(LanguageModel& model, const std::vector<TextBatch>& batches,
                const std::string& format) {
  constexpr double kMargin = 0.005;
  const std::vector<HeadWorth> worth = Ablate(model, batches);
  const std::size_t free = CountFree(model, batches, worth, kMargin);
  const double correlation = RankCorrelation(worth);
  if (format == "json") {
    nlohmann::json heads = nlohmann::json::array();
    for (const HeadWorth& head : worth) {
      heads.push_back({{"layer", head.layer},
                       {"head", head.head},
                       {"cost", head.cost},
                       {"importance", head.importance}});
    }
    std::cout << nlohmann::json{{"heads", heads},
                                {"free_heads", free},
                                {"margin", kMargin},
                                {"rank_correlation", correlation}}
              << std::endl;
    return;
  }
  std::printf("layer  head  loss without it  importance\n");
  for (const HeadWorth& head : worth) {
    std::printf("%5zu  %4zu  %+13.2f %%  %10.5f\n", head.layer, head.head,
                100 * std::expm1(head.cost), head.importance);
  }
  std::printf(
      "rank correlation of the two: %.2f; %zu of %zu heads can leave together for at most "
      "%.1f %%\n",
      correlation, free, worth.size(), 100 * kMargin);
}

void Train(const DemoOptions& options) {
  const auto [text, before] = LoadTexts(options);
  const SplitText split = Split(text, options.context);
  const std::string all = before ? before->content + text.content : text.content;
  const Vocabulary vocabulary(all);
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
    const SplitText earlier = Split(*before, options.context);
    std::printf("before the job: %llu steps on %s, %zu bytes\n",
                static_cast<unsigned long long>(options.pretrain_steps), before->source.c_str(),
                before->content.size());
    std::fflush(stdout);
    // Other stretches than the job's own, where both are of one text.
    Batches batches(vocabulary.Encode(earlier.training), options.batch, options.context, mask,
                    ~options.seed);
    Pretrain(model, std::move(batches), options.pretrain_steps, PretrainedFile(options, all));
  }
  MakeSick(model, options.defect);
  if (!options.learned_scale) {
    const std::int64_t asked = options.active_heads == 0 ? options.heads : options.active_heads;
    Set(model, options.heads, options.grow ? GrownHeads(options.heads, 0) : asked,
        options.logit_scale);
  }
  const std::unique_ptr<torch::optim::Optimizer> optimizer = MakeOptimizer(*model, options);
  Batches training(vocabulary.Encode(split.training), options.batch, options.context, mask,
                   options.seed);
  std::vector<TextBatch> validation;
  Batches held_out(vocabulary.Encode(split.validation), options.batch, options.context, mask, 0);
  for (int i = 0; i < 8; ++i) validation.push_back(held_out.Next());

  if (options.ablate) {
    PrintWorth(model, validation, options.format);
    return;
  }

  const Budget budget = BudgetOf(options);
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
  std::int64_t grown = options.grow ? GrownHeads(options.heads, 0) : options.heads;
  for (double progress = 0; progress < 1;) {
    if (options.grow && GrownHeads(options.heads, progress) != grown) {
      grown = GrownHeads(options.heads, progress);
      Set(model, options.heads, grown, options.logit_scale);
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
    const auto options = ParseDemoOptions(argc, argv);
    if (options) Train(*options);
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
