// What stands above every policy in one job: freeze, change budget, forecast and rollback.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <variant>

#include "agent/options.h"
#include "env/action.h"
#include "env/forecast.h"
#include "env/meter.h"
#include "env/setting.h"

namespace attune {

class Governor {
 public:
  explicit Governor(const Options& options);

  // The policy may decide.
  struct Free {};
  // Nothing changes in this window, because …
  struct Keep {
    std::string why;
  };
  // An action did harm: go back to the setting before it.
  struct Rollback {
    Setting setting;
    std::string why;
  };
  using Ruling = std::variant<Free, Keep, Rollback>;

  // At the end of window `window`, whose point is the last of `curve`.
  [[nodiscard]] Ruling Rule(std::uint32_t window, double progress, const WindowReading& now,
                            std::span<const CurvePoint> curve);

  // The action that switches and scales no more heads than the change budget allows: sites in
  // order, then heads. A head that leaves counts once, whatever scale was chosen for it.
  // `note` says what was left out, if anything.
  [[nodiscard]] Action Limit(const Topology& topology, const Setting& setting, Action action,
                             std::string& note) const;

  // An action came into force in window `window`; `curve` ends before it, `before` is what it
  // replaced.
  void Changed(std::uint32_t window, std::span<const CurvePoint> curve, Setting before);
  // The rollback came into force, or a person took over: earlier actions are no longer judged.
  void Forget() {
    changes_.clear();
    taken_back_.clear();
  }
  // The rollback did not come into force: what it was to take back is judged again.
  void Missed();
  // No window will show what the last actions did, because the trainer can measure nothing any
  // more: the setting before the oldest that is not judged, if there is one. Window `window` is
  // filling.
  [[nodiscard]] std::optional<Setting> TakeBackUnjudged(std::uint32_t window);
  // Window by window what Rule did in a daemon before this one: what was due at the end of `window`
  // has been judged and is not any more; or was taken back, with all behind it.
  void PassOver(std::uint32_t window);
  void TakeBack(std::uint32_t window);

 private:
  struct Change {
    std::uint32_t window;
    std::size_t curve_points;
    Setting before;
  };
  [[nodiscard]] static bool IsDue(const Change& change, std::uint32_t window);

  double freeze_, change_budget_, tolerance_;
  std::uint64_t hold_;
  std::size_t bending_points_;  // of a curve that is too short for a forecast
  std::uint64_t held_until_ = 0;
  std::deque<Change> changes_;     // not judged yet, oldest first
  std::deque<Change> taken_back_;  // by a rollback that is on its way
};

}  // namespace attune
