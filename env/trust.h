// How much may be changed of a model that was trained before its job began.
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "env/forecast.h"
#include "env/setting.h"

namespace attune {

// Weights that were trained fit each other as they are, and one window is too noisy to show what a
// change costs them. So the job is watched before anything is changed; then one head may be, if the
// job is long and even enough to show what comes of it; and twice as many only once it has: a test
// of non-inferiority against the job's own curve from before. A loss that falls ever faster (a
// learning rate near its end) hides some of a cost. Not thread-safe.
class Trust {
 public:
  // `tolerance`: standard errors by which the loss must be behind to be called harm.
  explicit Trust(double tolerance) : tolerance_(tolerance) {}

  // What the windows since the first change that is not proven say of it.
  struct Open {};      // not enough yet, or nothing was changed
  struct Harmless {};  // with 95 % confidence it costs less than 0.5 % of the loss; each time anew
  struct Harm {
    Setting before;
    std::string why;
  };
  using Finding = std::variant<Open, Harmless, Harm>;

  // At the end of a window, whose point is the last of `curve`. Harmless doubles what is trusted.
  [[nodiscard]] Finding Judge(std::span<const CurvePoint> curve);

  // Why nothing may be changed now, for a person, if so. `by_itself` is the job's curve without the
  // points under actions that were taken back; `left` the windows in which it may be changed.
  [[nodiscard]] std::optional<std::string> WhyNot(std::span<const CurvePoint> by_itself,
                                                  double left) const;
  // Else so many heads may be.
  [[nodiscard]] std::size_t Left() const { return heads_ - std::min(heads_, changed_); }

  // `after` came into force in place of `before` (where it is what all began with, nothing is to be
  // proven any more), behind `points` of the job's curve; `by_itself`
  // is what the curve was up to there without the points under actions that were taken back.
  void Changed(std::size_t points, std::vector<CurvePoint> by_itself, Setting before,
               const Setting& after);
  // Something was harm: from here on a head at a time again.
  void Lose() { heads_ = 1; }
  // What was changed is not in force any more, or not judged.
  void Forget() {
    unproven_.reset();
    changed_ = 0;
  }
  // The first change that is not proven.
  struct Unproven {
    Setting before;
    std::size_t points;                 // of the curve before it
    std::vector<CurvePoint> by_itself;  // these, but for disturbed ones
    std::size_t since;                  // points until the last change was in force for a window
  };
  [[nodiscard]] const std::optional<Unproven>& Oldest() const { return unproven_; }

 private:
  double tolerance_;
  std::size_t heads_ = 1;    // trusted with
  std::size_t changed_ = 0;  // of these
  std::optional<Unproven> unproven_;
};

}  // namespace attune
