// Starts a run, reads what it prints, ends it where a limit says so, writes its outcome.
#include "agent/sweep/task.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <optional>
#include <sstream>
#include <system_error>

#include "agent/sweep/halving.h"

namespace attune::sweep {
namespace {

// Python's json writes NaN, Infinity and -Infinity, which are no JSON: null for each of them.
std::string WithoutNaN(std::string_view line) {
  std::string text;
  bool quoted = false;
  while (!line.empty()) {
    std::size_t length = 1;
    bool number = false;
    for (const std::string_view word : {"NaN", "Infinity", "-Infinity"}) {
      if (!quoted && line.starts_with(word)) {
        length = word.size();
        number = true;
      }
    }
    if (quoted && line.front() == '\\') length = std::min<std::size_t>(2, line.size());
    if (line.front() == '"') quoted = !quoted;
    text += number ? "null" : line.substr(0, length);
    line.remove_prefix(length);
  }
  return text;
}

namespace fs = std::filesystem;
using nlohmann::json;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kGrace{10};  // between TERM and KILL
constexpr std::chrono::milliseconds kSignalGrace{1000};
constexpr std::chrono::seconds kMemoryLook{1};
constexpr int kReadsPerTurn = 16;
constexpr std::size_t kLongestLine = 1 << 20;  // bytes; what is longer is no point

std::atomic<int> interrupted{0};
void Interrupt(int signal) { interrupted = signal; }

[[noreturn]] void FailErrno(const std::string& what) {
  throw std::system_error(errno, std::generic_category(), what);
}

double Seconds(const timeval& time) {
  return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
}

// By a shell's account too.
bool EndedByTerm(int status) {
  return WIFSIGNALED(status) ? WTERMSIG(status) == SIGTERM : WEXITSTATUS(status) == 128 + SIGTERM;
}

// A file descriptor.
class Descriptor {
 public:
  explicit Descriptor(int number = -1) : number_(number) {}
  ~Descriptor() { Close(); }
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  [[nodiscard]] int Get() const { return number_; }
  void Close() {
    if (number_ >= 0) close(std::exchange(number_, -1));
  }

 private:
  int number_;
};

struct Pipe {
  Pipe() {
    std::array<int, 2> ends{};
    if (pipe2(ends.data(), O_CLOEXEC) != 0) FailErrno("pipe");
    read = Descriptor(ends[0]);
    write = Descriptor(ends[1]);
  }
  Descriptor read, write;
};

void WriteAll(int descriptor, std::string_view text, const fs::path& file) {
  while (!text.empty()) {
    const ssize_t written = write(descriptor, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) FailErrno(file.string());
    text.remove_prefix(static_cast<std::size_t>(written));
  }
}

// The numbers of /proc/PID/stat behind the program's name, from the state's place on.
std::vector<std::string> StatFields(const fs::path& process) {
  std::ifstream stream(process / "stat");
  std::string line;
  std::getline(stream, line);
  const std::size_t name_end = line.rfind(')');
  std::vector<std::string> fields;
  if (name_end == std::string::npos) return fields;
  std::istringstream rest(line.substr(name_end + 1));
  for (std::string field; rest >> field;) fields.push_back(field);
  return fields;
}

// What the live processes of a group have used: a run may be a wrapper's child.
struct Usage {
  double processor_seconds = 0;  // also of those of their children that have ended (proc(5))
  std::uint64_t memory = 0;      // bytes resident
};
Usage UsageOf(pid_t group) {
  double ticks = 0;
  std::uint64_t pages = 0;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/proc", error)) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    const auto fields = StatFields(entry.path());
    if (fields.size() <= 21 || std::atoi(fields[2].c_str()) != group) continue;
    for (std::size_t field = 11; field < 15; ++field) ticks += std::atof(fields[field].c_str());
    pages += std::strtoull(fields[21].c_str(), nullptr, 10);
  }
  return {ticks / static_cast<double>(sysconf(_SC_CLK_TCK)),
          pages * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE))};
}

