#include "agent/sweep/runner.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <deque>
#include <fstream>
#include <functional>
#include <map>
#include <set>
#include <system_error>
#include <thread>

#include "agent/child.h"
#include "agent/keys.h"
#include "agent/sweep/board.h"
#include "agent/sweep/task.h"
#include "store/store.h"

namespace attune::sweep {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kTurn{50};
constexpr std::chrono::seconds kDaemonLook{2};
constexpr std::chrono::seconds kPatience{60};  // with a daemon that cannot be started
constexpr std::chrono::milliseconds kStopLook{20};
constexpr std::uint64_t kLeastSpace = 64 << 20;  // bytes free, to begin a run
constexpr std::size_t kLongestSocket = 100;      // bytes of its path; sockaddr_un has 108

std::atomic<int> interrupted{0};
void Interrupt(int signal) { interrupted = signal; }

// Held by the one runner of a sweep.
class RunnerLock {
 public:
  explicit RunnerLock(const Folder& folder)
      : descriptor_(
            open((folder.Path() / "runner.lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)) {
    const fs::path file = folder.Path() / "runner.lock";
    if (descriptor_ < 0) {
      throw SweepError(fmt::format("cannot write {}: {}", file.string(), std::strerror(errno)));
    }
    if (!TakeLock(descriptor_)) {
      const Holder holder = Holder::Read(file);
      close(descriptor_);
      throw SweepError(
          fmt::format("process {} of {} is running this sweep; see attune sweep status",
                      holder.process, holder.host));
    }
    const std::string own = Holder::Own().Line();
    static_cast<void>(ftruncate(descriptor_, 0));
    static_cast<void>(!write(descriptor_, own.data(), own.size()));
  }
  ~RunnerLock() { close(descriptor_); }
  RunnerLock(const RunnerLock&) = delete;
  RunnerLock& operator=(const RunnerLock&) = delete;

 private:
  int descriptor_;
};

// Whether it is, or could be made, a folder that nobody else can enter.
bool IsOwnFolder(const fs::path& folder) {
  struct stat found {};
  return (mkdir(folder.c_str(), 0700) == 0 || errno == EEXIST) &&
         lstat(folder.c_str(), &found) == 0 && S_ISDIR(found.st_mode) && found.st_uid == getuid() &&
         (found.st_mode & 0077U) == 0;
}

// A daemon of the sweep's own: its history, its seeds and its policies are nobody else's.
class SweepDaemon {
 public:
  // `name`: of the variant that it is for, or empty.
  SweepDaemon(const Folder& folder, const Spec& spec, const std::string& name) : name_(name) {
    paths_.state = folder.Path() / (name.empty() ? "attuned" : "attuned-" + name);
    paths_.runtime = paths_.state;
    if (paths_.Endpoint().size() > kLongestSocket) {
      paths_.runtime =
          fs::temp_directory_path() / fmt::format("attune-{}-{:016x}", getuid(),
                                                  std::hash<std::string>{}(paths_.state.string()));
      if (!IsOwnFolder(paths_.runtime)) {
        throw SweepError(
            fmt::format("{} is not a folder of yours alone, and the daemon's socket belongs there, "
                        "as {} is too long for it; remove it, or give a shorter --state-directory",
                        paths_.runtime.string(), paths_.state.string()));
      }
    }
    // Outlives a runner that is killed, for the runs that do, and not for long.
    flags_ = {"--state-directory=" + paths_.state.string(),
              "--runtime-directory=" + paths_.runtime.string(), "--config=/dev/null",
              "--linger=60"};
    listen_ = spec.slurm.listen;
    if (!listen_.empty()) flags_.push_back("--listen=" + listen_);
    auto knobs = spec.daemon;
    if (!name.empty()) {
      for (const auto& [knob, value] : spec.variants.at(name).daemon) knobs[knob] = value;
    }
    for (const auto& [knob, value] : knobs) {
      // A file is named from where runs start, wherever the sweep was begun.
      const bool is_file = knob == "network" && value != "none" && value != "shipped";
      flags_.push_back("--" + knob + "=" + (is_file ? (spec.directory / value).string() : value));
    }
  }

  ~SweepDaemon() {
    child_.reset();
    std::error_code stays;  // with what is in it, where the daemon is another runner's
    if (paths_.runtime != paths_.state) fs::remove(paths_.runtime, stays);
  }
  SweepDaemon(const SweepDaemon&) = delete;
  SweepDaemon& operator=(const SweepDaemon&) = delete;

  // Starts it where it does not answer; says so where it had run before.
  void Keep(Board* board) {
    if (Clock::now() - looked_ < kDaemonLook) return;
    looked_ = Clock::now();
    // Being asked, it stays also while nobody is tuned. It may be another runner's.
    if (AskStatus(paths_)) {
      fault_.clear();
      return;
    }
    if (child_ && !child_->Ended()) return;
    if (board != nullptr)
      board->Say(fmt::format("attuned {}is gone: starting it again",
                             name_.empty() ? "" : "of " + name_ + " "));
    child_.reset();
    try {
      child_ = StartDaemon(paths_, flags_, [] { return interrupted != 0; });
      fault_.clear();
    } catch (const std::runtime_error& error) {
      if (board == nullptr) throw;
      if (fault_.empty()) failing_since_ = Clock::now();
      fault_ = error.what();
      board->Say(fmt::format("{}; trying again", fault_));  // the runs go on meanwhile
    }
  }

  // Why it could not be started when that was last tried; empty: it could.
  [[nodiscard]] const std::string& Fault() const { return fault_; }
  // Whether that has been so for a while.
  [[nodiscard]] bool IsHopeless() const {
    return !fault_.empty() && Clock::now() - failing_since_ > kPatience;
  }

  // Whether the run's job has said hello to it. What a run said first reaches the history a moment
  // after, and hosts' clocks differ.
  [[nodiscard]] bool Knows(const std::string& sweep, const RunOutcome& outcome) const {
    constexpr auto kHelloTime = std::chrono::seconds(2);
    constexpr double kClockError = 60;  // seconds
    constexpr std::size_t kRecentJobs = 10'000;
    const std::string begin = JobKeyBegin(sweep, outcome.id);
    const auto start = Clock::now();
    do {
      const Store store(paths_.Store(), Store::Mode::kReadOnly);
      const auto jobs = store.Jobs(kRecentJobs);
      if (std::ranges::any_of(jobs, [&](const JobRecord& job) {
            // A trainer may have a key of its own: that of no other run.
            const std::string& key = job.spec.key;
            return (key.starts_with(begin) || !key.starts_with(sweep + "/")) &&
                   (job.ended == 0 || job.ended >= outcome.started - kClockError);
          })) {
        return true;
      }
      poll(nullptr, 0, static_cast<int>(kTurn.count()));
    } while (Clock::now() - start < kHelloTime);
    return false;
  }

  [[nodiscard]] std::map<std::string, std::string> Variables() const {
    if (listen_.empty()) return {{"ATTUNE_ENDPOINT", paths_.Endpoint()}};
    return {{"ATTUNE_ENDPOINT", listen_}, {"ATTUNE_KEYS", Keys::Load(paths_.Keys()).ForTrainers()}};
  }

 private:
  std::string name_;
  Paths paths_;
  std::string listen_;
  std::vector<std::string> flags_;
  std::unique_ptr<Child> child_;
  std::string fault_;
  Clock::time_point failing_since_{};
  Clock::time_point looked_{};
};

std::string OwnProgram() {
  std::error_code error;
  const fs::path own = fs::read_symlink("/proc/self/exe", error);
  return error ? "attune" : own.string();
}

bool IsFailure(const RunOutcome& outcome) {
  return outcome.ending != Ending::kFinished && outcome.ending != Ending::kHalved;
}

// Whether a part of the sweep has the value; a part of none has all.
template <typename Value>
bool IsAmong(const std::vector<Value>& part, const Value& value) {
  return part.empty() || std::ranges::find(part, value) != part.end();
}

// As they are now, by the run's number.
using Outcomes = std::map<std::uint64_t, RunOutcome>;
Outcomes ReadOutcomes(const Folder& folder, const std::vector<Run>& runs) {
  Outcomes outcomes;
  for (const Run& run : runs) {
    if (auto outcome = folder.ReadOutcome(run.id)) outcomes.emplace(run.id, *std::move(outcome));
  }
  return outcomes;
}

// The pairs (Run::Pair) that another machine has run, or begun to.
std::set<std::string> JoinedPairs(const std::vector<Run>& runs, const Outcomes& outcomes) {
  std::set<std::string> pairs;
  for (const Run& run : runs) {
    const auto outcome = outcomes.find(run.id);
    if (outcome != outcomes.end() && outcome->second.origin) pairs.insert(run.Pair());
  }
  return pairs;
}

// Numbers are equal however they are written.
bool Has(const Run& run, const std::string& parameter, const std::string& word) {
  const auto own = run.parameters.find(parameter);
  if (own == run.parameters.end()) return false;
  if (CommandWord(*own) == word) return true;
  const auto number = nlohmann::json::parse(word, nullptr, false);
  return number.is_number() && number == *own;
}

bool Asks(const RunnerOptions& options, const Run& run) {
  return IsAmong(options.policies, run.policy) && IsAmong(options.seeds, run.seed) &&
         std::ranges::all_of(options.parameters, [&](const auto& parameter) {
           return std::ranges::any_of(parameter.second, [&](const std::string& word) {
             return Has(run, parameter.first, word);
           });
         });
}

double Spent(const Folder& folder, const std::vector<Run>& runs) {
  double seconds = 0;
  for (const Run& run : runs) {
    if (const auto outcome = folder.ReadOutcome(run.id)) seconds += outcome->cpu_seconds;
  }
  return seconds;
}

}  // namespace

std::vector<Run> Asked(const std::vector<Run>& runs, const RunnerOptions& options) {
  for (const std::string& policy : options.policies) {
    if (std::ranges::find(runs, policy, &Run::policy) == runs.end()) {
      throw SweepError(fmt::format("the sweep has no run of policy '{}'", policy));
    }
  }
  for (const std::uint64_t seed : options.seeds) {
    if (std::ranges::find(runs, seed, &Run::seed) == runs.end()) {
      throw SweepError(fmt::format("the sweep has no run of seed {}", seed));
    }
  }
  for (const auto& [name, words] : options.parameters) {
    for (const std::string& word : words) {
      if (std::ranges::none_of(runs, [&](const Run& run) { return Has(run, name, word); })) {
        throw SweepError(fmt::format("the sweep has no run with {} = {}", name, word));
      }
    }
  }
  std::vector<Run> asked;
  std::ranges::copy_if(runs, std::back_inserter(asked),
                       [&](const Run& run) { return Asks(options, run); });
  if (asked.empty() && !runs.empty())
    throw SweepError("no run of the sweep has all that is asked for");
  return asked;
}

Progress Count(const Folder& folder, const RunnerOptions& options) {
  Progress progress;
  const std::vector<Run> runs = folder.ReadRuns();
  const Outcomes outcomes = ReadOutcomes(folder, runs);
  const std::set<std::string> joined = JoinedPairs(runs, outcomes);
  for (const Run& run : runs) {
    const auto outcome = outcomes.find(run.id);
    const bool is_done = outcome != outcomes.end();
    if (!Asks(options, run)) {
      progress.not_asked += is_done ? 0 : 1;
      continue;
    }
    ++progress.runs;
    if (is_done) {
      ++progress.done;
      if (IsFailure(outcome->second)) ++progress.failed;
    } else if (joined.contains(run.Pair())) {
      ++progress.elsewhere;
    }
  }
  return progress;
}

Progress RunSweep(const Folder& folder, const RunnerOptions& options) {
  const RunnerLock lock(folder);
  struct sigaction action {};
  action.sa_handler = Interrupt;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);

