// attune: the command line. Links no LibTorch, so that it answers at once.
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <numeric>
#include <optional>
#include <utility>

#include "agent/cli/command.h"

namespace attune::cli {
namespace {

namespace po = boost::program_options;

struct Command {
  const char* name;
  int (*run)(const std::vector<std::string>&);
  const char* usage;
  const char* summary;
  const char* help;
};

constexpr std::array kCommands = {
    Command{
        "run", Run, "[--report FILE] [daemon flags] -- COMMAND…",
        "run a trainer and tune it while it runs",
        R"(Uses the running attuned, or starts a private one that ends with the command. The trainer
finds it by ATTUNE_ENDPOINT and ATTUNE_JOB in its environment. Progress goes to stderr, and at the
end what was tried and what came of it. The exit status is the command's (127: it cannot be started).

  --report FILE          write that summary as JSON
  and every flag of attuned, for the private daemon (attuned --help), such as
  --policy NAME          who decides
  --windows N            slices of the job's budget, a decision after each, 2 to 10000

Example: attune run --policy kmeans -- ./train --epochs 3
)"},
    Command{"status", ShowStatus, "[--format F]", "the daemon and its live jobs",
            "Example: attune status --format json\n"},
    Command{"jobs", ListJobs, "[--limit N] [--format F]", "the jobs in the history, newest first",
            R"(  --limit N              at most so many, 0 or more (default 20)

Example: attune jobs --limit 5
)"},
    Command{
        "trials", ListTrials, "[--job N] [--limit N] [--format F]",
        "the trials in the history, newest first",
        R"(A trial is one window of a job: what was decided, by whom and why, what became of it (ack) and
the reward of the window that followed, in nats.

  --job N                of this job only
  --limit N              at most so many, 0 or more (default 50)

Example: attune trials --job 3 --format csv > trials.csv
)"},
    Command{"anomalies", ListAnomalies, "[--job N] [--format F]",
            "where and since when heads attend abnormally",
            R"(  --job N                of this job (default: the newest)

Kinds: saturated (collapsed on single keys), diffuse (uniform where others are not), dormant (output
vanished), drifting (far from its baseline).

Example: attune anomalies --job 3 --format json
)"},
    Command{"explain", Explain, "TRIAL [--format F]",
            "one trial: what was decided, why, and what came of it",
            R"(  TRIAL                  its number, as attune trials lists it
  --format csv           only the heads that changed

Example: attune explain 42
)"},
    Command{"adjust", AdjustJob,
            "JOB [--site NAME] [--head H] [--scale X] [--gain X] [--active-heads N]",
            "change a live job by hand",
            R"(  --site NAME            one site (default: all)
  --head H               one head of the site, from 0 (default: all); not with --active-heads
  --scale X              factor on the logits, 0.0625 to 16
  --gain X               factor on the output, 0 to 16
  --active-heads N       how many heads of a site are computed, 1 to all

Example: attune adjust 3 --site blocks.0.attention --active-heads 2
)"},
    Command{"policy", Policy, "list | use NAME", "who decides: list the policies, or choose one",
            R"(  list                   the policies and the network's lessons
  use NAME               let NAME decide until attuned stops: auto, keep, random, kmeans, qk_clip
                         or network

Example: attune policy use keep
)"},
};

constexpr const char* kCommonHelp = R"(
Common flags:
  --state-directory DIR  the daemon's store and socket (default: see attuned --help)
  --runtime-directory DIR
  --config FILE          configuration file of attuned
  --format F             table, json or csv (default table)
  --help                 this text
)";

void PrintHelp() {
  fmt::print(
      R"(attune: tune the attention of training jobs while they run, and query what was tried.

Usage: attune COMMAND …

)");
  for (const Command& command : kCommands) {
    fmt::print("  {:<10} {}\n", command.name, command.summary);
  }
  fmt::print(R"(  {:<10} {}

Examples:
  attune run -- ./train           tune a trainer that has an attune probe
  attune trials --job 1           what was tried on job 1
  attune explain 7                why trial 7 was done, and what came of it

attune COMMAND --help says more. The daemon for many jobs is attuned (attuned --help).
Exit status: 0 done, 1 nothing found or refused, 2 wrong usage, 3 no daemon, no store or a failure;
run: the command's.
)",
             "version", "the version, as --version");
}

po::options_description CommonFlags(bool every_knob) {
  po::options_description common;
  common.add_options()("config", po::value<std::string>())(
      "format", po::value<std::string>()->default_value("table"))("help", "");
  for (const Knob& knob : Knobs()) {
    if (every_knob || knob.name == "state-directory" || knob.name == "runtime-directory") {
      common.add_options()(std::string(knob.name).c_str(), po::value<std::string>());
    }
  }
  return common;
}

// Levenshtein's distance.
std::size_t EditDistance(const std::string& a, const std::string& b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row.back();
}

std::string Meant(const std::string& word, const std::vector<std::string>& known) {
  const std::string nearest = Nearest(word, known);
  return nearest.empty() ? "" : fmt::format("did you mean {}? ", nearest);
}

}  // namespace

std::string Nearest(const std::string& word, const std::vector<std::string>& known) {
  std::string nearest;
  std::size_t least = word.size() / 3 + 2;  // farther away it is another word
  for (const std::string& candidate : known) {
    const std::size_t distance = EditDistance(word, candidate);
    if (distance < least) {
      least = distance;
      nearest = candidate;
    }
  }
  return nearest;
}

Arguments Parse(const std::vector<std::string>& words, const po::options_description& flags,
                const std::vector<std::string>& unnamed, bool every_knob) {
  po::options_description all = CommonFlags(every_knob);
  all.add(flags);
  po::positional_options_description positions;
  for (const std::string& name : unnamed) positions.add(name.c_str(), 1);

  Arguments arguments;
  std::vector<std::string> knob_words;
  try {
    // The conversion to an unsigned number would take -1 for a very large one.
    const auto negative = std::ranges::find_if(words, [](const std::string& word) {
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
  std::optional<std::filesystem::path> configuration;
  if (arguments.Has("config")) configuration = arguments.Get<std::string>("config");
  arguments.options = ParseOptions(knob_words, configuration);
  arguments.paths = Paths::Find(arguments.options);
  const auto format = arguments.Get<std::string>("format");
  if (format == "json") {
    arguments.format = Format::kJson;
  } else if (format == "csv") {
    arguments.format = Format::kCsv;
  } else if (format != "table") {
    throw UsageError(fmt::format("there is no format '{}'; give table, json or csv", format));
  }
  return arguments;
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
  const auto* command = std::ranges::find(kCommands, words[0], &Command::name);
  if (command == kCommands.end()) {
    std::vector<std::string> names;
    for (const Command& known : kCommands) names.emplace_back(known.name);
    fmt::print(stderr, "attune: there is no command '{}'; {}see attune --help\n", words[0],
               Meant(words[0], names));
    return kUsage;
  }
  const std::vector<std::string> rest(words.begin() + 1, words.end());
  // Words behind -- are another program's.
  const auto own_end = std::ranges::find(rest, "--");
  if (std::find(rest.begin(), own_end, "--help") != own_end) {
    fmt::print("attune {}: {}\n\nUsage: attune {} {}\n\n{}{}", command->name, command->summary,
               command->name, command->usage, command->help, kCommonHelp);
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
