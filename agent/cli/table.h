// One list, in forms for people and for programs.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace attune::cli {

enum class Format { kTable, kJson, kJsonLines, kCsv };

// Rows of cells: null, number or text. Independent of the locale.
class Table {
 public:
  explicit Table(std::vector<std::string> columns) : columns_(std::move(columns)) {}

  // One cell for each column.
  void Add(std::vector<nlohmann::json> row) { rows_.push_back(std::move(row)); }
  [[nodiscard]] bool Empty() const { return rows_.empty(); }

  // kTable: aligned, reals to four digits, `width` columns of the terminal at most (0: any; longer
  // lines are cut). kJson: an array of objects. kJsonLines: an object a line. kCsv: RFC 4180 with a
  // heading.
  [[nodiscard]] std::string Render(Format format, std::size_t width = 0) const;

 private:
  [[nodiscard]] std::string RenderTable(std::size_t width) const;
  std::vector<std::string> columns_;
  std::vector<std::vector<nlohmann::json>> rows_;
};

// The text with control characters, which a terminal would obey, as spaces.
[[nodiscard]] std::string Printable(std::string_view text);
// Columns that the UTF-8 text takes in a terminal: its code points.
[[nodiscard]] std::size_t DisplayWidth(std::string_view text);
// The text cut to `width` columns, ending in … where something was cut.
[[nodiscard]] std::string Cut(std::string_view text, std::size_t width);

}  // namespace attune::cli
