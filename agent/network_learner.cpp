#include "agent/network_learner.h"

#include <spdlog/spdlog.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <unordered_set>
#include <utility>

#include "policies/network.h"
#include "store/writer.h"

namespace attune {
namespace {

// Trials of finished jobs that a lesson looks through for those of rules, and jobs among which it
// looks for finished ones.
constexpr std::size_t kReplay = 4096;
constexpr std::size_t kJobs = 1000;
// The rewards of a job sum to what it gained, so they are not discounted.
constexpr double kDiscount = 1.0;
constexpr double kLambda = 0.95;
// Returns beyond that are of a job that diverged: they would say nothing but that.
constexpr double kMostNats = 1e3;
constexpr std::size_t kProgress = TokenFeature("progress");  // 0: before the first step
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
        // What was learned is not written over: a newer program may read it.
        const std::filesystem::path kept = paths.Checkpoint().string() + ".unreadable";
        std::filesystem::rename(paths.Checkpoint(), kept);
        spdlog::error("{}; it is kept as {}, and learning begins anew", error.what(),
                      kept.string());
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
      for (const std::uint64_t job : FinishedJobs()) learned_.insert(job);
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

  // Newest first. Of others it is not known what is still to be gained: a job that runs beside the
  // one that ended is learned from when its own time has come.
  [[nodiscard]] std::vector<std::uint64_t> FinishedJobs() const {
    std::vector<std::uint64_t> finished;
    for (const JobRecord& job : store_.Jobs(kJobs)) {
      if (job.outcome == Outcome::kFinished) finished.push_back(job.id);
    }
    return finished;
  }

  void Lesson() {
    std::vector<Sample> rules;
    std::vector<Sample> own;
    std::uint64_t fresh = 0;   // trials that became samples for the first time
    std::size_t replayed = 0;  // trials looked at
    const bool begins = network_->Trials() < least_trials_;
    for (const std::uint64_t job : FinishedJobs()) {
      const bool is_new = learned_.insert(job).second;
      const bool is_replayed = begins && replayed < kReplay;
      if (!is_new && !is_replayed) continue;
      const std::size_t known = rules.size() + own.size();
      try {
        const std::vector<Trial> trials = store_.JobTrials(job);
        replayed += trials.size();
        if (is_replayed) Collect(trials, "kmeans", rules);
        if (is_new) Collect(trials, "network", own);
      } catch (const std::exception& error) {
        // One that cannot be read keeps none of the others from being learned from.
        spdlog::error("nothing is learned from job {}: {}", job, error.what());
      }
      if (is_new) fresh += rules.size() + own.size() - known;
    }
    if (rules.empty() && own.empty()) return;
    UpdateReport cloned;
    UpdateReport learned;
    if (!rules.empty()) cloned = network_->Clone(rules);
    if (!own.empty()) learned = network_->Update(own);
    const auto opened = static_cast<std::uint64_t>(std::ranges::count_if(
        own, [](const Sample& sample) { return sample.state.At(0, kProgress) == 0; }));
    network_->SetProgress(network_->Trials() + fresh, network_->Openings() + opened,
                          network_->Version() + 1);
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
    const auto teaches = [decider](const Trial& trial) {
      return trial.decider == decider && InForce(trial);
    };
    if (std::ranges::none_of(trials, teaches)) return;
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
      if (!teaches(trials[i])) continue;
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
  std::unordered_set<std::uint64_t> learned_;  // jobs

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
