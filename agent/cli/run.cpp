// attune run: a trainer in the foreground, a daemon beside it, and at the end what came of it.
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <utility>

#include "agent/child.h"
#include "agent/cli/command.h"
#include "agent/cli/progress.h"

namespace attune::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using namespace std::chrono_literals;
using SteadyClock = std::chrono::steady_clock;

constexpr auto kFarewellTime = 3s;  // for the job's end to reach the store
constexpr auto kHelloTime = 300ms;  // for its beginning, of a command that ended at once
constexpr auto kLook = 500ms;       // between two looks at the job

std::atomic<pid_t> foreground{0};
std::atomic<int> interrupted{0};  // the last signal taken

void Forward(int signal, siginfo_t* info, void* /*context*/) {
  interrupted = signal;
  // The terminal sends its own to the trainer as well: twice would cut the trainer's clean end
  // short.
  if (const pid_t child = foreground; child > 0 && info->si_code != SI_KERNEL) kill(child, signal);
}

// While it lives, INT and TERM are the trainer's to deal with; this process stays to tell how it
// ended.
class ForwardSignals {
 public:
  ForwardSignals() {
    struct sigaction action {};
    action.sa_sigaction = Forward;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGINT, &action, &before_int_);
    sigaction(SIGTERM, &action, &before_term_);
  }
  ~ForwardSignals() {
    sigaction(SIGINT, &before_int_, nullptr);
    sigaction(SIGTERM, &before_term_, nullptr);
  }
  ForwardSignals(const ForwardSignals&) = delete;
  ForwardSignals& operator=(const ForwardSignals&) = delete;

 private:
  struct sigaction before_int_ {};
  struct sigaction before_term_ {};
};

void Pause(std::chrono::milliseconds time) { poll(nullptr, 0, static_cast<int>(time.count())); }

double UnixTime() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string RandomKey() {
  std::random_device device;
  return fmt::format("{:08x}{:08x}{:08x}{:08x}", device(), device(), device(), device());
}

// Flags for a private daemon do nothing to one that runs already.
void WarnOfUnusedFlags(const Arguments& arguments) {
  std::string unused;
  for (const Knob& knob : Knobs()) {
    const std::string name(knob.name);
    if (!name.ends_with("-directory") && arguments.Has(name.c_str())) unused += " --" + name;
  }
  if (!unused.empty()) {
    fmt::print(stderr,
               "attune run: attuned is running already, so these are not used:{}; stop it, or give "
               "another --state-directory\n",
               unused);
  }
}

// Whether a job is of the run that was given this key: several jobs of a process are KEY, KEY.2 …
bool IsOf(const std::string& key, const std::string& job) {
  const std::string numbered = key + ".";
  return job == key || (job.starts_with(numbered) &&
                        job.find_first_not_of("0123456789", numbered.size()) == std::string::npos);
}

constexpr std::size_t kNewest = 1'000;  // jobs among which those of a run are looked for

// The newest job of the run, if there is one.
std::optional<JobRecord> NewestOf(const Store& store, const std::string& key) {
  std::vector<JobRecord> jobs = store.Jobs(kNewest);
  const auto job = std::ranges::find_if(
      jobs, [&](const JobRecord& record) { return IsOf(key, record.spec.key); });
  if (job == jobs.end()) return std::nullopt;
  return std::move(*job);
}

// Follows the jobs of the key, or whichever the daemon has where the key is empty, until its
// command ends. A daemon that goes or answers nonsense ends the following only: the training goes
// on.
void Follow(const Paths& paths, const std::string& key, Child& trainer) {
  Progress progress;
  bool look = true;
  while (!trainer.Ended()) {
    try {
      if (const auto status = look ? AskStatus(paths) : std::nullopt) {
        for (const LiveJob& job : status->jobs) {
          if ((key.empty() || IsOf(key, job.key)) && job.step > 0) progress.Show(job);
        }
      }
    } catch (const std::exception& error) {
      progress.Finish();
      fmt::print(stderr, "attune run: no progress is shown: {}\n", error.what());
      look = false;
    }
    const auto next = SteadyClock::now() + kLook;
    while (!trainer.Ended() && SteadyClock::now() < next) Pause(20ms);
  }
  progress.Finish();
}

// What was tried on a job and what came of it.
struct Summary {
  JobRecord job;
  std::map<std::string, int> deciders;
  std::map<std::string, int> answers;  // by the acknowledgement's name
  double reward = 0;
  Setting first, last;
  std::size_t anomalies = 0;
};

