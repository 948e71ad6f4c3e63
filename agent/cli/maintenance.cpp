// merge, prune, backup, check: keeping the store.
#include "store/maintenance.h"

#include <fmt/format.h>

#include <charconv>
#include <chrono>
#include <optional>
#include <string_view>
#include <utility>

#include "agent/cli/command.h"

namespace attune::cli {
namespace {

namespace fs = std::filesystem;

// A number and its unit, such as 30d: the number times the unit's factor.
double Scaled(const std::string& text, const char* flag, const char* wanted,
              std::initializer_list<std::pair<char, double>> units) {
  double number = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  if (error == std::errc() && number >= 0 && rest + 1 == end) {
    for (const auto& [unit, factor] : units) {
      if (*rest == unit) return number * factor;
    }
  }
  throw UsageError(fmt::format("--{} '{}': give {}", flag, text, wanted));
}

std::string Size(std::uint64_t bytes) {
  constexpr double kMebibyte = 1 << 20;
  return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / kMebibyte);
}

double Now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

int Merge(const std::vector<std::string>& words) {
  const Arguments arguments = Parse("merge", words);
  if (!arguments.Has("store")) throw UsageError("merge which stores? give the attune.db of each");
  arguments.paths.Create();
  const StateLock lock(arguments.paths.Lock());
  for (const auto& store : arguments.Get<std::vector<std::string>>("store")) {
    const MergeReport report = attune::Merge(arguments.paths.Store(), store);
    fmt::print("{}: {} new jobs, {} brought up to date; {} new trials, {} versions of policies\n",
               store, report.new_jobs, report.grown_jobs, report.trials, report.policies);
  }
  return kOk;
}

int Prune(const std::vector<std::string>& words) {
  const Arguments arguments = Parse("prune", words);
  Retention retention;
  if (arguments.Has("older-than")) {
    retention.ended_before =
        Now() - Scaled(arguments.Get<std::string>("older-than"), "older-than",
                       "an age such as 30m, 12h, 30d or 8w",
                       {{'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}, {'w', 604800}});
  }
  if (arguments.Has("larger-than")) {
    retention.most_bytes = static_cast<std::uint64_t>(Scaled(
        arguments.Get<std::string>("larger-than"), "larger-than", "a size such as 500M or 2G",
        {{'K', 1 << 10}, {'M', 1 << 20}, {'G', 1 << 30}, {'T', 1099511627776.0}}));
  }
  if (!retention.ended_before && !retention.most_bytes) {
    throw UsageError("forget what? give --older-than or --larger-than");
  }
  const bool only_ask = arguments.Has("dry-run");
  const PruneReport report = attune::Prune(arguments.paths.Store(), retention, only_ask);
  Table table({"job", "name", "ended", "trials"});
  for (const PrunedJob& job : report.jobs) {
    table.Add({job.id, job.name, UtcTime(job.ended), job.trials});
  }
  if (arguments.format != Format::kTable) {
    static_cast<void>(Print(table, arguments.format, ""));
    return kOk;  // nothing to forget is no failure
  }
  if (report.jobs.empty() && report.bytes_after == report.bytes_before) {
    fmt::print("nothing to forget; the history has {}\n", Size(report.bytes_before));
    return kOk;
  }
  const int status = report.jobs.empty() ? kOk : Print(table, arguments.format, "");
  fmt::print("{} {} jobs: the history {} from {} to {}\n", only_ask ? "would forget" : "forgot",
             report.jobs.size(), only_ask ? "would go" : "went", Size(report.bytes_before),
             Size(report.bytes_after));
  return status;
}

int Backup(const std::vector<std::string>& words) {
  const Arguments arguments = Parse("backup", words);
  if (!arguments.Has("file")) throw UsageError("to which file?");
  const fs::path file = arguments.Get<std::string>("file");
  // Where it is to be the store of another daemon that one must not run: it would go on in a file
  // that has gone.
  Paths place;
  place.state = fs::absolute(file).parent_path();
  std::optional<StateLock> lock;
  std::error_code missing;
  if (file.filename() == place.Store().filename() && fs::exists(place.Lock()) &&
      !fs::equivalent(file, arguments.paths.Store(), missing)) {
    lock.emplace(place.Lock());
  }
  attune::Backup(arguments.paths.Store(), file, arguments.Has("force"));
  fmt::print("{}: {}\n", file.string(), Size(fs::file_size(file)));
  return kOk;
}

int Check(const std::vector<std::string>& words) {
  const Arguments arguments = Parse("check", words);
  const fs::path store = arguments.Has("file") ? fs::path(arguments.Get<std::string>("file"))
                                               : arguments.paths.Store();
  const std::vector<std::string> findings = attune::Check(store);
  if (arguments.format == Format::kTable) {
    for (const std::string& finding : findings) fmt::print("{}\n", Printable(finding));
    if (findings.empty()) fmt::print("{} is whole\n", store.string());
  } else {
    Table table({"finding"});
    for (const std::string& finding : findings) table.Add({finding});
    fmt::print("{}", table.Render(arguments.format));
  }
  return findings.empty() ? kOk : kNothing;
}

}  // namespace attune::cli
