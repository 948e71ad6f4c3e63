// Texts that are made and not found, for the kinds of things that people train attention on.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
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

// Vision: pictures of 16 × 12 in five shades, row by row. In most two textures meet at a border; a
// texture is a tile of 2 to 4 by 2 to 4 that comes again and again, and one pixel of 50 is noise.
std::string Textures() {
  std::mt19937_64 random(kSeed);
  constexpr std::size_t kMostSide = 4;
  const auto shade = [&] { return ".:+o#"[Uniform(random, 0, 4)]; };
  struct Texture {
    std::size_t width = 0, height = 0;
    std::array<std::array<char, kMostSide>, kMostSide> tile{};
  };
  std::string text;
  while (text.size() < kBytes) {
    std::array<Texture, 2> textures;
    for (Texture& texture : textures) {
      texture.width = static_cast<std::size_t>(Uniform(random, 2, kMostSide));
      texture.height = static_cast<std::size_t>(Uniform(random, 2, kMostSide));
      for (auto& row : texture.tile) std::ranges::generate(row, shade);
    }
    const int right = Uniform(random, -2, 2);  // how the border leans
    const int down = Uniform(random, 1, 2);
    const int border = Uniform(random, -8, 40);
    for (int y = 0; y < 12; ++y) {
      for (int x = 0; x < 16; ++x) {
        const Texture& texture = textures[right * x + down * y < border ? 0 : 1];
        const bool noise = Uniform(random, 0, 49) == 0;
        text += noise ? shade()
                      : texture.tile[static_cast<std::size_t>(y) % texture.height]
                                    [static_cast<std::size_t>(x) % texture.width];
      }
      text += '\n';
    }
    text += '\n';
  }
  return text;
}

// Speech: sound of 8 kHz in 32 levels ('@' to '_'), then what was said: "QV[…PP = aio". A voice of
// a pitch of its own says 3 to 5 vowels; each of its pulses rings in the vowel's two formants.
std::string Speech() {
  std::mt19937_64 random(kSeed);
  // Numbers are parts of kOne, so that all machines make the same bytes.
  constexpr int kOne = 4096;
  constexpr int kDecay = 3318;  // r², r = 0.9
  struct Resonance {
    int pole, gain;  // 2 r cos ω and sin ω of its frequency
    int now = 0, before = 0;
    int Ring(int pulse) {
      const int next = (pole * now - kDecay * before + gain * pulse) / kOne;
      before = now;
      return now = next;
    }
  };
  struct Vowel {
    char name;
    std::array<Resonance, 2> formants;
  };
  // The means of men's in G. E. Peterson and H. L. Barney, Control Methods Used in a Study of the
  // Vowels (1952), table II.
  constexpr std::array kVowels = {Vowel{'i', {{{7208, 862}, {-1665, 3990}}}},   // 270 and 2,290 Hz
                                  Vowel{'e', {{{6743, 1656}, {924, 4064}}}},    // 530 and 1,840 Hz
                                  Vowel{'a', {{{6194, 2222}, {4832, 3094}}}},   // 730 and 1,090 Hz
                                  Vowel{'o', {{{6646, 1773}, {5826, 2510}}}},   // 570 and 840 Hz
                                  Vowel{'u', {{{7169, 956}, {5718, 2586}}}},    // 300 and 870 Hz
                                  Vowel{'r', {{{6834, 1538}, {3603, 3574}}}}};  // 490 and 1,350 Hz
  std::string text;
  while (text.size() < kBytes) {
    const int period = Uniform(random, 25, 50);
    std::string said;
    for (int vowels = Uniform(random, 3, 5); vowels > 0; --vowels) {
      Vowel vowel = kVowels[static_cast<std::size_t>(Uniform(random, 0, kVowels.size() - 1))];
      said += vowel.name;
      for (int sample = Uniform(random, 3, 5) * period - 1; sample >= 0; --sample) {
        const int pulse = sample % period == period - 1 ? kOne : 0;
        const int sound =
            3 * vowel.formants[0].Ring(pulse) / 5 + 2 * vowel.formants[1].Ring(pulse) / 5;
        const int up = std::max(0, Uniform(random, -6, 1));
        const int down = std::max(0, Uniform(random, -6, 1));
        text += static_cast<char>('@' + std::clamp(16 + 15 * sound / kOne + up - down, 0, 31));
      }
    }
    text += fmt::format(" = {}\n", said);
  }
  return text;
}

