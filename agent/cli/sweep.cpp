// attune sweep: many runs of a command, compared honestly.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "agent/cli/command.h"
#include "agent/sweep/join.h"
#include "agent/sweep/report.h"
#include "agent/sweep/runner.h"
#include "agent/sweep/task.h"

namespace attune::cli {
namespace {

namespace fs = std::filesystem;
namespace po = boost::program_options;
using sweep::Folder;

fs::path Sweeps(const Arguments& arguments) { return arguments.paths.state / "sweeps"; }

// The named sweep, or the only one.
Folder Find(const Arguments& arguments) {
  if (arguments.Has("name")) {
    return Folder::Open(Sweeps(arguments), arguments.Get<std::string>("name"));
  }
  const auto names = Folder::Names(Sweeps(arguments));
  if (names.size() > 1) {
    throw UsageError(fmt::format("which sweep? there are {}", fmt::join(names, ", ")));
  }
  return Folder::Open(Sweeps(arguments), names.empty() ? "" : names[0]);
}

void WriteReports(const Folder& folder) {
  const auto results = sweep::Results::Read(folder);
  const nlohmann::json provenance = folder.Provenance();
  std::vector<fs::path> stems = {folder.Path() / "report"};
  if (!results.spec.results.empty()) {
    fs::create_directories(results.spec.results);
    stems.push_back(results.spec.results / results.spec.name);
  }
  const std::string json_text = sweep::ReportJsonText(results, provenance);
  const std::string markdown = sweep::ReportMarkdown(results, provenance);
  const std::string csv = sweep::ReportCsv(results);
  for (const fs::path& stem : stems) {
    sweep::WriteWhole(stem.string() + ".json", json_text);
    sweep::WriteWhole(stem.string() + ".md", markdown);
    sweep::WriteWhole(stem.string() + ".csv", csv);
  }
}

// Of an option that takes several, with commas; none where it is not there.
std::vector<std::string> Words(const Arguments& arguments, const char* option) {
  std::vector<std::string> words;
  if (!arguments.Has(option)) return words;
  std::istringstream list(arguments.Get<std::string>(option));
  for (std::string word; std::getline(list, word, ',');) words.push_back(word);
  if (words.empty()) throw UsageError(fmt::format("--{} is empty", option));
  return words;
}

sweep::RunnerOptions OptionsOf(const Arguments& arguments) {
  sweep::RunnerOptions options;
  if (arguments.Get<std::string>("executor") == "slurm")
    options.executor = sweep::ExecutorKind::kSlurm;
  options.parallel = arguments.Get<std::uint64_t>("parallel");
  options.retry_failed = arguments.Has("failed");
  options.policies = Words(arguments, "policies");
  for (const std::string& word : Words(arguments, "seeds")) {
    std::uint64_t seed = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), seed);
    if (error != std::errc() || end != word.data() + word.size()) {
      throw UsageError(
          fmt::format("--seeds: '{}' is no seed; use whole numbers with commas", word));
    }
    options.seeds.push_back(seed);
  }
  for (const std::string& word : Words(arguments, "only")) {
    const std::size_t equals = word.find('=');
    if (equals == std::string::npos) {
      throw UsageError(fmt::format("--only: '{}' is no PARAMETER=VALUE", word));
    }
    const std::string name = word.substr(0, equals);
    if (name == "policy") throw UsageError("--only: for policies there is --policies");
    if (name == "seed") throw UsageError("--only: for seeds there is --seeds");
    options.parameters[name].push_back(word.substr(equals + 1));
  }
  return options;
}

int RunOn(const Folder& folder, const Arguments& arguments) {
  const sweep::RunnerOptions options = OptionsOf(arguments);
  const std::string name = folder.Path().filename();
  const sweep::Progress progress = sweep::RunSweep(folder, options);
  WriteReports(folder);
  const auto results = sweep::Results::Read(folder);
  fmt::print("{}", sweep::ReportText(results, folder.Provenance()));
  fmt::print(stderr, "reports: {}.md, .json, .csv\n", (folder.Path() / "report").string());
  if (progress.not_asked > 0) {
    fmt::print(stderr, "{} more runs are not done, and were not asked for\n", progress.not_asked);
  }
  if (!progress.stopped.empty()) {
    std::string part;
    for (const char* option : {"policies", "seeds", "only"}) {
      if (arguments.Has(option)) {
        part += fmt::format(" --{} '{}'", option, arguments.Get<std::string>(option));
      }
    }
    const bool goes_on = progress.done + progress.elsewhere < progress.runs;
    fmt::print(stderr, "attune sweep: stopped with {} of {} runs to do: {}{}\n",
               progress.runs - progress.done, progress.runs, progress.stopped,
               goes_on ? fmt::format("; go on with: attune sweep resume {}{}", name, part) : "");
    return kNothing;
  }
  return progress.failed > 0 ? kNothing : kOk;
}

