// What plans are worth: Gaussian process regression within groups.
#include "experiments/critic.h"

#include <torch/torch.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>

namespace attune {
namespace {

// Among which the most likely are found. Lengths are in spreads of all traits together, variances
// in that of what plans do to jobs that are like each other.
constexpr std::array kPlanLengths = {0.5, 1.0, 2.0};
constexpr std::array kJobLengths = {0.5, 1.0, 2.0};
constexpr std::array kOwns = {0.0, 0.3, 1.0, 3.0};
constexpr std::array kLucks = {0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0};
// Factors on one trait (automatic relevance determination); 0: it tells nothing.
constexpr std::array kRelevances = {0.0, 0.5, 2.0, 4.0};
constexpr double kCommon = 0.5;
constexpr double kAnyway = 1e4;  // of what groups cost anyway
constexpr std::int64_t kFolds = 8;
constexpr double kLeastSpread = 1e-6;
constexpr std::int64_t kNoGroup = -1;

void Require(bool condition, const char* what) {
  if (!condition) throw std::invalid_argument(std::string("critic: ") + what);
}

torch::Tensor Row(std::span<const double> values) {
  return torch::tensor(std::vector<double>(values.begin(), values.end()), torch::kDouble)
      .unsqueeze(0);
}

// [n, m] squared distances by trait, on average.
torch::Tensor Distances(const torch::Tensor& a, const torch::Tensor& b) {
  return (a.unsqueeze(1) - b.unsqueeze(0)).square().mean(2);
}

torch::Tensor RootMeanSquare(const torch::Tensor& columns) {
  return columns.square().mean(0, true).sqrt().clamp_min(kLeastSpread);
}

// Some runs, or plans that were never run: [n, traits], [n, traits], [n].
struct Points {
  torch::Tensor plans, jobs, groups;

  [[nodiscard]] Points Select(const torch::Tensor& indices) const {
    return {plans.index_select(0, indices), jobs.index_select(0, indices),
            groups.index_select(0, indices)};
  }
};

torch::Tensor SameGroup(const Points& a, const Points& b) {
  return a.groups.unsqueeze(1).eq(b.groups.unsqueeze(0)).to(torch::kDouble);
}

struct Covariances {
  double plan_length = 1;
  double job_length = 1;
  double own = 0;
  double luck = 1;

