// Real text to train small language models on.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace attune {

struct Text {
  std::string content;
  std::string source;  // where it was taken from, for people
};

// The content of `file`; where that is empty, the names, descriptions and sections of Debian's
// packages as apt knows them, one to a line; where apt knows less than 100 kB of that, the licence
// texts in /usr/share/common-licenses. Throws std::invalid_argument, in one line, for a file that
// cannot be read and where there is no text at all.
[[nodiscard]] Text LoadText(const std::string& file);

// Texts by name, at most 4 MB each.
//   found      packages (as above, without the licences), licences, headers (of the C++ library),
//              cmake (its modules), perl (its library)
//   generated  GeneratedNames: triples and kinship (knowledge graphs), sessions and baskets
//              (recommendation), shapes and textures (vision), speech, melodies, series (sensors),
//              genes, sums, brackets, recall, automata
// Throws std::invalid_argument for another name, and where this system does not have it.
[[nodiscard]] Text LoadNamed(const std::string& name);

[[nodiscard]] std::vector<std::string_view> GeneratedNames();

// One of GeneratedNames: the same bytes with every libstdc++.
[[nodiscard]] std::string Generate(std::string_view name);

// "name: description [section]" for every package in the output of `apt-cache dumpavail`; of
// several versions of a package the first, packages without a description left out.
[[nodiscard]] std::string PackageLines(std::string_view dump);

// The text with every 20th block of 4,096 bytes held out for validation.
struct SplitText {
  std::string training;
  std::string validation;
};
[[nodiscard]] SplitText HoldOut(std::string_view content);

// The bytes of a text as numbers from 0, without gaps, in the order of the bytes.
class Vocabulary {
 public:
  explicit Vocabulary(std::string_view text);
  [[nodiscard]] std::int64_t Size() const { return size_; }
  // Of bytes that are in that text: -1 is the number of any other.
  [[nodiscard]] std::vector<std::int64_t> Encode(std::string_view text) const;

 private:
  std::array<std::int64_t, 256> numbers_{};
  std::int64_t size_ = 0;
};

}  // namespace attune
