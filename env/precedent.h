// What came of a job's earlier runs, and what the next one takes from it.
//
// What few heads do to a job is much the same under another seed, and little of it can be foreseen
// from what is measured (policies/network_history.md). So the runs of a job are a bandit of few
// arms: what policies decide by themselves, two heads a site, and nothing where a run was left
// alone. The first two are tried once, and then the arm of the lowest mean loss is followed
// (greedy: seeds differ less than arms do, and runs are few).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "env/job.h"

namespace attune {

// Whether they are runs of one job: all alike but key, seed and who decides.
[[nodiscard]] bool IsSameJob(const JobSpec& a, const JobSpec& b);

enum class Arm : std::uint8_t {
  kOwn,    // as policies decide, window by window
  kFew,    // two heads a site; scales as policies decide
  kAlone,  // nothing is changed
};

// A run that has ended.
struct EarlierRun {
  Arm arm = Arm::kOwn;
  double loss = 0;  // at its end, nats; finite and above 0
};

// What a run is to do.
struct Precedent {
  std::optional<std::size_t> heads;  // of each site that has more; none: nothing is changed
  std::string why;                   // one line for a person
};

// Nothing where policies are to decide by themselves: where they have not before, where that ended
// lowest on average (geometric means), where no site has more than two heads, and where two heads
// were never tried and may not be (`explore`).
[[nodiscard]] std::optional<Precedent> FollowEarlier(std::span<const EarlierRun> runs,
                                                     const Topology& topology, bool explore);

}  // namespace attune
