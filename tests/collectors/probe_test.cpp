// The probe against a real ZeroMQ ROUTER in this process.
#include "collectors/probe.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <variant>
#include <vector>
#include <zmq.hpp>

#include "collectors/codec.h"
#include "tests/temporary_directory.h"

using namespace attune;

namespace {

using Clock = std::chrono::steady_clock;
// Long enough for the busiest machine: only a failing test waits for it.
constexpr std::chrono::seconds kPatience{20};

// A place to listen at that goes when the test ends.
class Folder {
 public:
  [[nodiscard]] std::string Endpoint() const { return "ipc://" + (directory_ / "socket").string(); }
  [[nodiscard]] const std::filesystem::path& Path() const { return directory_.Path(); }

 private:
  test::TemporaryDirectory directory_;
};

// The daemon's end: says only what the test lets it say.
class Router {
 public:
  explicit Router(const std::string& endpoint) {
    socket_.set(zmq::sockopt::linger, 0);
    socket_.set(zmq::sockopt::rcvhwm, 16);
    socket_.bind(endpoint);
  }

  // The next message that is there within the time, if any.
  std::optional<Message> Receive(std::chrono::milliseconds wait) {
    zmq::pollitem_t item{socket_.handle(), 0, ZMQ_POLLIN, 0};
    zmq::poll(&item, 1, wait);
    zmq::message_t frame;
    if (!socket_.recv(peer_, zmq::recv_flags::dontwait)) return std::nullopt;
    REQUIRE(peer_.more());
    REQUIRE(socket_.recv(frame, zmq::recv_flags::dontwait));
    REQUIRE_FALSE(frame.more());
    return Decode(std::as_bytes(std::span(frame.data<char>(), frame.size())));
  }

  // To whom the last message came from.
  void Send(const Message& message) { SendRaw({Encode(message)}); }
  void SendRaw(const std::vector<std::string>& parts) {
    zmq::message_t peer;
    peer.copy(peer_);
    socket_.send(peer, zmq::send_flags::sndmore);
    for (std::size_t i = 0; i < parts.size(); ++i) {
      socket_.send(zmq::buffer(parts[i]),
                   i + 1 < parts.size() ? zmq::send_flags::sndmore : zmq::send_flags::none);
    }
  }

 private:
  zmq::context_t context_;
  zmq::socket_t socket_{context_, zmq::socket_type::router};
  zmq::message_t peer_;
};

JobSpec TestJob() {
  return {.key = "run-1",
          .name = "test",
          .topology = {{{.name = "layer.0",
                         .kind = SiteKind::kSelf,
                         .causal = true,
                         .heads = 2,
                         .head_width = 8,
                         .context = 64}}},
          .budget = {BudgetKind::kSteps, 1000, 0.01},
          .seed = 1,
          .learning_rate = 0.001,
          .policy = ""};
}

Setting Scaled(float scale) { return {{scale, 1.0F}, {1.0F, 1.0F}, {1, 1}}; }

Observation TestObservation(std::uint64_t step) {
  Observation observation{.step = step,
                          .compute_seconds = 0.5 * static_cast<double>(step),
                          .loss = 2.0,
                          .attention_share = 0.25F,
                          .active = {1, 1},
                          .metrics = std::vector<float>(2 * kMetrics, 0.5F),
                          .profile = std::vector<float>(2 * kProfileBins, 1.0F / kProfileBins)};
  return observation;
}

// A probe with its daemon, and the step at which the trainer stands.
struct Pair {
  Folder folder;
  std::optional<Router> router{std::in_place, folder.Endpoint()};
  Probe probe{{.endpoint = folder.Endpoint(), .farewell_seconds = 20}, TestJob(), Scaled(1)};
  std::uint64_t step = 1;
  std::optional<ActionRequest> action;  // the last that Poll returned

  // Lets the trainer poll at its present step until the condition holds.
  void PollUntil(const std::function<bool()>& condition) {
    const auto deadline = Clock::now() + kPatience;
    while (!condition()) {
      if (Clock::now() > deadline) FAIL("the condition did not come true");
      if (auto now = probe.Poll(step)) action = std::move(now);
    }
  }

  // Lets the trainer poll until the daemon has received a T; other messages are passed over.
  template <class T>
  T Next() {
    std::optional<Message> message;
    PollUntil([&] {
      message = router->Receive(std::chrono::milliseconds(2));
      return message && std::holds_alternative<T>(*message);
    });
    return std::get<T>(*message);
  }

