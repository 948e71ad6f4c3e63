// Topology: counting heads and checking what a job says of its model.
#include "env/topology.h"

#include <stdexcept>
#include <string_view>
#include <unordered_set>

namespace attune {
namespace {

// Bytes of the UTF-8 character that `text` begins with, or 0 if it begins with none (RFC 3629:
// no overlong forms, no surrogates, nothing above U+10FFFF).
std::size_t CharacterBytes(std::string_view text) {
  const auto byte = [text](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return 1;
  std::size_t bytes = 0;
  if (lead >= 0xC2 && lead <= 0xDF) bytes = 2;
  if (lead >= 0xE0 && lead <= 0xEF) bytes = 3;
  if (lead >= 0xF0 && lead <= 0xF4) bytes = 4;
  if (bytes == 0 || text.size() < bytes) return 0;
  for (std::size_t i = 1; i < bytes; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  const bool overlong = (lead == 0xE0 && byte(1) < 0xA0) || (lead == 0xF0 && byte(1) < 0x90);
  const bool surrogate = lead == 0xED && byte(1) >= 0xA0;
  const bool too_large = lead == 0xF4 && byte(1) >= 0x90;
  return overlong || surrogate || too_large ? 0 : bytes;
}

}  // namespace

std::size_t Topology::Heads() const {
  std::size_t heads = 0;
  for (const Site& site : sites) heads += site.heads;
  return heads;
}

std::vector<std::uint32_t> Topology::SiteOffsets() const {
  std::vector<std::uint32_t> offsets = {0};
  offsets.reserve(sites.size() + 1);
  for (const Site& site : sites) offsets.push_back(offsets.back() + site.heads);
  return offsets;
}

std::optional<std::string> FindNameFault(std::string_view name) {
  if (name.empty()) return "is empty; give it 1 to " + std::to_string(kMaxNameBytes) + " bytes";
  if (name.size() > kMaxNameBytes) {
    return "has " + std::to_string(name.size()) + " bytes; use at most " +
           std::to_string(kMaxNameBytes);
  }
  for (std::size_t i = 0; i < name.size();) {
    const std::size_t bytes = CharacterBytes(name.substr(i));
    if (bytes == 0) return "is not UTF-8 at byte " + std::to_string(i) + "; use UTF-8 text";
    const auto first = static_cast<unsigned char>(name[i]);
    // U+0080 to U+009F too, which terminals may obey.
    const bool is_c1 = first == 0xC2 && static_cast<unsigned char>(name[i + 1]) < 0xA0;
    if (first < 0x20 || first == 0x7F || is_c1) {
      return "has a control character at byte " + std::to_string(i) + "; use printable text";
    }
    i += bytes;
  }
  return std::nullopt;
}

std::string DescribeHead(const Topology& topology, std::size_t head) {
  std::size_t first = 0;
  for (const Site& site : topology.sites) {
    if (head < first + site.heads) {
      return "head " + std::to_string(head) + " (site '" + site.name + "', head " +
             std::to_string(head - first) + ")";
    }
    first += site.heads;
  }
  throw std::out_of_range("head " + std::to_string(head) + " is beyond the topology's " +
                          std::to_string(first) + " heads");
}

std::optional<std::string> FindFault(const Topology& topology) {
  if (topology.sites.empty()) return "sites: there is none; name at least one attention site";
  if (topology.sites.size() > kMaxSites) {
    return "sites: there are " + std::to_string(topology.sites.size()) + "; use at most " +
           std::to_string(kMaxSites);
  }
  std::unordered_set<std::string_view> names;
  for (std::size_t s = 0; s < topology.sites.size(); ++s) {
    const Site& site = topology.sites[s];
    if (const auto fault = FindNameFault(site.name)) {
      return "name of site " + std::to_string(s) + " " + *fault;
    }
    const std::string where = "site '" + site.name + "': ";
    if (!names.insert(site.name).second) return where + "the name appears twice; make it unique";
    if (site.kind != SiteKind::kSelf && site.kind != SiteKind::kCross) {
      return where + "kind " + std::to_string(static_cast<int>(site.kind)) +
             " is unknown; use 0 (self) or 1 (cross)";
    }
    if (site.heads < 1 || site.heads > kMaxHeadsPerSite) {
      return where + "it has " + std::to_string(site.heads) + " heads; use 1 to " +
             std::to_string(kMaxHeadsPerSite);
    }
    if (site.head_width < 1) return where + "head width is 0; use at least 1";
    if (site.context < 1) return where + "context is 0; use at least 1";
  }
  if (topology.Heads() > kMaxHeads) {
    return "sites: they have " + std::to_string(topology.Heads()) +
           " heads together; use at most " + std::to_string(kMaxHeads);
  }
  return std::nullopt;
}

}  // namespace attune