  // Of f, [n, m].
  [[nodiscard]] torch::Tensor OfPlans(const Points& a, const Points& b) const {
    return (Distances(a.plans, b.plans) / (-2 * plan_length * plan_length)).exp() *
           (kCommon + (Distances(a.jobs, b.jobs) / (-2 * job_length * job_length)).exp() +
            own * SameGroup(a, b));
  }
  // Of costs, [n, n].
  [[nodiscard]] torch::Tensor OfCosts(const Points& runs) const {
    return OfPlans(runs, runs) + kAnyway * SameGroup(runs, runs) +
           luck * torch::eye(runs.plans.size(0), torch::kDouble);
  }
};

}  // namespace

struct Critic::Model {
  Points runs;
  torch::Tensor job_mean, job_spread, plan_spread;  // [1, traits]
  Covariances covariances;
  torch::Tensor inverse;  // of the covariance of costs
  torch::Tensor weights;  // inverse × costs, [runs]
  double variance = 1;    // of what plans do to jobs that are like each other
  double foreseen = 0;
};

Critic::Critic(std::span<const PlannedRun> runs) : model_(std::make_unique<Model>()) {
  std::map<std::size_t, std::int64_t> sizes;
  for (const PlannedRun& run : runs) {
    const auto finite = [](double value) { return std::isfinite(value); };
    Require(run.job.size() == runs[0].job.size() && run.plan.size() == runs[0].plan.size(),
            "the runs have different numbers of traits");
    Require(std::ranges::all_of(run.job, finite) && std::ranges::all_of(run.plan, finite) &&
                finite(run.cost),
            "a number is not finite");
    ++sizes[run.group];
  }
  std::erase_if(sizes, [](const auto& group) { return group.second < 2; });  // nothing to compare
  Require(sizes.size() >= 2, "at least two groups must have two runs");
  std::vector<torch::Tensor> jobs;
  std::vector<torch::Tensor> plans;
  std::vector<std::int64_t> groups;
  std::vector<std::int64_t> folds;
  std::map<std::string, std::int64_t> fold_of;  // by turns
  std::vector<double> values;
  for (const PlannedRun& run : runs) {
    const auto group = sizes.find(run.group);
    if (group == sizes.end()) continue;
    jobs.push_back(Row(run.job));
    plans.push_back(Row(run.plan));
    groups.push_back(static_cast<std::int64_t>(run.group));
    const auto turn = static_cast<std::int64_t>(fold_of.size()) % kFolds;
    folds.push_back(fold_of.try_emplace(run.name, turn).first->second);
    values.push_back(run.cost);
  }

  Model& model = *model_;
  model.runs = {torch::cat(plans), torch::cat(jobs), torch::tensor(groups)};
  model.job_mean = model.runs.jobs.mean(0, true);
  model.job_spread = RootMeanSquare(model.runs.jobs - model.job_mean);
  model.runs.jobs = (model.runs.jobs - model.job_mean) / model.job_spread;
  model.plan_spread = RootMeanSquare(model.runs.plans);
  model.runs.plans = model.runs.plans / model.plan_spread;
  const torch::Tensor costs = torch::tensor(values, torch::kDouble);
  // A group's level is free, so that it has one observation less than runs.
  const auto observations = static_cast<double>(values.size() - sizes.size());

  double most = -std::numeric_limits<double>::infinity();
  // Takes what is more likely than all before; says whether it was.
  const auto consider = [&](const Covariances& candidate, const Points& points) {
    const torch::Tensor root = torch::linalg_cholesky(candidate.OfCosts(points));
    const torch::Tensor white =
        torch::linalg_solve_triangular(root, costs.unsqueeze(1), false).squeeze(1);
    // The variance of all is the most likely one, given the rest.
    const double variance =
        std::max(white.square().sum().item<double>() / observations, kLeastSpread);
    const double likelihood =
        -0.5 * observations * std::log(variance) - root.diagonal().log().sum().item<double>();
    if (likelihood <= most) return false;
    most = likelihood;
    model.covariances = candidate;
    model.variance = variance;
    return true;
  };
  for (const double plan_length : kPlanLengths) {
    for (const double job_length : kJobLengths) {
      for (const double own : kOwns) {
        for (const double luck : kLucks) consider({plan_length, job_length, own, luck}, model.runs);
      }
    }
  }
  // Then, one trait after the other, how much it matters beside the others.
  for (auto [traits, spread] : {std::pair{&Points::jobs, &model.job_spread},
                                std::pair{&Points::plans, &model.plan_spread}}) {
    for (std::int64_t trait = 0; trait < spread->size(1); ++trait) {
      const torch::Tensor as_it_was = (model.runs.*traits).select(1, trait).clone();
      const double spread_before = spread->select(1, trait).item<double>();
      for (const double relevance : kRelevances) {
        Points points = model.runs;
        points.*traits = (points.*traits).clone();
        (points.*traits).select(1, trait).copy_(as_it_was * relevance);
        if (!consider(model.covariances, points)) continue;
        model.runs = points;
        spread->select(1, trait).fill_(spread_before / relevance);
      }
    }
  }
  model.inverse = torch::linalg_inv(model.covariances.OfCosts(model.runs));
  model.weights = model.inverse.mv(costs);

  const torch::Tensor fold = torch::tensor(folds);
  double error = 0;
  double total = 0;
  for (std::int64_t out = 0; out < kFolds; ++out) {
    const torch::Tensor tests = fold.eq(out).nonzero().squeeze(1);
    const torch::Tensor lessons = fold.ne(out).nonzero().squeeze(1);
    if (tests.size(0) == 0 || lessons.size(0) == 0) continue;
    const Points known = model.runs.Select(lessons);
    const Points asked = model.runs.Select(tests);
    const torch::Tensor foreseen = model.covariances.OfPlans(asked, known)
                                       .mv(torch::linalg_solve(model.covariances.OfCosts(known),
                                                               costs.index_select(0, lessons)));
    // Within each group.
    const torch::Tensor same = SameGroup(asked, asked);
    const auto centred = [&](const torch::Tensor& all) { return all - same.mv(all) / same.sum(1); };
    const torch::Tensor truth = centred(costs.index_select(0, tests));
    error += (truth - centred(foreseen)).square().sum().item<double>();
    total += truth.square().sum().item<double>();
  }
  model.foreseen = total > 0 ? 1 - error / total : 0;
}

Critic::~Critic() = default;
Critic::Critic(Critic&&) noexcept = default;
Critic& Critic::operator=(Critic&&) noexcept = default;

double Critic::Foreseen() const { return model_->foreseen; }

Critic::Difference Critic::Judge(std::span<const double> job, std::span<const double> plan,
                                 std::optional<std::size_t> group) const {
  const Model& model = *model_;
  Require(static_cast<std::int64_t>(job.size()) == model.runs.jobs.size(1) &&
              static_cast<std::int64_t>(plan.size()) == model.runs.plans.size(1),
          "other traits than those learned from");
  const Points done = {
      Row(plan) / model.plan_spread, (Row(job) - model.job_mean) / model.job_spread,
      torch::full({1}, group ? static_cast<std::int64_t>(*group) : kNoGroup, torch::kLong)};
  const Points nothing = {torch::zeros_like(done.plans), done.jobs, done.groups};
  const Covariances& covariances = model.covariances;
  const torch::Tensor shared =
      (covariances.OfPlans(done, model.runs) - covariances.OfPlans(nothing, model.runs)).squeeze(0);
  const double before =
      (covariances.OfPlans(done, done) + covariances.OfPlans(nothing, nothing)).item<double>() -
      2 * covariances.OfPlans(done, nothing).item<double>();
  const double known = shared.dot(model.inverse.mv(shared)).item<double>();
  return {shared.dot(model.weights).item<double>(),
          std::sqrt(model.variance * std::max(before - known, 0.0))};
}

}  // namespace attune
