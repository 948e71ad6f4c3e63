// The network against what must hold for any weights, and against problems with known answers.
#include "policies/network.h"

#include <torch/torch.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <variant>
#include <vector>

using namespace attune;

namespace {

enum Feature : std::size_t { kRightScale = 0, kRightCount = 1, kMarked = 2 };

// A job of the given sites with random tokens; every head is active at first.
struct Job {
  Job(const std::vector<std::uint32_t>& site_heads, std::mt19937_64& random) {
    for (const std::uint32_t heads : site_heads) {
      spec.topology.sites.push_back({.name = "site" + std::to_string(spec.topology.sites.size()),
                                     .heads = heads,
                                     .head_width = 8,
                                     .context = 16});
    }
    state.site_offsets = spec.topology.SiteOffsets();
    std::normal_distribution<float> normal;
    state.tokens.resize(state.Heads() * kTokenFeatures);
    for (float& feature : state.tokens) feature = normal(random);
    setting = Setting::Neutral(state.Heads());
    mask = MaskOf(spec.topology, setting);
  }

  [[nodiscard]] float& Token(std::size_t head, std::size_t feature) {
    return state.tokens[head * kTokenFeatures + feature];
  }

  // Leaves `active` heads of every site active, and brings some scales to a bound.
  void Restrict(std::mt19937_64& random) {
    for (std::size_t site = 0; site < state.Sites(); ++site) {
      const std::uint32_t first = state.site_offsets[site];
      const std::uint32_t heads = state.site_offsets[site + 1] - first;
      for (std::uint32_t head = 0; head < heads; ++head) {
        setting.active[first + head] = head == 0 || random() % 2 == 0 ? 1 : 0;
        setting.scale[first + head] = std::array{kMinScale, 1.0F, kMaxScale}[random() % 3];
      }
    }
    mask = MaskOf(spec.topology, setting);
  }

  [[nodiscard]] Situation View() const {
    return {.job = spec,
            .setting = setting,
            .now = reading,
            .before = nullptr,
            .state = state,
            .mask = mask};
  }

  // The sample of an action, its log-probability included.
  [[nodiscard]] Sample Taken(const Action& action, float log_probability = 0) const {
    Sample sample = MakeSample(state, mask, action, setting.active,
                               Apply(spec.topology, setting, action).active);
    sample.log_probability = log_probability;
    return sample;
  }