// What the trainer said last reaches the store a moment after its end.
void AwaitEnd(const Store& store, const std::string& key) {
  const auto start = SteadyClock::now();
  while (true) {
    const auto job = NewestOf(store, key);
    if (job && job->outcome != Outcome::kRunning) return;
    if (SteadyClock::now() - start > (job ? kFarewellTime : kHelloTime)) return;
    Pause(20ms);
  }
}

// The setting that the job's oldest trial found: no trial has changed it before.
Setting FirstSetting(const Trial& oldest) {
  Setting first = Setting::Neutral(oldest.setting.active.size());
  if (oldest.acknowledgement.status == AckStatus::kNone) return oldest.setting;
  std::vector<std::uint8_t> seen = oldest.state.Active();
  // Nothing is seen before the first window is full.
  if (CountActive(seen) > 0) first.active = std::move(seen);
  return first;
}

// The key of the last job that ended since then, or `otherwise`. A job that goes on from a
// checkpoint keeps the key that it had, whatever it is given.
std::string KeyOfLastSince(const Store& store, double time, const std::string& otherwise) {
  std::string key = otherwise;
  for (const JobRecord& job : store.Jobs(std::numeric_limits<std::int64_t>::max())) {
    if (job.ended < time) continue;
    time = job.ended;
    key = job.spec.key;
  }
  return key;
}

// Nothing if no job goes by the key that has gone on since then.
std::optional<Summary> Summarise(const Store& store, const std::string& key, double since) {
  const auto job = NewestOf(store, key);
  if (!job || (job->outcome != Outcome::kRunning && job->ended < since)) return std::nullopt;
  Summary summary;
  summary.job = *job;
  const auto trials = store.Trials(job->id, job->trials);  // newest first
  std::optional<std::uint64_t> last;
  for (const TrialRow& trial : trials) {
    ++summary.deciders[trial.decider];
    if (trial.status != AckStatus::kNone) ++summary.answers[std::string(Name(trial.status))];
    summary.reward += trial.reward.value_or(0);
    if (!last && trial.status == AckStatus::kApplied) last = trial.id;
  }
  summary.first = trials.empty() ? Setting::Neutral(job->spec.topology.Heads())
                                 : FirstSetting(*store.FindTrial(trials.back().id));
  summary.last = last ? store.FindTrial(*last)->setting : summary.first;
  summary.anomalies = store.Anomalies(job->id).size();
  return summary;
}

// Jobs of the run that have ended since then.
std::int64_t CountSince(const Store& store, const std::string& key, double since) {
  return std::ranges::count_if(store.Jobs(kNewest), [&](const JobRecord& job) {
    return IsOf(key, job.spec.key) && job.ended >= since;
  });
}

// By the site's index.
std::vector<std::size_t> ActiveHeads(const Topology& topology, const Setting& setting) {
  std::vector<std::size_t> active;
  const auto offsets = topology.SiteOffsets();
  for (std::size_t site = 0; site + 1 < offsets.size(); ++site) {
    active.push_back(CountActive(
        std::span(setting.active).subspan(offsets[site], offsets[site + 1] - offsets[site])));
  }
  return active;
}

// "block0 8→5, block1 8→7; as before in 10 sites".
std::string DescribeHeads(const Summary& summary) {
  const Topology& topology = summary.job.spec.topology;
  const auto first = ActiveHeads(topology, summary.first);
  const auto last = ActiveHeads(topology, summary.last);
  std::string text;
  std::size_t same = 0;
  for (std::size_t site = 0; site < first.size(); ++site) {
    if (first[site] == last[site]) {
      ++same;
      continue;
    }
    if (!text.empty()) text += ", ";
    text += fmt::format("{} {}→{}", topology.sites[site].name, first[site], last[site]);
  }
  if (same > 0) {
    if (!text.empty()) text += "; ";
    text += fmt::format("as before in {} {}", same, same == 1 ? "site" : "sites");
  }
  return text;
}

int Of(const std::map<std::string, int>& counts, const char* name) {
  const auto found = counts.find(name);
  return found == counts.end() ? 0 : found->second;
}

