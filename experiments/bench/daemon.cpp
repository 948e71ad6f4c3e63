// The daemon beside the bare parts that it is made of: ZeroMQ, LibTorch and SQLite.
//
//   attune-bench-daemon ingest   observations of 144 heads from 8 connections, beside a ROUTER that
//                                drops the same frames
//   attune-bench-daemon decide   from the observation that completes a window to the action at the
//                                trainer, beside a bare echo, forward pass and commit
//   attune-bench-daemon scale    processor time of a decision with 1,000 jobs, beside 1 job
#include <sqlite3.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <torch/torch.h>

#include <chrono>
#include <cstring>
#include <optional>
#include <thread>
#include <zmq.hpp>
#include <zmq_addon.hpp>

#include "collectors/codec.h"
#include "experiments/bench/bare_network.h"
#include "experiments/bench/bench.h"
#include "experiments/bench/load.h"

namespace attune::bench {
namespace {

// A trainer that speaks the protocol and waits for the answers.
class Trainer {
 public:
  Trainer(zmq::context_t& context, const std::string& endpoint)
      : socket_(context, zmq::socket_type::dealer) {
    socket_.set(zmq::sockopt::linger, 0);
    socket_.connect(endpoint);
  }

  void Send(const std::string& frame) { socket_.send(zmq::buffer(frame)); }
  void Send(const Message& message) { Send(Encode(message)); }

  // The next message, or nothing where none comes in time.
  std::optional<Message> Hear(int milliseconds) {
    zmq::message_t frame;
    socket_.set(zmq::sockopt::rcvtimeo, milliseconds);
    if (!socket_.recv(frame)) return std::nullopt;
    return Decode({static_cast<const std::byte*>(frame.data()), frame.size()});
  }
  // Waits for such a message; what comes before it is dropped.
  template <typename Wanted>
  Wanted Await() {
    while (auto message = Hear(kPatience)) {
      if (auto* wanted = std::get_if<Wanted>(&*message)) return std::move(*wanted);
    }
    throw std::runtime_error("the daemon does not answer");
  }
  void Greet(const JobSpec& job) {
    setting = Setting::Neutral(kJobHeads);
    Send(Hello{.job = job, .setting = setting});
    Await<Welcome>();
  }
  // Applies the action that comes within so long, if one does.
  bool Obey(int milliseconds, std::uint64_t step) {
    while (const auto message = Hear(milliseconds)) {
      const auto* action = std::get_if<ActionRequest>(&*message);
      if (action == nullptr) continue;
      setting = action->setting;
      Send(ActionReply{action->id, {AckStatus::kApplied, step, ""}});
      return true;
    }
    return false;
  }

  Setting setting;

