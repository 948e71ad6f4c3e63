// A trainer's line to the daemon: waits before the first step and at the end alone, never throws
// once it is made.
//
// One DEALER socket, used from the trainer's thread alone. When the daemon is away, stopped or
// slow, observations are dropped and counted, and training goes on with its present setting.
// PROTOCOL.md has the rules that it keeps. Offline it writes the same messages to a file instead,
// for `attune import`; then no action ever comes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "collectors/messages.h"

namespace attune {

// How an offline log begins: the format's name and version. Behind it stand the Unix time at which
// the job started as a little-endian binary64, and the records (PROTOCOL.md, Offline).
inline constexpr std::string_view kLogMagic{"attune\x01\n"};

struct ProbeOptions {
  std::string endpoint;  // ipc://… or tcp://…; empty: no daemon, every call is a no-op
  // Offline where it is not empty, whatever the endpoint: the folder for the job's log, made where
  // it is missing. A log that cannot be written is told to TakeError once, and given up.
  std::filesystem::path directory = {};
  std::uint64_t step = 0;  // where a run that goes on from a checkpoint stands
  // Of a tcp endpoint: the daemon's public key, the trainers' public and secret key, in Z85 with
  // spaces between (CURVE). As ATTUNE_KEYS has them.
  std::string keys = {};
  double farewell_seconds = 2.0;  // Finish waits at most this long for the last message to go
};

class Probe {
 public:
  // Throws std::invalid_argument for an endpoint that ZeroMQ cannot use, or a job or setting that
  // FindFault objects to; does not throw because no daemon answers. Says Hello at the first Poll or
  // Observe that finds the daemon there.
  Probe(const ProbeOptions& options, JobSpec job, Setting setting);
  // Says Bye{failed} if Finish was not called; takes at most farewell_seconds.
  ~Probe();
  Probe(const Probe&) = delete;
  Probe& operator=(const Probe&) = delete;

  // Before the first step of a job whose weights nobody has trained: says Hello, and waits for what
  // the daemon decides by it alone. Call it and answer (Applied, Rejected at step 0) until it
  // returns nothing: that takes half a second where there is no daemon, and a second more at most
  // where there is one.
  [[nodiscard]] std::optional<ActionRequest> Opening();

  // Whether this step is one to measure: the first 16, and every Welcome::measure_every steps (8
  // until the daemon's answer). False when there is no endpoint, after Finish, and once the daemon
  // has turned the job away.
  [[nodiscard]] bool Due(std::uint64_t step) const;

  // Sends an observation, or drops and counts it; offline, hands it to the kernel's page cache.
  // Fills in `dropped` and `action`. One that FindFault objects to is dropped, and the fault kept
  // for TakeError.
  void Observe(Observation observation);

  // At a safe point, once a step: takes in what the daemon sent, sends a heartbeat when one is due,
  // and returns the newest action to apply now, if any. Actions that are expired, replaced by a
  // newer one or unusable are answered here. Microseconds when there is nothing to do.
  [[nodiscard]] std::optional<ActionRequest> Poll(std::uint64_t step);

  // The truth about the action that Poll returned. Answers that cannot be sent now are kept and
  // sent later.
  void Applied(const ActionRequest& action, std::uint64_t step);
  void Rejected(const ActionRequest& action, std::uint64_t step, const std::string& why);

  // Another setting is in force than the daemon knows, and not by its action: a checkpoint brought
  // it. Hello is said anew, and an action that was decided for the setting before is rejected.
  // Offline it cannot be told.
  void Resettle(const Setting& setting);

  // Says Bye and closes the line; later calls do nothing. Waits up to farewell_seconds where the
  // daemon was met, not at all where it never was. `outcome` is kFinished or kFailed (anything else
  // counts as failed).
  void Finish(Outcome outcome, std::uint64_t step, double compute_seconds,
              std::optional<double> validation_loss);

  // Observations dropped since the beginning.
  [[nodiscard]] std::uint64_t Dropped() const;
  // The file being written, or that was; empty unless offline.
  [[nodiscard]] std::filesystem::path LogPath() const;
  // The last complaint, the daemon's or the probe's own about what it received, if any: one line
  // for the trainer's log. Cleared by the call.
  [[nodiscard]] std::optional<std::string> TakeError();

 private:
  struct Line;
  struct Log;
  // What may be used: null also when closed, and in a process that was forked off, where sockets
  // and files are the parent's.
  [[nodiscard]] Line* Live() const;
  [[nodiscard]] bool Mine() const;
  std::unique_ptr<Line> line_;  // null without an endpoint, and offline
  std::unique_ptr<Log> log_;    // null unless offline
  int process_;
};

}  // namespace attune
