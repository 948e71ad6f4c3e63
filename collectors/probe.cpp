// The trainer's side of the protocol's state machine (PROTOCOL.md) on a DEALER socket, and its log.
#include "collectors/probe.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <deque>
#include <limits>
#include <span>
#include <stdexcept>
#include <string_view>
#include <utility>
#include <zmq.hpp>

#include "collectors/codec.h"

namespace attune {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

constexpr int kQueuedMessages = 32;
constexpr int kReconnectMilliseconds = 100;
constexpr int kReconnectMaxMilliseconds = 5000;
constexpr std::uint32_t kMeasureEveryAtFirst = 8;
// All of a job's first steps are measured: what is decided early pays all along.
constexpr std::uint64_t kFirstSteps = 16;
constexpr Seconds kHeartbeatAtFirst{5.0};
constexpr double kMaxHeartbeatSeconds = 3600;
// Heartbeats of silence after which the daemon counts as gone.
constexpr int kLiveness = 4;
// A daemon that has said nothing for so long after the start is told to the user, once.
constexpr Seconds kPatience{5.0};
// Messages taken in by one Poll, so that a flood cannot hold the trainer.
constexpr int kMessagesPerPoll = 64;
// Answers kept while they cannot be sent; the oldest go first.
constexpr std::size_t kMaxUnsentReplies = 64;
// A trainer waits so long before its first step for a daemon, and for its Welcome.
constexpr Seconds kMeeting{0.5};
constexpr Seconds kOpening{1.0};
// Names tried for a log before it is given up: KEY.attune, KEY.2.attune, …
constexpr int kMaxLogs = 10000;

bool IsDue(std::uint64_t step, std::uint32_t measure_every) {
  return step > 0 && (step <= kFirstSteps || step % measure_every == 0);
}

void RequireFaultless(const Hello& hello) {
  auto fault = FindFault(hello.job);
  if (!fault) fault = FindFault(hello.setting, hello.job.topology);
  if (fault) throw std::invalid_argument(*fault);
}

}  // namespace

// The offline job's file. Every record is written at once, so that a killed trainer loses none.
struct Probe::Log {
  Log(const ProbeOptions& options, JobSpec spec, Setting setting)
      : hello{.job = std::move(spec), .setting = std::move(setting), .step = options.step} {
    RequireFaultless(hello);
    Open(options.directory);
    if (descriptor < 0) return;
    const double started =
        std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
    std::string head(kLogMagic);
    head.append(reinterpret_cast<const char*>(&started), sizeof(started));
    Write(head);
    Write(Message(hello));
  }
  ~Log() { Close(); }
  Log(const Log&) = delete;
  Log& operator=(const Log&) = delete;

  // A file of its own, so that no other run's is touched: one with the same key is left as it is.
  void Open(const std::filesystem::path& directory) {
    std::string name = hello.job.key;
    std::ranges::replace(name, '/', '_');
    std::error_code error;
    std::filesystem::create_directories(directory, error);
    for (int number = 1; number <= kMaxLogs; ++number) {
      path = directory / (name + (number == 1 ? "" : "." + std::to_string(number)) + ".attune");
      descriptor = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600);
      if (descriptor >= 0) return;
      if (errno != EEXIST) break;
    }
    GiveUp();
  }

  void Write(std::string_view bytes) {
    while (descriptor >= 0 && !bytes.empty()) {
      const ssize_t written = write(descriptor, bytes.data(), bytes.size());
      if (written >= 0) {
        bytes.remove_prefix(static_cast<std::size_t>(written));
      } else if (errno != EINTR) {
        GiveUp();
      }
    }
  }
  void Write(const Message& message) {
    const std::string frame = Encode(message);
    const auto length = static_cast<std::uint32_t>(frame.size());
    std::string record(reinterpret_cast<const char*>(&length), sizeof(length));
    Write(record + frame);
  }

  void Take(Observation observation) {
    if (descriptor < 0) return;
    step = observation.step;
    compute_seconds = observation.compute_seconds;
    observation.dropped = static_cast<std::uint32_t>(
        std::min<std::uint64_t>(dropped_since_written, std::numeric_limits<std::uint32_t>::max()));
    if (const auto fault = FindFault(observation, hello.job.topology)) {
      complaint = "observation of step " + std::to_string(step) + ": " + *fault;
      ++dropped;
      ++dropped_since_written;
      return;
    }
    dropped_since_written = 0;
    Write(Message(std::move(observation)));
  }

  void GiveUp() {
    complaint = "cannot write " + path.string() + ": " + std::strerror(errno) +
                "; training goes on without a record";
    Close();
  }
  void Close() {
    if (descriptor >= 0) close(descriptor);
    descriptor = -1;
  }

  static_assert(std::endian::native == std::endian::little, "numbers are memory as it is");

  Hello hello;
  std::filesystem::path path;
  int descriptor = -1;  // of the file; -1: nothing more is written
  std::uint64_t step = 0;
  std::uint64_t dropped = 0;
  std::uint64_t dropped_since_written = 0;
  double compute_seconds = 0;  // of the last observation
  std::optional<std::string> complaint;
};