// Starts the run's command; returns its process, whose group has the same number. Throws
// std::system_error if it cannot be started.
pid_t Start(const Spec& spec, const Run& run, const fs::path& folder,
            const std::map<std::string, std::string>& extra, const std::vector<int>& cpus,
            Pipe& out, Pipe& err) {
  const auto here = [&](const std::string& name) {
    return name == "directory" ? folder.string() : "{" + name + "}";
  };
  std::vector<std::string> words;
  for (const std::string& word : run.command) words.push_back(Fill(word, here));
  std::map<std::string, std::string> own;
  if (spec.Tunes(run.policy)) {
    own = extra;
    // A key that no run had before: one that begins anew is another job.
    own["ATTUNE_JOB"] = fmt::format(
        "{}{:x}", JobKeyBegin(spec.name, run.id),
        std::chrono::system_clock::now().time_since_epoch() / std::chrono::microseconds(1));
    own["ATTUNE_MODE"] = "on";  // whatever the runner's own environment says
  }
  for (const auto& [name, value] : run.environment) own[name] = Fill(value, here);
  std::vector<std::string> variables;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string text = *variable;
    if (!own.contains(text.substr(0, text.find('=')))) variables.push_back(text);
  }
  for (const auto& [name, value] : own) variables.push_back(name + "=" + value);
  const auto pointers = [](std::vector<std::string>& texts) {
    std::vector<char*> list;
    for (std::string& text : texts) list.push_back(text.data());
    list.push_back(nullptr);
    return list;
  };
  const auto argv = pointers(words);
  const auto envp = pointers(variables);
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int cpu : cpus) CPU_SET(static_cast<std::size_t>(cpu), &set);

  Pipe fault;  // closed by a successful exec; else it carries errno
  const pid_t self = getpid();
  const pid_t process = fork();
  if (process < 0) FailErrno("fork");
  if (process == 0) {
    // Between fork and exec: nothing but system calls.
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != self) _exit(127);
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    signal(SIGPIPE, SIG_DFL);
    const int null = open("/dev/null", O_RDONLY);
    dup2(null, STDIN_FILENO);
    dup2(out.write.Get(), STDOUT_FILENO);
    dup2(err.write.Get(), STDERR_FILENO);
    if ((cpus.empty() || sched_setaffinity(0, sizeof(set), &set) == 0) &&
        chdir(spec.directory.c_str()) == 0) {
      execvpe(argv[0], argv.data(), envp.data());
    }
    const int error = errno;
    static_cast<void>(!write(fault.write.Get(), &error, sizeof(error)));
    _exit(127);
  }
  setpgid(process, process);  // whoever comes first
  out.write.Close();
  err.write.Close();
  fault.write.Close();
  int error = 0;
  if (read(fault.read.Get(), &error, sizeof(error)) == sizeof(error)) {
    waitpid(process, nullptr, 0);
    throw std::system_error(error, std::generic_category(), words[0]);
  }
  return process;
}

// What a run prints: kept up to a limit, and its lines.
class Output {
 public:
  Output(const fs::path& file, std::uint64_t limit)
      : file_(file),
        descriptor_(open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)),
        room_(limit) {
    if (descriptor_.Get() < 0) FailErrno(file.string());
  }

  void Keep(std::string_view text) {
    if (room_ == 0) return;
    WriteAll(descriptor_.Get(), text.substr(0, room_), file_);
    if (text.size() > room_) {
      WriteAll(descriptor_.Get(), "\n… more was printed than is kept (limits.log)\n", file_);
      text = text.substr(0, room_);
    }
    room_ -= text.size();
  }

 private:
  fs::path file_;
  Descriptor descriptor_;
  std::uint64_t room_;
};

