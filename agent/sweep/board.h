// The live table of a sweep on stderr.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "agent/sweep/plan.h"

namespace attune::sweep {

// On a terminal a table that is drawn over itself once a second, elsewhere a line for each run that
// is over.
class Board {
 public:
  // `done` of `runs` runs were done before.
  Board(const Folder& folder, std::size_t runs, std::size_t done);
  // Rubs the table out.
  ~Board();
  Board(const Board&) = delete;
  Board& operator=(const Board&) = delete;

  void Begin(const Run& run);
  void End(std::uint64_t run, const std::optional<RunOutcome>& outcome, const std::string& why);
  // A line above the table.
  void Say(const std::string& line);
  void Show();

 private:
  using Clock = std::chrono::steady_clock;
  struct Live {
    std::string what;
    Clock::time_point since;
  };

  void Rub();
  [[nodiscard]] std::string Summary() const;

  const Folder& folder_;
  bool terminal_;
  std::size_t runs_;
  std::size_t done_;
  std::size_t done_before_;
  std::size_t failed_ = 0;
  std::map<std::uint64_t, Live> live_;
  Clock::time_point start_;
  Clock::time_point shown_{};
  std::size_t lines_ = 0;  // drawn, to be rubbed out
};

// "1 h 02 min", "3 min 20 s", "12 s".
[[nodiscard]] std::string Duration(double seconds);

}  // namespace attune::sweep
