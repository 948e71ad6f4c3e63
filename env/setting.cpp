// Setting: the neutral one, and checking one against its topology.
#include "env/setting.h"

#include <algorithm>

namespace attune {
namespace {

std::optional<std::string> FindSizeFault(const char* field, std::size_t size, std::size_t heads) {
  if (size == heads) return std::nullopt;
  return std::string(field) + ": there are " + std::to_string(size) + " entries; give " +
         std::to_string(heads) + ", one for each head";
}

// `values` must be within [least, most]; a NaN is not.
std::optional<std::string> FindBoundsFault(const char* field, std::span<const float> values,
                                           float least, float most, const Topology& topology) {
  for (std::size_t head = 0; head < values.size(); ++head) {
    if (values[head] >= least && values[head] <= most) continue;
    return std::string(field) + ": " + DescribeHead(topology, head) + " has " +
           std::to_string(values[head]) + "; use " + std::to_string(least) + " to " +
           std::to_string(most);
  }
  return std::nullopt;
}

}  // namespace

Setting Setting::Neutral(std::size_t heads) {
  return {.scale = std::vector<float>(heads, 1.0F),
          .gain = std::vector<float>(heads, 1.0F),
          .active = std::vector<std::uint8_t>(heads, 1)};
}

std::size_t CountActive(std::span<const std::uint8_t> active) {
  return static_cast<std::size_t>(
      std::count_if(active.begin(), active.end(), [](std::uint8_t a) { return a != 0; }));
}

std::optional<std::string> FindFault(const Setting& setting, const Topology& topology) {
  const std::size_t heads = topology.Heads();
  if (auto fault = FindSizeFault("scale", setting.scale.size(), heads)) return fault;
  if (auto fault = FindSizeFault("gain", setting.gain.size(), heads)) return fault;
  if (auto fault = FindSizeFault("active", setting.active.size(), heads)) return fault;
  if (auto fault = FindBoundsFault("scale", setting.scale, kMinScale, kMaxScale, topology)) {
    return fault;
  }
  if (auto fault = FindBoundsFault("gain", setting.gain, kMinGain, kMaxGain, topology)) {
    return fault;
  }
  std::size_t first = 0;
  for (const Site& site : topology.sites) {
    const auto active = std::span(setting.active).subspan(first, site.heads);
    for (std::size_t head = 0; head < active.size(); ++head) {
      if (active[head] > 1) {
        return "active: " + DescribeHead(topology, first + head) + " has " +
               std::to_string(active[head]) + "; use 0 or 1";
      }
    }
    if (CountActive(active) == 0) {
      return "active: site '" + site.name + "' has no active head; keep at least one";
    }
    first += site.heads;
  }
  return std::nullopt;
}

}  // namespace attune
