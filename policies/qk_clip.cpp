// qk_clip: the per-head rule of Kimi K2 (2507.20534), as a reference.
//
// There, after every step, a head whose largest logit S exceeds tau has its query and key weights
// scaled so that its logits shrink by tau / S. Here the nearer of ÷ 4 and ÷ 1.5 is taken once a
// window.
#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "policies/rules.h"

namespace attune {
namespace {

constexpr float kTau = 100.0F;

class QkClipPolicy : public Policy {
 public:
  [[nodiscard]] std::string_view Name() const override { return "qk_clip"; }

  [[nodiscard]] Verdict Decide(const Situation& situation, std::mt19937_64& /*random*/) override {
    Decision decision;
    decision.action = Action::Keep(situation.state.Heads(), situation.state.Sites());
    std::size_t clipped = 0;
    for (std::size_t head = 0; head < situation.state.Heads(); ++head) {
      const float largest = situation.now.At(head, Metric::kLargestLogit);
      if (situation.setting.active[head] == 0 || largest <= kTau) continue;
      const float wanted = std::log(kTau / largest);
      std::uint8_t nearest = kKeepScale;  // where the lower bound of the scale closes both
      float distance = std::numeric_limits<float>::infinity();
      for (std::uint8_t choice = 0; choice < kKeepScale; ++choice) {
        if (situation.mask.scale[head][choice] == 0) continue;
        const float away = std::abs(std::log(kScaleFactors[choice]) - wanted);
        if (away < distance) {
          distance = away;
          nearest = choice;
        }
      }
      decision.action.scale[head] = nearest;
      clipped += nearest != kKeepScale ? 1 : 0;
    }
    decision.why = clipped == 0 ? fmt::format("no largest logit above {}", kTau)
                                : fmt::format("{} heads with logits above {}", clipped, kTau);
    return decision;
  }
};

}  // namespace

std::unique_ptr<Policy> MakeQkClip() { return std::make_unique<QkClipPolicy>(); }

}  // namespace attune
