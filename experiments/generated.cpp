// Texts that are made and not found, one for each kind of thing that people train attention on.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <random>
#include <stdexcept>
#include <vector>

#include "experiments/text.h"

namespace attune {
namespace {

constexpr std::size_t kBytes = 1'000'000;
constexpr std::uint64_t kSeed = 0;

int Uniform(std::mt19937_64& random, int least, int most) {
  return std::uniform_int_distribution<int>(least, most)(random);
}

// Arithmetic: "417+88=505".
std::string Sums() {
  std::mt19937_64 random(kSeed);
  std::string text;
  while (text.size() < kBytes) {
    const int a = Uniform(random, 0, 999);
    const int b = Uniform(random, 0, 999);
    const bool plus = Uniform(random, 0, 1) == 0;
    text += fmt::format("{}{}{}={}\n", a, plus ? '+' : '-', b, plus ? a + b : a - b);
  }
  return text;
}

// A knowledge graph: two relations lead from each of 300 things to another, the third is one after
// the other: "k017 a k133, k133 b k020, k017 c k020".
std::string Triples() {
  std::mt19937_64 random(kSeed);
  std::array<std::vector<int>, 2> relations;
  for (auto& relation : relations) {
    relation.resize(300);
    std::iota(relation.begin(), relation.end(), 0);
    std::shuffle(relation.begin(), relation.end(), random);
  }
  std::string text;
  while (text.size() < kBytes) {
    const auto x = static_cast<std::size_t>(Uniform(random, 0, 299));
    const int y = relations[0][x];
    const int z = relations[1][static_cast<std::size_t>(y)];
    text += fmt::format("k{:03} a k{:03}, k{:03} b k{:03}, k{:03} c k{:03}\n", x, y, y, z, x, z);
  }
  return text;
}

// Recommendation: what somebody looks at in a shop, of 20 tastes with 12 things each; a third of it
// he looked at before.
std::string Sessions() {
  std::mt19937_64 random(kSeed);
  std::string text;
  while (text.size() < kBytes) {
    const int taste = Uniform(random, 0, 19);
    std::vector<int> seen;
    for (int length = Uniform(random, 8, 24); length > 0; --length) {
      const int kind = Uniform(random, 0, 9);
      int thing = taste * 12 + Uniform(random, 0, 11);
      if (kind < 3 && !seen.empty()) {
        thing = seen[seen.size() - 1 -
                     static_cast<std::size_t>(
                         Uniform(random, 0, std::min(5, static_cast<int>(seen.size()) - 1)))];
      } else if (kind == 9) {
        thing = Uniform(random, 0, 239);
      }
      seen.push_back(thing);
      text += fmt::format("{}{} ", static_cast<char>('a' + thing / 10), thing % 10);
    }
    text.back() = '\n';
  }
  return text;
}

// Vision: pictures of 12 × 12 with two shapes, row by row in four shades, and what they show.
std::string Shapes() {
  std::mt19937_64 random(kSeed);
  constexpr int kSide = 12;
  constexpr std::array kNames = {"square", "disc", "cross"};
  std::string text;
  while (text.size() < kBytes) {
    std::array<std::string, kSide> rows;
    rows.fill(std::string(kSide, '.'));
    std::string names;
    for (int shape = 0; shape < 2; ++shape) {
      const int kind = Uniform(random, 0, 2);
      const int radius = Uniform(random, 1, 3);
      const int x = Uniform(random, radius, kSide - 1 - radius);
      const int y = Uniform(random, radius, kSide - 1 - radius);
      const char shade = "+o#"[Uniform(random, 0, 2)];
      for (int i = -radius; i <= radius; ++i) {
        for (int j = -radius; j <= radius; ++j) {
          const bool inside =
              kind == 0 || (kind == 1 ? i * i + j * j <= radius * radius + 1 : i == 0 || j == 0);
          if (inside)
            rows[static_cast<std::size_t>(y + i)][static_cast<std::size_t>(x + j)] = shade;
        }
      }
      names += fmt::format(" {}", kNames[static_cast<std::size_t>(kind)]);
    }
    for (const std::string& row : rows) text += row + '\n';
    text += names.substr(1) + '\n';
  }
  return text;
}

}  // namespace

std::string Generate(std::string_view name) {
  if (name == "sums") return Sums();
  if (name == "triples") return Triples();
  if (name == "sessions") return Sessions();
  if (name == "shapes") return Shapes();
  throw std::invalid_argument(fmt::format("no text is generated as '{}'", name));
}

}  // namespace attune
