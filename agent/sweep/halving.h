// Asynchronous successive halving (Li et al., 1810.05934) without a scheduler: every task asks by
// itself, and what the tasks know of each other is one file in the sweep's folder.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>

#include "agent/sweep/plan.h"
#include "agent/sweep/spec.h"

namespace attune::sweep {

// Whether a value is among the best ceil(n / factor) of the n values of a rung, itself included.
[[nodiscard]] bool GoesOn(std::span<const double> rung, double value, double factor, bool minimize);

class Ladder {
 public:
  // `file` is shared by all tasks of a sweep; runs of the same seed compete with each other.
  Ladder(std::filesystem::path file, const Halving& halving, bool minimize, const Run& run)
      : file_(std::move(file)),
        halving_(halving),
        minimize_(minimize),
        run_(run.id),
        seed_(run.seed),
        next_(halving.least) {}

  // At a point of the run: why it is to stop, or nothing. Throws std::system_error if the file
  // cannot be written.
  [[nodiscard]] std::optional<std::string> Judge(const Point& point);

 private:
  std::filesystem::path file_;
  Halving halving_;
  bool minimize_;
  std::uint64_t run_;
  std::uint64_t seed_;
  double next_;  // resource at the next rung
};

}  // namespace attune::sweep
