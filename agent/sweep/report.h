// A sweep's report, in four forms.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "agent/sweep/figures.h"

namespace attune::sweep {

// For programs: everything below and the curves, with what is needed to repeat the sweep and to
// join it (join.h).
[[nodiscard]] nlohmann::json ReportJson(const Results& results, const nlohmann::json& provenance);
// The same as a file: bars, groups and runs one a line, so that versions of it can be compared.
[[nodiscard]] std::string ReportJsonText(const Results& results, const nlohmann::json& provenance);
// For a terminal, and for a repository.
[[nodiscard]] std::string ReportText(const Results& results, const nlohmann::json& provenance);
[[nodiscard]] std::string ReportMarkdown(const Results& results, const nlohmann::json& provenance);
// One line for each run: its parameters, how it ended, its result.
[[nodiscard]] std::string ReportCsv(const Results& results);

// What decides what a run is, beside the command and its parameters: environment, the daemon's
// settings, variants.
[[nodiscard]] nlohmann::json SetupOf(const Spec& spec);

// Version, revision and machine in one line. Throws json::exception if the provenance lacks one.
[[nodiscard]] std::string DescribeOrigin(const nlohmann::json& provenance);

// One line for each bar, whether it holds and by how much.
[[nodiscard]] std::string Describe(const BarResult& result);

}  // namespace attune::sweep
