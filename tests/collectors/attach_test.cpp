// A real training loop against a router that plays the daemon.
#include "collectors/attach.h"

#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <iostream>
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

using Catch::Matchers::Contains;

namespace attune {
namespace {

struct NetImpl : torch::nn::Module {
  NetImpl()
      : lower(AttentionOptions{.width = 16, .heads = 4, .causal = true, .context = 24}),
        upper(AttentionOptions{.width = 16, .heads = 2, .context = 24}) {
    register_module("lower", lower);
    register_module("upper", upper);
  }
  torch::Tensor forward(const torch::Tensor& x) { return upper->forward(x + lower->forward(x)); }
  TunableAttention lower, upper;
};
TORCH_MODULE(Net);

// The daemon's end of a private endpoint.
class Daemon {
 public:
  Daemon() {
    socket_.set(zmq::sockopt::linger, 0);
    socket_.bind(Endpoint());
  }

  [[nodiscard]] std::string Endpoint() const { return "ipc://" + (directory_ / "s").string(); }

  // What a trainer said, if anything within 10 ms.
  std::optional<Message> Next() {
    zmq::pollitem_t item{socket_.handle(), 0, ZMQ_POLLIN, 0};
    zmq_poll(&item, 1, 10);
    zmq::message_t identity, frame;
    if (!socket_.recv(identity, zmq::recv_flags::dontwait)) return std::nullopt;
    static_cast<void>(socket_.recv(frame));
    identity_ = identity.to_string();
    return Decode(std::as_bytes(std::span(frame.data<char>(), frame.size())));
  }
  void Say(const Message& message) {
    socket_.send(zmq::buffer(identity_), zmq::send_flags::sndmore);
    const std::string frame = Encode(message);
    socket_.send(zmq::buffer(frame));
  }

 private:
  test::TemporaryDirectory directory_;
  zmq::context_t context_;
  zmq::socket_t socket_{context_, zmq::socket_type::router};
  std::string identity_;
};

AttachOptions Options(const Daemon* daemon) {
  AttachOptions options;
  options.name = "net";
  options.key = "key-1";
  options.budget = {BudgetKind::kSteps, 5000};
  options.seed = 3;
  options.learning_rate = 0.01;
  options.optimizer = "sgd";
  if (daemon != nullptr) options.endpoint = daemon->Endpoint();
  return options;
}

// A training run of which one step at a time is made.
struct Run {
  explicit Run(const AttachOptions& options)
      : handle(Attach(*net, options)), optimizer(net->parameters(), 0.01) {}

  bool Step(std::optional<double> reported = std::nullopt) {
    handle.StartStep();
    const torch::Tensor x = torch::randn({2, 24, 16});
    const torch::Tensor loss = net->forward(x).square().mean();
    optimizer.zero_grad();
    loss.backward();
    optimizer.step();
    ++steps;
    return handle.Step(reported.value_or(loss.item<double>()));
  }

  // Trains until the daemon hears a message of this kind; fails after 2,000 steps.
  template <class Kind>
  Kind Hear(Daemon& daemon) {
    for (int i = 0; i < 2000; ++i) {
      Step();
      while (const auto message = daemon.Next()) {
        if (const auto* kind = std::get_if<Kind>(&*message)) return *kind;
      }
    }
    throw std::runtime_error("the trainer did not say it");
  }