// A knowledge graph of 60 families of three generations, walked from one to another of the same:
// "p117 mother p033, p033 child p117, p117 sibling p402".
std::string Kinship() {
  std::mt19937_64 random(kSeed);
  struct Fact {
    std::string_view relation;
    std::size_t whom;
  };
  std::vector<std::vector<Fact>> facts;  // of each person
  const auto marry = [&](std::size_t a) {
    const std::size_t b = facts.size();
    facts.emplace_back();
    facts[a].push_back({"spouse", b});
    facts[b].push_back({"spouse", a});
    return b;
  };
  const auto have_children = [&](std::size_t mother, std::size_t father) {
    const std::size_t first = facts.size();
    for (int children = Uniform(random, 2, 3); children > 0; --children) {
      const std::size_t child = facts.size();
      facts.push_back({{"mother", mother}, {"father", father}});
      facts[mother].push_back({"child", child});
      facts[father].push_back({"child", child});
      for (std::size_t other = first; other < child; ++other) {
        facts[child].push_back({"sibling", other});
        facts[other].push_back({"sibling", child});
      }
    }
    return first;
  };
  for (int family = 0; family < 60; ++family) {
    const std::size_t mother = facts.size();
    facts.emplace_back();
    const std::size_t daughter = have_children(mother, marry(mother));
    have_children(daughter, marry(daughter));
  }
  std::vector<std::size_t> names(facts.size());
  std::iota(names.begin(), names.end(), 0U);
  std::shuffle(names.begin(), names.end(), random);
  std::string text;
  while (text.size() < kBytes) {
    auto who = static_cast<std::size_t>(Uniform(random, 0, static_cast<int>(facts.size()) - 1));
    for (int steps = Uniform(random, 8, 16); steps > 0; --steps) {
      const auto& known = facts[who];
      const Fact& fact =
          known[static_cast<std::size_t>(Uniform(random, 0, static_cast<int>(known.size()) - 1))];
      text += fmt::format("p{:03} {} p{:03}, ", names[who], fact.relation, names[fact.whom]);
      who = fact.whom;
    }
    text.replace(text.size() - 2, 2, "\n");
  }
  return text;
}

// Physics: elementary cellular automata, each of a rule of its own, from a random row on.
std::string Automata() {
  std::mt19937_64 random(kSeed);
  constexpr std::size_t kWidth = 24;
  std::string text;
  while (text.size() < kBytes) {
    const int rule = Uniform(random, 0, 255);
    std::array<int, kWidth> cells{};
    for (int& cell : cells) cell = Uniform(random, 0, 1);
    for (int row = 0; row < 16; ++row) {
      for (const int cell : cells) text += cell == 0 ? '.' : '#';
      text += '\n';
      std::array<int, kWidth> next{};
      for (std::size_t x = 0; x < kWidth; ++x) {
        const int around =
            4 * cells[(x + kWidth - 1) % kWidth] + 2 * cells[x] + cells[(x + 1) % kWidth];
        next[x] = rule >> around & 1;
      }
      cells = next;
    }
    text += '\n';
  }
  return text;
}

// Music: a motif of 6 to 10 notes, again and again, now and then moved or turned upside down.
std::string Melodies() {
  std::mt19937_64 random(kSeed);
  constexpr std::string_view kLengths = "-=~";
  std::string text;
  while (text.size() < kBytes) {
    struct Note {
      int pitch;
      char length;
    };
    std::vector<Note> motif(static_cast<std::size_t>(Uniform(random, 6, 10)));
    int pitch = Uniform(random, 8, 16);
    for (Note& note : motif) {
      pitch = std::clamp(pitch + Uniform(random, -3, 3), 4, 20);
      note = {pitch, kLengths[static_cast<std::size_t>(Uniform(random, 0, 2))]};
    }
    for (int bars = Uniform(random, 4, 8); bars > 0; --bars) {
      const int moved = Uniform(random, 0, 2) == 0 ? Uniform(random, -4, 4) : 0;
      const bool turned = Uniform(random, 0, 4) == 0;
      for (const Note& note : motif) {
        const int away = note.pitch - motif.front().pitch;
        const int place = motif.front().pitch + moved + (turned ? -away : away);
        text += static_cast<char>('a' + std::clamp(place, 0, 24));
        text += note.length;
      }
      text += '|';
    }
    text += '\n';
  }
  return text;
}

// Sensors: a slow and a fast wave with steps between them, in 40 levels.
std::string Series() {
  std::mt19937_64 random(kSeed);
  std::string text;
  while (text.size() < kBytes) {
    const int slow = Uniform(random, 30, 60);
    const int fast = Uniform(random, 5, 12);
    int level = Uniform(random, -4, 4);
    for (int t = Uniform(random, 150, 250); t > 0; --t) {
      if (Uniform(random, 0, 39) == 0) level = Uniform(random, -4, 4);
      // Triangles of ± 10 and ± 5.
      const int long_wave = std::abs(t % slow * 40 / slow - 20) - 10;
      const int short_wave = std::abs(t % fast * 20 / fast - 10) - 5;
      const int noise = Uniform(random, 0, 5) == 0 ? Uniform(random, -1, 1) : 0;
      text += static_cast<char>('P' + std::clamp(long_wave + short_wave + level + noise, -20, 19));
    }
    text += '\n';
  }
  return text;
}

