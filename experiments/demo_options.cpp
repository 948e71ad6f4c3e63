#include "experiments/demo_options.h"

#include <boost/program_options.hpp>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <stdexcept>

#include "env/job.h"
#include "env/setting.h"

namespace attune {
namespace {

namespace po = boost::program_options;

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

po::options_description Describe(DemoOptions& options) {
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
       "triples, kinship, sessions, baskets, shapes, textures, speech, melodies, series, genes, "
       "sums, brackets, recall, automata. Two, as in cmake,perl: the model has been trained on the first "
       "before the job, which is on the second (fine-tuning)")
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
      ("ablate", po::bool_switch(&options.ablate),
       "instead of training: what each head of the model is worth, beside its importance")
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

}  // namespace

std::optional<DemoOptions> ParseDemoOptions(int argc, char** argv) {
  DemoOptions options;
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
    return std::nullopt;
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
  Require(!options.grow || options.active_heads == 0,
          "--grow says how many heads are active; give it without --active-heads");
  Require(!options.learned_scale ||
              (!options.grow && options.active_heads == 0 && options.logit_scale == 1),
          "--learned-scale has all heads, and scales of its own");
  Require(!options.ablate ||
              (options.heads > 1 && options.active_heads == 0 && !options.grow &&
               !options.learned_scale && options.logit_scale == 1 && options.report.empty()),
          "--ablate prints what all heads are worth, at least two in a layer and as they are; give "
          "it no other setting of them, and no --report");
  Require(options.format == "text" || options.format == "json", "--format must be text or json");
  Require(options.clock == "processor" || options.clock == "reference",
          "--clock must be processor or reference");
  Require(!options.name.empty() && options.name.size() <= kMaxNameBytes,
          "--name must have 1 to 200 bytes");
  return options;
}

}  // namespace attune