  JobSpec spec;
  Setting setting;
  WindowReading reading;
  State state;
  ActionMask mask;
};

// Options that let an untrained network decide.
NetworkOptions Willing() {
  NetworkOptions options;
  options.hidden = 32;
  options.least_trials = 0;
  options.least_confidence = 0;
  return options;
}

Decision MustDecide(Network& network, const Job& job, std::mt19937_64& random) {
  const Verdict verdict = network.Decide(job.View(), random);
  REQUIRE(std::holds_alternative<Decision>(verdict));
  Decision decision = std::get<Decision>(verdict);
  if (decision.reasons) decision.why += decision.reasons();
  return decision;
}

std::string DeclineOf(Network& network, const Job& job) {
  std::mt19937_64 random(1);
  const Verdict verdict = network.Decide(job.View(), random);
  REQUIRE(std::holds_alternative<Decline>(verdict));
  return std::get<Decline>(verdict).why;
}

// Samples that the network draws on random jobs, with random advantages and targets.
std::vector<Sample> DrawnSamples(Network& network, std::size_t number, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  std::vector<Sample> samples;
  for (std::size_t i = 0; i < number; ++i) {
    Job job({1 + static_cast<std::uint32_t>(random() % 4), 3}, random);
    job.Restrict(random);
    const Decision decision = MustDecide(network, job, random);
    samples.push_back(job.Taken(decision.action, decision.log_probability));
    samples.back().advantage = normal(random);
    samples.back().target_value = normal(random);
  }
  return samples;
}

// A network whose weights learning has moved away from the near-uniform start.
std::unique_ptr<Network> Trained(NetworkOptions options) {
  options.learning_rate = 3e-2;
  auto network = std::make_unique<Network>(options);
  const std::vector<Sample> samples = DrawnSamples(*network, 64, 5);
  network->Clone(samples);
  network->Clone(samples);
  return network;
}

// A job in which a head's first feature says whether its scale should fall or rise, a site's second
// whether to halve its heads, and the third which heads to keep then (half of them are marked).
Job Puzzle(const std::vector<std::uint32_t>& site_heads, std::mt19937_64& random) {
  Job job(site_heads, random);
  std::fill(job.state.tokens.begin(), job.state.tokens.end(), 0.0F);
  for (std::size_t site = 0; site < job.state.Sites(); ++site) {
    const std::size_t first = job.state.site_offsets[site];
    const std::size_t heads = job.state.site_offsets[site + 1] - first;
    std::vector<float> marks(heads, -1.0F);
    std::fill_n(marks.begin(), heads / 2, 1.0F);
    std::shuffle(marks.begin(), marks.end(), random);
    const float halve = random() % 2 == 0 ? 1.0F : -1.0F;
    for (std::size_t head = 0; head < heads; ++head) {
      job.Token(first + head, kRightScale) = random() % 2 == 0 ? 1.0F : -1.0F;
      job.Token(first + head, kRightCount) = halve;
      job.Token(first + head, kMarked) = marks[head];
    }
  }
  return job;
}

// The one right answer to a puzzle.
Action Solution(Job job) {
  Action action = Action::Keep(job.state.Heads(), job.state.Sites());
  for (std::size_t head = 0; head < job.state.Heads(); ++head) {
    action.scale[head] = job.Token(head, kRightScale) > 0 ? 4 : 0;
    action.score[head] = job.Token(head, kMarked);
  }
  for (std::size_t site = 0; site < job.state.Sites(); ++site) {
    if (job.Token(job.state.site_offsets[site], kRightCount) > 0) {
      action.count[site] = CountChange::kHalve;
    }
  }
  return action;
}

// Share of right scale choices, share of right count choices, and share of active heads that agree
// with the solution's: 3 at best.
double Reward(const Job& job, const Action& action) {
  const Action solution = Solution(job);
  const Setting right = Apply(job.spec.topology, job.setting, solution);
  const Setting taken = Apply(job.spec.topology, job.setting, action);
  double scale = 0;
  double active = 0;
  double count = 0;
  for (std::size_t head = 0; head < job.state.Heads(); ++head) {
    scale += action.scale[head] == solution.scale[head] ? 1 : 0;
    active += taken.active[head] == right.active[head] ? 1 : 0;
  }
  for (std::size_t site = 0; site < job.state.Sites(); ++site) {
    count += action.count[site] == solution.count[site] ? 1 : 0;
  }
  const auto heads = static_cast<double>(job.state.Heads());
  return (scale + active) / heads + count / static_cast<double>(job.state.Sites());
}

std::filesystem::path TemporaryFile(const std::string& name) {
  return std::filesystem::temp_directory_path() /
         ("attune-network-test-" + std::to_string(std::random_device()()) + "-" + name);
}

// All weights of a network, read from its checkpoint.
torch::Tensor WeightsOf(const Network& network) {
  const std::filesystem::path path = TemporaryFile("weights");
  network.Save(path);
  torch::serialize::InputArchive archive;
  archive.load_from(path.string());
  torch::Tensor weights;
  archive.read("weights", weights);
  std::filesystem::remove(path);
  return weights;
}

}  // namespace

TEST_CASE("updates by reward alone come within 5 % of the best answer to a puzzle") {
  NetworkOptions options = Willing();
  options.learning_rate = 3e-3;
  options.seed = 1;
  Network network(options);
  std::mt19937_64 random(2);
  for (int round = 0; round < 60; ++round) {
    std::vector<Sample> samples;
    for (int i = 0; i < 128; ++i) {
      const Job job = Puzzle({4}, random);
      const Decision decision = MustDecide(network, job, random);
      samples.push_back(job.Taken(decision.action, decision.log_probability));
      samples.back().target_value = Reward(job, decision.action);
      samples.back().advantage =
          samples.back().target_value - network.Evaluate(samples.back()).value;
    }
    network.Update(samples);
  }
  NetworkOptions greedy_options = options;
  greedy_options.explore = 0;
  const std::filesystem::path path = TemporaryFile("greedy");
  network.Save(path);
  const auto greedy = Network::Load(path, greedy_options);
  std::filesystem::remove(path);
  double reward = 0;
  double value = 0;
  for (int i = 0; i < 200; ++i) {
    const Job job = Puzzle({4}, random);
    const Decision decision = MustDecide(*greedy, job, random);
    reward += Reward(job, decision.action) / 200;
    value += greedy->Evaluate(job.Taken(decision.action)).value / 200;
  }
  CHECK(reward > 0.95 * 3);
  CHECK(value == Approx(reward).margin(0.1));
}

