// The table of attune's commands: Parse, --help, shell completion and the man page come from it.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace attune::cli {

enum class Kind {
  kSwitch,  // there or not, without a value
  kText,
  kCount,  // a whole number from 0
  kReal,
};

// A flag, or a word without one ("unnamed") that Parse puts under the same name.
struct Flag {
  std::string_view name;  // without dashes
  Kind kind = Kind::kText;
  std::string_view value;  // what --help calls its value: FILE and DIR are completed to paths
  std::string_view help;
  std::string_view words = {};     // the values that there are, spaces between; empty: any
  std::string_view fallback = {};  // the default, if there is one
  bool many = false;               // unnamed, and last: takes all further words too
};

// A row of the table. "sweep run" is a verb of the command "sweep": --help lists only commands.
struct Command {
  std::string_view name;
  int (*run)(const std::vector<std::string>& words);  // words behind the name; exit status
  std::string_view usage;                             // behind the name
  std::string_view summary;
  std::string_view about = {};     // paragraphs; empty where the summary says it
  std::vector<Flag> unnamed = {};  // in their order; the command itself says which it needs
  std::vector<Flag> flags = {};
  std::string_view example = {};  // the words behind "attune "
  bool every_knob = false;        // the daemon's flags are its flags too
};

[[nodiscard]] std::span<const Command> Commands();
// The command or verb of that name, or null.
[[nodiscard]] const Command* FindCommand(std::string_view name);
// Flags that every command has.
[[nodiscard]] std::span<const Flag> CommonFlags();

// The words of a flag, one by one.
[[nodiscard]] std::vector<std::string> Words(const Flag& flag);
// `attune COMMAND --help`.
[[nodiscard]] std::string Help(const Command& command);

}  // namespace attune::cli
