// The suites of experiments/: what is held out was never learned from.
#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "agent/sweep/plan.h"
#include "agent/sweep/spec.h"

namespace attune::sweep::test {
namespace {

Spec Suite(const std::string& name) {
  const std::filesystem::path file = std::filesystem::path(ATTUNE_SUITES) / (name + ".toml");
  std::ifstream stream(file);
  const std::string text{std::istreambuf_iterator<char>(stream), {}};
  return ParseSpec(text, file);
}

// What the cases of a suite have as this parameter, or as these together.
std::set<std::string> Values(const Spec& suite, const std::vector<std::string>& names) {
  std::set<std::string> values;
  for (const auto& point : suite.cases) {
    std::string value;
    for (const std::string& name : names) value += point.at(name).dump() + " ";
    values.insert(value);
  }
  return values;
}

// The texts by name: of a model that was trained before the job there are two.
std::set<std::string> Texts(const Spec& suite) {
  std::set<std::string> texts;
  for (const auto& point : suite.cases) {
    std::istringstream names(point.at("data").get<std::string>());
    for (std::string name; std::getline(names, name, ',');) texts.insert(name);
  }
  return texts;
}

bool Share(const std::set<std::string>& a, const std::set<std::string>& b) {
  return std::ranges::any_of(a, [&](const std::string& value) { return b.contains(value); });
}

TEST_CASE("the held-out suite shares no text, topology, rate or seed with the train suite") {
  const Spec train = Suite("train");
  const Spec held_out = Suite("heldout");
  CHECK(train.cases.size() >= 60);
  CHECK(held_out.cases.size() >= 16);
  for (const std::vector<std::string>& names : std::vector<std::vector<std::string>>{
           {"rate"}, {"context"}, {"layers", "width", "heads", "context"}}) {
    CAPTURE(names);
    CHECK_FALSE(Share(Values(train, names), Values(held_out, names)));
  }
  CHECK_FALSE(Share(Texts(train), Texts(held_out)));
  for (const std::uint64_t seed : held_out.seeds) {
    CHECK(std::ranges::find(train.seeds, seed) == train.seeds.end());
  }
}

TEST_CASE("models that were trained before are of texts that nothing was learned from") {
  const Spec suite = Suite("trained");
  CHECK(suite.cases.size() >= 3);
  CHECK_FALSE(Share(Texts(Suite("train")), Texts(suite)));
  for (const auto& point : suite.cases) {
    CHECK(point.at("data").get<std::string>().find(',') != std::string::npos);
  }
}

TEST_CASE("the held-out suite has every kind of job, a third of them with a budget in steps") {
  const Spec suite = Suite("heldout");
  const auto kinds = Values(suite, {"kind"});
  for (const char* kind : {"long", "balanced", "short", "hot", "cold", "fast", "dead", "identical",
                           "vision", "speech", "graph"}) {
    CHECK(kinds.contains("\"" + std::string(kind) + "\" "));
  }
  const auto steps = std::ranges::count_if(
      suite.cases, [](const auto& point) { return point["unit"] == "steps"; });
  CHECK(3 * static_cast<std::size_t>(steps) >= suite.cases.size());
  CHECK(suite.seeds.size() >= 5);
  CHECK(suite.bars.size() > 20);
}

}  // namespace
}  // namespace attune::sweep::test
