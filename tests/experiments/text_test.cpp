#include "experiments/text.h"

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/catch.hpp"

namespace attune {
namespace {

using Catch::Matchers::Contains;

TEST_CASE("a package is a line, the first of its versions, and none without a description") {
  const std::string dump =
      "Package: zlib\nVersion: 2\nDescription: packs\nSection: libs\n\n"
      "Package: zlib\nVersion: 1\nDescription: packed\nSection: libs\n\n"
      "Package: bare\nVersion: 1\n\n"
      "Package: vi\nDescription-en: edits\n";
  CHECK(PackageLines(dump) == "zlib: packs [libs]\nvi: edits\n");
}

TEST_CASE("every twentieth block is held out, and every byte is in one of the two parts") {
  constexpr std::size_t kBlock = 4096;
  std::string text;
  for (int block = 0; block < 41; ++block) text.append(kBlock, static_cast<char>('0' + block));
  text += "the rest";
  const SplitText split = HoldOut(text);
  CHECK(split.validation == text.substr(19 * kBlock, kBlock) + text.substr(39 * kBlock, kBlock));
  CHECK(split.training == text.substr(0, 19 * kBlock) + text.substr(20 * kBlock, 19 * kBlock) +
                              text.substr(40 * kBlock));
}

TEST_CASE("the bytes of a text have numbers without gaps, in their order") {
  const Vocabulary vocabulary("banana\xff");
  CHECK(vocabulary.Size() == 4);
  CHECK(vocabulary.Encode("nab\xff") == std::vector<std::int64_t>{2, 0, 1, 3});
  CHECK(vocabulary.Encode("z") == std::vector<std::int64_t>{-1});
}

TEST_CASE("texts are generated the same each time, long enough to train on") {
  for (const std::string_view name : kGenerated) {
    INFO(name);
    CHECK(LoadNamed(std::string(name)).content == Generate(name));
    CHECK(Generate(name).size() >= 100'000);
  }
}

TEST_CASE("a text that there is not is said by its name") {
  CHECK_THROWS_WITH(LoadNamed("novels"), Contains("no text 'novels'"));
  CHECK_THROWS_WITH(LoadText("/nowhere/at all"), Contains("cannot read the text /nowhere/at all"));
}

}  // namespace
}  // namespace attune
