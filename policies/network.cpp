// The policy that learns: its network, how it draws and judges actions, and how it learns.
#include "policies/network.h"

#include <fcntl.h>
#include <torch/torch.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <limits>
#include <numeric>
#include <optional>
#include <system_error>
#include <utility>

#include "policies/inference.h"
#include "policies/layers.h"

// shipped.cpp
extern "C" {
extern const char attune_shipped_network[];
extern const char attune_shipped_network_end[];
}

namespace attune {
namespace {

constexpr std::int64_t kFormat = 1;          // of the checkpoint
constexpr double kMaxDivergence = 0.03;      // an Update stops once it went this far
constexpr double kLeashWeight = 1;           // of the distance from it, beside the policy's loss
constexpr double kMaxLogRatio = 20;          // keeps the probability ratio finite
constexpr std::size_t kSitesNamedInWhy = 2;  // the rest are counted
constexpr std::size_t kReasons = 4;          // features named in why
constexpr int kPathSteps = 8;                // of the integral behind them

// Throws std::invalid_argument unless the sample's parts fit each other and its choices are open.
void Check(const Sample& sample) {
  const std::size_t heads = sample.state.Heads();
  const std::size_t sites = sample.state.Sites();
  if (heads == 0 || sample.state.tokens.size() != heads * kTokenFeatures ||
      sample.mask.scale.size() != heads || sample.mask.count.size() != sites ||
      sample.action.scale.size() != heads || sample.action.score.size() != heads ||
      sample.action.count.size() != sites || sample.active_before.size() != heads ||
      sample.active_after.size() != heads) {
    throw std::invalid_argument("sample: its sizes are not those of its state's " +
                                std::to_string(heads) + " heads and " + std::to_string(sites) +
                                " sites");
  }
  for (std::size_t head = 0; head < heads; ++head) {
    const std::size_t choice = sample.action.scale[head];
    if (sample.active_before[head] != 0 &&
        (choice >= kScaleChoices || sample.mask.scale[head][choice] == 0)) {
      throw std::invalid_argument("sample: scale choice " + std::to_string(choice) + " of head " +
                                  std::to_string(head) + " is not open");
    }
  }
  for (std::size_t site = 0; site < sites; ++site) {
    const auto choice = static_cast<std::size_t>(sample.action.count[site]);
    if (choice >= kCountChoices || sample.mask.count[site][choice] == 0) {
      throw std::invalid_argument("sample: count choice " + std::to_string(choice) + " of site " +
                                  std::to_string(site) + " is not open");
    }
  }
}

// How many of the samples, from the first on, are worked on at once: `most`, or fewer where their
// jobs are so large that what LibTorch keeps of each row would be gigabytes. Rows are sites × heads
// of the widest site (MakeBatch).
std::size_t Together(std::span<const Sample* const> samples, std::size_t most) {
  constexpr std::size_t kMostRows = 131'072;
  std::size_t sites = 0;
  std::size_t widest = 0;
  std::size_t count = 0;
  for (const Sample* sample : samples.first(std::min(most, samples.size()))) {
    const std::vector<std::uint32_t>& offsets = sample->state.site_offsets;
    sites += sample->state.Sites();
    for (std::size_t site = 1; site < offsets.size(); ++site) {
      widest = std::max<std::size_t>(widest, offsets[site] - offsets[site - 1]);
    }
    if (count > 0 && sites * widest > kMostRows) break;
    ++count;
  }
  return count;
}

// Mean of ratio − 1 − log ratio: an estimate of the Kullback–Leibler divergence, never negative.
torch::Tensor Divergence(const torch::Tensor& before, const torch::Tensor& now) {
  const torch::Tensor log_ratio = (now - before).clamp(-kMaxLogRatio, kMaxLogRatio);
  return (log_ratio.exp() - 1 - log_ratio).mean();
}

// Standard Gumbel noise; the same numbers from the same generator on every platform.
double Gumbel(std::mt19937_64& random) {
  const double uniform = (static_cast<double>(random() >> 11) + 0.5) * 0x1p-53;
  return -std::log(-std::log(uniform));
}

// Index of the largest of the open log-probabilities, each with its noise.
template <std::size_t N, typename Noise>
std::size_t Pick(const float* log_probability, const std::array<std::uint8_t, N>& open,
                 Noise&& noise) {
  std::size_t best = N;
  double best_value = 0;
  for (std::size_t choice = 0; choice < N; ++choice) {
    if (open[choice] == 0) continue;
    const double value = log_probability[choice] + noise();
    if (best == N || value > best_value) {
      best = choice;
      best_value = value;
    }
  }
  return best;
}

std::string TwoDecimals(double value) {
  std::array<char, 32> text;
  std::snprintf(text.data(), text.size(), "%.2f", value);
  return text.data();
}

std::string Signed(double value) { return (value < 0 ? "−" : "+") + TwoDecimals(std::abs(value)); }

// What an action changes, in one line.
std::string Describe(const Topology& topology, const Action& action, const float* count,
                     std::span<const std::uint8_t> active) {
  std::string why;
  std::size_t changed = 0;
  for (std::size_t site = 0; site < action.count.size(); ++site) {
    if (action.count[site] == CountChange::kKeep || ++changed > kSitesNamedInWhy) continue;
    const auto choice = static_cast<std::size_t>(action.count[site]);
    why += (why.empty() ? "count of site " : ", of site ") + topology.sites[site].name + ": " +
           std::string(Name(action.count[site])) + " (" +
           TwoDecimals(std::exp(count[site * kCountChoices + choice])) + ")";
  }
  if (changed > kSitesNamedInWhy) {
    why += ", of " + std::to_string(changed - kSitesNamedInWhy) + " more";
  }
  std::size_t scaled = 0;
  for (std::size_t head = 0; head < action.scale.size(); ++head) {
    if (active[head] != 0 && action.scale[head] != kKeepScale) ++scaled;
  }
  if (scaled > 0) {
    why += (why.empty() ? "scale of " : "; scale of ") + std::to_string(scaled) +
           (scaled == 1 ? " head" : " heads");
  }
  return why.empty() ? "keeps everything" : why;
}

// What moved a decision: the mean log-odds of its changes of count (of scale, where it has none)
// against keeping, shared out over the token's features by integrated gradients (1703.01365) from
// tokens of zeros on. The shares sum to how far the log-odds are from those of such tokens.
std::string Reasons(Layers& layers, const Sample& sample) {
  const Action& action = sample.action;
  std::vector<std::int64_t> places;
  std::vector<std::int64_t> choices;
  const bool counts = std::ranges::any_of(
      action.count, [](CountChange change) { return change != CountChange::kKeep; });
  const std::int64_t keep = counts ? static_cast<std::int64_t>(CountChange::kKeep) : kKeepScale;
  const std::size_t most = counts ? action.count.size() : action.scale.size();
  for (std::size_t place = 0; place < most; ++place) {
    const std::int64_t choice =
        counts ? static_cast<std::int64_t>(action.count[place]) : action.scale[place];
    if (choice == keep || (!counts && sample.active_before[place] == 0)) continue;
    places.push_back(static_cast<std::int64_t>(place));
    choices.push_back(choice);
  }
  if (places.empty()) return {};
  const torch::AutoGradMode gradients(true);
  // The points of the path side by side, as jobs; the last are the tokens themselves.
  const std::vector<const Sample*> jobs(kPathSteps + 1, &sample);
  Batch batch = MakeBatch(jobs);
  const std::int64_t points = batch.Jobs();
  torch::Tensor way = (torch::arange(points) + 0.5) / kPathSteps;
  way[kPathSteps] = 1;
  const torch::Tensor tokens = batch.tokens.view({points, -1, std::int64_t{kTokenFeatures}});
  batch.tokens = (tokens * way.view({-1, 1, 1})).view_as(batch.tokens).requires_grad_(true);
  const Outputs outputs = layers.Forward(batch);
  const auto number = static_cast<std::int64_t>(places.size());
  const torch::Tensor log = counts ? outputs.count : outputs.scale;
  const torch::Tensor changing =
      log.view({points, -1, log.size(1)}).index_select(1, ToTensor(places, {number}, torch::kLong));
  const torch::Tensor choice = ToTensor(choices, {1, number, 1}, torch::kLong);
  const torch::Tensor log_odds =
      (changing.gather(2, choice.expand({points, number, 1})).squeeze(2) - changing.select(2, keep))
          .mean(1);
  const torch::Tensor slope =
      torch::autograd::grad({log_odds.narrow(0, 0, kPathSteps).mean()}, {batch.tokens})[0];
  const torch::Tensor share = (tokens[0] * slope.view_as(tokens).sum(0)).sum(0).contiguous();
  const double odds = log_odds[kPathSteps].item<double>();
  std::vector<std::size_t> order(kTokenFeatures);
  std::iota(order.begin(), order.end(), std::size_t{0});
  const float* const shares = share.data_ptr<float>();
  std::ranges::sort(order, [&](std::size_t a, std::size_t b) {
    return std::abs(shares[a]) > std::abs(shares[b]);
  });
  std::string text = "; log-odds " + Signed(odds) + " beside keeping, moved by ";
  for (std::size_t i = 0; i < kReasons; ++i) {
    text += (i == 0 ? "" : ", ") + std::string(kTokenFeatureNames[order[i]]) + " " +
            Signed(shares[order[i]]);
  }
  return text;
}

// The first line of what LibTorch says, without its stack.
std::string FirstLine(const c10::Error& error) {
  const std::string text = error.what_without_backtrace();
  return text.substr(0, text.find('\n'));
}

std::string JoinedFeatureNames() {
  std::string names;
  for (const std::string_view name : kTokenFeatureNames) {
    if (!names.empty()) names += ',';
    names += name;
  }
  return names;
}

// Brings a written file or folder to the disk.
void Sync(const std::filesystem::path& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  const bool done = file >= 0 && ::fsync(file) == 0;
  const int error = errno;
  if (file >= 0) ::close(file);
  if (!done) {
    throw NetworkError("checkpoint '" + path.string() +
                       "': cannot be synced: " + std::generic_category().message(error));
  }
}

// All weights from one row.
void Assign(Layers& layers, const torch::Tensor& row) {
  const torch::NoGradGuard no_grad;
  std::int64_t first = 0;
  for (torch::Tensor& weight : layers.parameters()) {
    weight.copy_(row.narrow(0, first, weight.numel()).view_as(weight));
    first += weight.numel();
  }
}

// The weights of a network that knew so many features as those of one that knows all and thinks
// nothing of the others. The first matrix, [hidden × features], is the encoder's.
torch::Tensor Widened(const torch::Tensor& weights, std::int64_t hidden, std::int64_t known) {
  const torch::Tensor encoder = weights.narrow(0, 0, hidden * known).view({hidden, known});
  const torch::Tensor rest = weights.narrow(0, hidden * known, weights.numel() - hidden * known);
  const torch::Tensor others =
      torch::zeros({hidden, std::int64_t{kTokenFeatures} - known}, weights.options());
  return torch::cat({torch::cat({encoder, others}, 1).flatten(), rest});
}

}  // namespace

struct Network::Model {
  explicit Model(const NetworkOptions& network_options)
      : options(network_options),
        layers(network_options.hidden, network_options.seed),
        adam(layers.parameters(), torch::optim::AdamOptions(network_options.learning_rate)),
        shuffle(network_options.seed) {}

