// Tests of k-means.
#include "env/kmeans.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <limits>
#include <random>
#include <set>
#include <stdexcept>

namespace attune {
namespace {

// `per_blob` points about each of (0, 0), (10, 0), (0, 10), (10, 10), within 1 of it, by turns.
std::vector<float> Blobs(std::size_t per_blob, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<float> points;
  const auto jitter = [&] { return static_cast<float>(random() % 2001) / 1000 - 1; };
  for (std::size_t i = 0; i < 4 * per_blob; ++i) {
    points.push_back((i % 2 == 0 ? 0.0F : 10.0F) + jitter());
    points.push_back((i / 2 % 2 == 0 ? 0.0F : 10.0F) + jitter());
  }
  return points;
}

double SquaredDistance(std::span<const float> points, std::size_t p, const Clusters& clusters,
                       std::size_t c, std::size_t dimensions) {
  double distance = 0;
  for (std::size_t d = 0; d < dimensions; ++d) {
    const double difference =
        double{points[p * dimensions + d]} - clusters.centers[c * dimensions + d];
    distance += difference * difference;
  }
  return distance;
}

TEST_CASE("separated blobs are recovered, each with its own centre") {
  const auto points = Blobs(200, 1);
  const Clusters clusters = KMeans(points, 2, 4, 3, 11);
  REQUIRE(clusters.count == 4);
  REQUIRE(clusters.assignment.size() == 800);
  std::set<std::uint32_t> owners;
  for (std::size_t p = 0; p < 800; ++p) {
    CHECK(clusters.assignment[p] == clusters.assignment[p % 4]);
    owners.insert(clusters.assignment[p]);
    const std::size_t c = clusters.assignment[p];
    CHECK(clusters.centers[2 * c] == Approx(p % 2 == 0 ? 0 : 10).margin(0.2));
    CHECK(clusters.centers[2 * c + 1] == Approx(p / 2 % 2 == 0 ? 0 : 10).margin(0.2));
  }
  CHECK(owners.size() == 4);
}

TEST_CASE("assignment and inertia are those of a search through all centres") {
  std::mt19937 random(3);
  for (const std::size_t n : {1, 5, 63, 64, 65, 256, 1000}) {
    const std::size_t dimensions = 1 + n % 5;
    std::vector<float> points(n * dimensions);
    for (float& value : points) value = static_cast<float>(random() % 10000) / 1000;
    const Clusters clusters = KMeans(points, dimensions, 7, 2, n);
    REQUIRE(clusters.centers.size() == clusters.count * dimensions);
    double inertia = 0;
    for (std::size_t p = 0; p < n; ++p) {
      double nearest = std::numeric_limits<double>::infinity();
      for (std::size_t c = 0; c < clusters.count; ++c) {
        nearest = std::min(nearest, SquaredDistance(points, p, clusters, c, dimensions));
      }
      CHECK(SquaredDistance(points, p, clusters, clusters.assignment[p], dimensions) ==
            Approx(nearest).epsilon(1e-4).margin(1e-6));
      inertia += nearest;
    }
    CHECK(clusters.inertia == Approx(inertia).epsilon(1e-4).margin(1e-6));
  }
}

TEST_CASE("the same seed gives the same clusters") {
  const auto points = Blobs(100, 2);
  const Clusters a = KMeans(points, 2, 6, 2, 42);
  const Clusters b = KMeans(points, 2, 6, 2, 42);
  CHECK(a.centers == b.centers);
  CHECK(a.assignment == b.assignment);
  CHECK(a.inertia == b.inertia);
}

TEST_CASE("more restarts never end worse") {
  const auto points = Blobs(50, 5);
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    CHECK(KMeans(points, 2, 3, 8, seed).inertia <= KMeans(points, 2, 3, 1, seed).inertia);
  }
}

TEST_CASE("there are never more clusters than distinct points") {
  std::vector<float> points;
  for (int i = 0; i < 300; ++i) points.push_back(static_cast<float>(i % 3));
  const Clusters clusters = KMeans(points, 1, 8, 2, 0);
  CHECK(clusters.count == 3);
  CHECK(clusters.inertia == 0);
  std::vector<float> centers = clusters.centers;
  std::sort(centers.begin(), centers.end());
  CHECK(centers == std::vector<float>{0, 1, 2});
}

TEST_CASE("one cluster sits at the mean and its inertia is the variance") {
  const std::vector<float> points = {1, 2, 3, 6};
  const Clusters clusters = KMeans(points, 1, 1, 1, 9);
  CHECK(clusters.centers == std::vector<float>{3});
  CHECK(clusters.inertia == Approx(4 + 1 + 0 + 9));
}

TEST_CASE("no points give no clusters") {
  const Clusters clusters = KMeans({}, 3, 4, 1, 0);
  CHECK(clusters.count == 0);
  CHECK(clusters.assignment.empty());
}

TEST_CASE("unusable arguments are refused") {
  const std::vector<float> points = {1, 2, 3};
  CHECK_THROWS_AS(KMeans(points, 0, 1, 1, 0), std::invalid_argument);
  CHECK_THROWS_AS(KMeans(points, 1, 0, 1, 0), std::invalid_argument);
  CHECK_THROWS_AS(KMeans(points, 2, 1, 1, 0), std::invalid_argument);
  const std::vector<float> bad = {1, std::numeric_limits<float>::quiet_NaN()};
  CHECK_THROWS_AS(KMeans(bad, 1, 1, 1, 0), std::invalid_argument);
}

}  // namespace
}  // namespace attune
