// k-means, laid out for the compiler's vectoriser: points are held in blocks, in each block
// dimension by dimension, so that the innermost loops run over the points of a block.
#include "env/kmeans.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <random>
#include <stdexcept>
#include <utility>

namespace attune {
namespace {

constexpr std::size_t kBlock = 64;  // points: distances, owners and a few dimensions stay cached
constexpr std::size_t kMostIterations = 300;
// Lloyd's iterations end when the squared moves of the centres sum to less than this share of the
// points' variance (mean over the dimensions), as scikit-learn's do by default.
constexpr double kMovementTolerance = 1e-4;

// The points of one call, [blocks × dimensions × kBlock]; the last block is filled up with zeros.
struct Points {
  std::size_t count;
  std::size_t dimensions;
  std::vector<float> values;

  [[nodiscard]] std::size_t Blocks() const { return (count + kBlock - 1) / kBlock; }
  [[nodiscard]] std::size_t PointsIn(std::size_t block) const {
    return std::min(kBlock, count - block * kBlock);
  }
  [[nodiscard]] const float* Block(std::size_t block) const {
    return values.data() + block * dimensions * kBlock;
  }
  [[nodiscard]] float At(std::size_t point, std::size_t dimension) const {
    return Block(point / kBlock)[dimension * kBlock + point % kBlock];
  }
};

Points InBlocks(std::span<const float> rows, std::size_t dimensions) {
  Points points{.count = rows.size() / dimensions, .dimensions = dimensions, .values = {}};
  points.values.resize(points.Blocks() * dimensions * kBlock);
  for (std::size_t p = 0; p < points.count; ++p) {
    float* const column = points.values.data() + p / kBlock * dimensions * kBlock + p % kBlock;
    for (std::size_t d = 0; d < dimensions; ++d) column[d * kBlock] = rows[p * dimensions + d];
  }
  return points;
}

// Sum over the dimensions of their variance over the points.
double Variance(const Points& points) {
  double variance = 0;
  for (std::size_t d = 0; d < points.dimensions; ++d) {
    double sum = 0;
    double squares = 0;
    const double shift = points.At(0, d);
    for (std::size_t b = 0; b < points.Blocks(); ++b) {
      const float* const column = points.Block(b) + d * kBlock;
      for (std::size_t p = 0; p < points.PointsIn(b); ++p) {
        const double value = column[p] - shift;
        sum += value;
        squares += value * value;
      }
    }
    const auto n = static_cast<double>(points.count);
    variance += std::max(squares / n - sum / n * (sum / n), 0.0);
  }
  return variance;
}

// Squared distances of a block's points to one centre.
void Distances(const float* block, std::size_t dimensions, const float* center,
               std::array<float, kBlock>& distances) {
  for (std::size_t d = 0; d < dimensions; ++d) {
    const float c = center[d];
    const float* const column = block + d * kBlock;
    for (std::size_t p = 0; p < kBlock; ++p) {
      const float difference = column[p] - c;
      distances[p] = (d == 0 ? 0 : distances[p]) + difference * difference;
    }
  }
}

// Uniform in [0, 1), the same on every platform.
double Draw(std::mt19937_64& random) { return static_cast<double>(random() >> 11) * 0x1p-53; }

// k-means++: the first centre is any point, each further one a point drawn by its squared distance
// to the nearest so far. Fewer than k when all points coincide with a centre.
std::vector<float> Seeds(const Points& points, std::size_t k, std::mt19937_64& random) {
  const std::size_t blocks = points.Blocks();
  std::vector<float> nearest(blocks * kBlock, std::numeric_limits<float>::max());
  std::vector<double> block_sums(blocks);
  std::array<float, kBlock> distances{};
  std::vector<float> centers;
  centers.reserve(k * points.dimensions);
  std::size_t chosen = std::min(
      points.count - 1, static_cast<std::size_t>(Draw(random) * static_cast<double>(points.count)));
  while (true) {
    for (std::size_t d = 0; d < points.dimensions; ++d) centers.push_back(points.At(chosen, d));
    if (centers.size() == k * points.dimensions) return centers;
    const float* const center = centers.data() + centers.size() - points.dimensions;
    double total = 0;
    for (std::size_t b = 0; b < blocks; ++b) {
      Distances(points.Block(b), points.dimensions, center, distances);
      float* const known = nearest.data() + b * kBlock;
      double sum = 0;
      const std::size_t count = points.PointsIn(b);
      for (std::size_t p = 0; p < count; ++p) {
        known[p] = distances[p] < known[p] ? distances[p] : known[p];
      }
      for (std::size_t p = 0; p < count; ++p) sum += known[p];
      block_sums[b] = sum;
      total += sum;
    }
    if (!(total > 0)) return centers;
    // Walk to where the drawn share of the sum lies; the last point of positive distance takes
    // what rounding leaves over.
    double left = Draw(random) * total;
    std::size_t block = 0;
    while (block + 1 < blocks && left >= block_sums[block]) left -= block_sums[block++];
    while (!(block_sums[block] > 0)) --block;
    for (std::size_t p = 0; p < points.PointsIn(block); ++p) {
      const float distance = nearest[block * kBlock + p];
      if (!(distance > 0)) continue;
      chosen = block * kBlock + p;
      left -= distance;
      if (left < 0) break;
    }
  }
}

// One run of Lloyd's iterations with the buffers that it needs.
class Run {
 public:
  Run(const Points& points, std::vector<float> centers)
      : points_(points),
        count_(centers.size() / points.dimensions),
        centers_(std::move(centers)),
        assignment_(points.Blocks() * kBlock, kNowhere),
        distance_(points.Blocks() * kBlock),
        sums_(centers_.size()),
        members_(count_) {}

