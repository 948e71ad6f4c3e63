// Tables, CSV, JSON and the progress line.
#include "agent/cli/table.h"

#include <catch2/catch.hpp>
#include <locale>

#include "agent/cli/progress.h"

namespace attune::cli {
namespace {

using nlohmann::json;

// Numbers as Germans write them: 1.234,5.
class German : public std::numpunct<char> {
  char do_decimal_point() const override { return ','; }
  char do_thousands_sep() const override { return '.'; }
  std::string do_grouping() const override { return "\3"; }
};

class GermanLocale {
 public:
  GermanLocale() : before_(std::locale::global(std::locale(std::locale(), new German))) {}
  ~GermanLocale() { std::locale::global(before_); }
  GermanLocale(const GermanLocale&) = delete;
  GermanLocale& operator=(const GermanLocale&) = delete;

 private:
  std::locale before_;
};

TEST_CASE("a table's columns line up whatever the characters in them take in bytes") {
  Table table({"name", "steps"});
  table.Add({"Öl → Wasser", 7});
  table.Add({"oil", 1200});
  CHECK(table.Render(Format::kTable) ==
        "name         steps\n"
        "Öl → Wasser      7\n"
        "oil           1200\n");
}

TEST_CASE("numbers are set to the right also where the first is missing") {
  Table table({"reward", "why"});
  table.Add({nullptr, "new"});
  table.Add({-0.0125, "old"});
  CHECK(table.Render(Format::kTable) ==
        " reward  why\n"
        "      -  new\n"
        "-0.0125  old\n");
}

TEST_CASE("lines longer than the terminal are cut at whole characters") {
  CHECK(Cut("äöü", 3) == "äöü");
  CHECK(Cut("äöüß", 3) == "äö…");
  CHECK(Cut("ab", 1) == "…");
  CHECK(Cut("ab", 0).empty());
  CHECK(DisplayWidth("äö…") == 3);

  Table table({"why"});
  table.Add({"ein längerer Satz"});
  CHECK(table.Render(Format::kTable, 8) == "why\nein län…\n");
}

TEST_CASE("text for a terminal cannot steer it") {
  Table table({"why"});
  table.Add({"two\nlines \x1b[31mred"});
  CHECK(table.Render(Format::kTable) == "why\ntwo lines  [31mred\n");
}

TEST_CASE("CSV quotes what RFC 4180 asks to be quoted, and nothing else") {
  Table table({"name", "loss", "why"});
  table.Add({"plain", 0.5, "one, two"});
  table.Add({"says \"no\"", nullptr, "two\r\nlines"});
  CHECK(table.Render(Format::kCsv) ==
        "name,loss,why\r\n"
        "plain,0.5,\"one, two\"\r\n"
        "\"says \"\"no\"\"\",,\"two\r\nlines\"\r\n");
}

TEST_CASE("JSON gives back the cells that went in") {
  Table table({"name", "loss", "reward"});
  table.Add({"Öl \"und\" Wasser\n", 1.0 / 3.0, nullptr});
  const json list = json::parse(table.Render(Format::kJson));
  REQUIRE(list.size() == 1);
  CHECK(list[0]["name"] == "Öl \"und\" Wasser\n");
  CHECK(list[0]["loss"].get<double>() == 1.0 / 3.0);
  CHECK(list[0]["reward"].is_null());
  CHECK(json::parse(Table({"name"}).Render(Format::kJson)) == json::array());
}

TEST_CASE("text that is not UTF-8 still makes JSON") {
  Table table({"name"});
  table.Add({std::string("caf\xe9")});
  CHECK(json::parse(table.Render(Format::kJson))[0]["name"] == "caf\xef\xbf\xbd");
}

TEST_CASE("the locale changes no number") {
  Table table({"loss", "steps"});
  table.Add({1234.5, 1234567});
  const GermanLocale german;
  CHECK(table.Render(Format::kTable) == "loss    steps\n1234  1234567\n");
  CHECK(table.Render(Format::kCsv) == "loss,steps\r\n1234.5,1234567\r\n");
  CHECK(json::parse(table.Render(Format::kJson))[0]["loss"].get<double>() == 1234.5);
}

TEST_CASE("the progress line says where the job stands and who acted last") {
  LiveJob job;
  job.step = 120;
  job.progress = 0.5;
  job.loss = 2.3456;
  job.imbalance = 0.25;
  job.active_heads = 7;
  job.heads = 8;
  CHECK(Describe(job) == "████████░░░░░░░░  50 %  step 120  loss 2.346  imbalance 0.25  heads 7/8");
  job.dropped = 3;
  job.last_action = "block0 4→3 heads";
  job.last_decider = "kmeans";
  CHECK(Describe(job) ==
        "████████░░░░░░░░  50 %  step 120  loss 2.346  imbalance 0.25  heads 7/8  dropped 3  "
        "kmeans: block0 4→3 heads");
}

}  // namespace
}  // namespace attune::cli
