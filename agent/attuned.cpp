// The daemon's program: options, log, signals.
#include <dlfcn.h>
#include <fmt/format.h>
#include <malloc.h>
#include <signal.h>
#include <spdlog/sinks/rotating_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "agent/daemon.h"
#include "agent/network_learner.h"
#include "agent/options.h"
#include "agent/paths.h"

namespace {

constexpr int kUsage = 2;
constexpr int kFailure = 3;

constexpr const char* kHelp =
    R"(attuned: tunes the attention of training jobs while they run.

Usage: attuned [--config FILE] [flags]

Trainers with an attune probe connect to its socket; `attune run -- COMMAND` starts a private
attuned by itself. TERM and INT stop it cleanly, HUP reads the configuration anew. The
configuration file has lines `name = value` with the names of the flags below; a flag overrides
the file. Exit status: 0 stopped, 2 wrong usage, 3 failure or not all stored.

Examples:
  attuned --policy keep                      watch all jobs, change none
  attuned --learn false                      with the network as it comes
  attuned --listen tcp://0.0.0.0:7500        also for trainers on other hosts

Flags (--NAME VALUE or --NAME=VALUE):
  --config FILE          configuration (default: {})
  --version              version
  --help                 this text
{})";

struct CommandLine {
  std::optional<std::filesystem::path> configuration;
  std::vector<std::string> flags;
};

// Takes out --config, which is not in the table because it says where the table's values are.
CommandLine Split(const std::vector<std::string>& arguments) {
  CommandLine split;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i] == "--config") {
      if (++i == arguments.size()) throw attune::OptionsError("--config needs a file");
      split.configuration = arguments[i];
    } else if (arguments[i].starts_with("--config=")) {
      split.configuration = arguments[i].substr(std::string("--config=").size());
    } else {
      split.flags.push_back(arguments[i]);
    }
  }
  return split;
}

void SetUpLog(const attune::Options& options, const attune::Paths& paths) {
  constexpr std::size_t kMebibyte = 1U << 20U;
  auto file = std::make_shared<spdlog::sinks::rotating_file_sink_mt>(
      paths.Log().string(), options.log_size * kMebibyte, options.log_files);
  auto terminal = std::make_shared<spdlog::sinks::stderr_sink_mt>();
  // That file is not rotated, and all of it would be in the log beside it too.
  std::error_code unknown;
  if (std::filesystem::equivalent("/proc/self/fd/2", paths.Errors(), unknown)) {
    terminal->set_level(spdlog::level::err);
  }
  auto log = std::make_shared<spdlog::logger>("attuned", spdlog::sinks_init_list{file, terminal});
  log->set_level(spdlog::level::from_str(options.log_level));
  log->set_pattern("%Y-%m-%dT%H:%M:%S.%e %^%l%$ %v");
  log->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(log));
}

std::atomic<attune::Daemon*> running{nullptr};

// Stop and Reload are safe in a signal handler: an atomic flag and a write to an eventfd.
void OnSignal(int number) {
  if (attune::Daemon* daemon = running; daemon != nullptr) {
    number == SIGHUP ? daemon->Reload() : daemon->Stop();
  }
}

// Handlers and not a blocked mask with sigwait: OpenBLAS starts threads before main, which would
// not have the mask and die of the signal's default action.
void HandleSignals(attune::Daemon& daemon) {
  running = &daemon;
  struct sigaction action {};
  action.sa_handler = OnSignal;
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) sigaction(number, &action, nullptr);
  // Of a terminal or a program behind a pipe that has gone: what it was told is in the log too.
  action.sa_handler = SIG_IGN;
  sigaction(SIGPIPE, &action, nullptr);
  sigaction(SIGXFSZ, &action, nullptr);  // a file as large as may be is told as a full disk is
}

// The network's products are small and OpenBLAS's idle threads spin; LibTorch's own setting does
// not reach it.
void UseOneBlasThread() {
  if (void* set = dlsym(RTLD_DEFAULT, "openblas_set_num_threads"); set != nullptr) {
    reinterpret_cast<void (*)(int)>(set)(1);
  }
}

// Each trainer is a descriptor, and libzmq ends the program where there is none left.
void AllowManyConnections() {
  struct rlimit limit {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  static_cast<void>(setrlimit(RLIMIT_NOFILE, &limit));
}

// Frames come in bursts. Memory that waited in a queue is kept for the next burst: handed back to
// the system page by page and fetched again it cost 6 % of an observation.
void KeepFreedMemory() {
  // Of each thread's heap; and what is smaller is no mapping of its own. glibc takes no more.
  constexpr int kBytes = 32 << 20;
  mallopt(M_TRIM_THRESHOLD, kBytes);
  mallopt(M_MMAP_THRESHOLD, kBytes);
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  const auto asks_for = [&](const char* flag) {
    return std::ranges::find(arguments, flag) != arguments.end();
  };
  try {
    if (asks_for("--help")) {
      fmt::print(fmt::runtime(kHelp), attune::DefaultConfiguration().string(),
                 attune::DescribeKnobs());
      return 0;
    }
    if (asks_for("--version")) {
      fmt::print("attuned {}\n", ATTUNE_VERSION);
      return 0;
    }
    const CommandLine command_line = Split(arguments);
    const auto read_options = [&] {
      auto read = attune::ParseOptions(command_line.flags, command_line.configuration);
      if (read.silence < 2 * read.heartbeat) {
        throw attune::OptionsError(fmt::format(
            "a job that says so every {} s would be lost after a silence of {} s; make silence at "
            "least twice the heartbeat",
            read.heartbeat, read.silence));
      }
      return read;
    };
    const attune::Options options = read_options();
    const attune::Paths paths = attune::Paths::Find(options);
    paths.Create();

    std::function<std::unique_ptr<attune::Learner>(attune::Writer&)> learner;
    if (options.learn || options.network != "none" || std::filesystem::exists(paths.Checkpoint())) {
      learner = [&](attune::Writer& writer) {
        return attune::MakeNetworkLearner(options, paths, writer);
      };
    }
    UseOneBlasThread();
    KeepFreedMemory();
    AllowManyConnections();
    SetUpLog(options, paths);
    attune::Daemon daemon(options, paths, learner, read_options);
    HandleSignals(daemon);
    const bool stored = daemon.Run();
    running = nullptr;
    return stored ? 0 : kFailure;
  } catch (const attune::OptionsError& error) {
    fmt::print(stderr, "attuned: {}\n", error.what());
    return kUsage;
  } catch (const std::exception& error) {
    fmt::print(stderr, "attuned: {}\n", error.what());
    return kFailure;
  }
}