// A run while it lasts.
class Task {
 public:
  Task(const Folder& folder, const Spec& spec, const Run& run)
      : folder_(folder),
        spec_(spec),
        run_(run),
        path_(folder.Of(run.id)),
        output_(path_ / "output", spec.limits.log),
        points_(open((path_ / "points.jsonl").c_str(),
                     O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644)) {
    if (points_.Get() < 0) FailErrno((path_ / "points.jsonl").string());
    // A twin is what others are measured by: it is never halved.
    if (spec.halving && !(spec.Tunes() && run.policy == kUntuned)) {
      ladder_.emplace(folder.Path() / "rungs.jsonl", *spec.halving, spec.minimize, run);
    }
  }

  // False where the task was told to stop.
  [[nodiscard]] bool Run(const std::vector<int>& cpus) {
    RunOutcome outcome;
    outcome.id = run_.id;
    outcome.started =
        std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
    outcome.host = Holder::Own().host;
    const auto start = Clock::now();
    Pipe out;
    Pipe err;
    try {
      process_ = Start(spec_, run_, path_, Environment(), cpus, out, err);
    } catch (const std::system_error& error) {
      outcome.why = fmt::format("cannot start {} in {}: {}", run_.command[0],
                                spec_.directory.string(), error.code().message());
      outcome.status = 127;
      folder_.WriteOutcome(outcome);
      return true;
    }
    int status = 0;
    rusage usage{};
    try {
      Watch(out.read.Get(), err.read.Get(), start);
    } catch (...) {
      kill(-process_, SIGKILL);
      wait4(process_, &status, 0, &usage);
      throw;
    }
    kill(-process_, SIGKILL);  // what the run has left behind
    while (wait4(process_, &status, 0, &usage) < 0 && errno == EINTR) {
    }
    // A job that Slurm cancels, a machine that shuts down: all processes get their signal, and this
    // one's may come after the run's end.
    if (EndedByTerm(status) && !kill_at_) poll(nullptr, 0, static_cast<int>(kSignalGrace.count()));
    if (interrupted != 0) return false;
    outcome.seconds = std::chrono::duration<double>(Clock::now() - start).count();
    outcome.cpu_seconds = Seconds(usage.ru_utime) + Seconds(usage.ru_stime);
    outcome.memory = static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
    outcome.last = last_;
    outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    outcome.ending = Ending::kFailed;
    if (ending_) {
      outcome.ending = *ending_;
      outcome.why = why_;
    } else if (WIFSIGNALED(status)) {
      outcome.why =
          fmt::format("killed by signal {} ({})", WTERMSIG(status), strsignal(WTERMSIG(status)));
    } else if (outcome.status != 0) {
      outcome.why = fmt::format("exit status {}{}{}", outcome.status,
                                last_words_.empty() ? "" : ": ", last_words_);
    } else if (!last_) {
      outcome.why = fmt::format("it ended without a line of JSON with a finite '{}'", spec_.metric);
    } else {
      outcome.ending = Ending::kFinished;
    }
    folder_.WriteOutcome(outcome);
    return true;
  }

 private:
  // How the run reaches the daemon that tunes it.
  [[nodiscard]] Folder::Variables Environment() const {
    if (!spec_.Tunes(run_.policy)) return {};
    const auto all = folder_.ReadEnvironment();
    const auto own = all.find(spec_.DaemonOf(run_.policy));
    if (own == all.end()) {
      throw SweepError(fmt::format("{} does not say where the daemon of '{}' is; resume the sweep",
                                   (folder_.Path() / "environment.json").string(), run_.policy));
    }
    return own->second;
  }
  void End(Ending ending, std::string why) {
    if (!ending_) {
      ending_ = ending;
      why_ = std::move(why);
    }
    Terminate();
  }
  void Terminate() {
    if (!kill_at_) {
      kill(-process_, SIGTERM);
      kill_at_ = Clock::now() + kGrace;
    }
  }

