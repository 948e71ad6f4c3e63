// import: the log of a trainer without a daemon becomes a job of the history.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <fstream>
#include <optional>
#include <span>
#include <string_view>

#include "agent/analyst.h"
#include "agent/cli/command.h"
#include "agent/tracker.h"
#include "collectors/codec.h"
#include "collectors/probe.h"
#include "store/maintenance.h"

namespace attune::cli {
namespace {

namespace fs = std::filesystem;

// A probe's log, record by record (collectors/PROTOCOL.md, Offline).
class LogReader {
 public:
  // Throws std::runtime_error if it is not such a log.
  explicit LogReader(const fs::path& path) : path_(path), stream_(path, std::ios::binary) {
    if (fs::is_directory(path) || !stream_) {
      throw std::runtime_error(
          fmt::format("cannot read {}; give a log, KEY.attune", path.string()));
    }
    std::array<char, kLogMagic.size()> magic{};
    if (!Read(magic.data(), magic.size()) ||
        std::string_view(magic.data(), magic.size()) != kLogMagic ||
        !Read(reinterpret_cast<char*>(&started_), sizeof(started_))) {
      throw std::runtime_error(
          fmt::format("{} is not the log of an attune probe (of this version); give a KEY.attune",
                      path.string()));
    }
  }

  [[nodiscard]] double Started() const { return started_; }  // Unix time, seconds
  // Why the log ends before a Bye, where it does not merely end.
  [[nodiscard]] const std::string& Fault() const { return fault_; }

  // The next message; nothing at the end, or before a record that is not whole.
  [[nodiscard]] std::optional<Message> Next() {
    const std::uint64_t at = offset_;
    std::uint32_t length = 0;
    if (!Read(reinterpret_cast<char*>(&length), sizeof(length))) {
      if (stream_.gcount() > 0) fault_ = fmt::format("it is cut short at byte {}", at);
      return std::nullopt;
    }
    if (length == 0 || length > kMaxFrameBytes) {
      fault_ = fmt::format("the record at byte {} claims {} bytes", at, length);
      return std::nullopt;
    }
    frame_.resize(length);
    if (!Read(frame_.data(), length)) {
      fault_ = fmt::format("it is cut short at byte {}", at);
      return std::nullopt;
    }
    try {
      return Decode(std::as_bytes(std::span(frame_)));
    } catch (const CodecError& error) {
      fault_ = fmt::format("the record at byte {} cannot be read: {}", at, error.what());
      return std::nullopt;
    }
  }

 private:
  static_assert(std::endian::native == std::endian::little, "numbers are memory as it is");

  bool Read(char* bytes, std::size_t count) {
    stream_.read(bytes, static_cast<std::streamsize>(count));
    offset_ += static_cast<std::uint64_t>(stream_.gcount());
    return static_cast<bool>(stream_);
  }

