// The program attune as people run it, against a store that the test fills and a daemon that the
// test plays.
#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <cmath>
#include <ctime>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <thread>
#include <variant>
#include <zmq.hpp>

#include "agent/client.h"
#include "collectors/codec.h"
#include "store/store.h"
#include "tests/process/process.h"

namespace attune::test {
namespace {

using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;
using nlohmann::json;

struct Result {
  int status = 0;
  std::string out;
  std::string err;
};

// A state directory, and attune run on it.
class Workplace {
 public:
  [[nodiscard]] std::filesystem::path Path() const { return directory_.Path(); }
  [[nodiscard]] std::string Endpoint() const {
    return "ipc://" + (Path() / "attuned.sock").string();
  }
  [[nodiscard]] Store History() const { return {Path() / "attune.db", Store::Mode::kReadWrite}; }

  // With the state directory behind the command's name.
  [[nodiscard]] Result Attune(std::vector<std::string> words,
                              const std::vector<std::string>& environment = {}) const {
    words.insert(words.begin() + 1, {"--config=/dev/null", "--state-directory=" + Path().string()});
    return Plain(std::move(words), environment);
  }
  [[nodiscard]] Result Plain(std::vector<std::string> words,
                             const std::vector<std::string>& environment = {}) const {
    words.insert(words.begin(), ATTUNE_BINARY);
    Process process(Path(), words, environment);
    const int status = process.Wait();
    return {status, process.Out(), process.Err()};
  }

 private:
  TemporaryDirectory directory_;
};

void SetFeature(State& state, std::size_t head, std::string_view name, float value) {
  state.tokens[head * kTokenFeatures + TokenFeature(name)] = value;
}

constexpr double kEnded = 1700000100;  // Unix time

JobRecord SampleJob(const std::string& key = "key") {
  JobRecord job;
  job.id = 1;
  job.spec.key = key;
  job.spec.name = "Öl, \"und\" Wasser";
  job.spec.topology.sites = {{"first", SiteKind::kSelf, true, 2, 8, 64},
                             {"second", SiteKind::kSelf, true, 2, 8, 64}};
  job.spec.budget = {BudgetKind::kSteps, 100, 0.01};
  job.started = 1700000000;
  job.ended = kEnded;
  job.outcome = Outcome::kFinished;
  job.steps = 100;
  job.compute_seconds = 12.5;
  job.loss = 1.5;
  job.validation_loss = 1.625;
  return job;
}

// A decision to keep. Every head is active and has scale 2.
Trial SampleTrial(std::uint64_t id) {
  Trial trial;
  trial.id = id;
  trial.job = 1;
  trial.window = static_cast<std::uint32_t>(id);
  trial.step = 10 * id;
  trial.loss = 2.25;
  trial.imbalance = 0.1;
  trial.state.site_offsets = {0, 2, 4};
  trial.state.tokens.assign(4 * kTokenFeatures, 0.0F);
  for (std::size_t head = 0; head < 4; ++head) {
    SetFeature(trial.state, head, "active", 1);
    SetFeature(trial.state, head, "scale", std::log(2.0F) / std::log(16.0F));
  }
  trial.mask.scale.assign(4, {1, 1, 1, 1, 1});
  trial.mask.count.assign(2, {1, 0, 1, 0, 0});
  trial.action = Action::Keep(4, 2);
  trial.setting = {{2, 2, 2, 2}, {1, 1, 1, 1}, {1, 1, 1, 1}};
  trial.decider = "keep";
  trial.why = "all is well";
  trial.reward = 0.25;
  return trial;
}

// Trial 1 keeps; 2 switches head 1 of `second` off; 3 was refused; 4 takes 2 back.
void Fill(const Workplace& work, const std::string& key = "key", double ended = kEnded) {
  Store store = work.History();
  JobRecord job = SampleJob(key);
  job.ended = ended;
  store.Put(job);
  store.Put(SampleTrial(1));

  Trial removal = SampleTrial(2);
  removal.decider = "kmeans";
  removal.why = "head 1 of second repeats head 0";
  removal.setting.active[3] = 0;
  removal.acknowledgement = {AckStatus::kApplied, 22, ""};
  removal.reward = -0.5;
  SetFeature(removal.state, 3, "redundancy", 0.875F);
  store.Put(removal);

  Trial refused = SampleTrial(3);
  refused.decider = "network";
  refused.state = removal.state;
  SetFeature(refused.state, 3, "active", 0);
  refused.setting = removal.setting;
  refused.setting.scale[0] = 3;
  refused.acknowledgement = {AckStatus::kRejected, 31, "no room\nfor it"};
  refused.reward.reset();
  store.Put(refused);

  Trial rollback = SampleTrial(4);
  rollback.decider = "governor";
  rollback.why = "the loss fell behind its forecast";
  rollback.state = refused.state;
  rollback.action.reset();
  rollback.acknowledgement = {AckStatus::kApplied, 42, ""};
  rollback.reward = 0.75;
  store.Put(rollback);

  const std::vector<Anomaly> anomalies = {{1, 1, 10, 20, 1.5F, AnomalyKind::kDormant}};
  store.PutAnomalies(1, anomalies);
}

// Answers what the command line asks, on a thread, as a daemon would.
class PlayedDaemon {
 public:
  PlayedDaemon(const std::string& endpoint, Message adjust_answer)
      : socket_(context_, zmq::socket_type::router), adjust_answer_(std::move(adjust_answer)) {
    socket_.set(zmq::sockopt::linger, 0);
    socket_.set(zmq::sockopt::rcvtimeo, 20);
    socket_.bind(endpoint);
    thread_ = std::thread([this] { Serve(); });
  }
  ~PlayedDaemon() {
    stop_ = true;
    thread_.join();
  }
  PlayedDaemon(const PlayedDaemon&) = delete;
  PlayedDaemon& operator=(const PlayedDaemon&) = delete;

