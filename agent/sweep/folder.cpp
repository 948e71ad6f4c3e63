// A sweep's folder: what is planned, what is done.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <memory>
#include <system_error>
#include <thread>

#include "agent/sweep/plan.h"

namespace attune::sweep {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::array<std::string_view, 6> kEndings = {"finished", "failed",  "halved",
                                                      "time",     "silence", "memory"};

[[noreturn]] void FailErrno(const std::string& what) {
  throw std::system_error(errno, std::generic_category(), what);
}

std::string ReadText(const fs::path& file) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream || fs::is_directory(file)) {
    throw SweepError(fmt::format("cannot read {}", file.string()));
  }
  return {std::istreambuf_iterator<char>(stream), {}};
}

// What `from` makes of the file's JSON. Throws SweepError, by the file's name, where it is none or
// another than `from` expects.
template <class From>
auto ReadJson(const fs::path& file, const From& from) {
  try {
    return from(json::parse(ReadText(file)));
  } catch (const json::exception& error) {
    throw SweepError(fmt::format("{} is damaged: {}", file.string(), error.what()));
  }
}

json ReadJson(const fs::path& file) {
  return ReadJson(file, [](json object) { return object; });
}

// What a program prints, its first line; empty where it cannot.
std::string FirstLine(const std::string& command) {
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen(command.c_str(), "re"), pclose);
  std::array<char, 4096> line{};
  if (!pipe || std::fgets(line.data(), line.size(), pipe.get()) == nullptr) return "";
  std::string text = line.data();
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

std::string Quoted(const std::string& text) {
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? "'\\''" : std::string(1, c);
  return quoted + "'";
}

std::string FromProc(const char* file, std::string_view key) {
  std::ifstream stream(file);
  for (std::string line; std::getline(stream, line);) {
    if (!line.starts_with(key)) continue;
    const std::size_t value = line.find_first_not_of(" \t", line.find(':') + 1);
    return value == std::string::npos ? "" : line.substr(value);
  }
  return "";
}

// Whether tracked files of the repository that `git` asks differ from its revision. The report that
// an earlier part of the sweep has left there is none of them.
bool IsModified(const std::string& git, const Spec& spec) {
  std::string status = git + "status --porcelain -uno -- :/";
  const fs::path top = FirstLine(git + "rev-parse --show-toplevel 2>/dev/null");
  const fs::path report = (spec.results / spec.name).lexically_relative(top);
  if (!report.empty() && *report.begin() != "..") {
    for (const char* type : {".md", ".json", ".csv"}) {
      status += " " + Quoted(":(top,exclude,literal)" + report.string() + type);
    }
  }
  return !FirstLine(status + " 2>/dev/null").empty();
}

// What somebody needs to repeat the sweep.
json Describe(const Spec& spec) {
  utsname system{};
  uname(&system);
  const std::string git = "git -C " + Quoted(spec.directory.string()) + " ";
  const std::string revision = FirstLine(git + "rev-parse HEAD 2>/dev/null");
  json packages = json::object();
  for (const char* name : {"libtorch1.13", "libopenblas0-pthread", "libzmq5", "libsqlite3-0",
                           "python3-torch", "libc6"}) {
    const std::string version =
        FirstLine(fmt::format("dpkg-query -W -f='${{Version}}' {} 2>/dev/null", name));
    if (!version.empty()) packages[name] = version;
  }
  return {{"attune", ATTUNE_VERSION},
          {"revision", revision.empty() ? json() : json(revision)},
          {"modified", IsModified(git, spec)},
          {"host", system.nodename},
          {"system", fmt::format("{} {} {}", system.sysname, system.release, system.machine)},
          {"processor", FromProc("/proc/cpuinfo", "model name")},
          {"processors", std::thread::hardware_concurrency()},
          {"memory", FromProc("/proc/meminfo", "MemTotal")},
          {"packages", packages},
          {"sampler_seed", spec.sampler_seed},
          {"seeds", spec.seeds}};
}

json ToJson(const Run& run) {
  return {{"run", run.id},    {"parameters", run.parameters}, {"policy", run.policy},
          {"seed", run.seed}, {"command", run.command},       {"environment", run.environment}};
}

json ToJson(const Point& point) {
  json object = {{"step", point.step}, {"compute", point.compute}, {"value", point.value}};
  if (!point.fields.empty()) object["fields"] = point.fields;
  return object;
}

