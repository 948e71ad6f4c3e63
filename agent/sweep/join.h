// Brings together what several machines have run of one sweep.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>

#include "agent/sweep/plan.h"

namespace attune::sweep {

struct Joined {
  std::size_t runs = 0;        // taken over
  std::size_t incomplete = 0;  // of them, of a pair of which others are still to be done there
  std::size_t left_out = 0;    // of a pair that has runs of this machine or a third one already
  std::size_t unplanned = 0;   // that this sweep does not have
};

// Takes over the runs of `report` (ReportJson, of a sweep of the same name, metric, command and
// SetupOf) that are over and that the sweep does not have: runs are paired by parameters and seed,
// and those of a pair come from one machine, so that what is compared has run side by side. A later
// report of the same machine adds what it has done since. The report's provenance is kept beside
// the sweep's own. Nothing may run the sweep meanwhile. Throws SweepError if `report` is none that
// can be joined.
[[nodiscard]] Joined Join(const Folder& folder, const nlohmann::json& report);

}  // namespace attune::sweep