  // Hello and Welcome. A trainer that was welcomed measures its first 16 steps and every
  // `measure_every`-th.
  Hello Greet(std::uint32_t measure_every = 3, double heartbeat_seconds = 30) {
    const auto hello = Next<Hello>();
    router->Send(Welcome{1, measure_every, heartbeat_seconds});
    PollUntil([&] { return probe.Due(17 * measure_every) && !probe.Due(17 * measure_every + 1); });
    return hello;
  }

  ActionRequest Receive() {
    PollUntil([&] { return action.has_value(); });
    const ActionRequest taken = *action;
    action.reset();
    return taken;
  }
};

}  // namespace

TEST_CASE("a probe without an endpoint does nothing") {
  Probe probe({.endpoint = ""}, TestJob(), Scaled(1));
  CHECK_FALSE(probe.Due(0));
  CHECK_FALSE(probe.Due(8));
  probe.Observe(TestObservation(8));
  CHECK_FALSE(probe.Poll(8));
  probe.Applied({}, 8);
  probe.Rejected({}, 8, "no");
  probe.Finish(Outcome::kFinished, 9, 1, {});
  CHECK(probe.Dropped() == 0);
  CHECK_FALSE(probe.TakeError());
}

TEST_CASE("an endpoint, a job or a setting that cannot be used is refused at once") {
  const Folder folder;
  for (const char* endpoint : {"nonsense", "http://localhost", "tcp://localhost", "ipc://"}) {
    INFO(endpoint);
    CHECK_THROWS_AS(Probe({.endpoint = endpoint}, TestJob(), Scaled(1)), std::invalid_argument);
  }
  JobSpec job = TestJob();
  job.key.clear();
  CHECK_THROWS_AS(Probe({.endpoint = folder.Endpoint()}, job, Scaled(1)), std::invalid_argument);
  CHECK_THROWS_AS(Probe({.endpoint = ""}, job, Scaled(1)), std::invalid_argument);
  CHECK_THROWS_AS(Probe({.endpoint = folder.Endpoint()}, TestJob(), Scaled(1000)),
                  std::invalid_argument);
}

TEST_CASE("a trainer introduces itself and learns how often to measure") {
  Pair pair;
  CHECK_FALSE(pair.probe.Due(0));
  CHECK(pair.probe.Due(1));
  CHECK(pair.probe.Due(16));
  CHECK_FALSE(pair.probe.Due(18));
  CHECK(pair.probe.Due(24));
  const Hello hello = pair.Greet(3);
  CHECK(hello.job == TestJob());
  CHECK(hello.setting == Scaled(1));
  CHECK(hello.step == 1);
  CHECK(hello.action == 0);
  CHECK(pair.probe.Due(16));
  CHECK(pair.probe.Due(18));
  CHECK_FALSE(pair.probe.Due(24 + 1));
}

TEST_CASE("before its first step a trainer applies what comes before Welcome, and then goes on") {
  Folder folder;
  Router router(folder.Endpoint());
  std::vector<Message> heard;
  std::jthread daemon([&](const std::stop_token& stop) {
    const auto hears = [&] {
      std::optional<Message> message;
      while (!message && !stop.stop_requested()) {
        message = router.Receive(std::chrono::milliseconds(10));
      }
      if (message) heard.push_back(*message);
      return message.has_value();
    };
    if (!hears()) return;
    for (const std::uint64_t id : {7, 8}) {
      router.Send(ActionRequest{id, 16, Scaled(static_cast<float>(id))});
      if (!hears()) return;
    }
    router.Send(Welcome{1, 3, 5.0});
    router.Send(ActionRequest{9, 16, Scaled(9)});  // of the steps that follow
  });
  Probe probe({.endpoint = folder.Endpoint()}, TestJob(), Scaled(1));
  std::vector<std::uint64_t> actions;
  while (const auto action = probe.Opening()) {
    actions.push_back(action->id);
    probe.Applied(*action, 0);
  }
  daemon.request_stop();
  daemon.join();
  if (actions.size() == 3) {  // it had come in together with Welcome
    CHECK(actions.back() == 9);
    actions.pop_back();
  }
  CHECK(actions == std::vector<std::uint64_t>{7, 8});
  CHECK(probe.Due(18));  // every third step behind the first 16
  REQUIRE(heard.size() == 3);
  CHECK(std::get<Hello>(heard[0]).step == 0);
  for (std::size_t i : {1, 2}) {
    const auto& reply = std::get<ActionReply>(heard[i]);
    CHECK(reply.id == 6 + i);
    CHECK(reply.acknowledgement == Acknowledgement{AckStatus::kApplied, 0, ""});
  }
}