  // All weights in one row.
  torch::Tensor Weights() const {
    std::vector<torch::Tensor> rows;
    for (const torch::Tensor& weight : layers.parameters()) {
      rows.push_back(weight.detach().flatten());
    }
    return torch::cat(rows);
  }

  void SetWeights(const torch::Tensor& row) { Assign(layers, row); }

  // [J] Kullback–Leibler divergence of the choices from those of the network it is leashed to.
  torch::Tensor Distance(const Batch& batch, const Outputs& outputs) {
    Outputs was;
    {
      const torch::NoGradGuard no_grad;
      was = leash->Forward(batch);
    }
    const auto of = [](const torch::Tensor& from, const torch::Tensor& now) {
      return (from.exp() * (from - now)).sum(1);
    };
    return torch::zeros({batch.Jobs()})
        .index_add(0, batch.job_of_head, of(was.scale, outputs.scale) * batch.active)
        .index_add(0, batch.job_of_site, of(was.count, outputs.count));
  }

  // Calls loss(picked, before, batch, choices, outputs, terms) for one minibatch after another and
  // descends on what it returns; it returns nothing to stop. `picked` are the samples' indices,
  // `before` the log-probabilities of all samples when learning began. Then fills in what the
  // report says of all samples.
  template <typename Loss>
  void Learn(std::span<const Sample* const> samples, UpdateReport& report, Loss&& loss);

