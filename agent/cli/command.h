// What the commands of `attune` share: their arguments, their exit statuses, their errors.
#pragma once

#include <boost/program_options.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "agent/cli/table.h"
#include "agent/options.h"
#include "agent/paths.h"
#include "store/store.h"

namespace attune::cli {

// Exit statuses; `run` exits with its command's.
inline constexpr int kOk = 0;
inline constexpr int kNothing = 1;  // nothing found, or the daemon refused
inline constexpr int kUsage = 2;
inline constexpr int kFailure = 3;      // no daemon, no store, or a failure
inline constexpr int kNoCommand = 127;  // run: the command cannot be started

// Wrong use; what() is one line that says what and what to do.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A command's arguments: its own flags, those that all have, and at most one unnamed argument.
struct Arguments {
  boost::program_options::variables_map own;
  Options options;
  Paths paths;
  Format format = Format::kTable;

  [[nodiscard]] bool Has(const char* flag) const { return own.count(flag) > 0; }
  template <typename T>
  [[nodiscard]] T Get(const char* flag) const {
    return own[flag].as<T>();
  }
};

// `words` are a command's words behind its name; `flags` its own flags, `unnamed` the names of the
// flags that its unnamed words fill in order; no flag takes a negative number. With `every_knob`,
// the daemon's knobs are flags too. Throws UsageError, naming the flag that was perhaps meant, or
// OptionsError.
[[nodiscard]] Arguments Parse(const std::vector<std::string>& words,
                              const boost::program_options::options_description& flags,
                              const std::vector<std::string>& unnamed = {},
                              bool every_knob = false);

// Of `known`, the word nearest to `word` by edit distance, if it is near; else empty.
[[nodiscard]] std::string Nearest(const std::string& word, const std::vector<std::string>& known);

// Prints in the asked-for format, cut to the terminal if there is one. Returns kNothing for an
// empty table (saying `empty` on stderr where people read), else kOk.
int Print(const Table& table, Format format, const std::string& empty);

// Unix seconds as a person reads them: 2026-01-31T12:00:00Z.
[[nodiscard]] std::string UtcTime(double unix_seconds);

[[nodiscard]] Store OpenHistory(const Paths& paths);

// The commands: words behind the name in, exit status out.
int Run(const std::vector<std::string>& words);
int ShowStatus(const std::vector<std::string>& words);
int ListJobs(const std::vector<std::string>& words);
int ListTrials(const std::vector<std::string>& words);
int ListAnomalies(const std::vector<std::string>& words);
int Explain(const std::vector<std::string>& words);
int AdjustJob(const std::vector<std::string>& words);
int Policy(const std::vector<std::string>& words);

}  // namespace attune::cli