// Structure: brackets of four kinds, closed in their order.
std::string Brackets() {
  std::mt19937_64 random(kSeed);
  std::string text;
  while (text.size() < kBytes) {
    std::string open;
    for (int left = Uniform(random, 40, 120); left > 0 || !open.empty(); --left) {
      const bool opens =
          left > 0 && open.size() < 12 && (open.empty() || Uniform(random, 0, 1) == 0);
      if (opens) {
        const auto kind = static_cast<std::size_t>(Uniform(random, 0, 3));
        text += "([{<"[kind];
        open += ")]}>"[kind];
      } else {
        text += open.back();
        open.pop_back();
      }
    }
    text += '\n';
  }
  return text;
}

// Memory: what goes with what, told once and asked for again: "qBxK?q=B?x=K".
std::string Recall() {
  std::mt19937_64 random(kSeed);
  std::string text;
  while (text.size() < kBytes) {
    std::array<char, 26> keys{};
    std::iota(keys.begin(), keys.end(), 'a');
    std::shuffle(keys.begin(), keys.end(), random);
    const auto known = static_cast<std::size_t>(Uniform(random, 6, 16));
    std::string values;
    for (std::size_t i = 0; i < known; ++i) {
      values += static_cast<char>('A' + Uniform(random, 0, 15));
      text += keys[i];
      text += values.back();
    }
    for (std::size_t asked = 0; asked < known; ++asked) {
      const auto i = static_cast<std::size_t>(Uniform(random, 0, static_cast<int>(known) - 1));
      text += fmt::format("?{}={}", keys[i], values[i]);
    }
    text += '\n';
  }
  return text;
}

// Biology: bases drawn by the two before them; a third of a strand is an earlier part of it, with
// one base of 20 changed.
std::string Genes() {
  std::mt19937_64 random(kSeed);
  constexpr std::string_view kBases = "ACGT";
  std::array<std::array<int, 4>, 16> odds{};  // of the next base, by the two before it
  for (auto& of_pair : odds) {
    for (int& odd : of_pair) odd = Uniform(random, 1, 9);
  }
  std::string text;
  while (text.size() < kBytes) {
    std::string strand = "AC";
    while (strand.size() < 400) {
      if (strand.size() > 60 && Uniform(random, 0, 59) == 0) {
        const auto from =
            static_cast<std::size_t>(Uniform(random, 0, static_cast<int>(strand.size()) - 40));
        const std::string part =
            strand.substr(from, static_cast<std::size_t>(Uniform(random, 20, 40)));
        for (const char base : part) {
          strand += Uniform(random, 0, 19) == 0
                        ? kBases[static_cast<std::size_t>(Uniform(random, 0, 3))]
                        : base;
        }
        continue;
      }
      const auto& of_pair =
          odds[4 * kBases.find(strand[strand.size() - 2]) + kBases.find(strand.back())];
      int lot = Uniform(random, 1, std::accumulate(of_pair.begin(), of_pair.end(), 0));
      std::size_t base = 0;
      while ((lot -= of_pair[base]) > 0) ++base;
      strand += kBases[base];
    }
    text += strand + '\n';
  }
  return text;
}

// Recommendation: what goes into a basket, by one to three of 40 recipes, with what was forgotten
// and what was added: "017 203 044".
std::string Baskets() {
  std::mt19937_64 random(kSeed);
  std::array<std::vector<int>, 40> recipes;
  for (auto& recipe : recipes) {
    recipe.resize(static_cast<std::size_t>(Uniform(random, 5, 9)));
    for (int& thing : recipe) thing = Uniform(random, 0, 299);
  }
  std::string text;
  while (text.size() < kBytes) {
    for (int dishes = Uniform(random, 1, 3); dishes > 0; --dishes) {
      auto recipe = recipes[static_cast<std::size_t>(Uniform(random, 0, 39))];
      std::shuffle(recipe.begin(), recipe.end(), random);
      recipe.resize(recipe.size() - static_cast<std::size_t>(Uniform(random, 0, 2)));
      if (Uniform(random, 0, 2) == 0) recipe.push_back(Uniform(random, 0, 299));
      for (const int thing : recipe) text += fmt::format("{:03} ", thing);
    }
    text.back() = '\n';
  }
  return text;
}

struct Generated {
  std::string_view name;
  std::string (*make)();
};
constexpr std::array kGenerated = {
    Generated{"sums", Sums},       Generated{"triples", Triples},   Generated{"sessions", Sessions},
    Generated{"shapes", Shapes},   Generated{"textures", Textures}, Generated{"speech", Speech},
    Generated{"kinship", Kinship}, Generated{"automata", Automata}, Generated{"melodies", Melodies},
    Generated{"series", Series},   Generated{"brackets", Brackets}, Generated{"recall", Recall},
    Generated{"genes", Genes},     Generated{"baskets", Baskets},
};

}  // namespace

std::vector<std::string_view> GeneratedNames() {
  std::vector<std::string_view> names;
  for (const Generated& generated : kGenerated) names.push_back(generated.name);
  return names;
}

std::string Generate(std::string_view name) {
  const auto* generated = std::ranges::find(kGenerated, name, &Generated::name);
  if (generated == kGenerated.end()) {
    throw std::invalid_argument(fmt::format("no text is generated as '{}'", name));
  }
  return generated->make();
}

}  // namespace attune
