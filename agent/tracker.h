// One live job: from its messages to readings, trials and actions. No I/O, no threads: what is to
// be stored and sent comes back as values.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "agent/chain.h"
#include "agent/governor.h"
#include "agent/options.h"
#include "collectors/messages.h"
#include "env/meter.h"
#include "env/reward.h"
#include "env/trial.h"
#include "store/store.h"
#include "store/writer.h"

namespace attune {

// What a message led to. The records are stored in order; the action, or the question to a policy
// server, leaves once the last of them is on disk.
struct Emission {
  std::vector<Record> records;
  std::optional<ActionRequest> action;
  std::optional<Question> question;
  std::function<std::string()> reasons = {};  // of the action (Decision::reasons)
};

// Whether the knob `baseline` names a job of the history.
[[nodiscard]] bool NamesJob(const std::string& baseline);
// The baseline of that job, of each head the profile of the last window in which it was active.
// Nothing where the knob names none, or the history has no such job of this topology.
[[nodiscard]] std::optional<Baseline> RecordedBaseline(const Store& store, const Options& options,
                                                       const Topology& topology);

class Tracker {
 public:
  // A job that says hello. `recorded` is the baseline to compare with when the knob names a
  // recorded job; `past` holds the job's windows that a daemon before this one has stored, `known`
  // says that the store knows the job: then its spec is what was found when it began. Hello must be
  // faultless (FindFault). `started` and times below are Unix seconds.
  Tracker(std::uint64_t id, const Hello& hello, const Options& options, double started,
          std::optional<Baseline> recorded, const std::vector<ObservationRecord>& past,
          bool known = false);

  // The same job after a reconnection. Throws std::invalid_argument, saying what differs, if the
  // introduction contradicts the first.
  [[nodiscard]] Emission Resume(const Hello& hello);

  // Goes on where a daemon before this one, or this one before the job fell silent, has stopped:
  // `trials` are the job's, oldest first. The newest still earns its reward; those that were not
  // answered are, by what the trainer says of itself; what the governor has begun it goes on with.
  // Random numbers are none that were drawn before.
  [[nodiscard]] Emission TakeUp(std::vector<Trial> trials, const Hello& hello);

  // Before the first step of a job that nobody has heard of: what is decided by what it says of
  // itself. Where an action comes of it, and the trainer applies it before that step, more may be
  // decided (Opens). Behind that step it is not to be applied any more.
  [[nodiscard]] Emission Open(Chain& chain, std::uint64_t& trial_id);
  // Whether Open is to be called now.
  [[nodiscard]] bool Opens() const { return IsOpening() && !pending_; }
  // Whether it is, or will be once the trainer has answered.
  [[nodiscard]] bool IsOpening() const { return opening_ && step_ == 0; }

  // Throws std::invalid_argument if the observation cannot be used (FindFault, or a step that does
  // not follow the last one): it is ignored then. `trial_id` is the last id given to a trial; a
  // new trial takes the next.
  [[nodiscard]] Emission Take(const Observation& observation, Chain& chain,
                              std::uint64_t& trial_id);
  [[nodiscard]] Emission Take(const ActionReply& reply);
  // Where two heartbeats say that the trainer goes on for more than a window without one usable
  // measurement (its loss is no number, say), what no window will judge is taken back.
  [[nodiscard]] Emission Take(const Heartbeat& heartbeat, std::uint64_t& trial_id);
  [[nodiscard]] Emission Take(const Bye& bye, double now);
  // A person chose who decides about this job, from its next window on: whatever the trainer asks
  // for.
  void Use(std::string policy);
  // A person changes the setting. Throws std::invalid_argument, saying what cannot be done.
  [[nodiscard]] Emission Take(const Adjust& adjust, std::uint64_t& trial_id);
  // Question `id` has an answer, or it is clear that it will have none: `outside` says which.
  // Nothing comes of a question that is not open (IsOpen).
  [[nodiscard]] Emission Conclude(std::uint64_t id, const Verdict& outside, Chain& chain);
  // Whether an answer to question `id` would still be heard. A question ends with the window behind
  // it, with the job, and when the setting that it was about changes.
  [[nodiscard]] bool IsOpen(std::uint64_t id) const { return asked_ && asked_->trial.id == id; }
  // Whether the action waits for the trainer's answer.
  [[nodiscard]] bool IsPending(std::uint64_t action) const {
    return pending_ && pending_->id == action;
  }
  // What makes an answer to the open question unusable, or nothing.
  [[nodiscard]] std::optional<std::string> FaultOf(const Answer& answer) const;
  // Nobody hears of the job any more; `why` is said of a question that was open.
  [[nodiscard]] Emission Lose(double now, const char* why = "the job fell silent");

