#include "agent/network_learner.h"

#include <spdlog/spdlog.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <unordered_set>
#include <utility>

#include "policies/network.h"
#include "store/writer.h"

namespace attune {
namespace {

// Trials that a lesson looks back on.
constexpr std::size_t kReplay = 4096;
// The rewards of a job sum to what it gained, so they are not discounted (design §6).
constexpr double kDiscount = 1.0;
constexpr double kLambda = 0.95;
// Returns beyond that are of a job that diverged: they would say nothing but that.
constexpr double kMostNats = 1e3;
// Learning gives way to training.
constexpr int kNiceness = 10;

double UnixTime() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

Sample SampleOf(const Trial& trial) {
  const Action action =
      trial.action.value_or(Action::Keep(trial.state.Heads(), trial.state.Sites()));
  const auto before = trial.state.Active();
  Sample sample = MakeSample(trial.state, trial.mask, action, before,
                             trial.action ? trial.setting.active : before);
  sample.log_probability = trial.log_probability;
  return sample;
}

// Whether the trainer did what was decided: only then is the reward the action's.
bool InForce(const Trial& trial) {
  return trial.action && (trial.acknowledgement.status == AckStatus::kNone ||
                          trial.acknowledgement.status == AckStatus::kApplied);
}

class NetworkLearner : public Learner {
 public:
  NetworkLearner(const Options& options, const Paths& paths, Writer& writer)
      : paths_(paths),
        writer_(writer),
        store_(paths.Store(), Store::Mode::kReadOnly),
        seed_(options.seed),
        least_trials_(options.least_trials) {
    NetworkOptions network_options;
    network_options.seed = options.seed;
    network_options.learning_rate = options.learning_rate;
    network_options.least_trials = options.least_trials;
    network_options.explore = options.learn ? options.explore : 0;
    if (std::filesystem::exists(paths.Checkpoint())) {
      try {
        network_ = Network::Load(paths.Checkpoint(), network_options);
        Publish();
      } catch (const NetworkError& error) {
        spdlog::error("{}; it begins anew", error.what());
      }
    }
    std::unique_ptr<Network> taught;
    if (options.network == "shipped") {
      taught = Network::Shipped(network_options);
    } else if (options.network != "none") {
      taught = Network::Load(options.network, network_options);
    }
    if (!network_ && taught) {
      network_ = taught->Snapshot();
      Publish();
    }
    if (!network_) network_ = std::make_unique<Network>(network_options);
    if (taught) network_->Leash(*taught);
    if (!options.learn) return;
    // What an earlier daemon's network learned from is not learned from twice.
    if (network_->Trials() > 0) {
      for (const Trial& trial : Replay()) learned_.insert(trial.id);
    }
    thread_ = std::jthread([this](const std::stop_token& stop) { Run(stop); });
  }

  void Wake() override {
    {
      const std::lock_guard lock(mutex_);
      awake_ = true;
    }
    wake_.notify_one();
  }

  Snapshot Take() override {
    const std::lock_guard lock(mutex_);
    return std::exchange(published_, {});
  }

 private:
  void Run(const std::stop_token& stop) {
    setpriority(PRIO_PROCESS, 0, kNiceness);  // of this thread alone (setpriority(2), Linux)
    while (true) {
      {
        std::unique_lock lock(mutex_);
        if (!wake_.wait(lock, stop, [this] { return awake_; })) return;
        awake_ = false;
      }
      try {
        Lesson();
      } catch (const std::exception& error) {
        spdlog::error("learning failed and goes on with the next job: {}", error.what());
      }
    }
  }

  [[nodiscard]] std::vector<Trial> Replay() const {
    const std::uint64_t last = store_.LastTrialId();
    return store_.TrialsToLearnFrom(last > kReplay ? last - kReplay : 0, kReplay);
  }

  void Lesson() {
    std::map<std::uint64_t, std::vector<Trial>> jobs;
    std::set<std::uint64_t> news;  // jobs
    std::uint64_t fresh = 0;
    for (Trial& trial : Replay()) {
      if (learned_.insert(trial.id).second) {
        ++fresh;
        news.insert(trial.job);
      }
      jobs[trial.job].push_back(std::move(trial));
    }
    if (fresh == 0) return;

    std::vector<Sample> rules;
    std::vector<Sample> own;
    const bool begins = network_->Trials() < least_trials_;
    for (const auto& [job, trials] : jobs) {
      if (begins) Collect(trials, "kmeans", rules);
      if (news.contains(job)) Collect(trials, "network", own);
    }
    UpdateReport cloned;
    UpdateReport learned;
    if (!rules.empty()) cloned = network_->Clone(rules);
    if (!own.empty()) learned = network_->Update(own);
    network_->SetProgress(network_->Trials() + fresh, network_->Version() + 1);
    network_->Save(paths_.Checkpoint());
    Publish();
    const std::string provenance = fmt::format(
        "{} trials of rules cloned (agreement {:.2f}), {} of its own by PPO (divergence {:.4f}), "
        "seed {}",
        rules.size(), cloned.agreement, own.size(), learned.divergence, seed_);
    writer_.Post(PolicyRecord{"network", network_->Version(), UnixTime(),
                              paths_.Checkpoint().string(), network_->Trials(), provenance});
    spdlog::info("network version {}: {}", network_->Version(), provenance);
  }

  // One job's windows in order become samples where `decider` decided.
  void Collect(const std::vector<Trial>& trials, std::string_view decider,
               std::vector<Sample>& collected) const {
    std::vector<Sample> samples;
    std::vector<double> rewards;
    std::vector<double> values;
    for (const Trial& trial : trials) {
      samples.push_back(SampleOf(trial));
      rewards.push_back(trial.reward.value_or(0));
      values.push_back(network_->Evaluate(samples.back()).value);
    }
    values.push_back(0);
    const auto advantages = Advantages(rewards, values, kDiscount, kLambda);
    for (std::size_t i = 0; i < trials.size(); ++i) {
      if (trials[i].decider != decider || !InForce(trials[i])) continue;
      samples[i].advantage = std::clamp(advantages[i], -kMostNats, kMostNats);
      samples[i].target_value = std::clamp(advantages[i] + values[i], -kMostNats, kMostNats);
      collected.push_back(std::move(samples[i]));
    }
  }

  void Publish() {
    Snapshot snapshot{network_->Snapshot(), network_->Version()};
    const std::lock_guard lock(mutex_);
    published_ = std::move(snapshot);
  }

  Paths paths_;
  Writer& writer_;
  Store store_;
  std::uint64_t seed_;
  std::uint64_t least_trials_;
  std::unique_ptr<Network> network_;
  std::unordered_set<std::uint64_t> learned_;

  std::mutex mutex_;
  std::condition_variable_any wake_;
  bool awake_ = false;
  Snapshot published_;
  std::jthread thread_;  // last: ends before what it uses
};

}  // namespace

std::unique_ptr<Learner> MakeNetworkLearner(const Options& options, const Paths& paths,
                                            Writer& writer) {
  return std::make_unique<NetworkLearner>(options, paths, writer);
}

}  // namespace attune
