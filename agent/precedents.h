// What came of a job's earlier runs, from the history.
#pragma once

#include <optional>

#include "env/precedent.h"
#include "store/store.h"

namespace attune {

// By the runs of the same job that had finished before `started` (Unix seconds), were decided by
// the network alone or left alone, and have a loss. Nothing for a job whose weights were trained
// before. Throws StoreError.
[[nodiscard]] std::optional<Precedent> PrecedentFor(const Store& store, const JobSpec& spec,
                                                    double started, bool explore);

}  // namespace attune
