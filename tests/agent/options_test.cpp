#include "agent/options.h"

#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "agent/paths.h"
#include "tests/temporary_directory.h"

namespace attune {
namespace {

using Catch::Matchers::Contains;

// A configuration file that goes with the object.
class ConfigurationFile {
 public:
  explicit ConfigurationFile(const std::string& text) { std::ofstream(Path()) << text; }
  [[nodiscard]] std::filesystem::path Path() const { return directory_ / "attuned.conf"; }

 private:
  test::TemporaryDirectory directory_;
};

const std::filesystem::path kEmpty = "/dev/null";

TEST_CASE("a flag goes before the configuration file, which goes before the default") {
  const ConfigurationFile file("windows = 10\nfreeze = 0.2  # comment\n");
  const Options options = ParseOptions({"--windows", "30"}, file.Path());
  CHECK(options.windows == 30);
  CHECK(options.freeze == 0.2);
  CHECK(options.rollback == Options{}.rollback);
}

TEST_CASE("a switch takes true and false") {
  CHECK_FALSE(ParseOptions({"--learn=false"}, kEmpty).learn);
  CHECK_THROWS_WITH(ParseOptions({"--learn=no"}, kEmpty), Contains("true or false"));
}

TEST_CASE("a value out of range is refused with its name and the range") {
  CHECK_THROWS_WITH(ParseOptions({"--freeze", "2"}, kEmpty),
                    Contains("freeze") && Contains("from 0 to 1"));
  CHECK_THROWS_WITH(ParseOptions({"--windows", "2.5"}, kEmpty), Contains("whole number"));
  CHECK_THROWS_WITH(ParseOptions({"--windows", "many"}, kEmpty), Contains("'many'"));
  CHECK_THROWS_WITH(ParseOptions({"--policy", "best"}, kEmpty), Contains("one of auto, keep"));
  CHECK_THROWS_WITH(ParseOptions({"--baseline", "warm-up"}, kEmpty),
                    Contains("'warm-up'") && Contains("warmup or a job's id"));
  CHECK(ParseOptions({"--baseline", "12"}, kEmpty).baseline == "12");
}

TEST_CASE("an unknown flag or name in the file is refused by name") {
  CHECK_THROWS_WITH(ParseOptions({"--widows", "3"}, kEmpty), Contains("widows"));
  for (const char* wrong : {"widows = 3\n", "widows\n"}) {
    const ConfigurationFile file(wrong);
    CHECK_THROWS_WITH(ParseOptions({}, file.Path()),
                      Contains("widows") && Contains(file.Path().string()));
  }
  CHECK_THROWS_WITH(ParseOptions({}, "/nowhere/attuned.conf"), Contains("/nowhere/attuned.conf"));
}

TEST_CASE("a folder in the configuration file's place is none") {
  CHECK_THROWS_WITH(ParseOptions({}, std::filesystem::temp_directory_path()),
                    Contains("cannot read"));
}

TEST_CASE("an empty folder is no default, and ~ is nobody's home") {
  CHECK_THROWS_WITH(ParseOptions({}, ConfigurationFile("state-directory = ~/x\n").Path()),
                    Contains("state-directory is '~/x'") && Contains("whole path"));
  CHECK_THROWS_WITH(ParseOptions({"--state-directory", ""}, kEmpty),
                    Contains("state-directory is '' (command line)"));
  CHECK_THROWS_WITH(ParseOptions({}, ConfigurationFile("runtime-directory =\n").Path()),
                    Contains("runtime-directory is ''"));
}

TEST_CASE("every default lies in its own range and every knob is described") {
  const std::string text = DescribeKnobs();
  for (const Knob& knob : Knobs()) {
    INFO(knob.name);
    CHECK_THAT(text, Contains("--" + std::string(knob.name)));
    const Options defaults;
    std::visit(
        [&](auto member) {
          using Value = std::remove_cvref_t<decltype(defaults.*member)>;
          if constexpr (std::is_same_v<Value, double> || std::is_same_v<Value, std::uint64_t>) {
            CHECK(double(defaults.*member) >= knob.least);
            CHECK(double(defaults.*member) <= knob.most);
          }
        },
        knob.member);
  }
}

TEST_CASE("a state directory of one's own has its socket inside") {
  Options options;
  options.state_directory = "/tmp/somewhere";
  const Paths paths = Paths::Find(options);
  CHECK(paths.Endpoint() == "ipc:///tmp/somewhere/attuned.sock");
  options.state_directory = "/tmp/" + std::string(200, 'x');
  CHECK_THROWS_WITH(Paths::Find(options), Contains("--runtime-directory"));
}

TEST_CASE("a second daemon is told who holds the state directory") {
  const test::TemporaryDirectory directory;
  const auto file = directory / "attuned.lock";
  {
    const StateLock first(file);
    CHECK_THROWS_WITH(StateLock(file), Contains(std::to_string(getpid())));
  }
  CHECK_NOTHROW(StateLock(file));
}

}  // namespace
}  // namespace attune