struct Probe::Line {
  Line(const ProbeOptions& options, JobSpec spec, Setting setting)
      : endpoint(options.endpoint),
        farewell(std::clamp(options.farewell_seconds, 0.0, 3600.0)),
        hello{.job = std::move(spec), .setting = std::move(setting), .step = options.step} {
    RequireFaultless(hello);
    socket.set(zmq::sockopt::immediate, true);
    socket.set(zmq::sockopt::sndhwm, kQueuedMessages);
    socket.set(zmq::sockopt::rcvhwm, kQueuedMessages);
    socket.set(zmq::sockopt::linger, 0);
    socket.set(zmq::sockopt::reconnect_ivl, kReconnectMilliseconds);
    socket.set(zmq::sockopt::reconnect_ivl_max, kReconnectMaxMilliseconds);
    socket.set(zmq::sockopt::maxmsgsize, static_cast<std::int64_t>(kMaxFrameBytes));
    if (endpoint.starts_with("tcp://")) UseKeys(options.keys);
    try {
      socket.connect(endpoint);
    } catch (const zmq::error_t& error) {
      throw std::invalid_argument("endpoint '" + endpoint + "': " + error.what() +
                                  "; use ipc://PATH or tcp://HOST:PORT");
    }
  }

  // What goes to other hosts is encrypted, and each side knows the other.
  void UseKeys(const std::string& keys) {
    const std::size_t first = keys.find(' ');
    const std::size_t second = keys.find(' ', first + 1);
    try {
      if (second == std::string::npos) throw zmq::error_t();
      socket.set(zmq::sockopt::curve_serverkey, keys.substr(0, first));
      socket.set(zmq::sockopt::curve_publickey, keys.substr(first + 1, second - first - 1));
      socket.set(zmq::sockopt::curve_secretkey, keys.substr(second + 1));
    } catch (const zmq::error_t&) {
      throw std::invalid_argument(
          "endpoint '" + endpoint +
          "' needs the three keys of its daemon in ATTUNE_KEYS; see attuned "
          "--listen");
    }
  }

  // Whether a message can be queued now: asked before a message is made.
  bool Writable() {
    int events = 0;
    std::size_t size = sizeof(events);
    // Fails only where a signal came in between: then not now.
    return zmq_getsockopt(socket.handle(), ZMQ_EVENTS, &events, &size) == 0 &&
           (events & ZMQ_POLLOUT) != 0;
  }

  // Queues the message, or returns false and leaves everything as it was.
  bool Send(const Message& message) {
    try {
      if (!Writable()) return false;
      const std::string frame = Encode(message);
      if (!socket.send(zmq::buffer(frame), zmq::send_flags::dontwait)) return false;
    } catch (const zmq::error_t& error) {
      if (error.num() != EINTR) Complain(endpoint + ": sending failed: " + error.what());
      return false;
    }
    last_sent = Clock::now();
    return true;
  }

  // Says Hello where that is due, at most once a heartbeat.
  void Introduce(Clock::time_point now) {
    if (hello_sent && now - *hello_sent < heartbeat) return;
    if (!Writable() || !Send(hello)) return;
    waiting.reset();  // what the daemon decided before, it takes for lost
    hello_sent = now;
    hello_old = false;
    if (!introduced) last_heard = now;
    introduced = true;
  }

  // Says what is due: Hello, answers that wait, a heartbeat. Observations go behind them.
  void Speak(Clock::time_point now) {
    if (!spoke) spoke = now;
    const bool silent = introduced && now - last_heard >= kLiveness * heartbeat;
    if (!introduced || silent || hello_old) Introduce(now);
    if (!heard && !missed && !complaint && now - std::max(*spoke, last_heard) >= kPatience) {
      missed = true;
      Complain("no daemon answers at " + endpoint + "; training goes on untuned");
    }
    if (!introduced || hello_old) return;
    while (!replies.empty() && Send(replies.front())) replies.pop_front();
    if (!silent && now - std::min(last_sent, last_heard) >= heartbeat &&
        now - last_heartbeat >= heartbeat && Send(Heartbeat{hello.step})) {
      last_heartbeat = now;
    }
  }