TEST_CASE("a trainer whose daemon says nothing begins all the same") {
  Folder folder;
  std::optional<Router> router;
  SECTION("because it is silent") { router.emplace(folder.Endpoint()); }
  SECTION("because there is none") {}
  Probe probe({.endpoint = folder.Endpoint(), .farewell_seconds = 0}, TestJob(), Scaled(1));
  CHECK_FALSE(probe.Opening());
  CHECK_FALSE(probe.Poll(1));
}

TEST_CASE("a Welcome without sense is not followed, and the trainer is told") {
  Pair pair;
  (void)pair.Next<Hello>();
  pair.router->Send(Welcome{1, 0, 30});
  std::optional<std::string> error;
  pair.PollUntil([&] { return (error = pair.probe.TakeError()).has_value(); });
  CHECK_THAT(*error, Catch::Contains("measure_every 0"));
  CHECK(pair.probe.Due(8));
}

TEST_CASE("observations dropped while the daemon is away are counted in the next one") {
  Folder folder;
  Probe probe({.endpoint = folder.Endpoint(), .farewell_seconds = 0}, TestJob(), Scaled(1));
  for (std::uint64_t step = 0; step < 5; ++step) probe.Observe(TestObservation(step));
  CHECK(probe.Dropped() == 5);

  Router router(folder.Endpoint());
  const auto deadline = Clock::now() + kPatience;
  std::optional<Message> hello;
  while (!hello && Clock::now() < deadline) {
    CHECK_FALSE(probe.Poll(5));
    hello = router.Receive(std::chrono::milliseconds(2));
  }
  REQUIRE(hello);
  CHECK(std::holds_alternative<Hello>(*hello));

  for (const std::uint32_t dropped : {5U, 0U}) {
    probe.Observe(TestObservation(8));
    const auto message = router.Receive(kPatience);
    REQUIRE(message);
    const auto& observation = std::get<Observation>(*message);
    CHECK(observation.dropped == dropped);
    CHECK(observation.step == 8);
    CHECK(observation.metrics == TestObservation(8).metrics);
    CHECK(observation.profile == TestObservation(8).profile);
  }
  CHECK(probe.Dropped() == 5);
}

TEST_CASE("an observation that the daemon could not use is not sent, and the trainer is told") {
  Pair pair;
  pair.Greet();
  Observation broken = TestObservation(3);
  broken.metrics.pop_back();
  pair.probe.Observe(broken);
  CHECK_THAT(pair.probe.TakeError().value(), Catch::Contains("step 3"));
  CHECK_FALSE(pair.probe.TakeError());
  CHECK(pair.probe.Dropped() == 1);
  pair.probe.Observe(TestObservation(6));
  CHECK(pair.Next<Observation>().dropped == 1);
}

TEST_CASE("an applied action is acknowledged at its step and named by what follows") {
  Pair pair;
  pair.Greet();
  pair.router->Send(ActionRequest{21, 100, Scaled(2)});
  const ActionRequest action = pair.Receive();
  CHECK(action.id == 21);
  CHECK(action.setting == Scaled(2));
  pair.probe.Applied(action, 7);
  const auto reply = pair.Next<ActionReply>();
  CHECK(reply.id == 21);
  CHECK(reply.acknowledgement == Acknowledgement{AckStatus::kApplied, 7, ""});

  pair.probe.Observe(TestObservation(8));
  CHECK(pair.Next<Observation>().action == 21);

  // Asked again, because the answer was lost: the same truth, and nothing to apply.
  pair.step = 9;
  pair.router->Send(ActionRequest{21, 100, Scaled(2)});
  CHECK(pair.Next<ActionReply>().acknowledgement == reply.acknowledgement);
  CHECK_FALSE(pair.action);
}

TEST_CASE("a refusal reaches the daemon with its reason") {
  Pair pair;
  pair.Greet();
  pair.router->Send(ActionRequest{21, 100, Scaled(2)});
  pair.probe.Rejected(pair.Receive(), 7, "the optimiser is fused");
  CHECK(pair.Next<ActionReply>().acknowledgement ==
        Acknowledgement{AckStatus::kRejected, 7, "the optimiser is fused"});
  pair.probe.Observe(TestObservation(8));
  CHECK(pair.Next<Observation>().action == 0);
}

