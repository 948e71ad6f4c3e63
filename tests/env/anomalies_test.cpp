// Tests of the anomaly finder on jobs with seeded faults.
#include "env/anomalies.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <random>
#include <stdexcept>

namespace attune {
namespace {

constexpr std::size_t kWindows = 12;
constexpr std::size_t kHeads = 24;
const std::vector<std::uint32_t> kOffsets = {0, 8, 16, 24};

float& At(WindowReading& window, std::size_t head, Metric metric) {
  return window.metrics[head * kMetrics + static_cast<std::size_t>(metric)];
}

// A sound job: entropies about 0.6, no strong top key, norms about 1, little divergence. Window w
// covers the steps 100 w + 1 to 100 w + 100.
std::vector<WindowReading> SoundJob(std::uint32_t seed) {
  std::mt19937 random(seed);
  const auto about = [&](float middle, float width) {
    return middle + width * (static_cast<float>(random() % 2001) / 1000 - 1);
  };
  std::vector<WindowReading> windows(kWindows);
  for (std::size_t w = 0; w < kWindows; ++w) {
    WindowReading& window = windows[w];
    window.first_step = 100 * w + 1;
    window.last_step = 100 * w + 100;
    window.active.assign(kHeads, 1);
    window.metrics.assign(kHeads * kMetrics, 0);
    window.divergence.assign(kHeads, 0);
    for (std::size_t head = 0; head < kHeads; ++head) {
      At(window, head, Metric::kEntropy) = about(0.6F, 0.15F);
      At(window, head, Metric::kLargestLogit) = about(5, 2);
      At(window, head, Metric::kTopWeight) = about(0.3F, 0.1F);
      At(window, head, Metric::kFirstTokenMass) = about(0.1F, 0.05F);
      At(window, head, Metric::kOutputNorm) = about(1, 0.3F);
      window.divergence[head] = about(0.04F, 0.02F);
    }
  }
  return windows;
}

void Saturate(WindowReading& window, std::size_t head) {
  At(window, head, Metric::kEntropy) = 0.03F;
  At(window, head, Metric::kLargestLogit) = 60;
  At(window, head, Metric::kTopWeight) = 0.97F;
  At(window, head, Metric::kFirstTokenMass) = 0.02F;
}

void MakeDiffuse(WindowReading& window, std::size_t head) {
  At(window, head, Metric::kEntropy) = 0.995F;
  At(window, head, Metric::kLargestLogit) = 0.5F;
  At(window, head, Metric::kTopWeight) = 0.02F;
  At(window, head, Metric::kFirstTokenMass) = 0.02F;
}

TEST_CASE("a sound job has no anomalies") {
  for (std::uint32_t seed = 0; seed < 20; ++seed) {
    CHECK(FindAnomalies(SoundJob(seed), kOffsets, {.seed = seed}).empty());
  }
}

TEST_CASE("every kind of fault is found with its head, its first and its last step") {
  for (std::uint32_t seed = 0; seed < 20; ++seed) {
    auto windows = SoundJob(seed);
    for (std::size_t w = 3; w <= 7; ++w) Saturate(windows[w], 2);
    for (std::size_t w = 5; w < kWindows; ++w) MakeDiffuse(windows[w], 9);
    for (std::size_t w = 2; w <= 4; ++w) At(windows[w], 17, Metric::kOutputNorm) = 0.02F;
    for (std::size_t w = 8; w <= 9; ++w) windows[w].divergence[23] = 0.5F;

    const auto found = FindAnomalies(windows, kOffsets, {.seed = seed});
    CAPTURE(seed);
    REQUIRE(found.size() == 4);
    CHECK(found[0].kind == AnomalyKind::kSaturated);
    CHECK(found[0].site == 0);
    CHECK(found[0].head == 2);
    CHECK(found[0].first_step == 301);
    CHECK(found[0].last_step == 800);
    CHECK(found[0].severity == Approx(0.15 - 0.03));
    CHECK(found[1].kind == AnomalyKind::kDiffuse);
    CHECK(found[1].site == 1);
    CHECK(found[1].head == 1);
    CHECK(found[1].first_step == 501);
    CHECK(found[1].last_step == 1200);
    CHECK(found[1].severity == Approx(0.015).epsilon(1e-3));
    CHECK(found[2].kind == AnomalyKind::kDormant);
    CHECK(found[2].site == 2);
    CHECK(found[2].head == 1);
    CHECK(found[2].first_step == 201);
    CHECK(found[2].last_step == 500);
    CHECK(found[2].severity == Approx(0.08));
    CHECK(found[3].kind == AnomalyKind::kDrifting);
    CHECK(found[3].site == 2);
    CHECK(found[3].head == 7);
    CHECK(found[3].first_step == 801);
    CHECK(found[3].last_step == 1000);
    CHECK(found[3].severity > 0.2);
    CHECK(found[3].severity <= 0.4F);
  }
}

TEST_CASE("faults are found in a job whose heads differ widely") {
  for (std::uint32_t seed = 0; seed < 20; ++seed) {
    auto windows = SoundJob(seed);
    for (WindowReading& window : windows) {
      for (std::size_t head = 0; head < kHeads; ++head) {
        const float sharpness = static_cast<float>(head % 8) / 7;  // one head of each in a site
        At(window, head, Metric::kEntropy) = 0.95F - 0.7F * sharpness;
        At(window, head, Metric::kTopWeight) = 0.1F + 0.55F * sharpness;
        At(window, head, Metric::kLargestLogit) = 2 + 20 * sharpness;
      }
    }
    for (std::size_t w = 3; w <= 4; ++w) Saturate(windows[w], 7);
    for (std::size_t w = 6; w <= 7; ++w) MakeDiffuse(windows[w], 8);
    const auto found = FindAnomalies(windows, kOffsets, {.seed = seed});
    CAPTURE(seed);
    REQUIRE(found.size() == 2);
    CHECK(found[0].kind == AnomalyKind::kSaturated);
    CHECK(found[0].head == 7);
    CHECK(found[1].kind == AnomalyKind::kDiffuse);
    CHECK(found[1].site == 1);
    CHECK(found[1].head == 0);
  }
}

TEST_CASE("the same windows give the same anomalies") {
  auto windows = SoundJob(3);
  for (std::size_t w = 3; w <= 7; ++w) Saturate(windows[w], 2);
  CHECK(FindAnomalies(windows, kOffsets, {.seed = 5}) ==
        FindAnomalies(windows, kOffsets, {.seed = 5}));
}

TEST_CASE("a sink is no anomaly") {
  auto windows = SoundJob(4);
  for (WindowReading& window : windows) {
    Saturate(window, 2);
    At(window, 2, Metric::kFirstTokenMass) = 0.95F;
  }
  CHECK(FindAnomalies(windows, kOffsets, {}).empty());
}

TEST_CASE("uniform heads are no anomaly while all heads are uniform") {
  auto windows = SoundJob(5);
  for (std::size_t w = 0; w < 4; ++w) {
    for (std::size_t head = 0; head < kHeads; ++head) {
      At(windows[w], head, Metric::kEntropy) = 0.993F;
    }
  }
  CHECK(FindAnomalies(windows, kOffsets, {}).empty());
}

TEST_CASE("heads that leave their baseline together do not drift") {
  auto windows = SoundJob(6);
  for (std::size_t w = 6; w < kWindows; ++w) {
    for (float& divergence : windows[w].divergence) divergence += 0.3F;
  }
  CHECK(FindAnomalies(windows, kOffsets, {}).empty());
}

TEST_CASE("short gaps are bridged, long ones end a stretch, single windows are left out") {
  auto windows = SoundJob(7);
  for (const std::size_t w : {1, 2, 4, 5, 8, 9}) Saturate(windows[w], 0);
  Saturate(windows[6], 12);
  const auto found = FindAnomalies(windows, kOffsets, {});
  REQUIRE(found.size() == 2);
  CHECK(found[0].first_step == 101);
  CHECK(found[0].last_step == 600);
  CHECK(found[1].first_step == 801);
  CHECK(found[1].last_step == 1000);

  CHECK(FindAnomalies(windows, kOffsets, {.bridged_windows = 0}).size() == 3);
  CHECK(FindAnomalies(windows, kOffsets, {.bridged_windows = 2}).size() == 1);
  const auto all = FindAnomalies(windows, kOffsets, {.least_windows = 1});
  REQUIRE(all.size() == 3);
  CHECK(all[2].site == 1);
  CHECK(all[2].head == 4);
  CHECK(all[2].first_step == all[2].last_step - 99);
}

TEST_CASE("a stretch ends where a job was started anew from a checkpoint") {
  auto windows = SoundJob(7);
  for (const std::size_t w : {4, 5, 6, 7}) Saturate(windows[w], 0);
  for (std::size_t w = 6; w < kWindows; ++w) {  // from step 300 on once more
    windows[w].first_step -= 300;
    windows[w].last_step -= 300;
  }
  const auto found = FindAnomalies(windows, kOffsets, {});
  REQUIRE(found.size() == 2);
  CHECK(found[0].first_step == 301);
  CHECK(found[0].last_step == 500);
  CHECK(found[1].first_step == 401);
  CHECK(found[1].last_step == 600);
}

TEST_CASE("one fault is found among many heads in a single cluster") {
  auto windows = SoundJob(8);
  for (std::size_t w = 3; w <= 4; ++w) Saturate(windows[w], 2);
  const auto found = FindAnomalies(windows, kOffsets, {.clusters = 1});
  REQUIRE(found.size() == 1);
  CHECK(found[0].first_step == 301);
  CHECK(found[0].last_step == 500);
}

TEST_CASE("inactive heads are not looked at") {
  auto windows = SoundJob(9);
  for (WindowReading& window : windows) {
    window.active[5] = 0;
    for (std::size_t m = 0; m < kMetrics; ++m) window.metrics[5 * kMetrics + m] = 0;
  }
  CHECK(FindAnomalies(windows, kOffsets, {}).empty());
}

TEST_CASE("no windows have no anomalies, and sizes must be the topology's") {
  CHECK(FindAnomalies({}, kOffsets, {}).empty());
  auto windows = SoundJob(1);
  windows[1].divergence.pop_back();
  CHECK_THROWS_AS(FindAnomalies(windows, kOffsets, {}), std::invalid_argument);
  CHECK_THROWS_AS(FindAnomalies(windows, {}, {}), std::invalid_argument);
}

}  // namespace
}  // namespace attune