TEST_CASE("a clone agrees with its teacher on jobs that it has not seen") {
  NetworkOptions options = Willing();
  options.learning_rate = 3e-3;
  Network network(options);
  const auto taught = [](std::uint64_t seed, std::size_t number) {
    std::mt19937_64 random(seed);
    std::vector<Sample> samples;
    for (std::size_t i = 0; i < number; ++i) {
      const Job job = Puzzle({2, 4 + static_cast<std::uint32_t>(random() % 5)}, random);
      samples.push_back(job.Taken(Solution(job)));
    }
    return samples;
  };
  const std::vector<Sample> lessons = taught(1, 256);
  UpdateReport report;
  double first_loss = 0;
  for (int round = 0; round < 10; ++round) {
    report = network.Clone(lessons);
    if (round == 0) first_loss = report.policy_loss;
  }
  CHECK(report.agreement > 0.95);
  CHECK(report.policy_loss < first_loss);

  options.explore = 0;
  const std::filesystem::path path = TemporaryFile("clone");
  network.Save(path);
  const auto greedy = Network::Load(path, options);
  std::filesystem::remove(path);
  std::mt19937_64 random(99);
  double reward = 0;
  for (int i = 0; i < 50; ++i) {
    const Job job = Puzzle({2, 6}, random);
    reward += Reward(job, MustDecide(*greedy, job, random).action) / 50;
  }
  CHECK(reward > 0.95 * 3);
}

TEST_CASE("a decision reports the log-probability that an evaluation finds") {
  const auto network = Trained(Willing());
  for (const Sample& sample : DrawnSamples(*network, 40, 11)) {
    CHECK(network->Evaluate(sample).log_probability == Approx(sample.log_probability).margin(1e-4));
  }
}

TEST_CASE("the probabilities of all actions of a job add up to one") {
  const auto network = Trained(Willing());
  std::mt19937_64 random(3);
  Job job({3}, random);
  job.setting.scale = {kMinScale, kMaxScale, 1.0F};
  job.mask = MaskOf(job.spec.topology, job.setting);
  double total = 0;
  for (std::uint8_t code = 0; code < 125; ++code) {
    Action action = Action::Keep(3, 1);
    action.scale = {static_cast<std::uint8_t>(code % 5), static_cast<std::uint8_t>(code / 5 % 5),
                    static_cast<std::uint8_t>(code / 25)};
    bool open = true;
    for (std::size_t head = 0; head < 3; ++head) {
      open = open && job.mask.scale[head][action.scale[head]] != 0;
    }
    if (!open) continue;
    total += std::exp(network->Evaluate(job.Taken(action)).log_probability);
    // Three heads: halving leaves one, minus one leaves two, of three in any order.
    const std::vector<std::vector<float>> orders = {{3, 2, 1}, {3, 1, 2}, {2, 3, 1},
                                                    {1, 3, 2}, {2, 1, 3}, {1, 2, 3}};
    action.count = {CountChange::kMinusOne};
    for (const auto& order : orders) {
      action.score = order;
      total += std::exp(network->Evaluate(job.Taken(action)).log_probability);
    }
    action.count = {CountChange::kHalve};
    for (const std::vector<float>& order : {orders[0], orders[2], orders[5]}) {
      action.score = order;
      total += std::exp(network->Evaluate(job.Taken(action)).log_probability);
    }
  }
  CHECK(total == Approx(1).margin(1e-4));
}

