// kmeans: the heuristics that decide where the network is not fit to.
//
// The active heads of a job are clustered by k-means++ over what the meter says of them. A cluster
// is named twice by its centre: how sharply its heads attend, and whether they are needed.
//
//   how sharply  its centre                                            its heads' logits
//   saturated    entropy < 0.15, first token holds < 0.5               ÷ 4
//   sharp        the same with entropy < 0.30, largest logit > 30      ÷ 1.5
//   diffuse      entropy > 0.93, first half of the budget, scale ≤ 4   × 1.5
//   uniform      the same with entropy > 0.98                          × 4
//   healthy      anything else                                         keep
//
//   needed       its centre
//   dormant      output norm < 0.2 of its site's mean                  may leave
//   redundant    cosine > 0.9 to the nearest head of its site          may leave
//   needed       anything else                                         stays
//
// Then every site has one rule, the first that holds (at least two heads stay):
//
//   halve   budget in compute: attention takes ≥ 0.25 of a step, and half of the heads may leave
//   halve   budget in compute: attention takes ≥ 0.5 of a step, first 0.3 of the budget
//   halve   budget in steps: attention takes ≥ 0.25 of a step, and three quarters may leave
//   double  second half of the budget, the loss has flattened, the heads are all distinct (cosine
//           < 0.5) and have specialised (mean entropy < 0.8)
//   keep    otherwise
//
// The heads that stay are those of the highest output norm × (1 − redundancy) + share of the site's
// importance: inactive heads show by their output (2504.03889), the gradient decides between
// others. Which heads leave matters less than how many (Budhraja et al. 2020).
#include "env/kmeans.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <span>
#include <string>
#include <vector>

#include "policies/rules.h"

namespace attune {
namespace {

// A saturated softmax has little gradient: it does not get well by itself. A sink is normal.
constexpr float kSaturatedEntropy = 0.15F;
// On the way there: sharp is harmless unless logits this large drive it on.
constexpr float kSharpEntropy = 0.30F;
constexpr float kSharpLogit = 30.0F;
// Sharper attention speeds learning up while a head still attends almost evenly; late in a run the
// gain is within the noise, and a head that stays even at four times the logits wants to.
constexpr float kDiffuseEntropy = 0.93F;
constexpr float kUniformEntropy = 0.98F;
constexpr double kSharpeningEnds = 0.5;
constexpr float kMostSharpened = 4.0F;
// Of heads that are even because their logits hardly differ.
constexpr float kMostWoken = 16.0F;
constexpr float kSleepingLogit = 1.0F;
// Output norms beside the site's mean: heads below this can be ablated almost free of harm.
constexpr float kDormantOutputNorm = 0.2F;
constexpr float kRedundantCosine = 0.9F;
constexpr float kDistinctCosine = 0.5F;
// Below this share of a step's time even half of the heads buys no eighth more steps.
constexpr double kCostlyAttention = 0.25;
// Where attention takes most of the step, heads not needed yet cost most of the budget: starting
// with few beat all heads whatever they attended to.
constexpr double kDominantAttention = 0.5;
constexpr double kEarlyEnds = 0.3;
// Share of a site's heads that may leave before it is halved. With a budget in steps the time saved
// pays little, and what a removal costs is not won back by more steps.
constexpr double kLeavingForCompute = 0.5;
constexpr double kLeavingForSteps = 0.75;
// With one head alone redundancy cannot be measured.
constexpr std::size_t kLeastHeads = 2;
// Heads come back once those that are there have found their work and the loss hardly falls: at
// this pace the rest of the budget would bring less than a tenth of the first loss (the token's
// loss_slope is half of that share).
constexpr double kGrowthBegins = 0.5;
constexpr float kSpecialisedEntropy = 0.8F;
constexpr float kFlatSlope = 0.05F;

constexpr std::size_t kClusters = 4;
constexpr std::size_t kRestarts = 3;
// Features that differ by less than this between heads are as good as equal.
constexpr float kLeastSpread = 0.02F;
// Sites that `why` names; the others are counted.
constexpr std::size_t kNamedSites = 4;

constexpr std::size_t kLossSlope = TokenFeature("loss_slope");

// What is clustered; the names of the metrics that they come from. The norm and the logit are
// compressed for clustering, so that single extremes do not stretch the scale.
constexpr std::array kFeatures = {Metric::kEntropy,        Metric::kOutputNorm,
                                  Metric::kRedundancy,     Metric::kTopWeight,
                                  Metric::kFirstTokenMass, Metric::kLargestLogit};

float Compressed(Metric metric, float value) {
  if (metric == Metric::kOutputNorm) return std::log(value + 0.01F);
  if (metric == Metric::kLargestLogit) return std::tanh(value / 20);
  return value;
}

// A cluster's centre, in the units of the metrics.
struct Center {
  std::array<float, kMetrics> sum = {};
  std::size_t heads = 0;

