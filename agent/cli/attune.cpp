// attune: the command line. Links no LibTorch, so that it answers at once.
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <memory>
#include <numeric>
#include <optional>
#include <utility>

#include "agent/cli/command.h"

namespace attune::cli {
namespace {

namespace po = boost::program_options;

void PrintHelp() {
  fmt::print(
      R"(attune: tune the attention of training jobs while they run, and query what was tried.

Usage: attune COMMAND …

)");
  for (const Command& command : Commands()) {
    if (command.name.find(' ') != std::string_view::npos) continue;
    fmt::print("  {:<10} {}\n", command.name, command.summary);
  }
  fmt::print(R"(  {:<10} {}

Examples:
  attune run -- ./train           tune a trainer that has an attune probe
  attune trials --job 1           what was tried on job 1
  attune explain 7                why trial 7 was done, and what came of it

Environment of a trainer: ATTUNE_ENDPOINT, where the daemon is (attune run sets it; without it a
trainer is untuned); ATTUNE_POLICY, who decides (keep: only watch); ATTUNE_MODE, off or offline (a log
in ATTUNE_DIR for attune import); ATTUNE_JOB, the run's key; ATTUNE_KEYS, for a daemon at tcp.

attune COMMAND --help says more. The daemon for many jobs is attuned (attuned --help).
Exit status: 0 done, 1 nothing found, or a job or daemon said no, 2 wrong usage or a history in use,
3 no daemon, no store or a failure; run: the command's.
)",
             "version", "the version, as --version");
}

// The value that the words of one flag become.
std::unique_ptr<po::value_semantic> ValueOf(const Flag& flag) {
  const std::string fallback(flag.fallback);
  switch (flag.kind) {
    case Kind::kSwitch:
      return std::make_unique<po::untyped_value>(true);
    case Kind::kCount: {
      std::unique_ptr<po::typed_value<std::uint64_t>> value(po::value<std::uint64_t>());
      if (!fallback.empty()) value->default_value(std::stoull(fallback), fallback);
      return value;
    }
    case Kind::kReal: {
      std::unique_ptr<po::typed_value<double>> value(po::value<double>());
      if (!fallback.empty()) value->default_value(std::stod(fallback), fallback);
      return value;
    }
    case Kind::kText:
      break;
  }
  if (flag.many) {
    return std::unique_ptr<po::value_semantic>(po::value<std::vector<std::string>>());
  }
  std::unique_ptr<po::typed_value<std::string>> value(po::value<std::string>());
  if (!fallback.empty()) value->default_value(fallback);
  return value;
}

po::options_description Describe(const Command& command) {
  po::options_description description;
  const auto add = [&](const Flag& flag) {
    description.add_options()(std::string(flag.name).c_str(), ValueOf(flag).release());
  };
  std::ranges::for_each(CommonFlags(), add);
  std::ranges::for_each(command.unnamed, add);
  std::ranges::for_each(command.flags, add);
  if (command.every_knob) {
    for (const Knob& knob : Knobs()) {
      const std::string name(knob.name);
      if (description.find_nothrow(name, false) == nullptr) {
        description.add_options()(name.c_str(), po::value<std::string>());
      }
    }
  }
  return description;
}

// A value that is none of the flag's words is refused.
void CheckWords(const po::variables_map& values, const Flag& flag) {
  const std::string name(flag.name);
  if (flag.words.empty() || values.count(name) == 0) return;
  const auto& value = values[name].as<std::string>();
  const std::vector<std::string> words = Words(flag);
  if (std::ranges::find(words, value) != words.end()) return;
  std::string allowed;
  for (std::size_t i = 0; i < words.size(); ++i) {
    allowed += (i == 0 ? "" : i + 1 < words.size() ? ", " : " or ") + words[i];
  }
  throw UsageError(fmt::format("there is no {} '{}'; give {}", name, value, allowed));
}

std::string Meant(const std::string& word, const std::vector<std::string>& known) {
  const std::string nearest = Nearest(word, known);
  return nearest.empty() ? "" : fmt::format("did you mean {}? ", nearest);
}

}  // namespace

