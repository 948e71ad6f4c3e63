// The daemon's loop in this process, with real sockets and a real store.
#include "agent/daemon.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <thread>
#include <zmq.hpp>

#include "agent/client.h"
#include "agent/keys.h"
#include "collectors/codec.h"
#include "collectors/probe.h"
#include "store/maintenance.h"
#include "store/store.h"
#include "tests/agent/jobs.h"
#include "tests/temporary_directory.h"

namespace attune {
namespace {

using Catch::Matchers::Contains;
using test::TemporaryDirectory;
using namespace std::chrono_literals;

class Running {
 public:
  explicit Running(const std::filesystem::path& directory, const std::string& policy = "keep",
                   const std::string& listen = "", double external_deadline = 60)
      : options_(Make(directory, policy, listen, external_deadline)),
        paths_(Paths::Find(options_)),
        daemon_(options_, paths_, nullptr, [this] { return options_; }),
        thread_([this] { daemon_.Run(); }) {}
  ~Running() {
    daemon_.Stop();
    thread_.join();
  }

  [[nodiscard]] std::string Endpoint() const { return paths_.Endpoint(); }
  [[nodiscard]] Message Ask(const Message& question) const {
    const auto answer = attune::Ask(Endpoint(), question, 10s);
    REQUIRE(answer);
    return *answer;
  }
  [[nodiscard]] Store History() const { return {paths_.Store(), Store::Mode::kReadOnly}; }

 private:
  static Options Make(const std::filesystem::path& directory, const std::string& policy,
                      const std::string& listen, double external_deadline) {
    Options options;
    options.external_deadline = external_deadline;
    options.state_directory = directory.string();
    options.windows = 10;
    options.policy = policy;
    options.listen = listen;
    return options;
  }
  Options options_;
  Paths paths_;
  Daemon daemon_;
  std::thread thread_;
};

// A trainer at the level of messages: says one thing, hears one thing.
class Trainer {
 public:
  explicit Trainer(const std::string& endpoint) {
    socket_.set(zmq::sockopt::linger, 0);
    socket_.set(zmq::sockopt::rcvtimeo, 10000);
    socket_.connect(endpoint);
  }
  void Say(const Message& message) { SayBytes(Encode(message)); }
  void SayBytes(const std::string& bytes) {
    socket_.send(zmq::buffer(bytes), zmq::send_flags::none);
  }
  zmq::message_t Receive() {
    zmq::message_t frame;
    REQUIRE(socket_.recv(frame));
    return frame;
  }
  template <typename T>
  T Hear() {
    const zmq::message_t frame = Receive();
    Message message = Decode({static_cast<const std::byte*>(frame.data()), frame.size()});
    INFO("heard message type " << message.index());
    REQUIRE(std::holds_alternative<T>(message));
    return std::get<T>(message);
  }

