#include "agent/daemon.h"

#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <system_error>
#include <unordered_map>
#include <variant>
#include <vector>
#include <zmq.hpp>

#include "agent/analyst.h"
#include "agent/lines.h"
#include "agent/questions.h"
#include "agent/tracker.h"
#include "collectors/codec.h"
#include "store/maintenance.h"
#include "store/writer.h"

namespace attune {
namespace {

using SteadyClock = std::chrono::steady_clock;

// Messages taken in one turn before actions and deadlines get theirs.
constexpr int kMessagesPerTurn = 1000;
// Between looks at whether the store can be written again.
constexpr std::chrono::seconds kRetryInterval{10};
// For the store, while jobs wait: another program may hold its lock for longer.
constexpr std::chrono::milliseconds kStoreTime{500};
// Nobody starts a run anew so soon after its last word.
constexpr std::chrono::seconds kMeanwhile{1};

double UnixTime() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// Wakes the loop from other threads.
class Doorbell {
 public:
  Doorbell() : descriptor_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (descriptor_ < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
  }
  ~Doorbell() { close(descriptor_); }
  Doorbell(const Doorbell&) = delete;
  Doorbell& operator=(const Doorbell&) = delete;

  void Ring() { eventfd_write(descriptor_, 1); }
  void Clear() {
    eventfd_t rings = 0;
    eventfd_read(descriptor_, &rings);
  }
  [[nodiscard]] int Descriptor() const { return descriptor_; }

 private:
  int descriptor_;
};

}  // namespace

class Daemon::Loop {
 public:
  Loop(const Options& options, const Paths& paths,
       const std::function<std::unique_ptr<Learner>(Writer&)>& learner,
       std::function<Options()> reload);

  bool Run();
  void Stop() {
    stop_ = true;
    doorbell_.Ring();
  }
  void Reload() {
    reload_asked_ = true;
    doorbell_.Ring();
  }

 private:
  struct Live {
    Tracker tracker;
    std::string peer;
    SteadyClock::time_point heard;
    bool welcomed = false;  // since it last said hello
  };
  using Jobs = std::map<std::string, Live>;  // by key
  struct Outgoing {
    std::uint64_t ticket;
    std::string job_key;
    std::variant<ActionRequest, Question> message;
    std::string why = {};                       // of the action's trial
    std::function<std::string()> reasons = {};  // to put behind it, once the action is on its way
  };

  void Receive();
  void Handle(const std::string& peer, std::span<const std::byte> frame);
  void Take(const std::string& peer, Hello hello);
  void Take(const std::string& peer, const StatusRequest& request);
  void Take(const std::string& peer, const Adjust& adjust);
  void Take(const std::string& peer, const UsePolicy& use);
  void Take(const std::string& peer, const Serve& serve);
  void Take(const std::string& peer, const Answer& answer);
  template <typename Report>
  void TakeReport(const std::string& peer, const Report& report);

  std::uint64_t Store(Live& live, Emission emission);  // the ticket of its records
  void Greet(Live& live);
  void SendDue();
  void CloseOverdue();
  void LoseSilent();
  void EndIdle();
  void TakeSnapshot();
  void ReloadOptions();
  [[nodiscard]] std::chrono::milliseconds UntilDeadline() const;
  // Of a job, after which it counts as lost.
  [[nodiscard]] SteadyClock::duration Silence() const {
    return std::chrono::ceil<SteadyClock::duration>(
        std::chrono::duration<double>(options_.silence));
  }
  [[nodiscard]] std::optional<Baseline> BaselineFor(const JobSpec& spec) const;
  [[nodiscard]] bool IsStored();                   // all that the jobs have had
  void SetStoreFault(const std::string& message);  // in the writer's thread
  [[nodiscard]] std::string StoreFault();
  void Send(const std::string& peer, const Message& message) { lines_.Send(peer, Encode(message)); }
  void Refuse(const std::string& peer, ErrorCode code, const std::string& text);