namespace {

Arguments Read(const std::vector<std::string>& words, const po::options_description& all,
               const po::positional_options_description& positions) {
  Arguments arguments;
  std::vector<std::string> knob_words;
  try {
    // The conversion to an unsigned number would take -1 for a very large one.
    const auto negative = std::ranges::find_if(words, [&](const std::string& word) {
      const std::size_t value = word.starts_with("--") ? word.find('=') + 1 : 0;
      return word.size() > value + 1 && word[value] == '-' &&
             std::isdigit(static_cast<unsigned char>(word[value + 1])) != 0;
    });
    if (negative != words.end()) {
      throw UsageError(fmt::format("{}: no number here is negative; see --help", *negative));
    }
    const auto parsed =
        po::command_line_parser(words)
            .options(all)
            .positional(positions)
            .style(po::command_line_style::default_style & ~po::command_line_style::allow_guessing)
            .run();
    po::store(parsed, arguments.own);
    po::notify(arguments.own);
    for (const auto& option : parsed.options) {
      if (std::ranges::find(Knobs(), option.string_key, &Knob::name) != Knobs().end()) {
        knob_words.push_back("--" + option.string_key + "=" + option.value.front());
      }
    }
  } catch (const po::unknown_option& error) {
    std::vector<std::string> known;
    for (const auto& option : all.options()) known.push_back("--" + option->long_name());
    const std::string& flag = error.get_option_name();
    throw UsageError(fmt::format("unknown flag {}; {}see --help", flag, Meant(flag, known)));
  } catch (const po::error& error) {
    throw UsageError(fmt::format("{}; see --help", error.what()));
  }
  for (const Flag& flag : CommonFlags()) CheckWords(arguments.own, flag);
  std::optional<std::filesystem::path> configuration;
  if (arguments.Has("config")) configuration = arguments.Get<std::string>("config");
  arguments.options = ParseOptions(knob_words, configuration);
  arguments.paths = Paths::Find(arguments.options);
  const auto format = arguments.Get<std::string>("format");
  if (format == "json") arguments.format = Format::kJson;
  if (format == "jsonl") arguments.format = Format::kJsonLines;
  if (format == "csv") arguments.format = Format::kCsv;
  return arguments;
}

}  // namespace

Arguments Parse(std::string_view name, const std::vector<std::string>& words) {
  const Command& command = *FindCommand(name);
  po::positional_options_description positions;
  for (const Flag& flag : command.unnamed) {
    positions.add(std::string(flag.name).c_str(), flag.many ? -1 : 1);
  }
  Arguments arguments = Read(words, Describe(command), positions);
  for (const Flag& flag : command.flags) CheckWords(arguments.own, flag);
  for (const Flag& flag : command.unnamed) CheckWords(arguments.own, flag);
  return arguments;
}

Arguments Parse(const std::vector<std::string>& words, const po::options_description& flags,
                const std::vector<std::string>& unnamed) {
  po::options_description all = Describe({});
  all.add(flags);
  po::positional_options_description positions;
  for (const std::string& name : unnamed) positions.add(name.c_str(), 1);
  return Read(words, all, positions);
}

int Print(const Table& table, Format format, const std::string& empty) {
  if (format == Format::kTable && table.Empty()) {
    fmt::print(stderr, "attune: {}\n", empty);
    return kNothing;
  }
  winsize terminal{};
  const bool is_terminal = ioctl(STDOUT_FILENO, TIOCGWINSZ, &terminal) == 0;
  fmt::print("{}", table.Render(format, is_terminal ? terminal.ws_col : 0));
  return table.Empty() ? kNothing : kOk;
}

std::string UtcTime(double unix_seconds) {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(static_cast<std::time_t>(unix_seconds)));
}

Store OpenHistory(const Paths& paths) { return {paths.Store(), Store::Mode::kReadOnly}; }

namespace {

int Main(const std::vector<std::string>& words) {
  if (words.empty()) {
    PrintHelp();
    return kUsage;
  }
  if (words[0] == "--help" || words[0] == "-h" || words[0] == "help") {
    PrintHelp();
    return kOk;
  }
  if (words[0] == "--version" || words[0] == "version") {
    fmt::print("attune {}\n", ATTUNE_VERSION);
    return kOk;
  }
  if (words[0] == "man") return PrintManPage({words.begin() + 1, words.end()});
  const Command* command = FindCommand(words[0]);
  if (command == nullptr) {
    std::vector<std::string> names;
    for (const Command& known : Commands()) names.emplace_back(known.name);
    fmt::print(stderr, "attune: there is no command '{}'; {}see attune --help\n", words[0],
               Meant(words[0], names));
    return kUsage;
  }
  const std::vector<std::string> rest(words.begin() + 1, words.end());
  // Words behind -- are another program's.
  const auto own_end = std::ranges::find(rest, "--");
  if (std::find(rest.begin(), own_end, "--help") != own_end) {
    const Command* verb =
        rest.empty() ? nullptr : FindCommand(fmt::format("{} {}", words[0], rest[0]));
    fmt::print("{}", Help(verb != nullptr ? *verb : *command));
    return kOk;
  }
  try {
    return command->run(rest);
  } catch (const UsageError& error) {
    fmt::print(stderr, "attune {}: {}\n", command->name, error.what());
    return kUsage;
  } catch (const OptionsError& error) {
    fmt::print(stderr, "attune {}: {}\n", command->name, error.what());
    return kUsage;
  } catch (const std::exception& error) {
    fmt::print(stderr, "attune {}: {}\n", command->name, error.what());
    return kFailure;
  }
}

}  // namespace
}  // namespace attune::cli

int main(int argc, char** argv) {
  const int status = attune::cli::Main({argv + 1, argv + argc});
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    fmt::print(stderr, "attune: cannot write the output\n");
    return attune::cli::kFailure;
  }
  return status;
}