TEST_CASE("of several actions the newest is applied and the others are answered") {
  Pair pair;
  pair.Greet();
  // Actions that happen to arrive in different turns of Poll are applied one by one, which is as
  // good; so batches are sent until one was met as a batch.
  constexpr std::uint64_t kBatch = 20;
  const auto deadline = Clock::now() + kPatience;
  bool replaced = false;
  for (std::uint64_t first = 1; !replaced; first += kBatch) {
    REQUIRE(Clock::now() < deadline);
    const std::uint64_t last = first + kBatch - 1;
    for (std::uint64_t id = first; id <= last; ++id) {
      pair.router->Send(ActionRequest{id, 100, Scaled(1.0F + static_cast<float>(id % 8))});
    }
    std::vector<std::uint64_t> answered;
    pair.PollUntil([&] {
      if (pair.action) {
        pair.probe.Applied(*pair.action, pair.step);
        CHECK(pair.action->setting == Scaled(1.0F + static_cast<float>(pair.action->id % 8)));
        pair.action.reset();
      }
      const auto message = pair.router->Receive(std::chrono::milliseconds(2));
      if (!message) return false;
      const auto& reply = std::get<ActionReply>(*message);
      answered.push_back(reply.id);
      if (reply.acknowledgement.status == AckStatus::kRejected) {
        replaced = true;
        CHECK(reply.acknowledgement.why ==
              "replaced by action " + std::to_string(answered.back() + 1));
        CHECK(reply.id < last);
      } else {
        CHECK(reply.acknowledgement.status == AckStatus::kApplied);
      }
      return reply.id == last;
    });
    // Each once, in their order.
    REQUIRE(answered.size() == kBatch);
    for (std::size_t i = 0; i < kBatch; ++i) CHECK(answered[i] == first + i);
  }
}

TEST_CASE("an action whose step has passed is answered as expired and not returned") {
  Pair pair;
  pair.Greet();
  pair.step = 101;
  pair.router->Send(ActionRequest{21, 100, Scaled(2)});
  const auto reply = pair.Next<ActionReply>();
  CHECK(reply.id == 21);
  CHECK(reply.acknowledgement == Acknowledgement{AckStatus::kExpired, 101, ""});
  CHECK_FALSE(pair.action);

  pair.router->Send(ActionRequest{22, 101, Scaled(2)});
  CHECK(pair.Receive().id == 22);
}

TEST_CASE("an action outside the bounds is refused for the trainer") {
  Pair pair;
  pair.Greet();
  pair.router->Send(ActionRequest{21, 100, Scaled(1000)});
  const auto reply = pair.Next<ActionReply>();
  CHECK(reply.acknowledgement.status == AckStatus::kRejected);
  CHECK_FALSE(reply.acknowledgement.why.empty());
  CHECK_FALSE(pair.action);
}

TEST_CASE("a daemon that stops reading loses observations, and every one is counted") {
  Pair pair;
  pair.Greet();
  constexpr std::uint64_t kSent = 10'000;
  for (std::uint64_t step = 0; step < kSent; ++step) {
    pair.probe.Observe(TestObservation(step));
    (void)pair.probe.Poll(step);
  }
  CHECK(pair.probe.Dropped() > 0);

  // The daemon wakes up: what arrives and what was dropped is all there was.
  std::uint64_t received = 0;
  std::uint64_t reported = 0;
  pair.step = kSent;
  bool last = false;
  pair.PollUntil([&] {
    if (const auto message = pair.router->Receive(std::chrono::milliseconds(2))) {
      if (const auto* observation = std::get_if<Observation>(&*message)) {
        ++received;
        reported += observation->dropped;
        last = observation->step == kSent;
      }
    } else if (received + pair.probe.Dropped() == kSent) {
      pair.probe.Observe(TestObservation(kSent));
    }
    return last;
  });
  CHECK(received + pair.probe.Dropped() == kSent + 1);
  CHECK(reported == pair.probe.Dropped());
}

TEST_CASE("answers that cannot be sent wait until they can") {
  Pair pair;
  pair.Greet();
  pair.router->Send(ActionRequest{21, 100, Scaled(2)});
  const ActionRequest action = pair.Receive();
  for (std::uint64_t step = 0; pair.probe.Dropped() < 100; ++step) {
    pair.probe.Observe(TestObservation(step));  // until nothing more can be queued
  }
  pair.probe.Applied(action, 7);
  CHECK(pair.Next<ActionReply>().acknowledgement == Acknowledgement{AckStatus::kApplied, 7, ""});
}

