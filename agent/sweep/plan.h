// The runs of a sweep, and the folder that they live in.
//
//   FOLDER/sweep.toml            the file, as it was when the sweep began
//          plan.json             its runs, and what is needed to repeat them
//          resumed.json          what else it has been gone on with; only then
//          environment.json      how trainers reach the daemon; private (0600)
//          joined.json           where runs are from that other machines have done; only then
//          attuned/              state of the sweep's daemon, with the history of its trials
//          attuned-VARIANT/      of a variant's own
//          runs/N/lock           held by the task of run N for as long as it lives
//                 points.jsonl   what the run reported, a point a line
//                 output         what it printed
//                 outcome.json   written whole when it is over: who has one is done
//
// All of a sweep's state is in these files; whatever is killed, the files say what is missing.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "agent/sweep/spec.h"

namespace attune::sweep {

struct Run {
  std::uint64_t id = 0;       // from 1
  nlohmann::json parameters;  // object; without policy and seed
  std::string policy;         // untuned, or who tunes
  std::uint64_t seed = 0;
  std::vector<std::string> command;                // complete but for {directory}
  std::map<std::string, std::string> environment;  // beyond the runner's own

  // What it shares with the runs that it is paired with: parameters and seed.
  [[nodiscard]] std::string Pair() const;
  // What it shares with its repetitions: parameters and policy.
  [[nodiscard]] std::string Group() const;
  // "rate 0.01, heads 4, policy auto, seed 3", for people.
  [[nodiscard]] std::string Describe() const;
};

// A value as a word of a command: texts as they are, numbers in their shortest exact form.
[[nodiscard]] std::string CommandWord(const nlohmann::json& value);

// Every combination of cases, grid values, draws, seeds and policies, the untuned one first. The
// same file gives the same runs in the same order. Throws SweepError if there are too many.
[[nodiscard]] std::vector<Run> PlanRuns(const Spec& spec);

// A sweep as its file says.
struct Plan {
  std::filesystem::path file;
  std::string text;  // of the file
  Spec spec;
  std::vector<Run> runs;
};

// Throws SweepError if the file cannot be read, or as ParseSpec and PlanRuns do.
[[nodiscard]] Plan ReadPlan(const std::filesystem::path& file);

// How a run ended.
enum class Ending {
  kFinished,  // by itself, with a result
  kFailed,    // with an exit status, by a signal, without a result
  kHalved,    // stopped early: others did better at the same resource
  kTime,      // over its limit of seconds
  kSilence,   // of silence
  kMemory,    // of memory
};
[[nodiscard]] std::string_view Name(Ending ending);
// Nothing for a name that is none.
[[nodiscard]] std::optional<Ending> EndingFrom(std::string_view name);

// What a run reported on its way.
struct Point {
  double step = 0;     // 0 where it said none
  double compute = 0;  // processor seconds; the task's own count where the run said none
  double value = 0;    // of the metric
  std::map<std::string, double> fields = {};  // all its other numbers; of the last point only
};

// As a line of points.jsonl.
[[nodiscard]] std::string ToLine(const Point& point);

struct RunOutcome {
  std::uint64_t id = 0;
  Ending ending = Ending::kFailed;
  std::string why;            // one line; empty where it finished
  int status = 0;             // exit status, 128 + signal
  std::optional<Point> last;  // the result, where there is one
  double started = 0;         // Unix time, seconds
  double seconds = 0;         // on the clock
  double cpu_seconds = 0;     // processor time of all its processes
  std::uint64_t memory = 0;   // bytes, highest resident size of one process
  std::string host;
  std::optional<std::size_t> origin = {};  // taken over from there (Folder::AddOrigin, join.h)
};

// A sweep's folder. Reading does not change it; used by one thread at a time.
class Folder {
 public:
  explicit Folder(std::filesystem::path path) : path_(std::move(path)) {}

  // Begins the sweep, or opens the one that began with the same content. Throws SweepError where
  // one of another content has the name.
  [[nodiscard]] static Folder Begin(const std::filesystem::path& sweeps, const Plan& plan);
  // Throws SweepError, naming those that are there, if there is no sweep of the name.
  [[nodiscard]] static Folder Open(const std::filesystem::path& sweeps, const std::string& name);
  // The names of all sweeps, sorted.
  [[nodiscard]] static std::vector<std::string> Names(const std::filesystem::path& sweeps);

  [[nodiscard]] const std::filesystem::path& Path() const { return path_; }
  [[nodiscard]] std::filesystem::path Of(std::uint64_t run) const;
  [[nodiscard]] Spec ReadSpec() const;
  [[nodiscard]] std::vector<Run> ReadRuns() const;
  // Revision, machine, packages, as they were when the sweep began ("modified": tracked files
  // differed from the revision, other than the sweep's own report); under "resumed" what they were
  // when it was gone on with, where that was anything else; under "joined" those of the runs that
  // were joined, by their outcomes' `origin`.
  [[nodiscard]] nlohmann::json Provenance() const;
  [[nodiscard]] std::optional<RunOutcome> ReadOutcome(std::uint64_t run) const;
  // Lines that were cut short by a kill are left out.
  [[nodiscard]] std::vector<Point> ReadPoints(std::uint64_t run) const;

  // Variables that tasks add to the environment of runs that a daemon tunes, by the daemon's name
  // (Spec::DaemonOf); empty where none were written.
  using Variables = std::map<std::string, std::string>;
  [[nodiscard]] std::map<std::string, Variables> ReadEnvironment() const;
  void WriteEnvironment(const std::map<std::string, Variables>& variables) const;

  // On disk, whole, before they return. Throw std::system_error.
  void WriteOutcome(const RunOutcome& outcome) const;
  void WritePoints(std::uint64_t run, const std::vector<Point>& points) const;
  // Of runs that are joined: the number that their outcomes have for it, one for the same.
  [[nodiscard]] std::size_t AddOrigin(const nlohmann::json& provenance) const;
  // Notes what the revision, machine and packages are now.
  void AddResumed(const Spec& spec) const;

 private:
  std::filesystem::path path_;
};

// Writes a file as a whole: either the old content or the new one is there whatever happens.
// Throws std::system_error.
void WriteWhole(const std::filesystem::path& file, std::string_view content, int mode = 0644);

}  // namespace attune::sweep