  [[nodiscard]] std::uint64_t Id() const { return record_.id; }
  // Steps between measured ones: as the daemon is set, and more where a window of a budget in steps
  // would have more measured ones than tell anything new of it.
  [[nodiscard]] std::uint32_t MeasureEvery() const;
  [[nodiscard]] const JobRecord& Record() const { return record_; }
  [[nodiscard]] LiveJob Live() const;

 private:
  void CloseWindow(std::uint32_t window, Emission& emission);
  [[nodiscard]] std::uint64_t WindowSteps() const;  // of the last one; 1 before the first
  void Reconsider(std::span<const Trial> trials, const Setting& in_force);
  [[nodiscard]] std::size_t ReadingsUpTo(std::uint64_t step) const;
  [[nodiscard]] const WindowReading* Before() const;  // the last but one; null: there is none
  [[nodiscard]] Trial Look(std::uint32_t window) const;
  void Decide(Trial trial, double progress, bool may_ask, Chain& chain, Emission& emission);
  void Choose(Trial& trial, double progress, Chain& chain, const Verdict& outside,
              Emission& emission);
  void Adopt(Chain::Choice choice, Trial& trial, Emission& emission);
  [[nodiscard]] Question MakeQuestion(const Trial& trial, double progress) const;
  void Withdraw(const char* why, Emission& emission);
  [[nodiscard]] ActionMask OpenChoices() const;
  void Issue(Trial trial, Emission& emission);
  void Reward(double correction, Emission& emission) const;
  void Keep(WindowReading reading);
  [[nodiscard]] WindowCost CostSince(std::uint64_t step, double compute_seconds,
                                     const WindowReading& end) const;

  Options options_;
  JobRecord record_;
  std::string chosen_;                     // the policy, by a person; empty: as the trainer says
  std::vector<std::uint8_t> scale_fixed_;  // [heads] or empty, as the trainer says
  std::vector<std::uint32_t> site_offsets_;
  Setting setting_;  // in force at the trainer, as far as it said
  std::mt19937_64 random_;
  Governor governor_;
  Meter meter_;
  // Of those between the first and the last two only what is no array: an array of each head and
  // window of a long job would be gigabytes for a thousand jobs.
  std::vector<WindowReading> readings_;
  std::vector<CurvePoint> curve_;  // of the readings
  // Of `past`, the first reading and window since the run was last begun again.
  std::size_t life_ = 0;
  std::uint32_t life_window_ = 0;
  std::uint32_t window_ = 0;  // the one that is filling
  std::uint32_t ahead_ = 0;   // windows beyond those that the trainer's progress makes
  bool count_on_ = false;     // the next observation says how many: it may stand before the last
  struct Stand {
    std::uint64_t step;
    double compute_seconds;
    double loss;
  };
  std::optional<Stand> last_;            // of the last observation
  std::uint64_t step_ = 0;               // that the trainer last spoke of
  std::uint64_t measured_until_ = 0;     // the step of the last observation, or Hello behind it
  std::uint32_t unmeasured_ = 0;         // heartbeats since then that came too late for it
  std::uint64_t last_trial_ = 0;         // waits for its reward; 0: none
  std::size_t last_trial_readings_ = 0;  // readings there were when it was decided
  std::optional<Trial> pending_;         // sent, not answered
  std::optional<Trial> given_up_;        // the one before it, if a Hello crossed it on its way
  struct Asked {
    Trial trial;  // but for what the answer will decide
    double progress;
  };
  std::optional<Asked> asked_;  // the question that waits for a policy server
  bool opening_ = false;        // before the first step there may be more to decide
  std::uint64_t trials_ = 0;
  std::uint64_t dropped_ = 0;
  std::string last_action_, last_decider_;
};

// "heads of block0 8→4; scale of 3 heads" for people; empty when nothing changes.
[[nodiscard]] std::string DescribeChange(const Topology& topology, const Setting& before,
                                         const Setting& after);

}  // namespace attune
