// importance: half of the heads pruned by the gradient of their gates, as Michel et al.
// (1905.10650) do: a baseline. Where the governor took that back, they are pruned again behind its
// hold.
#include <fmt/format.h>

#include <span>

#include "policies/rules.h"

namespace attune {
namespace {

// Where half of the heads leave. Earlier the gradients say little, later little is saved.
constexpr double kPruned = 0.3;

class ImportancePolicy : public Policy {
 public:
  [[nodiscard]] std::string_view Name() const override { return "importance"; }

  [[nodiscard]] Verdict Decide(const Situation& situation, std::mt19937_64& /*random*/) override {
    const auto& offsets = situation.state.site_offsets;
    Decision decision;
    decision.action = Action::Keep(situation.state.Heads(), situation.state.Sites());
    decision.why = fmt::format("half of the heads leave at {:.0f} % of the budget", 100 * kPruned);
    if (situation.progress < kPruned) return decision;
    for (std::size_t site = 0; site < situation.state.Sites(); ++site) {
      const std::size_t heads = offsets[site + 1] - offsets[site];
      const std::size_t active =
          CountActive(std::span(situation.setting.active).subspan(offsets[site], heads));
      if (2 * active > heads + 1 &&
          situation.mask.count[site][static_cast<std::size_t>(CountChange::kHalve)] != 0) {
        decision.action.count[site] = CountChange::kHalve;
      }
    }
    for (std::size_t head = 0; head < situation.state.Heads(); ++head) {
      decision.action.score[head] = situation.now.At(head, Metric::kImportance);
    }
    return decision;
  }
};

}  // namespace

std::unique_ptr<Policy> MakeImportance() { return std::make_unique<ImportancePolicy>(); }

}  // namespace attune
