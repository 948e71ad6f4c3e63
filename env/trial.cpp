// Names of what became of an action.
#include "env/trial.h"

namespace attune {

std::string_view Name(AckStatus status) {
  switch (status) {
    case AckStatus::kNone:
      return "none";
    case AckStatus::kPending:
      return "pending";
    case AckStatus::kApplied:
      return "applied";
    case AckStatus::kRejected:
      return "rejected";
    case AckStatus::kExpired:
      return "expired";
  }
  return "unknown";
}

bool IsOpening(const Trial& trial) {
  return trial.step == 0 && trial.decider != "hand" && trial.decider != "governor";
}

}  // namespace attune
