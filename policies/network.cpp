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

// shipped.cpp
extern "C" {
extern const char attune_shipped_network[];
extern const char attune_shipped_network_end[];
}

namespace attune {
namespace {

namespace F = torch::nn::functional;

constexpr std::int64_t kFormat = 1;          // of the checkpoint
constexpr double kMaxDivergence = 0.03;      // an Update stops once it went this far
constexpr float kClosed = -1e9F;             // added to the logits of closed choices
constexpr double kPadding = -1e4;            // score of the unused places of a draw
constexpr double kMaxLogRatio = 20;          // keeps the probability ratio finite
constexpr double kLastLayerGain = 0.01;      // of the initial weights: starts near uniform
constexpr std::size_t kSitesNamedInWhy = 2;  // the rest are counted
constexpr std::size_t kReasons = 4;          // features named in why
constexpr int kPathSteps = 8;                // of the integral behind them

// Samples side by side: the heads of all samples in a row, and likewise their sites.
// J samples, S sites of W heads at most, H heads. Smaller sites repeat their first head.
struct Batch {
  torch::Tensor tokens;         // [S × W, kTokenFeatures]
  torch::Tensor place_of_head;  // [H] int64, row of `tokens`; undefined: all sites have W heads
  torch::Tensor place_weight;   // [S, W, 1] in the mean of the site; undefined likewise
  torch::Tensor site_weight;    // [J, S] of a site's mean in that of the job
  torch::Tensor job_of_head;    // [H] int64
  torch::Tensor job_of_site;    // [S] int64
  torch::Tensor active;         // [H] 0 or 1
  torch::Tensor scale_open;     // [H, kScaleChoices] bool
  torch::Tensor count_open;     // [S, kCountChoices] bool

