// attune in a LibTorch trainer: one call before training, two calls a step.
//
//   auto handle = attune::Attach(
//       *model, {.name = "my-run", .budget = {attune::BudgetKind::kSteps, 10'000},
//                .fresh = true});           // nobody has trained these weights
//   for (…) {
//     handle.StartStep();                 // this step is measured when it is due
//     auto loss = Loss(model->forward(x), y);
//     optimizer.zero_grad();
//     loss.backward();
//     optimizer.step();
//     handle.Step(loss.item<double>());   // the safe point: reports, applies actions
//   }
//   handle.Finish(validation_loss);
#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "collectors/attention.h"
#include "collectors/probe.h"
#include "env/job.h"
#include "env/setting.h"

namespace attune {

struct AttachOptions {
  std::string name = "job";
  Budget budget;
  std::uint64_t seed = 0;
  double learning_rate = 0;  // at its highest; 0: unknown
  std::string optimizer;     // such as adamw or sgd (IsSgd); empty: unknown
  // The weights are as they were drawn, trained by nobody: then Attach waits for what the daemon
  // decides before the first step, and applies it (Probe::Opening). The network decides there only
  // where it is told the learning rate and an optimiser other than SGD. Without it the weights are
  // taken for trained, and the daemon changes a head at a time (agent/README.md).
  bool fresh = false;
  // Of a run that goes on from a checkpoint, under its key: what Handle::Steps and ComputeSeconds
  // said when that was saved.
  std::uint64_t steps = 0;
  double compute_seconds = 0;
  // Empty: from the environment, ATTUNE_ENDPOINT (else no daemon) and ATTUNE_JOB (else a random
  // key; KEY.2, KEY.3 for the next jobs of the same process). From there alone: ATTUNE_POLICY, who
  // is to decide; ATTUNE_KEYS for tcp endpoints; ATTUNE_MODE=off: no daemon, whatever else is said;
  // ATTUNE_MODE=offline: a log in ATTUNE_DIR (else ./attune) for `attune import`.
  std::string endpoint;
  std::string key;
  // Seconds that never fall, by which compute is counted; empty: processor seconds of the whole
  // process. Called in StartStep and Step. A device's clock waits for the device itself; the share
  // of a step that attention takes is told by the processor's time whatever the clock.
  std::function<double()> clock;
  std::int64_t sampled_rows = 16;  // query rows measured in a sequence
  std::int64_t sampled_sequences = 2;
};

// A model's line to the daemon. Without a daemon it keeps the clock and changes nothing. Complaints
// of the daemon go to stderr, each once. Used from the trainer's thread.
class Handle {
 public:
  // As Attach.
  Handle(torch::nn::Module& model, const AttachOptions& options);
  ~Handle();  // tells the daemon that the job failed if Finish was not called
  Handle(Handle&&) noexcept;
  Handle& operator=(Handle&&) noexcept;

  // Before the forward pass.
  void StartStep();
  // After the optimiser: the safe point. `loss` is the step's training loss in nats, NaN included.
  // Returns whether an action changed the setting. Where the model has another one than it had
  // after the step before, as from a checkpoint, that is told to the daemon. Throws
  // std::logic_error without StartStep before it, std::invalid_argument where the setting that was
  // loaded cannot be.
  bool Step(double loss);
  // Seconds of the clock between the two calls, attune's own work in them included; what runs
  // outside them, such as evaluation, does not count. With those before it in a run that goes on.
  [[nodiscard]] double ComputeSeconds() const;
  [[nodiscard]] std::uint64_t Steps() const;  // done, with those before the checkpoint
  void Finish(std::optional<double> validation_loss, Outcome outcome = Outcome::kFinished);

  [[nodiscard]] const Topology& Sites() const;
  // In force at the model.
  [[nodiscard]] const Setting& Current() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Finds every TunableAttention of the model, named by its place in it and in that order; one that
// is registered twice counts once. The setting that they hold is the job's first. Throws
// std::invalid_argument if there is none, for an unusable endpoint, for compute_seconds below 0 and
// for what FindFault(JobSpec) objects to; a daemon that does not answer is no error.
[[nodiscard]] Handle Attach(torch::nn::Module& model, const AttachOptions& options);

}  // namespace attune
