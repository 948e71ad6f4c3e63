#include "agent/governor.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
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
// With every action that is taken back a job is left alone for twice as long, up to this power.
constexpr std::uint64_t kMostDoublings = 10;

}  // namespace

Governor::Governor(const Options& options, bool fresh)
    : freeze_(options.freeze),
      change_budget_(options.change_budget),
      tolerance_(options.rollback),
      windows_(static_cast<double>(options.windows)),
      hold_(options.hold),
      bending_points_(static_cast<std::size_t>(kBending * static_cast<double>(options.windows))) {
  if (!fresh) trust_.emplace(tolerance_);
}

bool Governor::IsDue(const Change& change, std::uint32_t window) {
  return window >= change.window + kGraceWindows;
}

std::vector<CurvePoint> Governor::ByItself(std::span<const CurvePoint> curve) const {
  std::vector<CurvePoint> points;
  for (std::size_t i = 0; i < curve.size(); ++i) {
    const bool is_disturbed = std::ranges::any_of(
        disturbed_, [i](const auto& range) { return i >= range.first && i < range.second; });
    if (!is_disturbed) points.push_back(curve[i]);
  }
  return points;
}

Governor::Ruling Governor::Rule(std::uint32_t window, double progress, const WindowReading& now,
                                std::span<const CurvePoint> curve) {
  while (!changes_.empty()) {
    const Change& change = changes_.front();
    const auto before = ByItself(curve.first(std::min(change.curve_points, curve.size())));
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
      const bool more = trust_ && trust_->Oldest();
      Rollback rollback{more ? trust_->Oldest()->before : change.before,
                        fmt::format("loss {:.3f} is behind its forecast {:.3f} by {:.1f} standard "
                                    "deviations since the action in force from window {} on",
                                    now.loss, expected, behind, change.window)};
      TakeBack(window, curve.size());
      return rollback;
    }
    if (!due) break;
    changes_.pop_front();
  }
  if (trust_) {
    auto finding = trust_->Judge(curve);
    if (auto* harm = std::get_if<Trust::Harm>(&finding)) {
      TakeBack(window, curve.size());
      return Rollback{std::move(harm->before), std::move(harm->why)};
    }
  }
  if (progress >= 1.0 - freeze_) {
    return Keep{fmt::format("frozen: the last {:.0f} % of the budget", 100 * freeze_)};
  }
  if (window < held_until_) {
    return Keep{fmt::format("held until window {} after a rollback", held_until_)};
  }
  if (trust_) {
    if (auto why = trust_->WhyNot(ByItself(curve), (1.0 - freeze_ - progress) * windows_)) {
      return Keep{*std::move(why)};
    }
  }
  return Free{};
}

Action Governor::Limit(const Topology& topology, const Setting& setting, Action action,
                       std::string& note) const {
  const auto offsets = topology.SiteOffsets();
  const auto budget = std::max<std::size_t>(
      1, static_cast<std::size_t>(change_budget_ * double(CountActive(setting.active))));
  const auto allowed = trust_ ? std::min(budget, trust_->Left()) : budget;
  std::size_t used = 0;
  std::size_t left_out = 0;
  std::vector<std::uint8_t> active_after = setting.active;
  const auto active_of = [&](std::size_t site) {
    return CountActive(
        std::span(setting.active).subspan(offsets[site], topology.sites[site].heads));
  };
  std::vector<std::size_t> sites(topology.sites.size());
  std::iota(sites.begin(), sites.end(), std::size_t{0});
  std::ranges::stable_sort(sites, std::greater{}, active_of);
  for (const std::size_t site : sites) {
    const auto heads = topology.sites[site].heads;
    const auto active = active_of(site);
    auto wanted = ChangedCount(active, action.count[site], heads);
    auto cost = wanted > active ? wanted - active : active - wanted;
    if (used + cost > allowed) {
      const bool one = used < allowed;
      left_out += cost - (one ? 1 : 0);
      action.count[site] = !one              ? CountChange::kKeep
                           : wanted > active ? CountChange::kPlusOne
                                             : CountChange::kMinusOne;
      wanted = ChangedCount(active, action.count[site], heads);
      cost = one ? 1 : 0;
    }
    used += cost;
    if (cost > 0) {
      SelectHeads(std::span(active_after).subspan(offsets[site], heads),
                  std::span(action.score).subspan(offsets[site], heads), wanted);
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
    note =
        allowed < budget
            ? fmt::format("; {} changes left out: of a model trained before only {} may be changed",
                          left_out, allowed)
            : fmt::format("; {} changes beyond the change budget of {} heads left out", left_out,
                          allowed);
  }
  return action;
}

void Governor::Changed(std::uint32_t window, std::span<const CurvePoint> curve, Setting before,
                       const Setting& after) {
  if (trust_) {
    const bool unproven = trust_->Oldest().has_value();
    trust_->Changed(curve.size(), ByItself(curve), before, after);
    if (unproven && !trust_->Oldest()) {  // all that was not shown is undone: nothing to judge
      changes_.clear();
      return;
    }
  }
  changes_.push_back({window, curve.size(), std::move(before)});
}

void Governor::TakeBack(std::uint32_t window, std::size_t points) {
  std::size_t first = changes_.empty() ? points : changes_.front().curve_points;
  if (trust_ && trust_->Oldest()) first = std::min(first, trust_->Oldest()->points);
  disturbed_.emplace_back(first, points + 1);  // what takes it back comes a window later
  taken_back_ = std::exchange(changes_, {});
  held_until_ = window + 1 + (hold_ << std::min(rollbacks_, kMostDoublings));
  ++rollbacks_;
  if (trust_) trust_->Lose();
}

std::optional<Setting> Governor::TakeBackUnjudged(std::uint32_t window, std::size_t points) {
  const bool more = trust_ && trust_->Oldest();
  if (changes_.empty() && !more) return std::nullopt;
  Setting before = more ? trust_->Oldest()->before : changes_.front().before;
  TakeBack(window, points);
  return before;
}

void Governor::PassOver(std::uint32_t window, std::span<const CurvePoint> curve) {
  std::erase_if(changes_, [&](const Change& change) { return IsDue(change, window); });
  if (trust_) static_cast<void>(trust_->Judge(curve));
}

void Governor::Missed() {
  changes_.insert(changes_.begin(), taken_back_.begin(), taken_back_.end());
  taken_back_.clear();
  if (rollbacks_ > 0) --rollbacks_;
  if (!disturbed_.empty()) disturbed_.pop_back();
}

}  // namespace attune