  [[nodiscard]] float At(Metric metric) const {
    return sum[static_cast<std::size_t>(metric)] / static_cast<float>(heads);
  }
};

enum class Sharpness { kSaturated, kSharp, kHealthy, kDiffuse, kUniform };
enum class Need { kNeeded, kDormant, kRedundant };

struct ScaleRule {
  Sharpness sharpness;
  std::string_view name;
  std::uint8_t choice;
};
constexpr std::array kScaleRules = {
    ScaleRule{Sharpness::kSaturated, "saturated", 0}, ScaleRule{Sharpness::kSharp, "sharp", 1},
    ScaleRule{Sharpness::kDiffuse, "diffuse", 3}, ScaleRule{Sharpness::kUniform, "uniform", 4}};

Sharpness SharpnessOf(const Center& center) {
  const float entropy = center.At(Metric::kEntropy);
  const bool sink = center.At(Metric::kFirstTokenMass) >= kSinkFirstTokenMass;
  if (entropy < kSaturatedEntropy && !sink) return Sharpness::kSaturated;
  if (entropy < kSharpEntropy && !sink && center.At(Metric::kLargestLogit) > kSharpLogit) {
    return Sharpness::kSharp;
  }
  if (entropy > kUniformEntropy) return Sharpness::kUniform;
  if (entropy > kDiffuseEntropy) return Sharpness::kDiffuse;
  return Sharpness::kHealthy;
}

Need NeedOf(const Center& center) {
  if (center.At(Metric::kOutputNorm) < kDormantOutputNorm) return Need::kDormant;
  if (center.At(Metric::kRedundancy) > kRedundantCosine) return Need::kRedundant;
  return Need::kNeeded;
}

// The heads' features in units of their spread, [heads × features], so that none outweighs others.
std::vector<float> Standardised(const WindowReading& reading, std::span<const std::size_t> heads) {
  std::vector<float> points(heads.size() * kFeatures.size());
  const auto n = static_cast<float>(heads.size());
  for (std::size_t f = 0; f < kFeatures.size(); ++f) {
    float mean = 0;
    float square = 0;
    const auto value = [&](std::size_t head) {
      return Compressed(kFeatures[f], reading.At(head, kFeatures[f]));
    };
    for (const std::size_t head : heads) mean += value(head) / n;
    for (const std::size_t head : heads) square += (value(head) - mean) * (value(head) - mean) / n;
    const float spread = std::max(std::sqrt(square), kLeastSpread);
    for (std::size_t i = 0; i < heads.size(); ++i) {
      points[i * kFeatures.size() + f] = (value(heads[i]) - mean) / spread;
    }
  }
  return points;
}

std::uint8_t ScaleChoice(const ScaleRule& rule, std::size_t head, const Situation& situation) {
  const float most = rule.sharpness == Sharpness::kUniform &&
                             situation.now.At(head, Metric::kLargestLogit) < kSleepingLogit
                         ? kMostWoken
                         : kMostSharpened;
  if (rule.choice > kKeepScale &&
      (situation.progress >= kSharpeningEnds ||
       situation.setting.scale[head] * kScaleFactors[rule.choice] > most)) {
    return kKeepScale;
  }
  return situation.mask.scale[head][rule.choice] != 0 ? rule.choice : kKeepScale;
}

// One site: what its active heads are like.
struct SiteView {
  std::size_t heads = 0;     // of the site
  std::size_t active = 0;    // of these
  std::size_t measured = 0;  // of the active ones, in this window
  std::size_t dormant = 0;
  std::size_t redundant = 0;
  float redundancy = 0;          // mean of the redundant heads
  float largest_redundancy = 0;  // of all
  float entropy = 0;             // mean
};

struct CountRule {
  CountChange change = CountChange::kKeep;
  std::string why;
};

// What is said of the heads that may leave: "6 of 8 heads redundant (0.97)".
std::string DescribeLeaving(const SiteView& site) {
  std::string text;
  if (site.redundant > 0) {
    text = fmt::format("{} of {} heads redundant ({:.2f})", site.redundant, site.active,
                       site.redundancy);
  }
  if (site.dormant > 0) {
    text += fmt::format("{}{} of {} heads dormant", text.empty() ? "" : ", ", site.dormant,
                        site.active);
  }
  return text;
}

CountRule CountRuleOf(const SiteView& site, const Situation& situation) {
  if (site.measured < site.active) return {};  // heads that have just come in are not known yet
  const bool in_compute = situation.job.budget.kind == BudgetKind::kCompute;
  const double attention = situation.now.attention_share;
  const auto costs = fmt::format("attention takes {:.0f} % of a step", 100 * attention);
  if (ChangedCount(site.active, CountChange::kHalve, site.heads) >= kLeastHeads) {
    const double leaving =
        static_cast<double>(site.dormant + site.redundant) / static_cast<double>(site.active);
    if (attention >= kCostlyAttention &&
        leaving >= (in_compute ? kLeavingForCompute : kLeavingForSteps)) {
      return {CountChange::kHalve, DescribeLeaving(site) + ", " + costs};
    }
    if (in_compute && attention >= kDominantAttention && situation.progress < kEarlyEnds) {
      return {CountChange::kHalve, costs + " early in the budget"};
    }
  }
  // A run that went back to a checkpoint has no slope yet.
  const bool is_known =
      situation.before != nullptr && situation.before->last_step <= situation.now.last_step;
  const bool flat = is_known && situation.state.tokens[kLossSlope] < kFlatSlope;
  if (situation.progress >= kGrowthBegins && flat && site.largest_redundancy < kDistinctCosine &&
      site.entropy < kSpecialisedEntropy) {
    return {CountChange::kDouble, "its heads are distinct and the loss has flattened"};
  }
  return {};
}

class KMeansPolicy : public Policy {
 public:
  [[nodiscard]] std::string_view Name() const override { return "kmeans"; }

