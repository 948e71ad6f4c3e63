// A LibTorch trainer's side: measures due steps, reports them, applies actions at the safe point.
#include "collectors/attach.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <span>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "env/meter.h"
#include "env/observation.h"
#include "env/topology.h"

namespace attune {
namespace {

// Backward costs attention about twice its forward pass, as it does every other layer.
constexpr double kPassesPerForward = 3;

double ProcessorSeconds() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

std::string FromEnvironment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string RandomKey() {
  std::random_device random;
  std::string key;
  for (int i = 0; i < 4; ++i) {
    char word[9];
    std::snprintf(word, sizeof(word), "%08x", random());
    key += word;
  }
  return key;
}

ProbeOptions Reporting(const AttachOptions& options) {
  const std::string mode = FromEnvironment("ATTUNE_MODE");
  ProbeOptions reporting;
  reporting.step = options.steps;
  if (mode == "off") return reporting;
  if (!mode.empty() && mode != "on" && mode != "offline") {
    throw std::invalid_argument("ATTUNE_MODE is '" + mode + "'; use on, off or offline");
  }
  if (mode == "offline") {
    const std::string directory = FromEnvironment("ATTUNE_DIR");
    reporting.directory = directory.empty() ? "attune" : directory;
    return reporting;
  }
  reporting.endpoint =
      options.endpoint.empty() ? FromEnvironment("ATTUNE_ENDPOINT") : options.endpoint;
  reporting.keys = FromEnvironment("ATTUNE_KEYS");
  return reporting;
}

// ATTUNE_JOB for the first job of a process, with a number for others: a new one has a new number,
// and one that goes on the first that no job of this process has now.
class Key {
 public:
  explicit Key(const AttachOptions& options) : text_(options.key) {
    if (!text_.empty()) return;
    const std::string key = FromEnvironment("ATTUNE_JOB");
    if (key.empty()) {
      text_ = RandomKey();
      return;
    }
    const std::lock_guard lock(numbers_->mutex);
    int& last = numbers_->last[key];
    int number = options.steps > 0 ? 1 : last + 1;
    const auto numbered = [&] { return number > 1 ? key + "." + std::to_string(number) : key; };
    while (numbers_->held.contains(numbered())) ++number;
    last = std::max(last, number);
    text_ = numbered();
    held_ = numbers_->held.insert(text_).second;
  }
  ~Key() { LetGo(); }
  Key(const Key&) = delete;
  Key& operator=(const Key&) = delete;

  [[nodiscard]] const std::string& Text() const { return text_; }
  // Its job is over: one that goes on may have it.
  void LetGo() {
    if (!std::exchange(held_, false) || getpid() != process_) return;
    const std::lock_guard lock(numbers_->mutex);
    numbers_->held.erase(text_);
  }

 private:
  struct Numbers {
    std::mutex mutex;
    std::map<std::string, int> last;
    std::set<std::string> held;
  };
  static std::shared_ptr<Numbers> OfProcess() {
    static const auto numbers = std::make_shared<Numbers>();
    return numbers;
  }

  std::shared_ptr<Numbers> numbers_ = OfProcess();  // handles may live longer than what is static
  pid_t process_ = getpid();
  std::string text_;
  bool held_ = false;
};

// The model's sites, and what they look like as a job.
struct SiteSet {
  std::vector<std::shared_ptr<TunableAttentionImpl>> modules;
  Topology topology;
  Setting setting;  // in force
  Setting held;     // the same as the modules hold it: a half-precision model rounds it

  void Add(std::string name, std::shared_ptr<TunableAttentionImpl> site) {
    if (std::find(modules.begin(), modules.end(), site) != modules.end()) return;
    topology.sites.push_back(site->Describe(std::move(name)));
    modules.push_back(std::move(site));
  }

  // Whether the modules hold another setting than they did; that is the one in force then.
  bool Follow() {
    Setting now;
    for (const auto& site : modules) {
      const Setting part = site->Current();
      now.scale.insert(now.scale.end(), part.scale.begin(), part.scale.end());
      now.gain.insert(now.gain.end(), part.gain.begin(), part.gain.end());
      now.active.insert(now.active.end(), part.active.begin(), part.active.end());
    }
    if (now == held) return false;
    setting = held = std::move(now);
    return true;
  }