  Spec spec = folder.ReadSpec();
  if (options.parallel > 0) spec.limits.parallel = options.parallel;
  const std::vector<Run> runs = folder.ReadRuns();
  const std::vector<Run> asked = Asked(runs, options);
  std::deque<const Run*> missing;
  std::size_t elsewhere = 0;
  const Outcomes outcomes = ReadOutcomes(folder, runs);
  const std::set<std::string> joined = JoinedPairs(runs, outcomes);
  for (const Run& run : asked) {
    const auto outcome = outcomes.find(run.id);
    const bool is_done = outcome != outcomes.end();
    if (joined.contains(run.Pair())) {
      elsewhere += is_done ? 0 : 1;
    } else if (!is_done) {
      missing.push_back(&run);
    } else if (options.retry_failed && IsFailure(outcome->second)) {
      fs::remove(folder.Of(run.id) / "outcome.json");
      missing.push_back(&run);
    }
  }
  std::string stopped;
  if (!missing.empty()) {
    folder.AddResumed(spec);
    std::map<std::string, SweepDaemon> daemons;
    for (const Run* run : missing) {
      const std::string name = spec.DaemonOf(run->policy);
      if (spec.Tunes(run->policy)) daemons.try_emplace(name, folder, spec, name);
    }
    if (daemons.size() > 1 && !spec.slurm.listen.empty()) {
      throw SweepError(
          "variants with daemons of their own have no addresses for other hosts; run "
          "them with --executor local and without slurm.listen");
    }
    // What an earlier runner has left in a queue finds its daemon here too.
    std::map<std::string, Folder::Variables> variables = folder.ReadEnvironment();
    for (auto& [name, daemon] : daemons) {
      daemon.Keep(nullptr);
      variables[name] = daemon.Variables();
    }
    if (!daemons.empty()) folder.WriteEnvironment(variables);
    const auto executor = options.executor == ExecutorKind::kSlurm
                              ? MakeSlurm(folder, spec, OwnProgram())
                              : MakeLocal(folder, spec);
    double spent = Spent(folder, runs);
    const std::size_t here = asked.size() - elsewhere;
    Board board(folder, here, here - missing.size());
    std::set<std::uint64_t> begun;
    // Null: nobody tunes the run.
    const auto daemon_of = [&](const Run& run) -> const SweepDaemon* {
      return spec.Tunes(run.policy) ? &daemons.at(spec.DaemonOf(run.policy)) : nullptr;
    };
    // How a run ended. One that was to be tuned, and that no daemon has heard of, has failed.
    const auto end_of = [&](const Run& run) {
      std::optional<RunOutcome> outcome = folder.ReadOutcome(run.id);
      const SweepDaemon* const daemon = daemon_of(run);
      if (outcome && outcome->ending == Ending::kFinished && daemon != nullptr &&
          !run.environment.contains("ATTUNE_ENDPOINT") && !daemon->Knows(spec.name, *outcome)) {
        outcome->ending = Ending::kFailed;
        outcome->why =
            "it never said hello to attuned, so nobody tuned it: give it a probe (README.md, \"In "
            "your trainer\"), and let it have ATTUNE_ENDPOINT and ATTUNE_JOB";
        folder.WriteOutcome(*outcome);
      }
      return outcome;
    };
    while (!begun.empty() || (!missing.empty() && stopped.empty())) {
      if (interrupted != 0) {
        stopped = "it was told to";
        board.Say("stopping the runs that are under way");
        executor->Stop();
        break;
      }
      for (auto& [name, daemon] : daemons) daemon.Keep(&board);
      while (stopped.empty() && !missing.empty() && executor->Room() > 0) {
        if (spec.limits.compute_seconds > 0 && spent >= spec.limits.compute_seconds) {
          stopped = fmt::format("its {:g} compute_seconds are spent", spec.limits.compute_seconds);
        } else if (fs::space(folder.Path()).available < kLeastSpace) {
          stopped = fmt::format("there is no space left at {}: free some", folder.Path().string());
        } else {
          const Run& run = *missing.front();
          if (const auto* daemon = daemon_of(run); daemon != nullptr && !daemon->Fault().empty()) {
            if (begun.empty() && daemon->IsHopeless()) stopped = daemon->Fault();
            break;
          }
          missing.pop_front();
          board.Begin(run);
          // A task that an earlier runner has left may have done it meanwhile.
          if (const auto outcome = end_of(run)) {
            spent += outcome->cpu_seconds;
            board.End(run.id, outcome, "");
          } else {
            executor->Begin(run);
            begun.insert(run.id);
          }
        }
      }
      for (const Over& over : executor->Poll()) {
        const auto outcome = end_of(*std::ranges::find(runs, over.run, &Run::id));
        if (outcome) spent += outcome->cpu_seconds;
        board.End(over.run, outcome, over.why);
        begun.erase(over.run);
      }
      board.Show();
      poll(nullptr, 0, static_cast<int>(kTurn.count()));
    }
  }
  Progress progress = Count(folder, options);
  progress.stopped = stopped;
  if (stopped.empty() && progress.done < progress.runs) {
    progress.stopped =
        progress.done + progress.elsewhere < progress.runs
            ? "some had no outcome"
            : "others of their parameters and seed were joined, so they are for the machine that "
              "has those; join its report again when it has done them";
  }
  return progress;
}

bool IsRunning(const Folder& folder) { return IsHeld(folder.Path() / "runner.lock"); }

bool StopSweep(const Folder& folder) {
  std::vector<fs::path> locks = {folder.Path() / "runner.lock"};
  for (const Run& run : folder.ReadRuns()) locks.push_back(folder.Of(run.id) / "lock");
  bool any = false;
  for (const fs::path& lock : locks) {
    pid_t told = 0;
    for (; IsHeld(lock); std::this_thread::sleep_for(kStopLook)) {
      // Who has just taken it has not written itself in yet.
      const Holder holder = Holder::Read(lock);
      if (!holder.host.empty() && holder.host != Holder::Own().host) {
        throw SweepError(fmt::format("process {} of {} has {}: stop it there, or with scancel",
                                     holder.process, holder.host, lock.string()));
      }
      if (holder.process == told) continue;
      told = holder.process;
      if (holder.Tell()) any = true;
    }
  }
  return any;
}

}  // namespace attune::sweep