TEST_CASE("exchanging the heads of a site exchanges their choices and nothing else") {
  NetworkOptions options = Willing();
  options.explore = 0;
  const auto network = Trained(options);
  std::mt19937_64 random(4);
  for (int i = 0; i < 10; ++i) {
    Job job({4, 5}, random);
    job.Restrict(random);
    // Head `head` of the other job is head order[head] of this one.
    std::vector<std::size_t> order(9);
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::shuffle(order.begin(), order.begin() + 4, random);
    std::shuffle(order.begin() + 4, order.end(), random);
    Job other = job;
    for (std::size_t head = 0; head < order.size(); ++head) {
      for (std::size_t feature = 0; feature < kTokenFeatures; ++feature) {
        other.Token(head, feature) = job.Token(order[head], feature);
      }
      other.setting.active[head] = job.setting.active[order[head]];
      other.setting.scale[head] = job.setting.scale[order[head]];
    }
    other.mask = MaskOf(other.spec.topology, other.setting);

    const Decision decision = MustDecide(*network, job, random);
    const Decision exchanged = MustDecide(*network, other, random);
    CHECK((exchanged.action.count == decision.action.count));
    const Sample sample = job.Taken(decision.action);
    const Sample other_sample = other.Taken(exchanged.action);
    for (std::size_t head = 0; head < order.size(); ++head) {
      CHECK(exchanged.action.scale[head] == decision.action.scale[order[head]]);
      CHECK(exchanged.action.score[head] ==
            Approx(decision.action.score[order[head]]).margin(1e-4));
      CHECK(other_sample.active_after[head] == sample.active_after[order[head]]);
    }
    CHECK(network->Evaluate(other_sample).log_probability ==
          Approx(network->Evaluate(sample).log_probability).margin(1e-3));
    CHECK(network->Evaluate(other_sample).value ==
          Approx(network->Evaluate(sample).value).margin(1e-4));
  }
}

TEST_CASE("jobs of any shape are decided, and a job is judged the same beside others") {
  const auto network = Trained(Willing());
  std::mt19937_64 random(5);
  std::vector<Sample> samples;
  for (const auto& heads : std::vector<std::vector<std::uint32_t>>{
           {1}, std::vector<std::uint32_t>(12, 12), {1, 7, 2, 16, 3}}) {
    Job job(heads, random);
    job.Restrict(random);
    const Decision decision = MustDecide(*network, job, random);
    CHECK(decision.action.scale.size() == job.state.Heads());
    CHECK(decision.action.count.size() == job.state.Sites());
    samples.push_back(job.Taken(decision.action, decision.log_probability));
  }
  double entropy = 0;
  for (const Sample& sample : samples) entropy += network->Evaluate(sample).entropy / 3;
  // A batch of the three with a learning rate of 0 reports the mean of their entropies.
  NetworkOptions options = Willing();
  options.learning_rate = 0;
  const std::filesystem::path path = TemporaryFile("shapes");
  network->Save(path);
  const auto still = Network::Load(path, options);
  std::filesystem::remove(path);
  const UpdateReport report = still->Update(samples);
  CHECK(report.entropy == Approx(entropy).epsilon(1e-4));
  CHECK(report.divergence == Approx(0).margin(1e-6));
}

TEST_CASE("closed choices are never chosen") {
  const auto network = Trained(Willing());
  std::mt19937_64 random(6);
  for (int i = 0; i < 200; ++i) {
    Job job({1, 2, 5}, random);
    job.Restrict(random);
    const Decision decision = MustDecide(*network, job, random);
    CHECK_NOTHROW(Apply(job.spec.topology, job.setting, decision.action));
    for (std::size_t head = 0; head < job.state.Heads(); ++head) {
      CHECK(job.mask.scale[head][decision.action.scale[head]] == 1);
    }
    CHECK(std::isfinite(decision.log_probability));
  }
}

TEST_CASE("an update makes a rewarded action more probable and moves the value to its target") {
  for (const double advantage : {1.0, -1.0}) {
    NetworkOptions options = Willing();
    options.epochs = 1;
    options.entropy_weight = 0;
    Network network(options);
    std::vector<Sample> samples = DrawnSamples(network, 1, 7);
    samples[0].advantage = advantage;
    samples[0].target_value = 5;
    const Network::Evaluation before = network.Evaluate(samples[0]);
    network.Update(samples);
    const Network::Evaluation after = network.Evaluate(samples[0]);
    CHECK((after.log_probability - before.log_probability) * advantage > 0);
    CHECK(after.value > before.value);
  }
}

