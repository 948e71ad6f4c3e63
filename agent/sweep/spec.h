// A sweep as its file states it: a command, the parameters of its runs, limits, bars.
//
//   name = "rates"                      # default: the file's name
//   command = ["./train", "--rate", "{rate}", "--seed", "{seed}"]
//   metric = "validation_loss"          # in the lines of JSON that a run prints
//   seeds = [0, 1, 2]                   # or how many
//   twin = true                         # an untuned run beside each tuned one
//   [parameters]
//   rate = {log_uniform = [1e-4, 1e-2]} # or uniform, integers; a list is a grid; a value is itself
//   policy = ["auto", "kmeans"]         # who tunes, or a variant; "untuned" is nobody
//
// agent/sweep/README.md has every key.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace attune::sweep {

// A sweep file or folder that cannot be used; what() is one line: where, what, what to do.
class SweepError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The policy of a run that nobody tunes.
inline constexpr std::string_view kUntuned = "untuned";

enum class Scale { kUniform, kLogUniform, kIntegers };

// Drawn from [low, high]; both ends belong to integers.
struct Range {
  Scale scale = Scale::kUniform;
  double low = 0;
  double high = 0;
};

struct Parameter {
  std::string name;
  std::variant<std::vector<nlohmann::json>, Range> values;  // a grid's values, or a range
};

enum class Sampler { kRandom, kSobol };

struct Limits {
  std::uint64_t parallel = 1;    // runs at a time
  double seconds = 0;            // of one run, on the clock; 0: none
  double silence = 0;            // seconds without a line from the run; 0: none
  std::uint64_t memory = 0;      // bytes resident of one run, all its processes; 0: none
  double compute_seconds = 0;    // processor seconds of all runs together; 0: none
  std::uint64_t cpus = 1;        // of one run, where `pin`
  bool pin = false;              // every run keeps to processors of its own
  std::uint64_t log = 16 << 20;  // bytes kept of what one run prints
};

// Asynchronous successive halving (Li et al., 1810.05934), as a rule to stop: a run that reaches
// least × factor^k of its resource goes on if it is among the best 1 / factor there so far.
struct Halving {
  bool by_step = false;  // the resource: steps, or compute
  double least = 0;
  double factor = 3;
};

// Another way to run the command, beside the policies and under a name of its own: a baseline.
struct Variant {
  std::string policy{kUntuned};        // who tunes
  std::vector<std::string> arguments;  // further words of the command, with the same placeholders
  std::map<std::string, std::string>
      daemon;  // knobs beyond the sweep's: then it has its own attuned
};

// What Slurm is to know beyond the limits.
struct Slurm {
  std::string partition;             // empty: the cluster's default
  std::vector<std::string> options;  // further words for sbatch
  std::string listen;                // where trainers reach the daemon: tcp://HOST:PORT
};

// A claim about the sweep's figures.
struct Bar {
  std::string name;
  std::string figure;      // of report.h's FigureNames
  std::string policy;      // of which runs; empty: all tuned ones
  std::string against;     // policy that they are paired with; default: untuned
  nlohmann::json where;    // parameters that the runs must have, as an object
  std::string bound;       // mean, low or high end of the 95 % interval
  std::string field = {};  // another number of a run's last line than the metric; empty: the metric
  nlohmann::json healthy = {};  // of gap_closed: in which parameters the healthy run differs
  std::vector<std::string> among =
      {};  // of hindsight: the policies whose best is chosen for each job
  // Of compute_to_target: policies with a longer budget. Where a run does not reach its partner's
  // result, the first of theirs that does stands for it.
  std::vector<std::string> longer = {};
  bool at_most = true;  // else at least
  double threshold = 0;
};

struct Spec {
  std::string name;
  std::vector<std::string> command;                // with {PARAMETER}, {seed}, {run}, {directory}
  std::filesystem::path directory;                 // in which runs start, absolute
  std::map<std::string, std::string> environment;  // with the same placeholders
  std::string metric = "validation_loss";
  std::string step = "step";
  std::string compute = "compute_seconds";
  bool minimize = true;
  std::vector<std::uint64_t> seeds = {0};
  bool twin = false;
  Sampler sampler = Sampler::kSobol;
  std::uint64_t samples = 1;
  std::uint64_t sampler_seed = 0;
  std::vector<Parameter> parameters;
  std::map<std::string, Variant> variants;  // by the name that stands for a policy
  std::vector<nlohmann::json> cases;        // objects: parameters that go together
  Limits limits;
  std::optional<Halving> halving;
  std::map<std::string, std::string> daemon;  // knobs of attuned, by name
  Slurm slurm;
  std::vector<Bar> bars;
  std::vector<std::string> clusters;  // parameters whose values make a cluster (Mean); empty: all
  std::filesystem::path results;      // where the report is kept too, absolute; empty: nowhere

  // Whether any run is tuned: there is a policy to choose, or a twin to compare with.
  [[nodiscard]] bool Tunes() const;
  // Whether the runs of this policy or variant are.
  [[nodiscard]] bool Tunes(const std::string& policy) const;
  // Whether a bar names it as one with a longer budget: its runs are no rivals of the others.
  [[nodiscard]] bool IsLonger(const std::string& policy) const;
  // The daemon that tunes them: the variant's name where it has its own, else empty.
  [[nodiscard]] std::string DaemonOf(const std::string& policy) const;
};

// `text` is the file's content, `file` its path for messages and relative folders. Throws
// SweepError with the position.
[[nodiscard]] Spec ParseSpec(std::string_view text, const std::filesystem::path& file);

// The NAMEs of {NAME} in `text`, in their order. ${NAME} is the shell's and left alone.
[[nodiscard]] std::vector<std::string> Placeholders(std::string_view text);
// `text` with each {NAME} replaced by what `value` gives for it.
[[nodiscard]] std::string Fill(std::string_view text,
                               const std::function<std::string(const std::string&)>& value);

}  // namespace attune::sweep
