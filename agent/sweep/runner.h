// Carries a sweep to its end: starts what is missing, keeps its daemon alive, shows where it
// stands.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "agent/sweep/executor.h"
#include "agent/sweep/plan.h"

namespace attune::sweep {

enum class ExecutorKind { kLocal, kSlurm };

struct RunnerOptions {
  ExecutorKind executor = ExecutorKind::kLocal;
  std::uint64_t parallel = 0;              // runs at a time; 0: as the file says
  bool retry_failed = false;               // runs that failed are done again
  std::vector<std::string> policies = {};  // only their runs; empty: all
  std::vector<std::uint64_t> seeds = {};   // only theirs; empty: all
  // Only theirs which have one of these values, as words of a command, of each of these parameters;
  // empty: all.
  std::map<std::string, std::vector<std::string>> parameters = {};
};

// The runs of the policies, seeds and parameters that are asked for. Throws SweepError where one of
// these is none of the sweep's own, and where no run has them all.
[[nodiscard]] std::vector<Run> Asked(const std::vector<Run>& runs, const RunnerOptions& options);

// Of the runs that are asked for.
struct Progress {
  std::size_t runs = 0;
  std::size_t done = 0;       // have an outcome
  std::size_t failed = 0;     // of these, without a result
  std::size_t not_asked = 0;  // others that have no outcome
  std::size_t elsewhere = 0;  // without a result, but of a pair that another machine has run
  std::string stopped;        // why it ended before all were done; empty where they are
};
[[nodiscard]] Progress Count(const Folder& folder, const RunnerOptions& options = {});

// Returns when nothing is left to do, or when it was told to stop (INT, TERM), or when a limit of
// the whole sweep is reached. What belongs to pairs that were joined is left to the machine they
// come from, so that what is paired has run side by side. Shows the progress on stderr. Throws
// SweepError where another runner has the sweep, or as Asked does, std::runtime_error where nothing
// can be started. To be called once in a process.
[[nodiscard]] Progress RunSweep(const Folder& folder, const RunnerOptions& options);

// Tells a sweep's runner, and the tasks of one that died, to stop, and waits until they have. False
// where none ran. Throws SweepError where one runs on another host.
bool StopSweep(const Folder& folder);

// Whether a runner has the sweep now.
[[nodiscard]] bool IsRunning(const Folder& folder);

}  // namespace attune::sweep