  [[nodiscard]] std::int64_t Jobs() const { return site_weight.size(0); }
};

// The actions of a batch. R sites draw some of at most C candidates.
struct Choices {
  torch::Tensor scale;        // [H] int64, keep for inactive heads
  torch::Tensor count;        // [S] int64
  torch::Tensor candidates;   // [R, C] int64, heads: the drawn in their order, the others, padding
  torch::Tensor is_padding;   // [R, C] bool
  torch::Tensor is_drawn;     // [R, C] bool
  torch::Tensor job_of_draw;  // [R] int64
};

// What the network says of a batch.
struct Outputs {
  torch::Tensor scale;  // [H, kScaleChoices] log-probabilities
  torch::Tensor count;  // [S, kCountChoices] log-probabilities
  torch::Tensor score;  // [H]
  torch::Tensor value;  // [J]
};

// Log-probabilities of the choices that make up the actions of a batch.
struct Terms {
  torch::Tensor scale;  // [H], 0 for inactive heads
  torch::Tensor count;  // [S]
  torch::Tensor draws;  // [R]
};

template <typename T>
torch::Tensor ToTensor(const std::vector<T>& values, torch::IntArrayRef sizes,
                       torch::ScalarType type) {
  // from_blob only reads here: the clone is what is kept.
  return torch::from_blob(const_cast<T*>(values.data()), sizes, type).clone();
}

std::span<const std::uint8_t> SiteOf(const std::vector<std::uint8_t>& heads, const State& state,
                                     std::size_t site) {
  return std::span(heads).subspan(state.site_offsets[site],
                                  state.site_offsets[site + 1] - state.site_offsets[site]);
}

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

Batch MakeBatch(std::span<const Sample* const> samples) {
  std::size_t heads = 0;
  std::size_t sites = 0;
  std::size_t widest = 0;
  for (const Sample* sample : samples) {
    const std::vector<std::uint32_t>& offsets = sample->state.site_offsets;
    heads += sample->state.Heads();
    sites += sample->state.Sites();
    for (std::size_t site = 1; site < offsets.size(); ++site) {
      widest = std::max<std::size_t>(widest, offsets[site] - offsets[site - 1]);
    }
  }
  const bool even = sites * widest == heads;
  std::vector<float> tokens;
  std::vector<float> active;
  std::vector<float> place_weight;
  std::vector<float> site_weight(samples.size() * sites, 0);
  std::vector<std::int64_t> place_of_head;
  std::vector<std::int64_t> job_of_head;
  std::vector<std::int64_t> job_of_site;
  std::vector<std::uint8_t> scale_open;
  std::vector<std::uint8_t> count_open;
  tokens.reserve(sites * widest * kTokenFeatures);
  scale_open.reserve(heads * kScaleChoices);
  for (std::size_t job = 0; job < samples.size(); ++job) {
    const Sample& sample = *samples[job];
    const State& state = sample.state;
    active.insert(active.end(), sample.active_before.begin(), sample.active_before.end());
    for (const auto& open : sample.mask.scale) {
      scale_open.insert(scale_open.end(), open.begin(), open.end());
    }
    for (const auto& open : sample.mask.count) {
      count_open.insert(count_open.end(), open.begin(), open.end());
    }
    job_of_head.insert(job_of_head.end(), state.Heads(), static_cast<std::int64_t>(job));
    for (std::size_t site = 0; site < state.Sites(); ++site) {
      const std::size_t of_site = state.site_offsets[site + 1] - state.site_offsets[site];
      const auto token = [&](std::size_t head) {
        return state.tokens.begin() +
               static_cast<std::ptrdiff_t>((state.site_offsets[site] + head) * kTokenFeatures);
      };
      site_weight[job * sites + job_of_site.size()] =
          static_cast<float>(of_site) / static_cast<float>(state.Heads());
      job_of_site.push_back(static_cast<std::int64_t>(job));
      tokens.insert(tokens.end(), token(0), token(of_site));
      if (even) continue;
      for (std::size_t head = 0; head < widest; ++head) {
        const bool is_head = head < of_site;
        if (is_head) {
          place_of_head.push_back(static_cast<std::int64_t>(place_weight.size()));
        } else {
          tokens.insert(tokens.end(), token(0), token(1));
        }
        place_weight.push_back(is_head ? 1 / static_cast<float>(of_site) : 0);
      }
    }
  }
  const auto h = static_cast<std::int64_t>(heads);
  const auto s = static_cast<std::int64_t>(sites);
  const auto w = static_cast<std::int64_t>(widest);
  const auto jobs = static_cast<std::int64_t>(samples.size());
  const auto features = static_cast<std::int64_t>(kTokenFeatures);
  Batch batch = {.tokens = ToTensor(tokens, {s * w, features}, torch::kFloat),
                 .place_of_head = {},
                 .place_weight = {},
                 .site_weight = ToTensor(site_weight, {jobs, s}, torch::kFloat),
                 .job_of_head = ToTensor(job_of_head, {h}, torch::kLong),
                 .job_of_site = ToTensor(job_of_site, {s}, torch::kLong),
                 .active = ToTensor(active, {h}, torch::kFloat),
                 .scale_open = ToTensor(scale_open, {h, kScaleChoices}, torch::kBool),
                 .count_open = ToTensor(count_open, {s, kCountChoices}, torch::kBool)};
  if (!even) {
    batch.place_of_head = ToTensor(place_of_head, {h}, torch::kLong);
    batch.place_weight = ToTensor(place_weight, {s, w, 1}, torch::kFloat);
  }
  return batch;
}

Choices MakeChoices(std::span<const Sample* const> samples) {
  struct Draw {
    std::vector<std::int64_t> candidates;  // the drawn first
    std::size_t drawn;
    std::int64_t job;
  };
  std::vector<std::int64_t> scale;
  std::vector<std::int64_t> count;
  std::vector<Draw> draws;
  std::size_t widest = 0;
  for (std::size_t job = 0; job < samples.size(); ++job) {
    const Sample& sample = *samples[job];
    const std::size_t first_head = scale.size();
    for (std::size_t head = 0; head < sample.state.Heads(); ++head) {
      scale.push_back(sample.active_before[head] != 0 ? sample.action.scale[head] : kKeepScale);
    }
    for (std::size_t site = 0; site < sample.state.Sites(); ++site) {
      const CountChange change = sample.action.count[site];
      count.push_back(static_cast<std::int64_t>(change));
      if (change == CountChange::kKeep) continue;
      // A shrinking site draws those of its active heads that stay, a growing one those of its
      // inactive heads that come in.
      const std::uint8_t pool = change < CountChange::kKeep ? 1 : 0;
      std::vector<std::size_t> heads;
      for (std::size_t head = sample.state.site_offsets[site];
           head < sample.state.site_offsets[site + 1]; ++head) {
        if ((sample.active_before[head] != 0 ? 1 : 0) == pool) heads.push_back(head);
      }
      const auto others = std::stable_partition(heads.begin(), heads.end(), [&](std::size_t head) {
        return sample.active_after[head] != 0;
      });
      std::stable_sort(heads.begin(), others, [&](std::size_t a, std::size_t b) {
        return sample.action.score[a] > sample.action.score[b];
      });
      Draw draw{.candidates = {},
                .drawn = static_cast<std::size_t>(others - heads.begin()),
                .job = static_cast<std::int64_t>(job)};
      for (const std::size_t head : heads) {
        draw.candidates.push_back(static_cast<std::int64_t>(first_head + head));
      }
      widest = std::max(widest, heads.size());
      draws.push_back(std::move(draw));
    }
  }
  std::vector<std::int64_t> candidates(draws.size() * widest, 0);
  std::vector<std::uint8_t> is_padding(draws.size() * widest, 1);
  std::vector<std::uint8_t> is_drawn(draws.size() * widest, 0);
  std::vector<std::int64_t> job_of_draw;
  for (std::size_t row = 0; row < draws.size(); ++row) {
    const Draw& draw = draws[row];
    for (std::size_t place = 0; place < draw.candidates.size(); ++place) {
      candidates[row * widest + place] = draw.candidates[place];
      is_padding[row * widest + place] = 0;
      is_drawn[row * widest + place] = place < draw.drawn ? 1 : 0;
    }
    job_of_draw.push_back(draw.job);
  }
  const auto rows = static_cast<std::int64_t>(draws.size());
  const auto columns = static_cast<std::int64_t>(widest);
  return {.scale = ToTensor(scale, {static_cast<std::int64_t>(scale.size())}, torch::kLong),
          .count = ToTensor(count, {static_cast<std::int64_t>(count.size())}, torch::kLong),
          .candidates = ToTensor(candidates, {rows, columns}, torch::kLong),
          .is_padding = ToTensor(is_padding, {rows, columns}, torch::kByte).to(torch::kBool),
          .is_drawn = ToTensor(is_drawn, {rows, columns}, torch::kByte).to(torch::kBool),
          .job_of_draw = ToTensor(job_of_draw, {rows}, torch::kLong)};
}

// Orthogonal initial weights (1312.6120) from an own generator, zero bias.
void Initialise(torch::nn::Linear& layer, double gain, at::Generator& generator) {
  const torch::NoGradGuard no_grad;
  const std::int64_t rows = layer->weight.size(0);
  const std::int64_t columns = layer->weight.size(1);
  const torch::Tensor noise =
      torch::empty({std::max(rows, columns), std::min(rows, columns)}, torch::kFloat)
          .normal_(0, 1, generator);
  const auto [q, r] = torch::linalg_qr(noise, "reduced");
  const torch::Tensor weight = q * r.diagonal().sign() * gain;
  layer->weight.copy_(rows < columns ? weight.t() : weight);
  layer->bias.zero_();
}

struct Layers : torch::nn::Module {
  Layers(std::int64_t hidden, std::uint64_t seed)
      : encoder1(register_module("encoder1", torch::nn::Linear(kTokenFeatures, hidden))),
        encoder2(register_module("encoder2", torch::nn::Linear(hidden, hidden))),
        head1(register_module("head1", torch::nn::Linear(4 * hidden, hidden))),
        head2(register_module("head2", torch::nn::Linear(hidden, kScaleChoices + 1))),
        site1(register_module("site1", torch::nn::Linear(3 * hidden, hidden))),
        site2(register_module("site2", torch::nn::Linear(hidden, kCountChoices))),
        job1(register_module("job1", torch::nn::Linear(hidden, hidden))),
        job2(register_module("job2", torch::nn::Linear(hidden, 1))) {
    at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
    for (torch::nn::Linear* layer : {&encoder1, &encoder2, &head1, &site1, &job1}) {
      Initialise(*layer, std::sqrt(2.0), generator);
    }
    for (torch::nn::Linear* layer : {&head2, &site2, &job2}) {
      Initialise(*layer, kLastLayerGain, generator);
    }
  }

