// k-means with k-means++ seeding (Arthur & Vassilvitskii 2007) and Lloyd's iterations.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace attune {

struct Clusters {
  std::size_t count = 0;                  // clusters found, at most the k asked for
  std::vector<float> centers;             // [count × dimensions]
  std::vector<std::uint32_t> assignment;  // [points], the nearest centre
  double inertia = 0;                     // sum of squared distances to the nearest centre
};

// Best of `restarts` runs by inertia. `points` is [n × dimensions], row-major. With fewer distinct
// points than k there are as many clusters as distinct points. The same seed gives the same result.
// Throws std::invalid_argument if dimensions or k is 0, the sizes do not divide or a value is not
// finite. O(restarts × iterations × n × k × dimensions), one thread; `restarts` 0 counts as 1.
[[nodiscard]] Clusters KMeans(std::span<const float> points, std::size_t dimensions, std::size_t k,
                              std::size_t restarts, std::uint64_t seed);

}  // namespace attune
