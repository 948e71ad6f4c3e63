// The messages between trainers, policy servers, the command line and the daemon, as values.
// PROTOCOL.md says in what order they go; codec.h turns them into bytes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "env/action.h"
#include "env/job.h"
#include "env/observation.h"
#include "env/setting.h"
#include "env/state.h"
#include "env/trial.h"

namespace attune {

// Trainer → daemon, first: who I am and what I look like. Again after a reconnection.
struct Hello {
  JobSpec job;
  Setting setting;           // in force at the trainer
  std::uint64_t step = 0;    // at which it stands
  std::uint64_t action = 0;  // id of the last action applied, 0 before any
  // [heads], or empty for none: 1 where policies leave the scale alone, because no weight of the
  // model could take it up when it is baked.
  std::vector<std::uint8_t> scale_fixed = {};
};

// Daemon → trainer, the answer to Hello.
struct Welcome {
  std::uint64_t job = 0;            // id in the store, for people
  std::uint32_t measure_every = 0;  // steps between measurements, at least 1
  double heartbeat_seconds = 0;     // say something at least this often
};

// Trainer → daemon: an Observation (env/observation.h) is sent as it is.

// Daemon → trainer: please have this setting.
struct ActionRequest {
  std::uint64_t id = 0;            // of the trial
  std::uint64_t expires_step = 0;  // not to be applied after this step
  Setting setting;                 // complete, so that applying it twice does no harm
};

// Trainer → daemon: what became of an action.
struct ActionReply {
  std::uint64_t id = 0;
  Acknowledgement acknowledgement;  // applied, rejected or expired
};

// Both ways: still here. The daemon answers each with one.
struct Heartbeat {
  std::uint64_t step = 0;  // the trainer's; 0 from the daemon
};

// Trainer → daemon, last: how it ended.
struct Bye {
  Outcome outcome = Outcome::kFinished;  // or kFailed
  std::uint64_t step = 0;
  double compute_seconds = 0;
  std::optional<double> validation_loss;  // nats
};

enum class ErrorCode : std::uint8_t {
  kMalformed = 0,      // the bytes are no message of this protocol
  kVersion = 1,        // of another version of the protocol
  kOutOfOrder = 2,     // Hello first
  kContradiction = 3,  // a Hello that differs from the job's earlier one
  kUnusable = 4,       // well-formed, but its content cannot be used (NaN, sizes, bounds)
};

// Daemon → whoever sent something wrong. The offending message was ignored, nothing else.
struct Error {
  ErrorCode code = ErrorCode::kMalformed;
  std::string text;  // what, where, what to do; one line
};

// Command line → daemon: what is going on? Answered by Status.
struct StatusRequest {};

struct LiveJob {
  std::uint64_t id = 0;
  std::string key;
  std::string name;
  std::uint64_t step = 0;
  double progress = 0;  // [0, 1]
  double loss = 0;
  double imbalance = 0;
  std::uint32_t active_heads = 0;
  std::uint32_t heads = 0;
  std::uint32_t window = 0;
  std::uint64_t trials = 0;
  std::uint64_t dropped = 0;  // observations that the trainer could not send
  std::string last_action;    // one line; empty before the first
  std::string last_decider;
};

struct Status {
  std::string version;
  std::uint64_t pid = 0;
  double uptime_seconds = 0;
  std::string state_directory;
  std::string policy;                // in use
  std::uint64_t policy_version = 0;  // of the network; 0 where there is none
  std::uint64_t errors = 0;          // error replies sent
  std::vector<LiveJob> jobs;
  std::string external;            // the policy server that is asked; empty: none
  std::uint64_t late_answers = 0;  // of policy servers, to questions that were no longer open
  std::string store_fault = {};    // why the store cannot be written now; empty: it can
};

// Command line → daemon: change a live job by hand. Answered by Reply.
struct Adjust {
  std::uint64_t job = 0;
  std::string site;                   // name; empty: every site
  std::optional<std::uint32_t> head;  // within the site; none: every head
  std::optional<float> scale;
  std::optional<float> gain;
  std::optional<std::uint32_t> active_heads;  // of a site; 0: all that it has
};

// Command line → daemon: let this policy decide from now on. Answered by Reply.
struct UsePolicy {
  std::string name;
  // A live one alone, whatever its trainer asked for; none: all whose trainers asked for none.
  std::optional<std::uint64_t> job = {};
};

struct Reply {
  bool ok = false;
  std::string text;  // what was done, or why not
};

// Policy server → daemon: I decide for jobs whose policy is external. Again every
// `heartbeat_seconds`. Answered by Serving.
struct Serve {
  std::string name;  // for people; a name (FindNameFault)
};

struct Serving {
  double heartbeat_seconds = 0;  // say Serve at least this often
};

// Daemon → policy server: a window has closed, what is to be done? The trial is decided without the
// server once `deadline_seconds` are over.
struct Question {
  std::uint64_t id = 0;  // of the trial that the answer makes
  double deadline_seconds = 0;
  std::uint64_t job = 0;  // id in the store
  std::string key;        // of the job
  std::uint32_t window = 0;
  std::uint64_t step = 0;
  double progress = 0;   // of the budget, [0, 1]
  double loss = 0;       // smoothed, at the window's end, nats
  double imbalance = 0;  // of the window
  Topology topology;
  Setting setting;            // in force
  std::vector<float> tokens;  // [heads × kTokenFeatures], row-major: env/state.h
  ActionMask mask;            // what is open
};

// Policy server → daemon: what is to be done. Without choices it declines, and whoever stands
// behind it decides.
struct Answer {
  std::uint64_t id = 0;              // of the question
  Action action;                     // all of it empty: declines
  float log_probability = 0;         // of the action under the policy; 0 for deterministic ones
  std::uint64_t policy_version = 0;  // 0 for rules
  std::string why;                   // one line for a person

  [[nodiscard]] bool Declines() const {
    return action.scale.empty() && action.count.empty() && action.score.empty();
  }
};

// The position in this list is the message's type on the wire: only ever add at the end.
using Message =
    std::variant<Hello, Welcome, Observation, ActionRequest, ActionReply, Heartbeat, Bye, Error,
                 StatusRequest, Status, Adjust, UsePolicy, Reply, Serve, Serving, Question, Answer>;

}  // namespace attune