  Outputs Forward(const Batch& batch) {
    // What is written over in place is no more needed for the gradient.
    const torch::Tensor head =
        encoder2->forward(encoder1->forward(batch.tokens).tanh_()).tanh_();  // [S × W, hidden]
    const std::int64_t hidden = head.size(1);
    const torch::Tensor of_sites = head.view({batch.job_of_site.size(0), -1, hidden});
    const torch::Tensor site_mean =
        batch.place_weight.defined() ? (of_sites * batch.place_weight).sum(1) : of_sites.mean(1);
    const torch::Tensor site = torch::cat({site_mean, of_sites.amax(1)}, 1);
    const torch::Tensor job = torch::mm(batch.site_weight, site_mean);
    // head1 of head ‖ site ‖ job. The last two are the same for all heads of a site, and so is
    // their part of the product.
    const auto weight = [&](std::int64_t first, std::int64_t units) {
      return head1->weight.narrow(1, first * hidden, units * hidden);
    };
    const torch::Tensor of_site_and_job =
        F::linear(site, weight(1, 2), head1->bias) +
        F::linear(job, weight(3, 1)).index_select(0, batch.job_of_site);
    const torch::Tensor of_all = F::linear(head, weight(0, 1)).view_as(of_sites);
    torch::Tensor of_head =
        head2->forward((of_all + of_site_and_job.unsqueeze(1)).tanh_().flatten(0, 1));
    if (batch.place_of_head.defined()) of_head = of_head.index_select(0, batch.place_of_head);
    const torch::Tensor of_site = site2->forward(
        site1->forward(torch::cat({site, job.index_select(0, batch.job_of_site)}, 1)).tanh_());
    const torch::Tensor scale = of_head.narrow(1, 0, kScaleChoices);
    return {
        .scale = torch::log_softmax(scale.masked_fill(batch.scale_open.logical_not(), kClosed), 1),
        .count =
            torch::log_softmax(of_site.masked_fill(batch.count_open.logical_not(), kClosed), 1),
        .score = of_head.select(1, kScaleChoices),
        .value = job2->forward(job1->forward(job).tanh_()).squeeze(1)};
  }