// `where`: the flag that other commands need to find the history, or empty.
void Tell(const Summary& summary, const std::string& where) {
  const JobRecord& job = summary.job;
  std::string deciders;
  for (const auto& [decider, count] : summary.deciders) {
    deciders += fmt::format("{}{} {}", deciders.empty() ? "" : ", ", decider, count);
  }
  const auto [least, most] = std::ranges::minmax(summary.last.scale);
  fmt::print(stderr, "\njob {} '{}' {}: {} steps in {:.1f} s of compute", job.id, job.spec.name,
             Name(job.outcome), job.steps, job.compute_seconds);
  if (job.validation_loss) fmt::print(stderr, ", validation loss {:.4f}", *job.validation_loss);
  fmt::print(stderr,
             "\ntried: {} trials (decided by {}); {} actions applied, {} rejected, {} "
             "expired, {} taken back\n",
             job.trials, deciders.empty() ? "nobody" : deciders, Of(summary.answers, "applied"),
             Of(summary.answers, "rejected"), Of(summary.answers, "expired"),
             Of(summary.deciders, "governor"));
  fmt::print(
      stderr,
      "came of it: rewards of {:+.3f} nats in all (what the loss fell by{}, tuned or not); active "
      "heads: {}; scales {:.3g} to {:.3g}; {} anomalies\n",
      summary.reward,
      job.spec.budget.kind == BudgetKind::kSteps ? " and the price of the compute saved" : "",
      DescribeHeads(summary), least, most, summary.anomalies);
  fmt::print(
      stderr,
      "more: attune trials{} --job {}; attune explain{} TRIAL; attune anomalies{} --job {}\n",
      where, job.id, where, where, job.id);
}

// Opened before hours of training, not after them. What was not written is not left behind: an
// empty one would be taken for JSON.
class Report {
 public:
  explicit Report(fs::path file) : file_(std::move(file)), stream_(file_) {
    if (!stream_) {
      throw UsageError(fmt::format("cannot write {}; give another --report", file_.string()));
    }
  }
  ~Report() {
    std::error_code unknown;
    if (!written_ && fs::is_regular_file(fs::symlink_status(file_, unknown))) {
      fs::remove(file_, unknown);
    }
  }
  Report(const Report&) = delete;
  Report& operator=(const Report&) = delete;

  void Write(const Summary& summary) {
    const JobRecord& job = summary.job;
    const auto active = ActiveHeads(job.spec.topology, summary.last);
    json active_heads = json::object();
    for (std::size_t site = 0; site < active.size(); ++site) {
      active_heads[job.spec.topology.sites[site].name] = active[site];
    }
    json report = {{"job", job.id},
                   {"name", job.spec.name},
                   {"outcome", Name(job.outcome)},
                   {"steps", job.steps},
                   {"compute_seconds", job.compute_seconds},
                   {"validation_loss", job.validation_loss ? json(*job.validation_loss) : json()},
                   {"trials", job.trials},
                   {"deciders", summary.deciders},
                   {"applied", Of(summary.answers, "applied")},
                   {"rejected", Of(summary.answers, "rejected")},
                   {"expired", Of(summary.answers, "expired")},
                   {"rolled_back", Of(summary.deciders, "governor")},
                   {"reward", summary.reward},
                   {"active_heads", active_heads},
                   {"anomalies", summary.anomalies}};
    stream_ << report.dump(2, ' ', false, json::error_handler_t::replace) << "\n";
    if (!stream_.flush()) throw std::runtime_error("cannot write the report");
    written_ = true;
  }

 private:
  fs::path file_;
  std::ofstream stream_;
  bool written_ = false;
};

// Held by every attune run while it lasts, so that none ends a daemon that it began under another
// whose trainer has not said hello yet.
class SharedLock {
 public:
  explicit SharedLock(const fs::path& file)
      : descriptor_(open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)) {
    if (descriptor_ >= 0) flock(descriptor_, LOCK_SH);
  }
  ~SharedLock() {
    if (descriptor_ >= 0) close(descriptor_);
  }
  SharedLock(const SharedLock&) = delete;
  SharedLock& operator=(const SharedLock&) = delete;

  [[nodiscard]] bool HeldByOthers() const {
    return descriptor_ >= 0 && flock(descriptor_, LOCK_EX | LOCK_NB) != 0;
  }

 private:
  int descriptor_;
};

// Whether a daemon that was begun for one job has found others.
bool ServesOthers(const Paths& paths, const std::string& key) {
  const auto status = AskStatus(paths);
  return status && std::ranges::any_of(status->jobs,
                                       [&key](const LiveJob& job) { return !IsOf(key, job.key); });
}

}  // namespace

