// Who is asked, in order, until one is fit to decide: the reasons of those who declined
// become part of the trial.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "policies/policy.h"

namespace attune {

// Who may be asked to decide.
inline constexpr std::array<std::string_view, 9> kPolicyNames = {
    "auto", "keep", "random", "kmeans", "qk_clip", "importance", "explore", "network", "external"};

class Chain {
 public:
  // `policy` as the knob of that name has it: auto or one policy, behind which kmeans (behind the
  // network or external) and keep stand in. Throws std::invalid_argument for another name.
  explicit Chain(std::string_view policy);

  // The network that decides from now on; null: none has been learned.
  void SetNetwork(std::unique_ptr<Policy> network) { network_ = std::move(network); }
  // Whether a policy server can be asked.
  void SetServed(bool served) { served_ = served; }
  // Whether somebody outside is to be asked about this job before Decide: its policy is external,
  // and a policy server can be asked.
  [[nodiscard]] bool AsksOutside(const JobSpec& job) const;
  // Whether `name` is a policy that Chain knows.
  [[nodiscard]] static bool Knows(std::string_view name);
  void Use(std::string_view policy);
  [[nodiscard]] const std::string& Policy() const { return policy_; }

  struct Choice {
    Decision decision;
    std::string decider;
  };
  // The job's own policy decides where it asked for one. `outside` is what came of asking a policy
  // server, and counts where the policy is external. Never throws: a policy that fails is as one
  // that declines, and keep always answers.
  [[nodiscard]] Choice Decide(const Situation& situation, std::mt19937_64& random,
                              const Verdict& outside = Decline{"no policy server can be asked"});
  // Before the job's first step (Policy::Open): the first in the order alone is asked, and nothing
  // is decided where it declines or fails. Policy servers are not asked.
  [[nodiscard]] std::optional<Choice> Open(const Situation& situation, std::mt19937_64& random);

 private:
  [[nodiscard]] const std::string& AskedFor(const JobSpec& job) const;
  [[nodiscard]] std::vector<attune::Policy*> Order(const std::string& asked) const;

  bool served_ = false;
  std::string policy_;
  std::unique_ptr<attune::Policy> keep_, random_, kmeans_, qk_clip_, explore_, importance_;
  std::unique_ptr<attune::Policy> network_;
};

}  // namespace attune
