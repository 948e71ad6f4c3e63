// The tokens of a state: see kTokenFeatureNames for their order.
#include "env/state.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <stdexcept>
#include <string>

namespace attune {
namespace {

constexpr float kLargestFeature = 4;

float Bounded(double value) {
  if (std::isnan(value)) return 0;
  return static_cast<float>(std::clamp(value, -double{kLargestFeature}, double{kLargestFeature}));
}

double LogFeature(double x) { return std::log(x + 0.01) / 2; }

double SecondsPerStep(const WindowReading& window) {
  if (window.last_step < window.first_step) return 0;
  const auto steps = static_cast<double>(window.last_step - window.first_step + 1);
  return (window.end_compute - window.start_compute) / steps;
}

// log2 of what a step costs now against the first window; 0 where either took no time.
double StepCost(const WindowReading& now, const WindowReading& first) {
  const double now_seconds = SecondsPerStep(now);
  const double first_seconds = SecondsPerStep(first);
  return now_seconds > 0 && first_seconds > 0 ? std::log2(now_seconds / first_seconds) : 0;
}

// The last ten features: they are of the job.
constexpr std::size_t kJobFeatures = 10;
std::array<double, kJobFeatures> JobFeatures(const JobSpec& spec, const WindowReading& now,
                                             const WindowReading* before,
                                             const WindowReading& first) {
  // A first loss of 0 leaves no measure for what follows; losses are then taken as they are.
  const double unit = first.loss > 0 ? first.loss : 1;
  const double drop = before != nullptr ? before->loss - now.loss : 0;
  const double progress = Progress(spec.budget, now.last_step, now.end_compute);
  const double passed =
      before != nullptr ? progress - Progress(spec.budget, before->last_step, before->end_compute)
                        : 0;
  double steps = progress > 0 ? static_cast<double>(now.last_step) / progress : 0;
  if (spec.budget.kind == BudgetKind::kSteps) steps = spec.budget.amount;
  return {progress,
          now.loss / unit,
          passed > 0 ? drop / unit / passed / 2 : 0,
          now.attention_share,
          StepCost(now, first),
          spec.learning_rate > 0 ? std::log10(spec.learning_rate) / 4 : 0,
          spec.budget.kind == BudgetKind::kCompute ? 1.0 : 0.0,
          steps > 0 ? std::log10(steps) / 4 : 0,
          first.loss > 0 ? std::log(first.loss) / 2 : 0,
          IsSgd(spec.optimizer) ? 1.0 : 0.0};
}

// Mean importance of the site's active heads.
double MeanImportance(const WindowReading& reading, std::size_t begin, std::size_t end) {
  double sum = 0;
  std::size_t count = 0;
  for (std::size_t head = begin; head < end; ++head) {
    if (reading.active[head] == 0) continue;
    sum += reading.At(head, Metric::kImportance);
    ++count;
  }
  return count > 0 ? sum / static_cast<double>(count) : 0;
}

void RequireHeads(std::size_t size, std::size_t heads, const char* what) {
  if (size != heads) {
    throw std::invalid_argument(std::string("state: ") + what + " has " + std::to_string(size) +
                                " heads, the topology " + std::to_string(heads));
  }
}

}  // namespace

std::vector<std::uint8_t> State::Active() const {
  constexpr std::size_t kActive = TokenFeature("active");
  std::vector<std::uint8_t> active(tokens.size() / kTokenFeatures);
  for (std::size_t head = 0; head < active.size(); ++head) active[head] = At(head, kActive) > 0.5F;
  return active;
}

State MakeState(const JobSpec& spec, const Setting& setting, const WindowReading& now,
                const WindowReading* before, const WindowReading& first) {
  const std::vector<Site>& sites = spec.topology.sites;
  State state;
  state.site_offsets = spec.topology.SiteOffsets();
  const std::size_t heads = state.Heads();
  RequireHeads(setting.active.size(), heads, "the setting");
  RequireHeads(now.active.size(), heads, "the window");
  if (before != nullptr) RequireHeads(before->active.size(), heads, "the window before");

  const auto job = JobFeatures(spec, now, before, first);
  state.tokens.reserve(heads * kTokenFeatures);
  for (std::size_t s = 0; s < sites.size(); ++s) {
    const Site& site = sites[s];
    const std::size_t begin = state.site_offsets[s];
    const std::size_t end = state.site_offsets[s + 1];
    const double mean_importance = MeanImportance(now, begin, end);
    const double size = std::log2(site.heads) / 4;
    const double context = std::log2(site.context) / 12;
    const double width = std::log2(site.head_width) / 8;
    const auto active =
        static_cast<double>(CountActive(std::span(setting.active).subspan(begin, end - begin)));
    for (std::size_t head = begin; head < end; ++head) {
      const auto metric = [&](Metric m) -> double { return now.At(head, m); };
      // A change needs both ends: heads that were switched on or off have none.
      const bool changes = before != nullptr && before->active[head] != 0 && now.active[head] != 0;
      const auto was = [&](Metric m) -> double {
        return changes ? before->At(head, m) : now.At(head, m);
      };
      // Where all heads of a site have no importance, each has the mean of it.
      const double share = mean_importance > 0 ? metric(Metric::kImportance) / mean_importance
                                               : (now.active[head] != 0 ? 1.0 : 0.0);
      const std::array<double, kTokenFeatures - kJobFeatures> own = {
          metric(Metric::kEntropy),
          std::tanh(metric(Metric::kLargestLogit) / 20),
          metric(Metric::kTopWeight),
          metric(Metric::kFirstTokenMass),
          LogFeature(metric(Metric::kOutputNorm)),
          LogFeature(share),
          metric(Metric::kRedundancy),
          now.divergence[head] / std::log(2.0),
          metric(Metric::kEntropy) - was(Metric::kEntropy),
          LogFeature(metric(Metric::kOutputNorm)) - LogFeature(was(Metric::kOutputNorm)),
          metric(Metric::kRedundancy) - was(Metric::kRedundancy),
          setting.active[head] != 0 ? 1.0 : 0.0,
          std::log(setting.scale[head]) / std::log(16.0),
          active / static_cast<double>(site.heads),
          size,
          sites.size() > 1 ? static_cast<double>(s) / static_cast<double>(sites.size() - 1) : 0.0,
          context,
          width,
          site.kind == SiteKind::kCross ? 1.0 : 0.0};
      for (const double feature : own) state.tokens.push_back(Bounded(feature));
      for (const double feature : job) state.tokens.push_back(Bounded(feature));
    }
  }
  return state;
}

}  // namespace attune
