// Every number that a user can set: one table, from which the flags, the configuration file and
// --help all come.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace attune {

struct Options {
  // Where
  std::string state_directory;    // empty: by Paths' rules
  std::string runtime_directory;  // likewise
  // Deciding
  std::string policy = "auto";
  std::uint64_t windows = 40;
  double freeze = 0.1;
  double change_budget = 1.0;
  double rollback = 3.0;
  std::uint64_t hold = 4;
  double external_deadline = 5.0;
  std::string change = "all";
  bool heads_by_lot = false;
  std::string baseline = "warmup";
  std::uint64_t seed = 0;
  // Talking
  std::string listen;  // empty: this machine only
  std::uint64_t measure_every = 4;
  double heartbeat = 5.0;
  double silence = 60.0;
  double linger = 0.0;
  // Learning
  std::string network = "shipped";
  bool learn = true;
  double explore = 0.005;
  double learning_rate = 1e-5;
  std::uint64_t least_trials = 256;
  // Logging
  std::string log_level = "info";
  std::uint64_t log_size = 10;
  std::uint64_t log_files = 3;

  friend bool operator==(const Options&, const Options&) = default;
};

// One row of the table.
struct Knob {
  using Member = std::variant<std::string Options::*, std::uint64_t Options::*, double Options::*,
                              bool Options::*>;
  std::string_view name;  // of the flag (--name) and in the configuration file (name = value)
  Member member;
  std::string_view unit;  // empty for names and switches
  double least = 0;       // numbers only
  double most = 0;
  std::vector<std::string_view> words;  // strings only: what is allowed; empty: anything
  std::string_view help;
};
[[nodiscard]] std::span<const Knob> Knobs();

// A flag, file or value that cannot be used; what() is one line: what, where, what to do.
class OptionsError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Default, then the configuration file (none: $XDG_CONFIG_HOME/attune/attuned.conf if it is there),
// then the flags in `arguments`. Throws OptionsError.
[[nodiscard]] Options ParseOptions(const std::vector<std::string>& arguments,
                                   const std::optional<std::filesystem::path>& configuration);

// The default configuration file of this user; it need not exist.
[[nodiscard]] std::filesystem::path DefaultConfiguration();

// What a knob is for, and on a second line its words, range, unit and default.
[[nodiscard]] std::string DescribeKnob(const Knob& knob);
// The flags with unit, range, default and help, for --help.
[[nodiscard]] std::string DescribeKnobs();

}  // namespace attune