TEST_CASE("the most probable action has no probability that it was drawn with, and moves none") {
  NetworkOptions options = Willing();
  options.explore = 0;
  std::mt19937_64 random(7);
  Job job({4, 4}, random);
  Network decider(options);
  const Decision decision = MustDecide(decider, job, random);
  CHECK(decision.log_probability == 0);

  std::vector<float> after;
  for (const double advantage : {1.0, -1.0}) {
    Network network(options);
    std::vector<Sample> samples = {job.Taken(decision.action), job.Taken(decision.action)};
    samples[0].advantage = advantage;
    samples[0].target_value = samples[1].target_value = 5;
    const float before = network.Evaluate(samples[0]).value;
    network.Update(samples);
    CHECK(network.Evaluate(samples[0]).value > before);
    after.push_back(network.Evaluate(samples[0]).log_probability);
  }
  CHECK(after[0] == after[1]);
}

TEST_CASE("an update stops once the policy has moved far enough") {
  NetworkOptions options = Willing();
  options.learning_rate = 1e-2;
  options.epochs = 1000;
  Network network(options);
  const UpdateReport report = network.Update(DrawnSamples(network, 32, 8));
  CHECK(report.divergence > 0.03);
  CHECK(report.divergence < 3);
}

TEST_CASE("a leash holds a network near what it was taught, however many jobs it learns from") {
  NetworkOptions options = Willing();
  options.learning_rate = 1e-3;
  const Network taught(options);
  const std::vector<Sample> asked = DrawnSamples(*taught.Snapshot(), 16, 100);
  const auto distance = [&](bool leashed) {
    const auto network = taught.Snapshot();
    if (leashed) network->Leash(taught);
    for (std::uint64_t job = 0; job < 40; ++job) {
      std::vector<Sample> samples = DrawnSamples(*network, 8, job);
      // Whatever a job is like, what is kept looks better.
      for (Sample& sample : samples) {
        sample.advantage =
            static_cast<double>(std::ranges::count(sample.action.count, CountChange::kKeep));
      }
      network->Update(samples);
    }
    double sum = 0;
    for (const Sample& sample : asked) {
      sum += std::abs(network->Evaluate(sample).log_probability -
                      taught.Evaluate(sample).log_probability);
    }
    return sum / static_cast<double>(asked.size());
  };
  const double free = distance(false);
  CHECK(free > 0.5);
  CHECK(distance(true) < free / 2);
}

TEST_CASE("a loss that is not finite leaves the weights as they are") {
  Network network(Willing());
  std::vector<Sample> samples = DrawnSamples(network, 2, 9);
  const torch::Tensor before = WeightsOf(network);
  samples[1].target_value = std::numeric_limits<double>::infinity();
  CHECK_THROWS_AS(network.Update(samples), NetworkError);
  CHECK(torch::equal(before, WeightsOf(network)));
}

TEST_CASE("a sample that does not fit together is refused") {
  Network network(Willing());
  std::vector<Sample> samples = DrawnSamples(network, 1, 9);
  SECTION("sizes") { samples[0].action.scale.pop_back(); }
  SECTION("a closed choice") {
    samples[0].mask.count[0] = {0, 0, 1, 0, 0};
    samples[0].action.count[0] = CountChange::kDouble;
  }
  CHECK_THROWS_AS(network.Update(samples), std::invalid_argument);
  CHECK_THROWS_AS(network.Clone(samples), std::invalid_argument);
  CHECK_THROWS_AS(network.Evaluate(samples[0]), std::invalid_argument);
}

TEST_CASE("the same seed and samples lead to the same bits") {
  const auto learn = [](std::uint64_t seed) {
    NetworkOptions options = Willing();
    options.seed = seed;
    options.minibatch = 8;
    Network network(options);
    const std::vector<Sample> samples = DrawnSamples(network, 24, 10);
    network.Clone(samples);
    network.Update(samples);
    return WeightsOf(network);
  };
  const torch::Tensor weights = learn(1);
  CHECK(torch::equal(weights, learn(1)));
  CHECK_FALSE(torch::equal(weights, learn(2)));
}