  // Calls visit(batch, choices, outputs, terms) over all samples in order, without
  // gradients.
  template <typename Visit>
  void ForAll(std::span<const Sample* const> samples, Visit&& visit) {
    const torch::NoGradGuard no_grad;
    const auto size = static_cast<std::size_t>(options.minibatch);
    for (auto left = samples; !left.empty();) {
      const auto some = left.first(Together(left, size));
      left = left.subspan(some.size());
      const Batch batch = MakeBatch(some);
      const Choices choices = MakeChoices(some);
      const Outputs outputs = layers.Forward(batch);
      visit(batch, choices, outputs, Judge(batch, outputs, choices));
    }
  }

  // Throws NetworkError where it is of another format or network; `name` begins the message.
  static std::unique_ptr<Network> Read(torch::serialize::InputArchive& archive,
                                       const std::string& name, const NetworkOptions& options);

  // [samples] log-probabilities under the present weights.
  torch::Tensor LogProbabilities(std::span<const Sample* const> samples) {
    std::vector<torch::Tensor> parts;
    ForAll(samples,
           [&](const Batch& batch, const Choices& choices, const Outputs&, const Terms& terms) {
             parts.push_back(LogProbability(batch, choices, terms));
           });
    return torch::cat(parts);
  }

  NetworkOptions options;
  Layers layers;
  std::optional<Layers> leash;
  torch::optim::Adam adam;
  std::mt19937_64 shuffle;
  std::uint64_t trials = 0;
  std::uint64_t openings = 0;  // of the trials
  std::uint64_t version = 0;
};

template <typename Loss>
void Network::Model::Learn(std::span<const Sample* const> samples, UpdateReport& report,
                           Loss&& loss) {
  const torch::Tensor before = LogProbabilities(samples);
  std::vector<std::int64_t> order(samples.size());
  std::iota(order.begin(), order.end(), std::int64_t{0});
  const auto size = static_cast<std::size_t>(options.minibatch);
  bool stopped = false;
  double minibatches = 0;
  for (std::int64_t epoch = 0; epoch < options.epochs && !stopped; ++epoch) {
    std::shuffle(order.begin(), order.end(), shuffle);
    std::vector<const Sample*> shuffled;
    for (const std::int64_t index : order) {
      shuffled.push_back(samples[static_cast<std::size_t>(index)]);
    }
    std::size_t first = 0;
    while (first < shuffled.size() && !stopped) {
      const auto left = std::span<const Sample* const>(shuffled).subspan(first);
      const auto some = left.first(Together(left, size));
      const auto begin = order.begin() + static_cast<std::ptrdiff_t>(first);
      const std::vector<std::int64_t> indices(begin,
                                              begin + static_cast<std::ptrdiff_t>(some.size()));
      first += some.size();
      const torch::Tensor picked =
          ToTensor(indices, {static_cast<std::int64_t>(indices.size())}, torch::kLong);
      const Batch batch = MakeBatch(some);
      const Choices choices = MakeChoices(some);
      const Outputs outputs = layers.Forward(batch);
      const Terms terms = Judge(batch, outputs, choices);
      const std::optional<torch::Tensor> objective =
          loss(picked, before, batch, choices, outputs, terms);
      if (!objective) {
        stopped = true;
        continue;
      }
      adam.zero_grad();
      objective->backward();
      const double norm =
          torch::nn::utils::clip_grad_norm_(layers.parameters(), options.max_gradient_norm);
      if (!std::isfinite(norm)) {
        throw NetworkError(
            "a gradient is not finite; its minibatch and those behind it were left out: look for "
            "rewards or features that are not finite");
      }
      adam.step();
      ++minibatches;
    }
  }
  report.policy_loss /= std::max(minibatches, 1.0);
  report.value_loss /= std::max(minibatches, 1.0);

  std::vector<torch::Tensor> now;
  double entropy = 0;
  double agreed = 0;
  double open_sites = 0;
  ForAll(samples, [&](const Batch& batch, const Choices& choices, const Outputs& outputs,
                      const Terms& terms) {
    now.push_back(LogProbability(batch, choices, terms));
    entropy += Entropy(batch, outputs).sum().item<double>();
    const torch::Tensor open = batch.count_open.sum(1) > 1;
    agreed += outputs.count.argmax(1).eq(choices.count).logical_and(open).sum().item<double>();
    open_sites += open.sum().item<double>();
  });
  report.entropy = entropy / static_cast<double>(samples.size());
  report.divergence = Divergence(before, torch::cat(now)).item<double>();
  report.agreement = open_sites > 0 ? agreed / open_sites : 1;
}

Network::Network(const NetworkOptions& options) {
  torch::set_num_threads(1);
  model_ = std::make_shared<Model>(options);
}

Network::~Network() = default;

Verdict Network::Decide(const Situation& situation, std::mt19937_64& random) {
  const NetworkOptions& options = model_->options;
  if (model_->trials < options.least_trials) {
    return Decline{"has learned from " + std::to_string(model_->trials) + " trials, needs " +
                   std::to_string(options.least_trials)};
  }
  const State& state = situation.state;
  const std::vector<std::uint8_t>& active = situation.setting.active;
  const Preferences prefers = Prefer(model_->layers, state, situation.mask);
  for (const std::vector<float>* const values : {&prefers.scale, &prefers.count, &prefers.score}) {
    if (!std::ranges::all_of(*values, [](float x) { return std::isfinite(x); })) {
      return Decline{"an output is not finite"};
    }
  }
  for (std::size_t site = 0; site < state.Sites(); ++site) {
    const auto of_site = std::span(prefers.count).subspan(site * kCountChoices, kCountChoices);
    const double confidence = std::exp(*std::ranges::max_element(of_site));
    if (confidence < options.least_confidence) {
      return Decline{"not sure enough of site '" + situation.job.topology.sites[site].name + "': " +
                     TwoDecimals(confidence) + ", needs " + TwoDecimals(options.least_confidence)};
    }
  }

  // The largest of log-probabilities with Gumbel noise is a draw from them, and the order of scores
  // with Gumbel noise a draw without replacement (1903.06059).
  const bool draws = std::uniform_real_distribution<double>(0, 1)(random) < options.explore;
  const auto noise = [&] { return draws ? Gumbel(random) : 0.0; };
  Decision decision;
  decision.action = Action::Keep(state.Heads(), state.Sites());
  Action& action = decision.action;
  for (std::size_t head = 0; head < state.Heads(); ++head) {
    if (active[head] != 0) {
      action.scale[head] = static_cast<std::uint8_t>(
          Pick(prefers.scale.data() + head * kScaleChoices, situation.mask.scale[head], noise));
    }
    action.score[head] = static_cast<float>(prefers.score[head] + noise());
  }
  std::vector<std::uint8_t> active_after = active;
  for (std::size_t site = 0; site < state.Sites(); ++site) {
    const auto change = static_cast<CountChange>(
        Pick(prefers.count.data() + site * kCountChoices, situation.mask.count[site], noise));
    action.count[site] = change;
    if (change == CountChange::kKeep) continue;
    const std::size_t first = state.site_offsets[site];
    const std::size_t heads = state.site_offsets[site + 1] - first;
    const auto after = std::span(active_after).subspan(first, heads);
    SelectHeads(after, std::span(action.score).subspan(first, heads),
                ChangedCount(CountActive(after), change, heads));
  }
  decision.why = Describe(situation.job.topology, action, prefers.count.data(), active);
  if (draws) {
    decision.log_probability = LogProbability(prefers, state, action, active, active_after);
  }
  decision.policy_version = model_->version;
  decision.reasons = [model = model_,
                      sample = MakeSample(state, situation.mask, action, active, active_after)] {
    return Reasons(model->layers, sample);
  };
  return decision;
}

Verdict Network::Open(const Situation& situation, std::mt19937_64& random) {
  if (model_->openings == 0) return Decline{"has learned from no decision before a first step"};
  if (situation.job.learning_rate == 0) return Decline{"the job does not say its learning rate"};
  if (situation.job.optimizer.empty()) return Decline{"the job does not say its optimiser"};
  // Fewer heads by what was measured ended lower in all of 34 runs under SGD; before the first step
  // they ended no lower, and higher where the loss comes to its end (network.md).
  if (IsSgd(situation.job.optimizer)) return Decline{"under SGD it goes by what is measured"};
  return Decide(situation, random);
}

Network::Evaluation Network::Evaluate(const Sample& sample) const {
  Check(sample);
  const Sample* const samples[] = {&sample};
  Evaluation evaluation{};
  model_->ForAll(samples, [&](const Batch& batch, const Choices& choices, const Outputs& outputs,
                              const Terms& terms) {
    evaluation = {.log_probability = LogProbability(batch, choices, terms).item<float>(),
                  .entropy = Entropy(batch, outputs).item<float>(),
                  .value = outputs.value.item<float>()};
  });
  return evaluation;
}

UpdateReport Network::Update(std::span<const Sample> samples) {
  UpdateReport report;
  if (samples.empty()) return report;
  std::vector<const Sample*> all;
  std::vector<double> advantages;
  std::vector<double> targets;
  std::vector<float> acted;
  for (const Sample& sample : samples) {
    Check(sample);
    all.push_back(&sample);
    advantages.push_back(sample.advantage);
    targets.push_back(sample.target_value);
    acted.push_back(sample.log_probability);
  }
  const auto number = static_cast<std::int64_t>(all.size());
  torch::Tensor advantage = ToTensor(advantages, {number}, torch::kDouble);
  const torch::Tensor target = ToTensor(targets, {number}, torch::kDouble).to(torch::kFloat);
  const torch::Tensor old = ToTensor(acted, {number}, torch::kFloat);
  // What was most probable would be so whatever it earned: no slope comes of it.
  const torch::Tensor drawn = old.lt(0).to(torch::kFloat);
  // One sample has no spread to measure its advantage by.
  if (const torch::Tensor of_drawn = advantage.masked_select(old.lt(0)); of_drawn.numel() > 1) {
    advantage = (advantage - of_drawn.mean()) / (of_drawn.std() + 1e-8);
  }
  advantage = advantage.to(torch::kFloat);
  const NetworkOptions& options = model_->options;
  const auto loss = [&](const torch::Tensor& picked, const torch::Tensor& before,
                        const Batch& batch, const Choices& choices, const Outputs& outputs,
                        const Terms& terms) -> std::optional<torch::Tensor> {
    const torch::Tensor now = LogProbability(batch, choices, terms);
    const torch::Tensor moved = Divergence(before.index_select(0, picked), now.detach());
    if (moved.item<double>() > kMaxDivergence) return std::nullopt;
    const torch::Tensor ratio =
        (now - old.index_select(0, picked)).clamp(-kMaxLogRatio, kMaxLogRatio).exp();
    const torch::Tensor worth = advantage.index_select(0, picked);
    const torch::Tensor of_drawn = drawn.index_select(0, picked);
    const auto mean_of_drawn = [&](const torch::Tensor& x) {
      return (x * of_drawn).sum() / of_drawn.sum().clamp_min(1);
    };
    const torch::Tensor policy_loss = -mean_of_drawn(
        torch::min(ratio * worth, ratio.clamp(1 - options.clip, 1 + options.clip) * worth));
    const torch::Tensor value_loss =
        (outputs.value - target.index_select(0, picked)).square().mean();
    report.policy_loss += policy_loss.item<double>();
    report.value_loss += value_loss.item<double>();
    torch::Tensor objective = policy_loss + options.value_weight * value_loss -
                              options.entropy_weight * mean_of_drawn(Entropy(batch, outputs));
    if (model_->leash) {
      objective = objective + kLeashWeight * model_->Distance(batch, outputs).mean();
    }
    return objective;
  };
  model_->Learn(all, report, loss);
  return report;
}

void Network::Leash(const Network& to) {
  model_->leash.emplace(model_->options.hidden, 0);
  Assign(*model_->leash, to.model_->Weights());
}

UpdateReport Network::Clone(std::span<const Sample> samples) {
  UpdateReport report;
  if (samples.empty()) return report;
  std::vector<const Sample*> all;
  std::vector<double> weights;
  std::vector<double> targets;
  for (const Sample& sample : samples) {
    Check(sample);
    all.push_back(&sample);
    weights.push_back(sample.weight);
    targets.push_back(sample.target_value);
  }
  const auto number = static_cast<std::int64_t>(all.size());
  const torch::Tensor weight = ToTensor(weights, {number}, torch::kDouble).to(torch::kFloat);
  const torch::Tensor target = ToTensor(targets, {number}, torch::kDouble).to(torch::kFloat);
  const double value_weight = model_->options.value_weight;
  // Of all samples, not of a minibatch: one that has little weight in it shall move little.
  const double mean_weight = weight.mean().item<double>();
  const auto loss = [&](const torch::Tensor& picked, const torch::Tensor&, const Batch& batch,
                        const Choices& choices, const Outputs& outputs,
                        const Terms& terms) -> std::optional<torch::Tensor> {
    const torch::Tensor of_job = weight.index_select(0, picked);
    // Each kind of choice by its own mean, so that the many heads do not drown the few sites.
    const auto mean = [&](const torch::Tensor& term, const torch::Tensor& choices_of_kind,
                          const torch::Tensor& jobs) {
      const torch::Tensor weight_of = of_job.index_select(0, jobs);
      return -(term * weight_of).sum() / (choices_of_kind.sum() * mean_weight).clamp_min(1e-6);
    };
    const torch::Tensor cross_entropy =
        mean(terms.scale, (batch.scale_open.sum(1) > 1) * batch.active, batch.job_of_head) +
        mean(terms.count, batch.count_open.sum(1) > 1, batch.job_of_site) +
        mean(terms.draws, choices.is_drawn.sum(1), choices.job_of_draw);
    const torch::Tensor value_loss =
        (outputs.value - target.index_select(0, picked)).square().mean();
    report.policy_loss += cross_entropy.item<double>();
    report.value_loss += value_loss.item<double>();
    return cross_entropy + value_weight * value_loss;
  };
  model_->Learn(all, report, loss);
  return report;
}

std::uint64_t Network::Trials() const { return model_->trials; }

std::uint64_t Network::Openings() const { return model_->openings; }

std::uint64_t Network::Version() const { return model_->version; }

void Network::SetProgress(std::uint64_t trials, std::uint64_t openings, std::uint64_t version) {
  model_->trials = trials;
  model_->openings = openings;
  model_->version = version;
}

std::unique_ptr<Network> Network::Snapshot() const {
  auto copy = std::make_unique<Network>(model_->options);
  copy->model_->SetWeights(model_->Weights());
  copy->SetProgress(model_->trials, model_->openings, model_->version);
  return copy;
}

void Network::Save(const std::filesystem::path& path) const {
  std::filesystem::path temporary = path;
  temporary += ".tmp";
  try {
    torch::serialize::OutputArchive archive;
    archive.write("format", c10::IValue(kFormat));
    archive.write("features", c10::IValue(JoinedFeatureNames()));
    archive.write("hidden", c10::IValue(model_->options.hidden));
    archive.write("trials", c10::IValue(static_cast<std::int64_t>(model_->trials)));
    archive.write("openings", c10::IValue(static_cast<std::int64_t>(model_->openings)));
    archive.write("version", c10::IValue(static_cast<std::int64_t>(model_->version)));
    archive.write("weights", model_->Weights());
    archive.save_to(temporary.string());
  } catch (const c10::Error& error) {
    throw NetworkError("checkpoint '" + temporary.string() +
                       "': cannot be written: " + FirstLine(error));
  }
  Sync(temporary);
  std::error_code error;
  std::filesystem::rename(temporary, path, error);
  if (error) {
    throw NetworkError("checkpoint '" + path.string() +
                       "': cannot be put in place: " + error.message());
  }
  Sync(path.has_parent_path() ? path.parent_path() : ".");
}

std::unique_ptr<Network> Network::Model::Read(torch::serialize::InputArchive& archive,
                                              const std::string& name,
                                              const NetworkOptions& options) {
  const auto read = [&](const std::string& key) {
    c10::IValue value;
    archive.read(key, value);
    return value;
  };
  const std::int64_t format = read("format").toInt();
  if (format != kFormat) {
    throw NetworkError(name + "is of format " + std::to_string(format) +
                       ", this program reads format " + std::to_string(kFormat));
  }
  const std::string features = read("features").toStringRef();
  const std::int64_t known = std::count(features.begin(), features.end(), ',') + 1;
  // One from before a feature was added has the names of those in front of it.
  if (known < std::int64_t{kOldestTokenFeatures} ||
      !(JoinedFeatureNames() + ",").starts_with(features + ",")) {
    throw NetworkError(name + "has " + std::to_string(known) + " token features (" + features +
                       "), this program has " + std::to_string(kTokenFeatures) + " (" +
                       JoinedFeatureNames() + "); train a new one");
  }
  const std::int64_t hidden = read("hidden").toInt();
  if (hidden != options.hidden) {
    throw NetworkError(name + "has a hidden size of " + std::to_string(hidden) + ", asked for is " +
                       std::to_string(options.hidden));
  }
  torch::Tensor weights;
  archive.read("weights", weights);
  if (weights.numel() > hidden * known) weights = Widened(weights, hidden, known);
  auto network = std::make_unique<Network>(options);
  if (weights.sizes() != network->model_->Weights().sizes() ||
      weights.scalar_type() != torch::kFloat) {
    throw NetworkError(name + "its weights are of another network");
  }
  if (!torch::isfinite(weights).all().item<bool>()) {
    throw NetworkError(name + "holds weights that are not finite");
  }
  network->model_->SetWeights(weights);
  c10::IValue openings(std::int64_t{0});  // checkpoints of 0.1 before them have none
  static_cast<void>(archive.try_read("openings", openings));
  network->SetProgress(static_cast<std::uint64_t>(read("trials").toInt()),
                       static_cast<std::uint64_t>(openings.toInt()),
                       static_cast<std::uint64_t>(read("version").toInt()));
  return network;
}

std::unique_ptr<Network> Network::Load(const std::filesystem::path& path,
                                       const NetworkOptions& options) {
  const std::string name = "checkpoint '" + path.string() + "': ";
  if (!std::filesystem::is_regular_file(path)) {
    throw NetworkError(name + "there is no such file");
  }
  try {
    torch::serialize::InputArchive archive;
    archive.load_from(path.string());
    return Model::Read(archive, name, options);
  } catch (const c10::Error& error) {
    throw NetworkError(name + "is not a whole checkpoint of attune: " + FirstLine(error));
  }
}

std::unique_ptr<Network> Network::Shipped(const NetworkOptions& options) {
  const std::string name = "the network that attune comes with: ";
  try {
    torch::serialize::InputArchive archive;
    archive.load_from(attune_shipped_network, static_cast<std::size_t>(attune_shipped_network_end -
                                                                       attune_shipped_network));
    return Model::Read(archive, name, options);
  } catch (const c10::Error& error) {
    throw NetworkError(name + "is not a whole checkpoint: " + FirstLine(error));
  }
}

Sample MakeSample(const State& state, const ActionMask& mask, const Action& action,
                  std::span<const std::uint8_t> active_before,
                  std::span<const std::uint8_t> active_after) {
  Sample sample;
  sample.state = state;
  sample.mask = mask;
  sample.action = action;
  sample.active_before.assign(active_before.begin(), active_before.end());
  sample.active_after.assign(active_after.begin(), active_after.end());
  return sample;
}

}  // namespace attune
