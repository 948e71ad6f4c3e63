// What attune-demo-lm is told to do.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace attune {

struct DemoOptions {
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
  bool ablate = false;
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

// Nothing where only help was asked for, which is on stdout then. Throws std::invalid_argument, in
// one line, for what cannot be done.
[[nodiscard]] std::optional<DemoOptions> ParseDemoOptions(int argc, char** argv);

}  // namespace attune
