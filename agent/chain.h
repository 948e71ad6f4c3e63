// Who is asked, in order, until one is fit to decide (design §6): the reasons of those who declined
// become part of the trial.
#pragma once

#include <memory>
#include <random>
#include <string>
#include <string_view>

#include "policies/policy.h"

namespace attune {

class Chain {
 public:
  // `policy` as the knob of that name has it: auto or one policy, behind which kmeans (behind the
  // network) and keep stand in. Throws std::invalid_argument for another name.
  explicit Chain(std::string_view policy);

  // The network that decides from now on; null: none has been learned.
  void SetNetwork(std::unique_ptr<Policy> network) { network_ = std::move(network); }
  // Whether `name` is a policy that Chain knows.
  [[nodiscard]] static bool Knows(std::string_view name);
  void Use(std::string_view policy);
  [[nodiscard]] const std::string& Policy() const { return policy_; }

  struct Choice {
    Decision decision;
    std::string decider;
  };
  // The job's own policy decides where it asked for one. Never throws: a policy that fails is as
  // one that declines, and keep always answers.
  [[nodiscard]] Choice Decide(const Situation& situation, std::mt19937_64& random);

 private:
  std::string policy_;
  std::unique_ptr<attune::Policy> keep_, random_, kmeans_, qk_clip_, explore_, grow_, importance_;
  std::unique_ptr<attune::Policy> network_;
};

}  // namespace attune
