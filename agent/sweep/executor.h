// Where the runs of a sweep take place. One strategy a file: local, slurm.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "agent/sweep/plan.h"
#include "agent/sweep/spec.h"

namespace attune::sweep {

// A run that an executor no longer has. It is done if it has an outcome; else `why` says what
// happened to its task.
struct Over {
  std::uint64_t run = 0;
  std::string why;
};

// Used by one thread.
class Executor {
 public:
  virtual ~Executor() = default;

  // How many more runs may begin now.
  [[nodiscard]] virtual std::size_t Room() const = 0;
  // Takes a run over. One that another task still has, left by a runner that died, is waited for.
  // Throws std::runtime_error with one line for a person.
  virtual void Begin(const Run& run) = 0;
  // The runs that are over since the last call.
  [[nodiscard]] virtual std::vector<Over> Poll() = 0;
  // Ends all runs that it has, and returns when they have ended. They have no outcome.
  virtual void Stop() = 0;
};

// As many runs at a time as the limits say, each under a task (task.h) in a process of its own that
// outlives this one if it is killed. This process must have one thread.
[[nodiscard]] std::unique_ptr<Executor> MakeLocal(const Folder& folder, const Spec& spec);

// As a job array of Slurm: the tasks are the same (`PROGRAM sweep task`, PROGRAM being attune),
// Slurm says when and where. The folder must be the same on all nodes. Throws std::runtime_error if
// Slurm's commands cannot be used.
[[nodiscard]] std::unique_ptr<Executor> MakeSlurm(const Folder& folder, const Spec& spec,
                                                  const std::string& program);

}  // namespace attune::sweep