int Begin(const std::vector<std::string>& words) {
  const Arguments arguments = Parse("sweep run", words);
  if (!arguments.Has("file")) throw UsageError("run which sweep? give its file");
  const auto plan = sweep::ReadPlan(arguments.Get<std::string>("file"));
  // Before there is a folder: a part that is none begins nothing.
  const auto asked = sweep::Asked(plan.runs, OptionsOf(arguments));
  if (!arguments.Has("dry-run")) return RunOn(Folder::Begin(Sweeps(arguments), plan), arguments);
  Table table({"run", "parameters", "command"});
  for (const sweep::Run& run : asked) {
    table.Add({run.id, run.Describe(), fmt::format("{}", fmt::join(run.command, " "))});
  }
  return Print(table, arguments.format, "it has no run");
}

int Resume(const std::vector<std::string>& words) {
  const Arguments arguments = Parse("sweep resume", words);
  return RunOn(Find(arguments), arguments);
}

int Status(const std::vector<std::string>& words) {
  const Arguments arguments = Parse("sweep status", words);
  if (!arguments.Has("name")) {
    Table table({"sweep", "state", "runs", "done", "failed", "folder"});
    for (const std::string& name : Folder::Names(Sweeps(arguments))) {
      const Folder folder = Folder::Open(Sweeps(arguments), name);
      const sweep::Progress progress = sweep::Count(folder);
      table.Add({name,
                 sweep::IsRunning(folder)         ? "running"
                 : progress.done == progress.runs ? "done"
                                                  : "stopped",
                 progress.runs, progress.done, progress.failed, folder.Path().string()});
    }
    return Print(table, arguments.format, "no sweep yet; begin one with: attune sweep run FILE");
  }
  const Folder folder = Find(arguments);
  Table table({"run", "parameters", "policy", "seed", "state", "value", "seconds", "why"});
  for (const sweep::Run& run : folder.ReadRuns()) {
    const auto outcome = folder.ReadOutcome(run.id);
    const auto points = outcome ? std::vector<sweep::Point>{} : folder.ReadPoints(run.id);
    std::string state = sweep::IsHeld(folder.Of(run.id) / "lock") ? "running" : "to do";
    nlohmann::json value;
    if (outcome) {
      state = Name(outcome->ending);
      if (outcome->last) value = outcome->last->value;
    } else if (state == "running" && !points.empty()) {
      value = points.back().value;
    }
    table.Add({run.id, run.parameters.dump(), run.policy, run.seed, state, value,
               outcome ? nlohmann::json(outcome->seconds) : nlohmann::json(),
               outcome ? outcome->why : ""});
  }
  return Print(table, arguments.format, "it has no run");
}

int Stop(const std::vector<std::string>& words) {
  const Folder folder = Find(Parse("sweep stop", words));
  const bool any = sweep::StopSweep(folder);
  fmt::print("{}\n",
             any ? "stopped; go on with: attune sweep resume " + folder.Path().filename().string()
                 : "nothing ran");
  return any ? kOk : kNothing;
}

