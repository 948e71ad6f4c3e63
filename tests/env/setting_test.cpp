// Tests of settings.
#include "env/setting.h"

#include <catch2/catch.hpp>
#include <limits>

#include "tests/env/example.h"

namespace attune {
namespace {

TEST_CASE("the neutral setting is usable and leaves every head as it was built") {
  const Topology topology = ExampleTopology();
  const Setting setting = Setting::Neutral(topology.Heads());
  CHECK(FindFault(setting, topology) == std::nullopt);
  CHECK(setting.scale == std::vector<float>(6, 1.0F));
  CHECK(setting.gain == std::vector<float>(6, 1.0F));
  CHECK(CountActive(setting.active) == 6);
}

TEST_CASE("settings outside their bounds are refused with the head's place") {
  const Topology topology = ExampleTopology();
  const auto fault_after = [&](auto change) {
    Setting setting = Setting::Neutral(topology.Heads());
    change(setting);
    return FindFault(setting, topology).value_or("");
  };
  CHECK(fault_after([](Setting& s) { s.scale = {kMinScale, kMaxScale, 1, 1, 1, 1}; }).empty());
  CHECK(fault_after([](Setting& s) { s.gain = {kMinGain, kMaxGain, 1, 1, 1, 1}; }).empty());
  CHECK(Contains(fault_after([](Setting& s) { s.scale[5] = 16.01F; }),
                 "scale: head 5 (site 'block1.cross', head 1) has 16.01"));
  CHECK(Contains(fault_after([](Setting& s) { s.scale[0] = 0.06F; }), "scale: head 0"));
  CHECK(Contains(fault_after([](Setting& s) { s.gain[2] = -0.1F; }), "gain: head 2"));
  CHECK(Contains(
      fault_after([](Setting& s) { s.scale[1] = std::numeric_limits<float>::quiet_NaN(); }),
      "scale: head 1"));
  CHECK(
      Contains(fault_after([](Setting& s) { s.gain[1] = std::numeric_limits<float>::infinity(); }),
               "gain: head 1"));
  CHECK(Contains(fault_after([](Setting& s) { s.scale.pop_back(); }), "scale: there are 5"));
  CHECK(Contains(fault_after([](Setting& s) { s.gain.push_back(1); }), "gain: there are 7"));
  CHECK(Contains(fault_after([](Setting& s) { s.active.clear(); }), "active: there are 0"));
  CHECK(Contains(fault_after([](Setting& s) { s.active[3] = 2; }), "active: head 3"));
  CHECK(Contains(fault_after([](Setting& s) { s.active[4] = s.active[5] = 0; }),
                 "site 'block1.cross' has no active head"));
}

}  // namespace
}  // namespace attune