  Net net;
  Handle handle;
  torch::optim::SGD optimizer;
  std::uint64_t steps = 0;
};

Setting Smaller() {
  Setting setting = Setting::Neutral(6);
  setting.scale[1] = 1.5F;
  setting.active = {0, 1, 1, 0, 0, 1};
  return setting;
}

}  // namespace

TEST_CASE("a trainer introduces its sites, reports measured steps and says how it ended") {
  Daemon daemon;
  Run run(Options(&daemon));
  const Hello hello = run.Hear<Hello>(daemon);
  CHECK(hello.job.key == "key-1");
  CHECK(hello.job.name == "net");
  CHECK(hello.job.seed == 3);
  CHECK(hello.job.learning_rate == 0.01);
  CHECK(hello.job.optimizer == "sgd");
  CHECK_FALSE(hello.job.fresh);
  CHECK(hello.job.budget == Budget{BudgetKind::kSteps, 5000});
  REQUIRE(hello.job.topology.sites.size() == 2);
  CHECK(hello.job.topology.sites[0] == Site{"lower", SiteKind::kSelf, true, 4, 4, 24});
  CHECK(hello.job.topology.sites[1] == Site{"upper", SiteKind::kSelf, false, 2, 8, 24});
  CHECK(hello.setting == Setting::Neutral(6));

  daemon.Say(Welcome{1, 3, 10});
  const auto seen = run.Hear<Observation>(daemon);
  auto observation = run.Hear<Observation>(daemon);
  CHECK(observation.step > seen.step);
  while (observation.step <= 16) observation = run.Hear<Observation>(daemon);
  CHECK(observation.step % 3 == 0);
  CHECK_FALSE(FindFault(observation, hello.job.topology));
  CHECK(observation.active == std::vector<std::uint8_t>(6, 1));
  CHECK(observation.loss > 0);
  CHECK(observation.compute_seconds > seen.compute_seconds);
  CHECK(observation.attention_share > 0);
  for (std::size_t head = 0; head < 6; ++head) {
    CHECK(observation.metrics[head * kMetrics + static_cast<std::size_t>(Metric::kEntropy)] > 0);
    CHECK(observation.metrics[head * kMetrics + static_cast<std::size_t>(Metric::kImportance)] > 0);
  }

  run.handle.Finish(2.5);
  std::optional<Bye> bye;
  for (int i = 0; i < 200 && !bye; ++i) {
    const auto message = daemon.Next();
    if (message && std::holds_alternative<Bye>(*message)) bye = std::get<Bye>(*message);
  }
  REQUIRE(bye);
  CHECK(bye->outcome == Outcome::kFinished);
  CHECK(bye->step == run.steps);
  CHECK(bye->validation_loss == 2.5);
  CHECK(bye->compute_seconds == Approx(run.handle.ComputeSeconds()));
}

TEST_CASE("compute is counted by the clock that was given, and not between the steps") {
  Daemon daemon;
  AttachOptions options = Options(&daemon);
  double now = 100;
  options.clock = [&now] { return now; };
  Run run(options);
  static_cast<void>(run.Hear<Hello>(daemon));
  CHECK(run.handle.ComputeSeconds() == 0);
  daemon.Say(Welcome{1, 1, 10});
  std::optional<Observation> observation;
  for (int i = 0; i < 2000 && !(observation && observation->step > run.steps + 1); ++i) {
    now += 1000;  // an evaluation
    run.handle.StartStep();
    now += 0.5;
    run.handle.Step(1.0);
    while (const auto message = daemon.Next()) {
      if (const auto* heard = std::get_if<Observation>(&*message)) observation = *heard;
    }
  }
  REQUIRE(observation);
  CHECK(observation->compute_seconds == 0.5 * static_cast<double>(observation->step - run.steps));
}

TEST_CASE("an action is applied between two steps and acknowledged with that step") {
  Daemon daemon;
  Run run(Options(&daemon));
  static_cast<void>(run.Hear<Hello>(daemon));
  daemon.Say(Welcome{1, 1, 10});
  daemon.Say(ActionRequest{77, 100000, Smaller()});
  bool changed = false;
  for (int i = 0; i < 2000 && !changed; ++i) changed = run.Step();
  REQUIRE(changed);
  const std::uint64_t applied = run.steps;
  CHECK(run.handle.Current() == Smaller());
  CHECK(run.net->lower->Current() == Setting{{1, 1.5F, 1, 1}, {1, 1, 1, 1}, {0, 1, 1, 0}});
  CHECK(run.net->upper->Current() == Setting{{1, 1}, {1, 1}, {0, 1}});

  const auto reply = run.Hear<ActionReply>(daemon);
  CHECK(reply.id == 77);
  CHECK(reply.acknowledgement.status == AckStatus::kApplied);
  CHECK(reply.acknowledgement.step == applied);
  const auto observation = run.Hear<Observation>(daemon);
  CHECK(observation.action == 77);
  CHECK(observation.active == Smaller().active);
}

TEST_CASE("what is decided before the first step is in force when it comes") {
  Daemon daemon;
  std::optional<Message> hello, reply;
  std::jthread says([&](const std::stop_token& stop) {
    while (!hello && !stop.stop_requested()) hello = daemon.Next();
    if (hello) daemon.Say(ActionRequest{4, 16, Smaller()});
    while (!reply && !stop.stop_requested()) reply = daemon.Next();
    if (reply) daemon.Say(Welcome{1, 8, 5.0});
  });
  AttachOptions options = Options(&daemon);
  options.fresh = true;
  Run run(options);
  says.request_stop();
  says.join();
  REQUIRE(hello);
  REQUIRE(reply);
  CHECK(run.handle.Current() == Smaller());
  CHECK(std::get<Hello>(*hello).setting == Setting::Neutral(6));
  CHECK(std::get<Hello>(*hello).job.fresh);
  CHECK(std::get<ActionReply>(*reply).id == 4);
  CHECK(std::get<ActionReply>(*reply).acknowledgement.step == 0);
  const auto observation = run.Hear<Observation>(daemon);
  CHECK(observation.active == Smaller().active);
  CHECK(observation.action == 4);
}

TEST_CASE("an action that cannot be used is rejected with the reason and changes nothing") {
  Daemon daemon;
  Run run(Options(&daemon));
  static_cast<void>(run.Hear<Hello>(daemon));
  daemon.Say(Welcome{1, 4, 10});
  Setting setting = Setting::Neutral(6);
  setting.active = {1, 1, 1, 1, 0, 0};  // nothing left of the upper site
  daemon.Say(ActionRequest{5, 100000, setting});
  const auto reply = run.Hear<ActionReply>(daemon);
  CHECK(reply.id == 5);
  CHECK(reply.acknowledgement.status == AckStatus::kRejected);
  CHECK(reply.acknowledgement.why == FindFault(setting, run.handle.Sites()).value());
  CHECK(run.handle.Current() == Setting::Neutral(6));
  CHECK(run.net->lower->Current() == Setting::Neutral(4));
}

TEST_CASE("a model that was loaded with a setting introduces itself with it") {
  Daemon daemon;
  Net net;
  net->lower->Apply(std::vector<float>{1, 2, 1, 1}, std::vector<float>(4, 1.0F),
                    std::vector<std::uint8_t>{0, 1, 1, 1});
  Handle handle = Attach(*net, Options(&daemon));
  CHECK(handle.Current() == Setting{{1, 2, 1, 1, 1, 1}, {1, 1, 1, 1, 1, 1}, {0, 1, 1, 1, 1, 1}});
}

TEST_CASE("a setting that is loaded while it trains is told to the daemon and measured") {
  Daemon daemon;
  Net other;
  other->lower->Apply(std::vector<float>{1, 1.5F, 1, 1}, std::vector<float>(4, 1.0F),
                      std::vector<std::uint8_t>{0, 1, 1, 0});
  other->upper->Apply(std::vector<float>(2, 1.0F), std::vector<float>(2, 1.0F),
                      std::vector<std::uint8_t>{0, 1});
  std::stringstream file;
  torch::save(other, file);
  Run run(Options(&daemon));
  static_cast<void>(run.Hear<Hello>(daemon));
  daemon.Say(Welcome{1, 1, 10});
  torch::load(run.net, file);
  CHECK(run.Hear<Hello>(daemon).setting == Smaller());
  CHECK(run.handle.Current() == Smaller());
  CHECK(run.Hear<Observation>(daemon).active == Smaller().active);
}

TEST_CASE("a job that goes on from a checkpoint says where it stands") {
  Daemon daemon;
  AttachOptions options = Options(&daemon);
  options.steps = 600;
  options.compute_seconds = 50;
  Run run(options);
  CHECK(run.Hear<Hello>(daemon).step > 600);
  daemon.Say(Welcome{1, 1, 10});
  const auto observation = run.Hear<Observation>(daemon);
  CHECK(observation.step > 600);
  CHECK(observation.compute_seconds > 50);
  CHECK(run.handle.Steps() == 600 + run.steps);
  options.compute_seconds = -1;
  CHECK_THROWS_AS(Attach(*run.net, options), std::invalid_argument);
}

TEST_CASE("a job that goes on and fails before it has measured says where it stood") {
  Daemon daemon;
  AttachOptions options = Options(&daemon);
  options.steps = 600;
  options.compute_seconds = 50;
  std::uint64_t steps = 0;
  {
    Run run(options);
    static_cast<void>(run.Hear<Hello>(daemon));  // nobody answers: nothing is measured
    steps = run.handle.Steps();
  }
  std::optional<Message> message = daemon.Next();
  for (int i = 0; i < 500 && !(message && std::holds_alternative<Bye>(*message)); ++i) {
    message = daemon.Next();
  }
  REQUIRE(message);
  const Bye bye = std::get<Bye>(*message);
  CHECK(bye.outcome == Outcome::kFailed);
  CHECK(bye.step == steps);
  CHECK(bye.compute_seconds > 50);
}

TEST_CASE("a site that is not run keeps its numbers, and the others are tuned") {
  Daemon daemon;
  Run run(Options(&daemon));
  run.net->upper->eval();  // measures in training alone
  const Hello hello = run.Hear<Hello>(daemon);
  daemon.Say(Welcome{1, 1, 10});
  auto observation = run.Hear<Observation>(daemon);
  CHECK_FALSE(FindFault(observation, hello.job.topology));
  const auto entropy = [&](std::size_t head) {
    return observation.metrics[head * kMetrics + static_cast<std::size_t>(Metric::kEntropy)];
  };
  CHECK(entropy(0) != 0.5F);
  CHECK(entropy(4) == 0.5F);  // never measured: no reason to act
  run.net->upper->train();
  for (int i = 0; i < 50 && entropy(4) == 0.5F; ++i) observation = run.Hear<Observation>(daemon);
  const float measured = entropy(4);
  CHECK(measured != 0.5F);
  run.net->upper->eval();
  run.net->lower->Apply(std::vector<float>(4, 1.0F), std::vector<float>(4, 1.0F),
                        std::vector<std::uint8_t>{0, 1, 1, 1});
  static_cast<void>(run.Hear<Hello>(daemon));
  observation = run.Hear<Observation>(daemon);
  CHECK_FALSE(FindFault(observation, hello.job.topology));
  CHECK(entropy(0) == 0);  // skipped
  const float kept = entropy(4);
  CHECK(kept != 0.5F);
  observation = run.Hear<Observation>(daemon);
  CHECK(entropy(4) == kept);
  // Switched on between its forward pass and the end of the step: what it had before.
  run.handle.StartStep();
  static_cast<void>(run.net->forward(torch::randn({2, 24, 16})));
  run.net->lower->Apply(std::vector<float>(4, 1.0F), std::vector<float>(4, 1.0F),
                        std::vector<std::uint8_t>{1, 1, 1, 1});
  run.handle.Step(1.0);
  run.net->lower->eval();
  static_cast<void>(run.Hear<Hello>(daemon));
  observation = run.Hear<Observation>(daemon);
  CHECK_FALSE(FindFault(observation, hello.job.topology));
  CHECK(entropy(0) > 0);
}

TEST_CASE("a measurement that is no number is told, and the one before stands for it") {
  Daemon daemon;
  Run run(Options(&daemon));
  const Hello hello = run.Hear<Hello>(daemon);
  daemon.Say(Welcome{1, 1, 10});
  Observation before = run.Hear<Observation>(daemon);
  {
    const torch::NoGradGuard no_grad;
    run.net->upper->value->weight.fill_(std::nanf(""));
  }
  const std::uint64_t spoilt = run.steps;
  std::ostringstream said;
  std::streambuf* const stderr_buffer = std::cerr.rdbuf(said.rdbuf());
  std::optional<Observation> observation;
  for (int i = 0; i < 2000 && !(observation && observation->step > spoilt + 1); ++i) {
    run.Step(1.0);
    while (const auto message = daemon.Next()) {
      if (const auto* heard = std::get_if<Observation>(&*message)) {
        if (heard->step <= spoilt) {
          before = *heard;
        } else {
          observation = *heard;
        }
      }
    }
  }
  std::cerr.rdbuf(stderr_buffer);
  REQUIRE(observation);
  CHECK(observation->step > spoilt + 1);
  CHECK_FALSE(FindFault(*observation, hello.job.topology));
  const auto of_upper = [](const Observation& all) {
    return std::vector<float>(all.metrics.begin() + 4 * kMetrics, all.metrics.end());
  };
  CHECK(of_upper(*observation) == of_upper(before));
  CHECK_THAT(said.str(), Contains("site upper measured values that are no finite numbers"));
}

TEST_CASE("without a daemon a job trains on and keeps its clock") {
  Run run(Options(nullptr));
  double before = 0;
  for (int i = 0; i < 5; ++i) {
    CHECK_FALSE(run.Step(i == 2 ? std::optional(std::nan("")) : std::nullopt));
    CHECK(run.handle.ComputeSeconds() > before);
    before = run.handle.ComputeSeconds();
  }
  CHECK_FALSE(run.net->lower->TakeMeasurement());
  run.handle.Finish(std::nullopt);
}

TEST_CASE("a loss that is no number does not stop a job") {
  Daemon daemon;
  Run run(Options(&daemon));
  static_cast<void>(run.Hear<Hello>(daemon));
  daemon.Say(Welcome{1, 1, 10});
  static_cast<void>(run.Hear<Observation>(daemon));
  for (int i = 0; i < 3; ++i) CHECK_FALSE(run.Step(std::nan("")));
  CHECK(std::isfinite(run.Hear<Observation>(daemon).loss));  // the next mean starts afresh
}

TEST_CASE("a model without tunable attention and a step that was not started are errors") {
  torch::nn::Linear plain(3, 3);
  CHECK_THROWS_AS(Attach(*plain, Options(nullptr)), std::invalid_argument);
  Net net;
  Handle handle = Attach(*net, Options(nullptr));
  CHECK_THROWS_AS(handle.Step(1.0), std::logic_error);
}

TEST_CASE("an attention module alone is a model, and one registered twice is one site") {
  TunableAttention alone(AttentionOptions{.width = 8, .heads = 2, .context = 4});
  CHECK(Attach(*alone, Options(nullptr)).Sites().sites.size() == 1);
  struct Twice : torch::nn::Module {
    explicit Twice(const TunableAttention& attention) {
      register_module("a", attention);
      register_module("b", attention);
    }
  } twice(alone);
  CHECK(Attach(twice, Options(nullptr)).Sites().sites.size() == 1);
}

TEST_CASE("jobs of one process that go on have keys of their own, as new ones have") {
  setenv("ATTUNE_JOB", "many", 1);
  std::array<Daemon, 4> daemons;  // each stays to hear the Bye
  auto next = daemons.begin();
  const auto key_of = [&next](std::uint64_t steps, std::optional<Run>& run) {
    Daemon& daemon = *next++;
    AttachOptions options = Options(&daemon);
    options.key.clear();
    options.steps = steps;
    run.emplace(options);
    return run->Hear<Hello>(daemon).job.key;
  };
  std::optional<Run> first, second, third;
  std::vector<std::string> keys = {key_of(50, first), key_of(50, second), key_of(0, third)};
  first->handle.Finish(std::nullopt, Outcome::kFailed);
  std::optional<Run> again;  // from its checkpoint, while the handle of before is still there
  keys.push_back(key_of(50, again));
  unsetenv("ATTUNE_JOB");
  CHECK(keys == std::vector<std::string>{"many", "many.2", "many.3", "many"});
}

}  // namespace attune
