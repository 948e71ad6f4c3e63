// The policy that learns: a small actor-critic over head tokens (LibTorch, hidden behind this
// header).
//
//   token [heads × kTokenFeatures] → encoder (two layers, shared by all heads)
//     ├ mean and max over the site's heads → site vector
//     ├ mean over the job's heads          → job vector   (Deep Sets, 1703.06114)
//     ├ head ‖ site ‖ job → 5 logits of the scale choice, 1 score for being active
//     ├ site ‖ job        → 5 logits of the count choice
//     └ job               → value
//
// A permutation of a site's heads permutes the head choices and changes nothing else. The action's
// probability is the product of its choices'; which heads stay or come in is drawn without
// replacement by score (Plackett–Luce), and counts too, in the order of the draw. Choices that are
// not open have probability 0; inactive heads have no scale to choose.
//
// Runs on the processor, in the calling thread. A Network is used by one thread at a time.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "policies/policy.h"

namespace attune {

struct NetworkOptions {
  std::int64_t hidden = 64;     // units of each layer
  std::uint64_t seed = 0;       // of the initial weights and of the order of samples
  double learning_rate = 1e-4;  // Adam
  double clip = 0.2;            // PPO: bound on the probability ratio
  std::int64_t epochs = 4;      // passes over the samples of one Update
  std::int64_t minibatch = 64;  // samples; fewer of jobs with tens of thousands of heads
  double entropy_weight = 0.01;
  double value_weight = 0.5;
  double max_gradient_norm = 0.5;
  double explore = 1;  // share of its decisions that are drawn; the others are the most probable
  // Fit to decide once it has learned from this many trials …
  std::uint64_t least_trials = 256;
  // … and when its most hesitant open count choice is at least this probable.
  double least_confidence = 0.3;
};

// One decision to learn from.
struct Sample {
  State state;
  ActionMask mask;
  Action action;
  // Which heads were active before and after: what the scores chose between.
  std::vector<std::uint8_t> active_before;  // [heads]
  std::vector<std::uint8_t> active_after;   // [heads]
  double weight = 1;                        // how much it counts in cloning, at least 0
  // Under the policy that acted; 0 where the most probable action was taken, not drawn: that
  // teaches the value alone. Not used by cloning.
  float log_probability = 0;
  double advantage = 0;     // not used by cloning
  double target_value = 0;  // return from here on, nats
};

struct UpdateReport {
  double policy_loss = 0;
  double value_loss = 0;
  double entropy = 0;     // mean over the samples, after learning
  double divergence = 0;  // approximate KL between the policies before and after (Schulman 2020)
  double agreement = 0;   // cloning: share of the teacher's count choices that are most probable
                          // now, where more than keeping was open
};

class NetworkError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class Network : public Policy {
 public:
  // Restricts LibTorch to one thread in the whole process: the products are small, and a second
  // thread makes them up to a hundred times slower.
  explicit Network(const NetworkOptions& options);
  ~Network() override;

  [[nodiscard]] std::string_view Name() const override { return "network"; }
  // Declines when it has learned from too few trials, when an output is not finite, or when it is
  // not sure enough. Action::score holds the noisy scores of the draw, so the order of the draw,
  // and with it the probability, can be found again.
  [[nodiscard]] Verdict Decide(const Situation& situation, std::mt19937_64& random) override;
  // Declines also when it has learned from no decision before a first step, when the job's learning
  // rate or optimiser is not known, and under SGD.
  [[nodiscard]] Verdict Open(const Situation& situation, std::mt19937_64& random) override;

  // A sample's action under the present weights. Throws std::invalid_argument if its parts do not
  // agree in size or a choice is not open.
  struct Evaluation {
    float log_probability;  // of the whole action
    float entropy;          // of the scale and count choices together, nats
    float value;            // of the state, nats
  };
  [[nodiscard]] Evaluation Evaluate(const Sample& sample) const;

  // Proximal policy optimisation (1707.06347) on the samples; normalises their advantages. Stops
  // its passes early once the policy has moved 0.03 nats. The same seed and samples give the same
  // weights, bit for bit. Throws as Evaluate does, and for numbers that are not finite.
  UpdateReport Update(std::span<const Sample> samples);
  // From now on Update also counts how far the scale and count choices are from those of `to` as it
  // is now (Kullback–Leibler, nats a decision): a job's own trials are few and noisy, and without
  // it some forty jobs were enough to unlearn what many had taught. Snapshots have no leash.
  void Leash(const Network& to);
  // Imitates the samples' actions by cross-entropy, each by its weight: the warm start, and, where
  // weights grow with what came of the actions, advantage-weighted regression (1910.00177). Scale,
  // count and the draw of heads weigh the same; the value is learned too. Reproducible and throws
  // as Update.
  UpdateReport Clone(std::span<const Sample> samples);

  // Trials learned from so far, how many of them were decided before a job's first step, and the
  // version that counts the published snapshots.
  [[nodiscard]] std::uint64_t Trials() const;
  [[nodiscard]] std::uint64_t Openings() const;
  [[nodiscard]] std::uint64_t Version() const;
  void SetProgress(std::uint64_t trials, std::uint64_t openings, std::uint64_t version);

  // An independent copy with the same weights, to decide on another thread.
  [[nodiscard]] std::unique_ptr<Network> Snapshot() const;

  // Writes a temporary file beside `path`, flushes it to the disk and renames it. The optimiser's
  // running means are not part of it. Throws NetworkError.
  void Save(const std::filesystem::path& path) const;
  // One from before the last token features were added is read, and does not look at them. Throws
  // NetworkError for a file that is not a checkpoint, or one of another format, hidden size or
  // other features, saying which.
  [[nodiscard]] static std::unique_ptr<Network> Load(const std::filesystem::path& path,
                                                     const NetworkOptions& options);
  // The one that attune comes with (policies/network.pt, provenance beside it). Throws as Load.
  [[nodiscard]] static std::unique_ptr<Network> Shipped(const NetworkOptions& options);

 private:
  struct Model;
  std::shared_ptr<Model> model_;  // shared with the reasons of its decisions
};

// The sample that a decision makes, for learning. Advantage and value are left at 0.
[[nodiscard]] Sample MakeSample(const State& state, const ActionMask& mask, const Action& action,
                                std::span<const std::uint8_t> active_before,
                                std::span<const std::uint8_t> active_after);

// Generalised advantage estimation (1506.02438) over one job's windows in order. `values` has one
// more entry than `rewards`: the value behind the last window, 0 at a job's end. Returns the
// advantages; returns-to-go are advantage + value.
[[nodiscard]] std::vector<double> Advantages(std::span<const double> rewards,
                                             std::span<const double> values, double discount,
                                             double lambda);

}  // namespace attune
