// What the commands of `attune` share: their arguments, their exit statuses, their errors.
#pragma once

#include <boost/program_options.hpp>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "agent/cli/commands.h"
#include "agent/cli/table.h"
#include "agent/options.h"
#include "agent/paths.h"
#include "store/filter.h"
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

// A command's arguments: its own flags and unnamed words, and the flags that all have.
struct Arguments {
  boost::program_options::variables_map own;
  Options options;
  Paths paths;
  Format format = Format::kTable;

  [[nodiscard]] bool Has(const char* flag) const { return own.count(flag) > 0; }
  // The value of a flag that is there: std::string of kText, any unsigned number of kCount, any
  // real of kReal, std::vector<std::string> of one that takes many words. Throws UsageError for a
  // number that T cannot hold.
  template <typename T>
  [[nodiscard]] T Get(const char* flag) const {
    if constexpr (std::is_integral_v<T>) {
      const auto value = own[flag].as<std::uint64_t>();
      if (value > std::numeric_limits<T>::max()) {
        throw UsageError("--" + std::string(flag) + " " + std::to_string(value) +
                         " is too large; see --help");
      }
      return static_cast<T>(value);
    } else if constexpr (std::is_floating_point_v<T>) {
      return static_cast<T>(own[flag].as<double>());
    } else {
      return own[flag].as<T>();
    }
  }
};

// `words` are those behind the name of the command, whose row of the table (commands.h) says which
// flags it has; no flag takes a negative number. Throws UsageError, naming the flag that was
// perhaps meant, or OptionsError.
[[nodiscard]] Arguments Parse(std::string_view command, const std::vector<std::string>& words);
// The same by flags that are not in the table.
[[nodiscard]] Arguments Parse(const std::vector<std::string>& words,
                              const boost::program_options::options_description& flags,
                              const std::vector<std::string>& unnamed);

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
int Sql(const std::vector<std::string>& words);
int CompareJobs(const std::vector<std::string>& words);
int Import(const std::vector<std::string>& words);
int Merge(const std::vector<std::string>& words);
int Prune(const std::vector<std::string>& words);
int Backup(const std::vector<std::string>& words);
int Check(const std::vector<std::string>& words);
int Sweep(const std::vector<std::string>& words);
int Completion(const std::vector<std::string>& words);

// `attune man attune|attuned`, for the build: the man page in roff. Not among the commands.
int PrintManPage(const std::vector<std::string>& words);

}  // namespace attune::cli