  // What was asked last; it has been answered.
  [[nodiscard]] Message Heard() {
    const std::lock_guard lock(mutex_);
    return heard_;
  }

 private:
  void Serve() {
    Status status;
    status.version = "0.1.0";
    status.policy = "auto";
    status.jobs.resize(1);
    status.jobs[0].id = 1;
    status.jobs[0].key = "another";
    status.jobs[0].name = "small";
    while (!stop_) {
      zmq::message_t peer;
      zmq::message_t frame;
      if (!socket_.recv(peer) || !socket_.recv(frame)) continue;
      const Message question = Decode({static_cast<const std::byte*>(frame.data()), frame.size()});
      const std::string answer = Encode(
          std::holds_alternative<StatusRequest>(question) ? Message(status) : adjust_answer_);
      {
        const std::lock_guard lock(mutex_);
        heard_ = question;
      }
      socket_.send(peer, zmq::send_flags::sndmore);
      socket_.send(zmq::buffer(answer), zmq::send_flags::none);
    }
  }

  zmq::context_t context_;
  zmq::socket_t socket_;
  Message adjust_answer_;
  std::mutex mutex_;
  Message heard_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

TEST_CASE("help and version need nothing and say what there is") {
  const Workplace work;
  for (const char* word : {"--version", "version"}) {
    const Result version = work.Plain({word});
    CHECK(version.status == 0);
    CHECK(version.out == "attune 0.1.0\n");
  }
  const Result help = work.Plain({"--help"});
  CHECK(help.status == 0);
  for (const char* command :
       {"run", "status", "jobs", "trials", "anomalies", "explain", "adjust", "policy"}) {
    CHECK_THAT(help.out, Contains(std::string("\n  ") + command + " "));
    const Result own = work.Plain({command, "--help"});
    CHECK(own.status == 0);
    CHECK_THAT(own.out, Contains(std::string("Usage: attune ") + command));
    CHECK_THAT(own.out, Contains("--state-directory"));
    CHECK_THAT(own.out, Contains(std::string("Example: attune ") + command));
  }
}

TEST_CASE("a mistyped command or flag is one line with what was meant, and exit status 2") {
  const Workplace work;
  const auto refused = [&](const std::vector<std::string>& words, const std::string& part) {
    const Result result = work.Plain(words);
    CAPTURE(words, result.err);
    CHECK(result.status == 2);
    CHECK(result.out.empty());
    CHECK_THAT(result.err, StartsWith("attune") && Contains(part));
    CHECK(std::ranges::count(result.err, '\n') == 1);
  };
  refused({"trails"}, "did you mean trials?");
  refused({"stats"}, "did you mean status?");
  refused({"trials", "--jop", "3"}, "did you mean --job?");
  refused({"run", "--polcy", "keep", "--", "true"}, "did you mean --policy?");
  refused({"jobs", "--limit", "few"}, "limit");
  refused({"jobs", "--limit", "-1"}, "negative");
  refused({"jobs", "--limit=-1"}, "negative");
  refused({"jobs", "--format", "xml"}, "table, json, jsonl or csv");
  refused({"jobs", "extra"}, "--help");
  refused({"explain"}, "which trial");
  refused({"run"}, "behind --");
  refused({"run", "true"}, "behind --");
  refused({"run", "--windows", "1", "--", "true"}, "windows");
  refused({"run", "--report", "/nowhere/report.json", "--", "true"}, "/nowhere/report.json");
  refused({"adjust", "1"}, "adjust what");
  refused({"adjust", "--scale", "2"}, "which job");
  refused({"adjust", "1", "--scale", "17"}, "0.0625 to 16");
  refused({"adjust", "1", "--gain", "nan"}, "0 to 16");
  refused({"adjust", "1", "--head", "0", "--active-heads", "1"}, "one of the two");
  refused({"adjust", "1", "--active-heads", "0"}, "would leave none");
  refused({"adjust", "1", "--neutral", "--scale", "2"}, "without the others");
  refused({"policy", "drop"}, "drop");
  refused({"policy", "use"}, "which policy");
  refused({"jobs", "--config", "/nowhere"}, "/nowhere");
  CHECK_THAT(work.Plain({"zzzzzzzz"}).err, !Contains("did you mean"));
  CHECK(work.Plain({}).status == 2);
}

TEST_CASE("without a store the history commands fail and name the file") {
  const Workplace work;
  for (const auto& words : std::vector<std::vector<std::string>>{
           {"jobs"}, {"trials"}, {"anomalies"}, {"explain", "1"}}) {
    const Result result = work.Attune(words);
    CAPTURE(words);
    CHECK(result.status == 3);
    CHECK_THAT(result.err, Contains((work.Path() / "attune.db").string()));
    CHECK(std::ranges::count(result.err, '\n') == 1);
  }
  CHECK_FALSE(std::filesystem::exists(work.Path() / "attune.db"));
}

TEST_CASE("an empty store has nothing to show, and says so by exit status 1") {
  const Workplace work;
  { const Store created = work.History(); }
  for (const auto& words : std::vector<std::vector<std::string>>{
           {"jobs"}, {"trials"}, {"anomalies"}, {"explain", "1"}}) {
    const Result result = work.Attune(words);
    CAPTURE(words);
    CHECK(result.status == 1);
    CHECK(result.out.empty());
    CHECK(std::ranges::count(result.err, '\n') == 1);
  }
  const Result list = work.Attune({"jobs", "--format", "json"});
  CHECK(list.status == 1);
  CHECK(json::parse(list.out) == json::array());
}

TEST_CASE("the lists show what the store holds, in every format") {
  const Workplace work;
  Fill(work);
  const Result table = work.Attune({"jobs"});
  CHECK(table.status == 0);
  CHECK_THAT(table.out, Contains("Öl, \"und\" Wasser") && Contains("finished") &&
                            Contains("2023-11-14T22:13:20Z"));

  const json jobs = json::parse(work.Attune({"jobs", "--format", "json"}).out);
  REQUIRE(jobs.size() == 1);
  CHECK(jobs[0]["name"] == "Öl, \"und\" Wasser");
  CHECK(jobs[0]["validation_loss"] == 1.625);
  CHECK(jobs[0]["trials"] == 4);

  const std::string csv = work.Attune({"jobs", "--format=csv"}, {"LC_ALL=de_DE.UTF-8"}).out;
  CHECK_THAT(csv,
             Contains("\r\n1,\"Öl, \"\"und\"\" Wasser\",finished,2023-11-14T22:13:20Z,100,12.5,"
                      "1.5,1.625,4,2,4,0,\r\n"));

  const json trials = json::parse(work.Attune({"trials", "--format", "json"}).out);
  REQUIRE(trials.size() == 4);
  CHECK(trials[0]["trial"] == 4);
  CHECK(trials[1]["reward"].is_null());
  CHECK(trials[2]["active_heads"] == 3);
  CHECK(trials[2]["ack_step"] == 22);
  CHECK(json::parse(work.Attune({"trials", "--limit", "1", "--format", "json"}).out).size() == 1);
  CHECK(work.Attune({"trials", "--job", "9"}).status == 1);
  // A trainer's words stay on their line.
  CHECK(std::ranges::count(work.Attune({"trials"}).out, '\n') == 5);

  const json anomalies = json::parse(work.Attune({"anomalies", "--format", "json"}).out);
  REQUIRE(anomalies.size() == 1);
  CHECK(anomalies[0]["site"] == "second");
  CHECK(anomalies[0]["kind"] == "dormant");
  CHECK(work.Attune({"anomalies", "--job", "9"}).status == 1);
}

TEST_CASE("lists are filtered, sorted, paged and grouped from the command line") {
  const Workplace work;
  Fill(work);
  const auto lines = [&](std::vector<std::string> words) {
    words.insert(words.end(), {"--format", "jsonl"});
    const Result result = work.Attune(words);
    std::vector<json> rows;
    std::istringstream stream(result.out);
    for (std::string line; std::getline(stream, line);) rows.push_back(json::parse(line));
    return rows;
  };
  CHECK(lines({"trials", "--sort", "trial"}).front().at("trial") == 1);
  CHECK(lines({"trials", "--where", "trial in (2, 3)", "--sort", "trial"}).size() == 2);
  CHECK(lines({"trials", "--where", "job = 9"}).empty());
  const Result page = work.Attune({"trials", "--sort", "trial", "--limit", "2"});
  CHECK(page.err == "there are more: --after 2\n");
  CHECK(lines({"trials", "--sort", "trial", "--after", "2"}).front().at("trial") == 3);
  const auto groups = lines({"trials", "--group-by", "job", "--show", "count,max(trial)"});
  REQUIRE(groups.size() == 1);
  CHECK(groups[0].at("count") == 4);
  CHECK(groups[0].at("max(trial)") == 4);
  CHECK(lines({"anomalies", "--group-by", "kind"}).at(0).at("kind") == "dormant");
  const Result typo = work.Attune({"trials", "--where", "trail = 2"});
  CHECK(typo.status == 2);
  CHECK(typo.err ==
        "attune trials: --where, column 1: there is no field 'trail'; did you mean "
        "trial?\n");
}

TEST_CASE("sql answers a question, and refuses to write") {
  const Workplace work;
  Fill(work);
  const Result answer =
      work.Attune({"sql", "SELECT count(*) AS n FROM history_trials", "--format", "csv"});
  CHECK(answer.out == "n\r\n4\r\n");
  CHECK(work.Attune({"sql", "SELECT 1 WHERE 0"}).status == 1);
  const Result refused = work.Attune({"sql", "DELETE FROM trials"});
  CHECK(refused.status == 2);
  CHECK_THAT(refused.err, Contains("this only reads"));
}

TEST_CASE("compare shows two jobs side by side, with their differences") {
  const Workplace work;
  Fill(work);
  {
    Store store = work.History();
    JobRecord other = SampleJob("other");
    other.id = 2;
    other.validation_loss = 1.5;
    store.Put(other);
  }
  const json rows = json::parse(work.Attune({"compare", "1", "2", "--format", "json"}).out);
  const auto row =
      std::ranges::find_if(rows, [](const json& each) { return each.at("") == "validation_loss"; });
  REQUIRE(row != rows.end());
  CHECK(row->at("job 1") == 1.625);
  CHECK(row->at("job 2") == 1.5);
  CHECK(row->at("difference") == -0.125);
  CHECK(work.Attune({"compare", "1", "7"}).status == 1);
  CHECK(work.Attune({"compare", "1"}).status == 2);
}

TEST_CASE("explain shows what other jobs did in the situations most like it, nearest first") {
  const Workplace work;
  Fill(work);
  {
    Store store = work.History();
    for (const std::uint64_t id : {2, 3, 4, 5}) {  // the later, the more redundant its last head
      JobRecord job = SampleJob("job " + std::to_string(id));
      job.id = id;
      job.spec.name = "job" + std::to_string(id);
      store.Put(job);
      Trial trial = SampleTrial(10 + id);
      trial.job = id;
      trial.why = "as job " + std::to_string(id);
      trial.acknowledgement = {AckStatus::kApplied, 22, ""};
      SetFeature(trial.state, 3, "redundancy", 0.1F * static_cast<float>(id));
      store.Put(trial);
    }
  }
  const auto near = [&](const char* trial) {
    std::vector<int> jobs;
    const json object = json::parse(work.Attune({"explain", trial, "--format", "json"}).out);
    const std::string line = work.Attune({"explain", trial, "--format", "jsonl"}).out;
    CHECK(json::parse(line) == object);
    CHECK(line.find('\n') == line.size() - 1);
    for (const json& other : object["nearest"]) jobs.push_back(other["job"]);
    return jobs;
  };
  CHECK(near("1") == std::vector<int>{2, 3, 4});  // not redundant at all
  CHECK(near("2") == std::vector<int>{5, 4, 3});  // 0.875
  const std::string text = work.Attune({"explain", "1"}).out;
  CHECK_THAT(text, Contains("what was done in the situations most like it:\n"
                            "  trial 12 · job 2 'job2' · keep · as job 2 · +0.2500 nats\n"));
}

TEST_CASE("explain says what a trial decided, why, and what came of it") {
  const Workplace work;
  Fill(work);
  const Result removal = work.Attune({"explain", "2"});
  CHECK(removal.status == 0);
  CHECK_THAT(removal.out, Contains("kmeans decided: second 2→1 heads\n"));
  CHECK_THAT(removal.out, Contains("because: head 1 of second repeats head 0\n"));
  CHECK_THAT(removal.out, Contains("trainer: applied at step 22\n"));
  CHECK_THAT(removal.out, Contains("-0.5000 nats"));
  CHECK_THAT(removal.out, Contains("redundancy 0.875"));
  CHECK_THAT(removal.out, !Contains("first head"));  // nothing changed there

  const Result kept = work.Attune({"explain", "1"});
  CHECK_THAT(kept.out, Contains("keep decided: to keep everything as it is") &&
                           Contains("nothing was asked of it"));

  const Result refused = work.Attune({"explain", "3"});
  CHECK_THAT(refused.out, Contains("rejected at step 31: no room for it\n") &&
                              Contains("not known yet") && Contains("scale of 1 heads"));

  const json rollback = json::parse(work.Attune({"explain", "4", "--format", "json"}).out);
  CHECK(rollback["decider"] == "governor");
  REQUIRE(rollback["changed_heads"].size() == 1);
  CHECK(rollback["changed_heads"][0]["site"] == "second");
  CHECK(rollback["changed_heads"][0]["head"] == 1);
  CHECK(rollback["changed_heads"][0]["active_before"] == 0);
  CHECK(rollback["changed_heads"][0]["active_after"] == 1);
  CHECK(rollback["changed_heads"][0]["state"]["redundancy"] == 0.875);

  CHECK(work.Attune({"explain", "99"}).status == 1);
}

TEST_CASE("a change by hand is explained before anything was measured, and with its gains") {
  const Workplace work;
  Fill(work);
  Trial trial = SampleTrial(5);
  trial.decider = "hand";
  trial.action.reset();
  trial.state.tokens.assign(trial.state.tokens.size(), 0.0F);
  trial.setting.gain[1] = 0.5F;
  trial.acknowledgement = {AckStatus::kPending, 0, ""};
  work.History().Put(trial);
  const json hand = json::parse(work.Attune({"explain", "5", "--format", "json"}).out);
  REQUIRE(hand["changed_heads"].size() == 1);
  CHECK(hand["changed_heads"][0]["site"] == "first");
  CHECK(hand["changed_heads"][0]["head"] == 1);
  CHECK(hand["changed_heads"][0]["gain_before"] == 1.0);
  CHECK(hand["changed_heads"][0]["gain_after"] == 0.5);
}

TEST_CASE("policies are listed without a daemon and without a store") {
  const Workplace work;
  const Result rules = work.Attune({"policy", "list", "--format", "json"});
  CHECK(rules.status == 0);
  std::set<std::string> names;
  for (const json& row : json::parse(rules.out)) names.insert(row["name"]);
  CHECK(names == std::set<std::string>{"auto", "network", "keep", "random", "kmeans", "qk_clip",
                                       "importance", "explore", "external"});
  work.History().Put(PolicyRecord{"network", 3, 1700000000, "network.pt", 512, "cloned"});
  CHECK_THAT(work.Attune({"policy", "list"}).out,
             Contains("network.pt") && Contains("2023-11-14T22:13:20Z"));
}

TEST_CASE("commands that need a daemon say at once that none is there") {
  const Workplace work;
  for (const auto& words : std::vector<std::vector<std::string>>{
           {"status"}, {"adjust", "1", "--scale", "2"}, {"policy", "use", "keep"}}) {
    const Result result = work.Attune(words);
    CAPTURE(words);
    CHECK(result.status == 3);
    CHECK_THAT(result.err, Contains("no attuned answers at " + work.Endpoint()));
  }
}

TEST_CASE("a daemon's answers are passed on, its refusals by exit status 1") {
  const Workplace work;
  {
    PlayedDaemon daemon(work.Endpoint(), Reply{true, "job 1 will have scale 2"});
    const json status = json::parse(work.Attune({"status", "--format", "json"}).out);
    CHECK(status["policy"] == "auto");
    CHECK(status["jobs"][0]["name"] == "small");
    const Result adjusted = work.Attune({"adjust", "1", "--scale", "2"});
    CHECK(adjusted.status == 0);
    CHECK(adjusted.out == "job 1 will have scale 2\n");
    CHECK(work.Attune({"adjust", "1", "--neutral"}).status == 0);
    const auto undo = std::get<Adjust>(daemon.Heard());
    CHECK(undo.scale == 1.0F);
    CHECK(undo.gain == 1.0F);
    CHECK(undo.active_heads == 0U);
    CHECK(work.Attune({"policy", "use", "keep", "--job", "3"}).status == 0);
    CHECK(std::get<UsePolicy>(daemon.Heard()).job == 3U);
    CHECK(work.Attune({"policy", "use", "keep"}).status == 0);
    CHECK_FALSE(std::get<UsePolicy>(daemon.Heard()).job);
  }
  const PlayedDaemon daemon(work.Endpoint(), Reply{false, "there is no job 9"});
  const Result refused = work.Attune({"adjust", "9", "--scale", "2"});
  CHECK(refused.status == 1);
  CHECK(refused.err == "attune: there is no job 9\n");
}

TEST_CASE("run exits as its command does, and says when that never spoke to attuned") {
  const Workplace work;
  Fill(work);
  const PlayedDaemon daemon(work.Endpoint(), Reply{true, ""});
  const auto run = [&](const std::vector<std::string>& command) {
    std::vector<std::string> words = {"run", "--"};
    words.insert(words.end(), command.begin(), command.end());
    return work.Attune(words);
  };
  const Result quiet = run({"true"});
  CHECK(quiet.status == 0);
  CHECK_THAT(quiet.err, Contains("true never said hello") && Contains("give it a probe"));
  CHECK(run({"false"}).status == 1);
  CHECK(run({"sh", "-c", "exit 7"}).status == 7);
  CHECK(run({"sh", "-c", "kill -9 $$"}).status == 128 + 9);
  const Result missing = run({"no-such-trainer"});
  CHECK(missing.status == 127);
  CHECK_THAT(missing.err, Contains("cannot start no-such-trainer: No such file"));
  // The command's words are its own, also where they look like attune's.
  CHECK(run({"echo", "--help", "--"}).out == "--help --\n");
  CHECK_THAT(run({"sh", "-c", "echo $ATTUNE_ENDPOINT; echo ${#ATTUNE_JOB}"}).out,
             Contains(work.Endpoint() + "\n32\n"));
  CHECK_THAT(work.Attune({"run", "--policy", "keep", "--", "true"}).err,
             Contains("running already, so these are not used: --policy"));
}

TEST_CASE("TERM goes to the command, and attune run lives to tell how it ended") {
  const Workplace work;
  Fill(work);
  const PlayedDaemon daemon(work.Endpoint(), Reply{true, ""});
  const auto ready = work.Path() / "ready";
  Process run(work.Path(), {ATTUNE_BINARY, "run", "--config=/dev/null",
                            "--state-directory=" + work.Path().string(), "--", "sh", "-c",
                            "trap 'echo asked to end; exit 5' TERM; touch " + ready.string() +
                                "; while :; do sleep 0.05; done"});
  REQUIRE(Eventually([&] { return std::filesystem::exists(ready); }));
  run.Signal(SIGTERM);
  CHECK(run.Wait() == 5);
  CHECK(run.Out() == "asked to end\n");
  CHECK_THAT(run.Err(), Contains("never said hello"));
}

TEST_CASE("run reports what was tried and what came of it") {
  const Workplace work;
  { const Store created = work.History(); }
  const PlayedDaemon daemon(work.Endpoint(), Reply{true, ""});
  const auto key_file = work.Path() / "key";
  const auto go_file = work.Path() / "go";
  const auto report_file = work.Path() / "report.json";
  Process run(work.Path(), {ATTUNE_BINARY, "run", "--config=/dev/null",
                            "--state-directory=" + work.Path().string(),
                            "--report=" + report_file.string(), "--", "sh", "-c",
                            "echo $ATTUNE_JOB > " + key_file.string() + "; until [ -e " +
                                go_file.string() + " ]; do sleep 0.05; done"});
  REQUIRE(Eventually([&] { return ReadFile(key_file).size() == 33; }));
  // What the daemon would have stored.
  Fill(work, ReadFile(key_file).substr(0, 32), static_cast<double>(std::time(nullptr)) + 1);
  std::ofstream(go_file) << "go";
  REQUIRE(run.Wait() == 0);

  const json report = json::parse(ReadFile(report_file));
  CHECK(report["job"] == 1);
  CHECK(report["outcome"] == "finished");
  CHECK(report["trials"] == 4);
  CHECK(report["deciders"] == json({{"governor", 1}, {"keep", 1}, {"kmeans", 1}, {"network", 1}}));
  CHECK(report["applied"] == 2);
  CHECK(report["rejected"] == 1);
  CHECK(report["expired"] == 0);
  CHECK(report["rolled_back"] == 1);
  CHECK(report["reward"].get<double>() == Approx(0.25 - 0.5 + 0.75));
  CHECK(report["active_heads"] == json({{"first", 2}, {"second", 2}}));
  CHECK(report["steps"] == 100);
  CHECK(report["validation_loss"] == 1.625);
  CHECK_THAT(run.Err(), Contains("tried: 4 trials") && Contains("attune explain") &&
                            Contains("as before in 2 sites") && Contains("scales 2 to 2"));
}

}  // namespace
}  // namespace attune::test