TEST_CASE("a trainer that a new daemon does not know introduces itself as it stands now") {
  Pair pair;
  pair.Greet(3, 0.05);
  pair.router->Send(ActionRequest{21, 100, Scaled(2)});
  pair.probe.Applied(pair.Receive(), 7);
  pair.step = 8;
  (void)pair.Next<ActionReply>();
  pair.router->Send(Error{ErrorCode::kOutOfOrder, "Hello first"});
  Hello hello;
  pair.PollUntil([&] {
    const auto message = pair.router->Receive(std::chrono::milliseconds(2));
    if (!message) return false;
    if (const auto* said = std::get_if<Hello>(&*message)) hello = *said;
    pair.router->Send(Heartbeat{0});  // so that it is not silence that the trainer answers
    return !hello.job.key.empty();
  });
  CHECK(hello.job == TestJob());
  CHECK(hello.setting == Scaled(2));
  CHECK(hello.action == 21);
  CHECK(hello.step == 8);
  CHECK_FALSE(pair.probe.TakeError());
}

TEST_CASE("an action that waits is gone once the trainer says Hello anew: it counts as lost") {
  Pair pair;
  pair.Greet(3, 0.001);
  pair.router->Send(ActionRequest{21, 100, Scaled(2)});
  pair.router->Send(Error{ErrorCode::kOutOfOrder, "Hello first"});
  const auto deadline = Clock::now() + kPatience;
  bool hello = false;
  for (std::uint64_t step = 2; !hello && Clock::now() < deadline; ++step) {
    pair.probe.Observe(TestObservation(step));
    const auto message = pair.router->Receive(std::chrono::milliseconds(2));
    hello = message && std::holds_alternative<Hello>(*message);
  }
  REQUIRE(hello);
  CHECK_FALSE(pair.probe.Poll(2));
}

TEST_CASE("a trainer finds a daemon that was started anew") {
  Pair pair;
  pair.Greet(3, 0.05);
  pair.router.reset();
  pair.router.emplace(pair.folder.Endpoint());
  CHECK(pair.Next<Hello>().job == TestJob());
}

TEST_CASE("a trainer says Hello again to a daemon that has fallen silent") {
  Pair pair;
  pair.Greet(3, 0.02);
  CHECK(pair.Next<Hello>().job == TestJob());
}

TEST_CASE("what waits is heard before a trainer takes its daemon for silent") {
  Pair pair;
  pair.Greet(3, 0.05);
  pair.router->Send(ActionRequest{21, 100, Scaled(2)});
  // Four heartbeats go by in which the trainer does nothing.
  while (pair.router->Receive(std::chrono::milliseconds(250))) {
  }
  pair.probe.Observe(TestObservation(8));
  Message said = pair.router->Receive(kPatience).value();
  if (std::holds_alternative<Heartbeat>(said)) said = pair.router->Receive(kPatience).value();
  // A Hello would have said that the action has not come.
  CHECK(std::holds_alternative<Observation>(said));
  pair.step = 8;
  CHECK(pair.Receive().id == 21);
}

TEST_CASE(
    "another setting than the daemon's is told by a Hello, and what was decided for it denied") {
  Pair pair;
  pair.Greet();
  pair.router->Send(ActionRequest{21, 100, Scaled(2)});
  pair.probe.Applied(pair.Receive(), 7);
  CHECK(pair.Next<ActionReply>().acknowledgement.status == AckStatus::kApplied);
  pair.probe.Resettle(Scaled(4));
  pair.probe.Observe(TestObservation(9));
  const auto hello = std::get<Hello>(pair.router->Receive(kPatience).value());
  CHECK(hello.setting == Scaled(4));
  CHECK(hello.action == 21);
  CHECK(hello.step == 9);
  CHECK(std::holds_alternative<Observation>(pair.router->Receive(kPatience).value()));
}

TEST_CASE("a trainer with nothing to report sends heartbeats") {
  Pair pair;
  pair.Greet(3, 0.02);
  pair.step = 5;
  for (int i = 0; i < 3; ++i) {
    CHECK(pair.Next<Heartbeat>().step == 5);
    pair.router->Send(Heartbeat{0});
  }
}

