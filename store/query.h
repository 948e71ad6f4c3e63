// Questions to the history: pages of jobs, trials and anomalies, filtered, sorted and grouped, and
// SQL of one's own. Reads only.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "store/filter.h"
#include "store/store.h"

namespace attune {

enum class Listing { kJobs, kTrials, kAnomalies };

// The fields that filters, sorting and grouping know.
[[nodiscard]] std::span<const Field> Fields(Listing listing);

struct Query {
  Listing listing = Listing::kTrials;
  std::string where = {};  // filter.h; empty: all
  std::uint64_t job = 0;   // of this job only; 0: of all
  // Fields, with - before one for descending; empty: newest first. Of groups: columns that they
  // show; empty: the values of their fields.
  std::vector<std::string> sort = {};
  std::size_t limit = 50;  // rows
  // The row behind which the page begins, as Page::next has it; empty: the first page.
  std::string after = {};
  // Not empty: a row for each combination of these fields' values, in their order.
  std::vector<std::string> group_by = {};
  // What such a row shows: count, mean(F), min(F), max(F), sum(F), p0(F) to p100(F).
  std::vector<std::string> show = {};
};

using Cell = std::variant<std::monostate, std::int64_t, double, std::string>;  // null, …

struct Page {
  std::vector<std::string> columns;
  std::vector<std::vector<Cell>> rows;
  std::string next;  // to go on with; empty on the last page and for groups and SQL
  bool cut = false;  // there are more groups than the limit
};

// One connection that reads only, used by one thread at a time.
class History {
 public:
  // Throws StoreError as Store does for kReadOnly.
  explicit History(const std::filesystem::path& path);
  ~History();

  // Sorting is made total by the row's number, and null sorts below every value, so that pages one
  // after the other show every row once, also while rows are added behind them. `now` is what ages
  // in the filter count from, Unix seconds. Throws FilterError for what it cannot understand.
  [[nodiscard]] Page Select(const Query& query, double now);

  // One statement that reads: SELECT, WITH, VALUES, EXPLAIN. Beside SQLite's functions there is
  // quantile(x, q), linearly between values, q from 0 to 1. Blobs are shown as x'…', the first 32
  // bytes. Throws FilterError with the column of what SQLite objects to, StoreError for the rest.
  [[nodiscard]] Page Sql(std::string_view text);

 private:
  struct Connection;
  std::unique_ptr<Connection> connection_;
};

}  // namespace attune
