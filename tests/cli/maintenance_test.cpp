// The program attune: keeping stores, stores that are bad, completion and man pages.
#include "store/maintenance.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "agent/paths.h"
#include "collectors/probe.h"
#include "store/migrations.h"
#include "store/sqlite.h"
#include "tests/process/process.h"

namespace attune::test {
namespace {

using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;
namespace fs = std::filesystem;

struct Result {
  int status = 0;
  std::string out;
  std::string err;
};

struct Workplace {
  [[nodiscard]] const fs::path& Path() const { return directory.Path(); }
  [[nodiscard]] fs::path Store() const { return Path() / "attune.db"; }

  [[nodiscard]] std::vector<std::string> Words(std::vector<std::string> words) const {
    words.insert(words.begin() + 1,
                 {"--config=" + configuration, "--state-directory=" + Path().string()});
    words.insert(words.begin(), ATTUNE_BINARY);
    return words;
  }
  [[nodiscard]] Result Run(const std::vector<std::string>& words) const {
    Process process(Path(), words);
    const int status = process.Wait();
    return {status, process.Out(), process.Err()};
  }
  [[nodiscard]] Result Attune(const std::vector<std::string>& words) const {
    return Run(Words(words));
  }

  TemporaryDirectory directory;
  std::string configuration = "/dev/null";
};

JobSpec TestJob(const std::string& key) {
  return {.key = key,
          .name = "test",
          .topology = {{{"layer.0", SiteKind::kSelf, true, 2, 8, 64}}},
          .budget = {BudgetKind::kSteps, 32, 0.01},
          .seed = 1,
          .learning_rate = 0.001,
          .policy = "",
          .fresh = true};
}

// Head 0 attends evenly; head 1 to the nearest sixteenth for a half, and evenly to the rest.
Observation TestObservation(std::uint64_t step) {
  Observation observation{.step = step,
                          .compute_seconds = 0.5 * static_cast<double>(step),
                          .loss = 4.0 - 0.1 * static_cast<double>(step),
                          .attention_share = 0.25F,
                          .active = {1, 1},
                          .metrics = std::vector<float>(2 * kMetrics, 0.5F),
                          .profile = std::vector<float>(2 * kProfileBins, 1.0F / kProfileBins)};
  std::fill(observation.profile.begin() + kProfileBins, observation.profile.end(), 0.5F / 15);
  observation.profile[kProfileBins] = 0.5F;
  return observation;
}

// The log of a run of 32 steps: the first 16 are measured, then each eighth.
fs::path WriteLog(const fs::path& folder, const std::string& key, bool finish = true) {
  ProbeOptions options;
  options.directory = folder;
  Probe probe(options, TestJob(key), Setting::Neutral(2));
  for (std::uint64_t step = 1; step <= 32; ++step) {
    if (probe.Due(step)) probe.Observe(TestObservation(step));
    if (probe.Poll(step)) throw std::runtime_error("nobody is there to send an action");
  }
  const fs::path path = probe.LogPath();
  if (finish) probe.Finish(Outcome::kFinished, 32, 16, 0.75);
  return path;
}

std::size_t Lines(const std::string& text) {
  return static_cast<std::size_t>(std::ranges::count(text, '\n'));
}

TEST_CASE("an imported log is a job with its windows metered, once however often it is imported") {
  Workplace work;
  work.configuration = (work.Path() / "attuned.conf").string();
  std::ofstream(work.configuration) << "windows = 2\nbaseline = uniform\npolicy = random\n";
  const fs::path log = WriteLog(work.Path() / "logs", "offline-1");
  const Result first = work.Attune({"import", log.string()});
  CAPTURE(first.out, first.err);
  REQUIRE(first.status == 0);
  CHECK_THAT(first.out, Contains("finished at step 32, 18 observations: a new job, 3 trials"));
  CHECK(first.err.empty());

  const auto check = [&] {
    const Store store(work.Store(), Store::Mode::kReadOnly);
    REQUIRE(store.Jobs(10).size() == 1);
    const JobRecord job = store.Jobs(1)[0];
    CHECK(job.spec.key == "offline-1");
    CHECK(job.spec.topology == TestJob("").topology);
    CHECK(job.outcome == Outcome::kFinished);
    CHECK(job.steps == 32);
    CHECK(job.compute_seconds == 16);
    CHECK(job.validation_loss == 0.75);
    CHECK(job.ended >= job.started);
    const auto windows = store.Observations(job.id);
    constexpr std::array<std::uint64_t, 5> kEnds = {0, 4, 8, 16, 32};
    constexpr std::array<std::uint64_t, 4> kObservations = {4, 4, 8, 2};
    REQUIRE(windows.size() == kObservations.size());
    for (std::size_t i = 0; i < windows.size(); ++i) {
      const WindowReading& reading = windows[i].reading;
      CHECK(reading.first_step == kEnds[i] + 1);
      CHECK(reading.last_step == kEnds[i + 1]);
      CHECK(reading.observations == kObservations[i]);
      CHECK(reading.end_compute == 0.5 * static_cast<double>(kEnds[i + 1]));
      CHECK(reading.attention_share == Approx(0.25));
      // |a - b| / b with b = 1/16: head 1 has |1/2 - b| / b = 7 once and |1/30 - b| / b = 7/15
      // fifteen times, so 14/16 in the mean; the imbalance is the mean of that and head 0's zero.
      CHECK(reading.difference[0] == Approx(0).margin(1e-6));
      CHECK(reading.difference[1] == Approx(0.875));
      CHECK(reading.imbalance == Approx(0.4375));
    }
    const auto trials = store.Trials(0, 10);
    REQUIRE(trials.size() == 3);
    for (std::size_t i = 0; i < trials.size(); ++i) {
      CHECK(trials[i].decider == "keep");
      CHECK(trials[i].window == 2 - i);  // the newest first
      CHECK(trials[i].status == AckStatus::kNone);
      CHECK(trials[i].reward.has_value());
    }
  };
  check();
  const Result again = work.Attune({"import", log.string(), log.string()});
  CHECK(again.status == 0);
  CHECK_THAT(again.out, Contains("known, nothing new"));
  CHECK(Lines(again.out) == 2);
  check();
  CHECK(work.Attune({"check"}).status == 0);
}

TEST_CASE(
    "a log that ends anywhere is taken up to its last whole record, and on from there later") {
  Workplace work;
  work.configuration = (work.Path() / "attuned.conf").string();
  std::ofstream(work.configuration) << "windows = 3\n";
  const fs::path log = WriteLog(work.Path() / "logs", "cut");
  const std::string bytes = ReadFile(log);
  const fs::path cut = work.Path() / "cut.attune";
  std::size_t steps = 0;
  std::set<std::string> outcomes;
  for (std::size_t length = 0; length <= bytes.size(); length += 97) {
    std::ofstream(cut, std::ios::binary) << bytes.substr(0, length);
    const Result result = work.Attune({"import", cut.string()});
    CAPTURE(length, result.out, result.err);
    if (result.status == 3) {  // before the job's Hello is whole
      CHECK(steps == 0);
      CHECK(Lines(result.err) == 1);
      CHECK_THAT(result.err, Contains(cut.string()));
      CHECK_FALSE(fs::exists(work.Store()));
      continue;
    }
    REQUIRE(result.status == 0);
    CHECK(Lines(result.err) == 1);
    const Store store(work.Store(), Store::Mode::kReadOnly);
    REQUIRE(store.Jobs(10).size() == 1);
    const JobRecord job = store.Jobs(1)[0];
    CHECK(job.outcome == Outcome::kLost);
    CHECK(job.steps >= steps);
    steps = job.steps;
  }
  CHECK(steps == 32);
  CHECK(work.Attune({"import", log.string()}).status == 0);
  const Store store(work.Store(), Store::Mode::kReadOnly);
  REQUIRE(store.Jobs(10).size() == 1);
  CHECK(store.Jobs(1)[0].outcome == Outcome::kFinished);
  CHECK(store.Observations(1).size() == 5);
  CHECK(store.Trials(0, 10).size() == 4);
}

TEST_CASE("a log that cannot be read leaves the others be") {
  const Workplace work;
  const fs::path text = work.Path() / "text.attune";
  std::ofstream(text) << "step 1, loss 2.5\n";
  const fs::path log = WriteLog(work.Path() / "logs", "good");
  const Result result = work.Attune({"import", text.string(), log.string()});
  CHECK(result.status == 3);
  CHECK_THAT(result.err, Contains(text.string()));
  CHECK(Store(work.Store(), Store::Mode::kReadOnly).Jobs(9).size() == 1);
}

TEST_CASE("what is no log is refused by one line, and no history is begun for it") {
  const Workplace work;
  const fs::path text = work.Path() / "text.attune";
  std::ofstream(text) << "step 1, loss 2.5\nstep 2, loss 2.25\n";
  for (const fs::path& file : {text, work.Path(), work.Path() / "missing.attune"}) {
    const Result result = work.Attune({"import", file.string()});
    CAPTURE(result.err);
    CHECK(result.status == 3);
    CHECK(Lines(result.err) == 1);
    CHECK_THAT(result.err, StartsWith("attune import: ") && Contains(file.string()));
    CHECK_FALSE(fs::exists(work.Store()));
  }
}

TEST_CASE("stores are merged, checked, copied and pruned by name") {
  const Workplace work;
  const Workplace other;
  const fs::path log = WriteLog(work.Path() / "logs", "one");
  REQUIRE(other.Attune({"import", log.string()}).status == 0);
  REQUIRE(other.Attune({"import", WriteLog(work.Path() / "logs", "two").string()}).status == 0);
  const Result merged = work.Attune({"merge", other.Store().string()});
  CAPTURE(merged.err);
  CHECK(merged.status == 0);
  CHECK_THAT(merged.out, Contains("2 new jobs, 0 brought up to date"));
  CHECK_THAT(work.Attune({"merge", other.Store().string()}).out, Contains("0 new jobs, 0 brought"));
  // The same run under another daemon's number.
  CHECK_THAT(work.Attune({"import", log.string()}).out, Contains("known, nothing new"));

  const fs::path copy = work.Path() / "copy.db";
  CHECK(work.Attune({"backup", copy.string()}).status == 0);
  CHECK(work.Attune({"backup", copy.string()}).status == 3);
  std::ofstream(copy.string() + "-wal") << "what a killed program left";
  CHECK(work.Attune({"backup", copy.string(), "--force"}).status == 0);
  CHECK_FALSE(fs::exists(copy.string() + "-wal"));
  {  // another daemon goes on in the file that it has
    const StateLock held(other.Store().parent_path() / "attuned.lock");
    const Result refused = work.Attune({"backup", other.Store().string(), "--force"});
    CHECK(refused.status != 0);
    CHECK_THAT(refused.err, Contains("is in use by attuned"));
  }
  CHECK_THAT(work.Attune({"check"}).out, Contains("is whole"));
  sqlite::Database(copy, SQLITE_OPEN_READWRITE).Script("UPDATE jobs SET outcome = 9 WHERE id = 1");
  const Result broken = work.Attune({"check", copy.string(), "--format", "json"});
  CHECK(broken.status == 1);
  CHECK(nlohmann::json::parse(broken.out).size() == 1);

  const Result dry = work.Attune({"prune", "--larger-than", "0K", "--dry-run"});
  CHECK(dry.status == 0);
  CHECK_THAT(dry.out, Contains("would forget 1 jobs"));
  CHECK(Store(work.Store(), Store::Mode::kReadOnly).Jobs(10).size() == 2);
  const Result pruned = work.Attune({"prune", "--larger-than", "0K", "--format", "json"});
  CHECK(pruned.status == 0);
  CHECK(nlohmann::json::parse(pruned.out)[0]["name"] == "test");
  CHECK(Store(work.Store(), Store::Mode::kReadOnly).Jobs(10).size() == 1);
  CHECK_THAT(work.Attune({"prune", "--older-than", "1d"}).out, Contains("nothing to forget"));
  for (const char* age : {"30", "d", "1y", "-1d", "1dd"}) {
    CHECK(work.Attune({"prune", "--older-than", age}).status == 2);
  }
  CHECK(work.Attune({"prune"}).status == 2);
}

TEST_CASE("a history with a daemon is not merged into, because the daemon gives the numbers") {
  const Workplace work;
  const Workplace other;
  REQUIRE(other.Attune({"import", WriteLog(work.Path() / "logs", "one").string()}).status == 0);
  const StateLock daemon(work.Path() / "attuned.lock");
  for (const auto& words : std::vector<std::vector<std::string>>{
           {"merge", other.Store().string()},
           {"import", (work.Path() / "logs" / "one.attune").string()}}) {
    const Result result = work.Attune(words);
    CAPTURE(result.err);
    CHECK(result.status == 2);
    CHECK(Lines(result.err) == 1);
    CHECK_THAT(result.err, Contains(work.Path().string()));
    CHECK_FALSE(fs::exists(work.Store()));
  }
}

// What reads or writes the store of its state directory.
std::vector<std::vector<std::string>> StoreCommands(const Workplace& work) {
  return {{"jobs"},
          {"trials"},
          {"anomalies"},
          {"explain", "1"},
          {"prune", "--older-than", "1d"},
          {"backup", (work.Path() / "copy.db").string()},
          {"check"}};
}

// Every command refuses the store by one line with its name and `part`, and leaves it as it is.
void CheckRefused(const Workplace& work, const std::string& part) {
  const bool is_file = fs::is_regular_file(work.Store());
  const std::string bytes = is_file ? ReadFile(work.Store()) : "";
  const Workplace other;
  std::vector<std::vector<std::string>> commands = StoreCommands(work);
  for (auto& words : commands) words = work.Words(words);
  commands.push_back(other.Words({"merge", work.Store().string()}));
  std::vector<std::unique_ptr<Process>> processes;  // at once, as some of them wait
  for (const auto& words : commands) {
    processes.push_back(std::make_unique<Process>(work.Path(), words));
  }
  for (std::size_t i = 0; i < commands.size(); ++i) {
    const int status = processes[i]->Wait();
    const std::string error = processes[i]->Err();
    CAPTURE(commands[i][1], error);
    CHECK(status == 3);
    CHECK(processes[i]->Out().empty());
    CHECK(Lines(error) == 1);
    CHECK_THAT(error, Contains(work.Store().string()) && Contains(part));
  }
  CHECK_FALSE(fs::exists(other.Store()));
  CHECK_FALSE(fs::exists(work.Path() / "copy.db"));
  CHECK_FALSE(fs::exists(work.Path() / "copy.db.partial"));
  if (is_file) CHECK(ReadFile(work.Store()) == bytes);
}

// A store of many pages.
void Fill(const Workplace& work) {
  Store store(work.Store(), Store::Mode::kReadWrite);
  JobRecord job;
  job.id = 1;
  job.spec = TestJob("key");
  job.started = 1;
  job.ended = 2;
  job.outcome = Outcome::kFinished;
  store.Begin();
  store.Put(job);
  Trial trial;
  trial.job = 1;
  trial.setting = Setting::Neutral(2);
  trial.decider = "hand";
  trial.why = std::string(3000, 'w');
  for (trial.id = 1; trial.id <= 50; ++trial.id) store.Put(trial);
  store.Commit();
}

TEST_CASE("a store that is not there is refused by every command") {
  const Workplace work;
  CheckRefused(work, "start attuned or attune run first");
}

TEST_CASE("an empty file is refused by every command") {
  const Workplace work;
  { const std::ofstream empty(work.Store()); }
  CheckRefused(work, "start attuned or attune run first");
}

TEST_CASE("a file that is not SQLite's is refused by every command") {
  const Workplace work;
  std::ofstream(work.Store()) << std::string(5000, 'x');
  CheckRefused(work, "is not an SQLite file");
}

TEST_CASE("another program's database is refused by every command") {
  const Workplace work;
  sqlite::Database(work.Store(), SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE)
      .Script("CREATE TABLE theirs (x)");
  CheckRefused(work, "another program's database");
}

TEST_CASE("a truncated store is refused by every command") {
  const Workplace work;
  Fill(work);
  SECTION("within its first page") { fs::resize_file(work.Store(), 60); }
  SECTION("behind it") { fs::resize_file(work.Store(), 3 * 8192); }
  CheckRefused(work, "is damaged");
}

TEST_CASE("a store of a newer schema is refused by every command") {
  const Workplace work;
  Fill(work);
  sqlite::Database(work.Store(), SQLITE_OPEN_READWRITE).Script("PRAGMA user_version = 41");
  CheckRefused(work, "upgrade attune");
}

TEST_CASE("attune run does not upgrade a store that another attuned has") {
  const Workplace work;
  {
    sqlite::Database old(work.Store(), SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE);
    sqlite::Migrate(old, sqlite::Migrations().first(2));
  }
  const auto run = [&] { return work.Attune({"run", "--", "true"}); };
  const auto schema = [&] {
    return sqlite::Database(work.Store(), SQLITE_OPEN_READWRITE).Integer("PRAGMA user_version");
  };
  {
    const StateLock held(work.Path() / "attuned.lock");
    const Result refused = run();
    CHECK(refused.status != 0);
    CHECK_THAT(refused.err, Contains("in use by attuned"));
    CHECK(schema() == 2);
  }
  // Whether there is an attuned to start then or not.
  CHECK_THAT(run().err, Contains("has schema 2 and is brought up to date"));
  CHECK(schema() == sqlite::Migrations().size());
}

TEST_CASE("a directory in the store's place is refused by every command") {
  const Workplace work;
  fs::create_directory(work.Store());
  CheckRefused(work, "is a directory");
}

TEST_CASE("a store that may not be read is refused by every command") {
  if (geteuid() == 0) return;  // may read everything
  const Workplace work;
  Fill(work);
  chmod(work.Store().c_str(), 0);
  CheckRefused(work, "cannot open");
}

TEST_CASE("a store that another program has locked is refused by every command") {
  const Workplace work;
  Fill(work);
  // In a process of its own: this one's locks go when it closes the file once.
  int ready[2];
  REQUIRE(pipe(ready) == 0);
  const pid_t child = fork();
  if (child == 0) {
    sqlite::Database locker(work.Store(), SQLITE_OPEN_READWRITE);
    locker.Script("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; UPDATE jobs SET steps = 1");
    static_cast<void>(write(ready[1], "x", 1));
    pause();
  }
  char byte = 0;
  REQUIRE(read(ready[0], &byte, 1) == 1);
  CheckRefused(work, "is locked: another program");
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  close(ready[0]);
  close(ready[1]);
}

// --- completion, help and man pages ---

std::set<std::string> FlagsIn(const std::string& text) {
  const auto is_letter = [](char c) { return c >= 'a' && c <= 'z'; };
  std::set<std::string> flags;
  for (std::size_t at = text.find("--"); at != std::string::npos; at = text.find("--", at)) {
    std::size_t end = at + 2;
    if (end < text.size() && is_letter(text[end])) {
      while (end < text.size() && (is_letter(text[end]) || text[end] == '-')) ++end;
      flags.insert(text.substr(at, end - at));
    }
    at = end;
  }
  return flags;
}

// Without the fonts of roff and the backslashes before its hyphens.
std::string WithoutMarkup(const std::string& page) {
  std::string text;
  for (std::size_t at = 0; at < page.size(); ++at) {
    if (page[at] != '\\') {
      text += page[at];
    } else if (page.compare(at, 2, "\\f") == 0) {
      at += 2;
    }
  }
  return text;
}

class Completer {
 public:
  Completer() {
    std::ofstream(work_.Path() / "attune.bash")
        << work_.Run({ATTUNE_BINARY, "completion", "bash"}).out;
    std::ofstream(work_.Path() / "a file.db") << "x";
  }
  [[nodiscard]] const Workplace& Work() const { return work_; }

