// What a job's model looks like to attune: its attention sites and their heads.
//
// Heads are numbered through the whole job: head h of site s has index FirstHead(s) + h. Every
// per-head array in attune (scales, measurements, tokens) is laid out in that order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace attune {

// Values travel on the wire and live in the store: only ever add to them.
enum class SiteKind : std::uint8_t { kSelf = 0, kCross = 1 };

// One attention module of a job's model.
struct Site {
  std::string name;  // as the trainer calls it, unique in its job; see FindNameFault
  SiteKind kind = SiteKind::kSelf;
  bool causal = false;           // whether a query sees only keys up to its own position
  std::uint32_t heads = 0;       // 1 to 1,024
  std::uint32_t head_width = 0;  // dimensions of one head, at least 1
  std::uint32_t context = 0;     // keys that a query can see at most, at least 1

  friend bool operator==(const Site&, const Site&) = default;
};

// The sites of a model from its input to its output.
struct Topology {
  std::vector<Site> sites;

  // Heads of all sites together.
  [[nodiscard]] std::size_t Heads() const;
  // Index of the first head of every site, and behind them Heads(): sites.size() + 1 entries.
  [[nodiscard]] std::vector<std::uint32_t> SiteOffsets() const;

  friend bool operator==(const Topology&, const Topology&) = default;
};

inline constexpr std::size_t kMaxSites = 4096;
inline constexpr std::size_t kMaxHeads = 65536;
inline constexpr std::size_t kMaxHeadsPerSite = 1024;
inline constexpr std::size_t kMaxNameBytes = 200;

// What makes a name unusable, as the end of a sentence about it ("is empty; …"), or nothing. Names
// are 1 to 200 bytes of UTF-8 without control characters, so that they can be logged and served.
[[nodiscard]] std::optional<std::string> FindNameFault(std::string_view name);

// Head `head` of the job as a person finds it: "head 5 (site 'block0.attention', head 1)". Throws
// std::out_of_range where the topology has no such head.
[[nodiscard]] std::string DescribeHead(const Topology& topology, std::size_t head);

// What makes the topology unusable, in one line for a person, or nothing.
[[nodiscard]] std::optional<std::string> FindFault(const Topology& topology);

}  // namespace attune
