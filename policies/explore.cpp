// explore: a plan drawn for each job and held to its end, for a network to learn from.
//
// What a policy does pays over many windows, and drawing every window anew hardly ever comes upon a
// plan that holds. So what is drawn here is the plan: how many heads a site is brought to, whether,
// when and how fast it grows again, whether all logits are made larger at once or scales are tuned,
// and whether heads that were born sharp are cooled at once. Where the rate may be too high some
// plans begin before the first step, and some of those with logits a quarter as large, as logits
// run away at such rates. Heads are chosen, and sick ones treated, as kmeans does; before the first
// step all are alike.
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

constexpr std::array kShares = {1.0, 0.5, 0.25, 0.125, 0.0};  // of a site's heads; at least one
constexpr std::array kGrowthBegins = {0.1, 0.25, 0.5, 0.7};   // of the budget
constexpr std::array kGrowthPaces = {0.0, 0.1, 0.25};  // of the budget from doubling to doubling
constexpr double kGrowing = 0.2;                       // of the other plans
// Plans that begin before the first step gain nothing over those that wait for what is measured
// where the rate is lower, nor under SGD (policies/network.md, network_history.md).
constexpr double kHighRate = 0.015;
// One head, doubled by quarters of the budget: what a trainer may do by itself (--grow), and from
// the first step on a cure for too high a learning rate (policies/network.md).
constexpr double kByQuarters = 0.35;  // of the plans that may begin before the first step
constexpr double kOpening = 0.5;      // of the others of these
constexpr double kCold = 0.5;         // of those that begin before the first step
// All logits × 4, from the first window on.
constexpr double kSharp = 0.3;    // of the plans that may not
constexpr double kScaling = 0.5;  // of the plans that are neither cold nor sharp
constexpr double kCooling = 0.6;  // of those
// Where scales are tuned. Beyond it heads that nothing ails were sharpened before anybody knew how
// the loss falls: it cost jobs as much as it gained.
constexpr float kSharpest = 1;
// Early in a run heads attend almost evenly. One that does not by then was born too sharp, and the
// sooner it is cooled the better.
constexpr double kCoolingEnds = 0.15;
constexpr std::uint8_t kSmallest = 0;  // of kScaleFactors
constexpr std::uint8_t kLargest = kScaleChoices - 1;
constexpr float kBornSharpEntropy = 0.6F;

struct Plan {
  bool opening = false;      // begins before the first step
  bool cold = false;         // with logits a quarter as large, also of heads that come in later
  bool sharp = false;        // with logits four times as large, these too
  double share = 1;          // of a site's heads
  double growth_begins = 2;  // of the budget; above 1: never
  double growth_pace = 0;    // of the budget from doubling to doubling; 0: at once
  double grown_share = 1;
  bool scaling = false;
  bool cooling = false;

  // Of a site with so many heads.
  [[nodiscard]] double ShareAt(double progress, std::size_t heads) const {
    if (progress < growth_begins) return share;
    if (growth_pace == 0) return std::max(grown_share, share);
    const double doublings = 1 + std::floor((progress - growth_begins) / growth_pace);
    const double first = std::max(share, 1 / static_cast<double>(heads));
    return std::max(share, std::min(grown_share, first * std::exp2(doublings)));
  }
};

Plan PlanOf(const JobSpec& job) {
  // By the key alone: the policy holds no state, and no two runs have the same key.
  std::seed_seq seed(job.key.begin(), job.key.end());
  std::mt19937_64 random(seed);
  const auto pick = [&](const auto& values) {
    return values[std::uniform_int_distribution<std::size_t>(0, values.size() - 1)(random)];
  };
  const auto chance = [&](double share) {
    return std::uniform_real_distribution<double>(0, 1)(random) < share;
  };
  Plan plan;
  const bool in_steps = job.budget.kind == BudgetKind::kSteps;
  const bool may_open = job.learning_rate >= kHighRate && !IsSgd(job.optimizer);
  plan.share = pick(kShares);
  if (may_open && chance(kByQuarters)) {
    plan = {
        .opening = true, .share = 0, .growth_begins = 0.25, .growth_pace = 0.25, .grown_share = 1};
  } else {
    plan.opening = may_open && chance(kOpening);
    if (chance(kGrowing)) {
      plan.growth_begins = pick(kGrowthBegins);
      plan.growth_pace = pick(kGrowthPaces);
      // What more steps cannot win back, more heads must.
      plan.grown_share = in_steps ? 1 : std::max(pick(kShares), plan.share);
    }
  }
  plan.cold = plan.opening && chance(kCold);
  plan.sharp = !may_open && chance(kSharp);
  // With all heads and their scales it would be no plan.
  plan.scaling = !plan.cold && !plan.sharp && (chance(kScaling) || plan.share == 1);
  plan.cooling = plan.scaling && chance(kCooling);
  return plan;
}

