// Tests of the policies that need no learning, on situations built from synthetic windows.
#include "policies/rules.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <tuple>
#include <variant>
#include <vector>

namespace attune {
namespace {

// What a window shows of one head; as it stands, a healthy one.
struct Look {
  float entropy = 0.6F;
  float logit = 5;
  float top_weight = 0.3F;
  float first_token = 0.1F;
  float norm = 1;
  float redundancy = 0.6F;
};
const Look kHealthy{};
const Look kSaturated{.entropy = 0.05F, .logit = 60, .top_weight = 0.95F};
const Look kSink{.entropy = 0.05F, .logit = 20, .top_weight = 0.95F, .first_token = 0.9F};
const Look kSharp{.entropy = 0.25F, .logit = 40, .top_weight = 0.6F};
const Look kDiffuse{.entropy = 0.95F, .logit = 1, .top_weight = 0.05F};
const Look kUniform{.entropy = 0.99F, .logit = 0.1F, .top_weight = 0.02F};
const Look kDormant{.norm = 0.1F};
const Look kRedundant{.redundancy = 0.95F};
const Look kDistinct{.redundancy = 0.2F};

// A job at the end of a window, with all that a Situation refers to.
struct Scene {
  JobSpec job;
  Setting setting;
  WindowReading now;
  State state;
  ActionMask mask;
  double progress = 0.2;
  std::uint32_t window = 3;
  bool has_before = false;  // whether a window like `now` came before it

  // One site for each list of looks; a quarter of a step in attention, budget in compute.
  explicit Scene(const std::vector<std::vector<Look>>& sites) {
    job = {.key = "k", .name = "n", .topology = {}, .budget = {}, .seed = 7, .learning_rate = 0};
    job.budget = {.kind = BudgetKind::kCompute, .amount = 100};
    for (std::size_t s = 0; s < sites.size(); ++s) {
      job.topology.sites.push_back({.name = "site" + std::to_string(s),
                                    .heads = static_cast<std::uint32_t>(sites[s].size()),
                                    .head_width = 8,
                                    .context = 32});
      for (const Look& look : sites[s]) {
        const float metrics[kMetrics] = {look.entropy,     look.logit, look.top_weight,
                                         look.first_token, look.norm,  0.5F,
                                         look.redundancy};
        now.metrics.insert(now.metrics.end(), std::begin(metrics), std::end(metrics));
      }
    }
    const std::size_t heads = job.topology.Heads();
    setting = Setting::Neutral(heads);
    now.active.assign(heads, 1);
    now.divergence.assign(heads, 0);
    now.attention_share = 0.25;
    state.site_offsets = job.topology.SiteOffsets();
    state.tokens.assign(heads * kTokenFeatures, 0);
    mask = MaskOf(job.topology, setting);
  }

  // Takes the head out, as a window shows heads that were not computed.
  void SwitchOff(std::size_t head) {
    setting.active[head] = 0;
    now.active[head] = 0;
    std::fill_n(now.metrics.begin() + static_cast<long>(head * kMetrics), kMetrics, 0.0F);
    mask = MaskOf(job.topology, setting);
  }

  void SetLossSlope(float slope) {
    for (std::size_t head = 0; head < state.Heads(); ++head) {
      state.tokens[head * kTokenFeatures + TokenFeature("loss_slope")] = slope;
    }
  }

  void SetScale(std::size_t head, float scale) {
    setting.scale[head] = scale;
    mask = MaskOf(job.topology, setting);
  }

  [[nodiscard]] Situation View() const {
    return {.job = job,
            .setting = setting,
            .now = now,
            .before = has_before ? &now : nullptr,
            .state = state,
            .mask = mask,
            .progress = progress,
            .window = window};
  }
  [[nodiscard]] Verdict Ask(Policy& policy, std::mt19937_64& random) const {
    return policy.Decide(View(), random);
  }

