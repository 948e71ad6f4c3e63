// The learner: a thread that teaches the network from the trial log of all jobs, and publishes a
// new snapshot after each lesson.
#pragma once

#include <memory>

#include "agent/learner.h"
#include "agent/options.h"
#include "agent/paths.h"

namespace attune {

class Writer;

// A lesson (after a job has ended): the rules' trials among the last 4,096 are cloned, which is the
// warm start and the leash; then the network's own new trials are learned from by PPO, advantages
// by GAE over each job's windows. The checkpoint in the state directory is read at the start and
// replaced after every lesson; one that cannot be read is said so in the log and left alone until
// then. Throws StoreError if the store cannot be read.
[[nodiscard]] std::unique_ptr<Learner> MakeNetworkLearner(const Options& options,
                                                          const Paths& paths, Writer& writer);

}  // namespace attune
