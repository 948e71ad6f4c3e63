// One run of a sweep, watched over: in a process of its own, forked by the runner or started by
// Slurm (`attune sweep task`). It outlives the runner, and its run does not outlive it.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "agent/sweep/plan.h"
#include "agent/sweep/spec.h"

namespace attune::sweep {

enum class TaskEnd {
  kDone,         // the run has its outcome, from now or from before
  kBusy,         // another task has this run
  kInterrupted,  // told to stop (INT or TERM): the run has no outcome and is still to be done
};

// Runs `run` in a process group of its own, on the processors `cpus` (empty: any), and writes its
// outcome. Enforces the limits and halves. Takes INT and TERM while it lasts; to be called once in
// a process. Throws std::system_error if the folder cannot be written: the run has no outcome then.
[[nodiscard]] TaskEnd RunTask(const Folder& folder, const Spec& spec, const Run& run,
                              const std::vector<int>& cpus);

// What the keys of a tuned run's jobs (ATTUNE_JOB) begin with.
[[nodiscard]] std::string JobKeyBegin(const std::string& sweep, std::uint64_t run);

// Takes the lock of a file that is open to be written, for as long as it is open (an open file
// description's: it can be asked for without taking it). False where another has it. Throws
// std::system_error.
[[nodiscard]] bool TakeLock(int descriptor);
// Whether somebody holds this lock now.
[[nodiscard]] bool IsHeld(const std::filesystem::path& lock);

// Who holds a lock, as is written in it: nodes of a cluster share the folder.
struct Holder {
  pid_t process = 0;  // 0: nobody yet
  std::string host;

  [[nodiscard]] static Holder Own();
  [[nodiscard]] static Holder Read(const std::filesystem::path& lock);
  [[nodiscard]] std::string Line() const;
  // Tells it to stop (TERM). False where nobody can be told from this host.
  [[nodiscard]] bool Tell() const;
};

}  // namespace attune::sweep
