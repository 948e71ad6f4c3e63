// Where attune keeps things. Precedence: flag or configuration file, then systemd's
// $STATE_DIRECTORY and $RUNTIME_DIRECTORY, then XDG, then ~/.local/state/attune.
#pragma once

#include <filesystem>
#include <stdexcept>
#include <string>

#include "agent/options.h"

namespace attune {

struct Paths {
  std::filesystem::path state;    // store, checkpoints, log, lock
  std::filesystem::path runtime;  // the socket; private (0700)

  // Throws OptionsError where neither a flag nor the environment gives a folder. Relative values of
  // environment variables are ignored, as the XDG specification asks. Creates nothing.
  [[nodiscard]] static Paths Find(const Options& options);

  // Creates both folders with mode 0700 where they are missing. Throws OptionsError.
  void Create() const;

  [[nodiscard]] std::filesystem::path Store() const { return state / "attune.db"; }
  [[nodiscard]] std::filesystem::path Checkpoint() const { return state / "network.pt"; }
  [[nodiscard]] std::filesystem::path Log() const { return state / "attuned.log"; }
  // Standard error of a daemon that attune has started.
  [[nodiscard]] std::filesystem::path Errors() const { return state / "attuned.err"; }
  [[nodiscard]] std::filesystem::path Lock() const { return state / "attuned.lock"; }
  // CURVE keys, where the daemon listens to other hosts (keys.h).
  [[nodiscard]] std::filesystem::path Keys() const { return state / "attuned.keys"; }
  // The ZeroMQ endpoint of the daemon.
  [[nodiscard]] std::string Endpoint() const {
    return "ipc://" + (runtime / "attuned.sock").string();
  }
};

// Held by the one daemon of a state directory for as long as it lives (flock, so that a killed
// daemon leaves nothing behind).
class StateLock {
 public:
  // Throws OptionsError, naming the holder's process, if another daemon holds the directory.
  explicit StateLock(const std::filesystem::path& file);
  ~StateLock();
  StateLock(const StateLock&) = delete;
  StateLock& operator=(const StateLock&) = delete;

 private:
  int descriptor_;
};

}  // namespace attune
