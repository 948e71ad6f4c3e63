// The policy network (policies/network.h) as plain LibTorch code for jobs of one shape: what a
// decision and a lesson cost without bookkeeping.
#pragma once

#include <torch/torch.h>

#include "env/action.h"
#include "env/state.h"
#include "policies/network.h"

namespace attune::bench {

struct BareNetwork : torch::nn::Module {
  struct Outputs {
    torch::Tensor scale;  // [jobs, sites, heads, kScaleChoices] log-probabilities
    torch::Tensor count;  // [jobs, sites, kCountChoices] log-probabilities
    torch::Tensor score;  // [jobs, sites, heads]
    torch::Tensor value;  // [jobs]
  };

  BareNetwork() {
    for (torch::nn::Linear* layer :
         {&encoder1, &encoder2, &head1, &head2, &site1, &site2, &job1, &job2}) {
      register_module("layer" + std::to_string(children().size()), *layer);
    }
  }

  // tokens [jobs, sites, heads, kTokenFeatures]; what is open is bool and of the outputs' shape.
  Outputs Forward(const torch::Tensor& tokens, const torch::Tensor& scale_open,
                  const torch::Tensor& count_open) {
    const torch::Tensor head =
        torch::tanh(encoder2->forward(torch::tanh(encoder1->forward(tokens))));
    const torch::Tensor site = torch::cat({head.mean(2), head.amax(2)}, 2);
    const torch::Tensor job = head.mean(torch::IntArrayRef({1, 2}));
    const std::int64_t jobs = head.size(0), sites = head.size(1), heads = head.size(2);
    const torch::Tensor of_head = head2->forward(torch::tanh(head1->forward(
        torch::cat({head, site.unsqueeze(2).expand({jobs, sites, heads, 2 * kHidden}),
                    job.view({jobs, 1, 1, kHidden}).expand({jobs, sites, heads, kHidden})},
                   3))));
    const torch::Tensor of_site = site2->forward(torch::tanh(site1->forward(
        torch::cat({site, job.view({jobs, 1, kHidden}).expand({jobs, sites, kHidden})}, 2))));
    return {.scale = torch::log_softmax(
                of_head.narrow(3, 0, kScaleChoices).masked_fill(~scale_open, kClosed), 3),
            .count = torch::log_softmax(of_site.masked_fill(~count_open, kClosed), 2),
            .score = of_head.select(3, kScaleChoices),
            .value = job2->forward(torch::tanh(job1->forward(job))).squeeze(1)};
  }

  static constexpr std::int64_t kHidden = 64;
  static constexpr float kClosed = -1e9F;
  torch::nn::Linear encoder1{std::int64_t{kTokenFeatures}, kHidden}, encoder2{kHidden, kHidden},
      head1{4 * kHidden, kHidden}, head2{kHidden, std::int64_t{kScaleChoices} + 1},
      site1{3 * kHidden, kHidden}, site2{kHidden, std::int64_t{kCountChoices}},
      job1{kHidden, kHidden}, job2{kHidden, std::int64_t{1}};
};

}  // namespace attune::bench
