// A decision bent to what the job's earlier runs say (env/precedent.h). It is no policy of its own:
// scales stay those of the policy that decided, and which heads stay is by its scores.
#pragma once

#include "policies/policy.h"

namespace attune {

// What trials say of who decided.
inline constexpr std::string_view kPrecedentName = "precedent";

// Brings every site, a halving or a head at a time, to the heads that the precedent says, or
// changes nothing where it says none. Respects `situation.mask` where `decision` does.
[[nodiscard]] Decision FollowPrecedent(const Precedent& precedent, const Situation& situation,
                                       Decision decision);

}  // namespace attune
