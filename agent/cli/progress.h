// The progress line of a live job.
#pragma once

#include <chrono>
#include <string>

#include "collectors/messages.h"

namespace attune::cli {

// One line: bar, share of the budget, step, loss, imbalance, active heads, last action and decider.
[[nodiscard]] std::string Describe(const LiveJob& job);

// Draws on stderr: on a terminal one line that is written over, elsewhere a line when the action
// changes and at least every ten seconds.
class Progress {
 public:
  Progress();
  void Show(const LiveJob& job);
  // Ends the line, so that other output begins on its own.
  void Finish();

 private:
  bool terminal_;
  bool drawn_ = false;
  std::string last_action_;
  std::chrono::steady_clock::time_point last_shown_;
};

}  // namespace attune::cli