  // What bash offers for the last of the words.
  [[nodiscard]] std::vector<std::string> Offers(const std::vector<std::string>& words) const {
    std::vector<std::string> call = {
        "/bin/bash", "-c",
        R"(cd "$1" && source ./attune.bash && shift && COMP_WORDS=("$@") && COMP_CWORD=$(($# - 1)) &&
           _attune && printf '%s\n' "${COMPREPLY[@]}")",
        "bash", work_.Path().string()};
    call.insert(call.end(), words.begin(), words.end());
    const Result result = work_.Run(call);
    REQUIRE(result.err.empty());
    std::vector<std::string> offers;
    std::istringstream lines(result.out);
    for (std::string line; std::getline(lines, line);) {
      if (!line.empty()) offers.push_back(line);
    }
    return offers;
  }

 private:
  Workplace work_;
};

using Offered = std::vector<std::string>;

TEST_CASE("bash completes commands, verbs, flags, their values and files") {
  const Completer bash;
  CHECK(bash.Offers({"attune", "tri"}) == Offered{"trials"});
  CHECK(bash.Offers({"attune", "policy", ""}) == Offered{"list", "use"});
  CHECK(bash.Offers({"attune", "policy", "use", "k"}) == Offered{"keep", "kmeans"});
  CHECK(bash.Offers({"attune", "jobs", "--format", "j"})[0] == "json");
  CHECK(bash.Offers({"attune", "jobs", "--format", "=", "c"}) == Offered{"csv"});
  CHECK(bash.Offers({"attune", "jobs", "--format", "=", "csv", "--lim"}) == Offered{"--limit"});
  CHECK(bash.Offers({"attune", "run", "--policy", "net"}) == Offered{"network"});
  CHECK(bash.Offers({"attune", "merge", "attune.b"}) == Offered{"attune.bash"});
  CHECK(bash.Offers({"attune", "merge", "one.db", "a f"}) == Offered{"a file.db"});
  CHECK(bash.Offers({"attune", "run", "--windows", "9", "--", "a f"}) == Offered{"a file.db"});
  CHECK(bash.Offers({"attune", "sweep", "run", "--only", "a", "=", "1", "attune.b"}) ==
        Offered{"attune.bash"});
  CHECK(bash.Offers({"attune", "sweep", "run", "--only", "a", "="}).empty());
  CHECK(bash.Offers({"attune", "completion", "z"}) == Offered{"zsh"});
  CHECK(bash.Offers({"attune", "nonsense", "x"}).empty());
}

TEST_CASE("every flag of a command is in its help, its completion and the man page, and accepted") {
  const Completer bash;
  const Workplace& work = bash.Work();
  const std::string page = work.Run({ATTUNE_BINARY, "man", "attune"}).out;
  CHECK_THAT(page, StartsWith(".TH attune 1 ") && Contains(".SH NAME") && Contains(".SH EXIT"));
  for (const std::string& command : bash.Offers({"attune", ""})) {
    if (command == "help" || command == "version") continue;
    CAPTURE(command);
    const std::string help = work.Run({ATTUNE_BINARY, command, "--help"}).out;
    const auto offered = bash.Offers({"attune", command, "--"});
    REQUIRE_FALSE(offered.empty());
    // Its own part of the man page, where a flag is written \fB\-\-flag\fR.
    const auto start = page.find(".SS " + command + "\n");
    REQUIRE(start != std::string::npos);
    std::string part = page.substr(start, page.find(".SS ", start + 1) - start) +
                       page.substr(page.find(".SH COMMON FLAGS"));
    part = WithoutMarkup(part);
    const std::set<std::string> documented = FlagsIn(help);
    for (const std::string& flag : offered) {
      CAPTURE(flag);
      if (command != "run") {  // has every flag of attuned
        CHECK(documented.count(flag) == 1);
        CHECK(FlagsIn(part).count(flag) == 1);
      }
      const Result used = work.Run({ATTUNE_BINARY, command, flag, "--no-such-flag"});
      CHECK_THAT(used.err, !Contains("unknown flag " + flag + ";"));
    }
    for (const std::string& flag : documented) {
      CAPTURE(flag);
      const bool of_command = help.find("\n  " + flag) != std::string::npos;
      if (of_command) CHECK(std::ranges::find(offered, flag) != offered.end());
    }
  }
}

TEST_CASE("the daemon's man page has every flag of the daemon") {
  const Workplace work;
  std::string page = work.Run({ATTUNE_BINARY, "man", "attuned"}).out;
  std::erase(page, '\\');
  for (const Knob& knob : Knobs()) {
    CAPTURE(knob.name);
    CHECK_THAT(page, Contains("fB--" + std::string(knob.name) + "fR\n") &&
                         Contains(std::string(knob.help).substr(0, 20)));
  }
  CHECK(work.Run({ATTUNE_BINARY, "man", "ls"}).status == 2);
  CHECK_THAT(work.Run({ATTUNE_BINARY, "--help"}).out, !Contains("\n  man"));
}

TEST_CASE("zsh takes its script, where there is a zsh") {
  const Workplace work;
  const std::string script = work.Run({ATTUNE_BINARY, "completion", "zsh"}).out;
  CHECK_THAT(script, StartsWith("#compdef attune\n") && Contains("'attune jobs')"));
  if (!fs::exists("/usr/bin/zsh") && !fs::exists("/bin/zsh")) return;
  std::ofstream(work.Path() / "_attune") << script;
  CHECK(work.Run({"zsh", "-n", (work.Path() / "_attune").string()}).status == 0);
}

}  // namespace
}  // namespace attune::test
