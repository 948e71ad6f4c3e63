// Tests of topologies and names.
#include "env/topology.h"

#include <catch2/catch.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/env/example.h"

namespace attune {
namespace {

TEST_CASE("heads are numbered through the sites in order") {
  const Topology topology = ExampleTopology();
  CHECK(topology.Heads() == 6);
  CHECK(topology.SiteOffsets() == std::vector<std::uint32_t>{0, 4, 6});
  CHECK(DescribeHead(topology, 3) == "head 3 (site 'block0.attention', head 3)");
  CHECK(DescribeHead(topology, 5) == "head 5 (site 'block1.cross', head 1)");
  CHECK_THROWS_AS(DescribeHead(topology, 6), std::out_of_range);
}

TEST_CASE("a usable topology has no fault, one without sites has") {
  CHECK(FindFault(ExampleTopology()) == std::nullopt);
  CHECK(FindFault(Topology{}).has_value());
}

TEST_CASE("each unusable field of a site is named in one line") {
  const auto fault_after = [](auto change) {
    Topology topology = ExampleTopology();
    change(topology.sites[1]);
    const std::string fault = FindFault(topology).value_or("");
    CHECK(fault.find('\n') == std::string::npos);
    return fault;
  };
  CHECK(fault_after([](Site& s) { s.heads = 0; }) ==
        "site 'block1.cross': it has 0 heads; use 1 to 1024");
  CHECK(fault_after([](Site& s) { s.heads = 1024; }).empty());
  CHECK(Contains(fault_after([](Site& s) { s.heads = 1025; }), "1025 heads"));
  CHECK(Contains(fault_after([](Site& s) { s.head_width = 0; }), "head width"));
  CHECK(Contains(fault_after([](Site& s) { s.context = 0; }), "context"));
  CHECK(Contains(fault_after([](Site& s) { s.kind = static_cast<SiteKind>(9); }), "kind 9"));
  CHECK(Contains(fault_after([](Site& s) { s.name = "block0.attention"; }), "twice"));
  CHECK(Contains(fault_after([](Site& s) { s.name = ""; }), "name of site 1 is empty"));
}

TEST_CASE("sites and heads are limited in number") {
  Topology topology;
  for (std::size_t s = 0; s < kMaxSites; ++s) {
    topology.sites.push_back(
        {.name = "site" + std::to_string(s), .heads = 16, .head_width = 8, .context = 8});
  }
  CHECK(FindFault(topology) == std::nullopt);
  topology.sites[0].heads = 17;
  CHECK(Contains(FindFault(topology).value_or(""), "65537 heads together"));
  topology.sites.push_back({.name = "last", .heads = 1, .head_width = 8, .context = 8});
  CHECK(Contains(FindFault(topology).value_or(""), "4097"));
}

TEST_CASE("names are 1 to 200 bytes of UTF-8 without control characters") {
  const std::vector<std::string> good = {
      "a", std::string(200, 'x'), "Aufmerksamkeit für Köpfe", "注意", "😀", "with space ~"};
  for (const std::string& name : good) {
    CAPTURE(name);
    CHECK(FindNameFault(name) == std::nullopt);
  }
  const std::vector<std::string> bad = {
      "",
      std::string(201, 'x'),
      "two\nlines",
      "delete\x7F",
      "control \xC2\x9B",  // U+009B, which begins a terminal's commands
      std::string("nul\0", 4),
      "\x80",              // continuation without a lead
      "\xC3",              // cut short
      "\xC0\xAF",          // overlong
      "\xE0\x80\xAF",      // overlong
      "\xED\xA0\x80",      // surrogate
      "\xF4\x90\x80\x80",  // beyond U+10FFFF
      "\xFF",
  };
  for (const std::string& name : bad) {
    CAPTURE(name);
    CHECK(FindNameFault(name).has_value());
  }
}

}  // namespace
}  // namespace attune