TEST_CASE("a snapshot decides like the original and does not follow it") {
  auto network = Trained(Willing());
  network->SetProgress(300, 20, 7);
  const auto snapshot = network->Snapshot();
  CHECK(snapshot->Trials() == 300);
  CHECK(snapshot->Openings() == 20);
  CHECK(snapshot->Version() == 7);
  const std::vector<Sample> samples = DrawnSamples(*network, 8, 12);
  const float before = network->Evaluate(samples[0]).log_probability;
  CHECK(snapshot->Evaluate(samples[0]).log_probability == before);
  network->Clone(samples);
  CHECK(network->Evaluate(samples[0]).log_probability != before);
  CHECK(snapshot->Evaluate(samples[0]).log_probability == before);
}

TEST_CASE("a checkpoint brings back the same outputs and progress") {
  const auto network = Trained(Willing());
  network->SetProgress(1234, 60, 5);
  const std::filesystem::path path = TemporaryFile("checkpoint");
  network->Save(path);
  network->Save(path);  // over an older one
  CHECK_FALSE(std::filesystem::exists(path.string() + ".tmp"));
  const auto loaded = Network::Load(path, Willing());
  std::filesystem::remove(path);
  CHECK(loaded->Trials() == 1234);
  CHECK(loaded->Openings() == 60);
  CHECK(loaded->Version() == 5);
  for (const Sample& sample : DrawnSamples(*network, 8, 13)) {
    const Network::Evaluation was = network->Evaluate(sample);
    const Network::Evaluation is = loaded->Evaluate(sample);
    CHECK(is.log_probability == was.log_probability);
    CHECK(is.value == was.value);
    CHECK(is.entropy == was.entropy);
  }
}

TEST_CASE(
    "a checkpoint from before a feature was added decides as it did, whatever the feature is") {
  constexpr auto kAll = static_cast<std::int64_t>(kTokenFeatures);
  const auto network = Trained(Willing());
  const std::filesystem::path path = TemporaryFile("older");
  const torch::Tensor weights = WeightsOf(*network);
  std::string features;
  for (std::size_t i = 0; i + 1 < kTokenFeatures; ++i) {
    if (i > 0) features += ',';
    features += kTokenFeatureNames[i];
  }
  const std::int64_t hidden = Willing().hidden;
  const torch::Tensor encoder = weights.narrow(0, 0, hidden * kAll).view({hidden, kAll});
  {
    torch::serialize::OutputArchive archive;
    archive.write("format", c10::IValue(std::int64_t{1}));
    archive.write("features", c10::IValue(features));
    archive.write("hidden", c10::IValue(hidden));
    archive.write("trials", c10::IValue(std::int64_t{7}));
    archive.write("version", c10::IValue(std::int64_t{1}));
    archive.write("weights",
                  torch::cat({encoder.narrow(1, 0, kAll - 1).flatten(),
                              weights.narrow(0, hidden * kAll, weights.numel() - hidden * kAll)}));
    archive.save_to(path.string());
  }
  const auto loaded = Network::Load(path, Willing());
  std::filesystem::remove(path);
  for (Sample sample : DrawnSamples(*network, 8, 13)) {
    const auto last = [&](float value) {
      for (std::size_t head = 0; head < sample.state.Heads(); ++head) {
        sample.state.tokens[head * kTokenFeatures + kTokenFeatures - 1] = value;
      }
      return sample;
    };
    const Network::Evaluation was = network->Evaluate(last(0));
    for (const float value : {0.0F, 1.0F}) {
      CHECK(loaded->Evaluate(last(value)).log_probability == Approx(was.log_probability));
      CHECK(loaded->Evaluate(last(value)).value == Approx(was.value).margin(1e-6));
    }
  }
}

