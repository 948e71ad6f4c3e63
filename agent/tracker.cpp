#include "agent/tracker.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <stdexcept>
#include <utility>

namespace attune {
namespace {

// Decisions before the first step: enough to come from any number of heads to any other by halving
// and doubling.
constexpr std::uint64_t kMostOpenings = 16;
// Steps that leave fresh weights about as they were.
constexpr std::uint64_t kFreshSteps = 16;

CurvePoint PointOf(const WindowReading& reading) { return {reading.end_compute, reading.loss}; }

Baseline FirstBaseline(const Options& options, std::optional<Baseline> recorded, std::size_t heads,
                       const std::vector<ObservationRecord>& past) {
  if (recorded) return *std::move(recorded);
  if (options.baseline == "warmup" && !past.empty()) {
    return BaselineFrom(BaselineKind::kWarmUp, past.front().reading.profile);
  }
  return UniformBaseline(heads);
}

// What the trainer says, unless it comes so late that the weights were trained meanwhile. Of a job
// that is known it is what was found when it began.
bool IsFresh(const Hello& hello, bool known) {
  return hello.job.fresh && (known || hello.step <= kFreshSteps);
}

void KeepAll(Trial& trial, std::string why) {
  trial.decider = "keep";
  trial.why = std::move(why);
  trial.action = Action::Keep(trial.state.Heads(), trial.state.Sites());
}

}  // namespace

std::string DescribeChange(const Topology& topology, const Setting& before, const Setting& after) {
  const auto offsets = topology.SiteOffsets();
  std::string text;
  const auto add = [&](const std::string& part) { text += (text.empty() ? "" : "; ") + part; };
  for (std::size_t site = 0; site < topology.sites.size(); ++site) {
    const auto heads = topology.sites[site].heads;
    const auto active_before = std::span(before.active).subspan(offsets[site], heads);
    const auto active_after = std::span(after.active).subspan(offsets[site], heads);
    if (!std::ranges::equal(active_before, active_after)) {
      add(fmt::format("{} {}→{} heads", topology.sites[site].name, CountActive(active_before),
                      CountActive(active_after)));
    }
  }
  const auto add_changed = [&](const char* what, const std::vector<float>& from,
                               const std::vector<float>& to) {
    std::size_t changed = 0;
    for (std::size_t head = 0; head < from.size(); ++head) changed += from[head] != to[head];
    if (changed > 0) add(fmt::format("{} of {} heads", what, changed));
  };
  add_changed("scale", before.scale, after.scale);
  add_changed("gain", before.gain, after.gain);
  return text;
}

bool NamesJob(const std::string& baseline) { return baseline != "uniform" && baseline != "warmup"; }

std::optional<Baseline> RecordedBaseline(const Store& store, const Options& options,
                                         const Topology& topology) {
  if (!NamesJob(options.baseline)) return std::nullopt;
  const std::uint64_t id = std::strtoull(options.baseline.c_str(), nullptr, 10);
  const auto job = store.FindJob(id);
  if (!job || job->spec.topology != topology) return std::nullopt;
  const std::vector<ObservationRecord> windows = store.Observations(id);
  if (windows.empty()) return std::nullopt;
  std::vector<float> profile(topology.Heads() * kProfileBins, 0.0F);
  for (const ObservationRecord& window : windows) {
    for (std::size_t head = 0; head < topology.Heads(); ++head) {
      if (window.reading.active[head] == 0) continue;
      const auto first = static_cast<std::ptrdiff_t>(head * kProfileBins);
      std::copy_n(window.reading.profile.begin() + first, kProfileBins, profile.begin() + first);
    }
  }
  return BaselineFrom(BaselineKind::kRecorded, profile);
}

Tracker::Tracker(std::uint64_t id, const Hello& hello, const Options& options, double started,
                 std::optional<Baseline> recorded, const std::vector<ObservationRecord>& past,
                 bool known)
    : options_(options),
      site_offsets_(hello.job.topology.SiteOffsets()),
      setting_(hello.setting),
      governor_(options, IsFresh(hello, known)),
      meter_(FirstBaseline(options, std::move(recorded), hello.job.topology.Heads(), past),
             past.empty() ? 0 : std::min(past.back().reading.last_step, hello.step),
             past.empty() ? 0 : past.back().reading.end_compute) {
  record_.id = id;
  record_.spec = hello.job;
  record_.started = started;
  record_.steps = hello.step;
  record_.spec.fresh = IsFresh(hello, known);
  step_ = measured_until_ = hello.step;
  std::seed_seq seed{options.seed, hello.job.seed};
  random_.seed(seed);
  for (const ObservationRecord& window : past) {
    if (!readings_.empty() && window.reading.last_step <= readings_.back().last_step) {
      life_ = readings_.size();
      life_window_ = window.window;
    }
    curve_.push_back(PointOf(window.reading));
    Keep(window.reading);
    window_ = window.window + 1;
  }
  if (!readings_.empty()) {
    record_.compute_seconds = readings_.back().end_compute;
    record_.loss = readings_.back().loss;
  }
  count_on_ = !past.empty();  // a daemon before this one may have cut more windows
  opening_ = record_.spec.fresh && past.empty() && hello.step == 0 && options.freeze < 1;
}

std::size_t Tracker::ReadingsUpTo(std::uint64_t step) const {
  const auto of_life = std::span(readings_).subspan(life_);
  return life_ +
         static_cast<std::size_t>(std::ranges::count_if(
             of_life, [step](const WindowReading& reading) { return reading.last_step <= step; }));
}

Emission Tracker::TakeUp(std::vector<Trial> trials, const Hello& hello) {
  Emission emission;
  if (trials.empty()) return emission;
  std::seed_seq seed{options_.seed, record_.spec.seed, static_cast<std::uint64_t>(trials.size())};
  random_.seed(seed);
  opening_ = false;
  trials_ = trials.size();
  last_trial_ = trials.back().id;
  const auto of_life = std::ranges::find_if(
      trials, [this](const Trial& trial) { return trial.window >= life_window_; });
  last_trial_readings_ = of_life == trials.end() ? 0 : ReadingsUpTo(trials.back().step);
  for (Trial& trial : trials) {
    if (trial.acknowledgement.status != AckStatus::kPending) continue;
    const bool applied = hello.action == trial.id;
    trial.acknowledgement = {
        applied ? AckStatus::kApplied : AckStatus::kExpired, hello.step,
        applied ? "" : "lost on the way: the trainer fell silent and came back without it"};
    emission.records.emplace_back(AcknowledgementRecord{trial.id, trial.acknowledgement});
  }
  Reconsider(std::span(of_life, trials.end()), hello.setting);
  return emission;
}

// What the governor knew when the last of the trials was answered, if that has led to what is in
// force.
void Tracker::Reconsider(std::span<const Trial> trials, const Setting& in_force) {
  std::optional<Setting> setting;  // unknown before the first trial
  std::uint64_t answered = 0;      // the step at which the last action was
  for (const Trial& trial : trials) {
    const bool is_judged = trial.decider != "governor" && trial.decider != "hand";
    if (attune::IsOpening(trial)) {
      // Nothing was measured before it that it could be compared with.
      if (trial.acknowledgement.status == AckStatus::kApplied ||
          trial.acknowledgement.status == AckStatus::kNone) {
        setting = trial.setting;
      }
      continue;
    }
    if (trial.decider == "governor") {
      governor_.TakeBack(trial.window, ReadingsUpTo(trial.step));
    } else if (trial.decider != "hand" && answered <= trial.step) {  // else it was not asked
      governor_.PassOver(trial.window, std::span(curve_).first(ReadingsUpTo(trial.step)));
    }
    const auto& [status, step, why] = trial.acknowledgement;
    if (status != AckStatus::kNone) answered = std::max(answered, step);
    const bool stays = status == AckStatus::kNone && trial.decider == "governor";
    if ((status == AckStatus::kApplied && !is_judged) || stays) {
      governor_.Forget();
    } else if (status == AckStatus::kApplied && setting) {
      // It came into force between two windows' ends.
      const std::size_t points = ReadingsUpTo(step);
      const std::size_t behind = points - std::min(points, ReadingsUpTo(trial.step));
      governor_.Changed(trial.window + 1 + static_cast<std::uint32_t>(behind),
                        std::span(curve_).first(points), *setting, trial.setting);
    } else if (trial.decider == "governor") {
      governor_.Missed();
    }
    // What kept while an action was on its way says what had been in force before that.
    const bool kept = status == AckStatus::kNone && answered < trial.step;
    if (kept && setting && trial.setting != *setting) governor_.Forget();  // the trainer's own
    if (status == AckStatus::kApplied || kept) setting = trial.setting;
  }
  if (setting != in_force) governor_.Forget();
}

Emission Tracker::Resume(const Hello& hello) {
  const auto contradicts = [&](const char* what) {
    throw std::invalid_argument(fmt::format(
        "job '{}' (key {}) says hello with another {} than before; give every run a key "
        "of its own (ATTUNE_JOB)",
        record_.spec.name, record_.spec.key, what));
  };
  if (hello.job.topology != record_.spec.topology) contradicts("topology");
  if (hello.job.budget != record_.spec.budget) contradicts("budget");
  if (hello.job.seed != record_.spec.seed) contradicts("seed");

  // A run that goes on may want another.
  record_.spec.policy = chosen_.empty() ? hello.job.policy : chosen_;
  scale_fixed_ = hello.scale_fixed;
  step_ = measured_until_ = hello.step;
  unmeasured_ = 0;
  Emission emission;
  if (pending_) {
    const bool applied = hello.action == pending_->id;
    if (!applied) given_up_ = pending_;
    emission = Take(
        ActionReply{pending_->id,
                    {applied ? AckStatus::kApplied : AckStatus::kExpired, hello.step,
                     applied ? "" : "lost on the way: the trainer connected anew without it"}});
  }
  if (last_ && hello.step < last_->step) {
    // Started anew from a checkpoint: the steps behind it come once more.
    last_.reset();
    count_on_ = true;
    meter_ = Meter(meter_.Base(), hello.step, readings_.empty() ? 0 : readings_.back().end_compute);
  }
  if (hello.setting != setting_) {
    Withdraw("the trainer came back with another setting", emission);
    governor_.Forget();  // what led to the one before is not in force
    setting_ = hello.setting;
  }
  if (record_.outcome != Outcome::kRunning) {
    record_.outcome = Outcome::kRunning;
    record_.ended = 0;
    emission.records.emplace_back(record_);
  }
  return emission;
}

// What was spent from a step on, at which so much compute had been, to the end of a reading.
WindowCost Tracker::CostSince(std::uint64_t step, double compute_seconds,
                              const WindowReading& end) const {
  const Budget& budget = record_.spec.budget;
  // Steps beyond the budget are steps as those within it: at the same cost they save nothing.
  const double share =
      budget.kind == BudgetKind::kSteps
          ? (static_cast<double>(end.last_step) - static_cast<double>(step)) / budget.amount
          : Progress(budget, end.last_step, end.end_compute) -
                Progress(budget, step, compute_seconds);
  return {end.loss, end.end_compute - compute_seconds,
          share * static_cast<double>(options_.windows)};
}

// The reward of the last trial: what came behind the reading that it was decided on.
void Tracker::Reward(double correction, Emission& emission) const {
  if (last_trial_ == 0 || last_trial_readings_ == 0) return;
  double reward = correction;
  const WindowReading& decided = readings_[last_trial_readings_ - 1];
  // What a run that was begun again learns once more is nobody's doing.
  if (readings_.back().last_step < decided.last_step) return;
  if (readings_.size() > last_trial_readings_) {
    const WindowReading& first = readings_.front();
    const WindowCost untuned =
        CostSince(std::max<std::uint64_t>(first.first_step, 1) - 1, first.start_compute, first);
    const WindowCost behind = CostSince(decided.last_step, decided.end_compute, readings_.back());
    reward += WindowReward(record_.spec.budget, {decided.loss}, behind, untuned);
  }
  emission.records.emplace_back(RewardRecord{last_trial_, reward});
}

void Tracker::Keep(WindowReading reading) {
  readings_.push_back(std::move(reading));
  if (readings_.size() < 4) return;
  WindowReading& old = readings_[readings_.size() - 3];
  old.active = std::vector<std::uint8_t>();  // {} alone would keep the memory
  for (auto* array :
       {&old.metrics, &old.profile, &old.mean, &old.deviation, &old.difference, &old.divergence}) {
    *array = std::vector<float>();
  }
}

void Tracker::CloseWindow(std::uint32_t window, Emission& emission) {
  WindowReading reading = meter_.Close();
  if (readings_.empty() && options_.baseline == "warmup") {
    meter_.SetBaseline(BaselineFrom(BaselineKind::kWarmUp, reading.profile));
  }
  curve_.push_back(PointOf(reading));
  Keep(std::move(reading));
  emission.records.emplace_back(ObservationRecord{record_.id, window, readings_.back()});

  record_.steps = readings_.back().last_step;
  record_.compute_seconds = readings_.back().end_compute;
  record_.loss = readings_.back().loss;
  emission.records.emplace_back(record_);
  Reward(0, emission);
}

// The window that just closed as a trial in which nothing is decided yet.
Trial Tracker::Look(std::uint32_t window) const {
  const WindowReading nothing = Unmeasured(setting_.active);
  const WindowReading& now = readings_.empty() ? nothing : readings_.back();
  Trial trial;
  trial.job = record_.id;
  trial.window = window;
  trial.step = now.last_step;
  trial.loss = now.loss;
  trial.imbalance = now.imbalance;
  trial.state = MakeState(record_.spec, setting_, now, Before(),
                          readings_.empty() ? nothing : readings_.front());
  trial.mask = OpenChoices();
  trial.setting = setting_;
  return trial;
}

const WindowReading* Tracker::Before() const {
  return readings_.size() > 1 ? &readings_[readings_.size() - 2] : nullptr;
}

void Tracker::Decide(Trial trial, double progress, bool may_ask, Chain& chain, Emission& emission) {
  const auto ruling = pending_ ? Governor::Ruling(Governor::Keep{
                                     fmt::format("action {} is not answered yet", pending_->id)})
                               : governor_.Rule(trial.window, progress, readings_.back(), curve_);
  if (const auto* rollback = std::get_if<Governor::Rollback>(&ruling)) {
    trial.decider = "governor";
    trial.why = rollback->why;
    trial.setting = rollback->setting;
  } else if (const auto* kept = std::get_if<Governor::Keep>(&ruling)) {
    KeepAll(trial, kept->why);
  } else if (!chain.AsksOutside(record_.spec)) {
    Choose(trial, progress, chain, Decline{"no policy server can be asked"}, emission);
  } else if (!may_ask) {
    Choose(trial, progress, chain, Decline{"the window before it was not answered in time"},
           emission);
  } else {
    emission.question = MakeQuestion(trial, progress);
    asked_ = {std::move(trial), progress};
    return;
  }
  Issue(std::move(trial), emission);
}

void Tracker::Choose(Trial& trial, double progress, Chain& chain, const Verdict& outside,
                     Emission& emission) {
  const Situation situation{record_.spec, setting_,   readings_.back(), Before(),
                            trial.state,  trial.mask, progress,         trial.window};
  Adopt(chain.Decide(situation, random_, outside), trial, emission);
}

// The choice becomes the trial's, within the change budget.
void Tracker::Adopt(Chain::Choice choice, Trial& trial, Emission& emission) {
  if (options_.heads_by_lot) {
    std::uniform_real_distribution<float> lot(0, 1);
    for (float& score : choice.decision.action.score) score = lot(random_);
  }
  std::string note;
  Action action =
      governor_.Limit(record_.spec.topology, setting_, std::move(choice.decision.action), note);
  trial.setting = Apply(record_.spec.topology, setting_, action);
  // What was cut or drawn by lot is no longer the policy's own choice: nobody learns from it.
  if (note.empty() && !options_.heads_by_lot) trial.action = std::move(action);
  trial.decider = std::move(choice.decider);
  emission.reasons = std::move(choice.decision.reasons);
  trial.why = choice.decision.why + note;
  trial.policy_version = choice.decision.policy_version;
  trial.log_probability = choice.decision.log_probability;
}

Emission Tracker::Open(Chain& chain, std::uint64_t& trial_id) {
  Emission emission;
  if (!Opens()) return emission;
  const WindowReading nothing = Unmeasured(setting_.active);
  Trial trial;
  trial.job = record_.id;
  trial.state = MakeState(record_.spec, setting_, nothing, nullptr, nothing);
  trial.mask = OpenChoices();
  auto choice =
      chain.Open({record_.spec, setting_, nothing, nullptr, trial.state, trial.mask}, random_);
  if (!choice) {
    opening_ = false;
    return emission;
  }
  // Nothing tells the heads of a site apart: which of them stay is drawn.
  std::uniform_real_distribution<float> lot(0, 1);
  for (float& score : choice->decision.action.score) score = lot(random_);
  trial.id = ++trial_id;
  Adopt(*std::move(choice), trial, emission);
  if (trial.setting == setting_) opening_ = false;
  Issue(std::move(trial), emission);
  // Behind the first step there are weights to lose.
  if (emission.action) emission.action->expires_step = 0;
  return emission;
}

Question Tracker::MakeQuestion(const Trial& trial, double progress) const {
  return {.id = trial.id,
          .deadline_seconds = options_.external_deadline,
          .job = record_.id,
          .key = record_.spec.key,
          .window = trial.window,
          .step = trial.step,
          .progress = progress,
          .loss = trial.loss,
          .imbalance = trial.imbalance,
          .topology = record_.spec.topology,
          .setting = setting_,
          .tokens = trial.state.tokens,
          .mask = trial.mask};
}

std::optional<std::string> Tracker::FaultOf(const Answer& answer) const {
  if (answer.Declines()) return std::nullopt;
  if (auto fault = FindFault(answer.action, asked_->trial.mask)) return fault;
  if (!(answer.log_probability <= 0) || !std::isfinite(answer.log_probability)) {
    return fmt::format("log_probability {} is not a finite number up to 0", answer.log_probability);
  }
  return std::nullopt;
}

Emission Tracker::Conclude(std::uint64_t id, const Verdict& outside, Chain& chain) {
  Emission emission;
  if (!IsOpen(id)) return emission;
  Asked asked = *std::exchange(asked_, std::nullopt);
  Choose(asked.trial, asked.progress, chain, outside, emission);
  Issue(std::move(asked.trial), emission);
  return emission;
}

// The open question, if there is one, will not be heard: its window keeps what there is.
void Tracker::Withdraw(const char* why, Emission& emission) {
  if (!asked_) return;
  Trial trial = std::exchange(asked_, std::nullopt)->trial;
  KeepAll(trial, fmt::format("external: {}", why));
  Issue(std::move(trial), emission);
}

ActionMask Tracker::OpenChoices() const {
  ActionMask mask = MaskOf(record_.spec.topology, setting_);
  if (governor_.SmallSteps()) {
    for (auto& open : mask.scale) open.front() = open.back() = 0;
  }
  const auto close = [](auto& open) {
    open = {};
    open[kKeepScale] = 1;
  };
  for (std::size_t head = 0; head < scale_fixed_.size(); ++head) {
    if (scale_fixed_[head] != 0) close(mask.scale[head]);
  }
  if (options_.change == "heads") {
    std::ranges::for_each(mask.scale, close);
  } else if (options_.change == "scales") {
    for (auto& open : mask.count) {
      open = {};
      open[static_cast<std::size_t>(CountChange::kKeep)] = 1;
    }
  }
  return mask;
}

std::uint32_t Tracker::MeasureEvery() const {
  constexpr double kEnough = 64;  // measured steps of a window
  constexpr double kMost = 1e6;
  const Budget& budget = record_.spec.budget;
  const double window =
      budget.kind == BudgetKind::kSteps ? budget.amount / static_cast<double>(options_.windows) : 0;
  return static_cast<std::uint32_t>(
      std::clamp(std::ceil(window / kEnough), static_cast<double>(options_.measure_every), kMost));
}

std::uint64_t Tracker::WindowSteps() const {
  if (readings_.empty() || readings_.back().last_step < readings_.back().first_step) return 1;
  return readings_.back().last_step - readings_.back().first_step + 1;
}

void Tracker::Issue(Trial trial, Emission& emission) {
  last_trial_ = trial.id;
  last_trial_readings_ = readings_.size();
  ++trials_;
  if (trial.setting == setting_) {
    trial.acknowledgement.status = AckStatus::kNone;
    // What was to be taken back is out of force already, and no answer will say so.
    if (trial.decider == "governor") governor_.Forget();
  } else {
    trial.acknowledgement.status = AckStatus::kPending;
    last_action_ = DescribeChange(record_.spec.topology, setting_, trial.setting);
    last_decider_ = trial.decider;
    // An action that is a whole window late would be judged on what it did not do.
    emission.action =
        ActionRequest{trial.id, step_ + std::max<std::uint64_t>(WindowSteps(), 2 * MeasureEvery()),
                      trial.setting};
    pending_ = trial;
    given_up_.reset();
  }
  emission.records.emplace_back(std::move(trial));
}

Emission Tracker::Take(const Observation& observation, Chain& chain, std::uint64_t& trial_id) {
  if (const auto fault = FindFault(observation, record_.spec.topology)) {
    throw std::invalid_argument(fmt::format("step {}: {}", observation.step, *fault));
  }
  if (last_ &&
      (observation.step <= last_->step || observation.compute_seconds < last_->compute_seconds)) {
    throw std::invalid_argument(fmt::format(
        "step {} at {} s does not follow step {} at {} s; report steps in order", observation.step,
        observation.compute_seconds, last_->step, last_->compute_seconds));
  }
  opening_ = false;
  const bool first = !last_ && readings_.empty();
  last_ = {observation.step, observation.compute_seconds, observation.loss};
  step_ = measured_until_ = observation.step;
  unmeasured_ = 0;
  dropped_ += observation.dropped;

  Emission emission;
  const double progress =
      Progress(record_.spec.budget, observation.step, observation.compute_seconds);
  const std::uint32_t own = FullWindows(progress, static_cast<std::uint32_t>(options_.windows));
  if (std::exchange(count_on_, false)) ahead_ = window_ - std::min(window_, own);
  const std::uint32_t full = ahead_ + own;
  if (first && full > 0) {
    // The job was under way before anybody listened: its windows begin here.
    meter_ = Meter(meter_.Base(), observation.step, observation.compute_seconds);
    window_ = full;
    return emission;
  }
  meter_.Add(observation);
  if (full <= window_) return emission;
  const std::uint32_t window = full - 1;  // the last one that is full
  window_ = full;
  const bool answered = !asked_;
  Withdraw("no answer before the next window had closed", emission);
  CloseWindow(window, emission);
  if (progress >= 1) return emission;  // nothing is left to decide
  Trial trial = Look(window);
  trial.id = ++trial_id;
  Decide(std::move(trial), progress, answered, chain, emission);
  return emission;
}

Emission Tracker::Take(const ActionReply& reply) {
  Emission emission;
  if (!pending_ && given_up_ && given_up_->id == reply.id &&
      reply.acknowledgement.status == AckStatus::kApplied) {
    pending_ = std::exchange(given_up_, std::nullopt);  // the Hello had left before it arrived
    Withdraw("the setting changed meanwhile", emission);
  }
  if (!pending_ || pending_->id != reply.id) return emission;  // of an earlier life, or said twice
  emission.records.emplace_back(AcknowledgementRecord{reply.id, reply.acknowledgement});
  if (reply.acknowledgement.status != AckStatus::kApplied || reply.acknowledgement.step > 0 ||
      trials_ == kMostOpenings) {
    opening_ = false;
  }
  if (reply.acknowledgement.status == AckStatus::kApplied) {
    const bool judged = pending_->decider != "governor" && pending_->decider != "hand";
    if (judged) {
      governor_.Changed(window_, curve_, setting_, pending_->setting);
    } else {
      governor_.Forget();
    }
    setting_ = pending_->setting;
  } else if (pending_->decider == "governor") {
    governor_.Missed();
  }
  pending_.reset();
  return emission;
}

Emission Tracker::Take(const Heartbeat& heartbeat, std::uint64_t& trial_id) {
  Emission emission;
  step_ = std::max(step_, heartbeat.step);
  if (pending_) return emission;
  constexpr std::uint32_t kPatience = 4;  // measured steps
  const auto patience = std::max<std::uint64_t>(WindowSteps(), kPatience * MeasureEvery());
  if (step_ <= measured_until_ + patience) return emission;
  if (++unmeasured_ < 2) return emission;  // what is measured may be right behind the first
  auto before = governor_.TakeBackUnjudged(window_, curve_.size());
  if (!before) return emission;
  Withdraw("the trainer can measure nothing", emission);
  Trial trial = Look(window_);
  trial.id = ++trial_id;
  trial.step = step_;
  trial.decider = "governor";
  trial.why = fmt::format(
      "nothing usable was measured from step {} to {}: what was changed before that is taken back",
      measured_until_, step_);
  trial.setting = *std::move(before);
  Issue(std::move(trial), emission);
  return emission;
}

Emission Tracker::Take(const Bye& said, double now) {
  // A job that diverged has no validation loss, and one that cannot tell its compute has what it
  // reported last.
  Bye bye = said;
  if (bye.validation_loss && !std::isfinite(*bye.validation_loss)) bye.validation_loss.reset();
  if (!std::isfinite(bye.compute_seconds) || bye.compute_seconds < 0) {
    bye.compute_seconds = last_ ? last_->compute_seconds : record_.compute_seconds;
  }
  Emission emission;
  Withdraw("no answer before the job ended", emission);
  if (!meter_.Empty()) CloseWindow(window_++, emission);
  if (bye.validation_loss && !readings_.empty()) {
    Reward(FinalCorrection(readings_.back().loss, *bye.validation_loss), emission);
  }
  if (pending_) {
    emission.records.emplace_back(AcknowledgementRecord{
        pending_->id, {AckStatus::kExpired, bye.step, "the job ended before it"}});
    pending_.reset();
  }
  record_.outcome = bye.outcome;
  record_.ended = now;
  record_.steps = bye.step;
  record_.compute_seconds = bye.compute_seconds;
  record_.validation_loss = bye.validation_loss;
  emission.records.emplace_back(record_);
  return emission;
}

void Tracker::Use(std::string policy) {
  chosen_ = std::move(policy);
  record_.spec.policy = chosen_;
}

Emission Tracker::Take(const Adjust& adjust, std::uint64_t& trial_id) {
  const Topology& topology = record_.spec.topology;
  if (pending_) {
    throw std::invalid_argument(fmt::format(
        "action {} is on its way to job {}; try again in a moment", pending_->id, record_.id));
  }
  if (!adjust.scale && !adjust.gain && !adjust.active_heads) {
    throw std::invalid_argument("nothing to adjust; give a scale, a gain or active heads");
  }
  Setting setting = setting_;
  bool found = false;
  for (std::size_t site = 0; site < topology.sites.size(); ++site) {
    const Site& description = topology.sites[site];
    if (!adjust.site.empty() && adjust.site != description.name) continue;
    found = true;
    if (adjust.head && *adjust.head >= description.heads) {
      throw std::invalid_argument(fmt::format("site '{}' has heads 0 to {}, not {}",
                                              description.name, description.heads - 1,
                                              *adjust.head));
    }
    const std::size_t first = site_offsets_[site] + adjust.head.value_or(0);
    const std::size_t last = adjust.head ? first + 1 : site_offsets_[site + 1];
    for (std::size_t head = first; head < last; ++head) {
      if (adjust.scale) setting.scale[head] = *adjust.scale;
      if (adjust.gain) setting.gain[head] = *adjust.gain;
    }
    if (adjust.active_heads) {
      if (*adjust.active_heads > description.heads) {
        throw std::invalid_argument(fmt::format("site '{}' can have 1 to {} active heads, not {}",
                                                description.name, description.heads,
                                                *adjust.active_heads));
      }
      std::vector<float> score(description.heads, 0.0F);
      for (std::size_t head = 0; !readings_.empty() && head < score.size(); ++head) {
        score[head] = readings_.back().At(site_offsets_[site] + head, Metric::kOutputNorm);
      }
      SelectHeads(std::span(setting.active).subspan(site_offsets_[site], description.heads), score,
                  *adjust.active_heads == 0 ? description.heads : *adjust.active_heads);
    }
  }
  if (!found) {
    std::string names;
    for (const Site& site : topology.sites) names += (names.empty() ? "" : ", ") + site.name;
    throw std::invalid_argument(
        fmt::format("job {} has no site '{}'; its sites are {}", record_.id, adjust.site, names));
  }
  if (const auto fault = FindFault(setting, topology)) throw std::invalid_argument(*fault);
  if (setting == setting_) throw std::invalid_argument("the job has that setting already");

  Trial trial;
  trial.id = ++trial_id;
  trial.job = record_.id;
  trial.window = window_;
  trial.step = last_ ? last_->step : record_.steps;
  trial.loss = readings_.empty() ? (last_ ? last_->loss : 0.0) : readings_.back().loss;
  trial.imbalance = readings_.empty() ? 0.0 : readings_.back().imbalance;
  trial.state.site_offsets = site_offsets_;
  trial.state.tokens.assign(topology.Heads() * kTokenFeatures, 0.0F);
  if (!readings_.empty()) {
    trial.state = MakeState(record_.spec, setting_, readings_.back(), nullptr, readings_.front());
  }
  trial.mask = MaskOf(topology, setting_);
  trial.setting = std::move(setting);
  trial.decider = "hand";
  trial.why = "adjusted by hand";
  Emission emission;
  Withdraw("no answer before a person adjusted the job", emission);
  Issue(std::move(trial), emission);
  return emission;
}

Emission Tracker::Lose(double now, const char* why) {
  Emission emission;
  Withdraw(why, emission);
  record_.outcome = Outcome::kLost;
  record_.ended = now;
  emission.records.emplace_back(record_);
  return emission;
}

LiveJob Tracker::Live() const {
  LiveJob live;
  live.id = record_.id;
  live.key = record_.spec.key;
  live.name = record_.spec.name;
  live.step = last_ ? last_->step : record_.steps;
  live.progress = last_ ? Progress(record_.spec.budget, last_->step, last_->compute_seconds) : 0.0;
  live.loss = last_ ? last_->loss : 0.0;
  live.imbalance = readings_.empty() ? 0.0 : readings_.back().imbalance;
  live.active_heads = static_cast<std::uint32_t>(CountActive(setting_.active));
  live.heads = static_cast<std::uint32_t>(setting_.active.size());
  live.window = window_;
  live.trials = trials_;
  live.dropped = dropped_;
  live.last_action = last_action_;
  live.last_decider = last_decider_;
  return live;
}

}  // namespace attune