  void Iterate(double tolerance) {
    for (std::size_t i = 0; i < kMostIterations; ++i) {
      if (Assign() == 0) return;
      if (MoveCenters() <= tolerance) break;
    }
    Assign();
  }

  [[nodiscard]] double Inertia() const {
    double inertia = 0;
    for (std::size_t p = 0; p < points_.count; ++p) inertia += distance_[p];
    return inertia;
  }

  [[nodiscard]] Clusters Result() && {
    const double inertia = Inertia();
    assignment_.resize(points_.count);
    return {.count = count_,
            .centers = std::move(centers_),
            .assignment = std::move(assignment_),
            .inertia = inertia};
  }

 private:
  static constexpr std::uint32_t kNowhere = std::numeric_limits<std::uint32_t>::max();

  // Gives every point to its nearest centre (equally near: the first) and carries the sums along
  // for those that changed; returns how many did.
  std::size_t Assign() {
    std::size_t moved = 0;
    std::array<float, kBlock> distances{};
    std::array<float, kBlock> best{};
    std::array<std::uint32_t, kBlock> owner{};
    for (std::size_t b = 0; b < points_.Blocks(); ++b) {
      const float* const block = points_.Block(b);
      best.fill(std::numeric_limits<float>::infinity());
      owner.fill(0);
      for (std::uint32_t c = 0; c < count_; ++c) {
        Distances(block, points_.dimensions, centers_.data() + c * points_.dimensions, distances);
        for (std::size_t p = 0; p < kBlock; ++p) {
          // All ones where the new centre is nearer: without a branch the loop is vectorised.
          const std::uint32_t closer = -static_cast<std::uint32_t>(distances[p] < best[p]);
          owner[p] = (c & closer) | (owner[p] & ~closer);
          best[p] = distances[p] < best[p] ? distances[p] : best[p];
        }
      }
      std::copy(best.begin(), best.end(), distance_.begin() + static_cast<long>(b * kBlock));
      for (std::size_t p = 0; p < points_.PointsIn(b); ++p) {
        std::uint32_t& now = assignment_[b * kBlock + p];
        if (now == owner[p]) continue;
        ++moved;
        if (now != kNowhere) Shift(now, block + p, -1);
        Shift(owner[p], block + p, 1);
        now = owner[p];
      }
    }
    return moved;
  }

  // Adds (sign 1) or takes (−1) the point at `column` to or from a cluster's sums.
  void Shift(std::uint32_t cluster, const float* column, int sign) {
    double* const sums = sums_.data() + cluster * points_.dimensions;
    for (std::size_t d = 0; d < points_.dimensions; ++d) sums[d] += sign * column[d * kBlock];
    members_[cluster] += sign;
  }

  // Puts every centre at the mean of its points, one that lost them all at the point farthest from
  // its centre; returns the sum of the squared moves.
  double MoveCenters() {
    double movement = 0;
    for (std::size_t c = 0; c < count_; ++c) {
      const bool empty = members_[c] == 0;
      const std::size_t farthest = empty ? TakeFarthest() : 0;
      for (std::size_t d = 0; d < points_.dimensions; ++d) {
        float& center = centers_[c * points_.dimensions + d];
        const float mean =
            empty ? points_.At(farthest, d)
                  : static_cast<float>(sums_[c * points_.dimensions + d] / members_[c]);
        movement += (double{mean} - center) * (double{mean} - center);
        center = mean;
      }
    }
    return movement;
  }

  // The point farthest from its centre; the next call gives another.
  std::size_t TakeFarthest() {
    const auto end = distance_.begin() + static_cast<long>(points_.count);
    const auto farthest = std::max_element(distance_.begin(), end);
    *farthest = 0;
    return static_cast<std::size_t>(farthest - distance_.begin());
  }

  const Points& points_;
  std::size_t count_;
  std::vector<float> centers_;
  std::vector<std::uint32_t> assignment_;  // [blocks × kBlock]
  std::vector<float> distance_;            // [blocks × kBlock], squared, to the own centre
  std::vector<double> sums_;               // [count × dimensions], of the members
  std::vector<std::int64_t> members_;      // [count]
};

}  // namespace

Clusters KMeans(std::span<const float> points, std::size_t dimensions, std::size_t k,
                std::size_t restarts, std::uint64_t seed) {
  if (dimensions == 0 || k == 0) {
    throw std::invalid_argument("k-means: dimensions and k must be at least 1");
  }
  if (points.size() % dimensions != 0) {
    throw std::invalid_argument("k-means: the values do not divide into points of the dimensions");
  }
  if (!std::all_of(points.begin(), points.end(), [](float x) { return std::isfinite(x); })) {
    throw std::invalid_argument("k-means: every value must be finite");
  }
  if (points.empty()) return {};
  const Points blocks = InBlocks(points, dimensions);
  const double tolerance = kMovementTolerance * Variance(blocks) / static_cast<double>(dimensions);
  std::mt19937_64 random(seed);
  Clusters best;
  for (std::size_t r = 0; r < std::max<std::size_t>(restarts, 1); ++r) {
    Run run(blocks, Seeds(blocks, k, random));
    run.Iterate(tolerance);
    if (r == 0 || run.Inertia() < best.inertia) best = std::move(run).Result();
  }
  return best;
}

}  // namespace attune
