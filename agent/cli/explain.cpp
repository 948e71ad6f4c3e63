// explain: one trial, what was decided, why, and what came of it.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include "agent/cli/command.h"
#include "agent/tracker.h"

namespace attune::cli {
namespace {

using nlohmann::json;

constexpr std::size_t kNearest = 3;          // like trials that are shown
constexpr std::uint64_t kLookBack = 10'000;  // trials that are searched for them …
constexpr std::size_t kAtATime = 200;        // … of which so many are in memory

json OrNull(const std::optional<double>& value) { return value ? json(*value) : json(); }

std::string Features(const State& state, std::size_t head) {
  std::string text;
  for (std::size_t feature = 0; feature < kTokenFeatures; ++feature) {
    text += fmt::format("{}{} {:.3g}", text.empty() ? "" : ", ", kTokenFeatureNames[feature],
                        state.At(head, feature));
  }
  return text;
}

// The setting that was in force when the trial was decided: that of the job's trial before it which
// came into force, and over it the scales and active heads that the trial's own state has seen.
Setting Before(const Store& store, const Trial& trial) {
  Setting before = Setting::Neutral(trial.setting.active.size());
  if (trial.action) before.gain = trial.setting.gain;  // policies leave gains alone
  for (const TrialRow& row : store.Trials(trial.job, trial.id)) {
    if (row.id < trial.id &&
        (row.status == AckStatus::kApplied || row.status == AckStatus::kNone)) {
      before = store.FindTrial(row.id)->setting;
      break;
    }
  }
  std::vector<std::uint8_t> seen = trial.state.Active();
  // Nothing is seen before the job's first window is full.
  if (CountActive(seen) == 0) return before;
  before.active = std::move(seen);
  for (std::size_t head = 0; head < before.active.size(); ++head) {
    // Scales are seen through a logarithm: what differs by its rounding only is the same.
    const float scale = std::pow(16.0F, trial.state.At(head, TokenFeature("scale")));
    const float asked = trial.setting.scale[head];
    before.scale[head] = std::abs(scale - asked) <= 1e-3F * scale ? asked : scale;
  }
  return before;
}

// Trials of other jobs that were decided in a situation most like this one's: by the distance of
// their tokens' means over the heads.
std::vector<Trial> NearestTrials(const Store& store, const Trial& trial) {
  using Mean = std::array<double, kTokenFeatures>;
  const auto mean = [](const State& state) {
    Mean sum{};
    for (std::size_t i = 0; i < state.tokens.size(); ++i) {
      sum[i % kTokenFeatures] += state.tokens[i] / static_cast<double>(state.Heads());
    }
    return sum;
  };
  const auto distance = [](const Mean& a, const Mean& b) {
    double square = 0;
    for (std::size_t i = 0; i < a.size(); ++i) square += (a[i] - b[i]) * (a[i] - b[i]);
    return square;
  };
  const Mean own = mean(trial.state);
  const std::uint64_t last = store.LastTrialId();
  std::map<std::uint64_t, std::pair<double, Trial>> of_job;  // the nearest of each
  std::uint64_t seen = last > kLookBack ? last - kLookBack : 0;
  for (auto some = store.CompleteTrials(seen, kAtATime); !some.empty();
       some = store.CompleteTrials(seen, kAtATime)) {
    seen = some.back().id;
    for (Trial& other : some) {
      // What the trainer never did says nothing of what came.
      if (other.job == trial.job || other.acknowledgement.status != AckStatus::kApplied) continue;
      const double away = distance(own, mean(other.state));
      const auto found = of_job.find(other.job);
      if (found == of_job.end() || away < found->second.first) {
        of_job.insert_or_assign(other.job, std::pair{away, std::move(other)});
      }
    }
  }
  std::vector<std::pair<double, Trial>> nearest;
  for (auto& [job, candidate] : of_job) nearest.push_back(std::move(candidate));
  std::ranges::sort(nearest, {}, &std::pair<double, Trial>::first);
  nearest.resize(std::min(nearest.size(), kNearest));
  std::vector<Trial> trials;
  for (auto& [away, candidate] : nearest) trials.push_back(std::move(candidate));
  return trials;
}

}  // namespace

int Explain(const std::vector<std::string>& words) {
  const Arguments arguments = Parse("explain", words);
  if (!arguments.Has("trial")) throw UsageError("which trial? see attune trials");
  const Store store = OpenHistory(arguments.paths);
  const auto id = arguments.Get<std::uint64_t>("trial");
  const auto trial = store.FindTrial(id);
  if (!trial) {
    fmt::print(stderr, "attune: there is no trial {}; see attune trials\n", id);
    return kNothing;
  }
  const auto job = store.FindJob(trial->job);
  const Topology& topology = job->spec.topology;
  const Setting before =
      trial->acknowledgement.status == AckStatus::kNone ? trial->setting : Before(store, *trial);
  const std::string change = DescribeChange(topology, before, trial->setting);
  const auto offsets = topology.SiteOffsets();

  Table heads({"site", "head", "active_before", "active_after", "scale_before", "scale_after",
               "gain_before", "gain_after"});
  std::vector<std::pair<std::string, std::size_t>> changed;
  for (std::size_t site = 0; site < topology.sites.size(); ++site) {
    const std::string& name = topology.sites[site].name;
    for (std::size_t head = offsets[site]; head < offsets[site + 1]; ++head) {
      if (before.active[head] == trial->setting.active[head] &&
          before.scale[head] == trial->setting.scale[head] &&
          before.gain[head] == trial->setting.gain[head]) {
        continue;
      }
      heads.Add({name, head - offsets[site], before.active[head], trial->setting.active[head],
                 before.scale[head], trial->setting.scale[head], before.gain[head],
                 trial->setting.gain[head]});
      changed.emplace_back(fmt::format("{} head {}", name, head - offsets[site]), head);
    }
  }
  const Acknowledgement& ack = trial->acknowledgement;
  if (arguments.format == Format::kCsv) {
    fmt::print("{}", heads.Render(Format::kCsv));
    return kOk;
  }
  if (arguments.format == Format::kJson || arguments.format == Format::kJsonLines) {
    json list = json::parse(heads.Render(Format::kJson));
    for (std::size_t row = 0; row < changed.size(); ++row) {
      for (std::size_t feature = 0; feature < kTokenFeatures; ++feature) {
        list[row]["state"][std::string(kTokenFeatureNames[feature])] =
            trial->state.At(changed[row].second, feature);
      }
    }
    json nearest = json::array();
    for (const Trial& other : NearestTrials(store, *trial)) {
      nearest.push_back({{"trial", other.id},
                         {"job", other.job},
                         {"decider", other.decider},
                         {"why", other.why},
                         {"reward", OrNull(other.reward)}});
    }
    const json object = {
        {"trial", trial->id},
        {"job", job->id},
        {"job_name", job->spec.name},
        {"window", trial->window},
        {"step", trial->step},
        {"loss", trial->loss},
        {"imbalance", trial->imbalance},
        {"decider", trial->decider},
        {"why", trial->why},
        {"policy_version", trial->policy_version},
        {"log_probability", trial->log_probability},
        {"ack", Name(ack.status)},
        {"ack_step", ack.status == AckStatus::kNone ? json() : json(ack.step)},
        {"ack_why", ack.why},
        {"reward", OrNull(trial->reward)},
        {"changed_heads", list},
        {"nearest", nearest},
    };
    const int indent = arguments.format == Format::kJson ? 2 : -1;  // -1: on one line
    fmt::print("{}\n", object.dump(indent, ' ', false, json::error_handler_t::replace));
    return kOk;
  }

  fmt::print("trial {} · job {} '{}' · ", trial->id, job->id, job->spec.name);
  if (IsOpening(*trial)) {
    fmt::print("before its first step, when nothing had been measured\n\n");
  } else {
    fmt::print("window {} · step {}\n", trial->window, trial->step);
    fmt::print("loss {:.4g} · imbalance {:.3g}\n\n", trial->loss, trial->imbalance);
  }
  fmt::print("{} decided: {}{}\nbecause: {}\n", Printable(trial->decider),
             trial->decider == "governor" ? "to take an action back: " : "",
             change.empty() ? "to keep everything as it is" : change, Printable(trial->why));
  if (trial->log_probability != 0) {
    fmt::print("probability of this choice: e^{:.2f} (policy version {})\n", trial->log_probability,
               trial->policy_version);
  }
  switch (ack.status) {
    case AckStatus::kNone:
      fmt::print("trainer: nothing was asked of it\n");
      break;
    case AckStatus::kPending:
      fmt::print("trainer: has not answered yet\n");
      break;
    default:
      fmt::print("trainer: {} at step {}{}{}\n", Name(ack.status), ack.step,
                 ack.why.empty() ? "" : ": ", Printable(ack.why));
  }
  if (trial->reward) {
    fmt::print("came of it: {:+.4f} nats in the window that followed\n", *trial->reward);
  } else {
    fmt::print("came of it: {}\n",
               IsOpening(*trial) ? "it has no reward of its own" : "not known yet");
  }
  const auto like = NearestTrials(store, *trial);
  if (!like.empty()) fmt::print("\nwhat was done in the situations most like it:\n");
  for (const Trial& other : like) {
    const auto its = store.FindJob(other.job);
    fmt::print("  trial {} · job {} '{}' · {} · {} · {:+.4f} nats\n", other.id, other.job,
               Printable(its->spec.name), Printable(other.decider), Printable(other.why),
               *other.reward);
  }
  if (!heads.Empty()) {
    fmt::print("\n{}\nwhat was seen of these heads:\n", heads.Render(Format::kTable));
    for (const auto& [name, head] : changed) {
      fmt::print("  {}: {}\n", name, Features(trial->state, head));
    }
  }
  return kOk;
}

}  // namespace attune::cli
