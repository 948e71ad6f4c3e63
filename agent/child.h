// Child processes of the command line, and the daemon as one of them.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "agent/paths.h"
#include "collectors/messages.h"

namespace attune {

// A child process with the given extra environment; its output where ours goes, or into `log`: then
// it is in a process group of its own.
class Child {
 public:
  // Throws std::system_error if the program cannot be started.
  Child(const std::vector<std::string>& words, const std::map<std::string, std::string>& variables,
        const std::filesystem::path& log = {});
  // A child that was not waited for is asked to end.
  ~Child();
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  [[nodiscard]] pid_t Id() const { return process_; }
  [[nodiscard]] bool Ended();
  // The exit status, 128 + signal if it was killed.
  int Wait();
  // It goes on without us.
  void Leave();

 private:
  pid_t process_ = 0;
  std::optional<int> status_;
};

// The last line of a file that is not empty.
[[nodiscard]] std::string LastLine(const std::filesystem::path& file);

// The daemon's status, or nothing where none answers in time.
[[nodiscard]] std::optional<Status> AskStatus(const Paths& paths);

// A daemon of our own (attuned beside this program, else in the PATH) with the given flags, once
// it answers or `give_up` says so. Throws std::runtime_error with its last words if it ends before.
[[nodiscard]] std::unique_ptr<Child> StartDaemon(const Paths& paths,
                                                 const std::vector<std::string>& flags,
                                                 const std::function<bool()>& give_up);

}  // namespace attune
