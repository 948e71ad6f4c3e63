#include "agent/tracker.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/agent/jobs.h"
#include "tests/process/process.h"

namespace attune {
namespace {

using Catch::Matchers::Contains;

Options TenWindows() {
  Options options;
  options.windows = 10;
  options.policy = "keep";
  return options;
}

// The step at which the first of those windows is over: they are ten steps each, but the first is
// cut at a quarter and a half.
constexpr std::uint64_t kFirstEnd = 3;

// A tracker with its chain and counter, and everything it emitted.
struct Bench {
  explicit Bench(const Options& options = TenWindows(), const Hello& hello = test::SmallJob())
      : chain(options.policy),
        tracker(1, hello, options, 0, std::nullopt, {}),
        setting(hello.setting) {}

  Emission Step(std::uint64_t step, double loss) {
    Emission emission = tracker.Take(test::HealthyStep(step, loss, setting), chain, trial_id);
    for (const Record& record : emission.records) records.push_back(record);
    return emission;
  }
  template <typename T>
  [[nodiscard]] std::vector<T> Of() const {
    std::vector<T> found;
    for (const Record& record : records) {
      if (const T* value = std::get_if<T>(&record)) found.push_back(*value);
    }
    return found;
  }

  Chain chain;
  Tracker tracker;
  Setting setting;
  std::uint64_t trial_id = 0;
  std::vector<Record> records;
};

TEST_CASE("steps beyond the budget at the usual cost save nothing, cheaper ones what they save") {
  const double step_cost = GENERATE(1.0, 0.5);  // behind the budget's end
  Hello hello = test::SmallJob();
  hello.job.budget = {BudgetKind::kSteps, 100, 0.01};
  Bench bench(TenWindows(), hello);
  for (std::uint64_t step = 1; step <= 200; ++step) {
    Observation observation = test::HealthyStep(step, 5.0, bench.setting);
    if (step > 100) observation.compute_seconds = 100 + step_cost * double(step - 100);
    for (const Record& record :
         bench.tracker.Take(observation, bench.chain, bench.trial_id).records) {
      bench.records.push_back(record);
    }
  }
  const double spent = 100 + step_cost * 100;
  const Emission end = bench.tracker.Take(Bye{Outcome::kFinished, 200, spent, 5.0}, 0);
  for (const Record& record : end.records) bench.records.push_back(record);
  // Ten windows of ten steps at 10 s each are behind the budget's end; a window's 10 s are 0.01
  // nats.
  CHECK(bench.Of<RewardRecord>().back().reward == Approx(0.01 * 10 * (1 - step_cost)).margin(1e-9));
}

TEST_CASE("a recorded baseline has each head as it was when it was last active") {
  const test::TemporaryDirectory home;
  Store store(home.Path() / "attune.db", Store::Mode::kReadWrite);
  const Hello hello = test::SmallJob();
  Bench bench;
  for (std::uint64_t step = 1; step <= 20; ++step) bench.Step(step, 5.0);
  store.Put(bench.tracker.Record());
  auto windows = bench.Of<ObservationRecord>();
  REQUIRE(windows.size() >= 2);
  WindowReading& seen = windows[windows.size() - 2].reading;
  std::fill_n(seen.profile.begin(), kProfileBins, 0.0F);
  seen.profile[3] = 1;
  WindowReading& last = windows.back().reading;
  last.active[0] = 0;
  std::fill_n(last.profile.begin(), kProfileBins, 0.0F);
  for (const ObservationRecord& window : windows) store.Put(window);
  Options options = TenWindows();
  options.baseline = "1";
  const auto baseline = RecordedBaseline(store, options, hello.job.topology);
  REQUIRE(baseline);
  CHECK(baseline->kind == BaselineKind::kRecorded);
  CHECK(baseline->profile == BaselineFrom(BaselineKind::kRecorded, seen.profile).profile);
  options.baseline = "2";
  CHECK_FALSE(RecordedBaseline(store, options, hello.job.topology));
}

TEST_CASE("a window of the budget makes one trial at its end, and the first is cut in three") {
  Bench bench;
  for (std::uint64_t step = 1; step <= 30; ++step) bench.Step(step, 5.0);
  const auto trials = bench.Of<Trial>();
  REQUIRE(trials.size() == 5);
  CHECK(trials[0].id == 1);
  CHECK(trials[0].step == 3);
  CHECK(trials[0].window == 0);
  CHECK(trials[1].step == 5);
  CHECK(trials[2].step == 10);
  CHECK(trials[3].step == 20);
  CHECK(trials[4].step == 30);
  CHECK(trials[0].decider == "keep");
  CHECK(trials[0].acknowledgement.status == AckStatus::kNone);
}

// A job whose plan begins before the first step, with one head of each site.
Hello OpeningJob() {
  Hello hello = test::SmallJob();
  hello.job.policy = "explore";
  hello.job.learning_rate = 0.02;
  for (int number = 0; number < 1000; ++number) {
    hello.job.key = "run " + std::to_string(number);
    Bench bench(TenWindows(), hello);
    const Emission emission = bench.tracker.Open(bench.chain, bench.trial_id);
    const auto& trial = std::get<Trial>(emission.records.front());
    if (trial.why.starts_with("its plan: 0 of the heads from the first step")) return hello;
  }
  throw std::runtime_error("no plan begins before the first step");
}

ActionReply AppliedAt(std::uint64_t id, std::uint64_t step) {
  return {id, {AckStatus::kApplied, step, ""}};
}

TEST_CASE("before the first step decisions follow each other until one keeps what there is") {
  Bench bench(TenWindows(), OpeningJob());
  std::vector<std::size_t> active;
  while (bench.tracker.IsOpening()) {
    REQUIRE(bench.tracker.Opens());
    const Emission emission = bench.tracker.Open(bench.chain, bench.trial_id);
    const auto& trial = std::get<Trial>(emission.records.front());
    CHECK(trial.step == 0);
    CHECK(trial.window == 0);
    CHECK(IsOpening(trial));
    active.push_back(CountActive(trial.setting.active));
    if (!emission.action) {
      CHECK(trial.acknowledgement.status == AckStatus::kNone);
      continue;
    }
    CHECK(emission.action->setting == trial.setting);
    CHECK(emission.action->expires_step == 0);
    CHECK_FALSE(bench.tracker.Opens());  // before the trainer has answered
    CHECK(bench.tracker.Open(bench.chain, bench.trial_id).records.empty());
    CHECK(bench.tracker.Take(AppliedAt(emission.action->id, 0)).records.size() == 1);
    bench.setting = trial.setting;
  }
  CHECK(active == std::vector<std::size_t>{4, 2, 2});
  // Its windows are those of any other job, and its first trial the first with a reward.
  for (std::uint64_t step = 1; step <= 30; ++step) bench.Step(step, 5.0);
  const auto trials = bench.Of<Trial>();
  REQUIRE(trials.size() == 5);
  CHECK(trials[0].id == 4);
  CHECK(trials[0].window == 0);
  CHECK(bench.Of<RewardRecord>().front().trial == 4);
}

TEST_CASE(
    "once the trainer has gone on or refused, nothing more is decided before the first step") {
  Bench bench(TenWindows(), OpeningJob());
  const Emission emission = bench.tracker.Open(bench.chain, bench.trial_id);
  REQUIRE(emission.action);
  SECTION("the trainer has gone on") {
    bench.Step(1, 5.0);
    CHECK_FALSE(bench.tracker.IsOpening());
    CHECK(bench.tracker.IsPending(emission.action->id));
  }
  SECTION("it came too late") {
    static_cast<void>(
        bench.tracker.Take(ActionReply{emission.action->id, {AckStatus::kExpired, 1, ""}}));
    CHECK_FALSE(bench.tracker.IsOpening());
  }
  SECTION("it was applied behind that step all the same") {
    static_cast<void>(bench.tracker.Take(AppliedAt(emission.action->id, 1)));
    CHECK_FALSE(bench.tracker.IsOpening());
  }
  SECTION("the trainer refused it") {
    static_cast<void>(bench.tracker.Take(
        ActionReply{emission.action->id, {AckStatus::kRejected, 0, "it cannot"}}));
    CHECK_FALSE(bench.tracker.IsOpening());
  }
  CHECK(bench.tracker.Open(bench.chain, bench.trial_id).records.empty());
}

TEST_CASE("the change budget holds before the first step too") {
  Options options = TenWindows();
  options.change_budget = 0.25;
  Bench bench(options, OpeningJob());
  const Emission emission = bench.tracker.Open(bench.chain, bench.trial_id);
  REQUIRE(emission.action);
  CHECK(CountActive(emission.action->setting.active) == 6);  // of 8, in one site
  CHECK(IsOpening(std::get<Trial>(emission.records.front())));
}

TEST_CASE("a job that goes on, and one whose policy goes by measurements, is not opened") {
  Hello hello = OpeningJob();
  SECTION("from a checkpoint") { hello.step = 10; }
  SECTION("of keep") { hello.job.policy = "keep"; }
  SECTION("of kmeans") { hello.job.policy = "kmeans"; }
  SECTION("of a policy server") { hello.job.policy = "external"; }
  SECTION("of a network that there is not") { hello.job.policy = "network"; }
  Options options = TenWindows();
  SECTION("that is frozen") { options.freeze = 1; }
  Bench bench(options, hello);
  CHECK(bench.tracker.Open(bench.chain, bench.trial_id).records.empty());
  CHECK_FALSE(bench.tracker.IsOpening());
  CHECK(bench.trial_id == 0);
}

TEST_CASE("of a job whose weights were trained before the largest steps of a scale are closed") {
  const auto open = [](std::uint64_t step, bool fresh) {
    Hello hello = test::SmallJob();
    hello.step = step;
    hello.job.fresh = fresh;
    Chain chain("keep");
    Tracker tracker(1, hello, TenWindows(), 0, std::nullopt, {});
    CHECK(tracker.Record().spec.fresh == (fresh && step < 20));
    std::uint64_t id = 0;
    for (std::uint64_t now = step + 1;; ++now) {
      const Emission emission = tracker.Take(test::HealthyStep(now, 2.0, hello.setting), chain, id);
      for (const Record& record : emission.records) {
        if (const auto* trial = std::get_if<Trial>(&record)) return trial->mask.scale[0];
      }
    }
  };
  CHECK(open(1, false) == std::array<std::uint8_t, 5>{0, 1, 1, 1, 0});
  CHECK(open(0, true) == std::array<std::uint8_t, 5>{1, 1, 1, 1, 1});
  CHECK(open(1, true).front() == 1);   // of several ranks
  CHECK(open(20, true).front() == 0);  // twenty steps before anybody listened
}

TEST_CASE("a job that was fresh when it began is, also where it is back before its first window") {
  Hello hello = test::SmallJob();
  hello.step = 100;
  hello.job.fresh = true;
  CHECK(Tracker(1, hello, TenWindows(), 0, std::nullopt, {}, true).Record().spec.fresh);
  CHECK_FALSE(Tracker(1, hello, TenWindows(), 0, std::nullopt, {}, false).Record().spec.fresh);
  hello.job.fresh = false;
  CHECK_FALSE(Tracker(1, hello, TenWindows(), 0, std::nullopt, {}, true).Record().spec.fresh);
}

TEST_CASE("a job picked up before its first step is not opened again") {
  const Hello hello = OpeningJob();
  Bench bench(TenWindows(), hello);
  const Emission emission = bench.tracker.Open(bench.chain, bench.trial_id);
  Tracker next(1, hello, TenWindows(), 0, std::nullopt, {});
  static_cast<void>(next.TakeUp({std::get<Trial>(emission.records.front())}, hello));
  CHECK_FALSE(next.IsOpening());
}

TEST_CASE("rewards of a job sum to its first loss less its validation loss") {
  Bench bench;
  for (std::uint64_t step = 1; step <= 100; ++step) bench.Step(step, 5.0 - 0.01 * double(step));
  Emission end = bench.tracker.Take(Bye{Outcome::kFinished, 100, 100.0, 3.5}, 1.0);
  for (const Record& record : end.records) bench.records.push_back(record);

  std::map<std::uint64_t, double> rewards;  // the last one said counts
  for (const auto& record : bench.Of<RewardRecord>()) rewards[record.trial] = record.reward;
  CHECK(rewards.size() == 11);  // nothing is decided at the end of the last of twelve windows
  double sum = 0;
  for (const auto& [trial, reward] : rewards) sum += reward;
  const auto windows = bench.Of<ObservationRecord>();
  REQUIRE(windows.size() == 12);
  CHECK(sum == Approx(windows.front().reading.loss - 3.5));
  const auto job = bench.Of<JobRecord>().back();
  CHECK(job.outcome == Outcome::kFinished);
  CHECK(job.validation_loss == 3.5);
}

TEST_CASE("an observation with NaN is refused by name and the next one is taken") {
  Bench bench;
  bench.Step(1, 5.0);
  Observation broken = test::HealthyStep(2, 5.0, bench.setting);
  broken.metrics[3 * kMetrics] = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS_WITH(bench.tracker.Take(broken, bench.chain, bench.trial_id),
                    Contains("step 2") && Contains("entropy"));
  CHECK_NOTHROW(bench.Step(3, 5.0));
}

TEST_CASE("an observation that does not follow the last one is refused") {
  Bench bench;
  bench.Step(5, 5.0);
  CHECK_THROWS_WITH(bench.Step(5, 5.0), Contains("does not follow"));
}

TEST_CASE("a person's change is a trial, and in force once the trainer says so") {
  Bench bench;
  bench.Step(1, 5.0);
  Adjust adjust;
  adjust.job = 1;
  adjust.site = "second";
  adjust.head = 2;
  adjust.scale = 2.0F;
  const Emission emission = bench.tracker.Take(adjust, bench.trial_id);
  REQUIRE(emission.action);
  CHECK(emission.action->setting.scale[6] == 2.0F);
  CHECK(std::get<Trial>(emission.records.back()).decider == "hand");
  const Emission reply =
      bench.tracker.Take(ActionReply{emission.action->id, {AckStatus::kApplied, 2, ""}});
  CHECK(std::get<AcknowledgementRecord>(reply.records.front()).acknowledgement.step == 2);
  CHECK(bench.tracker.Live().last_decider == "hand");
  // It holds now: asking for the same again changes nothing.
  CHECK_THROWS_WITH(bench.tracker.Take(adjust, bench.trial_id), Contains("already"));
}

TEST_CASE("all that was changed of a job is undone at once, whatever its sites have") {
  Hello hello = test::SmallJob();
  const Setting neutral = hello.setting;
  hello.setting.scale.assign(hello.setting.scale.size(), 2.0F);
  hello.setting.gain.back() = 0.5F;
  hello.setting.active.front() = 0;
  Tracker tracker(1, hello, TenWindows(), 0, std::nullopt, {});
  std::uint64_t trial = 0;
  Adjust undo;
  undo.scale = undo.gain = 1.0F;
  undo.active_heads = 0;
  CHECK(tracker.Take(undo, trial).action->setting == neutral);
}

TEST_CASE("who a person chose decides, though the trainer asks for another each time it connects") {
  Hello hello = test::SmallJob();
  hello.job.policy = "random";
  Chain chain("kmeans");
  Tracker tracker(1, hello, TenWindows(), 0, std::nullopt, {});
  tracker.Use("keep");
  static_cast<void>(tracker.Resume(hello));
  std::uint64_t trial = 0;
  std::optional<Trial> decided;
  for (std::uint64_t step = 1; step <= 40 && !decided; ++step) {
    for (const Record& record :
         tracker.Take(test::HealthyStep(step, 5.0, hello.setting), chain, trial).records) {
      if (const auto* one = std::get_if<Trial>(&record)) decided = *one;
    }
  }
  REQUIRE(decided);
  CHECK(decided->decider == "keep");
}

TEST_CASE("an action has until the next measured step but one, however seldom they are") {
  Hello hello = test::SmallJob();
  hello.job.budget = {BudgetKind::kSteps, 1e6};
  Chain chain("keep");
  Tracker tracker(1, hello, TenWindows(), 0, std::nullopt, {});
  CHECK(tracker.MeasureEvery() == 1563);  // 64 of a window's 100,000 steps
  std::uint64_t trial = 0;
  static_cast<void>(tracker.Take(test::HealthyStep(16, 5.0, hello.setting), chain, trial));
  Adjust adjust;
  adjust.active_heads = 2;
  CHECK(tracker.Take(adjust, trial).action->expires_step >= 16 + 2 * 1563);
}

TEST_CASE("a change by hand that cannot be is refused with what can") {
  Bench bench;
  Adjust adjust;
  adjust.active_heads = 9;
  CHECK_THROWS_WITH(bench.tracker.Take(adjust, bench.trial_id), Contains("1 to 4"));
  adjust.active_heads = 2;
  adjust.site = "third";
  CHECK_THROWS_WITH(bench.tracker.Take(adjust, bench.trial_id), Contains("first, second"));
  CHECK_THROWS_WITH(bench.tracker.Take(Adjust{}, bench.trial_id), Contains("nothing to adjust"));
  CHECK(bench.trial_id == 0);
}

TEST_CASE("while an action is on its way nothing else is decided") {
  Options options = TenWindows();
  options.policy = "random";
  Bench bench(options);
  std::optional<ActionRequest> sent;
  std::uint64_t step = 0;
  while (!sent && step < 80) sent = bench.Step(++step, 5.0).action;
  REQUIRE(sent);
  for (std::uint64_t more = 1; more <= 10; ++more) CHECK_FALSE(bench.Step(step + more, 5.0).action);
  CHECK_THAT(bench.Of<Trial>().back().why, Contains("not answered"));
}

TEST_CASE("choices that the governor cut are in force but nobody's to learn from") {
  Options options = TenWindows();
  options.policy = "random";
  options.change_budget = 0;  // one head
  Bench bench(options);
  for (std::uint64_t step = 1; step <= kFirstEnd; ++step) bench.Step(step, 5.0);
  const Trial trial = bench.Of<Trial>().at(0);
  CHECK_THAT(trial.why, Contains("change budget"));
  CHECK_FALSE(trial.action);
  CHECK(trial.decider == "random");
}

Options External() {
  Options options = TenWindows();
  options.policy = "external";
  return options;
}

TEST_CASE(
    "no policy scales heads whose scale no weight could take up, and the trainer may mend it") {
  Options options = TenWindows();
  options.policy = "random";
  Hello hello = test::SmallJob();
  hello.scale_fixed = {1, 1, 1, 1, 0, 0, 0, 0};
  Bench bench(options, hello);
  static_cast<void>(bench.tracker.Resume(hello));
  for (std::uint64_t step = 1; step <= kFirstEnd; ++step) bench.Step(step, 5.0);
  const auto fixed = bench.Of<Trial>();
  REQUIRE_FALSE(fixed.empty());
  const std::array<std::uint8_t, kScaleChoices> kept = {0, 0, 1, 0, 0};
  for (const Trial& trial : fixed) {
    for (std::size_t head = 0; head < 8; ++head) {
      INFO(trial.id << ", head " << head);
      CHECK((trial.mask.scale[head] == kept) == (head < 4));  // no action was applied: all active
    }
    CHECK(std::ranges::all_of(std::span(trial.setting.scale).first(4),
                              [](float s) { return s == 1; }));
  }
  hello.scale_fixed.clear();
  hello.step = kFirstEnd;
  static_cast<void>(bench.tracker.Resume(hello));
  for (std::uint64_t step = kFirstEnd + 1; step <= 30; ++step) bench.Step(step, 5.0);
  CHECK(bench.Of<Trial>().back().mask.scale[0] != kept);
}

// A job whose first window has closed and whose policy server was asked about it.
struct Asked : Bench {
  Asked() : Bench(External()) {
    chain.SetServed(true);
    for (std::uint64_t step = 1; step < kFirstEnd; ++step) Step(step, 5.0);
    question = Step(kFirstEnd, 5.0).question;
    REQUIRE(question);
  }
  // The trial that the question ended in.
  Trial Conclude(const Verdict& verdict) {
    const Emission emission = tracker.Conclude(question->id, verdict, chain);
    REQUIRE(emission.records.size() == 1);
    action = emission.action;
    return std::get<Trial>(emission.records.front());
  }
  std::optional<Question> question;
  std::optional<ActionRequest> action;
};

TEST_CASE("a policy server is asked at a window's end, and the job goes on until it answers") {
  Asked asked;
  CHECK(asked.question->id == 1);
  CHECK(asked.question->window == 0);
  CHECK(asked.question->step == kFirstEnd);
  CHECK(asked.question->progress == Approx(0.03));
  CHECK(asked.question->deadline_seconds == External().external_deadline);
  CHECK(asked.question->tokens.size() == 8 * kTokenFeatures);
  CHECK(asked.question->mask == MaskOf(asked.question->topology, asked.setting));
  CHECK(asked.Of<Trial>().empty());
  CHECK(asked.Step(kFirstEnd + 1, 5.0).records.empty());

  Action action = Action::Keep(8, 2);
  action.count[1] = CountChange::kHalve;
  action.score = {0, 0, 0, 0, 1, 2, 3, 4};
  const Trial trial = asked.Conclude(Decision{action, "half is enough", -0.5F, 3});
  CHECK(trial.id == 1);
  CHECK(trial.decider == "external");
  CHECK(trial.why == "half is enough");
  CHECK(trial.log_probability == -0.5F);
  CHECK(trial.policy_version == 3);
  CHECK(trial.action == action);
  REQUIRE(asked.action);
  CHECK(asked.action->setting.active == std::vector<std::uint8_t>{1, 1, 1, 1, 0, 0, 1, 1});
  CHECK_FALSE(asked.tracker.IsOpen(1));
}

TEST_CASE("where no policy server can be asked those behind it decide at once") {
  Bench bench(External());
  for (std::uint64_t step = 1; step <= kFirstEnd; ++step) bench.Step(step, 5.0);
  const Trial trial = bench.Of<Trial>().at(0);
  CHECK(trial.decider == "kmeans");
  CHECK_THAT(trial.why, Contains("external: no policy server can be asked; network: none"));
}

TEST_CASE("a question without an answer is decided by those behind the policy server") {
  Asked asked;
  const Trial trial = asked.Conclude(Decline{"no answer in time"});
  CHECK(trial.decider == "kmeans");
  CHECK(trial.step == kFirstEnd);
  CHECK_THAT(trial.why, Contains("external: no answer in time"));
  CHECK(asked.tracker.Conclude(1, Decision{}, asked.chain).records.empty());  // too late
}

TEST_CASE("answers that cannot be used are told by what is wrong") {
  const Asked asked;
  Answer answer{1, Action::Keep(8, 2), 0, 0, ""};
  CHECK_FALSE(asked.tracker.FaultOf(answer));
  CHECK_FALSE(asked.tracker.FaultOf(Answer{1, {}, 0, 0, "not my kind of job"}));
  SECTION("wrong sizes") {
    answer.action = Action::Keep(7, 2);
    CHECK_THAT(*asked.tracker.FaultOf(answer), Contains("7 scale choices") && Contains("8 heads"));
  }
  SECTION("a choice that is not open") {
    answer.action.count[0] = CountChange::kDouble;  // all heads are active
    CHECK_THAT(*asked.tracker.FaultOf(answer), Contains("count choice 4 of site 0"));
  }
  SECTION("a score that is not finite") {
    answer.action.score[2] = std::numeric_limits<float>::infinity();
    CHECK_THAT(*asked.tracker.FaultOf(answer), Contains("score of head 2"));
  }
  SECTION("a probability above one") {
    answer.log_probability = 0.5F;
    CHECK_THAT(*asked.tracker.FaultOf(answer), Contains("log_probability"));
  }
}

TEST_CASE("the window behind an unanswered question is not asked about, the one behind that is") {
  Asked asked;
  asked.Step(4, 5.0);
  CHECK_FALSE(asked.Step(5, 5.0).question);
  const auto trials = asked.Of<Trial>();
  REQUIRE(trials.size() == 2);
  CHECK(trials[0].window == 0);
  CHECK(trials[0].decider == "keep");
  CHECK_THAT(trials[0].why, Contains("external: no answer before the next window"));
  CHECK(trials[1].window == 1);
  CHECK(trials[1].decider == "kmeans");
  CHECK(asked.Of<RewardRecord>().front().trial == 1);  // the kept window earns what it did
  CHECK_FALSE(asked.tracker.IsOpen(1));
  std::optional<Question> next;
  for (std::uint64_t step = 6; step <= 10; ++step) next = asked.Step(step, 5.0).question;
  CHECK(next);
}

TEST_CASE("a question is over when a person, the trainer or the job's end was first") {
  Asked asked;
  std::vector<Record> records;
  SECTION("a person changes the setting") {
    Adjust adjust;
    adjust.scale = 2.0F;
    records = asked.tracker.Take(adjust, asked.trial_id).records;
    CHECK(std::get<Trial>(records.at(1)).decider == "hand");
  }
  SECTION("the trainer comes back with another setting") {
    Hello hello = test::SmallJob();
    hello.setting.scale[0] = 2.0F;
    records = asked.tracker.Resume(hello).records;
  }
  SECTION("the job ends") {
    records = asked.tracker.Take(Bye{Outcome::kFinished, kFirstEnd, 3.0, 4.0}, 1.0).records;
  }
  const auto& trial = std::get<Trial>(records.at(0));
  CHECK(trial.id == 1);
  CHECK(trial.decider == "keep");
  CHECK_FALSE(asked.tracker.IsOpen(1));
}

TEST_CASE("the governor stands above a policy server") {
  Options options = External();
  options.freeze = 1;
  Bench bench(options);
  bench.chain.SetServed(true);
  for (std::uint64_t step = 1; step <= kFirstEnd; ++step) {
    CHECK_FALSE(bench.Step(step, 5.0).question);
  }
  CHECK_THAT(bench.Of<Trial>().at(0).why, Contains("frozen"));
}

TEST_CASE("an introduction that contradicts the first names what differs") {
  Bench bench;
  Hello hello = test::SmallJob();
  hello.job.topology.sites[0].heads = 8;
  CHECK_THROWS_WITH(bench.tracker.Resume(hello), Contains("topology") && Contains("key"));
  hello = test::SmallJob();
  hello.job.budget.amount = 7;
  CHECK_THROWS_WITH(bench.tracker.Resume(hello), Contains("budget"));
  CHECK_NOTHROW(bench.tracker.Resume(test::SmallJob()));
}

TEST_CASE("an action that a reconnected trainer does not have has expired") {
  Bench bench;
  bench.Step(1, 5.0);
  Adjust adjust;
  adjust.gain = 0.5F;
  const auto id = bench.tracker.Take(adjust, bench.trial_id).action->id;
  SECTION("lost on the way") {
    const Emission emission = bench.tracker.Resume(test::SmallJob());
    const auto& record = std::get<AcknowledgementRecord>(emission.records.front());
    CHECK(record.acknowledgement.status == AckStatus::kExpired);
  }
  SECTION("applied before the connection broke") {
    Hello hello = test::SmallJob();
    hello.action = id;
    const Emission emission = bench.tracker.Resume(hello);
    const auto& record = std::get<AcknowledgementRecord>(emission.records.front());
    CHECK(record.acknowledgement.status == AckStatus::kApplied);
  }
}

TEST_CASE("an action that crossed a Hello on its way has not expired, if it was applied") {
  Bench bench;
  bench.Step(1, 5.0);
  Adjust adjust;
  adjust.gain = 0.5F;
  const auto id = bench.tracker.Take(adjust, bench.trial_id).action->id;
  static_cast<void>(bench.tracker.Resume(test::SmallJob()));
  const Emission reply = bench.tracker.Take(ActionReply{id, {AckStatus::kApplied, 2, ""}});
  const auto& record = std::get<AcknowledgementRecord>(reply.records.front());
  CHECK(record.acknowledgement.status == AckStatus::kApplied);
  CHECK_THROWS_WITH(bench.tracker.Take(adjust, bench.trial_id), Contains("already"));
}

// The trials of a tracker whose trainer takes these steps; `last_id` is that of the trial before.
std::vector<Trial> Decided(Tracker& tracker, const Setting& setting, std::uint64_t first,
                           std::uint64_t last, std::uint64_t last_id) {
  Chain chain("keep");
  std::vector<Trial> trials;
  for (std::uint64_t step = first; step <= last; ++step) {
    const Emission emission = tracker.Take(test::HealthyStep(step, 5.0, setting), chain, last_id);
    for (const Record& record : emission.records) {
      if (const auto* trial = std::get_if<Trial>(&record)) trials.push_back(*trial);
    }
  }
  return trials;
}

TEST_CASE("a job picked up by another daemon goes on in the window where it stood") {
  Bench before;
  for (std::uint64_t step = 1; step <= 35; ++step) before.Step(step, 5.0);
  const auto past = before.Of<ObservationRecord>();
  Tracker tracker(1, test::SmallJob(), TenWindows(), 0, std::nullopt, past);
  const auto trials = Decided(tracker, before.setting, 36, 40, 5);
  REQUIRE(trials.size() == 1);
  CHECK(trials[0].window == 5);
  CHECK(trials[0].id == 6);
}

TEST_CASE("what was decided before a job fell silent is rewarded and answered when it is back") {
  Bench before;
  for (std::uint64_t step = 1; step <= 35; ++step) before.Step(step, 5.0);
  auto trials = before.Of<Trial>();
  const std::size_t last = trials.size() - 1;
  for (const std::size_t i : {last - 1, last}) {
    trials[i].acknowledgement.status = AckStatus::kPending;
  }
  Tracker tracker(1, test::SmallJob(), TenWindows(), 0, std::nullopt,
                  before.Of<ObservationRecord>());
  CHECK(tracker.Record().loss == 5.0);
  CHECK(tracker.Record().compute_seconds == 30.0);

  Hello hello = test::SmallJob();
  hello.action = trials[last - 1].id;
  const std::vector<Record> settled = tracker.TakeUp(trials, hello).records;
  REQUIRE(settled.size() == 2);
  CHECK(std::get<AcknowledgementRecord>(settled[0]).acknowledgement.status == AckStatus::kApplied);
  const auto& newest = std::get<AcknowledgementRecord>(settled[1]);
  CHECK(newest.trial == trials[last].id);
  CHECK(newest.acknowledgement.status == AckStatus::kExpired);

  std::uint64_t trial_id = trials[last].id;
  std::map<std::uint64_t, double> rewards;
  for (std::uint64_t step = 36; step <= 40; ++step) {
    const Emission emission =
        tracker.Take(test::HealthyStep(step, 4.0, before.setting), before.chain, trial_id);
    for (const Record& record : emission.records) {
      if (const auto* reward = std::get_if<RewardRecord>(&record)) {
        rewards[reward->trial] = reward->reward;
      }
    }
  }
  CHECK(rewards == std::map<std::uint64_t, double>{{trials[last].id, 1.0}});
}

// A job of 35 steps that fell silent and is back with a setting, at a loss of 5 until then, and
// what is decided at the end of its next window, when the loss is `loss`.
Trial DecidedWhenBack(const std::vector<Trial>& trials, const Bench& before, const Setting& setting,
                      double loss, const std::string& policy = "keep") {
  Options options = TenWindows();
  options.policy = policy;
  Chain chain(policy);
  Hello hello = test::SmallJob();
  hello.setting = setting;
  Tracker tracker(1, hello, options, 0, std::nullopt, before.Of<ObservationRecord>());
  static_cast<void>(tracker.TakeUp(trials, hello));
  std::uint64_t trial_id = trials.back().id;
  std::optional<Trial> decided;
  for (std::uint64_t step = 36; step <= 40; ++step) {
    const Emission emission = tracker.Take(test::HealthyStep(step, loss, setting), chain, trial_id);
    for (const Record& record : emission.records) {
      if (const auto* trial = std::get_if<Trial>(&record)) decided = *trial;
    }
  }
  REQUIRE(decided);
  return *decided;
}

TEST_CASE("what the governor has begun it goes on with when a silent job is back") {
  Bench before;
  for (std::uint64_t step = 1; step <= 35; ++step) before.Step(step, 5.0);
  auto trials = before.Of<Trial>();
  const Setting neutral = Setting::Neutral(8);
  Setting scaled = neutral;
  scaled.scale[2] = 2.0F;
  // An action of the trial `i`, in force since the step behind it.
  const auto act = [&](std::size_t i) {
    trials[i].decider = "network";
    trials[i].acknowledgement = {AckStatus::kApplied, trials[i].step + 1, ""};
    for (; i < trials.size(); ++i) trials[i].setting = scaled;
  };
  const std::size_t last = trials.size() - 1;
  REQUIRE(trials[last].step == 30);
  SECTION("an action that does harm is taken back") {
    act(last);
    const Trial decided = DecidedWhenBack(trials, before, scaled, 50.0);
    CHECK(decided.decider == "governor");
    CHECK(decided.setting == neutral);
  }
  SECTION("one that was judged before is not judged again") {
    act(1);
    CHECK(DecidedWhenBack(trials, before, scaled, 50.0).decider == "keep");
  }
  SECTION("one that is no longer in force is not judged") {
    act(last);
    CHECK(DecidedWhenBack(trials, before, neutral, 50.0).decider == "keep");
  }
  SECTION("one that was answered behind the next window's end is judged by what was before it") {
    trials[last - 1].decider = "network";
    trials[last - 1].setting = scaled;
    trials[last - 1].acknowledgement = {AckStatus::kApplied, trials[last].step + 1, ""};
    const Trial decided = DecidedWhenBack(trials, before, scaled, 50.0);
    CHECK(decided.decider == "governor");
    CHECK(decided.setting == neutral);
  }
  SECTION("behind a rollback nothing changes") {
    trials[last].decider = "governor";
    trials[last].acknowledgement = {AckStatus::kApplied, 31, ""};
    CHECK_THAT(DecidedWhenBack(trials, before, neutral, 5.0, "random").why,
               Contains("held until window"));
  }
  SECTION("a rollback that was lost on the way is decided again") {
    act(1);
    trials[last].decider = "governor";
    trials[last].setting = neutral;
    trials[last].acknowledgement.status = AckStatus::kPending;
    // The one before was not judged for the answer to an earlier action, which came behind it.
    trials[last - 1].acknowledgement = {AckStatus::kNone, 0, ""};
    trials[1].acknowledgement.step = trials[last - 1].step + 1;
    const Trial decided = DecidedWhenBack(trials, before, scaled, 50.0);
    CHECK(decided.decider == "governor");
    CHECK(decided.setting == neutral);
  }
}

TEST_CASE("a job that is back draws other random numbers than it has drawn") {
  Options options = TenWindows();
  options.policy = "random";
  Bench whole(options);
  whole.Step(1, 5.0);
  Bench before;
  for (std::uint64_t step = 1; step <= 35; ++step) before.Step(step, 5.0);
  for (std::uint64_t step = 2; step <= kFirstEnd; ++step) whole.Step(step, 5.0);
  const Trial first = whole.Of<Trial>().front();
  const Trial again =
      DecidedWhenBack(before.Of<Trial>(), before, Setting::Neutral(8), 5.0, "random");
  CHECK(again.decider == "random");
  CHECK(again.setting != first.setting);
}

TEST_CASE("a job that is back where the budget has fewer windows is decided on as before") {
  Options many = TenWindows();
  many.windows = 20;
  Bench before(many);
  for (std::uint64_t step = 1; step <= 60; ++step) before.Step(step, 5.0);
  const auto past = before.Of<ObservationRecord>();
  Tracker tracker(1, test::SmallJob(), TenWindows(), 0, std::nullopt, past);
  const auto trials = Decided(tracker, before.setting, 61, 80, 100);
  REQUIRE(trials.size() == 2);
  CHECK(trials[0].step == 70);
  CHECK(trials[0].window == past.back().window + 1);
  CHECK(trials[1].step == 80);
}

TEST_CASE("an action behind which nothing can be measured is taken back") {
  Options options = TenWindows();
  options.policy = "random";
  Bench bench(options);
  const Setting untuned = bench.setting;
  std::optional<ActionRequest> sent;
  std::uint64_t step = 0;
  while (!sent && step < 80) sent = bench.Step(++step, 5.0).action;
  REQUIRE(sent);
  const std::uint64_t far = step + 50;
  SECTION("once it is in force") {
    static_cast<void>(
        bench.tracker.Take(ActionReply{sent->id, {AckStatus::kApplied, step + 1, ""}}));
    CHECK_FALSE(bench.tracker.Take(Heartbeat{step + 1}, bench.trial_id).action);
    CHECK_FALSE(bench.tracker.Take(Heartbeat{far - 1}, bench.trial_id).action);  // one is no proof
    const Emission emission = bench.tracker.Take(Heartbeat{far}, bench.trial_id);
    REQUIRE(emission.action);
    CHECK(emission.action->setting == untuned);
    CHECK(emission.action->expires_step > far);
    const auto& trial = std::get<Trial>(emission.records.back());
    CHECK(trial.decider == "governor");
    CHECK_THAT(trial.why, Contains("nothing usable was measured"));
    // One is enough until the trainer has answered.
    CHECK_FALSE(bench.tracker.Take(Heartbeat{far + 50}, bench.trial_id).action);
    CHECK_FALSE(bench.tracker.Take(Heartbeat{far + 60}, bench.trial_id).action);
  }
  SECTION("but not where what was measured was only lost on the way") {
    static_cast<void>(
        bench.tracker.Take(ActionReply{sent->id, {AckStatus::kApplied, step + 1, ""}}));
    CHECK_FALSE(bench.tracker.Take(Heartbeat{far}, bench.trial_id).action);
    Observation late = test::HealthyStep(far, 5.0, bench.setting);
    late.compute_seconds = double(step) + 0.5;  // within the window
    static_cast<void>(bench.tracker.Take(late, bench.chain, bench.trial_id));
    CHECK_FALSE(bench.tracker.Take(Heartbeat{far + 1}, bench.trial_id).action);
    CHECK_FALSE(bench.tracker.Take(Heartbeat{far + 2}, bench.trial_id).action);
  }
  SECTION("but not while it waits for the trainer's answer") {
    CHECK_FALSE(bench.tracker.Take(Heartbeat{far}, bench.trial_id).action);
    CHECK_FALSE(bench.tracker.Take(Heartbeat{far + 1}, bench.trial_id).action);
  }
}

TEST_CASE("what was decided before the first step is taken back where nothing is ever measured") {
  Bench bench(TenWindows(), OpeningJob());
  while (bench.tracker.IsOpening()) {
    const Emission emission = bench.tracker.Open(bench.chain, bench.trial_id);
    if (!emission.action) continue;
    static_cast<void>(bench.tracker.Take(AppliedAt(emission.action->id, 0)));
  }
  CHECK_FALSE(bench.tracker.Take(Heartbeat{50}, bench.trial_id).action);
  const Emission emission = bench.tracker.Take(Heartbeat{60}, bench.trial_id);
  REQUIRE(emission.action);
  CHECK(emission.action->setting == bench.setting);
}

TEST_CASE("a job whose setting nobody changed may measure nothing for as long as it likes") {
  Bench bench;
  for (std::uint64_t step = 1; step <= 20; ++step) bench.Step(step, 5.0);
  static_cast<void>(bench.tracker.Take(Heartbeat{80}, bench.trial_id));
  const Emission emission = bench.tracker.Take(Heartbeat{90}, bench.trial_id);
  CHECK_FALSE(emission.action);
  CHECK(emission.records.empty());
}

TEST_CASE("a run that goes on may ask for another policy") {
  Options options = TenWindows();
  options.policy = "random";
  Bench bench(options);
  Hello hello = test::SmallJob();
  hello.job.policy = "keep";
  static_cast<void>(bench.tracker.Resume(hello));
  for (std::uint64_t step = 1; step <= 80; ++step) CHECK_FALSE(bench.Step(step, 5.0).action);
}

TEST_CASE("a trainer that was started anew from a checkpoint reports steps once more") {
  Bench bench;
  for (std::uint64_t step = 1; step <= 35; ++step) bench.Step(step, 5.0);
  Hello hello = test::SmallJob();
  hello.step = 22;
  static_cast<void>(bench.tracker.Resume(hello));
  for (std::uint64_t step = 23; step <= 40; ++step) CHECK_NOTHROW(bench.Step(step, 5.0));
  const auto trials = bench.Of<Trial>();
  REQUIRE(trials.size() == 7);
  CHECK(trials[4].step == 30);
  CHECK(trials[4].window == 4);
  CHECK(trials[5].step == 30);  // once more, and decided on once more
  CHECK(trials[5].window == 5);
  CHECK(trials[6].step == 40);
  CHECK(trials[6].window == 6);
  for (const ObservationRecord& record : bench.Of<ObservationRecord>()) {
    CHECK(record.reading.start_compute <= record.reading.end_compute);
  }
}

TEST_CASE("a run that begins from the start again under its key is decided on all along") {
  Bench before;
  for (std::uint64_t step = 1; step <= 80; ++step) before.Step(step, 5.0);
  const auto past = before.Of<ObservationRecord>();
  Tracker tracker(1, test::SmallJob(), TenWindows(), 0, std::nullopt, past);
  const auto trials = Decided(tracker, before.setting, 1, 20, 100);
  REQUIRE(trials.size() == 4);
  CHECK(trials[0].step == kFirstEnd);
  CHECK(trials[0].window == past.back().window + 1);
  CHECK(trials[3].step == 20);
}

TEST_CASE("a run that was begun again and is back is rewarded for its own windows") {
  Bench bench;  // from 9 nats to 1, then from the start again
  for (std::uint64_t step = 1; step <= 80; ++step) bench.Step(step, 9 - 0.1 * double(step));
  const std::uint64_t last_of_first = bench.trial_id;
  static_cast<void>(bench.tracker.Resume(test::SmallJob()));
  for (std::uint64_t step = 1; step <= 20; ++step) bench.Step(step, 9 - 0.1 * double(step));
  // What is learned once more is not charged to the trial that came before it.
  for (const auto& record : bench.Of<RewardRecord>()) {
    if (record.trial == last_of_first) CHECK(record.reward > -1);
  }
  Chain chain("keep");
  Hello hello = test::SmallJob();
  hello.step = 20;
  Tracker tracker(1, hello, TenWindows(), 0, std::nullopt, bench.Of<ObservationRecord>());
  static_cast<void>(tracker.TakeUp(bench.Of<Trial>(), hello));
  std::uint64_t trial_id = bench.trial_id;
  std::optional<double> reward;
  for (std::uint64_t step = 21; step <= 30; ++step) {
    const auto emission = tracker.Take(
        test::HealthyStep(step, 9 - 0.1 * double(step), bench.setting), chain, trial_id);
    for (const Record& record : emission.records) {
      if (const auto* earned = std::get_if<RewardRecord>(&record)) reward = earned->reward;
    }
  }
  REQUIRE(reward);
  CHECK(*reward > 0.5);  // the drop of one window, in its second half's mean
  CHECK(*reward < 1.5);
}

TEST_CASE("a job that diverged ends without a validation loss") {
  Bench bench;
  for (std::uint64_t step = 1; step <= 35; ++step) bench.Step(step, 5.0);
  constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
  const Emission end = bench.tracker.Take(Bye{Outcome::kFinished, 35, kNone, kNone}, 1.0);
  const auto& job = std::get<JobRecord>(end.records.back());
  CHECK_FALSE(job.validation_loss);
  CHECK(job.compute_seconds == 35.0);
  for (const Record& record : end.records) {
    if (const auto* reward = std::get_if<RewardRecord>(&record)) {
      CHECK(std::isfinite(reward->reward));
    }
  }
}

TEST_CASE("a job that was under way before anybody listened begins in the window where it is") {
  Bench bench;
  for (std::uint64_t step = 55; step <= 70; ++step) bench.Step(step, 5.0);
  const auto trials = bench.Of<Trial>();
  REQUIRE(trials.size() == 2);
  CHECK(trials[0].window == 7);
  CHECK(trials[1].window == 8);
  CHECK(bench.Of<ObservationRecord>()[0].reading.start_compute == 55.0);
}

TEST_CASE("changes are described by site and number") {
  const Topology topology = test::SmallJob().job.topology;
  const Setting before = Setting::Neutral(8);
  Setting after = before;
  after.active[4] = after.active[5] = 0;
  after.scale[0] = 1.5F;
  CHECK(DescribeChange(topology, before, after) == "second 4→2 heads; scale of 1 heads");
  CHECK(DescribeChange(topology, before, before).empty());
}

}  // namespace
}  // namespace attune