  [[nodiscard]] Verdict Decide(const Situation& situation, std::mt19937_64& /*random*/) override {
    const WindowReading& now = situation.now;
    const std::vector<Site>& sites = situation.job.topology.sites;
    const std::size_t total = situation.state.Heads();
    std::vector<std::size_t> heads;  // those measured
    for (std::size_t head = 0; head < total; ++head) {
      if (now.active[head] != 0 && situation.setting.active[head] != 0) heads.push_back(head);
    }
    if (heads.empty()) return Decline{"no active head was measured in this window"};

    const Clusters clusters = KMeans(Standardised(now, heads), kFeatures.size(), kClusters,
                                     kRestarts, situation.job.seed + situation.window);
    std::vector<Center> centers(clusters.count);
    for (std::size_t i = 0; i < heads.size(); ++i) {
      Center& center = centers[clusters.assignment[i]];
      for (std::size_t m = 0; m < kMetrics; ++m) {
        center.sum[m] += now.metrics[heads[i] * kMetrics + m];
      }
      ++center.heads;
    }

    Decision decision;
    decision.action = Action::Keep(total, sites.size());
    for (const ScaleRule& rule : kScaleRules) {
      std::size_t changed = 0;
      for (std::size_t i = 0; i < heads.size(); ++i) {
        if (SharpnessOf(centers[clusters.assignment[i]]) != rule.sharpness) continue;
        const std::uint8_t choice = ScaleChoice(rule, heads[i], situation);
        decision.action.scale[heads[i]] = choice;
        changed += choice != kKeepScale ? 1 : 0;
      }
      if (changed > 0) {
        Say(decision.why, fmt::format("{} heads {}: logits × {:.2f}", changed, rule.name,
                                      kScaleFactors[rule.choice]));
      }
    }

    std::vector<Need> need(total, Need::kNeeded);
    for (std::size_t i = 0; i < heads.size(); ++i) {
      need[heads[i]] = NeedOf(centers[clusters.assignment[i]]);
    }
    std::size_t changed = 0;
    for (std::size_t s = 0; s < sites.size(); ++s) {
      const SiteView site = Look(s, need, situation, decision.action.score);
      const CountRule rule = CountRuleOf(site, situation);
      if (situation.mask.count[s][static_cast<std::size_t>(rule.change)] == 0 ||
          rule.change == CountChange::kKeep) {
        continue;
      }
      decision.action.count[s] = rule.change;
      if (++changed <= kNamedSites) {
        Say(decision.why,
            fmt::format("{} {}→{}: {}", sites[s].name, site.active,
                        ChangedCount(site.active, rule.change, site.heads), rule.why));
      }
    }
    if (changed > kNamedSites) {
      Say(decision.why, fmt::format("{} more sites", changed - kNamedSites));
    }
    if (decision.why.empty()) {
      decision.why =
          fmt::format("nothing to do for {} heads in {} clusters", heads.size(), clusters.count);
    }
    return decision;
  }

