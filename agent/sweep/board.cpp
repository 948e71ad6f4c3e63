#include "agent/sweep/board.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace attune::sweep {
namespace {

constexpr std::size_t kBar = 24;    // columns
constexpr std::size_t kShown = 16;  // runs
constexpr std::chrono::seconds kRefresh{1};

std::string Cut(const std::string& text, std::size_t width) {
  return text.size() <= width ? text : text.substr(0, width - 3) + "...";
}

}  // namespace

std::string Duration(double seconds) {
  const auto whole = static_cast<std::int64_t>(seconds + 0.5);
  if (whole >= 3600) return fmt::format("{} h {:02} min", whole / 3600, whole / 60 % 60);
  if (whole >= 60) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  return fmt::format("{} s", whole);
}

Board::Board(const Folder& folder, std::size_t runs, std::size_t done)
    : folder_(folder),
      terminal_(isatty(STDERR_FILENO) == 1),
      runs_(runs),
      done_(done),
      done_before_(done),
      start_(Clock::now()) {}

Board::~Board() { Rub(); }

void Board::Rub() {
  for (; lines_ > 0; --lines_) fmt::print(stderr, "\x1b[1A\x1b[2K");
}

void Board::Say(const std::string& line) {
  Rub();
  fmt::print(stderr, "{}\n", line);
  shown_ = {};
}

void Board::Begin(const Run& run) { live_[run.id] = {run.Describe(), Clock::now()}; }

void Board::End(std::uint64_t run, const std::optional<RunOutcome>& outcome,
                const std::string& why) {
  const auto live = live_.extract(run);
  const std::string what = live ? live.mapped().what : "";
  if (!outcome) {
    Say(fmt::format("run {} ({}) is not done: {}", run, what, why));
    return;
  }
  ++done_;
  const bool has_result =
      outcome->ending == Ending::kFinished || outcome->ending == Ending::kHalved;
  if (!has_result) ++failed_;
  std::string line =
      fmt::format("[{}/{}] run {} ({}): {}", done_, runs_, run, what, Name(outcome->ending));
  if (outcome->last) line += fmt::format(", {:.6g}", outcome->last->value);
  if (!outcome->why.empty()) line += fmt::format(": {}", outcome->why);
  line += fmt::format(" after {}", Duration(outcome->seconds));
  if (!terminal_) line += fmt::format("; {}", Summary());
  // On a terminal the table counts those that are well.
  if (!terminal_ || !has_result) Say(line);
}

std::string Board::Summary() const {
  const double share = runs_ == 0 ? 1 : static_cast<double>(done_) / static_cast<double>(runs_);
  std::string text = fmt::format("{:.0f} % done", 100 * share);
  if (failed_ > 0) text += fmt::format(", {} failed", failed_);
  if (done_ > done_before_ && done_ < runs_) {
    const double elapsed = std::chrono::duration<double>(Clock::now() - start_).count();
    text += fmt::format(", about {} left", Duration(elapsed * static_cast<double>(runs_ - done_) /
                                                    static_cast<double>(done_ - done_before_)));
  }
  return text;
}

void Board::Show() {
  if (!terminal_ || Clock::now() - shown_ < kRefresh) return;
  shown_ = Clock::now();
  winsize size{};
  const std::size_t width =
      ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 20 ? size.ws_col - 1U : 100;
  Rub();
  const std::size_t full = runs_ == 0 ? kBar : kBar * done_ / runs_;
  std::string bar;
  for (std::size_t i = 0; i < kBar; ++i) bar += i < full ? "█" : "░";
  fmt::print(stderr, "{} {}/{} runs, {}\n", bar, done_, runs_, Summary());
  lines_ = 1;
  for (const auto& [id, live] : live_) {
    if (lines_ > kShown) {
      fmt::print(stderr, "  and {} more\n", live_.size() - kShown);
      ++lines_;
      break;
    }
    const auto points = folder_.ReadPoints(id);
    std::string line =
        fmt::format("  run {}: {}, {}", id, live.what,
                    Duration(std::chrono::duration<double>(Clock::now() - live.since).count()));
    if (!points.empty()) {
      line += fmt::format(", {:.5g} at {}", points.back().value,
                          points.back().step > 0 ? fmt::format("step {:g}", points.back().step)
                                                 : fmt::format("{:.1f} s", points.back().compute));
    }
    fmt::print(stderr, "{}\n", Cut(line, width));
    ++lines_;
  }
}

}  // namespace attune::sweep