TEST_CASE("where a loss is no number the daemon is told at once how far the job is") {
  Pair pair;
  pair.Greet();
  for (const std::uint64_t step : {7U, 8U}) {
    Observation observation = TestObservation(step);
    observation.loss = std::numeric_limits<double>::quiet_NaN();
    pair.probe.Observe(observation);
    CHECK(pair.Next<Heartbeat>().step == step);
  }
  CHECK_THAT(pair.probe.TakeError().value_or(""),
             Catch::Matchers::Contains("loss is not a number"));
  CHECK(pair.probe.Dropped() == 2);
}

TEST_CASE("a process that was forked off says nothing, and ends") {
  Pair pair;
  pair.Greet();
  const pid_t child = fork();
  if (child == 0) {
    pair.probe.Observe(TestObservation(7));
    const bool said = pair.probe.Poll(7).has_value() || pair.probe.Due(16);
    pair.probe.Finish(Outcome::kFinished, 8, 1, 1.0);
    std::destroy_at(&pair.probe);
    _exit(said ? 1 : 0);
  }
  REQUIRE(child > 0);
  int status = -1;
  const auto ended = [&] { return waitpid(child, &status, WNOHANG) == child; };
  const auto deadline = Clock::now() + kPatience;
  while (!ended() && Clock::now() < deadline) std::this_thread::yield();
  if (status == -1) kill(child, SIGKILL);
  CHECK(status == 0);
  pair.probe.Observe(TestObservation(7));  // the parent's line is as it was
  CHECK(pair.Next<Observation>().step == 7);
}

TEST_CASE("a job that contradicts its earlier self is left alone and trains on") {
  Pair pair;
  pair.Greet();
  pair.router->Send(Error{ErrorCode::kContradiction, "run-1 had 3 sites"});
  std::optional<std::string> error;
  pair.PollUntil([&] { return (error = pair.probe.TakeError()).has_value(); });
  CHECK(*error == "attuned: run-1 had 3 sites");
  CHECK_FALSE(pair.probe.Due(3));
  pair.probe.Observe(TestObservation(3));
  CHECK_FALSE(pair.probe.Poll(3));
  pair.probe.Finish(Outcome::kFinished, 4, 1, {});
  CHECK_FALSE(pair.router->Receive(std::chrono::milliseconds(0)));
  CHECK_FALSE(pair.probe.TakeError());
}

TEST_CASE("a complaint about content is handed on and changes nothing else") {
  Pair pair;
  pair.Greet();
  pair.router->Send(Error{ErrorCode::kUnusable, "loss is NaN"});
  std::optional<std::string> error;
  pair.PollUntil([&] { return (error = pair.probe.TakeError()).has_value(); });
  CHECK(*error == "attuned: loss is NaN");
  pair.probe.Observe(TestObservation(3));
  CHECK(pair.Next<Observation>().step == 3);
}

TEST_CASE("bytes from an endpoint that is no daemon are counted, told and survived") {
  Pair pair;
  pair.Greet();
  pair.router->SendRaw({"GET / HTTP/1.1"});
  pair.router->SendRaw({Encode(Heartbeat{0}), "more"});
  pair.router->Send(StatusRequest{});
  std::optional<std::string> error;
  pair.PollUntil([&] {
    if (auto next = pair.probe.TakeError()) error = std::move(next);
    return error && error->find("3 messages") != std::string::npos;
  });
  CHECK_THAT(*error, Catch::Contains("StatusRequest"));
  pair.probe.Observe(TestObservation(3));
  CHECK(pair.Next<Observation>().step == 3);
}

TEST_CASE("Finish says how it ended, behind everything that was said before") {
  Pair pair;
  pair.Greet();
  pair.probe.Observe(TestObservation(3));
  pair.probe.Finish(Outcome::kFinished, 1000, 61.5, 2.25);
  CHECK(std::holds_alternative<Observation>(pair.router->Receive(kPatience).value()));
  const auto bye = std::get<Bye>(pair.router->Receive(kPatience).value());
  CHECK(bye.outcome == Outcome::kFinished);
  CHECK(bye.step == 1000);
  CHECK(bye.compute_seconds == 61.5);
  CHECK(bye.validation_loss == 2.25);
  CHECK_FALSE(pair.probe.Due(3));
}

TEST_CASE("Finish introduces the job first where the daemon has said that it knows nobody") {
  Pair pair;
  pair.Greet();
  pair.router->Send(Error{ErrorCode::kOutOfOrder, "Hello first"});
  pair.router->Send(ActionRequest{21, 100, Scaled(2)});
  (void)pair.Receive();  // and what was said before it
  pair.probe.Finish(Outcome::kFinished, 9, 1, 2.25);
  CHECK(std::holds_alternative<Hello>(pair.router->Receive(kPatience).value()));
  CHECK(std::get<Bye>(pair.router->Receive(kPatience).value()).validation_loss == 2.25);
}