  // The decision, which must be one.
  [[nodiscard]] Decision DecideBy(Policy& policy) const {
    std::mt19937_64 random(1);
    const Verdict verdict = Ask(policy, random);
    REQUIRE(std::holds_alternative<Decision>(verdict));
    return std::get<Decision>(verdict);
  }
  [[nodiscard]] Decision ByKMeans() const { return DecideBy(*MakeKMeans()); }
  [[nodiscard]] Decision ByQkClip() const { return DecideBy(*MakeQkClip()); }
};

using Choices = std::vector<std::uint8_t>;
using Counts = std::vector<CountChange>;

bool Contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// Any number of sites and heads, looks, scales and inactive heads.
Scene RandomScene(std::mt19937_64& random) {
  const auto unit = [&] { return std::uniform_real_distribution<float>(0, 1)(random); };
  std::vector<std::vector<Look>> sites(1 + random() % 3);
  for (auto& site : sites) {
    site.resize(1 + random() % 9);
    for (Look& look : site) {
      look = {unit(), 200 * unit() - 20, unit(), unit(), 2 * unit(), unit()};
    }
  }
  Scene scene(sites);
  scene.job.budget.kind = random() % 2 == 0 ? BudgetKind::kCompute : BudgetKind::kSteps;
  scene.progress = unit();
  scene.now.attention_share = unit();
  const auto& offsets = scene.state.site_offsets;
  for (std::size_t s = 0; s < sites.size(); ++s) {
    for (std::size_t head = offsets[s]; head < offsets[s + 1]; ++head) {
      scene.SetScale(head, std::exp2(8 * unit() - 4));
      if (head > offsets[s] && random() % 3 == 0) scene.SwitchOff(head);
    }
  }
  return scene;
}

TEST_CASE("every rule leads to a usable setting through open choices alone") {
  std::mt19937_64 random(5);
  const std::unique_ptr<Policy> policies[] = {MakeKeep(), MakeRandom(), MakeKMeans(), MakeQkClip()};
  for (int i = 0; i < 500; ++i) {
    const Scene scene = RandomScene(random);
    for (const auto& policy : policies) {
      CAPTURE(i, policy->Name());
      const Verdict verdict = scene.Ask(*policy, random);
      REQUIRE(std::holds_alternative<Decision>(verdict));
      const auto& decision = std::get<Decision>(verdict);
      Setting next;
      REQUIRE_NOTHROW(next = Apply(scene.job.topology, scene.setting, decision.action));
      CHECK(FindFault(next, scene.job.topology) == std::nullopt);
      CHECK_FALSE(decision.why.empty());
      CHECK(decision.why.find('\n') == std::string::npos);
    }
  }
}

TEST_CASE("each rule goes by the name of its file") {
  CHECK(MakeKeep()->Name() == "keep");
  CHECK(MakeRandom()->Name() == "random");
  CHECK(MakeKMeans()->Name() == "kmeans");
  CHECK(MakeQkClip()->Name() == "qk_clip");
}

TEST_CASE("keep changes nothing whatever it sees") {
  const Scene scene({{kSaturated, kDormant}, {kUniform, kRedundant, kRedundant, kRedundant}});
  const Decision decision = scene.DecideBy(*MakeKeep());
  CHECK(decision.action == Action::Keep(6, 2));
  CHECK(decision.log_probability == 0);
}

TEST_CASE("k-means keeps healthy heads") {
  const Scene scene({{kHealthy, kHealthy, kHealthy}, {kHealthy, kHealthy}});
  const Decision decision = scene.ByKMeans();
  CHECK(decision.action.scale == Choices(5, kKeepScale));
  CHECK(decision.action.count == Counts(2, CountChange::kKeep));
  CHECK(decision.why == "nothing to do for 5 heads in 1 clusters");
}

TEST_CASE("k-means cools saturated heads strongly and sharp ones a little") {
  const Scene scene({{kHealthy, kSaturated, kSharp, kHealthy}, {kSaturated, kHealthy}});
  const Decision decision = scene.ByKMeans();
  CHECK(decision.action.scale == Choices{2, 0, 1, 2, 0, 2});
  CHECK(Contains(decision.why, "2 heads saturated"));
  CHECK(Contains(decision.why, "1 heads sharp"));
}

TEST_CASE("k-means lets sinks and peaked heads with small logits be") {
  Look peaked = kSharp;
  peaked.logit = 29;
  const Scene scene({{kHealthy, kSink, peaked, kHealthy}});
  CHECK(scene.ByKMeans().action.scale == Choices(4, kKeepScale));
}

TEST_CASE("k-means sharpens diffuse heads a little and uniform ones strongly, early only") {
  Scene scene({{kHealthy, kDiffuse, kUniform, kUniform}});
  CHECK(scene.ByKMeans().action.scale == Choices{2, 3, 4, 4});
  scene.progress = 0.49;
  CHECK(scene.ByKMeans().action.scale == Choices{2, 3, 4, 4});
  scene.progress = 0.5;
  CHECK(scene.ByKMeans().action.scale == Choices(4, kKeepScale));
}

TEST_CASE("k-means sharpens no head beyond a scale of 4") {
  Look uniform = kUniform;
  uniform.logit = 2;
  Scene scene({{kDiffuse, kDiffuse, uniform, uniform}});
  scene.SetScale(0, 2.6F);  // times 1.5 is 3.9
  scene.SetScale(1, 2.7F);  // ... 4.05
  scene.SetScale(2, 0.9F);  // times 4 is 3.6
  scene.SetScale(3, 1.1F);  // ... 4.4
  CHECK(scene.ByKMeans().action.scale == Choices{3, 2, 4, 2});
}

TEST_CASE("k-means wakes heads whose logits hardly differ, up to a scale of 16") {
  Look cold = kUniform;
  cold.logit = 0.1F;
  Look uniform = kUniform;
  uniform.logit = 2;
  Scene scene({{cold, cold, uniform}});
  scene.SetScale(0, 4);
  scene.SetScale(1, 4.1F);
  scene.SetScale(2, 4);
  CHECK(scene.ByKMeans().action.scale == Choices{4, 2, 2});
}

TEST_CASE("k-means keeps a scale whose rule is masked") {
  Scene scene({{kSaturated, kSaturated, kHealthy, kSharp}});
  scene.SetScale(0, kMinScale);
  scene.SetScale(3, kMinScale);
  CHECK(scene.ByKMeans().action.scale == Choices{2, 0, 2, 2});
}

TEST_CASE("k-means halves a site whose redundant or dormant heads are dear, keeping the others") {
  for (const Look& leaving : {kRedundant, kDormant}) {
    const Scene scene({{leaving, kHealthy, leaving, kHealthy}, {kHealthy, kHealthy, kHealthy}});
    const Decision decision = scene.ByKMeans();
    CHECK(decision.action.count == Counts{CountChange::kHalve, CountChange::kKeep});
    CHECK(decision.action.scale == Choices(7, kKeepScale));
    CHECK(Contains(decision.why, "site0 4→2: 2 of 4 heads "));
    CHECK(Contains(decision.why, "attention takes 25 % of a step"));
    const Setting next = Apply(scene.job.topology, scene.setting, decision.action);
    CHECK(next.active == Choices{0, 1, 0, 1, 1, 1, 1});
  }
}

TEST_CASE("k-means halves for compute from half of the heads and a quarter of the step on") {
  Scene scene({{kRedundant, kRedundant, kHealthy, kHealthy}});
  scene.now.attention_share = 0.24;
  CHECK(scene.ByKMeans().action.count == Counts{CountChange::kKeep});
  scene.now.attention_share = 0.25;
  CHECK(scene.ByKMeans().action.count == Counts{CountChange::kHalve});
  Scene few({{kRedundant, kHealthy, kHealthy, kHealthy}});
  CHECK(few.ByKMeans().action.count == Counts{CountChange::kKeep});
}

TEST_CASE("k-means halves for steps from three quarters of the heads and a quarter of a step on") {
  Scene half({{kRedundant, kRedundant, kHealthy, kHealthy}});
  half.job.budget.kind = BudgetKind::kSteps;
  CHECK(half.ByKMeans().action.count == Counts{CountChange::kKeep});
  Scene most({{kRedundant, kRedundant, kDormant, kHealthy}});
  most.job.budget.kind = BudgetKind::kSteps;
  CHECK(most.ByKMeans().action.count == Counts{CountChange::kHalve});
  most.now.attention_share = 0.24;
  CHECK(most.ByKMeans().action.count == Counts{CountChange::kKeep});
}

TEST_CASE("k-means halves whatever the heads do where attention takes half of an early step") {
  Scene scene({{kHealthy, kHealthy, kHealthy, kHealthy}});
  scene.now.attention_share = 0.5;
  scene.progress = 0.29;
  CHECK(scene.ByKMeans().action.count == Counts{CountChange::kHalve});
  scene.progress = 0.3;
  CHECK(scene.ByKMeans().action.count == Counts{CountChange::kKeep});
  scene.progress = 0.29;
  scene.now.attention_share = 0.49;
  CHECK(scene.ByKMeans().action.count == Counts{CountChange::kKeep});
  scene.now.attention_share = 0.5;
  scene.job.budget.kind = BudgetKind::kSteps;
  CHECK(scene.ByKMeans().action.count == Counts{CountChange::kKeep});
}

TEST_CASE("k-means leaves two heads in every site") {
  const Scene scene({{kRedundant, kRedundant},
                     {kRedundant, kRedundant, kRedundant},
                     {kRedundant, kRedundant, kRedundant, kRedundant}});
  CHECK(scene.ByKMeans().action.count ==
        Counts{CountChange::kKeep, CountChange::kKeep, CountChange::kHalve});
}

// Two of four distinct heads are active late in a job whose loss has flattened.
Scene GrowingScene(const Look& look) {
  Scene scene({{look, look, look, look}});
  scene.SwitchOff(1);
  scene.SwitchOff(3);
  scene.has_before = true;
  scene.progress = 0.5;
  return scene;
}

TEST_CASE("k-means doubles a site of distinct, specialised heads late, once the loss is flat") {
  Scene scene = GrowingScene(kDistinct);
  const Decision decision = scene.ByKMeans();
  CHECK(decision.action.count == Counts{CountChange::kDouble});
  CHECK(Contains(decision.why, "site0 2→4: its heads are distinct"));
  scene.progress = 0.49;
  CHECK(scene.ByKMeans().action.count == Counts{CountChange::kKeep});
  scene.progress = 0.5;
  scene.has_before = false;
  CHECK(scene.ByKMeans().action.count == Counts{CountChange::kKeep});
  scene.has_before = true;
  scene.SetLossSlope(0.06F);
  CHECK(scene.ByKMeans().action.count == Counts{CountChange::kKeep});
  scene.SetLossSlope(0.04F);
  CHECK(scene.ByKMeans().action.count == Counts{CountChange::kDouble});
}

TEST_CASE("k-means gives no heads back where they are alike or not specialised") {
  CHECK(GrowingScene(kHealthy).ByKMeans().action.count == Counts{CountChange::kKeep});
  Look broad = kDistinct;
  broad.entropy = 0.85F;
  CHECK(GrowingScene(broad).ByKMeans().action.count == Counts{CountChange::kKeep});
}

TEST_CASE("k-means judges a head by its cluster") {
  // Ten sharp heads about an entropy of 0.25, one of which alone is over the threshold of 0.3.
  std::vector<Look> looks(20, kHealthy);
  for (std::size_t head = 0; head < 10; ++head) looks[head] = kSharp;
  looks[4].entropy = 0.301F;
  Look other = kHealthy;
  other.first_token = 0.8F;
  Look last = kHealthy;
  last.norm = 3;
  for (std::size_t i = 0; i < 3; ++i) {
    looks[19 - i] = other;
    looks[16 - i] = last;
  }
  const Decision decision = Scene({looks}).ByKMeans();
  for (std::size_t head = 0; head < 20; ++head) {
    CAPTURE(head);
    CHECK(decision.action.scale[head] == (head < 10 ? kKeepScale - 1 : kKeepScale));
  }
}

TEST_CASE("k-means decides alike whenever it is asked the same") {
  std::mt19937_64 random(9);
  for (int i = 0; i < 50; ++i) {
    const Scene scene = RandomScene(random);
    const auto policy = MakeKMeans();
    const auto first = std::get<Decision>(scene.Ask(*policy, random));
    const auto again = std::get<Decision>(scene.Ask(*policy, random));
    CHECK(first.action == again.action);
    CHECK(first.why == again.why);
    CHECK(first.log_probability == 0);
  }
}

TEST_CASE("k-means declines where no active head was measured") {
  Scene scene({{kHealthy, kHealthy}});
  scene.now.active = {0, 0};
  std::mt19937_64 random(1);
  const Verdict verdict = scene.Ask(*MakeKMeans(), random);
  REQUIRE(std::holds_alternative<Decline>(verdict));
  CHECK(std::get<Decline>(verdict).why == "no active head was measured in this window");
}

TEST_CASE(
    "importance halves once, from 30 % of the budget on, keeping the heads of most gradient") {
  Scene scene({{kHealthy, kHealthy, kHealthy, kHealthy}, {kHealthy}});
  for (std::size_t head = 0; head < 5; ++head) {
    scene.now.metrics[head * kMetrics + static_cast<std::size_t>(Metric::kImportance)] =
        static_cast<float>(head);
  }
  std::mt19937_64 random(1);
  const auto policy = MakeImportance();
  const auto decide = [&] { return std::get<Decision>(scene.Ask(*policy, random)).action; };
  scene.progress = 0.29;
  CHECK(decide() == Action::Keep(5, 2));
  scene.progress = 0.3;
  CHECK(decide().count == Counts{CountChange::kHalve, CountChange::kKeep});
  scene.setting = Apply(scene.job.topology, scene.setting, decide());
  CHECK(scene.setting.active == Choices{0, 0, 1, 1, 1});
  scene.mask = MaskOf(scene.job.topology, scene.setting);
  CHECK(decide().count == Counts{CountChange::kKeep, CountChange::kKeep});
}

TEST_CASE(
    "explore holds one plan from a job's first window to its last, and another for each key") {
  std::set<std::string> plans;
  const auto policy = MakeExplore();
  std::mt19937_64 random(1);
  for (int key = 0; key < 60; ++key) {
    Scene scene({std::vector<Look>(8, kHealthy), std::vector<Look>(8, kHealthy)});
    scene.job.key = "run/" + std::to_string(key);
    std::set<std::string> whys;
    for (int window = 0; window < 20; ++window) {
      scene.progress = (window + 1) / 21.0;
      const auto decision = std::get<Decision>(scene.Ask(*policy, random));
      whys.insert(decision.why);
      scene.setting = Apply(scene.job.topology, scene.setting, decision.action);
      scene.mask = MaskOf(scene.job.topology, scene.setting);
    }
    CHECK(whys.size() == 1);
    plans.insert(*whys.begin());
    // Where the plan is constant, 20 windows are enough to come to what it says.
    const std::size_t active = CountActive(std::span(scene.setting.active).first(8));
    CHECK((active == 1 || active == 2 || active == 4 || active == 8));
  }
  CHECK(plans.size() > 20);
}

TEST_CASE("rules that go by what is measured decide nothing before the first step") {
  const std::unique_ptr<Policy> policies[] = {MakeKeep(), MakeRandom(), MakeKMeans(), MakeQkClip(),
                                              MakeImportance()};
  const Scene scene({std::vector<Look>(8, kHealthy)});
  std::mt19937_64 random(1);
  for (const auto& policy : policies) {
    CAPTURE(policy->Name());
    const Verdict verdict = policy->Open(scene.View(), random);
    REQUIRE(std::holds_alternative<Decline>(verdict));
    CHECK(std::get<Decline>(verdict).why == "decides by what is measured");
  }
}

constexpr double kHighRate = 0.02;  // explore begins no plan before the first step below 0.015

// The decisions of explore before the first step, up to the one that keeps what there is.
std::vector<Action> Opening(Policy& policy, Scene& scene, std::mt19937_64& random) {
  scene.progress = 0;
  std::vector<Action> actions;
  do {
    const auto decision = std::get<Decision>(policy.Open(scene.View(), random));
    REQUIRE_FALSE(FindFault(decision.action, scene.mask));
    scene.setting = Apply(scene.job.topology, scene.setting, decision.action);
    scene.mask = MaskOf(scene.job.topology, scene.setting);
    actions.push_back(decision.action);
  } while (actions.back() != Action::Keep(scene.state.Heads(), scene.state.Sites()) &&
           actions.size() < 10);
  return actions;
}

TEST_CASE("explore begins some plans before the first step, and those stand when it comes") {
  const auto policy = MakeExplore();
  std::mt19937_64 random(1);
  constexpr int kKeys = 100;
  int opened = 0;
  int cold = 0;
  for (int key = 0; key < kKeys; ++key) {
    Scene scene({std::vector<Look>(8, kHealthy), std::vector<Look>(3, kHealthy)});
    scene.job.learning_rate = kHighRate;
    scene.job.key = "run/" + std::to_string(key);
    const std::vector<Action> actions = Opening(*policy, scene, random);
    CHECK(actions.size() < 6);
    const std::size_t active = CountActive(scene.setting.active);
    std::set<float> scales;  // of the heads that stay
    for (std::size_t head = 0; head < 11; ++head) {
      if (scene.setting.active[head] != 0) scales.insert(scene.setting.scale[head]);
    }
    const bool is_cold = scales == std::set{0.25F};
    CHECK((is_cold || scales == std::set{1.0F}));
    cold += is_cold ? 1 : 0;
    opened += is_cold || active < 11 ? 1 : 0;
    CHECK((actions.size() > 1) == (is_cold || active < 11));
    scene.progress = 0.006;  // in the first window no plan has gone further
    const auto decision = std::get<Decision>(scene.Ask(*policy, random));
    if (active < 11) CHECK(decision.action.count == Counts{CountChange::kKeep, CountChange::kKeep});
  }
  CHECK(opened > kKeys / 3);
  CHECK(opened < kKeys * 3 / 4);
  CHECK(cold > opened / 4);
  CHECK(cold < opened * 3 / 4);
}

TEST_CASE("explore waits for what is measured where the rate is not too high, and under SGD") {
  const auto policy = MakeExplore();
  std::mt19937_64 random(1);
  int sharp = 0;
  for (int key = 0; key < 60; ++key) {
    for (const auto& [rate, optimizer] :
         {std::pair(0.003, "adamw"), std::pair(0.0, ""), std::pair(0.1, "sgd")}) {
      Scene scene({std::vector<Look>(8, kHealthy)});
      scene.job.learning_rate = rate;
      scene.job.optimizer = optimizer;
      scene.job.key = "run/" + std::to_string(key);
      CHECK(Opening(*policy, scene, random) == std::vector{Action::Keep(8, 1)});
      for (int window = 1; window <= 40; ++window) {
        scene.progress = window / 40.0 - 0.001;
        const auto decision = std::get<Decision>(scene.Ask(*policy, random));
        scene.setting = Apply(scene.job.topology, scene.setting, decision.action);
        scene.mask = MaskOf(scene.job.topology, scene.setting);
      }
      std::set<float> scales;  // of the heads that stay, or have come in
      for (std::size_t head = 0; head < 8; ++head) {
        if (scene.setting.active[head] != 0) scales.insert(scene.setting.scale[head]);
      }
      sharp += scales == std::set{4.0F} ? 1 : 0;
    }
  }
  CHECK(sharp > 30);  // of 180
  CHECK(sharp < 90);
}

TEST_CASE("explore lets some jobs grow by quarters, from one head to all") {
  const auto policy = MakeExplore();
  std::mt19937_64 random(1);
  constexpr int kKeys = 60;
  int grown = 0;
  for (int key = 0; key < kKeys; ++key) {
    Scene scene({std::vector<Look>(8, kHealthy)});
    scene.job.learning_rate = kHighRate;
    scene.job.key = "run/" + std::to_string(key);
    Opening(*policy, scene, random);
    const bool at_once = CountActive(scene.setting.active) == 1;
    std::vector<std::size_t> at_ends;  // of the quarters
    for (int window = 1; window <= 40; ++window) {
      scene.progress = window / 40.0 - 0.001;
      const auto decision = std::get<Decision>(scene.Ask(*policy, random));
      scene.setting = Apply(scene.job.topology, scene.setting, decision.action);
      scene.mask = MaskOf(scene.job.topology, scene.setting);
      if (window % 10 == 0) at_ends.push_back(CountActive(scene.setting.active));
    }
    grown += at_once && at_ends == std::vector<std::size_t>{1, 2, 4, 8} ? 1 : 0;
  }
  CHECK(grown > kKeys / 6);
  CHECK(grown < kKeys / 2);
}

TEST_CASE("explore leaves all heads of some jobs a quarter of their logits, to the end") {
  const auto policy = MakeExplore();
  std::mt19937_64 random(1);
  int cold = 0;
  for (int key = 0; key < 60; ++key) {
    Scene scene({std::vector<Look>(8, kUniform)});  // kmeans would sharpen them
    scene.job.learning_rate = kHighRate;
    scene.job.key = "run/" + std::to_string(key);
    Opening(*policy, scene, random);
    const auto is_cold = [&] {
      for (std::size_t head = 0; head < 8; ++head) {
        if (scene.setting.active[head] != 0 && scene.setting.scale[head] != 0.25F) return false;
      }
      return true;
    };
    if (!is_cold()) continue;
    ++cold;
    for (int window = 1; window <= 40; ++window) {
      scene.progress = std::min(window / 40.0, 0.99);
      const auto decision = std::get<Decision>(scene.Ask(*policy, random));
      scene.setting = Apply(scene.job.topology, scene.setting, decision.action);
      scene.mask = MaskOf(scene.job.topology, scene.setting);
    }
    scene.progress = 1;  // heads that came in last are cooled behind it
    const auto decision = std::get<Decision>(scene.Ask(*policy, random));
    scene.setting = Apply(scene.job.topology, scene.setting, decision.action);
    CHECK(is_cold());
  }
  CHECK(cold > 10);
  // Where scales are not to be changed, heads leave all the same.
  int fewer = 0;
  for (int key = 0; key < 60; ++key) {
    Scene scene({std::vector<Look>(8, kHealthy)});
    scene.job.learning_rate = kHighRate;
    scene.job.key = "run/" + std::to_string(key);
    for (auto& open : scene.mask.scale) open = {0, 0, 1, 0, 0};
    const auto decision = std::get<Decision>(policy->Open(scene.View(), random));
    CHECK_FALSE(FindFault(decision.action, scene.mask));
    fewer += decision.action.count != Counts{CountChange::kKeep} ? 1 : 0;
  }
  CHECK(fewer > 20);
}

TEST_CASE("explore cools heads that are too sharp and sharpens none beyond a scale of 1") {
  const auto policy = MakeExplore();
  std::mt19937_64 random(1);
  bool cooled = false;
  for (int key = 0; key < 60; ++key) {
    Scene scene({std::vector<Look>(4, kUniform), std::vector<Look>(4, kSaturated)});
    scene.job.learning_rate = kHighRate;
    scene.job.key = "run/" + std::to_string(key);
    for (int window = 0; window < 6; ++window) {
      scene.progress = (window + 1) / 21.0;
      const auto decision = std::get<Decision>(scene.Ask(*policy, random));
      scene.setting = Apply(scene.job.topology, scene.setting, decision.action);
      scene.mask = MaskOf(scene.job.topology, scene.setting);
      CHECK(*std::ranges::max_element(scene.setting.scale) <= 1);
      cooled = cooled || *std::ranges::min_element(scene.setting.scale) < 1;
    }
  }
  CHECK(cooled);
}

TEST_CASE("qk_clip scales down above 100, by the factor nearest to 100 over the largest logit") {
  // On a logarithmic scale 1 / 1.5 and 1 / 4 meet at 1 / sqrt(1.5 · 4) = 1 / 2.4495.
  const std::vector<float> logits = {-5, 100, 100.1F, 244.9F, 245.0F, 1e6F};
  std::vector<Look> looks(logits.size());
  for (std::size_t head = 0; head < logits.size(); ++head) looks[head].logit = logits[head];
  const Decision decision = Scene({looks}).ByQkClip();
  CHECK(decision.action.scale == Choices{2, 2, 1, 1, 0, 0});
  CHECK(decision.action.count == Counts{CountChange::kKeep});
  CHECK(decision.why == "4 heads with logits above 100");
}

TEST_CASE("qk_clip takes the nearest open factor, and none for inactive heads") {
  Look hot;
  hot.logit = 1000;
  Scene scene({{hot, hot, hot, hot}});
  scene.SetScale(0, kMinScale);
  scene.SetScale(1, kMinScale * 2);
  scene.setting.active[2] = 0;
  scene.mask = MaskOf(scene.job.topology, scene.setting);
  CHECK(scene.ByQkClip().action.scale == Choices{2, 1, 2, 0});
  CHECK(Scene({{kHealthy}}).ByQkClip().why == "no largest logit above 100");
}

// A random draw as what it decides: the first head's scale, the site's count, and the heads that
// stay (fewer) or come in (more), best score first.
using Draw = std::tuple<int, CountChange, std::vector<std::size_t>>;

Draw DrawOf(const Scene& scene, const Action& action) {
  const auto& active = scene.setting.active;
  const std::size_t before = CountActive(active);
  const std::size_t count = ChangedCount(before, action.count[0], active.size());
  std::vector<std::size_t> pool;
  for (std::size_t head = 0; head < active.size(); ++head) {
    if ((active[head] != 0) == (count < before)) pool.push_back(head);
  }
  std::sort(pool.begin(), pool.end(),
            [&](std::size_t a, std::size_t b) { return action.score[a] > action.score[b]; });
  pool.resize(count < before ? count : count - before);
  return {action.scale[0], action.count[0], pool};
}

// Draws often, and compares how often each outcome came with the probability that was given.
void CheckProbabilities(const Scene& scene, std::size_t outcomes) {
  constexpr int kDraws = 100'000;
  std::mt19937_64 random(17);
  const auto policy = MakeRandom();
  std::map<Draw, int> drawn;
  std::map<Draw, float> given;
  for (int i = 0; i < kDraws; ++i) {
    const auto decision = std::get<Decision>(scene.Ask(*policy, random));
    const Draw draw = DrawOf(scene, decision.action);
    ++drawn[draw];
    given.emplace(draw, decision.log_probability);
    REQUIRE(given[draw] == decision.log_probability);
  }
  CHECK(drawn.size() == outcomes);
  double sum = 0;
  for (const auto& [draw, log_probability] : given) {
    const double probability = std::exp(log_probability);
    const double expected = probability * kDraws;
    CHECK(std::abs(drawn[draw] - expected) < 5 * std::sqrt(expected));
    sum += probability;
  }
  CHECK(sum == Approx(1).epsilon(1e-4));
}

TEST_CASE("random gives the probability with which it draws: heads that leave") {
  Scene scene({{kHealthy, kHealthy, kHealthy, kHealthy}});
  for (auto& open : scene.mask.scale) open = {0, 0, 1, 0, 0};
  scene.mask.scale[0] = {1, 0, 1, 1, 0};
  // Of four heads: halve (ordered pairs that stay), minus one (ordered triples), keep.
  CheckProbabilities(scene, 3 * (12 + 24 + 1));
}

TEST_CASE("random gives the probability with which it draws: heads that come in") {
  Scene scene({{kHealthy, kHealthy, kHealthy, kHealthy, kHealthy}});
  for (const std::size_t head : {1, 2, 4}) scene.SwitchOff(head);
  for (auto& open : scene.mask.scale) open = {0, 0, 1, 0, 0};
  // Two of five are active: halve (one of two stays), keep, plus one (one of three), double
  // (ordered pairs of three).
  CheckProbabilities(scene, 2 + 1 + 3 + 6);
}

TEST_CASE("random draws every open choice and no other") {
  Scene scene({{kHealthy, kHealthy, kHealthy, kHealthy}});
  scene.SetScale(0, kMaxScale);
  scene.SetScale(1, kMinScale);
  scene.SwitchOff(3);
  std::mt19937_64 random(3);
  const auto policy = MakeRandom();
  ActionMask seen;
  seen.scale.resize(4);
  seen.count.resize(1);
  for (int i = 0; i < 2000; ++i) {
    const auto decision = std::get<Decision>(scene.Ask(*policy, random));
    for (std::size_t head = 0; head < 4; ++head) seen.scale[head][decision.action.scale[head]] = 1;
    seen.count[0][static_cast<std::size_t>(decision.action.count[0])] = 1;
  }
  CHECK(seen == scene.mask);
}

TEST_CASE("the same seed draws the same actions") {
  const Scene scene({{kHealthy, kHealthy, kHealthy, kHealthy}});
  const auto policy = MakeRandom();
  std::mt19937_64 a(4);
  std::mt19937_64 b(4);
  for (int i = 0; i < 20; ++i) {
    CHECK(std::get<Decision>(scene.Ask(*policy, a)).action ==
          std::get<Decision>(scene.Ask(*policy, b)).action);
  }
}

}  // namespace
}  // namespace attune