// The largest change towards `wanted` that does not go beyond it.
CountChange Towards(std::size_t wanted, std::size_t active, std::size_t heads) {
  if (active > wanted) {
    return ChangedCount(active, CountChange::kHalve, heads) >= wanted ? CountChange::kHalve
                                                                      : CountChange::kMinusOne;
  }
  if (active < wanted) {
    return ChangedCount(active, CountChange::kDouble, heads) <= wanted ? CountChange::kDouble
                                                                       : CountChange::kPlusOne;
  }
  return CountChange::kKeep;
}

bool BornSharp(const Situation& situation, std::size_t head) {
  const WindowReading& now = situation.now;
  return situation.progress < kCoolingEnds && now.active[head] != 0 &&
         situation.setting.active[head] != 0 &&
         now.At(head, Metric::kEntropy) < kBornSharpEntropy &&
         now.At(head, Metric::kFirstTokenMass) < kSinkFirstTokenMass;
}

// Brings each site's heads nearer to the plan's.
void Count(const Plan& plan, const Situation& situation, Action& action) {
  const auto& offsets = situation.state.site_offsets;
  for (std::size_t site = 0; site < situation.state.Sites(); ++site) {
    const std::size_t heads = offsets[site + 1] - offsets[site];
    const double share = plan.ShareAt(situation.progress, heads);
    const auto wanted =
        static_cast<std::size_t>(std::max(1.0, std::round(share * static_cast<double>(heads))));
    const CountChange change = Towards(
        wanted, CountActive(std::span(situation.setting.active).subspan(offsets[site], heads)),
        heads);
    const bool open = situation.mask.count[site][static_cast<std::size_t>(change)] != 0;
    action.count[site] = open ? change : CountChange::kKeep;
  }
}

// Of each head that has its logits as they are, a quarter of them or four times as much.
void ScaleAll(const Situation& situation, std::uint8_t choice, Action& action) {
  for (std::size_t head = 0; head < situation.state.Heads(); ++head) {
    const bool open =
        situation.setting.active[head] != 0 && situation.mask.scale[head][choice] != 0;
    if (open && situation.setting.scale[head] == 1) action.scale[head] = choice;
  }
}

std::string Describe(const Plan& plan) {
  std::string text = fmt::format("its plan: {:.3g} of the heads", plan.share);
  if (plan.opening) text += " from the first step";
  if (plan.growth_begins <= 1) {
    text += fmt::format(", to {:.3g} from {:.0f} %, doubling every {:.0f} %", plan.grown_share,
                        100 * plan.growth_begins, 100 * plan.growth_pace);
  }
  text += plan.scaling ? fmt::format(", logits up to × {:g}", kSharpest)
          : plan.cold  ? fmt::format(", logits × {:g}", kScaleFactors[kSmallest])
          : plan.sharp ? fmt::format(", logits × {:g}", kScaleFactors[kLargest])
                       : std::string(", scales as they are");
  if (plan.cooling) text += ", cooled early";
  return text;
}

class ExplorePolicy : public Policy {
 public:
  [[nodiscard]] std::string_view Name() const override { return "explore"; }

  [[nodiscard]] Verdict Decide(const Situation& situation, std::mt19937_64& random) override {
    Verdict verdict = kmeans_->Decide(situation, random);
    auto* decision = std::get_if<Decision>(&verdict);
    if (decision == nullptr) return verdict;
    const Plan plan = PlanOf(situation.job);
    Count(plan, situation, decision->action);
    for (std::size_t head = 0; head < situation.state.Heads(); ++head) {
      std::uint8_t& choice = decision->action.scale[head];
      if (!plan.scaling) {
        choice = kKeepScale;
      } else if (situation.setting.scale[head] * kScaleFactors[choice] > kSharpest &&
                 choice > kKeepScale) {
        choice = kKeepScale;
      }
      if (plan.cooling && BornSharp(situation, head) &&
          situation.mask.scale[head][kSmallest] != 0) {
        choice = kSmallest;
      }
    }
    if (plan.cold) ScaleAll(situation, kSmallest, decision->action);
    if (plan.sharp) ScaleAll(situation, kLargest, decision->action);
    decision->why = Describe(plan);
    return verdict;
  }

  [[nodiscard]] Verdict Open(const Situation& situation, std::mt19937_64& /*random*/) override {
    const Plan plan = PlanOf(situation.job);
    Decision decision;
    decision.action = Action::Keep(situation.state.Heads(), situation.state.Sites());
    if (plan.opening) Count(plan, situation, decision.action);
    if (plan.cold) ScaleAll(situation, kSmallest, decision.action);
    decision.why = Describe(plan);
    return decision;
  }

 private:
  std::unique_ptr<Policy> kmeans_ = MakeKMeans();
};

}  // namespace

std::unique_ptr<Policy> MakeExplore() { return std::make_unique<ExplorePolicy>(); }

}  // namespace attune