  torch::nn::Linear encoder1, encoder2, head1, head2, site1, site2, job1, job2;
};

Terms Judge(const Batch& batch, const Outputs& outputs, const Choices& choices) {
  // Plackett–Luce: each drawn head against all that are not drawn before it.
  const torch::Tensor score = outputs.score.index_select(0, choices.candidates.flatten())
                                  .view_as(choices.candidates)
                                  .masked_fill(choices.is_padding, kPadding);
  const torch::Tensor left = score.flip({1}).logcumsumexp(1).flip({1});
  return {.scale = outputs.scale.gather(1, choices.scale.unsqueeze(1)).squeeze(1) * batch.active,
          .count = outputs.count.gather(1, choices.count.unsqueeze(1)).squeeze(1),
          .draws = (score - left).masked_fill(choices.is_drawn.logical_not(), 0).sum(1)};
}

// [J] log-probabilities of the whole actions.
torch::Tensor LogProbability(const Batch& batch, const Choices& choices, const Terms& terms) {
  return torch::zeros({batch.Jobs()})
      .index_add(0, batch.job_of_head, terms.scale)
      .index_add(0, batch.job_of_site, terms.count)
      .index_add(0, choices.job_of_draw, terms.draws);
}

// [J] entropies of the scale and count choices together; that of the draws has no closed form.
torch::Tensor Entropy(const Batch& batch, const Outputs& outputs) {
  const auto of = [](const torch::Tensor& log) { return -(log.exp() * log).sum(1); };
  return torch::zeros({batch.Jobs()})
      .index_add(0, batch.job_of_head, of(outputs.scale) * batch.active)
      .index_add(0, batch.job_of_site, of(outputs.count));
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

  void SetWeights(const torch::Tensor& row) {
    const torch::NoGradGuard no_grad;
    std::int64_t first = 0;
    for (torch::Tensor& weight : layers.parameters()) {
      weight.copy_(row.narrow(0, first, weight.numel()).view_as(weight));
      first += weight.numel();
    }
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
    for (std::size_t first = 0; first < samples.size(); first += size) {
      const auto some = samples.subspan(first, std::min(size, samples.size() - first));
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
  torch::optim::Adam adam;
  std::mt19937_64 shuffle;
  std::uint64_t trials = 0;
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
    for (std::size_t first = 0; first < order.size() && !stopped; first += size) {
      const std::size_t last = std::min(first + size, order.size());
      const std::vector<std::int64_t> indices(order.begin() + static_cast<std::ptrdiff_t>(first),
                                              order.begin() + static_cast<std::ptrdiff_t>(last));
      std::vector<const Sample*> some;
      for (const std::int64_t index : indices) {
        some.push_back(samples[static_cast<std::size_t>(index)]);
      }
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
            "a gradient is not finite; the weights were left as they are: look for "
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
  const torch::NoGradGuard no_grad;
  const State& state = situation.state;
  Sample sample = MakeSample(state, situation.mask, Action::Keep(state.Heads(), state.Sites()),
                             situation.setting.active, situation.setting.active);
  const Sample* const samples[] = {&sample};
  const Batch batch = MakeBatch(samples);
  Outputs outputs = model_->layers.Forward(batch);
  outputs.scale = outputs.scale.contiguous();
  outputs.count = outputs.count.contiguous();
  outputs.score = outputs.score.contiguous();
  for (const torch::Tensor& output : {outputs.scale, outputs.count, outputs.score, outputs.value}) {
    const std::span values(output.data_ptr<float>(), static_cast<std::size_t>(output.numel()));
    if (!std::ranges::all_of(values, [](float x) { return std::isfinite(x); })) {
      return Decline{"an output is not finite"};
    }
  }
  const float* const scale = outputs.scale.data_ptr<float>();
  const float* const count = outputs.count.data_ptr<float>();
  const float* const score = outputs.score.data_ptr<float>();

  for (std::size_t site = 0; site < state.Sites(); ++site) {
    const float* const of_site = count + site * kCountChoices;
    const double confidence = std::exp(*std::max_element(of_site, of_site + kCountChoices));
    if (confidence < options.least_confidence) {
      return Decline{"not sure enough of site '" + situation.job.topology.sites[site].name + "': " +
                     TwoDecimals(confidence) + ", needs " + TwoDecimals(options.least_confidence)};
    }
  }

  // The largest of log-probabilities with Gumbel noise is a draw from them, and the order of scores
  // with Gumbel noise a draw without replacement (1903.06059).
  const bool draws = std::uniform_real_distribution<double>(0, 1)(random) < options.explore;
  const auto noise = [&] { return draws ? Gumbel(random) : 0.0; };
  for (std::size_t head = 0; head < state.Heads(); ++head) {
    if (sample.active_before[head] != 0) {
      sample.action.scale[head] = static_cast<std::uint8_t>(
          Pick(scale + head * kScaleChoices, situation.mask.scale[head], noise));
    }
    sample.action.score[head] = static_cast<float>(score[head] + noise());
  }
  for (std::size_t site = 0; site < state.Sites(); ++site) {
    const auto change = static_cast<CountChange>(
        Pick(count + site * kCountChoices, situation.mask.count[site], noise));
    sample.action.count[site] = change;
    if (change == CountChange::kKeep) continue;
    const auto before = SiteOf(sample.active_before, state, site);
    SelectHeads(std::span(sample.active_after).subspan(state.site_offsets[site], before.size()),
                std::span(sample.action.score).subspan(state.site_offsets[site], before.size()),
                ChangedCount(CountActive(before), change, before.size()));
  }
  const Choices choices = MakeChoices(samples);
  Decision decision;
  decision.why = Describe(situation.job.topology, sample.action, count, situation.setting.active);
  decision.log_probability =
      LogProbability(batch, choices, Judge(batch, outputs, choices)).item<float>();
  decision.policy_version = model_->version;
  decision.action = sample.action;
  decision.reasons = [model = model_, sample = std::move(sample)] {
    return Reasons(model->layers, sample);
  };
  return decision;
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
  // One sample has no spread to measure its advantage by.
  if (number > 1) advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8);
  advantage = advantage.to(torch::kFloat);
  const torch::Tensor target = ToTensor(targets, {number}, torch::kDouble).to(torch::kFloat);
  const torch::Tensor old = ToTensor(acted, {number}, torch::kFloat);
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
    const torch::Tensor policy_loss =
        -torch::min(ratio * worth, ratio.clamp(1 - options.clip, 1 + options.clip) * worth).mean();
    const torch::Tensor value_loss =
        (outputs.value - target.index_select(0, picked)).square().mean();
    report.policy_loss += policy_loss.item<double>();
    report.value_loss += value_loss.item<double>();
    return policy_loss + options.value_weight * value_loss -
           options.entropy_weight * Entropy(batch, outputs).mean();
  };
  model_->Learn(all, report, loss);
  return report;
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
  const auto loss = [&](const torch::Tensor& picked, const torch::Tensor&, const Batch& batch,
                        const Choices& choices, const Outputs& outputs,
                        const Terms& terms) -> std::optional<torch::Tensor> {
    const torch::Tensor of_job = weight.index_select(0, picked);
    // Each kind of choice by its own mean, so that the many heads do not drown the few sites.
    const auto mean = [&](const torch::Tensor& term, const torch::Tensor& choices_of_kind,
                          const torch::Tensor& jobs) {
      const torch::Tensor weight_of = of_job.index_select(0, jobs);
      return -(term * weight_of).sum() / (choices_of_kind * weight_of).sum().clamp_min(1e-6);
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

std::uint64_t Network::Version() const { return model_->version; }

void Network::SetProgress(std::uint64_t trials, std::uint64_t version) {
  model_->trials = trials;
  model_->version = version;
}

std::unique_ptr<Network> Network::Snapshot() const {
  auto copy = std::make_unique<Network>(model_->options);
  copy->model_->SetWeights(model_->Weights());
  copy->SetProgress(model_->trials, model_->version);
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
  if (features != JoinedFeatureNames()) {
    throw NetworkError(
        name + "has " + std::to_string(std::count(features.begin(), features.end(), ',') + 1) +
        " token features (" + features + "), this program has " + std::to_string(kTokenFeatures) +
        " (" + JoinedFeatureNames() + "); train a new one");
  }
  const std::int64_t hidden = read("hidden").toInt();
  if (hidden != options.hidden) {
    throw NetworkError(name + "has a hidden size of " + std::to_string(hidden) + ", asked for is " +
                       std::to_string(options.hidden));
  }
  torch::Tensor weights;
  archive.read("weights", weights);
  auto network = std::make_unique<Network>(options);
  if (weights.sizes() != network->model_->Weights().sizes() ||
      weights.scalar_type() != torch::kFloat) {
    throw NetworkError(name + "its weights are of another network");
  }
  if (!torch::isfinite(weights).all().item<bool>()) {
    throw NetworkError(name + "holds weights that are not finite");
  }
  network->model_->SetWeights(weights);
  network->SetProgress(static_cast<std::uint64_t>(read("trials").toInt()),
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
