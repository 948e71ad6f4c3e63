#include "policies/precedent.h"

#include <algorithm>
#include <span>
#include <utility>

namespace attune {

Decision FollowPrecedent(const Precedent& precedent, const Situation& situation,
                         Decision decision) {
  const State& state = situation.state;
  Decision bent{.action = std::move(decision.action),
                .why = precedent.why,
                .policy_version = decision.policy_version};
  if (!precedent.heads) {
    bent.action = Action::Keep(state.Heads(), state.Sites());
    return bent;
  }
  for (std::size_t site = 0; site < state.Sites(); ++site) {
    const std::size_t first = state.site_offsets[site];
    const std::size_t heads = state.site_offsets[site + 1] - first;
    const CountChange change = ChangeTowards(
        std::min(*precedent.heads, heads),
        CountActive(std::span(situation.setting.active).subspan(first, heads)), heads);
    const bool open = situation.mask.count[site][static_cast<std::size_t>(change)] != 0;
    bent.action.count[site] = open ? change : CountChange::kKeep;
  }
  return bent;
}

}  // namespace attune