TEST_CASE("a probe that goes without Finish says that the job failed") {
  Folder folder;
  Router router(folder.Endpoint());
  {
    Probe probe({.endpoint = folder.Endpoint(), .farewell_seconds = 20}, TestJob(), Scaled(1));
    const auto deadline = Clock::now() + kPatience;
    std::optional<Message> hello;
    while (!hello && Clock::now() < deadline) {
      (void)probe.Poll(12);
      hello = router.Receive(std::chrono::milliseconds(2));
    }
    REQUIRE(hello);
  }
  const auto bye = std::get<Bye>(router.Receive(kPatience).value());
  CHECK(bye.outcome == Outcome::kFailed);
  CHECK(bye.step == 12);
  CHECK(bye.validation_loss == std::nullopt);
}

TEST_CASE("a trainer that never met a daemon does not wait for one at its end") {
  const Folder folder;
  Probe probe({.endpoint = folder.Endpoint(), .farewell_seconds = 3600}, TestJob(), Scaled(1));
  probe.Observe(TestObservation(8));
  probe.Finish(Outcome::kFinished, 8, 1, {});  // would hold up this test for an hour
  CHECK(probe.Dropped() == 1);
}

TEST_CASE("a trainer waits no longer than its farewell for a daemon that does not read") {
  Folder folder;
  Router router(folder.Endpoint());
  Probe probe({.endpoint = folder.Endpoint(), .farewell_seconds = 0.05}, TestJob(), Scaled(1));
  const auto deadline = Clock::now() + kPatience;
  while (!router.Receive(std::chrono::milliseconds(2))) {
    REQUIRE(Clock::now() < deadline);
    (void)probe.Poll(1);
  }
  for (std::uint64_t step = 0; probe.Dropped() < 100; ++step) probe.Observe(TestObservation(step));
  probe.Finish(Outcome::kFinished, 8, 1, {});  // for ever, if it waited for the queue
  CHECK_FALSE(probe.Due(8));
}

// --- offline ---