Point PointFrom(const json& object) {
  return {object.at("step").get<double>(), object.at("compute").get<double>(),
          object.at("value").get<double>(),
          object.value("fields", std::map<std::string, double>{})};
}

void SyncFolder(const fs::path& folder) {
  const int descriptor = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) FailErrno(folder.string());
  fsync(descriptor);
  close(descriptor);
}

}  // namespace

std::string_view Name(Ending ending) { return kEndings[static_cast<std::size_t>(ending)]; }

std::optional<Ending> EndingFrom(std::string_view name) {
  const auto ending = std::ranges::find(kEndings, name);
  if (ending == kEndings.end()) return std::nullopt;
  return static_cast<Ending>(ending - kEndings.begin());
}

std::string ToLine(const Point& point) { return ToJson(point).dump() + "\n"; }

void WriteWhole(const fs::path& file, std::string_view content, int mode) {
  const fs::path fresh = file.string() + ".new";
  const int descriptor = open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
  if (descriptor < 0) FailErrno(fresh.string());
  bool whole = true;
  for (std::size_t done = 0; whole && done < content.size();) {
    const ssize_t written = write(descriptor, content.data() + done, content.size() - done);
    if (written < 0 && errno == EINTR) continue;
    whole = written > 0;
    if (whole) done += static_cast<std::size_t>(written);
  }
  whole = whole && fsync(descriptor) == 0;
  const int error = errno;
  close(descriptor);
  if (!whole || rename(fresh.c_str(), file.c_str()) != 0) {
    if (!whole) errno = error;
    const int kept = errno;
    unlink(fresh.c_str());
    errno = kept;
    FailErrno(file.string());
  }
  SyncFolder(file.parent_path());
}

Plan ReadPlan(const fs::path& file) {
  if (!fs::exists(file)) {
    throw SweepError(fmt::format("cannot read {}: give a sweep's file", file.string()));
  }
  Plan plan{.file = file, .text = ReadText(file), .spec = {}, .runs = {}};
  plan.spec = ParseSpec(plan.text, file);
  plan.runs = PlanRuns(plan.spec);
  return plan;
}

Folder Folder::Begin(const fs::path& sweeps, const Plan& plan) {
  Folder folder(sweeps / plan.spec.name);
  if (fs::exists(folder.path_ / "plan.json")) {
    if (ReadText(folder.path_ / "sweep.toml") != plan.text) {
      throw SweepError(fmt::format(
          "sweep '{}' began with another content of its file ({}); give this one another name, or "
          "remove that folder",
          plan.spec.name, folder.path_.string()));
    }
    return folder;
  }
  json object = {{"file", fs::absolute(plan.file).string()},
                 {"provenance", Describe(plan.spec)},
                 {"runs", json::array()}};
  for (const Run& run : plan.runs) object["runs"].push_back(ToJson(run));
  fs::create_directories(folder.path_ / "runs");
  WriteWhole(folder.path_ / "sweep.toml", plan.text);
  // Last: a sweep without a plan has not begun.
  WriteWhole(folder.path_ / "plan.json", object.dump(1) + "\n");
  return folder;
}

std::vector<std::string> Folder::Names(const fs::path& sweeps) {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(sweeps, error)) {
    if (fs::exists(entry.path() / "plan.json")) names.push_back(entry.path().filename());
  }
  std::ranges::sort(names);
  return names;
}

Folder Folder::Open(const fs::path& sweeps, const std::string& name) {
  const std::vector<std::string> names = Names(sweeps);
  if (std::ranges::find(names, name) == names.end()) {
    throw SweepError(
        names.empty()
            ? "there is no sweep yet; begin one with: attune sweep run FILE.toml"
            : fmt::format("there is no sweep '{}'; there are {}", name, fmt::join(names, ", ")));
  }
  return Folder(sweeps / name);
}

fs::path Folder::Of(std::uint64_t run) const { return path_ / "runs" / std::to_string(run); }

Spec Folder::ReadSpec() const {
  // Relative folders are those of the file where it was.
  const auto file = ReadJson(path_ / "plan.json",
                             [](const json& plan) { return plan.at("file").get<std::string>(); });
  return ParseSpec(ReadText(path_ / "sweep.toml"), file);
}

std::vector<Run> Folder::ReadRuns() const {
  return ReadJson(path_ / "plan.json", [](const json& plan) {
    std::vector<Run> runs;
    for (const json& run : plan.at("runs")) {
      runs.push_back({run.at("run"), run.at("parameters"), run.at("policy"), run.at("seed"),
                      run.at("command"), run.at("environment")});
    }
    return runs;
  });
}

