#include "policies/layers.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace attune {
namespace {

namespace F = torch::nn::functional;

constexpr double kPadding = -1e4;        // score of the unused places of a draw
constexpr double kLastLayerGain = 0.01;  // of the initial weights

// From an own generator, zero bias.
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

}  // namespace

Layers::Layers(std::int64_t hidden, std::uint64_t seed)
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

Outputs Layers::Forward(const Batch& batch) {
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
      .count = torch::log_softmax(of_site.masked_fill(batch.count_open.logical_not(), kClosed), 1),
      .score = of_head.select(1, kScaleChoices),
      .value = job2->forward(job1->forward(job).tanh_()).squeeze(1)};
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

torch::Tensor LogProbability(const Batch& batch, const Choices& choices, const Terms& terms) {
  return torch::zeros({batch.Jobs()})
      .index_add(0, batch.job_of_head, terms.scale)
      .index_add(0, batch.job_of_site, terms.count)
      .index_add(0, choices.job_of_draw, terms.draws);
}

torch::Tensor Entropy(const Batch& batch, const Outputs& outputs) {
  const auto of = [](const torch::Tensor& log) { return -(log.exp() * log).sum(1); };
  return torch::zeros({batch.Jobs()})
      .index_add(0, batch.job_of_head, of(outputs.scale) * batch.active)
      .index_add(0, batch.job_of_site, of(outputs.count));
}

}  // namespace attune
