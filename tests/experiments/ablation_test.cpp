// What a head is worth: nothing where it is dead, and ranks as a statistician has them.
#include "experiments/ablation.h"

#include <torch/torch.h>

#include <catch2/catch.hpp>
#include <cmath>

namespace attune {
namespace {

TEST_CASE("a dead head is worth nothing, and can leave") {
  torch::manual_seed(1);
  constexpr std::int64_t kHeads = 4;
  constexpr double kRounding = 1e-7;
  LanguageModel model(
      ModelOptions{.vocabulary = 11, .context = 8, .width = 16, .heads = kHeads, .layers = 2});
  MakeSick(model, "dead");  // half of the heads of each layer
  std::vector<std::int64_t> text;
  for (std::int64_t i = 0; i < 200; ++i) text.push_back(i * i % 11);
  Batches draw(text, 3, 8, 0, 1);
  const std::vector<TextBatch> batches = {draw.Next(), draw.Next()};

  const std::vector<HeadWorth> worth = Ablate(model, batches);
  REQUIRE(worth.size() == 2 * kHeads);
  std::size_t dead = 0;
  for (const HeadWorth& head : worth) {
    const bool is_dead = head.importance == 0;
    dead += is_dead ? 1 : 0;
    CHECK((std::abs(head.cost) < kRounding) == is_dead);
  }
  CHECK(dead == kHeads);
  CHECK(CountFree(model, batches, worth, kRounding) >= dead);
  CHECK(CountFree(model, batches, worth, -1) == 0);
  CHECK(CountFree(model, batches, worth, 10) == 2 * kHeads - 2);  // a layer keeps one
  for (const Block& block : model->blocks) {
    CHECK(CountActive(block->attention->Current().active) == kHeads);
    const torch::Tensor slope = block->attention->query->weight.grad();
    CHECK((!slope.defined() || !slope.any().item<bool>()));
  }
}

TEST_CASE("ranks agree, disagree, or neither") {
  const auto of = [](const std::vector<double>& cost, const std::vector<double>& importance) {
    std::vector<HeadWorth> worth;
    for (std::size_t head = 0; head < cost.size(); ++head) {
      worth.push_back({0, head, cost[head], importance[head]});
    }
    return RankCorrelation(worth);
  };
  CHECK(of({-1, 2, 30}, {0.1, 0.2, 0.9}) == Approx(1));
  CHECK(of({-1, 2, 30}, {0.9, 0.2, 0.1}) == Approx(-1));
  CHECK(of({1, 2, 3, 4}, {2, 1, 4, 3}) == Approx(0.6));  // 1 - 6 · 4 / (4 · 15)
  CHECK(of({0, 0, 5}, {0, 0, 7}) == Approx(1));
  CHECK(of({0, 0, 1, 2}, {1, 2, 3, 3}) == Approx(8 / 9.0));  // ranks ½ ½ 2 3 and 0 1 2½ 2½
  CHECK(of({1, 1}, {1, 2}) == 0);
  CHECK(of({1}, {1}) == 0);
}

}  // namespace
}  // namespace attune
