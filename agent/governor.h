// What stands above every policy in one job: freeze, change budget, forecast and rollback.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "agent/options.h"
#include "env/action.h"
#include "env/forecast.h"
#include "env/meter.h"
#include "env/setting.h"
#include "env/trust.h"

namespace attune {

class Governor {
 public:
  // `fresh`: nobody had trained the job's weights when it began. Of a model that was trained before
  // no more is changed than is trusted (Trust).
  Governor(const Options& options, bool fresh);

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

  // The action that switches and scales no more heads than the change budget and trust allow: sites
  // with most active heads first, then scales in order. Where not all of a site's change is
  // allowed, a head of it is. A head that leaves counts once, whatever scale was chosen for it.
  // `note` says what was left out, if anything.
  [[nodiscard]] Action Limit(const Topology& topology, const Setting& setting, Action action,
                             std::string& note) const;
  // Whether the largest steps of a scale are closed: logits that were trained to be what they are
  // are not made four times another.
  [[nodiscard]] bool SmallSteps() const { return trust_.has_value(); }

  // `after` came into force in window `window`, in place of `before`; `curve` ends before it.
  void Changed(std::uint32_t window, std::span<const CurvePoint> curve, Setting before,
               const Setting& after);
  // The rollback came into force, or a person took over: earlier actions are no longer judged.
  void Forget() {
    changes_.clear();
    taken_back_.clear();
    if (trust_) trust_->Forget();
  }
  // The rollback did not come into force: what it was to take back is judged again.
  void Missed();
  // No window will show what the last actions did, because the trainer can measure nothing any
  // more: the setting before the oldest that is not judged, if there is one. Window `window` is
  // filling, behind `points` of the curve.
  [[nodiscard]] std::optional<Setting> TakeBackUnjudged(std::uint32_t window, std::size_t points);
  // Window by window what Rule did in a daemon before this one: what was due at the end of
  // `window`, whose point is the last of `curve`, has been judged and is not any more; or was taken
  // back, with all behind it.
  void PassOver(std::uint32_t window, std::span<const CurvePoint> curve);
  void TakeBack(std::uint32_t window, std::size_t points);

 private:
  struct Change {
    std::uint32_t window;
    std::size_t curve_points;
    Setting before;
  };
  [[nodiscard]] static bool IsDue(const Change& change, std::uint32_t window);
  // Points under actions that were taken back are none that the job would have come to by itself.
  [[nodiscard]] std::vector<CurvePoint> ByItself(std::span<const CurvePoint> curve) const;

  double freeze_, change_budget_, tolerance_, windows_;
  std::uint64_t hold_;
  std::size_t bending_points_;  // of a curve that is too short for a forecast
  std::uint64_t held_until_ = 0;
  std::uint64_t rollbacks_ = 0;
  std::optional<Trust> trust_;                                  // none where weights were fresh
  std::vector<std::pair<std::size_t, std::size_t>> disturbed_;  // points from, up to before
  std::deque<Change> changes_;                                  // not judged yet, oldest first
  std::deque<Change> taken_back_;                               // by a rollback that is on its way
};

}  // namespace attune
