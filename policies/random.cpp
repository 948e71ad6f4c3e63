// random: uniform over what is allowed, with its probability. A baseline, and exploration.
#include <cmath>
#include <numeric>
#include <vector>

#include "policies/rules.h"

namespace attune {
namespace {

// Draws one of the open choices; adds its log-probability.
template <std::size_t N>
std::uint8_t Draw(const std::array<std::uint8_t, N>& open, std::mt19937_64& random,
                  float& log_probability) {
  const int count = std::accumulate(open.begin(), open.end(), 0);
  int left = std::uniform_int_distribution<int>(0, count - 1)(random);
  log_probability -= std::log(static_cast<float>(count));
  std::uint8_t choice = 0;
  while (open[choice] == 0 || left-- > 0) ++choice;
  return choice;
}

class RandomPolicy : public Policy {
 public:
  [[nodiscard]] std::string_view Name() const override { return "random"; }

  [[nodiscard]] Verdict Decide(const Situation& situation, std::mt19937_64& random) override {
    const auto& offsets = situation.state.site_offsets;
    Decision decision;
    decision.action = Action::Keep(situation.state.Heads(), situation.state.Sites());
    decision.why = "drawn uniformly";
    for (std::size_t head = 0; head < situation.state.Heads(); ++head) {
      decision.action.score[head] = std::uniform_real_distribution<float>(0, 1)(random);
      if (situation.setting.active[head] == 0) continue;
      decision.action.scale[head] =
          Draw(situation.mask.scale[head], random, decision.log_probability);
    }
    for (std::size_t site = 0; site < situation.state.Sites(); ++site) {
      const auto change = static_cast<CountChange>(
          Draw(situation.mask.count[site], random, decision.log_probability));
      decision.action.count[site] = change;
      const std::size_t heads = offsets[site + 1] - offsets[site];
      const std::size_t active =
          CountActive(std::span(situation.setting.active).subspan(offsets[site], heads));
      const std::size_t count = ChangedCount(active, change, heads);
      // Which heads stay, or come in, is drawn without replacement: with equal scores every order
      // is as probable (Plackett–Luce).
      const std::size_t pool = count < active ? active : heads - active;
      const std::size_t drawn = count < active ? count : count - active;
      for (std::size_t i = 0; i < drawn; ++i) {
        decision.log_probability -= std::log(static_cast<float>(pool - i));
      }
    }
    return decision;
  }
};

}  // namespace

std::unique_ptr<Policy> MakeRandom() { return std::make_unique<RandomPolicy>(); }

}  // namespace attune