  void Apply(const Setting& to) {
    std::size_t first = 0;
    for (std::size_t site = 0; site < modules.size(); ++site) {
      const std::size_t heads = topology.sites[site].heads;
      modules[site]->Apply(std::span(to.scale).subspan(first, heads),
                           std::span(to.gain).subspan(first, heads),
                           std::span(to.active).subspan(first, heads));
      first += heads;
    }
    Follow();
    setting = to;
  }
};

SiteSet FindSites(torch::nn::Module& model) {
  SiteSet sites;
  if (auto* self = dynamic_cast<TunableAttentionImpl*>(&model)) {
    sites.Add("attention",
              std::dynamic_pointer_cast<TunableAttentionImpl>(self->shared_from_this()));
  }
  for (const auto& item : model.named_modules("", false)) {
    if (auto site = std::dynamic_pointer_cast<TunableAttentionImpl>(item.value())) {
      sites.Add(item.key(), std::move(site));
    }
  }
  if (sites.modules.empty()) {
    throw std::invalid_argument("the model has no TunableAttention: nothing for attune to tune");
  }
  sites.Follow();
  return sites;
}

// Of each head what was measured when it was last active; of one that never was, what gives no
// reason to act.
struct LastMeasured {
  explicit LastMeasured(std::size_t heads) {
    WindowReading nothing = Unmeasured(std::vector<std::uint8_t>(heads, 1));
    metrics = std::move(nothing.metrics);
    profile = std::move(nothing.profile);
  }

  // `part`: of a site whose heads begin at `first` of the job's. Returns whether all numbers were
  // finite; of a head with others it keeps those before, all of them or its importance alone.
  bool Take(const SiteMeasurement& part, std::size_t first) {
    bool finite = true;
    for (std::size_t head = 0; head < part.active.size(); ++head) {
      if (part.active[head] == 0) continue;
      const auto of_metrics = std::span(part.metrics).subspan(head * kMetrics, kMetrics);
      const auto of_profile = std::span(part.profile).subspan(head * kProfileBins, kProfileBins);
      const auto own = std::span(metrics).subspan((first + head) * kMetrics, kMetrics);
      constexpr auto kImportance = static_cast<std::size_t>(Metric::kImportance);
      std::array<float, kMetrics> taken{};
      std::ranges::copy(of_metrics, taken.begin());
      // Half precision overflows there first; the rest of what such a head measured is sound.
      if (!std::isfinite(taken[kImportance])) {
        finite = false;
        taken[kImportance] = own[kImportance];
      }
      const auto is_finite = [](float value) { return std::isfinite(value); };
      if (!std::ranges::all_of(taken, is_finite) || !std::ranges::all_of(of_profile, is_finite)) {
        finite = false;
        continue;
      }
      std::ranges::copy(taken, own.begin());
      std::ranges::copy(of_profile,
                        std::span(profile).subspan((first + head) * kProfileBins).begin());
    }
    return finite;
  }

  std::vector<float> metrics;  // [heads × kMetrics]
  std::vector<float> profile;  // [heads × kProfileBins]
};

// With a clock. Throws std::invalid_argument.
AttachOptions Checked(AttachOptions options) {
  if (!(options.compute_seconds >= 0) || std::isinf(options.compute_seconds)) {
    throw std::invalid_argument("compute_seconds of a run that goes on must be at least 0");
  }
  if (!options.clock) options.clock = ProcessorSeconds;
  return options;
}

}  // namespace

struct Handle::Impl {
  Impl(SiteSet found, const AttachOptions& attach_options)
      : options(Checked(attach_options)),
        sites(std::move(found)),
        key(options),
        probe(Reporting(options),
              {.key = key.Text(),
               .name = options.name,
               .topology = sites.topology,
               .budget = options.budget,
               .seed = options.seed,
               .learning_rate = options.learning_rate,
               .policy = FromEnvironment("ATTUNE_POLICY"),
               .optimizer = options.optimizer,
               .fresh = options.fresh && attach_options.steps == 0},
              sites.setting),
        step(attach_options.steps),
        compute_seconds(attach_options.compute_seconds),
        last(sites.topology.Heads()) {
    if (!options.fresh || step > 0) return;
    while (const auto action = probe.Opening()) Take(*action);
  }
  // Where nobody has said how the job ended, it has failed.
  ~Impl() { probe.Finish(Outcome::kFailed, step, compute_seconds, std::nullopt); }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  // What the sites measured in a step that took so many processor seconds. A site that was not run
  // keeps the measurement before.
  Observation Collect(double step_seconds) {
    double forward_seconds = 0;
    std::size_t first = 0;
    for (std::size_t site = 0; site < sites.modules.size(); ++site) {
      const auto part = sites.modules[site]->TakeMeasurement();
      if (part) {
        if (!last.Take(*part, first)) {
          Warn("site " + sites.topology.sites[site].name +
               " measured values that are no finite numbers; its heads keep the measurement "
               "before");
        }
        forward_seconds += part->forward_seconds;
      } else {
        Warn("site " + sites.topology.sites[site].name +
             " did not measure: it was not run in training mode with two keys to attend to, or its "
             "device had no room for it; its heads keep the measurement before");
      }
      first += sites.topology.sites[site].heads;
    }
    Observation observation;
    observation.active = sites.setting.active;
    observation.metrics = OfActive(last.metrics, kMetrics);
    observation.profile = OfActive(last.profile, kProfileBins);
    if (step_seconds > 0) {
      observation.attention_share =
          static_cast<float>(std::min(1.0, kPassesPerForward * forward_seconds / step_seconds));
    }
    return observation;
  }

