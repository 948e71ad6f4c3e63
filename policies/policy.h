// Who decides. One implementation a file: keep, kmeans, network … (Policies outside of this
// process are asked by the daemon, and their answers take the form of a Verdict.)
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <variant>

#include "env/action.h"
#include "env/job.h"
#include "env/meter.h"
#include "env/setting.h"
#include "env/state.h"

namespace attune {

// Everything a policy may look at. References are valid during the call only.
struct Situation {
  const JobSpec& job;
  const Setting& setting;       // in force
  const WindowReading& now;     // the window that just closed; Unmeasured before the first step
  const WindowReading* before;  // the one before it, null at the first
  const State& state;           // the same as tokens
  const ActionMask& mask;       // of `setting`
  double progress = 0;          // of the budget, [0, 1]
  std::uint32_t window = 0;     // index of `now`
};

struct Decision {
  Action action;
  std::string why;                   // one line for a person
  float log_probability = 0;         // 0 for deterministic policies
  std::uint64_t policy_version = 0;  // 0 for rules
  // What moved the decision, to stand behind `why`. Takes longer than the decision itself, so it is
  // for when the action is on its way. Empty where `why` says it all.
  std::function<std::string()> reasons = {};
};

// A policy that is not fit to decide here says why.
struct Decline {
  std::string why;
};

using Verdict = std::variant<Decision, Decline>;

// Stateless between calls but for what it has learned; used by one thread at a time.
class Policy {
 public:
  virtual ~Policy() = default;

  [[nodiscard]] virtual std::string_view Name() const = 0;
  // The action respects `situation.mask`. Randomness comes from `random` alone, so that a seed
  // reproduces a job's decisions. Never throws for a situation that is merely unusual.
  [[nodiscard]] virtual Verdict Decide(const Situation& situation, std::mt19937_64& random) = 0;

  // The same before the first step of a job whose weights are as they were drawn, by what it says
  // of itself: `situation.now` is Unmeasured. Nothing has been learned yet that a change could
  // spoil, so that it is asked again until it keeps what there is. Most policies decide by what is
  // measured.
  [[nodiscard]] virtual Verdict Open(const Situation& /*situation*/, std::mt19937_64& /*random*/) {
    return Decline{"decides by what is measured"};
  }
};

}  // namespace attune
