// The rungs that runs have reached, and who goes on.
#include "agent/sweep/halving.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <system_error>
#include <vector>

namespace attune::sweep {

using nlohmann::json;

bool GoesOn(std::span<const double> rung, double value, double factor, bool minimize) {
  const auto better = std::ranges::count_if(
      rung, [&](double other) { return minimize ? other < value : other > value; });
  return static_cast<double>(better) < std::ceil(static_cast<double>(rung.size()) / factor);
}

std::optional<std::string> Ladder::Judge(const Point& point) {
  const double resource = halving_.by_step ? point.step : point.compute;
  if (resource < next_) return std::nullopt;
  double rung = next_;
  for (; next_ <= resource; next_ *= halving_.factor) rung = next_;  // the highest reached

  const int descriptor = open(file_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (descriptor < 0) throw std::system_error(errno, std::generic_category(), file_.string());
  flock(descriptor, LOCK_EX);  // until it is closed
  const std::string line =
      json{{"rung", rung}, {"seed", seed_}, {"run", run_}, {"value", point.value}}.dump() + "\n";
  const bool whole =
      write(descriptor, line.data(), line.size()) == static_cast<ssize_t>(line.size());
  std::map<std::uint64_t, double> values;  // by run: one that began anew counts once
  std::ifstream stream(file_);
  for (std::string text; std::getline(stream, text);) {
    const json entry = json::parse(text, nullptr, false);
    if (entry.is_discarded() || entry.at("rung") != rung || entry.at("seed") != seed_) continue;
    values[entry.at("run")] = entry.at("value");
  }
  close(descriptor);
  if (!whole) throw std::system_error(ENOSPC, std::generic_category(), file_.string());
  std::vector<double> reached;
  for (const auto& [run, value] : values) reached.push_back(value);
  if (GoesOn(reached, point.value, halving_.factor, minimize_)) return std::nullopt;
  return fmt::format("{:.6g} is not among the best 1/{:g} of {} runs at {} {:g}", point.value,
                     halving_.factor, reached.size(), halving_.by_step ? "step" : "compute", rung);
}

}  // namespace attune::sweep
