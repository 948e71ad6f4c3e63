// keep: changes nothing. The only honest zero of every comparison.
#include "policies/rules.h"

namespace attune {
namespace {

class KeepPolicy : public Policy {
 public:
  [[nodiscard]] std::string_view Name() const override { return "keep"; }
  [[nodiscard]] Verdict Decide(const Situation& situation, std::mt19937_64& /*random*/) override {
    return Decision{Action::Keep(situation.state.Heads(), situation.state.Sites()),
                    "keep changes nothing"};
  }
};

}  // namespace

std::unique_ptr<Policy> MakeKeep() { return std::make_unique<KeepPolicy>(); }

}  // namespace attune