  // Until the process has ended and what it printed is read.
  void Watch(int out, int err, Clock::time_point start) {
    const Descriptor process(static_cast<int>(syscall(SYS_pidfd_open, process_, 0)));
    if (process.Get() < 0) FailErrno("pidfd_open");
    fcntl(out, F_SETFL, O_NONBLOCK);
    fcntl(err, F_SETFL, O_NONBLOCK);
    const Limits& limits = spec_.limits;
    const auto after = [](Clock::time_point from, double seconds) {
      return from +
             std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
    };
    heard_ = start;
    auto memory_look = start + kMemoryLook;
    std::array<pollfd, 3> waits = {
        {{process.Get(), POLLIN, 0}, {out, POLLIN, 0}, {err, POLLIN, 0}}};
    while (true) {
      const auto now = Clock::now();
      if (interrupted != 0) Terminate();
      if (limits.seconds > 0 && now >= after(start, limits.seconds)) {
        End(Ending::kTime, fmt::format("over its limit of {:g} s", limits.seconds));
      }
      if (limits.silence > 0 && now >= after(heard_, limits.silence)) {
        End(Ending::kSilence, fmt::format("printed nothing for {:g} s", limits.silence));
      }
      if (limits.memory > 0 && now >= memory_look) {
        if (const std::uint64_t memory = UsageOf(process_).memory; memory > limits.memory) {
          End(Ending::kMemory, fmt::format("{} MiB resident, over its limit of {} MiB",
                                           memory >> 20U, limits.memory >> 20U));
        }
        memory_look = now + kMemoryLook;
      }
      if (kill_at_ && now >= *kill_at_) kill(-process_, SIGKILL);

      auto wake = now + std::chrono::hours(1);
      if (kill_at_) {
        wake = now < *kill_at_ ? *kill_at_ : now + std::chrono::seconds(1);
      } else {
        if (limits.seconds > 0) wake = std::min(wake, after(start, limits.seconds));
        if (limits.silence > 0) wake = std::min(wake, after(heard_, limits.silence));
        if (limits.memory > 0) wake = std::min(wake, memory_look);
      }
      const auto pause = std::chrono::ceil<std::chrono::milliseconds>(wake - now).count();
      if (poll(waits.data(), waits.size(), static_cast<int>(std::max<std::int64_t>(pause, 1))) <
              0 &&
          errno != EINTR) {
        FailErrno("poll");
      }
      if (!Take(out, out_line_, true)) waits[1].fd = -1;
      if (!Take(err, err_line_, false)) waits[2].fd = -1;
      if ((waits[0].revents & POLLIN) != 0) break;
    }
    Take(out, out_line_, true);
    Take(err, err_line_, false);
    if (!out_line_.empty()) Line(out_line_, true);
    if (!err_line_.empty()) Line(err_line_, false);
  }

  // Reads what is there, and of a flood a part: limits and signals get their turn. False at the end
  // of the stream.
  bool Take(int descriptor, std::string& line, bool is_out) {
    std::array<char, 65536> buffer{};
    for (int turn = 0; turn < kReadsPerTurn; ++turn) {
      const ssize_t count = read(descriptor, buffer.data(), buffer.size());
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return true;
      if (count == 0) return false;
      heard_ = Clock::now();
      std::string_view text(buffer.data(), static_cast<std::size_t>(count));
      output_.Keep(text);
      while (!text.empty()) {
        const std::size_t end = text.find('\n');
        if (line.size() < kLongestLine) line += text.substr(0, end);
        if (end == std::string_view::npos) break;
        text.remove_prefix(end + 1);
        Line(line, is_out);
        line.clear();
      }
    }
    return true;
  }