TEST_CASE("a file that is not a whole fitting checkpoint is refused") {
  const std::filesystem::path path = TemporaryFile("bad");
  Network(Willing()).Save(path);
  NetworkOptions options = Willing();
  std::string expected;
  SECTION("truncated") {
    std::filesystem::resize_file(path, std::filesystem::file_size(path) / 2);
    expected = "not a whole checkpoint";
  }
  SECTION("something else") {
    std::ofstream(path) << "hello";
    expected = "not a whole checkpoint";
  }
  SECTION("another hidden size") {
    options.hidden = 16;
    expected = "hidden size of 32, asked for is 16";
  }
  SECTION("another format") {
    torch::serialize::OutputArchive archive;
    archive.write("format", c10::IValue(std::int64_t{2}));
    archive.save_to(path.string());
    expected = "is of format 2, this program reads format 1";
  }
  SECTION("other token features") {
    torch::serialize::OutputArchive archive;
    archive.write("format", c10::IValue(std::int64_t{1}));
    archive.write("features", c10::IValue(std::string("entropy,mood")));
    archive.save_to(path.string());
    expected = "has 2 token features (entropy,mood)";
  }
  SECTION("too few of the features") {  // those networks had other scale factors
    torch::serialize::OutputArchive archive;
    archive.write("format", c10::IValue(std::int64_t{1}));
    std::string features;
    for (std::size_t i = 0; i + 1 < kOldestTokenFeatures; ++i) {
      if (i > 0) features += ',';
      features += kTokenFeatureNames[i];
    }
    archive.write("features", c10::IValue(features));
    archive.save_to(path.string());
    expected = "has 27 token features (entropy,";
  }
  SECTION("absent") {
    std::filesystem::remove(path);
    expected = "there is no such file";
  }
  CHECK_THROWS_AS(Network::Load(path, options), NetworkError);
  CHECK_THROWS_WITH(Network::Load(path, options), Catch::Contains(expected));
  std::filesystem::remove(path);
}

TEST_CASE("a checkpoint that cannot be written is an error") {
  CHECK_THROWS_AS(Network(Willing()).Save("/nonexistent/folder/checkpoint"), NetworkError);
}

TEST_CASE("a network that is not fit declines and says why") {
  std::mt19937_64 random(14);
  Job job({4}, random);
  NetworkOptions options = Willing();
  SECTION("too little experience") {
    options.least_trials = 256;
    Network network(options);
    network.SetProgress(12, 0, 1);
    CHECK(DeclineOf(network, job) == "has learned from 12 trials, needs 256");
    network.SetProgress(256, 0, 1);
    CHECK(MustDecide(network, job, random).policy_version == 1);
  }
  SECTION("an output that is not finite") {
    Network network(options);
    job.Token(0, 0) = std::numeric_limits<float>::quiet_NaN();
    CHECK(DeclineOf(network, job) == "an output is not finite");
  }
  SECTION("not sure enough") {
    // Untrained: three open count choices of about a third each.
    options.least_confidence = 0.5;
    Network network(options);
    const std::string why = DeclineOf(network, job);
    CHECK_THAT(why, Catch::StartsWith("not sure enough of site 'site0': 0.3"));
    CHECK_THAT(why, Catch::EndsWith(", needs 0.50"));
  }
}

TEST_CASE("before a first step a network decides where it has learned from such decisions") {
  std::mt19937_64 random(14);
  Job job({4}, random);
  Network network(Willing());
  network.SetProgress(300, 0, 1);
  const Verdict verdict = network.Open(job.View(), random);
  REQUIRE(std::holds_alternative<Decline>(verdict));
  CHECK(std::get<Decline>(verdict).why == "has learned from no decision before a first step");
  network.SetProgress(300, 1, 1);
  const auto declines = [&] { return std::get<Decline>(network.Open(job.View(), random)).why; };
  CHECK(declines() == "the job does not say its learning rate");
  job.spec.learning_rate = 0.01;
  CHECK(declines() == "the job does not say its optimiser");
  job.spec.optimizer = "SGD";
  CHECK(declines() == "under SGD it goes by what is measured");
  job.spec.optimizer = "adamw";
  std::mt19937_64 same = random;
  const auto opening = std::get<Decision>(network.Open(job.View(), random));
  CHECK(opening.action == std::get<Decision>(network.Decide(job.View(), same)).action);
}

