// Figures and bars over results that the test makes.
#include "agent/sweep/figures.h"

#include <catch2/catch.hpp>
#include <cmath>

#include "agent/sweep/report.h"

namespace attune::sweep {
namespace {

using Catch::Matchers::Contains;
using nlohmann::json;

Result MakeResult(const std::string& policy, int heads, std::uint64_t seed,
                  const std::vector<Point>& points, Ending ending = Ending::kFinished) {
  Result result;
  result.run.parameters = {{"heads", heads}};
  result.run.policy = policy;
  result.run.seed = seed;
  result.points = points;
  RunOutcome outcome;
  outcome.ending = ending;
  if (!points.empty()) outcome.last = points.back();
  outcome.cpu_seconds = 10;
  result.outcome = outcome;
  return result;
}

// Two seeds at 4 heads. Tuned ends 0.5 below its twin each time and is there in half the compute.
Results Sample() {
  Results results;
  results.spec.name = "sample";
  results.spec.twin = true;
  for (std::uint64_t seed : {0, 1}) {
    const double shift = static_cast<double>(seed);
    results.runs.push_back(
        MakeResult("untuned", 4, seed, {{0, 0, 4 + shift}, {10, 10, 2 + shift}}));
    results.runs.push_back(MakeResult(
        "kmeans", 4, seed, {{0, 0, 4 + shift}, {10, 5, 2 + shift}, {20, 10, 1.5 + shift}}));
  }
  return results;
}

double FigureOf(const Results& results, const std::string& name, const Selection& selection = {}) {
  const auto figure = Compute(name, results, selection);
  REQUIRE(figure);
  return figure->interval.mean;
}

TEST_CASE("figures pair runs by parameters and seed") {
  const Results results = Sample();
  CHECK(FigureOf(results, "value") == Approx(2.0));
  CHECK(FigureOf(results, "difference") == Approx(-0.5));
  CHECK(*Compute("difference", results, {})->interval.high == Approx(-0.5));
  CHECK(FigureOf(results, "relative") == Approx(std::sqrt(1.5 / 2.0 * 2.5 / 3.0)));
  CHECK(FigureOf(results, "worst_relative") == Approx(2.5 / 3.0));
  CHECK(FigureOf(results, "compute") == Approx(1.0));
  CHECK(FigureOf(results, "compute_to_target") == Approx(0.5));
  CHECK(FigureOf(results, "reached") == 1.0);
  CHECK(FigureOf(results, "failed") == 0.0);
}

TEST_CASE("a selection takes the policy, the parameters and the seed that it names") {
  Results results = Sample();
  results.runs.push_back(MakeResult("keep", 4, 0, {{10, 10, 1.75}}));
  Selection selection;
  selection.policy = "kmeans";
  selection.against = "keep";
  CHECK(FigureOf(results, "difference", selection) == Approx(-0.25));
  CHECK(Compute("difference", results, selection)->left_out == 1);
  selection = {};
  selection.where = json{{"heads", 2}};
  CHECK_FALSE(Compute("value", results, selection));
  selection.where = json{{"seed", 1}, {"heads", 4}};
  CHECK(FigureOf(results, "value", selection) == Approx(2.5));
  CHECK_THROWS_AS(Compute("gain", results, {}), std::invalid_argument);
}

TEST_CASE("a run that never reaches its twin makes the mean infinite, not absent") {
  Results results = Sample();
  results.runs[1] = MakeResult("kmeans", 4, 0, {{0, 0, 4}, {10, 10, 3}});
  CHECK(std::isinf(FigureOf(results, "compute_to_target")));
  CHECK(FigureOf(results, "reached") == Approx(0.5));
}

TEST_CASE("a twin that was never better than where it began took nothing for its result") {
  Results results = Sample();
  results.runs[0] = MakeResult("untuned", 4, 0, {{0, 0, 4}, {10, 10, 5}});
  const auto figure = Compute("compute_to_target", results, {});
  REQUIRE(figure);
  CHECK(figure->left_out == 1);
  CHECK(figure->interval.mean == Approx(0.5));
}

TEST_CASE("where a run misses its twin's result, one with a longer budget tells when it is there") {
  Results results = Sample();
  results.runs[1] = MakeResult("kmeans", 4, 0, {{0, 0, 4}, {10, 10, 3}});
  results.runs.push_back(MakeResult("longer", 4, 0, {{0, 0, 4}, {10, 10, 3}, {20, 20, 1}}));
  // Of the other seed the run itself reached it, whatever a longer one did.
  results.runs.push_back(MakeResult("longer", 4, 1, {{0, 0, 4}, {1, 1, 1}}));
  Selection selection;
  selection.policy = "kmeans";
  selection.longer = {"longer"};
  CHECK(FigureOf(results, "compute_to_target", selection) == Approx(std::sqrt(1.5 * 0.5)));
  CHECK(Compute("compute_to_target", results, selection)->stand_ins == 1);
  CHECK(FigureOf(results, "reached", selection) == Approx(0.5));
  // What the run has spent in vain counts, however soon the other was there.
  results.runs[4] = MakeResult("longer", 4, 0, {{0, 0, 4}, {5, 5, 1}, {20, 20, 1}});
  CHECK(FigureOf(results, "compute_to_target", selection) == Approx(std::sqrt(1.0 * 0.5)));
  results.runs[4] = MakeResult("longer", 4, 0, {{0, 0, 4}, {10, 10, 3}, {20, 20, 2.5}});
  CHECK(std::isinf(FigureOf(results, "compute_to_target", selection)));
  // One that has not been run says nothing of when.
  results.runs.erase(results.runs.begin() + 4);
  CHECK(Compute("compute_to_target", results, selection)->left_out == 1);
}

TEST_CASE("runs with a longer budget are nobody's rivals") {
  Results results = Sample();
  results.runs.push_back(MakeResult("longer", 4, 0, {{0, 0, 4}, {20, 20, 1}}));
  CHECK(Compute("difference", results, {})->interval.count == 3);
  Bar bar;
  bar.longer = {"longer"};
  results.spec.bars.push_back(bar);
  CHECK(Compute("difference", results, {})->interval.count == 2);
}

TEST_CASE("a halved run is compared with its twin where it was stopped") {
  Results results = Sample();
  results.runs[1] = MakeResult("kmeans", 4, 0, {{0, 0, 4}, {5, 5, 2.5}}, Ending::kHalved);
  Selection selection;
  selection.where = json{{"seed", 0}};
  CHECK(FigureOf(results, "difference", selection) == Approx(-0.5));
}

TEST_CASE("a halved run has no end, and none of it is in the mean of ends") {
  Results results = Sample();
  const auto whole = Compute("value", results, {});
  results.runs[1] = MakeResult("kmeans", 4, 0, {{0, 0, 4}, {5, 5, 99}}, Ending::kHalved);
  const auto figure = Compute("value", results, {});
  REQUIRE(figure);
  CHECK(figure->left_out == whole->left_out + 1);
  CHECK(figure->interval.mean < 4);
}

TEST_CASE("a run that was halved before its twin had said anything is left out") {
  Results results = Sample();
  results.runs[0] = MakeResult("untuned", 4, 0, {{6, 6, 3.8}, {10, 10, 2}});
  results.runs[1] = MakeResult("kmeans", 4, 0, {{5, 5, 3.9}}, Ending::kHalved);
  const auto figure = Compute("difference", results, {});
  REQUIRE(figure);
  CHECK(figure->left_out == 1);
  CHECK(figure->interval.count == 1);
  Selection selection;
  selection.where = json{{"seed", 0}};
  CHECK_FALSE(Compute("difference", results, selection));
}

TEST_CASE("an untuned variant is a baseline, and not counted among what was tuned") {
  Results results = Sample();
  const auto alone = FigureOf(results, "difference");
  results.spec.variants["zero"] = {};
  results.runs.push_back(MakeResult("zero", 4, 0, {{10, 10, 10}}));
  CHECK(FigureOf(results, "difference") == alone);
}

TEST_CASE("what halving stopped says nothing about ends") {
  Results results = Sample();
  results.runs[1] = MakeResult("kmeans", 4, 0, {{0, 0, 4}, {5, 5, 3.9}}, Ending::kHalved);
  for (const char* name : {"worst_job", "compute", "compute_to_target", "reached"}) {
    CAPTURE(name);
    const auto figure = Compute(name, results, {});
    REQUIRE(figure);
    CHECK(figure->left_out == 1);
    CHECK(figure->interval.count == 1);
  }
  CHECK(FigureOf(results, "worst_job") == Approx(2.5 / 3.0));
}

TEST_CASE("a run is compared with a halved partner where that was stopped") {
  Results results = Sample();
  results.runs.push_back(MakeResult("random", 4, 0, {{0, 0, 4}, {5, 5, 3}}, Ending::kHalved));
  Selection selection;
  selection.policy = "kmeans";
  selection.against = "random";
  selection.where = json{{"seed", 0}};
  CHECK(FigureOf(results, "difference", selection) == Approx(2.0 - 3.0));
}

TEST_CASE("the worst job is the worst mean over the seeds of a job, not the worst run") {
  Results results = Sample();
  results.runs.push_back(MakeResult("untuned", 8, 0, {{10, 10, 2}}));
  results.runs.push_back(MakeResult("kmeans", 8, 0, {{10, 10, 2.2}}));
  results.runs.push_back(MakeResult("untuned", 8, 1, {{10, 10, 2}}));
  results.runs.push_back(MakeResult("kmeans", 8, 1, {{10, 10, 2 / 1.1}}));
  CHECK(FigureOf(results, "worst_relative") == Approx(1.1));
  CHECK(FigureOf(results, "worst_job") == Approx(1.0));
}

TEST_CASE("the gap closed is measured on the untuned run that is healthy") {
  Results results = Sample();  // of 4 heads: 2 and 3 untuned, 1.5 and 2.5 tuned
  for (std::uint64_t seed : {0, 1}) {
    results.runs.push_back(
        MakeResult("untuned", 8, seed, {{10, 10, 1 + static_cast<double>(seed)}}));
  }
  Selection selection;
  selection.where = {{"heads", 4}};
  selection.healthy = {{"heads", 8}};
  CHECK(FigureOf(results, "gap_closed", selection) == Approx(0.5));
  selection.healthy = {{"heads", 2}};
  CHECK_FALSE(Compute("gap_closed", results, selection));
}

TEST_CASE("where the healthy run ended no better there is no gap to close") {
  Results results = Sample();  // of 4 heads: 2 and 3 untuned, 1.5 and 2.5 tuned
  for (std::uint64_t seed : {0, 1}) {
    results.runs.push_back(MakeResult("untuned", 8, seed, {{10, 10, 4}}));
    results.runs.push_back(MakeResult("untuned", 2, seed, {{10, 10, 3}}));
    results.runs.push_back(MakeResult("kmeans", 2, seed, {{10, 10, 2}}));
    results.runs.push_back(MakeResult("untuned", 3, seed, {{10, 10, 1}}));
  }
  Selection selection;
  selection.where = {{"heads", 4}};
  selection.healthy = {{"heads", 8}};
  CHECK_FALSE(Compute("gap_closed", results, selection));
  selection.where = json::object();
  selection.healthy = {{"heads", 3}};  // gaps of 1.5 and 2: closed 0.5 / 1.5 and 1 / 2
  CHECK(FigureOf(results, "gap_closed", selection) == Approx((1.0 / 3 + 0.5) / 2));
}

TEST_CASE("numbers that are not above 0 have no ratio") {
  Results results = Sample();
  results.runs.push_back(MakeResult("untuned", 8, 0, {{10, 10, -2}}));
  results.runs.push_back(MakeResult("kmeans", 8, 0, {{10, 10, -1}}));
  for (const char* name : {"relative", "worst_relative", "worst_job"}) {
    CAPTURE(name);
    const auto figure = Compute(name, results, {});
    REQUIRE(figure);
    CHECK(figure->left_out == 1);
    CHECK(figure->interval.count == 2);
  }
}

TEST_CASE("hindsight takes the best of the others for each job, and never less than nothing") {
  Results results = Sample();  // kmeans gains 0.5 at 4 heads
  for (std::uint64_t seed : {0, 1}) {
    const double shift = static_cast<double>(seed);
    results.runs.push_back(MakeResult("one", 4, seed, {{10, 10, 1 + shift}}));     // gains 1
    results.runs.push_back(MakeResult("two", 4, seed, {{10, 10, 1.25 + shift}}));  // 0.75
    results.runs.push_back(MakeResult("untuned", 8, seed, {{10, 10, 2 + shift}}));
    results.runs.push_back(MakeResult("kmeans", 8, seed, {{10, 10, 1.7 + shift}}));  // 0.3
    results.runs.push_back(MakeResult("one", 8, seed, {{10, 10, 3 + shift}}));
    results.runs.push_back(MakeResult("two", 8, seed, {{10, 10, 4 + shift}}));
  }
  Selection selection;
  selection.policy = "kmeans";
  selection.among = {"one", "two"};
  CHECK(FigureOf(results, "hindsight", selection) == Approx(0.8));
  // A pair of which the grid is not whole says nothing.
  results.runs.push_back(MakeResult("untuned", 8, 2, {{10, 10, 9}}));
  results.runs.push_back(MakeResult("kmeans", 8, 2, {{10, 10, 1}}));
  results.runs.push_back(MakeResult("one", 8, 2, {{10, 10, 1}}));
  const auto figure = Compute("hindsight", results, selection);
  REQUIRE(figure);
  CHECK(figure->interval.mean == Approx(0.8));
  CHECK(figure->interval.count == 4);
  CHECK(figure->left_out == 1);
}

TEST_CASE("jobs of one cluster are drawn together, for they are no independent samples") {
  Results results = Sample();  // of 4 heads
  for (const int heads : {5, 6, 7}) {
    results.runs.push_back(MakeResult("untuned", heads, 0, {{10, 10, 2}}));
    results.runs.push_back(MakeResult("kmeans", heads, 0, {{10, 10, heads < 7 ? 1.5 : 2.0}}));
  }
  for (Result& result : results.runs) {
    result.run.parameters["data"] = result.run.parameters["heads"] < 7 ? "one" : "other";
  }
  const auto apart = Compute("difference", results, {})->interval;
  results.spec.clusters = {"data"};
  const auto together = Compute("difference", results, {})->interval;
  CHECK(together.mean == Approx(apart.mean));
  // One in four draws takes the other cluster twice, whose only job gained nothing.
  CHECK(*together.high == Approx(0.0));
  CHECK(*apart.high < -0.1);
}

TEST_CASE("where all runs are of one cluster its jobs are drawn, not their seeds") {
  Results results = Sample();
  for (std::uint64_t seed : {2, 3, 4, 5}) {  // four seeds that gain beside one job that does not
    results.runs.push_back(MakeResult("untuned", 4, seed, {{10, 10, 2}}));
    results.runs.push_back(MakeResult("kmeans", 4, seed, {{10, 10, 1.5}}));
  }
  results.runs.push_back(MakeResult("untuned", 5, 0, {{10, 10, 2}}));
  results.runs.push_back(MakeResult("kmeans", 5, 0, {{10, 10, 2.0}}));
  for (Result& result : results.runs) result.run.parameters["data"] = "one";
  const auto of_jobs = Compute("difference", results, {})->interval;
  results.spec.clusters = {"data"};
  const auto of_one_cluster = Compute("difference", results, {})->interval;
  CHECK(*of_one_cluster.low == *of_jobs.low);
  CHECK(*of_one_cluster.high == *of_jobs.high);
  CHECK(*of_one_cluster.high == 0);  // one draw in four has that job alone; of seven runs, none
}

TEST_CASE("a field is another number of the last line than the metric") {
  Results results = Sample();
  for (Result& result : results.runs) {
    result.outcome->last->fields["active_share"] = result.run.policy == "kmeans" ? 0.25 : 1;
  }
  Selection selection;
  selection.field = "active_share";
  CHECK(FigureOf(results, "value", selection) == Approx(0.25));
  CHECK(FigureOf(results, "relative", selection) == Approx(0.25));
  selection.field = "colour";
  CHECK_FALSE(Compute("value", results, selection));
}

TEST_CASE("a bar holds by its figure, its end of the interval, and every run's result") {
  Results results = Sample();
  Bar bar{.name = "gains",
          .figure = "difference",
          .policy = "",
          .against = "untuned",
          .where = json::object(),
          .bound = "high",
          .at_most = true,
          .threshold = -0.4};
  const auto holds = [&](const Bar& claim) {
    results.spec.bars = {claim};
    return Judge(results)[0].holds;
  };
  CHECK(holds(bar));
  bar.threshold = -0.6;
  CHECK_FALSE(holds(bar));
  bar.at_most = false;
  CHECK(holds(bar));
  bar.policy = "network";
  CHECK_FALSE(holds(bar));  // nobody has the figure
  CHECK_THAT(Describe(Judge(results)[0]), Contains("FAILS") && Contains("no run has"));
  bar.policy = "";
  results.runs[3] = MakeResult("kmeans", 4, 1, {}, Ending::kFailed);
  CHECK_FALSE(holds(bar));  // one run has no result
  CHECK_THAT(Describe(Judge(results)[0]), Contains("1 left out"));
  bar.figure = "worst_relative";
  results = Sample();
  CHECK_FALSE(holds(bar));  // it has no interval to take the end of
}

TEST_CASE("the report says the same in all its forms") {
  Results results = Sample();
  results.runs.push_back(MakeResult("kmeans", 8, 0, {}, Ending::kTime));
  results.runs.back().outcome->why = "over its limit, of 3 s";
  const json provenance = {{"attune", "0"},     {"revision", "0123456789abcdef"},
                           {"modified", false}, {"system", "Linux"},
                           {"processors", 2},   {"processor", "P"},
                           {"memory", "1 kB"},  {"packages", {{"libc6", "2.36"}}}};
  const json report = ReportJson(results, provenance);
  CHECK(report.at("policies").at("kmeans").at("difference").at("mean") == -0.5);
  CHECK(report.at("groups").size() == 3);
  CHECK(report.at("runs").size() == 5);
  CHECK(report.at("endings").at("time") == 1);
  const json& curve = report.at("groups").at(0).at("curve_over_compute");
  CHECK(curve.back().at("compute") == 10);
  CHECK(curve.back().at("mean") == 2.0);
  for (const std::string& text :
       {ReportText(results, provenance), ReportMarkdown(results, provenance)}) {
    CHECK_THAT(text, Contains("-0.5 [-0.5, -0.5]") && Contains("0123456789ab") &&
                         Contains("libc6 2.36") && Contains("over its limit, of 3 s"));
  }
  const std::string csv = ReportCsv(results);
  CHECK_THAT(csv, Contains("run,heads,policy,seed,ending,why,value"));
  CHECK_THAT(csv, Contains("\"over its limit, of 3 s\""));
}

}  // namespace
}  // namespace attune::sweep
