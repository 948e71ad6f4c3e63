// What the daemon needs of whoever learns beside it.
#pragma once

#include <cstdint>
#include <memory>

#include "policies/policy.h"

namespace attune {

// Thread safe. The daemon calls from its own thread and never waits.
class Learner {
 public:
  virtual ~Learner() = default;

  // There are new complete trials in the store.
  virtual void Wake() = 0;

  struct Snapshot {
    std::unique_ptr<Policy> network;
    std::uint64_t version = 0;
  };
  // The newest network that the daemon has not taken yet; null if there is none.
  [[nodiscard]] virtual Snapshot Take() = 0;
};

}  // namespace attune
