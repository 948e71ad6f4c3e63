// What plans are worth to jobs, learned from many jobs at once.
//
// A handful of runs of one job has much luck in it, and the best of them is as often the luckiest
// as the best planned. So the cost of a run is taken to be what its group costs anyway + f(plan) +
// luck, and f is learned over all jobs together by Gaussian process regression (Rasmussen and
// Williams 2006), whose covariance says that like plans do alike: in part to all jobs, in part to
// jobs that are like each other, and in part to this job alone:
//
//   cov(f(p), f(p')) = exp(−|p − p'|² / 2a²) (kCommon + exp(−|j − j'|² / 2b²) + own [same group])
//
// with distances in spreads of the traits of plans p and jobs j, each trait with a relevance. What
// a group costs anyway has a variance so large that it says nothing; a, b, own, the variance of
// luck and the relevances are the most likely ones. A plan is judged by f of it less f of the plan
// whose traits are all 0, which leaves the job alone.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace attune {

struct PlannedRun {
  std::string name;          // of the job, whatever its seed: what is left out together
  std::size_t group = 0;     // runs of the same job and seed
  std::vector<double> job;   // traits of the job, the same in all its group
  std::vector<double> plan;  // of what was done
  double cost = 0;           // the less the better
};

class Critic {
 public:
  // All runs have as many traits. Throws std::invalid_argument if they do not, if a number is not
  // finite, or if fewer than two groups have two runs. Takes time and memory as the cube and the
  // square of the runs: 1,000 take seconds.
  explicit Critic(std::span<const PlannedRun> runs);
  ~Critic();
  Critic(Critic&&) noexcept;
  Critic& operator=(Critic&&) noexcept;

  // Of the plan over leaving the job alone, in the unit of costs.
  struct Difference {
    double mean = 0;
    double deviation = 0;  // of what is believed
  };
  // `group`: whose own runs tell of it too; none: a job of which no run is known.
  [[nodiscard]] Difference Judge(std::span<const double> job, std::span<const double> plan,
                                 std::optional<std::size_t> group = std::nullopt) const;

  // Share of the variance within groups that is foreseen in jobs left out, with all their seeds
  // (the lengths and relevances are those of all jobs); negative where nothing would have been
  // foreseen better.
  [[nodiscard]] double Foreseen() const;

 private:
  struct Model;
  std::unique_ptr<Model> model_;
};

}  // namespace attune
