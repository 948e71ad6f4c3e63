// A training job as it introduces itself.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "env/topology.h"

namespace attune {

// Values travel on the wire and live in the store: only ever add to them.
enum class BudgetKind : std::uint8_t { kCompute = 0, kSteps = 1 };

// How long a job trains, in its own unit.
struct Budget {
  BudgetKind kind = BudgetKind::kSteps;
  double amount = 0;  // seconds of training by the trainer's clock, or optimiser steps; > 0
  // What compute is worth when the budget is in steps: nats per untuned window's compute (design
  // §6). Not used for budgets in compute, whose reward pays for time by itself.
  double price = 0.01;

  friend bool operator==(const Budget&, const Budget&) = default;
};

// Share of the budget that is used up, clamped to [0, 1].
[[nodiscard]] double Progress(const Budget& budget, std::uint64_t step, double compute_seconds);

// How many windows are over at this share of the budget: `windows` equal ones, of which the first
// is cut at a quarter and a half of it. What is decided before anything is learned pays all along.
[[nodiscard]] std::uint32_t FullWindows(double progress, std::uint32_t windows);

struct JobSpec {
  std::string key;   // names the run for reconnecting, unique; a name (FindNameFault)
  std::string name;  // for people; a name too
  Topology topology;
  Budget budget;
  std::uint64_t seed = 0;
  double learning_rate = 0;    // at its highest; 0 when unknown
  std::string policy = {};     // who is to decide; empty: as the daemon is set
  std::string optimizer = {};  // as its library calls it, adamw or AdamW; empty: unknown
  bool fresh = false;          // nobody has trained its weights; false of a run that goes on

  friend bool operator==(const JobSpec&, const JobSpec&) = default;
};

// Whether an optimiser of this name is one of stochastic gradient descent, in upper or lower case
// (SGD, sgd, ASGD, SGD8bit; not SignSGD): its steps are as long as the gradient, with or without
// momentum, where those of Adam and its kin are as long as the learning rate. The same rate is
// another thing to the two.
[[nodiscard]] bool IsSgd(std::string_view optimizer);

// How a job ended. Only ever add to the values.
enum class Outcome : std::uint8_t {
  kRunning = 0,
  kFinished = 1,  // trained to its end
  kFailed = 2,    // said that it failed
  kLost = 3,      // fell silent
};
[[nodiscard]] std::string_view Name(Outcome outcome);
[[nodiscard]] std::string_view Name(BudgetKind kind);

// What makes the introduction unusable, in one line for a person, or nothing.
[[nodiscard]] std::optional<std::string> FindFault(const JobSpec& spec);

}  // namespace attune
