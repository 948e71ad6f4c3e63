#include "agent/cli/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "agent/cli/table.h"

namespace attune::cli {
namespace {

constexpr int kBarColumns = 16;
constexpr std::chrono::seconds kQuiet{10};

std::string Bar(double share) {
  const int full = static_cast<int>(std::clamp(share, 0.0, 1.0) * kBarColumns);
  std::string bar;
  for (int i = 0; i < kBarColumns; ++i) bar += i < full ? "█" : "░";
  return bar;
}

}  // namespace

std::string Describe(const LiveJob& job) {
  std::string line = fmt::format(
      "{} {:3.0f} %  step {}  loss {:.3f}  imbalance {:.2f}  heads {}/{}", Bar(job.progress),
      100 * job.progress, job.step, job.loss, job.imbalance, job.active_heads, job.heads);
  if (job.dropped > 0) line += fmt::format("  dropped {}", job.dropped);
  if (!job.last_action.empty()) {
    line += fmt::format("  {}: {}", job.last_decider, job.last_action);
  }
  return line;
}

Progress::Progress() : terminal_(isatty(STDERR_FILENO) == 1) {}

void Progress::Show(const LiveJob& job) {
  const std::string line = Describe(job);
  const auto now = std::chrono::steady_clock::now();
  if (terminal_) {
    winsize size{};
    const std::size_t columns =
        ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
    fmt::print(stderr, "\r\x1b[K{}", Cut(line, columns - 1));
    drawn_ = true;
  } else if (job.last_action != last_action_ || now - last_shown_ >= kQuiet) {
    fmt::print(stderr, "{}\n", line);
    last_shown_ = now;
  }
  last_action_ = job.last_action;
}

void Progress::Finish() {
  if (drawn_) fmt::print(stderr, "\n");
  drawn_ = false;
}

}  // namespace attune::cli