  void Line(const std::string& line, bool is_out) {
    if (!is_out || !line.starts_with('{')) {
      if (!line.empty()) last_words_ = line.substr(0, 300);
      return;
    }
    json object = json::parse(line, nullptr, false);
    if (object.is_discarded()) object = json::parse(WithoutNaN(line), nullptr, false);
    if (object.is_discarded()) {
      // As printf writes it, say: the run has diverged, as with null.
      if (line.find('"' + spec_.metric + '"') != std::string::npos) last_.reset();
      return;
    }
    const auto number = [&](const std::string& name) -> std::optional<double> {
      const auto found = object.find(name);
      if (found == object.end() || !found->is_number()) return std::nullopt;
      return found->get<double>();
    };
    if (!object.contains(spec_.metric)) return;
    last_.reset();  // a run that ends on null has diverged: it has no result
    const auto value = number(spec_.metric);
    if (!value || !std::isfinite(*value)) return;
    Point point;
    point.value = *value;
    point.step = number(spec_.step).value_or(0);
    const auto compute = number(spec_.compute);
    point.compute = compute ? *compute : UsageOf(process_).processor_seconds;
    last_ = point;
    for (const auto& [name, field] : object.items()) {
      if (name != spec_.metric && field.is_number()) last_->fields[name] = field.get<double>();
    }
    WriteAll(points_.Get(), ToLine(point), path_ / "points.jsonl");
    if (ladder_ && !ending_) {
      if (const auto why = ladder_->Judge(point)) End(Ending::kHalved, *why);
    }
  }

  const Folder& folder_;
  const Spec& spec_;
  const sweep::Run& run_;
  fs::path path_;
  Output output_;
  Descriptor points_;
  std::optional<Ladder> ladder_;
  pid_t process_ = 0;
  std::string out_line_, err_line_;
  std::string last_words_;  // the last line that was no point
  std::optional<Point> last_;
  std::optional<Ending> ending_;  // where the task ended the run
  std::string why_;
  std::optional<Clock::time_point> kill_at_;
  Clock::time_point heard_;
};

// A lock on a whole file.
struct flock Whole() {
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  return lock;
}

}  // namespace

std::string JobKeyBegin(const std::string& sweep, std::uint64_t run) {
  return fmt::format("{}/{}/", sweep, run);
}

TaskEnd RunTask(const Folder& folder, const Spec& spec, const Run& run,
                const std::vector<int>& cpus) {
  const fs::path path = folder.Of(run.id);
  fs::create_directories(path);
  const Descriptor lock(open((path / "lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (lock.Get() < 0) FailErrno((path / "lock").string());
  if (!TakeLock(lock.Get())) return TaskEnd::kBusy;
  // Whoever wants the task to stop finds it by this number.
  static_cast<void>(ftruncate(lock.Get(), 0));
  WriteAll(lock.Get(), Holder::Own().Line(), path / "lock");
  if (folder.ReadOutcome(run.id)) return TaskEnd::kDone;
  struct sigaction action {};
  action.sa_handler = Interrupt;  // no SA_RESTART: poll is to wake
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  signal(SIGPIPE, SIG_IGN);
  return Task(folder, spec, run).Run(cpus) ? TaskEnd::kDone : TaskEnd::kInterrupted;
}

Holder Holder::Own() {
  std::array<char, 256> host{};
  gethostname(host.data(), host.size() - 1);
  return {getpid(), host.data()};
}

Holder Holder::Read(const fs::path& lock) {
  Holder holder;
  std::ifstream(lock) >> holder.process >> holder.host;
  return holder;
}

std::string Holder::Line() const { return fmt::format("{} {}\n", process, host); }

bool Holder::Tell() const {
  return process > 0 && host == Own().host && kill(process, SIGTERM) == 0;
}

bool TakeLock(int descriptor) {
  struct flock whole = Whole();
  if (fcntl(descriptor, F_OFD_SETLK, &whole) == 0) return true;
  if (errno != EAGAIN && errno != EACCES) FailErrno("cannot lock");
  return false;
}

bool IsHeld(const fs::path& lock) {
  const Descriptor file(open(lock.c_str(), O_RDWR | O_CLOEXEC));
  struct flock whole = Whole();
  return file.Get() >= 0 && fcntl(file.Get(), F_OFD_GETLK, &whole) == 0 && whole.l_type != F_UNLCK;
}

}  // namespace attune::sweep
