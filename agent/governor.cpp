#include "agent/governor.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace attune {
namespace {

// A change disturbs before it pays: it is judged at the end of the second window behind it …
constexpr std::uint32_t kGraceWindows = 2;
// … unless the loss falls behind by this many times the tolerance before.
constexpr double kGross = 3.0;
// A curve bends at first, and a line through its beginning foretells too much: in this share of the
// windows an action does harm only where the loss rises.
constexpr double kBending = 0.2;
// Noise is never taken for less than this share of the loss: a curve of few points fits too well.
constexpr double kNoiseFloor = 0.005;
constexpr double kLeastNoise = 1e-12;  // nats, of a loss of 0

}  // namespace

Governor::Governor(const Options& options)
    : freeze_(options.freeze),
      change_budget_(options.change_budget),
      tolerance_(options.rollback),
      hold_(options.hold),
      bending_points_(static_cast<std::size_t>(kBending * static_cast<double>(options.windows))) {}

bool Governor::IsDue(const Change& change, std::uint32_t window) {
  return window >= change.window + kGraceWindows;
}

Governor::Ruling Governor::Rule(std::uint32_t window, double progress, const WindowReading& now,
                                std::span<const CurvePoint> curve) {
  while (!changes_.empty()) {
    const Change& change = changes_.front();
    const auto before = curve.first(std::min(change.curve_points, curve.size()));
    if (before.empty()) {  // nothing to compare with
      changes_.pop_front();
      continue;
    }
    const auto forecast =
        before.size() < bending_points_ ? std::nullopt : ForecastLoss(before, now.end_compute);
    const double expected = forecast ? forecast->loss : before.back().loss;
    const double noise = std::max({std::hypot(forecast ? forecast->noise : 0.0, now.loss_noise),
                                   kNoiseFloor * std::abs(expected), kLeastNoise});
    const double behind = (now.loss - expected) / noise;
    const bool due = IsDue(change, window);
    if (!(behind <= tolerance_ * (due ? 1.0 : kGross))) {  // nor is NaN
      Rollback rollback{change.before,
                        fmt::format("loss {:.3f} is behind its forecast {:.3f} by {:.1f} standard "
                                    "deviations since the action of window {}",
                                    now.loss, expected, behind, change.window)};
      TakeBack(window);
      return rollback;
    }
    if (!due) break;
    changes_.pop_front();
  }
  if (progress >= 1.0 - freeze_) {
    return Keep{fmt::format("frozen: the last {:.0f} % of the budget", 100 * freeze_)};
  }
  if (window < held_until_) {
    return Keep{fmt::format("held until window {} after a rollback", held_until_)};
  }
  return Free{};
}

Action Governor::Limit(const Topology& topology, const Setting& setting, Action action,
                       std::string& note) const {
  const auto offsets = topology.SiteOffsets();
  const auto allowed = std::max<std::size_t>(
      1, static_cast<std::size_t>(change_budget_ * double(CountActive(setting.active))));
  std::size_t used = 0;
  std::size_t left_out = 0;
  std::vector<std::uint8_t> active_after = setting.active;
  for (std::size_t site = 0; site < topology.sites.size(); ++site) {
    const auto heads = topology.sites[site].heads;
    const auto active = CountActive(std::span(setting.active).subspan(offsets[site], heads));
    const auto wanted = ChangedCount(active, action.count[site], heads);
    const auto cost = wanted > active ? wanted - active : active - wanted;
    if (used + cost > allowed) {
      action.count[site] = CountChange::kKeep;
      left_out += cost;
    } else {
      used += cost;
      if (cost > 0) {
        SelectHeads(std::span(active_after).subspan(offsets[site], heads),
                    std::span(action.score).subspan(offsets[site], heads), wanted);
      }
    }
  }
  for (std::size_t head = 0; head < action.scale.size(); ++head) {
    std::uint8_t& choice = action.scale[head];
    // What leaves has been counted: the scale that it would have had changes nothing.
    if (choice == kKeepScale || active_after[head] == 0) continue;
    if (used + 1 > allowed) {
      choice = kKeepScale;
      ++left_out;
    } else {
      ++used;
    }
  }
  if (left_out > 0) {
    note = fmt::format("; {} changes beyond the change budget of {} heads left out", left_out,
                       allowed);
  }
  return action;
}

void Governor::Changed(std::uint32_t window, std::span<const CurvePoint> curve, Setting before) {
  changes_.push_back({window, curve.size(), std::move(before)});
}

void Governor::TakeBack(std::uint32_t window) {
  taken_back_ = std::exchange(changes_, {});
  held_until_ = window + 1 + hold_;
}

std::optional<Setting> Governor::TakeBackUnjudged(std::uint32_t window) {
  if (changes_.empty()) return std::nullopt;
  Setting before = changes_.front().before;
  TakeBack(window);
  return before;
}

void Governor::PassOver(std::uint32_t window) {
  std::erase_if(changes_, [&](const Change& change) { return IsDue(change, window); });
}

void Governor::Missed() {
  changes_.insert(changes_.begin(), taken_back_.begin(), taken_back_.end());
  taken_back_.clear();
}

}  // namespace attune
