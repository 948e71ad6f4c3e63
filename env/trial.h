// A trial: one window's state, what was decided and why, and what came of it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "env/action.h"
#include "env/setting.h"
#include "env/state.h"

namespace attune {

// What became of an action. Values live in the store: only ever add to them.
enum class AckStatus : std::uint8_t {
  kNone = 0,      // nothing was sent: the decision was to keep
  kPending = 1,   // sent, not yet answered
  kApplied = 2,   // in force since `step`
  kRejected = 3,  // the trainer refused; `why` says the reason
  kExpired = 4,   // its step had passed before the trainer saw it
};
[[nodiscard]] std::string_view Name(AckStatus status);

struct Acknowledgement {
  AckStatus status = AckStatus::kNone;
  std::uint64_t step = 0;  // at which it was applied, refused or found expired
  std::string why;         // of a refusal

  friend bool operator==(const Acknowledgement&, const Acknowledgement&) = default;
};

struct Trial {
  std::uint64_t id = 0;   // of the store, also the action's id on the wire; never 0
  std::uint64_t job = 0;  // id of the job in the store
  std::uint32_t window = 0;
  std::uint64_t step = 0;  // at which it was decided
  double loss = 0;         // smoothed, at the window's end
  double imbalance = 0;
  State state;
  ActionMask mask;
  // The policy's choices; empty when the governor or a person set the setting, or the governor cut
  // the choices to the change budget.
  std::optional<Action> action;
  Setting setting;                   // what the trainer is asked to have
  std::string decider;               // policy's name, "governor" or "hand"
  std::string why;                   // one line for a person
  std::uint64_t policy_version = 0;  // of the network that decided; 0 for rules
  float log_probability = 0;         // of the action under the policy; 0 for deterministic ones
  Acknowledgement acknowledgement;
  std::optional<double> reward;  // of the window that followed, nats; none until it closed
};

// Whether a policy decided it before the job's first step, when nothing had been measured: its
// window is 0, which had not begun, its loss and imbalance are 0, and it has no reward of its own.
[[nodiscard]] bool IsOpening(const Trial& trial);

}  // namespace attune
