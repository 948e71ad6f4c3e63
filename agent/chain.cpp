#include "agent/chain.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "policies/rules.h"

namespace attune {
namespace {

bool NeedsNetwork(std::string_view asked) {
  return asked == "auto" || asked == "network" || asked == "external";
}

}  // namespace

Chain::Chain(std::string_view policy)
    : keep_(MakeKeep()),
      random_(MakeRandom()),
      kmeans_(MakeKMeans()),
      qk_clip_(MakeQkClip()),
      explore_(MakeExplore()),
      importance_(MakeImportance()) {
  Use(policy);
}

bool Chain::Knows(std::string_view name) {
  return std::ranges::find(kPolicyNames, name) != kPolicyNames.end();
}

void Chain::Use(std::string_view policy) {
  if (!Knows(policy)) throw std::invalid_argument(fmt::format("there is no policy '{}'", policy));
  policy_ = policy;
}

const std::string& Chain::AskedFor(const JobSpec& job) const {
  return job.policy.empty() ? policy_ : job.policy;
}

bool Chain::AsksOutside(const JobSpec& job) const { return served_ && AskedFor(job) == "external"; }

std::vector<attune::Policy*> Chain::Order(const std::string& asked) const {
  std::vector<attune::Policy*> order;
  if (NeedsNetwork(asked)) {
    if (network_) order.push_back(network_.get());
    order.push_back(kmeans_.get());
  } else if (asked == "random") {
    order.push_back(random_.get());
  } else if (asked == "kmeans") {
    order.push_back(kmeans_.get());
  } else if (asked == "qk_clip") {
    order.push_back(qk_clip_.get());
  } else if (asked == "importance") {
    order.push_back(importance_.get());
  } else if (asked == "explore") {
    order.push_back(explore_.get());
  }
  order.push_back(keep_.get());
  return order;
}

Chain::Choice Chain::Decide(const Situation& situation, std::mt19937_64& random,
                            const Verdict& outside) {
  std::string reasons;
  const std::string& asked = AskedFor(situation.job);
  if (asked == "external") {
    if (const auto* decision = std::get_if<Decision>(&outside)) return {*decision, asked};
    reasons = fmt::format("external: {}; ", std::get<Decline>(outside).why);
  }
  if (NeedsNetwork(asked) && !network_) reasons += "network: none has been learned yet; ";
  for (attune::Policy* policy : Order(asked)) {
    try {
      Verdict verdict = policy->Decide(situation, random);
      if (auto* decision = std::get_if<Decision>(&verdict)) {
        if (const auto fault = FindFault(decision->action, situation.mask)) {
          throw std::runtime_error(*fault);
        }
        decision->why = reasons + decision->why;
        return {std::move(*decision), std::string(policy->Name())};
      }
      reasons += fmt::format("{}: {}; ", policy->Name(), std::get<Decline>(verdict).why);
    } catch (const std::exception& error) {
      reasons += fmt::format("{} failed: {}; ", policy->Name(), error.what());
    }
  }
  return {{Action::Keep(situation.state.Heads(), situation.state.Sites()), reasons}, "keep"};
}

std::optional<Chain::Choice> Chain::Open(const Situation& situation, std::mt19937_64& random) {
  const std::string& asked = AskedFor(situation.job);
  if (asked == "external") return std::nullopt;
  attune::Policy& policy = *Order(asked).front();
  try {
    Verdict verdict = policy.Open(situation, random);
    auto* decision = std::get_if<Decision>(&verdict);
    if (decision == nullptr || FindFault(decision->action, situation.mask)) return std::nullopt;
    return Choice{std::move(*decision), std::string(policy.Name())};
  } catch (const std::exception&) {
    return std::nullopt;
  }
}

}  // namespace attune