  // The values of all heads, 0 where a head is not active.
  [[nodiscard]] std::vector<float> OfActive(std::vector<float> values, std::size_t of_head) const {
    for (std::size_t head = 0; head < sites.setting.active.size(); ++head) {
      if (sites.setting.active[head] != 0) continue;
      std::fill_n(values.begin() + static_cast<std::ptrdiff_t>(head * of_head), of_head, 0.0F);
    }
    return values;
  }

  // Applies the action whole or not at all, and says which.
  bool Take(const ActionRequest& action) {
    auto fault = FindFault(action.setting, sites.topology);
    if (!fault) {
      const Setting before = sites.setting;
      try {
        sites.Apply(action.setting);
      } catch (const std::exception& error) {
        fault = error.what();
        sites.Apply(before);
      }
    }
    if (fault) {
      probe.Rejected(action, step, *fault);
      return false;
    }
    probe.Applied(action, step);
    return true;
  }

  // To stderr, once each: lines that differ only in numbers count as one.
  void Warn(const std::string& text) {
    std::string kind = text;
    std::erase_if(kind, [](unsigned char c) { return std::isdigit(c) != 0; });
    if (warned.insert(std::move(kind)).second) std::cerr << "attune: " << text << std::endl;
  }

  AttachOptions options;
  SiteSet sites;
  Key key;
  Probe probe;

  std::uint64_t step;
  double compute_seconds;
  struct Start {
    double clock;
    double processor;  // seconds
  };
  std::optional<Start> started;  // at StartStep
  LastMeasured last;
  bool measuring = false;
  double loss_sum = 0;  // since the last observation
  std::uint64_t loss_count = 0;
  std::set<std::string> warned;
};

Handle::Handle(torch::nn::Module& model, const AttachOptions& options)
    : impl_(std::make_unique<Impl>(FindSites(model), options)) {}
Handle::~Handle() = default;
Handle::Handle(Handle&&) noexcept = default;
Handle& Handle::operator=(Handle&&) noexcept = default;

void Handle::StartStep() {
  Impl& my = *impl_;
  my.started = {my.options.clock(), ProcessorSeconds()};
  my.measuring = my.probe.Due(my.step + 1);
  if (!my.measuring) return;
  for (const auto& site : my.sites.modules) {
    site->MeasureNext(my.options.sampled_rows, my.options.sampled_sequences);
  }
}

bool Handle::Step(double loss) {
  Impl& my = *impl_;
  if (!my.started) throw std::logic_error("Handle::Step without StartStep before the forward pass");
  ++my.step;
  if (my.sites.Follow()) my.probe.Resettle(my.sites.setting);
  my.loss_sum += loss;
  ++my.loss_count;
  if (std::exchange(my.measuring, false)) {
    Observation observation = my.Collect(ProcessorSeconds() - my.started->processor);
    observation.step = my.step;
    observation.compute_seconds = my.compute_seconds + my.options.clock() - my.started->clock;
    observation.loss = my.loss_sum / static_cast<double>(my.loss_count);
    my.loss_sum = 0;
    my.loss_count = 0;
    my.probe.Observe(std::move(observation));
  }
  bool changed = false;
  if (const auto action = my.probe.Poll(my.step)) changed = my.Take(*action);
  if (const auto error = my.probe.TakeError()) my.Warn(*error);
  my.compute_seconds += my.options.clock() - std::exchange(my.started, std::nullopt)->clock;
  return changed;
}

std::uint64_t Handle::Steps() const { return impl_->step; }
double Handle::ComputeSeconds() const { return impl_->compute_seconds; }

void Handle::Finish(std::optional<double> validation_loss, Outcome outcome) {
  impl_->probe.Finish(outcome, impl_->step, impl_->compute_seconds, validation_loss);
  impl_->key.LetGo();
  if (const auto error = impl_->probe.TakeError()) impl_->Warn(*error);
}

const Topology& Handle::Sites() const { return impl_->sites.topology; }
const Setting& Handle::Current() const { return impl_->sites.setting; }

Handle Attach(torch::nn::Module& model, const AttachOptions& options) { return {model, options}; }

}  // namespace attune