std::string ReadBytes(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

std::string LittleEndian(std::size_t value) {
  std::string bytes;
  for (int shift = 0; shift < 32; shift += 8) bytes += static_cast<char>(value >> shift & 0xff);
  return bytes;
}

std::string Record(const Message& message) {
  const std::string frame = Encode(message);
  return LittleEndian(frame.size()) + frame;
}

// The log that PROTOCOL.md shows.
std::string LogInProtocol() {
  std::ifstream protocol(std::filesystem::path(__FILE__).parent_path() /
                         "../../collectors/PROTOCOL.md");
  std::string bytes;
  bool inside = false;
  for (std::string line; std::getline(protocol, line);) {
    if (inside && line == "```") break;
    if (inside) {
      std::istringstream digits(line.substr(0, line.find(';')));
      for (std::string byte; digits >> byte;) {
        bytes += static_cast<char>(std::stoi(byte, nullptr, 16));
      }
    }
    inside = inside || line == "```log";
  }
  return bytes;
}

ProbeOptions Offline(const std::filesystem::path& folder) {
  ProbeOptions options;
  options.endpoint = "tcp://127.0.0.1:1";  // offline goes before it
  options.directory = folder;
  return options;
}

TEST_CASE("an offline probe writes its messages to a log of its own") {
  const Folder folder;
  const auto path = folder.Path() / "logs/of mine/run-1.attune";
  {
    Probe probe(Offline(path.parent_path()), TestJob(), Scaled(1));
    CHECK(probe.LogPath() == path);
    CHECK(probe.Due(16));
    CHECK_FALSE(probe.Due(17));
    CHECK(probe.Due(24));
    probe.Observe(TestObservation(8));
    CHECK_FALSE(probe.Poll(8));
    // Nothing waits in the trainer: what a killed one has written is there.
    const Hello hello{.job = TestJob(), .setting = Scaled(1)};
    const std::string begun = Record(hello) + Record(TestObservation(8));
    CHECK(ReadBytes(path).substr(16) == begun);

    Observation unusable = TestObservation(16);
    unusable.metrics.pop_back();
    probe.Observe(unusable);
    CHECK(probe.Dropped() == 1);
    CHECK(probe.TakeError()->find("step 16") != std::string::npos);
    Observation next = TestObservation(24);
    probe.Observe(next);
    next.dropped = 1;
    probe.Finish(Outcome::kFinished, 24, 12.5, 1.25);
    probe.Observe(TestObservation(32));
    CHECK_FALSE(probe.Due(32));
    CHECK(ReadBytes(path).substr(16) ==
          begun + Record(next) + Record(Bye{Outcome::kFinished, 24, 12.5, 1.25}));
    CHECK_FALSE(probe.TakeError());
  }
  CHECK_FALSE(std::filesystem::exists(folder.Path() / "logs/of mine/run-1.2.attune"));
}

TEST_CASE("an offline log begins and ends as PROTOCOL.md shows") {
  const Folder folder;
  const double before =
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  Probe probe(Offline(folder.Path()), TestJob(), Scaled(1));
  probe.Finish(Outcome::kFinished, 8, 4, std::nullopt);
  const std::string log = ReadBytes(probe.LogPath());
  const std::string shown = LogInProtocol();
  REQUIRE(shown.size() == 27);
  CHECK(log.substr(0, 8) == shown.substr(0, 8));
  CHECK(log.substr(log.size() - 11) == shown.substr(16));
  double started = 0;
  std::memcpy(&started, shown.data() + 8, sizeof(started));
  CHECK(started == 1727889408.0);
  std::memcpy(&started, log.data() + 8, sizeof(started));
  CHECK(started >= before);
  CHECK(started < before + 3600);
}

TEST_CASE("an offline run that was not finished has failed") {
  const Folder folder;
  std::filesystem::path path;
  {
    Probe probe(Offline(folder.Path()), TestJob(), Scaled(1));
    path = probe.LogPath();
    probe.Observe(TestObservation(8));
    CHECK_FALSE(probe.Poll(9));
  }
  const std::string bye = Record(Bye{Outcome::kFailed, 9, 4.0, std::nullopt});
  CHECK(ReadBytes(path).ends_with(bye));
}

TEST_CASE("an offline probe leaves the log of another run as it is") {
  const Folder folder;
  JobSpec job = TestJob();
  job.key = "team/run";
  for (const char* name : {"team_run.attune", "team_run.2.attune", "team_run.3.attune"}) {
    Probe probe(Offline(folder.Path()), job, Scaled(1));
    CHECK(probe.LogPath() == folder.Path() / name);
  }
}

TEST_CASE("a log that cannot be written is told once and stops nothing") {
  const Folder folder;
  SECTION("because its folder cannot be") {
    const auto file = folder.Path() / "file";
    { const std::ofstream made(file); }
    Probe probe(Offline(file / "logs"), TestJob(), Scaled(1));
    CHECK(probe.TakeError()->find((file / "logs").string()) != std::string::npos);
    CHECK_FALSE(probe.Due(8));
    probe.Observe(TestObservation(8));
    probe.Finish(Outcome::kFinished, 8, 4, std::nullopt);
    CHECK_FALSE(probe.TakeError());
  }
  SECTION("because there is no more room") {
    Probe probe(Offline(folder.Path()), TestJob(), Scaled(1));
    probe.Observe(TestObservation(8));
    CHECK_FALSE(probe.TakeError());
    const auto written = std::filesystem::file_size(probe.LogPath());
    // No file of this process may grow beyond where this one stands, and a little.
    rlimit before{};
    getrlimit(RLIMIT_FSIZE, &before);
    const rlimit full{written + 10, before.rlim_max};
    const auto ignored = std::signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &full);
    probe.Observe(TestObservation(16));
    const auto error = probe.TakeError();
    probe.Observe(TestObservation(24));
    probe.Finish(Outcome::kFinished, 24, 4, std::nullopt);
    setrlimit(RLIMIT_FSIZE, &before);
    std::signal(SIGXFSZ, ignored);
    REQUIRE(error);
    CHECK(error->find("training goes on") != std::string::npos);
    CHECK_FALSE(probe.TakeError());
    CHECK_FALSE(probe.Due(32));
    CHECK(std::filesystem::file_size(probe.LogPath()) == written + 10);
  }
}

TEST_CASE("an offline job that cannot be used is refused as any other") {
  const Folder folder;
  JobSpec job = TestJob();
  job.topology.sites[0].heads = 0;
  CHECK_THROWS_AS(Probe(Offline(folder.Path()), job, Scaled(1)), std::invalid_argument);
  CHECK(std::filesystem::is_empty(folder.Path()));
}