json Folder::Provenance() const {
  json provenance =
      ReadJson(path_ / "plan.json", [](const json& plan) { return plan.at("provenance"); });
  for (const char* part : {"resumed", "joined"}) {
    const fs::path file = path_ / fmt::format("{}.json", part);
    if (fs::exists(file)) provenance[part] = ReadJson(file);
  }
  return provenance;
}

void Folder::AddResumed(const Spec& spec) const {
  const fs::path file = path_ / "resumed.json";
  json all = fs::exists(file) ? ReadJson(file) : json::array();
  json now = Describe(spec);
  if (now == ReadJson(path_ / "plan.json").at("provenance") ||
      std::ranges::find(all, now) != all.end()) {
    return;
  }
  all.push_back(std::move(now));
  WriteWhole(file, all.dump(1) + "\n");
}

std::size_t Folder::AddOrigin(const json& provenance) const {
  const fs::path file = path_ / "joined.json";
  json all = fs::exists(file) ? ReadJson(file) : json::array();
  const auto found = std::ranges::find(all, provenance);
  const auto number = static_cast<std::size_t>(found - all.begin());
  if (found == all.end()) {
    all.push_back(provenance);
    WriteWhole(file, all.dump(1) + "\n");
  }
  return number;
}

void Folder::WritePoints(std::uint64_t run, const std::vector<Point>& points) const {
  std::string lines;
  for (const Point& point : points) lines += ToLine(point);
  fs::create_directories(Of(run));
  WriteWhole(Of(run) / "points.jsonl", lines);
}

std::optional<RunOutcome> Folder::ReadOutcome(std::uint64_t run) const {
  const fs::path file = Of(run) / "outcome.json";
  if (!fs::exists(file)) return std::nullopt;
  return ReadJson(file, [&](const json& object) {
    RunOutcome outcome;
    outcome.id = run;
    const auto ending = EndingFrom(object.at("ending").get<std::string>());
    if (!ending) throw SweepError(file.string() + " has an unknown ending");
    outcome.ending = *ending;
    outcome.why = object.at("why");
    outcome.status = object.at("status");
    if (!object.at("last").is_null()) outcome.last = PointFrom(object.at("last"));
    outcome.started = object.at("started");
    outcome.seconds = object.at("seconds");
    outcome.cpu_seconds = object.at("cpu_seconds");
    outcome.memory = object.at("memory");
    outcome.host = object.at("host");
    if (object.contains("origin")) outcome.origin = object.at("origin");
    if (!outcome.origin && object.value("joined", false)) {
      throw SweepError(
          file.string() +
          " was joined by an attune that did not keep from where; join its report to a "
          "sweep of its own");
    }
    return outcome;
  });
}

std::vector<Point> Folder::ReadPoints(std::uint64_t run) const {
  std::vector<Point> points;
  std::ifstream stream(Of(run) / "points.jsonl");
  for (std::string line; std::getline(stream, line);) {
    const json object = json::parse(line, nullptr, false);
    if (!object.is_discarded()) points.push_back(PointFrom(object));
  }
  return points;
}

std::map<std::string, Folder::Variables> Folder::ReadEnvironment() const {
  const fs::path file = path_ / "environment.json";
  if (!fs::exists(file)) return {};
  return ReadJson(file).get<std::map<std::string, Variables>>();
}

void Folder::WriteEnvironment(const std::map<std::string, Variables>& variables) const {
  WriteWhole(path_ / "environment.json", json(variables).dump(1) + "\n", 0600);
}

void Folder::WriteOutcome(const RunOutcome& outcome) const {
  json object = {{"ending", Name(outcome.ending)},
                 {"why", outcome.why},
                 {"status", outcome.status},
                 {"last", outcome.last ? ToJson(*outcome.last) : json()},
                 {"started", outcome.started},
                 {"seconds", outcome.seconds},
                 {"cpu_seconds", outcome.cpu_seconds},
                 {"memory", outcome.memory},
                 {"host", outcome.host}};
  if (outcome.origin) object["origin"] = *outcome.origin;
  WriteWhole(Of(outcome.id) / "outcome.json",
             object.dump(1, ' ', false, json::error_handler_t::replace) + "\n");
}

}  // namespace attune::sweep