  fs::path path_;
  std::ifstream stream_;
  std::uint64_t offset_ = 0;
  double started_ = 0;
  std::string frame_;
  std::string fault_;
};

// The file's last change, as Unix time in seconds: when its last record was written.
double LastChange(const fs::path& path) {
  const auto time = fs::file_time_type::clock::to_sys(fs::last_write_time(path));
  return std::chrono::duration<double>(time.time_since_epoch()).count();
}

// As the daemon puts records.
void Put(Store& store, const Emission& emission) {
  for (const Record& record : emission.records) {
    std::visit(
        [&](const auto& content) {
          using Content = std::decay_t<decltype(content)>;
          if constexpr (std::is_same_v<Content, AnomaliesRecord>) {
            store.PutAnomalies(content.job, content.anomalies);
          } else if constexpr (std::is_same_v<Content, AcknowledgementRecord>) {
            store.SetAcknowledgement(content.trial, content.acknowledgement);
          } else if constexpr (std::is_same_v<Content, RewardRecord>) {
            store.SetReward(content.trial, content.reward);
          } else if constexpr (std::is_same_v<Content, WhyRecord>) {
            store.SetWhy(content.trial, content.why);
          } else {
            store.Put(content);
          }
        },
        record);
  }
}

// Says so where the knob names a job that `history` does not have in this topology.
std::optional<Baseline> BaselineFor(const fs::path& history, const Options& options,
                                    const Topology& topology) {
  if (!NamesJob(options.baseline)) return std::nullopt;
  std::optional<Baseline> recorded;
  if (fs::exists(history)) {
    recorded = RecordedBaseline(Store(history, Store::Mode::kReadOnly), options, topology);
  }
  if (!recorded) {
    fmt::print(stderr,
               "attune import: baseline: job {} is no recorded job of this topology; the log is "
               "compared with the uniform one\n",
               options.baseline);
  }
  return recorded;
}

struct Imported {
  std::string name;
  Outcome outcome = Outcome::kLost;
  std::uint64_t steps = 0;
  std::uint64_t observations = 0;
  std::uint64_t refused = 0;  // observations that cannot be used
  std::string fault;
};

// The log as the one job of a new store.
Imported Meter(const fs::path& log, const fs::path& history, Options options, Store& store) {
  LogReader reader(log);
  const auto first = reader.Next();
  const auto* hello = first ? std::get_if<Hello>(&*first) : nullptr;
  if (hello == nullptr) {
    throw std::runtime_error(
        fmt::format("{} has no job: {}", log.string(),
                    reader.Fault().empty() ? "it does not begin with a Hello" : reader.Fault()));
  }
  auto fault = FindFault(hello->job);
  if (!fault) fault = FindFault(hello->setting, hello->job.topology);
  if (fault) throw std::runtime_error(fmt::format("{}: {}", log.string(), *fault));

  options.policy = "keep";
  Hello introduction = *hello;
  introduction.job.policy = "keep";
  Chain chain(options.policy);
  const double ended = std::max(LastChange(log), reader.Started());
  Tracker tracker(1, introduction, options, reader.Started(),
                  BaselineFor(history, options, introduction.job.topology), {});
  Imported imported;
  std::uint64_t trial = 0;
  bool over = false;
  store.Begin();
  store.Put(tracker.Record());
  for (auto message = reader.Next(); message && !over; message = reader.Next()) {
    if (const auto* observation = std::get_if<Observation>(&*message)) {
      try {
        Put(store, tracker.Take(*observation, chain, trial));
        ++imported.observations;
      } catch (const std::invalid_argument&) {
        ++imported.refused;
      }
    } else if (const auto* bye = std::get_if<Bye>(&*message)) {
      Put(store, tracker.Take(*bye, ended));
      over = true;
    }
  }
  if (!over) Put(store, tracker.Lose(ended));
  store.PutAnomalies(1, AnomaliesOf(store, 1).anomalies);
  store.Commit();
  imported.name = tracker.Record().spec.name;
  imported.outcome = tracker.Record().outcome;
  imported.steps = tracker.Record().steps;
  if (!over) imported.fault = reader.Fault().empty() ? "it ends without a Bye" : reader.Fault();
  return imported;
}

// A folder that goes with the object.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (fs::temp_directory_path() / "attune-import-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr)
      throw std::runtime_error("cannot make a folder like " + name);
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  [[nodiscard]] const fs::path& Path() const { return path_; }

 private:
  fs::path path_;
};

// The log becomes a store of its own first, which is then merged: so what is there already is
// found, and a log that has grown brings only what is new.
void Import(const fs::path& file, const Arguments& arguments) {
  const TemporaryFolder folder;
  const fs::path single = folder.Path() / "attune.db";
  std::optional<Store> store(std::in_place, single, Store::Mode::kReadWrite);
  const Imported imported = Meter(file, arguments.paths.Store(), arguments.options, *store);
  store.reset();
  const MergeReport report = attune::Merge(arguments.paths.Store(), single);
  fmt::print("{}: '{}', {} at step {}, {} observations: {}\n", file.string(), imported.name,
             Name(imported.outcome), imported.steps, imported.observations,
             report.new_jobs > 0     ? fmt::format("a new job, {} trials", report.trials)
             : report.grown_jobs > 0 ? fmt::format("known, {} more trials", report.trials)
                                     : "known, nothing new");
  if (!imported.fault.empty()) {
    fmt::print(stderr, "attune import: {}: {}; taken up to there\n", file.string(), imported.fault);
  }
  if (imported.refused > 0) {
    fmt::print(stderr, "attune import: {}: {} observations cannot be used and are left out\n",
               file.string(), imported.refused);
  }
}

}  // namespace

int Import(const std::vector<std::string>& words) {
  const Arguments arguments = Parse("import", words);
  if (!arguments.Has("file")) throw UsageError("import which logs? see ATTUNE_DIR of the trainer");
  arguments.paths.Create();
  const StateLock lock(arguments.paths.Lock());
  int status = kOk;
  for (const auto& file : arguments.Get<std::vector<std::string>>("file")) {
    try {
      Import(file, arguments);
    } catch (const std::exception& error) {  // the other logs are none the worse for it
      fmt::print(stderr, "attune import: {}\n", error.what());
      status = kFailure;
    }
  }
  return status;
}

}  // namespace attune::cli