int Run(const std::vector<std::string>& words) {
  const auto separator = std::ranges::find(words, "--");
  const std::vector<std::string> command(separator == words.end() ? separator : separator + 1,
                                         words.end());
  if (command.empty()) {
    throw UsageError("run what? give the command behind --, as in: attune run -- ./train");
  }
  const Arguments arguments = Parse("run", {words.begin(), separator});
  std::optional<Report> report;
  if (arguments.Has("report")) report.emplace(arguments.Get<std::string>("report"));

  // Before it is asked whether there is a daemon: none is ended in between. Where the folder cannot
  // be made, a daemon of our own says so, and one of others may live elsewhere.
  std::error_code unwritable;
  if (fs::create_directories(arguments.paths.state, unwritable)) {
    fs::permissions(arguments.paths.state, fs::perms::owner_all, unwritable);
  }
  const SharedLock lock(arguments.paths.state / "run.lock");

  std::optional<ForwardSignals> signals(std::in_place);
  std::unique_ptr<Child> daemon;
  if (AskStatus(arguments.paths)) {
    WarnOfUnusedFlags(arguments);
  } else {
    std::vector<std::string> daemon_flags;
    if (!arguments.Has("linger"))
      daemon_flags.emplace_back("--linger=60");  // should this be killed
    if (arguments.Has("config")) {
      daemon_flags.insert(daemon_flags.end(), {"--config", arguments.Get<std::string>("config")});
    }
    for (const Knob& knob : Knobs()) {
      const std::string name(knob.name);
      if (arguments.Has(name.c_str())) {
        daemon_flags.push_back("--" + name + "=" + arguments.Get<std::string>(name.c_str()));
      }
    }
    try {
      daemon = StartDaemon(arguments.paths, daemon_flags, [] { return interrupted != 0; });
    } catch (const std::runtime_error&) {
      // Another one may have come first, and not be ready yet.
      constexpr int kLooks = 20;
      for (int look = 0; !AskStatus(arguments.paths); ++look) {
        if (look == kLooks || interrupted != 0) throw;
        Pause(100ms);
      }
      WarnOfUnusedFlags(arguments);
    }
  }

  if (interrupted != 0) throw std::runtime_error("interrupted before the command was started");

  const char* const given = std::getenv("ATTUNE_JOB");  // of a run that goes on
  std::string key = given != nullptr && *given != '\0' ? given : RandomKey();
  const double began = UnixTime();
  std::optional<Child> trainer;
  try {
    trainer.emplace(
        command, std::map<std::string, std::string>{{"ATTUNE_ENDPOINT", arguments.paths.Endpoint()},
                                                    {"ATTUNE_JOB", key}});
  } catch (const std::system_error& error) {
    fmt::print(stderr, "attune run: cannot start {}: {}\n", command[0], error.code().message());
    return kNoCommand;
  }
  foreground = trainer->Id();
  // All jobs of a daemon of our own are the command's.
  bool alone = daemon != nullptr;
  Follow(arguments.paths, alone ? "" : key, *trainer);
  const int status = trainer->Wait();
  foreground = 0;
  if (daemon && daemon->Ended()) {
    fmt::print(stderr,
               "attune run: attuned has ended before the command, which went on untuned; see {}\n",
               arguments.paths.Log().string());
  }
  signals.reset();

  // From here on the exit status is settled: a summary that fails is said so and nothing else.
  try {
    AwaitEnd(OpenHistory(arguments.paths), key);
    if (daemon && (ServesOthers(arguments.paths, key) || lock.HeldByOthers())) {
      fmt::print(stderr,
                 "attune run: attuned goes on, for other jobs have found it (attune status)\n");
      daemon->Leave();
      alone = false;
    }
    daemon.reset();  // it has stored everything when it ends, and tidied up as nobody reads
    const Store store = OpenHistory(arguments.paths);
    if (alone && !NewestOf(store, key)) key = KeyOfLastSince(store, began, key);
    if (const auto summary = Summarise(store, key, began)) {
      Tell(*summary, arguments.Has("state-directory")
                         ? fmt::format(" --state-directory {}", arguments.paths.state.string())
                         : "");
      if (const auto jobs = CountSince(store, key, began); jobs > 1) {
        fmt::print(stderr, "this was the last of {} jobs of the command: attune jobs\n", jobs);
      }
      if (report) report->Write(*summary);
    } else {
      fmt::print(
          stderr,
          "attune run: {} never said hello to attuned{}give it a probe (README.md, \"In your "
          "trainer\")\n",
          command[0],
          alone ? "; "
                : " under the key that it was given (ATTUNE_JOB); with a key of its own it is "
                  "in attune jobs, else ");
    }
  } catch (const std::exception& error) {
    fmt::print(stderr, "attune run: no summary: {}\n", error.what());
  }
  return status;
}

}  // namespace attune::cli
