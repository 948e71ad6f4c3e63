// Real programs in tests: started with a clean attune environment, ended with the test.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/temporary_directory.h"

namespace attune::test {

inline std::string ReadFile(const std::filesystem::path& path) {
  std::ifstream stream(path);
  std::ostringstream text;
  text << stream.rdbuf();
  return text.str();
}

class Process {
 public:
  // Output goes to files in `directory`, so that no pipe can fill up and stop the program.
  Process(const std::filesystem::path& directory, const std::vector<std::string>& arguments,
          const std::vector<std::string>& environment = {})
      : out_(directory / (std::filesystem::path(arguments[0]).filename().string() + "." +
                          std::to_string(Count()) + ".out")),
        err_(out_) {
    err_.replace_extension(".err");
    std::vector<std::string> variables = environment;
    variables.emplace_back("XDG_CONFIG_HOME=/nowhere");  // not what whoever tests has configured
    for (const char* name : {"PATH", "HOME", "ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS"}) {
      if (const char* value = std::getenv(name))
        variables.push_back(std::string(name) + "=" + value);
    }
    std::vector<char*> argv;
    for (const auto& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    std::vector<char*> envp;
    for (const auto& variable : variables) envp.push_back(const_cast<char*>(variable.c_str()));
    envp.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 1, out_.c_str(), O_WRONLY | O_CREAT, 0600);
    posix_spawn_file_actions_addopen(&actions, 2, err_.c_str(), O_WRONLY | O_CREAT, 0600);
    const int error = posix_spawnp(&process_, argv[0], &actions, nullptr, argv.data(), envp.data());
    posix_spawn_file_actions_destroy(&actions);
    if (error != 0) throw std::runtime_error("cannot start " + arguments[0]);
  }
  ~Process() {
    if (process_ <= 0) return;
    kill(process_, SIGKILL);
    kill(process_, SIGCONT);
    waitpid(process_, nullptr, 0);
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  void Signal(int number) const { kill(process_, number); }
  [[nodiscard]] pid_t Id() const { return process_; }

  // The exit status, 128 + signal if it was killed.
  int Wait() {
    int status = 0;
    waitpid(process_, &status, 0);
    process_ = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  [[nodiscard]] bool Ended() const {
    siginfo_t info{};
    return waitid(P_PID, static_cast<id_t>(process_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
           info.si_pid == process_;
  }
  [[nodiscard]] std::string Out() const { return ReadFile(out_); }
  [[nodiscard]] std::string Err() const { return ReadFile(err_); }

 private:
  static int Count() {
    static int count = 0;
    return ++count;
  }
  std::filesystem::path out_, err_;
  pid_t process_ = 0;
};

// Looks again every 20 ms until `happened` or a minute is over; says which.
template <typename Predicate>
bool Eventually(Predicate happened) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (!happened()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    poll(nullptr, 0, 20);
  }
  return true;
}

}  // namespace attune::test