 private:
  static constexpr int kPatience = 10'000;
  zmq::socket_t socket_;
};

std::string Key() {
  static int jobs = 0;
  return fmt::format("bench-{}-{}", getpid(), ++jobs);
}

// A process that answers at an endpoint of its own with nothing but ZeroMQ: `answer` gives what is
// sent back for a frame, if anything.
class BareServer {
 public:
  using Answer = std::function<std::optional<std::string>(const zmq::message_t& frame)>;
  // `prepare` runs in the new process.
  explicit BareServer(const std::function<Answer()>& prepare) {
    endpoint_ = fmt::format("ipc:///tmp/attune-bench-bare-{}.sock", getpid());
    process_ = fork();
    if (process_ != 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    const Answer answer = prepare();
    zmq::context_t context;
    zmq::socket_t router(context, zmq::socket_type::router);
    router.bind(endpoint_);
    zmq::message_t peer, frame;
    while (router.recv(peer) && router.recv(frame)) {
      if (const auto reply = answer(frame)) {
        router.send(peer, zmq::send_flags::sndmore);
        router.send(zmq::buffer(*reply));
      }
    }
    _exit(1);
  }
  ~BareServer() {
    kill(process_, SIGKILL);
    waitpid(process_, nullptr, 0);
    unlink(endpoint_.c_str() + std::strlen("ipc://"));
  }
  BareServer(const BareServer&) = delete;
  BareServer& operator=(const BareServer&) = delete;
  [[nodiscard]] const std::string& Endpoint() const { return endpoint_; }

 private:
  std::string endpoint_;
  pid_t process_;
};

const std::vector<std::uint8_t> kAllActive(kJobHeads, 1);

void TimeIngest() {
  constexpr std::size_t kConnections = 8;
  constexpr std::uint64_t kObservations = 24 * 52;  // of a connection in a round; 24 windows
  const BareServer bare([] {
    return [](const zmq::message_t& frame) {
      return frame.size() < 1024 ? std::optional(frame.to_string()) : std::nullopt;
    };
  });
  const Running daemon({"--policy", "keep", "--learn", "false", "--windows", "24"});
  std::vector<std::string> frames;
  for (std::uint64_t i = 1; i <= kObservations; ++i) {
    frames.push_back(Encode(MakeObservation(4 * i, kAllActive)));
  }
  zmq::context_t context;
  const auto stream = [&](std::vector<Trainer>& trainers) {
    for (const std::string& frame : frames) {
      for (Trainer& trainer : trainers) trainer.Send(frame);
    }
  };
  const auto rate = [&](double start) {
    return static_cast<double>(kConnections * kObservations) / (WallSeconds() - start);
  };
  const auto connect = [&](const std::string& endpoint) {
    std::vector<Trainer> trainers;
    for (std::size_t i = 0; i < kConnections; ++i) trainers.emplace_back(context, endpoint);
    return trainers;
  };
  const auto ours = [&] {
    std::vector<Trainer> trainers = connect(daemon.Endpoint());
    for (Trainer& trainer : trainers) trainer.Greet(MakeJob(Key(), 4 * kObservations));
    const double start = WallSeconds();
    stream(trainers);
    // An end is on disk before anything behind it is answered.
    for (Trainer& trainer : trainers) {
      trainer.Send(Bye{Outcome::kFinished, 4 * kObservations, 4 * kObservations, {}});
      trainer.Send(StatusRequest{});
    }
    for (Trainer& trainer : trainers) trainer.Await<Status>();
    return rate(start);
  };
  const std::string last = Encode(Heartbeat{});
  const auto reference = [&] {
    std::vector<Trainer> trainers = connect(bare.Endpoint());
    for (Trainer& trainer : trainers) trainer.Send(last);
    for (Trainer& trainer : trainers) trainer.Await<Heartbeat>();
    const double start = WallSeconds();
    stream(trainers);
    for (Trainer& trainer : trainers) trainer.Send(last);
    for (Trainer& trainer : trainers) trainer.Await<Heartbeat>();
    return rate(start);
  };
  ours();
  reference();
  const double before = ProcessorSeconds(daemon.Process());
  const Figures figures = Figures::Take(15, ours, reference);
  const double cost =
      (ProcessorSeconds(daemon.Process()) - before) / (15.0 * kConnections * kObservations);
  Report("ingest", figures, "observations/s",
         {{"frame_bytes", frames.front().size()}, {"daemon_us_each", 1e6 * cost}});
}

// One job's windows, `observations` each; `window` is called with each one's last step before its
// observation is sent.
template <typename Window>
void Train(Trainer& trainer, std::uint64_t windows, std::uint64_t observations, Window&& window) {
  for (std::uint64_t i = 1; i <= windows * observations; ++i) {
    const std::string frame = Encode(MakeObservation(4 * i, trainer.setting.active));
    if (i % observations == 0) {
      window(4 * i, frame);
    } else {
      trainer.Send(frame);
    }
  }
}

// What a decision costs at least: LibTorch's forward pass, one row of as many bytes in a store of
// the same settings, and the answer.
BareServer::Answer BareDecision() {
  UseOneThread();
  torch::set_num_threads(1);
  const auto network = std::make_shared<BareNetwork>();
  const torch::Tensor tokens =
      torch::randn({1, kJobSites, kJobHeads / kJobSites, std::int64_t{kTokenFeatures}});
  const torch::Tensor scale_open = torch::ones({kJobSites, 12, kScaleChoices}, torch::kBool);
  const torch::Tensor count_open = torch::ones({kJobSites, kCountChoices}, torch::kBool);
  const std::string reply = Encode(ActionRequest{1, 1, Setting::Neutral(kJobHeads)});
  const std::string path = fmt::format("/tmp/attune-bench-bare-{}.db", getpid());
  sqlite3* database = nullptr;
  sqlite3_open(path.c_str(), &database);
  sqlite3_exec(database,
               "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
               "CREATE TABLE trials (id INTEGER PRIMARY KEY, body BLOB)",
               nullptr, nullptr, nullptr);
  for (const char* suffix : {"", "-wal", "-shm"}) unlink((path + suffix).c_str());
  sqlite3_stmt* insert = nullptr;
  sqlite3_prepare_v2(database, "INSERT INTO trials (body) VALUES (?)", -1, &insert, nullptr);
  return [=](const zmq::message_t& frame) -> std::optional<std::string> {
    if (frame.size() < 1024) return frame.to_string();
    const torch::NoGradGuard no_grad;
    static_cast<void>(network->Forward(tokens, scale_open, count_open).value.item<float>());
    // The tokens of a trial and the reading of its window.
    constexpr int kBytes = static_cast<int>(kJobHeads * sizeof(float) *
                                            (kTokenFeatures + kMetrics + kProfileBins + 4));
    static const std::vector<char> body(kBytes, 1);
    sqlite3_bind_blob(insert, 1, body.data(), kBytes, SQLITE_STATIC);
    sqlite3_step(insert);
    sqlite3_reset(insert);
    return reply;
  };
}

void TimeDecide() {
  constexpr std::uint64_t kWindows = 24;
  constexpr std::uint64_t kObservations = 8;  // in a window
  const BareServer bare(BareDecision);
  // Drawn decisions, of which nearly every one changes something; no job ends, so none is learned
  // from.
  const Running daemon(
      {"--policy", "network", "--explore", "1", "--windows", std::to_string(kWindows)});
  zmq::context_t context;
  Trainer echo(context, bare.Endpoint());
  echo.Send(Encode(Heartbeat{}));
  echo.Await<Heartbeat>();
  Figures figures;
  std::size_t kept = 0;
  for (int job = 0; job < 20; ++job) {
    Trainer trainer(context, daemon.Endpoint());
    trainer.Greet(MakeJob(Key(), 4 * kWindows * kObservations));
    Train(trainer, kWindows, kObservations, [&](std::uint64_t step, const std::string& frame) {
      trainer.Send(Heartbeat{});  // nothing that came before is left to do
      trainer.Await<Heartbeat>();
      double start = WallSeconds();
      trainer.Send(frame);
      if (!trainer.Obey(200, step)) {
        ++kept;
        return;
      }
      figures.ours.push_back(1e6 * (WallSeconds() - start));
      start = WallSeconds();
      echo.Send(frame);
      echo.Await<ActionRequest>();
      figures.reference.push_back(1e6 * (WallSeconds() - start));
    });
  }
  if (figures.ours.empty()) throw std::runtime_error("the network kept everything");
  Report("decide", figures, "us",
         {{"p99", Quantile(figures.ours, 0.99)},
          {"reference_p99", Quantile(figures.reference, 0.99)},
          {"decisions", figures.ours.size()},
          {"without_action", kept}});
}

// Processor seconds of a decision, windows of two observations, of so many jobs taken in turn.
double CostOfDecision(const Running& daemon, std::size_t jobs) {
  constexpr std::uint64_t kWindows = 4;
  zmq::context_t context;
  context.set(zmq::ctxopt::max_sockets, 2000);
  std::vector<Trainer> trainers;
  for (std::size_t job = 0; job < jobs; ++job) {
    trainers.emplace_back(context, daemon.Endpoint()).Greet(MakeJob(Key(), 4 * 2 * 24));
  }
  const double start = ProcessorSeconds(daemon.Process());
  for (std::uint64_t window = 0; window < kWindows; ++window) {
    for (Trainer& trainer : trainers) {
      for (const std::uint64_t observation : {1, 2}) {
        const std::uint64_t step = 4 * (2 * window + observation);
        trainer.Send(MakeObservation(step, trainer.setting.active));
      }
      trainer.Send(Heartbeat{});
      trainer.Await<Heartbeat>();
      trainer.Obey(3, 4 * 2 * (window + 1));
    }
  }
  trainers.back().Send(Heartbeat{});  // answered when the last action's reasons are worked out
  trainers.back().Await<Heartbeat>();
  const double used = ProcessorSeconds(daemon.Process()) - start;
  for (Trainer& trainer : trainers) {
    trainer.Send(Bye{Outcome::kFinished, 8 * kWindows, 8 * kWindows, {}});
  }
  trainers.back().Send(StatusRequest{});
  trainers.back().Await<Status>();
  return used / static_cast<double>(kWindows * jobs);
}

void TimeScale() {
  constexpr std::size_t kMany = 1000;
  const Running daemon({"--learn", "false", "--windows", "24"});
  CostOfDecision(daemon, 1);
  std::vector<double> alone;
  const auto one = [&] { alone.push_back(1e6 * CostOfDecision(daemon, 1)); };
  for (int round = 0; round < 50; ++round) one();
  const double many = 1e6 * CostOfDecision(daemon, kMany);
  for (int round = 0; round < 50; ++round) one();
  double mean = 0;
  for (const double cost : alone) mean += cost / static_cast<double>(alone.size());
  Report("scale", many, mean, "us", many / mean, {{"jobs", kMany}});
}

// What a daemon costs while its one job says nothing.
void TimeIdle() {
  constexpr double kSettling = 5, kWatched = 30;  // seconds
  const Running daemon({});
  zmq::context_t context;
  Trainer trainer(context, daemon.Endpoint());
  trainer.Greet(MakeJob(Key(), 1000));
  std::this_thread::sleep_for(std::chrono::duration<double>(kSettling));
  const double start = WallSeconds();
  const double before = ProcessorSeconds(daemon.Process());
  std::this_thread::sleep_for(std::chrono::duration<double>(kWatched));
  const double used = ProcessorSeconds(daemon.Process()) - before;
  const double watched = WallSeconds() - start;
  Report("idle", used, watched, "s", used / watched);
}

}  // namespace
}  // namespace attune::bench

int main(int argc, char** argv) {
  using namespace attune::bench;
  return RunNamed(
      argc, argv,
      {{"ingest", TimeIngest}, {"decide", TimeDecide}, {"scale", TimeScale}, {"idle", TimeIdle}});
}
