// The learner: a thread that teaches the network from the trial log of all jobs, and publishes a
// new snapshot after each lesson.
#pragma once

#include <memory>

#include "agent/learner.h"
#include "agent/options.h"
#include "agent/paths.h"

namespace attune {

class Writer;

// The network begins as the checkpoint in the state directory, or as the knob `network` says where
// there is none; a checkpoint that cannot be read is said so in the log and left alone until the
// first lesson. Without the knob `learn` that is all.
//
// A lesson (after a job has ended), of finished jobs alone: a network that has not learned enough
// to decide clones what rules did in the newest 4,096 trials, its warm start; then its own of jobs
// that are new are learned from by PPO, once, advantages by GAE over each job's windows, whoever
// decided in them. The checkpoint is replaced after every lesson. Throws StoreError if the store
// cannot be read, NetworkError if the knob's file cannot.
[[nodiscard]] std::unique_ptr<Learner> MakeNetworkLearner(const Options& options,
                                                          const Paths& paths, Writer& writer);

}  // namespace attune