  void Answer(const ActionRequest& action, AckStatus status, std::uint64_t step,
              std::string_view why) {
    last_reply = ActionReply{action.id, {status, step, std::string(why)}};
    Answer(*last_reply);
  }
  void Answer(const ActionReply& reply) {
    if (replies.size() == kMaxUnsentReplies) replies.pop_front();
    replies.push_back(reply);
  }

  // Takes in what waits, without blocking.
  void Listen() {
    for (int i = 0; i < kMessagesPerPoll && !closed; ++i) {
      zmq::message_t part;
      bool whole = true;
      try {
        if (!socket.recv(part, zmq::recv_flags::dontwait)) return;
        for (; part.more(); whole = false) {
          if (!socket.recv(part, zmq::recv_flags::dontwait)) break;
        }
      } catch (const zmq::error_t& error) {
        if (error.num() != EINTR) Complain(endpoint + ": receiving failed: " + error.what());
        return;
      }
      try {
        if (!whole) throw CodecError(ErrorCode::kMalformed, "a message in several parts");
        Take(Decode(std::as_bytes(std::span(part.data<char>(), part.size()))));
      } catch (const CodecError& error) {
        ++malformed;
        Complain(endpoint + " sent " + std::to_string(malformed) +
                 (malformed == 1 ? " message" : " messages") + " that cannot be read (" +
                 error.what() + "); is it attuned's endpoint?");
      }
    }
  }

  void Take(Message message) {
    last_heard = Clock::now();
    heard = true;
    if (auto* welcome = std::get_if<Welcome>(&message)) {
      if (welcome->measure_every == 0 || !(welcome->heartbeat_seconds > 0) ||
          welcome->heartbeat_seconds > kMaxHeartbeatSeconds) {
        Complain(endpoint + " sent a Welcome that cannot be used: measure_every " +
                 std::to_string(welcome->measure_every) + ", heartbeat_seconds " +
                 std::to_string(welcome->heartbeat_seconds));
        return;
      }
      introduced = welcomed = true;
      measure_every = welcome->measure_every;
      heartbeat = Seconds(welcome->heartbeat_seconds);
    } else if (auto* action = std::get_if<ActionRequest>(&message)) {
      Take(std::move(*action));
    } else if (const auto* error = std::get_if<Error>(&message)) {
      // The daemon was started anew and knows nobody: that is mended by a Hello, silently.
      if (error->code == ErrorCode::kOutOfOrder) {
        introduced = false;
        return;
      }
      Complain("attuned: " + error->text);
      if (error->code == ErrorCode::kContradiction || error->code == ErrorCode::kVersion) Close();
    } else if (!std::holds_alternative<Heartbeat>(message)) {
      throw CodecError(ErrorCode::kMalformed,
                       std::string(Name(message)) + ", which the daemon does not send to trainers");
    }
  }

  void Take(ActionRequest action) {
    if (last_reply && last_reply->id == action.id) {
      Answer(*last_reply);  // asked again: the answer was lost
      return;
    }
    if (waiting && waiting->id != action.id) {
      Answer(*waiting, AckStatus::kRejected, hello.step,
             "replaced by action " + std::to_string(action.id));
    }
    waiting = std::move(action);
  }

  // The action to apply at this step; the ones that cannot be are answered.
  std::optional<ActionRequest> NextAction() {
    std::optional<ActionRequest> action = std::exchange(waiting, std::nullopt);
    if (!action) return std::nullopt;
    if (hello.step > action->expires_step) {
      Answer(*action, AckStatus::kExpired, hello.step, "");
      return std::nullopt;
    }
    if (const auto fault = FindFault(action->setting, hello.job.topology)) {
      Answer(*action, AckStatus::kRejected, hello.step, *fault);
      return std::nullopt;
    }
    return action;
  }

