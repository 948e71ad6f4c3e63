// Actions: what is open at a setting, and where an action leads.
#include "env/action.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <string>

namespace attune {
namespace {

// Steps up and down again end a rounding error away from where they began: a choice may pass a
// bound by this share of it and is then brought back.
constexpr float kBoundTolerance = 1e-4F;

void RequireSizes(const Topology& topology, const Setting& setting) {
  const std::size_t heads = topology.Heads();
  if (setting.scale.size() != heads || setting.gain.size() != heads ||
      setting.active.size() != heads) {
    throw std::invalid_argument("setting: its sizes are not the topology's " +
                                std::to_string(heads) + " heads");
  }
}

}  // namespace

std::string_view Name(CountChange change) {
  switch (change) {
    case CountChange::kHalve:
      return "halve";
    case CountChange::kMinusOne:
      return "minus_one";
    case CountChange::kKeep:
      return "keep";
    case CountChange::kPlusOne:
      return "plus_one";
    case CountChange::kDouble:
      return "double";
  }
  return "unknown";
}

Action Action::Keep(std::size_t heads, std::size_t sites) {
  return {.scale = std::vector<std::uint8_t>(heads, kKeepScale),
          .count = std::vector<CountChange>(sites, CountChange::kKeep),
          .score = std::vector<float>(heads, 0.0F)};
}

std::size_t ChangedCount(std::size_t active, CountChange change, std::size_t heads) {
  std::size_t changed = active;
  switch (change) {
    case CountChange::kHalve:
      changed = active / 2;
      break;
    case CountChange::kMinusOne:
      changed = active > 0 ? active - 1 : 0;
      break;
    case CountChange::kKeep:
      break;
    case CountChange::kPlusOne:
      changed = active + 1;
      break;
    case CountChange::kDouble:
      changed = 2 * active;
      break;
  }
  return std::clamp<std::size_t>(changed, 1, heads);
}

ActionMask MaskOf(const Topology& topology, const Setting& setting) {
  RequireSizes(topology, setting);
  const std::size_t heads = topology.Heads();
  ActionMask mask;
  mask.scale.resize(heads);
  for (std::size_t head = 0; head < heads; ++head) {
    for (std::size_t choice = 0; choice < kScaleChoices; ++choice) {
      const float scale = setting.scale[head] * kScaleFactors[choice];
      const bool open = setting.active[head] != 0 && scale >= kMinScale * (1 - kBoundTolerance) &&
                        scale <= kMaxScale * (1 + kBoundTolerance);
      mask.scale[head][choice] = open || choice == kKeepScale ? 1 : 0;
    }
  }
  std::size_t first = 0;
  for (const Site& site : topology.sites) {
    const std::size_t active = CountActive(std::span(setting.active).subspan(first, site.heads));
    const auto changed = [&](CountChange change) {
      return ChangedCount(active, change, site.heads);
    };
    const std::size_t halved = changed(CountChange::kHalve);
    const std::size_t less = changed(CountChange::kMinusOne);
    const std::size_t more = changed(CountChange::kPlusOne);
    const std::size_t doubled = changed(CountChange::kDouble);
    mask.count.push_back({halved != active, less != active && less != halved, 1,
                          more != active && more != doubled, doubled != active});
    first += site.heads;
  }
  return mask;
}

void SelectHeads(std::span<std::uint8_t> active, std::span<const float> score, std::size_t count) {
  std::vector<std::size_t> order(active.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    const bool a_active = active[a] != 0;
    const bool b_active = active[b] != 0;
    return a_active != b_active ? a_active : score[a] > score[b];
  });
  for (std::size_t rank = 0; rank < order.size(); ++rank) active[order[rank]] = rank < count;
}

std::optional<std::string> FindFault(const Action& action, const ActionMask& mask) {
  const std::size_t heads = mask.scale.size();
  const std::size_t sites = mask.count.size();
  if (action.scale.size() != heads || action.score.size() != heads ||
      action.count.size() != sites) {
    return "it has " + std::to_string(action.scale.size()) + " scale choices, " +
           std::to_string(action.count.size()) + " count choices and " +
           std::to_string(action.score.size()) + " scores for " + std::to_string(heads) +
           " heads and " + std::to_string(sites) + " sites";
  }
  for (std::size_t head = 0; head < heads; ++head) {
    const std::size_t choice = action.scale[head];
    if (choice >= kScaleChoices || mask.scale[head][choice] == 0) {
      return "scale choice " + std::to_string(choice) + " of head " + std::to_string(head) +
             " is not open; choose by the mask";
    }
    if (!std::isfinite(action.score[head])) {
      return "the score of head " + std::to_string(head) + " is not finite";
    }
  }
  for (std::size_t site = 0; site < sites; ++site) {
    const auto choice = static_cast<std::size_t>(action.count[site]);
    if (choice >= kCountChoices || mask.count[site][choice] == 0) {
      return "count choice " + std::to_string(choice) + " of site " + std::to_string(site) +
             " is not open; choose by the mask";
    }
  }
  return std::nullopt;
}

Setting Apply(const Topology& topology, const Setting& setting, const Action& action) {
  if (const auto fault = FindFault(action, MaskOf(topology, setting))) {
    throw std::invalid_argument("action: " + *fault);
  }
  Setting next = setting;
  std::size_t first = 0;
  for (std::size_t s = 0; s < topology.sites.size(); ++s) {
    const std::size_t site_heads = topology.sites[s].heads;
    const auto active = std::span(next.active).subspan(first, site_heads);
    const auto score = std::span(action.score).subspan(first, site_heads);
    if (action.count[s] != CountChange::kKeep) {
      SelectHeads(active, score, ChangedCount(CountActive(active), action.count[s], site_heads));
    }
    first += site_heads;
  }
  for (std::size_t head = 0; head < next.scale.size(); ++head) {
    const std::size_t choice = action.scale[head];
    if (next.active[head] != 0 && choice != kKeepScale) {
      next.scale[head] =
          std::clamp(setting.scale[head] * kScaleFactors[choice], kMinScale, kMaxScale);
    }
  }
  return next;
}

}  // namespace attune