 private:
  zmq::context_t context_{1};
  zmq::socket_t socket_{context_, zmq::socket_type::dealer};
};

// A port of this host that nobody listens at.
std::string FreeAddress() {
  zmq::context_t context(1);
  zmq::socket_t socket(context, zmq::socket_type::rep);
  socket.bind("tcp://127.0.0.1:*");
  return socket.get(zmq::sockopt::last_endpoint);
}

TEST_CASE("a trainer of another host is welcomed with the daemon's keys, and no other is let in") {
  const TemporaryDirectory directory;
  const std::string address = FreeAddress();
  const Running daemon(directory.Path(), "keep", address);
  const auto keys = Keys::Load(directory / "attuned.keys");
  CHECK((std::filesystem::status(directory / "attuned.keys").permissions() &
         std::filesystem::perms::others_read) == std::filesystem::perms::none);

  const Hello hello = test::SmallJob();
  ProbeOptions options;
  options.endpoint = address;
  CHECK_THROWS_WITH(Probe(options, hello.job, hello.setting), Contains("ATTUNE_KEYS"));
  options.keys = keys.ForTrainers();
  {
    Probe probe(options, hello.job, hello.setting);
    while (!daemon.History().FindJob(1)) static_cast<void>(probe.Poll(1));
    probe.Finish(Outcome::kFinished, 1, 0.5, 2.0);
  }
  while (daemon.History().FindJob(1)->outcome != Outcome::kFinished) std::this_thread::yield();

  // A stranger knows where the daemon is and even its public key, and has keys of its own.
  zmq::context_t context(1);
  zmq::socket_t stranger(context, zmq::socket_type::dealer);
  zmq::socket_t events(context, zmq::socket_type::pair);
  std::array<char, 41> public_key{};
  std::array<char, 41> secret_key{};
  REQUIRE(zmq_curve_keypair(public_key.data(), secret_key.data()) == 0);
  stranger.set(zmq::sockopt::linger, 0);
  stranger.set(zmq::sockopt::curve_serverkey, keys.daemon.public_key);
  stranger.set(zmq::sockopt::curve_publickey, std::string(public_key.data()));
  stranger.set(zmq::sockopt::curve_secretkey, std::string(secret_key.data()));
  REQUIRE(zmq_socket_monitor(stranger.handle(), "inproc://events",
                             ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH |
                                 ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
                                 ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL) == 0);
  events.connect("inproc://events");
  stranger.connect(address);
  zmq::message_t event;
  REQUIRE(events.recv(event));
  std::uint16_t number = 0;
  std::memcpy(&number, event.data(), sizeof(number));
  CHECK(number == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH);
}

TEST_CASE("a damaged file of keys is refused with what to do") {
  const TemporaryDirectory directory;
  std::ofstream(directory / "attuned.keys") << "half a key";
  CHECK_THROWS_WITH(Running(directory.Path(), "keep", "tcp://127.0.0.1:*"),
                    Contains("attuned.keys") && Contains("remove it"));
  CHECK_THROWS_WITH(Running(directory.Path(), "keep", "ipc:///tmp/x"), Contains("tcp://HOST:PORT"));
}

TEST_CASE("a job may ask for its own policy, and for none that there is not") {
  const TemporaryDirectory directory;
  Hello hello = test::SmallJob();
  hello.job.policy = "random";
  const Running daemon(directory.Path(), "keep");
  Trainer trainer(daemon.Endpoint());
  trainer.Say(hello);
  static_cast<void>(trainer.Hear<Welcome>());
  for (std::uint64_t step = 1; step <= 40; ++step) {
    trainer.Say(test::HealthyStep(step, 5.0, hello.setting));
  }
  trainer.Say(Heartbeat{40});
  while (true) {  // an action of the random policy may come before it
    zmq::message_t frame = trainer.Receive();
    if (std::holds_alternative<Heartbeat>(
            Decode({static_cast<const std::byte*>(frame.data()), frame.size()}))) {
      break;
    }
  }
  while (daemon.History().Trials(1, 10).size() < 3) std::this_thread::yield();
  const auto trials = daemon.History().Trials(1, 10);
  CHECK(std::ranges::count(trials, "random", &TrialRow::decider) > 0);
  CHECK(daemon.History().FindJob(1)->spec.policy == "random");

  hello.job.key = "other";
  hello.job.policy = "best";
  Trainer other(daemon.Endpoint());
  other.Say(hello);
  const auto error = other.Hear<Error>();
  CHECK(error.code == ErrorCode::kUnusable);
  CHECK_THAT(error.text, Contains("there is no policy 'best'"));
}

TEST_CASE("what is decided before the first step comes before Welcome, and is on disk by then") {
  const TemporaryDirectory directory;
  std::size_t opened = 0;
  {
    const Running daemon(directory.Path(), "explore");
    for (int number = 0; number < 20; ++number) {
      Hello hello = test::SmallJob("run " + std::to_string(number));
      hello.job.learning_rate = 0.02;
      Trainer trainer(daemon.Endpoint());
      trainer.Say(hello);
      std::vector<std::uint64_t> actions;
      while (true) {
        const zmq::message_t frame = trainer.Receive();
        const Message message = Decode({static_cast<const std::byte*>(frame.data()), frame.size()});
        if (const auto* welcome = std::get_if<Welcome>(&message)) {
          CHECK(welcome->job == static_cast<std::uint64_t>(number) + 1);
          break;
        }
        const auto& action = std::get<ActionRequest>(message);
        const auto trials = daemon.History().JobTrials(static_cast<std::uint64_t>(number) + 1);
        CHECK(trials.back().id == action.id);
        CHECK(trials.back().setting == action.setting);
        CHECK(IsOpening(trials.back()));
        actions.push_back(action.id);
        trainer.Say(ActionReply{action.id, {AckStatus::kApplied, 0, ""}});
      }
      opened += actions.empty() ? 0 : 1;
      trainer.Say(Bye{Outcome::kFailed, 0, 0, std::nullopt});
    }
  }
  CHECK(opened > 2);
  CHECK(opened < 18);
  CHECK(Check(directory / "attune.db").empty());  // though no window has closed
}

TEST_CASE("a trainer that goes on before it is welcomed is welcomed then") {
  const TemporaryDirectory directory;
  bool went_on = false;
  {
    const Running daemon(directory.Path(), "explore");
    for (int number = 0; number < 20 && !went_on; ++number) {
      Hello hello = test::SmallJob("run " + std::to_string(number));
      hello.job.learning_rate = 0.02;
      Trainer trainer(daemon.Endpoint());
      trainer.Say(hello);
      const zmq::message_t frame = trainer.Receive();
      const Message first = Decode({static_cast<const std::byte*>(frame.data()), frame.size()});
      if (std::holds_alternative<Welcome>(first)) continue;
      trainer.Say(test::HealthyStep(1, 5.0, hello.setting));
      static_cast<void>(trainer.Hear<Welcome>());
      went_on = true;
    }
  }
  CHECK(went_on);
}

TEST_CASE("the longer a budget in steps, the fewer of the steps are measured") {
  const TemporaryDirectory directory;
  const Running daemon(directory.Path());  // of 10 windows a job
  const auto every = [&](Budget budget) {
    Trainer trainer(daemon.Endpoint());
    Hello hello = test::SmallJob();
    hello.job.key += std::to_string(budget.amount);
    hello.job.budget = budget;
    trainer.Say(hello);
    return trainer.Hear<Welcome>().measure_every;
  };
  CHECK(every({BudgetKind::kSteps, 1000}) == 4);
  CHECK(every({BudgetKind::kSteps, 250'000}) == 391);  // 64 of a window's 25,000 steps
  CHECK(every({BudgetKind::kSteps, 1e15}) == 1'000'000);
  CHECK(every({BudgetKind::kCompute, 1e6}) == 4);
}

TEST_CASE("a job is welcomed, tuned by hand, and its history is in the store when it ends") {
  const TemporaryDirectory directory;
  Hello hello = test::SmallJob();
  {
    const Running daemon(directory.Path());
    Trainer trainer(daemon.Endpoint());
    trainer.Say(hello);
    const auto welcome = trainer.Hear<Welcome>();
    CHECK(welcome.job == 1);
    CHECK(welcome.measure_every >= 1);
    for (std::uint64_t step = 1; step <= 20; ++step) {
      trainer.Say(test::HealthyStep(step, 5.0, hello.setting));
    }
    trainer.Say(Heartbeat{20});
    static_cast<void>(trainer.Hear<Heartbeat>());  // the observations have been taken by now

    Adjust adjust;
    adjust.job = 1;
    adjust.active_heads = 2;
    const auto reply = std::get<Reply>(daemon.Ask(adjust));
    CHECK(reply.ok);
    const auto action = trainer.Hear<ActionRequest>();
    CHECK(CountActive(action.setting.active) == 4);
    // It was on disk before it came.
    CHECK(daemon.History().FindTrial(action.id)->decider == "hand");
    trainer.Say(ActionReply{action.id, {AckStatus::kApplied, 21, ""}});
    trainer.Say(Heartbeat{21});
    static_cast<void>(trainer.Hear<Heartbeat>());
    const auto status = std::get<Status>(daemon.Ask(StatusRequest{}));
    REQUIRE(status.jobs.size() == 1);
    CHECK(status.jobs[0].active_heads == 4);
    trainer.Say(Bye{Outcome::kFinished, 21, 21.0, 4.0});
    trainer.Say(Heartbeat{21});
    CHECK(trainer.Hear<Error>().code == ErrorCode::kOutOfOrder);  // the farewell has been taken
  }
  const Store store(directory / "attune.db", Store::Mode::kReadOnly);
  const auto job = store.FindJobByKey(hello.job.key);
  REQUIRE(job);
  CHECK(job->outcome == Outcome::kFinished);
  CHECK(job->validation_loss == 4.0);
  CHECK(job->trials == 5);  // four windows and one by hand
  const auto trial = store.Trials(1, 1).front();
  CHECK(trial.status == AckStatus::kApplied);
  CHECK(trial.ack_step == 21);
}

TEST_CASE("what cannot be used is answered with an error and harms nobody") {
  const TemporaryDirectory directory;
  const Running daemon(directory.Path());
  Trainer good(daemon.Endpoint());
  good.Say(test::SmallJob("good"));
  static_cast<void>(good.Hear<Welcome>());

  Trainer bad(daemon.Endpoint());
  SECTION("bytes that are no message") {
    bad.SayBytes("hello?");
    CHECK(bad.Hear<Error>().code == ErrorCode::kMalformed);
  }
  SECTION("an observation before the hello") {
    bad.Say(test::HealthyStep(1, 5.0, Setting::Neutral(8)));
    CHECK(bad.Hear<Error>().code == ErrorCode::kOutOfOrder);
  }
  SECTION("a message that is the daemon's to send") {
    bad.Say(Welcome{});
    CHECK(bad.Hear<Error>().code == ErrorCode::kOutOfOrder);
  }
  SECTION("a hello that contradicts an earlier one") {
    Hello other = test::SmallJob("good");
    other.job.topology.sites.pop_back();
    other.setting = Setting::Neutral(4);
    bad.Say(other);
    const auto error = bad.Hear<Error>();
    CHECK(error.code == ErrorCode::kContradiction);
    CHECK_THAT(error.text, Contains("topology"));
  }
  SECTION("NaN in an observation") {
    bad.Say(test::SmallJob("bad"));
    static_cast<void>(bad.Hear<Welcome>());
    Observation broken =
        test::HealthyStep(1, std::numeric_limits<double>::quiet_NaN(), Setting::Neutral(8));
    bad.Say(broken);
    const auto error = bad.Hear<Error>();
    CHECK(error.code == ErrorCode::kUnusable);
    CHECK_THAT(error.text, Contains("loss"));
  }
  SECTION("scales of other heads than it has") {
    Hello hello = test::SmallJob("bad");
    hello.scale_fixed = {1, 0};
    bad.Say(hello);
    const auto error = bad.Hear<Error>();
    CHECK(error.code == ErrorCode::kUnusable);
    CHECK_THAT(error.text, Contains("scale_fixed has 2 heads where the sites have 8"));
  }
  SECTION("a job without sites") {
    Hello hello = test::SmallJob("bad");
    hello.job.topology.sites.clear();
    hello.setting = {};
    bad.Say(hello);
    CHECK(bad.Hear<Error>().code == ErrorCode::kUnusable);
  }
  good.Say(test::HealthyStep(1, 5.0, Setting::Neutral(8)));
  good.Say(Heartbeat{1});
  static_cast<void>(good.Hear<Heartbeat>());
  const auto status = std::get<Status>(daemon.Ask(StatusRequest{}));
  CHECK(status.errors == 1);
  const auto job = std::ranges::find(status.jobs, "good", &LiveJob::key);
  REQUIRE(job != status.jobs.end());
  CHECK(job->step == 1);
}

TEST_CASE("a job that failed goes on from its checkpoint under its key") {
  const TemporaryDirectory directory;
  const Running daemon(directory.Path());
  Trainer trainer(daemon.Endpoint());
  Hello hello = test::SmallJob();
  trainer.Say(hello);
  static_cast<void>(trainer.Hear<Welcome>());
  for (std::uint64_t step = 1; step <= 15; ++step) {
    trainer.Say(test::HealthyStep(step, 5.0, hello.setting));
  }
  trainer.Say(Bye{Outcome::kFailed, 15, 15.0, std::nullopt});
  hello.step = 12;
  trainer.Say(hello);
  CHECK(trainer.Hear<Welcome>().job == 1);
  for (std::uint64_t step = 13; step <= 30; ++step) {
    trainer.Say(test::HealthyStep(step, 5.0, hello.setting));
  }
  trainer.Say(Bye{Outcome::kFinished, 30, 30.0, 4.0});
  trainer.Say(StatusRequest{});
  CHECK(trainer.Hear<Status>().errors == 0);
  const auto job = daemon.History().FindJob(1);
  CHECK(job->outcome == Outcome::kFinished);
  CHECK(job->validation_loss == 4.0);
}

TEST_CASE("a job goes on with the next daemon after the first has died") {
  const TemporaryDirectory directory;
  const Hello hello = test::SmallJob();
  {
    const Running first(directory.Path());
    Trainer trainer(first.Endpoint());
    trainer.Say(hello);
    static_cast<void>(trainer.Hear<Welcome>());
    for (std::uint64_t step = 1; step <= 15; ++step) {
      trainer.Say(test::HealthyStep(step, 5.0, hello.setting));
    }
    trainer.Say(Heartbeat{15});
    static_cast<void>(trainer.Hear<Heartbeat>());
  }
  const Running second(directory.Path());
  CHECK(second.History().FindJobByKey(hello.job.key)->outcome == Outcome::kLost);
  Trainer trainer(second.Endpoint());
  trainer.Say(test::HealthyStep(16, 5.0, hello.setting));
  CHECK(trainer.Hear<Error>().code == ErrorCode::kOutOfOrder);  // which makes a probe say hello
  trainer.Say(hello);
  CHECK(trainer.Hear<Welcome>().job == 1);
  for (std::uint64_t step = 17; step <= 20; ++step) {
    trainer.Say(test::HealthyStep(step, 5.0, hello.setting));
  }
  trainer.Say(Bye{Outcome::kFinished, 20, 20.0, std::nullopt});
  trainer.Say(hello);
  CHECK(trainer.Hear<Error>().code == ErrorCode::kContradiction);  // that run is over
  CHECK(second.History().FindJob(1)->trials == 4);
}

TEST_CASE("a second daemon of the same state directory is refused") {
  const TemporaryDirectory directory;
  const Running daemon(directory.Path());
  Options options;
  options.state_directory = directory.Path().string();
  CHECK_THROWS_WITH(Daemon(options, Paths::Find(options), nullptr, [&] { return options; }),
                    Contains("in use by attuned"));
}

TEST_CASE("a second daemon of the same runtime directory is refused, and the first is left alone") {
  const TemporaryDirectory directory;
  const TemporaryDirectory other;
  const Running daemon(directory.Path());
  Options options;
  options.state_directory = other.Path().string();
  options.runtime_directory = directory.Path().string();
  CHECK_THROWS_WITH(Daemon(options, Paths::Find(options), nullptr, [&] { return options; }),
                    Contains("another attuned listens") && Contains("--runtime-directory"));
  Trainer trainer(daemon.Endpoint());
  trainer.Say(test::SmallJob());
  CHECK(trainer.Hear<Welcome>().job == 1);
}

TEST_CASE("a job that lives when its daemon stops is lost, not running, in the history") {
  const TemporaryDirectory directory;
  {
    const Running daemon(directory.Path());
    Trainer trainer(daemon.Endpoint());
    trainer.Say(test::SmallJob());
    static_cast<void>(trainer.Hear<Welcome>());
  }
  const Store store(directory / "attune.db", Store::Mode::kReadOnly);
  const auto job = store.FindJob(1);
  REQUIRE(job);
  CHECK(job->outcome == Outcome::kLost);
  CHECK(job->ended >= job->started);
}

// A job of policy external whose first window has closed; behind its observations all is taken.
void FillWindow(Trainer& trainer, const Hello& hello) {
  trainer.Say(hello);
  static_cast<void>(trainer.Hear<Welcome>());
  for (std::uint64_t step = 1; step <= 3; ++step) {
    trainer.Say(test::HealthyStep(step, 5.0, hello.setting));
  }
}

void FillSecondWindow(Trainer& trainer, const Hello& hello) {
  for (std::uint64_t step = 4; step <= 5; ++step) {
    trainer.Say(test::HealthyStep(step, 5.0, hello.setting));
  }
}

TEST_CASE("a policy server decides: it is asked, answers, and the trainer is told") {
  const TemporaryDirectory directory;
  const Running daemon(directory.Path(), "external");
  Trainer server(daemon.Endpoint());
  server.Say(Serve{"halver"});
  CHECK(server.Hear<Serving>().heartbeat_seconds == 5.0);
  CHECK(std::get<Status>(daemon.Ask(StatusRequest{})).external == "halver");
  Trainer trainer(daemon.Endpoint());
  FillWindow(trainer, test::SmallJob());
  const auto question = server.Hear<Question>();
  CHECK(question.key == "key");
  // All that led to it is on disk.
  CHECK(daemon.History().Observations(question.job).size() == 1);

  Answer answer{question.id, Action::Keep(8, 2), -0.25F, 7, "half is enough"};
  answer.action.count[0] = CountChange::kHalve;
  SECTION("its choices become an action") {
    server.Say(answer);
    const auto action = trainer.Hear<ActionRequest>();
    CHECK(action.id == question.id);
    CHECK(CountActive(action.setting.active) == 6);
    const auto trial = daemon.History().FindTrial(action.id);
    REQUIRE(trial);
    CHECK(trial->decider == "external");
    CHECK(trial->why == "half is enough");
    CHECK(trial->policy_version == 7);
  }
  SECTION("without choices those behind it decide") {
    server.Say(Answer{question.id, {}, 0, 0, "never saw such a job"});
    while (!daemon.History().FindTrial(question.id)) std::this_thread::yield();
    const auto trial = daemon.History().FindTrial(question.id);
    CHECK(trial->decider == "kmeans");
    CHECK_THAT(trial->why, Contains("external: never saw such a job"));
  }
  SECTION("an answer that cannot be used is refused, and those behind it decide") {
    answer.action.count[1] = CountChange::kDouble;
    server.Say(answer);
    const auto error = server.Hear<Error>();
    CHECK(error.code == ErrorCode::kUnusable);
    CHECK_THAT(error.text, Contains("count choice 4 of site 1"));
    while (!daemon.History().FindTrial(question.id)) std::this_thread::yield();
    CHECK_THAT(daemon.History().FindTrial(question.id)->why, Contains("cannot be used"));
  }
  SECTION("bytes that are no answer leave the question open") {
    server.SayBytes("decide for yourself");
    CHECK(server.Hear<Error>().code == ErrorCode::kMalformed);
    server.Say(answer);
    CHECK(trainer.Hear<ActionRequest>().id == question.id);
  }
  SECTION("another's answer is not heard") {
    Trainer stranger(daemon.Endpoint());
    stranger.Say(answer);
    stranger.Say(Serve{""});
    CHECK(stranger.Hear<Error>().code == ErrorCode::kUnusable);  // the answer was taken before it
    CHECK(std::get<Status>(daemon.Ask(StatusRequest{})).late_answers == 1);
    CHECK_FALSE(daemon.History().FindTrial(question.id));
  }
}

TEST_CASE("a policy server that is late is not waited for, and is asked again once it speaks") {
  const TemporaryDirectory directory;
  const Running daemon(directory.Path(), "external", "", 0.01);
  Trainer server(daemon.Endpoint());
  server.Say(Serve{"slow"});
  static_cast<void>(server.Hear<Serving>());
  const Hello hello = test::SmallJob();
  Trainer trainer(daemon.Endpoint());
  FillWindow(trainer, hello);
  const auto question = server.Hear<Question>();
  while (!daemon.History().FindTrial(question.id)) std::this_thread::yield();
  const auto trial = daemon.History().FindTrial(question.id);
  CHECK(trial->decider == "kmeans");
  CHECK_THAT(trial->why, Contains("external: no answer in time"));
  CHECK(std::get<Status>(daemon.Ask(StatusRequest{})).external.empty());

  server.Say(Answer{question.id, Action::Keep(8, 2), 0, 0, "sorry"});
  server.Say(Serve{"slow"});
  static_cast<void>(server.Hear<Serving>());
  const auto status = std::get<Status>(daemon.Ask(StatusRequest{}));
  CHECK(status.late_answers == 1);
  CHECK(status.external == "slow");
  FillSecondWindow(trainer, hello);
  CHECK(server.Hear<Question>().window == 1);
}

TEST_CASE("a job goes on when its policy server has died") {
  const TemporaryDirectory directory;
  const Running daemon(directory.Path(), "external", "", 0.01);
  {
    Trainer server(daemon.Endpoint());
    server.Say(Serve{"short-lived"});
    static_cast<void>(server.Hear<Serving>());
  }
  const Hello hello = test::SmallJob();
  Trainer trainer(daemon.Endpoint());
  FillWindow(trainer, hello);
  while (!daemon.History().FindTrial(1)) std::this_thread::yield();
  FillSecondWindow(trainer, hello);
  while (!daemon.History().FindTrial(2)) std::this_thread::yield();
  CHECK_THAT(daemon.History().FindTrial(1)->why, Contains("no answer in time"));
  CHECK_THAT(daemon.History().FindTrial(2)->why, Contains("no policy server can be asked"));
}

TEST_CASE("a policy server alone does not keep a daemon that is to end when nobody needs it") {
  Options options;
  const TemporaryDirectory directory;
  options.state_directory = directory.Path().string();
  options.policy = "external";
  options.linger = 1;  // for the first answer, on a busy machine
  const Paths paths = Paths::Find(options);
  Daemon daemon(options, paths, nullptr, [&] { return options; });
  std::atomic<bool> ended{false};
  std::thread thread([&] {
    daemon.Run();
    ended = true;
  });
  zmq::context_t context(1);
  zmq::socket_t server(context, zmq::socket_type::dealer);
  server.set(zmq::sockopt::linger, 0);
  server.connect(paths.Endpoint());
  bool answered = false;
  while (!ended) {
    static_cast<void>(server.send(zmq::buffer(Encode(Serve{"eager"})), zmq::send_flags::dontwait));
    zmq::message_t frame;
    answered |= server.recv(frame, zmq::recv_flags::dontwait).has_value();
    std::this_thread::yield();
  }
  thread.join();
  CHECK(answered);
}

TEST_CASE("the policy is changed by name while jobs run") {
  const TemporaryDirectory directory;
  const Running daemon(directory.Path());
  CHECK(std::get<Reply>(daemon.Ask(UsePolicy{"kmeans"})).ok);
  CHECK(std::get<Status>(daemon.Ask(StatusRequest{})).policy == "kmeans");
  const auto refused = std::get<Reply>(daemon.Ask(UsePolicy{"best"}));
  CHECK_FALSE(refused.ok);
  CHECK_THAT(refused.text, Contains("best"));
}

TEST_CASE("a policy is chosen for one live job, and that of the others stays") {
  const TemporaryDirectory directory;
  const Running daemon(directory.Path());
  const auto absent = std::get<Reply>(daemon.Ask(UsePolicy{"kmeans", 1}));
  CHECK_FALSE(absent.ok);
  CHECK_THAT(absent.text, Contains("job 1 is not running"));
  Trainer trainer(daemon.Endpoint());
  trainer.Say(test::SmallJob());
  static_cast<void>(trainer.Hear<Welcome>());
  CHECK(std::get<Reply>(daemon.Ask(UsePolicy{"kmeans", 1})).ok);
  CHECK(std::get<Status>(daemon.Ask(StatusRequest{})).policy == "keep");  // as these daemons begin
  const Setting setting = test::SmallJob().setting;
  for (std::uint64_t step = 1; step <= 20; ++step) {
    trainer.Say(test::HealthyStep(step, 5.0, setting));
  }
  trainer.Say(Bye{Outcome::kFinished, 20, 20.0, 5.0});
  trainer.Say(Heartbeat{20});
  static_cast<void>(trainer.Hear<Error>());  // the farewell has been taken
  CHECK(daemon.History().FindTrial(1)->decider == "kmeans");
}

}  // namespace
}  // namespace attune