  Options options_;
  Paths paths_;
  std::function<Options()> reload_;
  StateLock lock_;
  Doorbell doorbell_;
  std::atomic<std::uint64_t> committed_{0};
  std::atomic<bool> stop_{false};
  SteadyClock::time_point asked_ = SteadyClock::now();  // when a message last came
  std::atomic<bool> reload_asked_{false};
  std::mutex store_fault_mutex_;
  std::string store_fault_;  // why the last attempt to write the store failed, if it did
  Writer writer_;
  attune::Store store_;  // for reading
  Analyst analyst_;
  std::unique_ptr<Learner> learner_;
  Chain chain_;
  Questions questions_;
  std::uint64_t late_answers_ = 0;
  std::uint64_t network_version_ = 0;
  std::uint64_t last_job_;
  std::uint64_t last_trial_;
  std::uint64_t errors_ = 0;
  SteadyClock::time_point started_ = SteadyClock::now();
  Lines lines_;
  Message message_;  // the last that came: the next is read into its memory
  Jobs jobs_;
  SteadyClock::time_point may_be_silent_ = SteadyClock::time_point::max();  // a job; none before
  std::unordered_map<std::string, std::string> key_of_peer_;
  std::deque<Outgoing> outgoing_;
  struct ClosedWindow {
    std::uint64_t ticket;
    std::uint64_t job;
  };
  std::deque<ClosedWindow> windows_;      // for the analyst, once they are on disk
  std::uint64_t lesson_ = 0;              // ticket of the last end that the learner is to hear of
  std::optional<std::uint64_t> stalled_;  // `committed_` when the store could last not be written
  std::set<std::string> unstored_;        // keys of jobs whose end may not be on disk
  std::map<std::uint64_t, std::string> chosen_;  // by a person: who decides about this job
};

namespace {

attune::Store OpenForWriting(const Paths& paths) {
  Upgrade(paths.Store(), [&](std::uint64_t schema) {
    spdlog::info("store {} has schema {} and is brought up to date, once", paths.Store().string(),
                 schema);
  });
  attune::Store store(paths.Store(), attune::Store::Mode::kReadWrite);
  store.MarkRunningLost(UnixTime());
  return store;
}

}  // namespace

Daemon::Loop::Loop(const Options& options, const Paths& paths,
                   const std::function<std::unique_ptr<Learner>(Writer&)>& learner,
                   std::function<Options()> reload)
    : options_(options),
      paths_(paths),
      reload_(std::move(reload)),
      lock_((paths.Create(), paths.Lock())),
      writer_(
          OpenForWriting(paths),
          [this](std::uint64_t ticket) {
            committed_ = ticket;
            SetStoreFault("");
            doorbell_.Ring();
          },
          [this](const std::string& message) {
            SetStoreFault(message);
            spdlog::error("{}", message);
          }),
      store_(paths.Store(), attune::Store::Mode::kReadOnly),
      analyst_(paths.Store(), writer_),
      chain_(options.policy),
      last_job_(store_.LastJobId()),
      last_trial_(store_.LastTrialId()),
      lines_(paths, options.listen) {
  if (learner) learner_ = learner(writer_);
}

bool Daemon::Loop::Run() {
  spdlog::info("attuned {} listens at {}; store {}; policy {}", ATTUNE_VERSION, paths_.Endpoint(),
               paths_.Store().string(), chain_.Policy());
  if (!options_.listen.empty()) {
    spdlog::info("and at {} for trainers with the keys of {}", options_.listen,
                 paths_.Keys().string());
  }
  while (!stop_) {
    try {
      if (lines_.Wait(UntilDeadline(), doorbell_.Descriptor())) doorbell_.Clear();
      if (reload_asked_.exchange(false)) ReloadOptions();
      TakeSnapshot();
      Receive();
      CloseOverdue();
      SendDue();
      LoseSilent();
      EndIdle();
    } catch (const zmq::error_t& error) {
      if (error.num() != EINTR) spdlog::error("turn failed: {}", error.what());
    } catch (const std::exception& error) {
      spdlog::error("turn failed: {}", error.what());
    }
  }
  // Nobody watches them any more; a Hello to the next daemon revives those that go on.
  for (auto& [key, live] : jobs_) Store(live, live.tracker.Lose(UnixTime(), "attuned stopped"));
  constexpr int kTries = 5;  // another program's lock is waited for at each, a full disk at none
  bool stored = false;
  for (int tried = 0; !stored && tried < kTries; ++tried) stored = writer_.Flush();
  SendDue();
  if (stored) {
    spdlog::info("attuned stops");
  } else {
    spdlog::error("attuned stops, and what is not in the store is lost: {}", StoreFault());
  }
  return stored;
}

// Waits a little, and not again for each job while nothing can be written.
bool Daemon::Loop::IsStored() {
  if (stalled_ && *stalled_ == committed_) return false;
  stalled_.reset();
  if (writer_.Flush(kStoreTime)) return true;
  stalled_ = committed_;
  return false;
}

void Daemon::Loop::SetStoreFault(const std::string& message) {
  const std::lock_guard lock(store_fault_mutex_);
  store_fault_ = message;
}

std::string Daemon::Loop::StoreFault() {
  const std::lock_guard lock(store_fault_mutex_);
  return store_fault_;
}

void Daemon::Loop::Receive() {
  for (int i = 0; i < kMessagesPerTurn; ++i) {
    const auto letter = lines_.Receive();
    if (!letter) return;
    if (letter->frames == 1) {
      Handle(letter->peer, letter->frame);
    } else {
      Refuse(letter->peer, ErrorCode::kMalformed,
             fmt::format("a message has one frame, not {}; see PROTOCOL.md", letter->frames));
    }
  }
}

void Daemon::Loop::Handle(const std::string& peer, std::span<const std::byte> frame) {
  try {
    Decode(frame, message_);
    std::visit(
        [&](auto& content) {
          using Content = std::decay_t<decltype(content)>;
          // A policy server is there for the jobs: where none is, it keeps nobody waiting.
          if constexpr (!std::is_same_v<Content, Serve>) asked_ = SteadyClock::now();
          if constexpr (std::is_same_v<Content, Hello>) {
            Take(peer, std::move(content));
          } else if constexpr (std::is_same_v<Content, StatusRequest> ||
                               std::is_same_v<Content, Adjust> ||
                               std::is_same_v<Content, UsePolicy> ||
                               std::is_same_v<Content, Serve> || std::is_same_v<Content, Answer>) {
            Take(peer, content);
          } else if constexpr (std::is_same_v<Content, Observation> ||
                               std::is_same_v<Content, ActionReply> ||
                               std::is_same_v<Content, Heartbeat> || std::is_same_v<Content, Bye>) {
            TakeReport(peer, content);
          } else {
            Refuse(peer, ErrorCode::kOutOfOrder, "this message is the daemon's to send");
          }
        },
        message_);
  } catch (const CodecError& error) {
    Refuse(peer, error.Code(), error.what());
  } catch (const std::invalid_argument& error) {
    Refuse(peer, ErrorCode::kUnusable, error.what());
  } catch (const StoreError& error) {
    Refuse(peer, ErrorCode::kUnusable, error.what());
  }
}

void Daemon::Loop::Take(const std::string& peer, Hello hello) {
  if (const auto fault = FindFault(hello.job)) throw std::invalid_argument("hello: " + *fault);
  if (const auto fault = FindFault(hello.setting, hello.job.topology)) {
    throw std::invalid_argument("hello: " + *fault);
  }
  if (const auto marked = hello.scale_fixed.size();
      marked != 0 && marked != hello.job.topology.Heads()) {
    throw std::invalid_argument(
        fmt::format("hello: scale_fixed has {} heads where the sites have {}; give each, or none",
                    marked, hello.job.topology.Heads()));
  }
  if (!hello.job.policy.empty() && !Chain::Knows(hello.job.policy)) {
    throw std::invalid_argument(
        fmt::format("hello: there is no policy '{}' (ATTUNE_POLICY); see: "
                    "attune policy list",
                    hello.job.policy));
  }
  const std::string& key = hello.job.key;
  auto job = jobs_.find(key);
  std::optional<Live> fresh;
  std::vector<Trial> trials;  // that it has had, oldest first
  if (job == jobs_.end()) {
    if (unstored_.contains(key)) {
      if (!IsStored()) {
        spdlog::warn("job '{}' is back, and its end is not in the store yet: it waits", key);
        return;  // the trainer says hello once more
      }
      unstored_.clear();
    }
    const auto earlier = store_.FindJobByKey(key);
    // One that failed may go on from a checkpoint, as one that was killed.
    if (earlier && earlier->outcome == Outcome::kFinished) {
      Refuse(peer, ErrorCode::kContradiction,
             fmt::format("job '{}' (key {}) has finished before; give every run a key of its own "
                         "(ATTUNE_JOB)",
                         earlier->spec.name, key));
      return;
    }
    Hello first = hello;
    if (earlier) first.job = earlier->spec;  // Resume compares with what was said then
    const std::uint64_t id = earlier ? earlier->id : last_job_ + 1;
    if (earlier) trials = store_.JobTrials(id);
    fresh.emplace(Live{Tracker(id, first, options_, earlier ? earlier->started : UnixTime(),
                               BaselineFor(first.job),
                               earlier ? store_.Observations(id) : std::vector<ObservationRecord>{},
                               earlier.has_value()),
                       peer, SteadyClock::now()});
    if (const auto chosen = chosen_.find(id); chosen != chosen_.end()) {
      fresh->tracker.Use(chosen->second);
    }
  }
  Emission emission;
  try {
    emission = (fresh ? *fresh : job->second).tracker.Resume(hello);
  } catch (const std::invalid_argument& error) {
    Refuse(peer, ErrorCode::kContradiction, error.what());
    return;
  }
  if (fresh) {
    const std::uint64_t id = fresh->tracker.Id();
    spdlog::info("job {} '{}' {}: {} sites, {} heads{}", id, hello.job.name,
                 id > last_job_ ? "says hello" : "is back", hello.job.topology.sites.size(),
                 hello.job.topology.Heads(),
                 fresh->tracker.Record().spec.fresh ? ""
                 : hello.job.fresh
                     ? "; its weights were trained before it said so: little is changed"
                     : "; it does not say that its weights are fresh: little is changed");
    last_job_ = std::max(last_job_, id);
    writer_.Post(fresh->tracker.Record());
    writer_.Post(fresh->tracker.TakeUp(std::move(trials), hello).records);
    may_be_silent_ = std::min(may_be_silent_, SteadyClock::now() + Silence());
    job = jobs_.emplace(key, *std::move(fresh)).first;
  }
  Live& live = job->second;
  Store(live, std::move(emission));
  if (live.peer != peer && SteadyClock::now() - live.heard < kMeanwhile) {
    spdlog::warn(
        "job {} '{}' says hello from elsewhere, and was heard a moment ago: where two runs have "
        "one key (ATTUNE_JOB), give each its own",
        live.tracker.Id(), hello.job.name);
  }
  key_of_peer_.erase(live.peer);
  live.peer = peer;
  live.heard = SteadyClock::now();
  key_of_peer_[peer] = key;
  live.welcomed = false;
  Greet(live);
}

// Once there is nothing more to decide before the first step: a trainer that waits for what is
// goes on at this word.
void Daemon::Loop::Greet(Live& live) {
  if (live.welcomed) return;
  if (live.tracker.Opens()) Store(live, live.tracker.Open(chain_, last_trial_));
  if (live.tracker.IsOpening()) return;
  live.welcomed = true;
  Send(live.peer, Welcome{live.tracker.Id(), live.tracker.MeasureEvery(), options_.heartbeat});
}

template <typename Report>
void Daemon::Loop::TakeReport(const std::string& peer, const Report& report) {
  const auto known = key_of_peer_.find(peer);
  if (known == key_of_peer_.end()) {
    Refuse(peer, ErrorCode::kOutOfOrder, "say hello first");
    return;
  }
  const auto found = jobs_.find(known->second);
  Live& live = found->second;
  live.heard = SteadyClock::now();
  if constexpr (std::is_same_v<Report, Heartbeat>) {
    Send(peer, Heartbeat{});
    Store(live, live.tracker.Take(report, last_trial_));
    Greet(live);
  } else if constexpr (std::is_same_v<Report, Observation>) {
    Store(live, live.tracker.Take(report, chain_, last_trial_));
    Greet(live);
  } else if constexpr (std::is_same_v<Report, ActionReply>) {
    Store(live, live.tracker.Take(report));
    spdlog::info("job {}: action {} {} at step {}{}{}", live.tracker.Id(), report.id,
                 Name(report.acknowledgement.status), report.acknowledgement.step,
                 report.acknowledgement.why.empty() ? "" : ": ", report.acknowledgement.why);
    Greet(live);
  } else {
    static_assert(std::is_same_v<Report, Bye>);
    lesson_ = Store(live, live.tracker.Take(report, UnixTime()));
    spdlog::info("job {} has {} at step {}", live.tracker.Id(), Name(report.outcome), report.step);
    if (report.outcome == Outcome::kFinished) chosen_.erase(live.tracker.Id());
    const std::string key = known->second;
    key_of_peer_.erase(known);
    jobs_.erase(found);
    // Its end is on disk before anybody says hello again, or learns from it (SendDue).
    if (!IsStored()) unstored_.insert(key);
  }
}

std::uint64_t Daemon::Loop::Store(Live& live, Emission emission) {
  const std::string& key = live.tracker.Record().spec.key;
  const std::uint64_t id = live.tracker.Id();
  std::string why;
  std::string line;  // for the log, written when the writer is at work
  bool has_window = false;
  for (const Record& record : emission.records) {
    has_window = has_window || std::holds_alternative<ObservationRecord>(record);
    const auto* trial = std::get_if<Trial>(&record);
    if (trial == nullptr) continue;
    why = trial->why;
    const std::string when =
        IsOpening(*trial) ? "before its first step" : fmt::format("window {}", trial->window);
    line = fmt::format("job {} {}: {} decides{}: {}", id, when, trial->decider,
                       emission.action ? "" : " to keep", why);
  }
  // Together, so that the writer does not begin with the first of them alone.
  const std::uint64_t ticket = writer_.Post(std::move(emission.records));
  if (emission.action) {
    outgoing_.push_back(
        {ticket, key, std::move(*emission.action), std::move(why), std::move(emission.reasons)});
  }
  if (emission.question) outgoing_.push_back({ticket, key, std::move(*emission.question)});
  if (has_window) windows_.push_back({ticket, id});
  if (!line.empty()) spdlog::info("{}", line);
  return ticket;
}

// What led to a message is on disk before it leaves: the trial of an action, and for a question all
// that the job's windows earned so far, so that a policy server may look it up.
void Daemon::Loop::SendDue() {
  const std::uint64_t committed = committed_;
  std::vector<Outgoing> sent;
  while (!outgoing_.empty() && outgoing_.front().ticket <= committed) {
    sent.push_back(std::move(outgoing_.front()));
    outgoing_.pop_front();
    const auto& [ticket, key, message, why, reasons] = sent.back();
    const auto job = jobs_.find(key);
    if (job == jobs_.end()) continue;
    if (const auto* action = std::get_if<ActionRequest>(&message)) {
      // One that was given up meanwhile would change what nobody knows of.
      if (job->second.tracker.IsPending(action->id)) Send(job->second.peer, *action);
    } else if (const auto& question = std::get<Question>(message);
               job->second.tracker.IsOpen(question.id)) {
      questions_.Ask(
          question.id, key,
          SteadyClock::now() + std::chrono::duration_cast<SteadyClock::duration>(
                                   std::chrono::duration<double>(question.deadline_seconds)));
      Send(questions_.Peer(), question);
    }
  }
  for (; !windows_.empty() && windows_.front().ticket <= committed; windows_.pop_front()) {
    analyst_.Look(windows_.front().job);
  }
  if (lesson_ > 0 && lesson_ <= committed) {
    lesson_ = 0;
    if (learner_) learner_->Wake();
  }
  for (const Outgoing& gone : sent) {
    if (!gone.reasons) continue;
    writer_.Post(WhyRecord{std::get<ActionRequest>(gone.message).id, gone.why + gone.reasons()});
  }
}

void Daemon::Loop::Take(const std::string& peer, const StatusRequest& /*request*/) {
  Status status;
  status.version = ATTUNE_VERSION;
  status.pid = static_cast<std::uint64_t>(getpid());
  status.uptime_seconds = std::chrono::duration<double>(SteadyClock::now() - started_).count();
  status.state_directory = paths_.state.string();
  status.policy = chain_.Policy();
  status.policy_version = network_version_;
  status.errors = errors_;
  for (const auto& [key, live] : jobs_) {
    if (status.jobs.size() == kMaxLiveJobs) break;
    status.jobs.push_back(live.tracker.Live());
  }
  status.external = questions_.Name();
  status.late_answers = late_answers_;
  status.store_fault = StoreFault();
  Send(peer, status);
}

void Daemon::Loop::Take(const std::string& peer, const Adjust& adjust) {
  for (auto& [key, live] : jobs_) {
    if (live.tracker.Id() != adjust.job) continue;
    try {
      Emission emission = live.tracker.Take(adjust, last_trial_);
      const std::uint64_t id = emission.action->id;
      Store(live, std::move(emission));
      Send(peer, Reply{true, fmt::format("trial {}: sent to job {}; see: attune explain {}", id,
                                         adjust.job, id)});
    } catch (const std::invalid_argument& error) {
      Send(peer, Reply{false, error.what()});
    }
    return;
  }
  Send(peer, Reply{false, fmt::format("job {} is not running; see: attune status", adjust.job)});
}

void Daemon::Loop::Take(const std::string& peer, const UsePolicy& use) {
  if (!Chain::Knows(use.name)) {
    Send(peer,
         Reply{false, fmt::format("there is no policy '{}'; see: attune policy list", use.name)});
    return;
  }
  if (use.job) {
    for (auto& [key, live] : jobs_) {
      if (live.tracker.Id() != *use.job) continue;
      live.tracker.Use(use.name);
      chosen_[*use.job] = use.name;  // also where it falls silent and comes back
      spdlog::info("policy {} decides about job {} from now on", use.name, *use.job);
      Send(peer, Reply{true, fmt::format("policy {} decides about job {} until attuned stops",
                                         use.name, *use.job)});
      return;
    }
    Send(peer, Reply{false, fmt::format("job {} is not running; see: attune status", *use.job)});
    return;
  }
  chain_.Use(use.name);
  spdlog::info("policy {} decides from now on", use.name);
  Send(peer,
       Reply{true,
             fmt::format("policy {} decides until attuned stops or reads its configuration anew",
                         use.name)});
}

void Daemon::Loop::Take(const std::string& peer, const Serve& serve) {
  if (const auto fault = FindNameFault(serve.name)) {
    throw std::invalid_argument("serve: the name " + *fault);
  }
  if (!questions_.Served() || questions_.Peer() != peer) {
    spdlog::info("policy server '{}' decides for jobs whose policy is external", serve.name);
  }
  questions_.Serve(peer, serve.name);
  chain_.SetServed(true);
  Send(peer, Serving{options_.heartbeat});
}

void Daemon::Loop::Take(const std::string& peer, const Answer& answer) {
  const auto key = questions_.Answer(peer, answer.id);
  chain_.SetServed(questions_.Served());
  const auto job = key ? jobs_.find(*key) : jobs_.end();
  if (job == jobs_.end() || !job->second.tracker.IsOpen(answer.id)) {
    ++late_answers_;
    spdlog::debug("an answer to question {} came too late", answer.id);
    return;
  }
  Live& live = job->second;
  const auto fault = live.tracker.FaultOf(answer);
  Verdict verdict =
      Decision{answer.action, answer.why, answer.log_probability, answer.policy_version};
  if (answer.Declines()) verdict = Decline{answer.why};
  if (fault) verdict = Decline{"its answer cannot be used: " + *fault};
  Store(live, live.tracker.Conclude(answer.id, verdict, chain_));
  if (fault) throw std::invalid_argument(fmt::format("answer to {}: {}", answer.id, *fault));
}

void Daemon::Loop::CloseOverdue() {
  for (const auto& [id, key] : questions_.TakeOverdue(SteadyClock::now())) {
    chain_.SetServed(questions_.Served());
    const auto job = jobs_.find(key);
    if (job == jobs_.end()) continue;
    Store(job->second, job->second.tracker.Conclude(id, Decline{"no answer in time"}, chain_));
  }
}

void Daemon::Loop::LoseSilent() {
  const auto now = SteadyClock::now();
  if (now < may_be_silent_) return;
  may_be_silent_ = SteadyClock::time_point::max();
  std::vector<std::string> lost;  // their keys
  for (auto job = jobs_.begin(); job != jobs_.end();) {
    Live& live = job->second;
    if (now - live.heard < Silence()) {
      may_be_silent_ = std::min(may_be_silent_, live.heard + Silence());
      ++job;
      continue;
    }
    // Nothing of a lost job is kept in memory: if it comes back it says hello and goes on from what
    // the store has, which is why that must be on disk by then.
    if (lost.empty() && !IsStored()) {
      may_be_silent_ = now + kRetryInterval;
      return;
    }
    lost.push_back(job->first);
    spdlog::warn("job {} has been silent for {} s and counts as lost", live.tracker.Id(),
                 options_.silence);
    Store(live, live.tracker.Lose(UnixTime()));
    key_of_peer_.erase(live.peer);
    job = jobs_.erase(job);
  }
  if (!lost.empty() && !IsStored()) unstored_.insert(lost.begin(), lost.end());
}

void Daemon::Loop::EndIdle() {
  const auto now = SteadyClock::now();
  // A job that is lost but cannot be written so keeps nobody waiting.
  const auto lives = [&](const auto& job) { return now - job.second.heard < Silence(); };
  if (options_.linger <= 0 || now - asked_ < std::chrono::duration<double>(options_.linger) ||
      std::ranges::any_of(jobs_, lives)) {
    return;
  }
  spdlog::info("nobody has asked for anything for {} s", options_.linger);
  stop_ = true;
}

std::chrono::milliseconds Daemon::Loop::UntilDeadline() const {
  std::optional<SteadyClock::time_point> next = questions_.NextDeadline();
  const auto or_at = [&](SteadyClock::time_point at) { next = next ? std::min(*next, at) : at; };
  if (!jobs_.empty()) {
    or_at(may_be_silent_);
  } else if (options_.linger > 0) {
    or_at(asked_ + std::chrono::duration_cast<SteadyClock::duration>(
                       std::chrono::duration<double>(options_.linger)));
  }
  if (!next) return std::chrono::milliseconds(-1);
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(*next - SteadyClock::now());
  return std::max(left, std::chrono::milliseconds(0));
}

void Daemon::Loop::TakeSnapshot() {
  if (!learner_) return;
  if (auto snapshot = learner_->Take(); snapshot.network) {
    chain_.SetNetwork(std::move(snapshot.network));
    network_version_ = snapshot.version;
    spdlog::info("network version {} is in use", network_version_);
  }
}

void Daemon::Loop::ReloadOptions() {
  try {
    Options fresh = reload_();
    fresh.state_directory = options_.state_directory;  // these stay for as long as the daemon lives
    fresh.runtime_directory = options_.runtime_directory;
    chain_.Use(fresh.policy);
    spdlog::set_level(spdlog::level::from_str(fresh.log_level));
    options_ = fresh;
    may_be_silent_ = SteadyClock::now();  // jobs may have to answer sooner
    spdlog::info(
        "configuration read anew: what is of a job holds for those that begin from now on");
  } catch (const std::exception& error) {
    spdlog::error("configuration left as it was: {}", error.what());
  }
}

std::optional<Baseline> Daemon::Loop::BaselineFor(const JobSpec& spec) const {
  auto recorded = RecordedBaseline(store_, options_, spec.topology);
  if (!recorded && NamesJob(options_.baseline)) {
    spdlog::warn(
        "baseline: job {} is no recorded job of this topology; job '{}' is compared with "
        "the uniform one",
        options_.baseline, spec.name);
  }
  return recorded;
}

void Daemon::Loop::Refuse(const std::string& peer, ErrorCode code, const std::string& text) {
  ++errors_;
  spdlog::warn("refused a message: {}", text);
  Send(peer, Error{code, text});
}

Daemon::Daemon(const Options& options, const Paths& paths,
               const std::function<std::unique_ptr<Learner>(Writer&)>& learner,
               std::function<Options()> reload)
    : loop_(std::make_unique<Loop>(options, paths, learner, std::move(reload))) {}
Daemon::~Daemon() = default;
bool Daemon::Run() { return loop_->Run(); }
void Daemon::Stop() { loop_->Stop(); }
void Daemon::Reload() { loop_->Reload(); }

}  // namespace attune
