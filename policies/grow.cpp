// grow: few heads first, all of them at the end.
//
// Early in training the heads of a site learn much the same, and a step with fewer of them costs
// less and teaches hardly less; what they are worth they are worth late. So every site is brought
// to an eighth of its heads (one at least), and doubled at each quarter of the budget, until all
// take part in the last one. Logits are treated as kmeans treats them.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <span>
#include <string_view>

#include "policies/rules.h"

namespace attune {
namespace {

constexpr std::size_t kStages = 4;  // equal parts of the budget
constexpr std::array<std::string_view, kStages> kShares = {"an eighth", "a quarter", "half", "all"};

class GrowPolicy : public Policy {
 public:
  [[nodiscard]] std::string_view Name() const override { return "grow"; }

  [[nodiscard]] Verdict Decide(const Situation& situation, std::mt19937_64& random) override {
    Verdict verdict = kmeans_->Decide(situation, random);
    auto* decision = std::get_if<Decision>(&verdict);
    if (decision == nullptr) return verdict;
    const auto stage = std::min(
        static_cast<std::size_t>(situation.progress * static_cast<double>(kStages)), kStages - 1);
    const auto& offsets = situation.state.site_offsets;
    for (std::size_t site = 0; site < situation.state.Sites(); ++site) {
      const std::size_t heads = offsets[site + 1] - offsets[site];
      const std::size_t wanted = std::max<std::size_t>(heads >> (kStages - 1 - stage), 1);
      const CountChange change = ChangeTowards(
          wanted, CountActive(std::span(situation.setting.active).subspan(offsets[site], heads)),
          heads);
      const bool open = situation.mask.count[site][static_cast<std::size_t>(change)] != 0;
      decision->action.count[site] = open ? change : CountChange::kKeep;
    }
    decision->why =
        fmt::format("stage {} of {}: {} of a site's heads", stage + 1, kStages, kShares[stage]);
    return verdict;
  }

 private:
  std::unique_ptr<Policy> kmeans_ = MakeKMeans();
};

}  // namespace

std::unique_ptr<Policy> MakeGrow() { return std::make_unique<GrowPolicy>(); }

}  // namespace attune
