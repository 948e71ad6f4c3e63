#include "agent/paths.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <optional>

namespace attune {
namespace {

namespace fs = std::filesystem;

std::optional<fs::path> AbsoluteFromEnvironment(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr || value[0] != '/') return std::nullopt;
  return fs::path(value);
}

fs::path StateDirectory(const Options& options) {
  if (!options.state_directory.empty()) return fs::absolute(options.state_directory);
  if (const auto systemd = AbsoluteFromEnvironment("STATE_DIRECTORY")) return *systemd;
  if (const auto xdg = AbsoluteFromEnvironment("XDG_STATE_HOME")) return *xdg / "attune";
  if (const auto home = AbsoluteFromEnvironment("HOME")) return *home / ".local/state/attune";
  throw OptionsError("no state directory: HOME is not set; give --state-directory");
}

fs::path RuntimeDirectory(const Options& options, const fs::path& state) {
  if (!options.runtime_directory.empty()) return fs::absolute(options.runtime_directory);
  // A daemon with a state directory of its own has its socket there too, so that two do not share.
  if (!options.state_directory.empty()) return state;
  if (const auto systemd = AbsoluteFromEnvironment("RUNTIME_DIRECTORY")) return *systemd;
  if (const auto xdg = AbsoluteFromEnvironment("XDG_RUNTIME_DIR")) return *xdg / "attune";
  return state;
}

}  // namespace

Paths Paths::Find(const Options& options) {
  Paths paths;
  paths.state = StateDirectory(options);
  paths.runtime = RuntimeDirectory(options, paths.state);
  // sun_path holds 108 bytes (unix(7)), its final zero included.
  constexpr std::size_t kMostSocketBytes = 107;
  if (const auto socket = (paths.runtime / "attuned.sock").string();
      socket.size() > kMostSocketBytes) {
    throw OptionsError(
        fmt::format("{} is too long for a socket ({} bytes, at most {}); give a shorter "
                    "--runtime-directory",
                    socket, socket.size(), kMostSocketBytes));
  }
  return paths;
}

void Paths::Create() const {
  for (const auto& directory : {state, runtime}) {
    std::error_code error;
    const bool created = fs::create_directories(directory, error);
    if (!error && created) fs::permissions(directory, fs::perms::owner_all, error);
    if (error || access(directory.c_str(), W_OK | X_OK) != 0) {
      throw OptionsError(fmt::format("cannot write in {}: {}; give another --state-directory",
                                     directory.string(),
                                     error ? error.message() : std::strerror(errno)));
    }
  }
}

StateLock::StateLock(const fs::path& file)
    : descriptor_(open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)) {
  if (descriptor_ < 0) {
    throw OptionsError(fmt::format("cannot open {}: {}; give another --state-directory",
                                   file.string(), std::strerror(errno)));
  }
  if (flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
    std::array<char, 32> holder{};
    const auto read_bytes = pread(descriptor_, holder.data(), holder.size() - 1, 0);
    const int process = read_bytes > 0 ? std::atoi(holder.data()) : 0;
    close(descriptor_);
    throw OptionsError(
        fmt::format("{} is in use by attuned (process {}): stop it, or give another "
                    "--state-directory",
                    file.parent_path().string(), process));
  }
  const std::string process = fmt::format("{}\n", getpid());
  if (ftruncate(descriptor_, 0) != 0 || pwrite(descriptor_, process.data(), process.size(), 0) !=
                                            static_cast<ssize_t>(process.size())) {
    const std::string reason = std::strerror(errno);
    close(descriptor_);
    throw OptionsError(fmt::format("cannot write {}: {}", file.string(), reason));
  }
}

StateLock::~StateLock() { close(descriptor_); }

}  // namespace attune