 private:
  static void Say(std::string& why, const std::string& part) {
    why += (why.empty() ? "" : "; ") + part;
  }

  // Sums site `s` up, and scores its heads.
  static SiteView Look(std::size_t s, std::span<const Need> need, const Situation& situation,
                       std::vector<float>& score) {
    const WindowReading& now = situation.now;
    const std::size_t begin = situation.state.site_offsets[s];
    const std::size_t end = situation.state.site_offsets[s + 1];
    SiteView site;
    site.heads = end - begin;
    float importance = 0;
    for (std::size_t head = begin; head < end; ++head) {
      if (situation.setting.active[head] == 0) continue;
      const float redundancy = now.At(head, Metric::kRedundancy);
      ++site.active;
      site.measured += now.active[head] != 0 ? 1 : 0;
      site.dormant += need[head] == Need::kDormant ? 1 : 0;
      if (need[head] == Need::kRedundant) {
        ++site.redundant;
        site.redundancy += redundancy;
      }
      site.largest_redundancy = std::max(site.largest_redundancy, redundancy);
      site.entropy += now.At(head, Metric::kEntropy);
      importance += now.At(head, Metric::kImportance);
    }
    site.redundancy /= static_cast<float>(std::max<std::size_t>(site.redundant, 1));
    site.entropy /= static_cast<float>(std::max<std::size_t>(site.active, 1));
    for (std::size_t head = begin; head < end; ++head) {
      const float share = importance > 0 ? now.At(head, Metric::kImportance) / importance : 0;
      score[head] =
          now.At(head, Metric::kOutputNorm) * (1 - now.At(head, Metric::kRedundancy)) + share;
    }
    return site;
  }
};

}  // namespace

std::unique_ptr<Policy> MakeKMeans() { return std::make_unique<KMeansPolicy>(); }

}  // namespace attune
