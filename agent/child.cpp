// Starting and ending child processes.
#include "agent/child.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <fstream>
#include <stdexcept>
#include <system_error>
#include <thread>

#include "agent/client.h"
#include "store/maintenance.h"

namespace attune {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using SteadyClock = std::chrono::steady_clock;

constexpr auto kAnswerTime = 2s;  // of one that is busy; where there is none it is told at once
constexpr auto kStartTime = 20s;  // a daemon with LibTorch starts in about one
constexpr auto kLook = 20ms;

}  // namespace

Child::Child(const std::vector<std::string>& words,
             const std::map<std::string, std::string>& variables, const fs::path& log) {
  std::vector<std::string> environment;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string text = *variable;
    if (variables.count(text.substr(0, text.find('='))) == 0) environment.push_back(text);
  }
  for (const auto& [name, value] : variables) environment.push_back(name + "=" + value);
  std::vector<char*> argv;
  for (const auto& word : words) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  std::vector<char*> envp;
  for (const auto& variable : environment) envp.push_back(const_cast<char*>(variable.c_str()));
  envp.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  if (!log.empty()) {
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, log.c_str(),
                                     O_WRONLY | O_CREAT | O_TRUNC, 0600);
    // A group of its own: the terminal's INT is for the trainer, not for the daemon.
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
  }
  const int error =
      posix_spawnp(&process_, argv[0], &actions, &attributes, argv.data(), envp.data());
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (error != 0) throw std::system_error(error, std::generic_category(), words[0]);
}

void Child::Leave() { status_ = 0; }

Child::~Child() {
  if (!status_) {
    kill(process_, SIGTERM);
    Wait();
  }
}

bool Child::Ended() {
  int status = 0;
  if (!status_ && waitpid(process_, &status, WNOHANG) == process_) status_ = status;
  return status_.has_value();
}

int Child::Wait() {
  int status = 0;
  while (!status_) {
    if (waitpid(process_, &status, 0) == process_) {
      status_ = status;
    } else if (errno != EINTR) {
      status_ = 0;
    }
  }
  return WIFEXITED(*status_) ? WEXITSTATUS(*status_) : 128 + WTERMSIG(*status_);
}

std::optional<Status> AskStatus(const Paths& paths) {
  const auto answer = Ask(paths.Endpoint(), StatusRequest{}, kAnswerTime);
  if (!answer || !std::holds_alternative<Status>(*answer)) return std::nullopt;
  return std::get<Status>(*answer);
}

std::string LastLine(const fs::path& file) {
  std::ifstream stream(file);
  std::string line;
  std::string last;
  while (std::getline(stream, line)) {
    if (!line.empty()) last = line;
  }
  return last;
}

namespace {

// attuned beside this program, else in the PATH.
std::string DaemonProgram() {
  std::error_code error;
  const fs::path own = fs::read_symlink("/proc/self/exe", error);
  const fs::path beside = own.parent_path() / "attuned";
  return !error && fs::exists(beside) ? beside.string() : "attuned";
}

}  // namespace

std::unique_ptr<Child> StartDaemon(const Paths& paths, const std::vector<std::string>& flags,
                                   const std::function<bool()>& give_up) {
  paths.Create();
  // A daemon that does this to a large store would not answer in time. One that has the store could
  // not write it any more.
  std::optional<StateLock> lock;
  Upgrade(paths.Store(), [&](std::uint64_t schema) {
    lock.emplace(paths.Lock());
    fmt::print(stderr,
               "attune: {} has schema {} and is brought up to date, once; with a large store this "
               "takes minutes\n",
               paths.Store().string(), schema);
  });
  lock.reset();
  std::vector<std::string> words = {DaemonProgram()};
  words.insert(words.end(), flags.begin(), flags.end());
  const fs::path log = paths.Errors();
  std::unique_ptr<Child> daemon;
  try {
    daemon = std::make_unique<Child>(words, std::map<std::string, std::string>{}, log);
  } catch (const std::system_error& error) {
    throw std::runtime_error(fmt::format("cannot start {}: {}; put it beside attune or in the PATH",
                                         words[0], error.code().message()));
  }
  const auto deadline = SteadyClock::now() + kStartTime;
  while (true) {
    if (const auto status = AskStatus(paths)) {
      if (status->pid == static_cast<std::uint64_t>(daemon->Id())) break;
      throw std::runtime_error(fmt::format("another attuned (process {}) has come first at {}",
                                           status->pid, paths.Endpoint()));
    }
    if (daemon->Ended()) throw std::runtime_error("attuned did not start: " + LastLine(log));
    if (give_up()) return daemon;  // told by the caller, who ends it
    if (SteadyClock::now() > deadline) {
      throw std::runtime_error(fmt::format("attuned does not answer at {}; see {}",
                                           paths.Endpoint(), paths.Log().string()));
    }
    std::this_thread::sleep_for(kLook);
  }
  return daemon;
}

}  // namespace attune
