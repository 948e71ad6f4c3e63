// Finding anomalies in 10,000 windows of 144 heads, beside scikit-learn's KMeans on the same points
// (kmeans.sh runs both).
//
//   attune-bench-kmeans FILE
//
// Writes the points to FILE, float32 rows of six. Prints what kmeans.py needs: the clusters and
// restarts asked for, the median processor seconds of FindAnomalies, and the inertia.
#include "env/kmeans.h"

#include <fstream>

#include "env/anomalies.h"
#include "experiments/bench/bench.h"
#include "experiments/bench/load.h"

int main(int argc, char** argv) {
  using namespace attune;
  if (argc != 2) {
    fmt::print(stderr, "usage: attune-bench-kmeans FILE\n");
    return 2;
  }
  constexpr std::size_t kWindows = 10'000;
  const std::vector<std::uint32_t> offsets = bench::MakeJob("windows", 1).topology.SiteOffsets();
  std::mt19937_64 random(1);
  std::normal_distribution<float> noise(0, 0.03F);
  std::vector<WindowReading> windows(kWindows);
  for (std::size_t w = 0; w < kWindows; ++w) {
    WindowReading& window = windows[w];
    window.first_step = 10 * w + 1;
    window.last_step = 10 * (w + 1);
    window.active.assign(bench::kJobHeads, 1);
    for (std::size_t head = 0; head < bench::kJobHeads; ++head) {
      // Five kinds of heads: local, broad, sinks, saturated and dormant ones.
      constexpr float kKinds[5][kMetrics + 1] = {{0.5, 4, 0.3, 0.05, 1, 1, 0.3, 0.1},
                                                 {0.9, 2, 0.1, 0.02, 1.2, 1, 0.5, 0.05},
                                                 {0.3, 8, 0.6, 0.6, 0.7, 1, 0.4, 0.2},
                                                 {0.1, 20, 0.9, 0.1, 1, 1, 0.2, 0.3},
                                                 {0.6, 3, 0.3, 0.1, 0.05, 1, 0.6, 0.1}};
      const auto& kind = kKinds[head * head % 5];
      const auto share = [&](float x) { return std::clamp(x * (1 + 4 * noise(random)), 0.F, 1.F); };
      for (std::size_t m = 0; m < kMetrics; ++m) {
        const bool free =
            m == std::size_t(Metric::kLargestLogit) || m == std::size_t(Metric::kOutputNorm);
        window.metrics.push_back(free ? kind[m] * (1 + noise(random)) : share(kind[m]));
      }
      window.divergence.push_back(share(kind[kMetrics]));
    }
  }
  const AnomalyOptions options;
  std::vector<double> seconds;
  for (int round = 0; round < 3; ++round) {
    seconds.push_back(bench::ProcessorSecondsOf(
        [&] { static_cast<void>(FindAnomalies(windows, offsets, options)); }));
  }
  const std::vector<float> points = ClusteredFeatures(windows, bench::kJobHeads);
  const Clusters clusters = KMeans(points, points.size() / (kWindows * bench::kJobHeads),
                                   options.clusters, options.restarts, options.seed);
  std::ofstream file(argv[1], std::ios::binary);
  file.write(reinterpret_cast<const char*>(points.data()),
             static_cast<std::streamsize>(points.size() * sizeof(float)));
  file.close();
  if (!file) return 1;
  fmt::print("{} {} {} {}\n", options.clusters, options.restarts, bench::Median(seconds),
             clusters.inertia);
  return 0;
}
