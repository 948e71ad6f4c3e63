// Where and since when heads attend abnormally.
//
// One feature vector per head and window (never a sliding window: Keogh & Lin 2003) is scaled by
// the job's own median and median absolute deviation and clustered by k-means++. A head is flagged
// in a window when it and its cluster's centre both lie beyond a kind's threshold; one that lies
// far from every centre is judged alone. Flags of one head in successive windows are joined to
// stretches. Inactive heads are left out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "env/meter.h"

namespace attune {

// Values live in the store: only ever add to them. Low entropy with the weight on the first token
// is a sink, which is normal, and not among them.
enum class AnomalyKind : std::uint8_t {
  kSaturated = 0,  // attention collapsed on single keys that are not the first: hot logits
  kDiffuse = 1,    // attention stays uniform where other heads of the job have left it
  kDormant = 2,    // the head's output has nearly vanished beside its site's others
  kDrifting = 3,   // the profile moved far from its baseline, as against the job's other heads
};
inline constexpr std::size_t kAnomalyKinds = 4;
[[nodiscard]] std::string_view Name(AnomalyKind kind);

struct Anomaly {
  std::uint32_t site = 0;
  std::uint32_t head = 0;  // within its site
  std::uint64_t first_step = 0;
  std::uint64_t last_step = 0;
  float severity = 0;  // largest excess over the kind's threshold in the stretch, in its units
  AnomalyKind kind = AnomalyKind::kSaturated;

  friend bool operator==(const Anomaly&, const Anomaly&) = default;
};

struct AnomalyOptions {
  std::size_t clusters = 8;  // k
  std::size_t restarts = 3;
  std::size_t least_windows = 2;    // stretches with fewer flagged windows are not reported
  std::size_t bridged_windows = 1;  // gaps up to this long do not end a stretch
  std::uint64_t seed = 0;
};

// The anomalies in the windows of one job, oldest window first, ordered by site, head, first step.
// `site_offsets` as Topology::SiteOffsets gives them. The same input gives the same anomalies.
// Throws std::invalid_argument if a window's sizes are not those of the offsets.
[[nodiscard]] std::vector<Anomaly> FindAnomalies(std::span<const WindowReading> windows,
                                                 std::span<const std::uint32_t> site_offsets,
                                                 const AnomalyOptions& options);

// What the clusters are of: a row of features for every active head of every window, scaled, in
// that order. Throws as FindAnomalies, for this number of heads.
[[nodiscard]] std::vector<float> ClusteredFeatures(std::span<const WindowReading> windows,
                                                   std::size_t heads);

}  // namespace attune
