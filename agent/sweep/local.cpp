// Runs on this machine, each under a task in a process of its own.
#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <thread>

#include "agent/child.h"
#include "agent/sweep/executor.h"
#include "agent/sweep/task.h"

namespace attune::sweep {
namespace {

namespace fs = std::filesystem;

constexpr std::chrono::milliseconds kLook{20};

std::vector<int> AllowedProcessors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  sched_getaffinity(0, sizeof(set), &set);
  std::vector<int> processors;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(static_cast<std::size_t>(cpu), &set)) processors.push_back(cpu);
  }
  return processors;
}

// A task by fork alone: starting the program anew would cost more than all the rest of it. This
// process has one thread. Returns the task's process, -1 if there can be none.
pid_t StartTask(const Folder& folder, const Spec& spec, const Run& run,
                const std::vector<int>& cpus) {
  const std::string log = (folder.Of(run.id) / "task.err").string();
  // Until the task minds its signals they wait: the runner's handler would lose them.
  sigset_t stop, before;
  sigemptyset(&stop);
  sigaddset(&stop, SIGINT);
  sigaddset(&stop, SIGTERM);
  sigprocmask(SIG_BLOCK, &stop, &before);
  const pid_t task = fork();
  if (task == 0) {
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
  }
  sigprocmask(SIG_SETMASK, &before, nullptr);
  if (task != 0) return task;
  setpgid(0, 0);           // the terminal's INT is for the runner
  close_range(3, ~0U, 0);  // the runner's lock is not the task's
  const int null = open("/dev/null", O_RDWR);
  const int err = open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  dup2(null, STDIN_FILENO);
  dup2(null, STDOUT_FILENO);
  dup2(err < 0 ? null : err, STDERR_FILENO);
  close_range(3, ~0U, 0);
  int status = 1;
  try {
    status = RunTask(folder, spec, run, cpus) == TaskEnd::kDone ? 0 : 1;
    if (status != 0) fmt::print(stderr, "its task was told to stop\n");
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
  }
  _exit(status);
}

class Local : public Executor {
 public:
  Local(const Folder& folder, const Spec& spec) : folder_(folder), spec_(spec) {
    const std::vector<int> processors = AllowedProcessors();
    slots_.resize(spec.limits.parallel);
    if (!spec.limits.pin) return;
    if (processors.size() < spec.limits.parallel * spec.limits.cpus) {
      throw std::runtime_error(
          fmt::format("{} runs at a time with {} processors each need {}, and there are {}; change "
                      "limits.parallel, limits.cpus or limits.pin",
                      spec.limits.parallel, spec.limits.cpus,
                      spec.limits.parallel * spec.limits.cpus, processors.size()));
    }
    auto next = processors.begin();
    for (Slot& slot : slots_) {
      for (std::uint64_t i = 0; i < spec.limits.cpus; ++i) {
        slot.cpus.push_back(*next++);
      }
    }
  }

  std::size_t Room() const override {
    return static_cast<std::size_t>(
        std::ranges::count_if(slots_, [](const Slot& slot) { return !slot.run; }));
  }

  ~Local() override { Local::Stop(); }

  void Begin(const Run& run) override {
    const auto slot = std::ranges::find_if(slots_, [](const Slot& s) { return !s.run; });
    slot->task = 0;
    // A task that another runner left behind is only waited for.
    if (!IsHeld(folder_.Of(run.id) / "lock")) {
      fs::create_directories(folder_.Of(run.id));
      slot->task = StartTask(folder_, spec_, run, slot->cpus);
      if (slot->task < 0) {
        throw std::runtime_error(fmt::format("cannot start a process: {}", std::strerror(errno)));
      }
    }
    slot->run = run.id;
  }

  std::vector<Over> Poll() override {
    std::vector<Over> over;
    for (Slot& slot : slots_) {
      if (!slot.run) continue;
      const fs::path path = folder_.Of(*slot.run);
      int status = 0;
      if (slot.task > 0 ? waitpid(slot.task, &status, WNOHANG) == 0 : IsHeld(path / "lock")) {
        continue;
      }
      over.push_back({*slot.run, WIFEXITED(status) && WEXITSTATUS(status) != 0
                                     ? LastLine(path / "task.err")
                                     : "its task was killed"});
      slot.run.reset();
    }
    return over;
  }

  void Stop() override {
    for (Slot& slot : slots_) {
      if (!slot.run) continue;
      if (slot.task > 0) {
        kill(slot.task, SIGTERM);
      } else if (!Holder::Read(folder_.Of(*slot.run) / "lock").Tell()) {
        slot.run.reset();  // another host's goes on
      }
    }
    for (Slot& slot : slots_) {
      if (!slot.run) continue;
      if (slot.task > 0) waitpid(slot.task, nullptr, 0);
      while (IsHeld(folder_.Of(*slot.run) / "lock")) std::this_thread::sleep_for(kLook);
      slot.run.reset();
    }
  }

 private:
  struct Slot {
    std::optional<std::uint64_t> run;
    pid_t task = 0;  // 0: another runner's
    std::vector<int> cpus;
  };

  const Folder& folder_;
  const Spec& spec_;
  std::vector<Slot> slots_;
};

}  // namespace

std::unique_ptr<Executor> MakeLocal(const Folder& folder, const Spec& spec) {
  return std::make_unique<Local>(folder, spec);
}

}  // namespace attune::sweep