TEST_CASE("the reason of a decision names the sites that change") {
  NetworkOptions options = Willing();
  Network network(options);
  std::mt19937_64 random(15);
  Job job({1}, random);
  job.mask.scale[0] = {0, 0, 0, 1, 0};
  CHECK_THAT(MustDecide(network, job, random).why, Catch::StartsWith("scale of 1 head; log-odds "));
  job.mask.scale[0] = {0, 0, 1, 0, 0};
  CHECK(MustDecide(network, job, random).why == "keeps everything");
  Job wide({4, 4, 4}, random);
  for (auto& open : wide.mask.count) open = {1, 0, 0, 0, 0};
  for (auto& open : wide.mask.scale) open = {0, 0, 1, 0, 0};
  CHECK_THAT(MustDecide(network, wide, random).why,
             Catch::StartsWith("count of site site0: halve (1.00), of site site1: halve (1.00), of "
                               "1 more; log-odds "));
}

TEST_CASE("the reason of a decision names the measurement that the network goes by") {
  // A teacher who halves where attention takes much of a step, and else keeps.
  const std::size_t share = TokenFeature("attention_share");
  NetworkOptions options = Willing();
  options.learning_rate = 3e-3;
  options.epochs = 60;
  options.explore = 0;
  Network network(options);
  std::mt19937_64 random(21);
  const auto look = [&](bool much) {
    Job job({4, 4}, random);
    for (std::size_t head = 0; head < job.state.Heads(); ++head) {
      job.Token(head, share) = much ? 1.5F : -1.5F;
    }
    return job;
  };
  std::vector<Sample> lessons;
  for (int i = 0; i < 128; ++i) {
    const Job job = look(i % 2 == 0);
    Action action = Action::Keep(8, 2);
    if (i % 2 == 0) action.count.assign(2, CountChange::kHalve);
    lessons.push_back(job.Taken(action));
  }
  network.Clone(lessons);
  const std::string why = MustDecide(network, look(true), random).why;
  CHECK_THAT(why, Catch::Contains("of site site1: halve") &&
                      Catch::Contains("moved by attention_share +"));
}

TEST_CASE("cloning goes by the weights of the samples") {
  NetworkOptions options = Willing();
  options.learning_rate = 3e-3;
  options.epochs = 60;
  options.explore = 0;
  Network network(options);
  std::mt19937_64 random(22);
  std::vector<Sample> lessons;
  for (int i = 0; i < 128; ++i) {  // one teacher halves, another keeps; the first did better
    const Job job({4}, random);
    Action action = Action::Keep(4, 1);
    if (i % 2 == 0) action.count[0] = CountChange::kHalve;
    lessons.push_back(job.Taken(action));
    lessons.back().weight = i % 2 == 0 ? 1 : 0.05;
  }
  network.Clone(lessons);
  int halves = 0;
  for (int i = 0; i < 20; ++i) {
    const Job job({4}, random);
    if (MustDecide(network, job, random).action.count[0] == CountChange::kHalve) ++halves;
  }
  CHECK(halves > 14);
}

TEST_CASE("the network that attune comes with can decide") {
  const auto network = Network::Shipped(NetworkOptions{});
  CHECK(network->Trials() >= NetworkOptions{}.least_trials);
}

TEST_CASE("advantages are one-step surprises at lambda 0 and returns less values at lambda 1") {
  const std::vector<double> rewards = {1, -2, 3};
  const std::vector<double> values = {0.5, 1.5, -1, 4};
  const double discount = 0.9;
  const std::vector<double> short_sighted = Advantages(rewards, values, discount, 0);
  const std::vector<double> whole = Advantages(rewards, values, discount, 1);
  REQUIRE(short_sighted.size() == 3);
  REQUIRE(whole.size() == 3);
  for (std::size_t i = 0; i < 3; ++i) {
    CHECK(short_sighted[i] == Approx(rewards[i] + discount * values[i + 1] - values[i]));
  }
  CHECK(whole[2] == Approx(3 + 0.9 * 4 + 1));
  CHECK(whole[1] == Approx(-2 + 0.9 * 3 + 0.81 * 4 - 1.5));
  CHECK(whole[0] == Approx(1 - 0.9 * 2 + 0.81 * 3 + 0.729 * 4 - 0.5));
  CHECK_THROWS_AS(Advantages(rewards, rewards, discount, 1), std::invalid_argument);
}