int Report(const std::vector<std::string>& words) {
  const Arguments arguments = Parse("sweep report", words);
  const Folder folder = Find(arguments);
  const auto results = sweep::Results::Read(folder);
  const nlohmann::json provenance = folder.Provenance();
  if (arguments.Has("check")) {
    bool holds = results.Missing() == 0;
    for (const sweep::BarResult& bar : sweep::Judge(results)) {
      fmt::print("{}\n", Describe(bar));
      holds = holds && bar.holds;
    }
    if (results.Missing() > 0)
      fmt::print("FAILS  {} runs are still to be done\n", results.Missing());
    if (results.spec.bars.empty()) fmt::print("the sweep has no [[bar]]\n");
    return holds ? kOk : kNothing;
  }
  WriteReports(folder);
  if (arguments.format == Format::kTable) {
    fmt::print("{}", sweep::ReportText(results, provenance));
  } else if (arguments.format == Format::kCsv) {
    fmt::print("{}", sweep::ReportCsv(results));
  } else if (arguments.format == Format::kJson) {
    fmt::print("{}", sweep::ReportJsonText(results, provenance));
  } else {
    fmt::print("{}\n", sweep::ReportJson(results, provenance).dump());  // on one line
  }
  return kOk;
}

int Join(const std::vector<std::string>& words) {
  const Arguments arguments = Parse("sweep join", words);
  if (!arguments.Has("file")) throw UsageError("join which report? give its .json");
  const auto file = arguments.Get<std::string>("file");
  std::ifstream stream(file);
  const auto report = nlohmann::json::parse(stream, nullptr, false);
  if (report.is_discarded()) {
    throw UsageError(fmt::format("{} is no JSON; give the .json of attune sweep report", file));
  }
  const Folder folder = Find(arguments);
  if (sweep::IsRunning(folder)) {
    throw UsageError(fmt::format("sweep {} is running; join when it has stopped",
                                 folder.Path().filename().string()));
  }
  const sweep::Joined joined = sweep::Join(folder, report);
  fmt::print("{} runs joined", joined.runs);
  if (joined.left_out > 0) {
    fmt::print("; {} left out: others of their parameters and seed have run here", joined.left_out);
  }
  if (joined.incomplete > 0) {
    fmt::print("; of {} of them others are not done there: join its report again when they are",
               joined.incomplete);
  }
  if (joined.unplanned > 0) fmt::print("; {} are none of this sweep's", joined.unplanned);
  fmt::print("\n");
  return joined.runs > 0 ? kOk : kNothing;
}

// For Slurm: attune sweep task FOLDER RUN.
int Task(const std::vector<std::string>& words) {
  po::options_description flags;
  flags.add_options()("folder", po::value<std::string>())("run", po::value<std::uint64_t>());
  const Arguments arguments = Parse(words, flags, {"folder", "run"});
  if (!arguments.Has("folder") || !arguments.Has("run")) throw UsageError("give FOLDER and RUN");
  const Folder folder(arguments.Get<std::string>("folder"));
  const auto id = arguments.Get<std::uint64_t>("run");
  const auto runs = folder.ReadRuns();
  const auto run = std::ranges::find(runs, id, &sweep::Run::id);
  if (run == runs.end()) throw UsageError(fmt::format("the sweep has no run {}", id));
  switch (sweep::RunTask(folder, folder.ReadSpec(), *run, {})) {
    case sweep::TaskEnd::kDone:
      return kOk;
    case sweep::TaskEnd::kBusy:
      fmt::print(stderr, "another task has it\n");
      return kNothing;
    case sweep::TaskEnd::kInterrupted:
      break;
  }
  fmt::print(stderr, "its task was told to stop\n");
  return kNothing;
}

}  // namespace

int Sweep(const std::vector<std::string>& words) {
  if (words.empty()) {
    throw UsageError("run, status, stop, resume, report or join? see attune sweep --help");
  }
  const std::vector<std::string> rest(words.begin() + 1, words.end());
  try {
    if (words[0] == "run") return Begin(rest);
    if (words[0] == "resume") return Resume(rest);
    if (words[0] == "status") return Status(rest);
    if (words[0] == "stop") return Stop(rest);
    if (words[0] == "report") return Report(rest);
    if (words[0] == "join") return Join(rest);
    if (words[0] == "task") return Task(rest);
  } catch (const sweep::SweepError& error) {
    fmt::print(stderr, "attune sweep: {}\n", error.what());
    return kUsage;
  }
  const std::string nearest =
      Nearest(words[0], {"run", "status", "stop", "resume", "report", "join"});
  throw UsageError(fmt::format("there is no '{}'; {}use run, status, stop, resume, report or join",
                               words[0], nearest.empty() ? "" : "did you mean " + nearest + "? "));
}

}  // namespace attune::cli