  // What is to be applied before the first step, waited for until Welcome or the time is over.
  std::optional<ActionRequest> Opening() {
    const auto in = [](Seconds seconds) {
      return Clock::now() + std::chrono::ceil<Clock::duration>(seconds);
    };
    if (!opening_ends) opening_ends = in(kMeeting);
    while (!closed && !welcomed) {
      const bool was_introduced = introduced;
      Speak(Clock::now());
      if (introduced && !was_introduced) opening_ends = in(kOpening);
      Listen();
      if (auto action = NextAction()) return action;
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(*opening_ends - Clock::now());
      if (closed || welcomed || left.count() <= 0) break;
      const short wanted = introduced && replies.empty() ? ZMQ_POLLIN : ZMQ_POLLIN | ZMQ_POLLOUT;
      zmq::pollitem_t item{socket.handle(), 0, wanted, 0};
      zmq_poll(&item, 1, static_cast<long>(left.count()));  // a signal only ends this turn
    }
    return std::nullopt;
  }

  void Complain(std::string text) { complaint = std::move(text); }

  // From here on nothing is said and nothing heard.
  void Close() {
    closed = true;
    waiting.reset();
    socket.close();
  }

  // Says Bye and waits, together at most `farewell`, until it can be queued and until it has gone.
  void SayGoodbye(const Bye& bye) {
    const auto deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(farewell);
    const auto left = [&deadline] {
      return std::max(std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()),
                      std::chrono::milliseconds(0));
    };
    const bool met = introduced || hello_sent.has_value();
    // One that was started anew meanwhile, or has given the job up, knows nobody: it may have said
    // so by now, or its pipe is gone.
    const bool quiet = Clock::now() - last_heard >= heartbeat;  // before old mail makes it fresh
    Listen();
    if (closed) return;
    if (!introduced || quiet || !Writable()) {
      introduced = false;
      hello_sent.reset();
    }
    // The first turn also finds a daemon that came up since the last step.
    for (bool gone = false; !gone;) {
      Speak(Clock::now());
      gone = introduced && !hello_old && replies.empty() && Send(bye);
      if (gone || (!met && !introduced) || left().count() == 0) break;
      zmq::pollitem_t item{socket.handle(), 0, ZMQ_POLLOUT, 0};
      zmq_poll(&item, 1, static_cast<long>(left().count()));  // a signal only ends this turn
    }
    socket.set(zmq::sockopt::linger, static_cast<int>(left().count()));
    Close();
    context.close();
  }

  std::string endpoint;
  Seconds farewell;
  Hello hello;  // kept up to date, so that it can be said at any time
  zmq::context_t context{1};
  zmq::socket_t socket{context, zmq::socket_type::dealer};

  std::optional<Clock::time_point> spoke;  // the first time that something was due
  bool heard = false;                      // anything, ever
  bool missed = false;                     // and the user was told so
  bool closed = false;
  bool welcomed = false;                          // the daemon has said Welcome once
  std::optional<Clock::time_point> opening_ends;  // the wait before the first step
  bool introduced = false;                        // the daemon was told who we are
  bool hello_old = false;                         // and another setting than is in force
  std::optional<Clock::time_point> hello_sent;    // the last time
  Clock::time_point last_sent = Clock::now();
  Clock::time_point last_heard = Clock::now();
  Clock::time_point last_heartbeat = Clock::now();
  Seconds heartbeat = kHeartbeatAtFirst;
  std::uint32_t measure_every = kMeasureEveryAtFirst;

  std::optional<ActionRequest> waiting;   // received, not yet returned
  std::optional<ActionReply> last_reply;  // to be repeated when its action is
  std::deque<ActionReply> replies;        // not yet sent

  std::uint64_t dropped = 0;
  std::uint64_t dropped_since_sent = 0;
  std::uint64_t malformed = 0;
  double compute_seconds = 0;  // of the last observation
  std::optional<std::string> complaint;
};

Probe::Probe(const ProbeOptions& options, JobSpec job, Setting setting) : process_(getpid()) {
  if (!options.directory.empty()) {
    log_ = std::make_unique<Log>(options, std::move(job), std::move(setting));
    return;
  }
  if (options.endpoint.empty()) {  // what trains here trains elsewhere
    RequireFaultless({.job = std::move(job), .setting = std::move(setting)});
    return;
  }
  line_ = std::make_unique<Line>(options, std::move(job), std::move(setting));
}

bool Probe::Mine() const { return getpid() == process_; }
Probe::Line* Probe::Live() const {
  return line_ && !line_->closed && Mine() ? line_.get() : nullptr;
}

Probe::~Probe() {
  if (!Mine()) {  // closing them would wait for threads that are not here, for ever
    static_cast<void>(line_.release());
    static_cast<void>(log_.release());
    return;
  }
  if (line_) Finish(Outcome::kFailed, line_->hello.step, line_->compute_seconds, std::nullopt);
  if (log_) Finish(Outcome::kFailed, log_->step, log_->compute_seconds, std::nullopt);
}

