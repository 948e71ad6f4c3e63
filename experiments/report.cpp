// attune-demo-report: what tuning did for a demo job, side by side with the same job untuned.
#include <algorithm>
#include <array>
#include <boost/program_options.hpp>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace attune {
namespace {

namespace po = boost::program_options;
using nlohmann::json;

constexpr std::size_t kPlotColumns = 64;
constexpr std::size_t kPlotRows = 16;

struct Point {
  double seconds = 0;  // of processor time, of training alone
  double steps = 0;
  double loss = 0;  // NaN where the job had none
};

// What attune-demo-lm reported of a run.
struct Run {
  json identity;  // all that two runs must share to be compared
  json seed;
  std::vector<Point> curve;
  std::uint64_t steps = 0;
  double seconds = 0;
  double loss = 0;
  double baked_loss = 0;
  std::vector<std::uint32_t> active;
  std::vector<std::vector<float>> scales;
};

json ReadJson(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::invalid_argument("cannot read " + path);
  try {
    return json::parse(file);
  } catch (const json::exception& error) {
    throw std::invalid_argument(path + " is no JSON: " + error.what());
  }
}

// JSON has no NaN: it is written as null.
double Number(const json& value) {
  return value.is_null() ? std::numeric_limits<double>::quiet_NaN() : value.get<double>();
}

Run ReadRun(const std::string& path) {
  const json report = ReadJson(path);
  try {
    Run run;
    for (const char* key : {"seed", "text", "budget", "config"}) {
      run.identity[key] = report.at(key);
    }
    run.seed = report.at("seed");
    for (const json& point : report.at("curve")) {
      run.curve.push_back(
          {point.at(0).get<double>(), point.at(1).get<double>(), Number(point.at(2))});
    }
    run.steps = report.at("steps").get<std::uint64_t>();
    run.seconds = report.at("cpu_seconds").get<double>();
    run.loss = Number(report.at("val_loss"));
    run.baked_loss = Number(report.at("baked_val_loss"));
    run.active = report.at("active_heads").get<std::vector<std::uint32_t>>();
    run.scales = report.at("scales").get<std::vector<std::vector<float>>>();
    return run;
  } catch (const json::exception& error) {
    throw std::invalid_argument(path + " is no report of attune-demo-lm: " + error.what());
  }
}

// The run at so many processor seconds, between two evaluations by a straight line; nothing outside
// its curve.
std::optional<Point> At(const std::vector<Point>& curve, double seconds) {
  for (std::size_t i = 1; i < curve.size(); ++i) {
    const Point& a = curve[i - 1];
    const Point& b = curve[i];
    if (seconds < a.seconds || seconds > b.seconds || a.seconds == b.seconds) continue;
    const double share = (seconds - a.seconds) / (b.seconds - a.seconds);
    return Point{seconds, a.steps + share * (b.steps - a.steps),
                 a.loss + share * (b.loss - a.loss)};
  }
  return std::nullopt;
}

void PrintTable(const Run& untuned, const Run& tuned, double end) {
  std::printf("  CPU s   untuned: loss  (steps)     tuned: loss  (steps)   difference\n");
  for (int tenth = 1; tenth <= 10; ++tenth) {
    const double seconds = end * tenth / 10;
    const auto a = At(untuned.curve, seconds);
    const auto b = At(tuned.curve, seconds);
    std::printf("%7.1f", seconds);
    for (const auto& point : {a, b}) {
      if (point) {
        std::printf("   %12.4f  (%7lld)", point->loss, std::llround(point->steps));
      } else {
        std::printf("   %12s  %9s", "-", "");
      }
    }
    if (a && b) std::printf("   %+10.4f", b->loss - a->loss);
    std::printf("\n");
  }
}

std::string Join(const std::vector<std::uint32_t>& numbers) {
  std::string text;
  for (const std::uint32_t number : numbers) {
    text.append(text.empty() ? "" : " ").append(std::to_string(number));
  }
  return text;
}

void PrintSettings(const Run& untuned, const Run& tuned) {
  std::printf("steps                %10llu untuned  %10llu tuned\n",
              static_cast<unsigned long long>(untuned.steps),
              static_cast<unsigned long long>(tuned.steps));
  std::printf("validation loss      %10.4f untuned  %10.4f tuned  %10.4f tuned and baked\n",
              untuned.loss, tuned.loss, tuned.baked_loss);
  std::printf("active heads by site: %s untuned, %s tuned\n", Join(untuned.active).c_str(),
              Join(tuned.active).c_str());
  for (std::size_t site = 0; site < tuned.scales.size(); ++site) {
    std::printf("final scales of site %zu:", site);
    for (const float scale : tuned.scales[site]) std::printf(" %.2f", scale);
    std::printf("\n");
  }
}

// Validation loss over processor seconds. The first evaluation, of the untrained model, is left out
// of the range: it would press all that follows flat.
void PrintPlot(const Run& untuned, const Run& tuned, double end) {
  double low = std::numeric_limits<double>::infinity();
  double high = -low;
  for (const Run* run : {&untuned, &tuned}) {
    for (std::size_t i = 1; i < run->curve.size(); ++i) {
      if (!std::isfinite(run->curve[i].loss)) continue;
      low = std::min(low, run->curve[i].loss);
      high = std::max(high, run->curve[i].loss);
    }
  }
  if (!(low < high)) return;

  constexpr std::array<const char*, 4> kMarks = {" ", "○", "●", "◉"};
  std::array<std::array<unsigned, kPlotColumns>, kPlotRows> cells{};
  for (const unsigned which : {1U, 2U}) {
    const Run& run = which == 1 ? untuned : tuned;
    for (std::size_t column = 0; column < kPlotColumns; ++column) {
      const auto point =
          At(run.curve, end * static_cast<double>(column + 1) / static_cast<double>(kPlotColumns));
      if (!point || !(point->loss >= low && point->loss <= high)) continue;
      const double height = (point->loss - low) / (high - low);
      cells[static_cast<std::size_t>(std::lround((1 - height) * (kPlotRows - 1)))][column] |= which;
    }
  }
  std::printf("\nvalidation loss   ○ untuned   ● tuned   ◉ both\n");
  for (std::size_t row = 0; row < kPlotRows; ++row) {
    const double loss =
        high - (high - low) * static_cast<double>(row) / static_cast<double>(kPlotRows - 1);
    std::string line;
    for (const unsigned cell : cells[row]) line += kMarks[cell];
    std::printf("%8.3f ┤%s\n", loss, line.c_str());
  }
  std::string axis;
  for (std::size_t column = 0; column < kPlotColumns; ++column) axis += "─";
  std::printf("%8s └%s\n%8s  0%*.0f CPU s\n", "", axis.c_str(), "",
              static_cast<int>(kPlotColumns) - 1, end);
}

json OrNull(double value) { return std::isfinite(value) ? json(value) : json(); }

void Report(const std::string& untuned_path, const std::string& tuned_path,
            const std::string& job_path) {
  const Run untuned = ReadRun(untuned_path);
  const Run tuned = ReadRun(tuned_path);
  if (untuned.identity != tuned.identity) {
    throw std::invalid_argument("the runs cannot be compared: " + untuned_path + " is of " +
                                untuned.identity.dump() + ", " + tuned_path + " of " +
                                tuned.identity.dump());
  }
  const json job = ReadJson(job_path);
  if (!job.is_object() || !job.contains("trials") || !job.contains("deciders")) {
    throw std::invalid_argument(job_path + " is no report of attune run: it has no trials and " +
                                "deciders");
  }
  // A budget in processor seconds is where both curves end, within a step; else the longer's end.
  const json& budget = tuned.identity["budget"];
  const double end = budget.at("kind") == "cpu_seconds" ? budget.at("amount").get<double>()
                                                        : std::max(untuned.seconds, tuned.seconds);
  PrintTable(untuned, tuned, end);
  std::printf("\n");
  PrintSettings(untuned, tuned);
  std::printf("trials: %s, decided by %s\n", job["trials"].dump().c_str(),
              job["deciders"].dump().c_str());
  PrintPlot(untuned, tuned, end);
  std::printf("\n");
  std::fflush(stdout);
  const json result = {{"untuned_val_loss", OrNull(untuned.loss)},
                       {"tuned_val_loss", OrNull(tuned.loss)},
                       {"tuned_baked_val_loss", OrNull(tuned.baked_loss)},
                       {"cpu_seconds", tuned.seconds},
                       {"untuned_cpu_seconds", untuned.seconds},
                       {"untuned_steps", untuned.steps},
                       {"tuned_steps", tuned.steps},
                       {"tuned_active_heads", tuned.active},
                       {"trials", job["trials"]},
                       {"deciders", job["deciders"]},
                       {"seed", tuned.seed}};
  std::cout << result.dump() << std::endl;
}

int Main(int argc, char** argv) {
  try {
    std::string untuned, tuned, job;
    po::options_description all(
        "attune-demo-report shows two runs of attune-demo-lm side by side.\n"
        "The last line of stdout is the result as JSON.\n\nOptions");
    all.add_options()("help,h", "say this")(
        "untuned", po::value(&untuned)->value_name("FILE")->required(),
        "what attune-demo-lm --report wrote of the run without attune")(
        "tuned", po::value(&tuned)->value_name("FILE")->required(), "... and of the tuned run")(
        "job", po::value(&job)->value_name("FILE")->required(),
        "what attune run --report wrote of the tuned run");
    po::variables_map values;
    try {
      po::store(po::command_line_parser(argc, argv).options(all).positional({}).run(), values);
      if (values.count("help") > 0) {
        std::cout << all;
        return 0;
      }
      po::notify(values);
    } catch (const po::error& error) {
      throw std::invalid_argument(std::string(error.what()) + "; see --help");
    }
    Report(untuned, tuned, job);
    return 0;
  } catch (const std::invalid_argument& error) {
    std::cerr << "attune-demo-report: " << error.what() << '\n';
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "attune-demo-report: " << error.what() << '\n';
    return 1;
  }
}

}  // namespace
}  // namespace attune

int main(int argc, char** argv) { return attune::Main(argc, argv); }
