#include "agent/options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <boost/program_options.hpp>
#include <cstdlib>
#include <fstream>
#include <map>
#include <type_traits>

#include "agent/chain.h"

namespace attune {
namespace {

namespace po = boost::program_options;

const std::vector<Knob>& Table() {
  static const std::vector<Knob> table = {
      {"state-directory",
       &Options::state_directory,
       "",
       0,
       0,
       {},
       "store, checkpoint and log; one daemon each (default: $STATE_DIRECTORY, "
       "$XDG_STATE_HOME/attune or ~/.local/state/attune)"},
      {"runtime-directory",
       &Options::runtime_directory,
       "",
       0,
       0,
       {},
       "the socket, private to its user (default: the state directory if that was given, "
       "$RUNTIME_DIRECTORY, $XDG_RUNTIME_DIR/attune, or the state directory)"},
      {"policy",
       &Options::policy,
       "",
       0,
       0,
       {kPolicyNames.begin(), kPolicyNames.end()},
       "who decides; auto: the network where it is fit to, else kmeans, else keep; external: a "
       "policy server, and where none answers in time as auto"},
      {"external-deadline",
       &Options::external_deadline,
       "seconds",
       0.01,
       3600,
       {},
       "how long a policy server may take to answer; until then the job goes on as it is"},
      {"windows",
       &Options::windows,
       "per job",
       2,
       10000,
       {},
       "equal slices of a job's budget, the first cut in three; a decision is due at the end of "
       "each"},
      {"freeze",
       &Options::freeze,
       "share of the budget",
       0,
       1,
       {},
       "nothing changes in the last part of a job, so that what is validated was trained"},
      {"change-budget",
       &Options::change_budget,
       "share of the active heads",
       0,
       1,
       {},
       "changes that one decision may make at most, a head switched or scaled each, at least one; "
       "of "
       "a model trained before one at first, and twice as many each time that they did no harm"},
      {"rollback",
       &Options::rollback,
       "standard deviations",
       0,
       1000,
       {},
       "an action is taken back when the loss falls behind its forecast by more than this; of a "
       "model "
       "trained before also when the mean loss since does, by as many standard errors"},
      {"hold",
       &Options::hold,
       "windows",
       0,
       10000,
       {},
       "no new action after one was taken back; each further time twice as long"},
      {"baseline",
       &Options::baseline,
       "",
       0,
       0,
       {},
       "what attention is compared with: uniform, warmup (the job's own first window) or the id of "
       "a recorded job of the same topology"},
      {"seed", &Options::seed, "", 0, 9.0e15, {}, "of everything random; with a job's own seed"},
      {"listen",
       &Options::listen,
       "",
       0,
       0,
       {},
       "tcp://HOST:PORT for trainers on other hosts, who need ATTUNE_KEYS (default: none)"},
      {"measure-every",
       &Options::measure_every,
       "steps",
       1,
       1e6,
       {},
       "between two measured steps of a trainer; more where a window of a budget in steps would "
       "have over 64 measured ones"},
      {"heartbeat",
       &Options::heartbeat,
       "seconds",
       0.1,
       3600,
       {},
       "a trainer says something at least this often"},
      {"silence",
       &Options::silence,
       "seconds",
       1,
       86400,
       {},
       "how long a job may say nothing before it counts as lost; it may come back"},
      {"linger",
       &Options::linger,
       "seconds",
       0,
       86400,
       {},
       "attuned ends after so long without a live job or a question; 0: never"},
      {"network",
       &Options::network,
       "",
       0,
       0,
       {},
       "initial network of a new state directory: shipped, none or a checkpoint's file"},
      {"learn", &Options::learn, "", 0, 0, {}, "whether the network learns from finished jobs"},
      {"explore",
       &Options::explore,
       "share of its decisions",
       0,
       1,
       {},
       "what a learning network draws by its probabilities; its other decisions are the most "
       "probable"},
      {"change",
       &Options::change,
       "",
       0,
       0,
       {"all", "heads", "scales"},
       "what policies may change"},
      {"heads-by-lot",
       &Options::heads_by_lot,
       "",
       0,
       0,
       {},
       "which heads leave or come in is drawn, and not the policy's choice"},
      {"learning-rate", &Options::learning_rate, "", 1e-7, 0.1, {}, "of the network (Adam)"},
      {"least-trials",
       &Options::least_trials,
       "trials",
       1,
       1e9,
       {},
       "how many the network must have learned from before it decides"},
      {"log-level",
       &Options::log_level,
       "",
       0,
       0,
       {"trace", "debug", "info", "warn", "error"},
       "what is written to the log"},
      {"log-size",
       &Options::log_size,
       "MiB",
       1,
       10000,
       {},
       "how large the log grows before it is rotated"},
      {"log-files", &Options::log_files, "files", 1, 1000, {}, "rotated logs that are kept"},
  };
  return table;
}

const Knob& FindKnob(std::string_view name) {
  const auto& table = Table();
  return *std::find_if(table.begin(), table.end(),
                       [&](const Knob& knob) { return knob.name == name; });
}

// A word of the table becomes the member's value; `where` names the flag or the file.
void Set(Options& options, const Knob& knob, const std::string& word, std::string_view where) {
  const auto refuse = [&](const std::string& wanted) -> void {
    throw OptionsError(
        fmt::format("{}: {} = '{}' is not usable; give {}", where, knob.name, word, wanted));
  };
  std::visit(
      [&](auto member) {
        using Value = std::remove_reference_t<decltype(options.*member)>;
        if constexpr (std::is_same_v<Value, std::string>) {
          if (!knob.words.empty() && std::ranges::find(knob.words, word) == knob.words.end()) {
            refuse(fmt::format("one of {}", fmt::join(knob.words, ", ")));
          }
          options.*member = word;
        } else if constexpr (std::is_same_v<Value, bool>) {
          if (word != "true" && word != "false") refuse("true or false");
          options.*member = word == "true";
        } else {
          const std::string range =
              fmt::format("a number from {} to {} {}", knob.least, knob.most, knob.unit);
          char* end = nullptr;
          const double value = std::strtod(word.c_str(), &end);
          if (word.empty() || *end != '\0') refuse(range);
          if (!(value >= knob.least && value <= knob.most)) refuse(range);
          if constexpr (std::is_same_v<Value, std::uint64_t>) {
            if (value != static_cast<double>(static_cast<std::uint64_t>(value))) {
              refuse("a whole number");
            }
          }
          options.*member = static_cast<Value>(value);
        }
      },
      knob.member);
}

po::options_description Describe() {
  po::options_description description;
  for (const Knob& knob : Table()) {
    description.add_options()(std::string(knob.name).c_str(), po::value<std::string>());
  }
  return description;
}

void Take(Options& options, const po::parsed_options& parsed, std::string_view where) {
  for (const auto& option : parsed.options) {
    const std::string& value = option.value.front();
    // Of a variable that is not set: the default would be somebody else's history. Of a file: no
    // shell has replaced a ~.
    if (option.string_key.ends_with("directory") && (value.empty() || value.front() == '~')) {
      throw OptionsError(fmt::format("{} is '{}' ({}); give the whole path of a folder",
                                     option.string_key, value, where));
    }
    Set(options, FindKnob(option.string_key), value, where);
  }
}

std::string Default(const Knob& knob) {
  static const Options defaults;
  return std::visit([](auto member) { return fmt::format("{}", defaults.*member); }, knob.member);
}

}  // namespace

std::span<const Knob> Knobs() { return Table(); }

std::filesystem::path DefaultConfiguration() {
  const char* xdg = std::getenv("XDG_CONFIG_HOME");
  if (xdg != nullptr && xdg[0] == '/') return std::filesystem::path(xdg) / "attune/attuned.conf";
  const char* home = std::getenv("HOME");
  return std::filesystem::path(home != nullptr ? home : "/") / ".config/attune/attuned.conf";
}

Options ParseOptions(const std::vector<std::string>& arguments,
                     const std::optional<std::filesystem::path>& configuration) {
  Options options;
  const auto description = Describe();
  try {
    const auto file = configuration.value_or(DefaultConfiguration());
    std::ifstream stream(file);
    if (stream && !std::filesystem::is_directory(file)) {
      try {
        Take(options, po::parse_config_file(stream, description), file.string());
      } catch (const po::error& error) {
        throw OptionsError(fmt::format("{}: {}; see attuned --help", file.string(), error.what()));
      }
    } else if (configuration) {
      throw OptionsError(fmt::format("cannot read {}; check --config", file.string()));
    }
    Take(options,
         po::command_line_parser(arguments)
             .options(description)
             .style(po::command_line_style::default_style & ~po::command_line_style::allow_guessing)
             .positional({})
             .run(),
         "command line");
  } catch (const po::error& error) {
    throw OptionsError(fmt::format("{}; see --help", error.what()));
  }
  const std::string& baseline = options.baseline;
  if (baseline != "uniform" && baseline != "warmup" &&
      (baseline.empty() || baseline.find_first_not_of("0123456789") != std::string::npos)) {
    throw OptionsError(
        fmt::format("baseline = '{}' is not usable; give uniform, warmup or a job's id", baseline));
  }
  return options;
}

std::string DescribeKnob(const Knob& knob) {
  std::string text(knob.help);
  std::string details;
  if (!knob.words.empty()) details += fmt::format("{}; ", fmt::join(knob.words, " | "));
  if (std::holds_alternative<bool Options::*>(knob.member)) details += "true | false; ";
  if (knob.most > 0) {
    details += fmt::format("{} to {}{}{}; ", knob.least, knob.most, knob.unit.empty() ? "" : " ",
                           knob.unit);
  }
  if (const auto value = Default(knob); !value.empty()) details += "default " + value;
  return details.empty() ? text : text + "\n" + details;
}

std::string DescribeKnobs() {
  std::string text;
  for (const Knob& knob : Table()) {
    const std::string description = DescribeKnob(knob);
    const std::size_t end = description.find('\n');
    text += fmt::format("  --{:<20} {}\n", knob.name, description.substr(0, end));
    if (end != std::string::npos)
      text += fmt::format("{:<25}{}\n", "", description.substr(end + 1));
  }
  return text;
}

}  // namespace attune