std::optional<ActionRequest> Probe::Opening() {
  if (Live() == nullptr) return std::nullopt;
  return line_->Opening();
}

bool Probe::Due(std::uint64_t step) const {
  if (log_) return log_->descriptor >= 0 && Mine() && IsDue(step, kMeasureEveryAtFirst);
  return Live() != nullptr && IsDue(step, line_->measure_every);
}

void Probe::Observe(Observation observation) {
  if (log_) {
    if (Mine()) log_->Take(std::move(observation));
    return;
  }
  if (Live() == nullptr) return;
  Line& line = *line_;
  line.hello.step = observation.step;
  line.compute_seconds = observation.compute_seconds;
  line.Listen();  // what waits is no silence, and may be an action that Hello would deny
  if (line.closed) return;
  line.Speak(Clock::now());
  observation.action = line.hello.action;
  observation.dropped = static_cast<std::uint32_t>(
      std::min<std::uint64_t>(line.dropped_since_sent, std::numeric_limits<std::uint32_t>::max()));
  const auto fault = FindFault(observation, line.hello.job.topology);
  if (fault)
    line.Complain("observation of step " + std::to_string(observation.step) + ": " + *fault);
  // Behind an answer that could not be sent: the daemon must not see an action's effect before it.
  const bool may_send = line.introduced && !line.hello_old && line.replies.empty();
  if (!fault && may_send && line.Send(std::move(observation))) {
    line.dropped_since_sent = 0;
  } else {
    ++line.dropped;
    ++line.dropped_since_sent;
    // So that it is told how far the job is, and takes back what may have made it diverge.
    if (fault && may_send) line.Send(Heartbeat{line.hello.step});
  }
}

std::optional<ActionRequest> Probe::Poll(std::uint64_t step) {
  if (log_) log_->step = step;
  if (Live() == nullptr) return std::nullopt;
  line_->hello.step = step;
  line_->Listen();
  if (line_->closed) return std::nullopt;
  line_->Speak(Clock::now());  // where that is a Hello, no action from before it is returned
  std::optional<ActionRequest> action = line_->NextAction();
  if (!line_->replies.empty()) line_->Speak(Clock::now());
  return action;
}

void Probe::Applied(const ActionRequest& action, std::uint64_t step) {
  if (Live() == nullptr) return;
  line_->hello.step = step;
  line_->hello.setting = action.setting;
  line_->hello.action = action.id;
  line_->Answer(action, AckStatus::kApplied, step, "");
  line_->Speak(Clock::now());
}

void Probe::Resettle(const Setting& setting) {
  if (Live() == nullptr) return;
  Line& line = *line_;
  if (line.waiting) {
    line.Answer(*line.waiting, AckStatus::kRejected, line.hello.step,
                "the trainer loaded another setting");
    line.waiting.reset();
  }
  line.hello.setting = setting;
  line.hello_old = true;
  line.hello_sent.reset();
}

void Probe::Rejected(const ActionRequest& action, std::uint64_t step, const std::string& why) {
  if (Live() == nullptr) return;
  line_->hello.step = step;
  line_->Answer(action, AckStatus::kRejected, step, why);
  line_->Speak(Clock::now());
}

void Probe::Finish(Outcome outcome, std::uint64_t step, double compute_seconds,
                   std::optional<double> validation_loss) {
  if (outcome != Outcome::kFinished) outcome = Outcome::kFailed;
  if (log_ && log_->descriptor >= 0 && Mine()) {
    log_->Write(Message(Bye{outcome, step, compute_seconds, validation_loss}));
    log_->Close();
  }
  if (Live() == nullptr) return;
  line_->hello.step = step;
  try {
    line_->SayGoodbye({outcome, step, compute_seconds, validation_loss});
  } catch (const zmq::error_t& error) {
    line_->Complain(line_->endpoint + ": saying Bye failed: " + error.what());
    line_->closed = true;
  }
}

std::uint64_t Probe::Dropped() const { return line_ ? line_->dropped : log_ ? log_->dropped : 0; }

std::filesystem::path Probe::LogPath() const { return log_ ? log_->path : ""; }

std::optional<std::string> Probe::TakeError() {
  if (log_) return std::exchange(log_->complaint, std::nullopt);
  return line_ ? std::exchange(line_->complaint, std::nullopt) : std::nullopt;
}

}  // namespace attune
