// Text from a file, from apt or from the licences that every Debian system has.
#include "experiments/text.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <unordered_set>
#include <vector>

namespace attune {
namespace {

constexpr std::size_t kLeastBytes = 100'000;
constexpr std::size_t kMostBytes = 4'000'000;
constexpr std::size_t kBlockBytes = 4096;
constexpr std::size_t kHeldOutBlock = 20;

// What the command writes to stdout; empty where it cannot be run.
std::string OutputOf(const char* command) {
  struct Close {
    void operator()(std::FILE* pipe) const { pclose(pipe); }
  };
  const std::unique_ptr<std::FILE, Close> pipe(popen(command, "r"));
  std::string output;
  if (!pipe) return output;
  std::array<char, 1 << 16> buffer;
  while (const std::size_t size = std::fread(buffer.data(), 1, buffer.size(), pipe.get())) {
    output.append(buffer.data(), size);
  }
  return output;
}

// False where the file cannot be read.
bool Read(const std::filesystem::path& path, std::string& content) {
  // A folder opens as a stream and only fails to be read.
  if (!std::filesystem::is_regular_file(path)) return false;
  std::ifstream stream(path, std::ios::binary);
  if (!stream) return false;
  content.append(std::istreambuf_iterator<char>(stream), {});
  return !stream.bad();
}

// The files below `folder` whose names end so, in the order of their names, up to kMostBytes.
std::string FilesBelow(const std::filesystem::path& folder, std::string_view ending) {
  std::vector<std::filesystem::path> files;
  std::error_code error;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder, error)) {
    // Links are other names of the same texts.
    if (!entry.is_symlink() && entry.is_regular_file() &&
        entry.path().filename().string().ends_with(ending)) {
      files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());
  std::string content;
  for (const auto& file : files) {
    Read(file, content);
    if (content.size() >= kMostBytes) break;
  }
  content.resize(std::min(content.size(), kMostBytes));
  return content;
}

// The last folder by name below `parent` whose name begins so; empty if there is none.
std::filesystem::path FolderLike(const std::filesystem::path& parent, std::string_view beginning) {
  std::filesystem::path last;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(parent, error)) {
    const std::string name = entry.path().filename();
    if (name.starts_with(beginning) && entry.is_directory() && !entry.is_symlink()) {
      last = std::max(last, entry.path());
    }
  }
  return last;
}

std::string Licences() { return FilesBelow("/usr/share/common-licenses", ""); }

std::string Packages() { return PackageLines(OutputOf("apt-cache dumpavail 2>/dev/null")); }

}  // namespace

std::string PackageLines(std::string_view dump) {
  std::string lines;
  std::unordered_set<std::string_view> seen;
  std::string_view package, description, section;
  const auto finish = [&] {
    if (!package.empty() && !description.empty() && seen.insert(package).second) {
      lines.append(package).append(": ").append(description);
      if (!section.empty()) lines.append(" [").append(section).append("]");
      lines.push_back('\n');
    }
    package = description = section = {};
  };
  while (!dump.empty()) {
    const std::string_view line = dump.substr(0, dump.find('\n'));
    dump.remove_prefix(std::min(dump.size(), line.size() + 1));
    if (line.empty()) finish();
    const auto take = [&line](std::string_view key, std::string_view& value) {
      if (line.substr(0, key.size()) == key) value = line.substr(key.size());
    };
    take("Package: ", package);
    take("Description: ", description);
    take("Description-en: ", description);
    take("Section: ", section);
  }
  finish();
  return lines;
}

Text LoadText(const std::string& file) {
  Text text;
  if (!file.empty()) {
    if (!Read(file, text.content)) {
      throw std::invalid_argument("cannot read the text " + file + ": is it a readable file?");
    }
    if (text.content.empty()) throw std::invalid_argument("the text " + file + " is empty");
    text.source = file;
    return text;
  }
  text = {Packages(),
          "names, descriptions and sections of Debian's packages (apt-cache dumpavail)"};
  if (text.content.size() >= kLeastBytes) return text;
  text = {Licences(), "licence texts in /usr/share/common-licenses"};
  if (text.content.empty()) {
    throw std::invalid_argument("there is no text to train on: name one with --text FILE");
  }
  return text;
}

Text LoadNamed(const std::string& name) {
  Text text{.content = {}, .source = name};
  const auto generated = GeneratedNames();
  if (name == "packages") {
    text.content = Packages().substr(0, kMostBytes);
  } else if (name == "licences") {
    text.content = Licences();
  } else if (name == "headers") {
    text.content = FilesBelow(FolderLike("/usr/include/c++", ""), ".h");
  } else if (name == "cmake") {
    text.content = FilesBelow(FolderLike("/usr/share", "cmake-") / "Modules", ".cmake");
  } else if (name == "perl") {
    text.content = FilesBelow(FolderLike("/usr/share/perl", "5"), ".pm");
  } else if (std::ranges::find(generated, name) != generated.end()) {
    text.content = Generate(name);
  } else {
    throw std::invalid_argument(
        fmt::format("there is no text '{}'; there are packages, licences, headers, cmake, perl, {}",
                    name, fmt::join(generated, ", ")));
  }
  if (text.content.size() < kLeastBytes) {
    throw std::invalid_argument("this system does not have the text '" + name +
                                "'; name another, or a file with --text");
  }
  return text;
}

SplitText HoldOut(std::string_view content) {
  SplitText split;
  for (std::size_t block = 0; block * kBlockBytes < content.size(); ++block) {
    const bool held_out = block % kHeldOutBlock == kHeldOutBlock - 1;
    (held_out ? split.validation : split.training)
        .append(content.substr(block * kBlockBytes, kBlockBytes));
  }
  return split;
}

Vocabulary::Vocabulary(std::string_view text) {
  numbers_.fill(-1);
  for (const unsigned char c : text) numbers_[c] = 0;
  for (std::int64_t& number : numbers_) {
    if (number == 0) number = size_++;
  }
}

std::vector<std::int64_t> Vocabulary::Encode(std::string_view text) const {
  std::vector<std::int64_t> numbers;
  numbers.reserve(text.size());
  for (const unsigned char c : text) numbers.push_back(numbers_[c]);
  return numbers;
}

}  // namespace attune
