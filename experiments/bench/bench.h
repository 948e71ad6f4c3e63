// What the benchmarks share: processor time, medians of interleaved rounds, and the line of JSON
// that each prints last.
#pragma once

#include <dlfcn.h>
#include <fmt/format.h>
#include <malloc.h>
#include <time.h>

#include <algorithm>
#include <cstddef>
#include <exception>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

namespace attune::bench {

inline double SecondsOf(clockid_t clock) {
  timespec time{};
  clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}
// Of this process so far: neighbours on the machine disturb it less than the time on the wall.
inline double ProcessorSeconds() { return SecondsOf(CLOCK_PROCESS_CPUTIME_ID); }
// Of another process so far.
inline double ProcessorSeconds(pid_t process) {
  clockid_t clock = 0;
  clock_getcpuclockid(process, &clock);
  return SecondsOf(clock);
}
inline double WallSeconds() { return SecondsOf(CLOCK_MONOTONIC); }

template <typename Work>
double ProcessorSecondsOf(Work&& work) {
  const double start = ProcessorSeconds();
  work();
  return ProcessorSeconds() - start;
}

// The value below which this share of the values lies.
inline double Quantile(std::vector<double> values, double share) {
  const auto place = static_cast<std::ptrdiff_t>(share * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), values.begin() + place, values.end());
  return values[static_cast<std::size_t>(place)];
}
inline double Median(std::vector<double> values) { return Quantile(std::move(values), 0.5); }

// Figures of ours and of the bare part, taken in turn so that both see the same neighbours; as many
// of the one as of the other.
struct Figures {
  std::vector<double> ours, reference;

  template <typename Ours, typename Reference>
  static Figures Take(int rounds, Ours&& ours, Reference&& reference) {
    Figures figures;
    for (int round = 0; round < rounds; ++round) {
      // Whoever goes second finds the machine as the first has left it: each does, every other
      // time.
      if (round % 2 == 0) figures.ours.push_back(ours());
      figures.reference.push_back(reference());
      if (round % 2 == 1) figures.ours.push_back(ours());
    }
    return figures;
  }
  // The median over the rounds: what slows the machine for a while slows both parts of a round.
  [[nodiscard]] double Ratio() const {
    std::vector<double> ratios;
    for (std::size_t i = 0; i < ours.size(); ++i) ratios.push_back(ours[i] / reference[i]);
    return Median(ratios);
  }
};

// One line of JSON; `more` follows the five fields that every benchmark has.
inline void Report(const std::string& name, double ours, double reference, const std::string& unit,
                   double ratio, const nlohmann::ordered_json& more = {}) {
  nlohmann::ordered_json line = {
      {"name", name}, {"ours", ours}, {"reference", reference}, {"unit", unit}, {"ratio", ratio}};
  for (const auto& [key, value] : more.items()) line[key] = value;
  fmt::print("{}\n", line.dump());
}
inline void Report(const std::string& name, const Figures& figures, const std::string& unit,
                   const nlohmann::ordered_json& more = {}) {
  Report(name, Median(figures.ours), Median(figures.reference), unit, figures.Ratio(), more);
}

// As attuned and the demo do: OpenBLAS's idle threads spin, and memory that glibc gives back and
// fetches anew is the most erratic part of a step.
inline void UseOneThread() {
  if (void* set = dlsym(RTLD_DEFAULT, "openblas_set_num_threads"); set != nullptr) {
    reinterpret_cast<void (*)(int)>(set)(1);
  }
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);
}

// Runs the benchmark that the command line names; the exit status.
inline int RunNamed(int argc, char** argv,
                    const std::map<std::string, std::function<void()>>& benchmarks) {
  const auto named = benchmarks.find(argc == 2 ? argv[1] : "");
  if (named == benchmarks.end()) {
    for (const auto& [name, run] : benchmarks) fmt::print(stderr, "usage: {} {}\n", argv[0], name);
    return 2;
  }
  try {
    named->second();
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}: {}\n", argv[0], error.what());
    return 1;
  }
}

}  // namespace attune::bench
