#include "agent/cli/table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace attune::cli {
namespace {

using nlohmann::json;

bool StartsCodePoint(char byte) { return (static_cast<unsigned char>(byte) & 0xC0U) != 0x80U; }

std::string ForPeople(const json& cell) {
  if (cell.is_null()) return "-";
  if (cell.is_string()) return Printable(cell.get<std::string>());
  if (cell.is_number_float()) return fmt::format("{:.4g}", cell.get<double>());
  return cell.dump();
}

std::string ForCsv(const json& cell) {
  if (cell.is_null()) return "";
  if (cell.is_number_float() && !std::isfinite(cell.get<double>())) return "";
  if (!cell.is_string()) return cell.dump();
  std::string text = cell.get<std::string>();
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char byte : text) {
    if (byte == '"') quoted += '"';
    quoted += byte;
  }
  return quoted + '"';
}

}  // namespace

std::string Printable(std::string_view text) {
  std::string printable(text);
  std::ranges::replace_if(
      printable, [](unsigned char byte) { return byte < 0x20U || byte == 0x7fU; }, ' ');
  for (std::size_t i = 0; i + 1 < printable.size(); ++i) {  // U+0080 to U+009F
    const auto second = static_cast<unsigned char>(printable[i + 1]);
    if (printable[i] == '\xc2' && second >= 0x80U && second < 0xa0U) {
      printable.replace(i, 2, "  ");
    }
  }
  return printable;
}

std::size_t DisplayWidth(std::string_view text) {
  return static_cast<std::size_t>(std::ranges::count_if(text, StartsCodePoint));
}

std::string Cut(std::string_view text, std::size_t width) {
  if (DisplayWidth(text) <= width) return std::string(text);
  if (width == 0) return "";
  std::size_t columns = 0;
  std::size_t end = 0;
  while (end < text.size()) {
    if (StartsCodePoint(text[end]) && ++columns == width) break;
    ++end;
  }
  return std::string(text.substr(0, end)) + "…";
}

std::string Table::Render(Format format, std::size_t width) const {
  if (format == Format::kTable) return RenderTable(width);
  if (format == Format::kJson || format == Format::kJsonLines) {
    json list = json::array();
    std::string lines;
    for (const auto& row : rows_) {
      json object;
      for (std::size_t c = 0; c < columns_.size(); ++c) object[columns_[c]] = row[c];
      if (format == Format::kJsonLines) {
        lines += object.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
      } else {
        list.push_back(std::move(object));
      }
    }
    return format == Format::kJsonLines
               ? lines
               : list.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
  }
  std::string text;
  const auto add_line = [&](const auto& cells, const auto& to_text) {
    for (std::size_t c = 0; c < cells.size(); ++c) {
      if (c > 0) text += ',';
      text += to_text(cells[c]);
    }
    text += "\r\n";
  };
  add_line(columns_, [](const std::string& name) { return ForCsv(name); });
  for (const auto& row : rows_) add_line(row, ForCsv);
  return text;
}

std::string Table::RenderTable(std::size_t width) const {
  std::vector<std::vector<std::string>> lines = {columns_};
  for (const auto& row : rows_) {
    std::vector<std::string> line;
    for (const json& cell : row) line.push_back(ForPeople(cell));
    lines.push_back(std::move(line));
  }
  std::vector<std::size_t> widths(columns_.size(), 0);
  for (const auto& line : lines) {
    for (std::size_t c = 0; c < line.size(); ++c) {
      widths[c] = std::max(widths[c], DisplayWidth(line[c]));
    }
  }
  // Columns of numbers are set to the right, whatever is missing in them.
  const auto is_numeric = [&](std::size_t column) {
    bool numbers = false;
    for (const auto& row : rows_) {
      if (row[column].is_string()) return false;
      numbers |= row[column].is_number();
    }
    return numbers;
  };
  std::vector<bool> right(columns_.size());
  for (std::size_t c = 0; c < columns_.size(); ++c) right[c] = is_numeric(c);
  std::string text;
  for (std::size_t l = 0; l < lines.size(); ++l) {
    std::string line;
    for (std::size_t c = 0; c < columns_.size(); ++c) {
      if (c > 0) line += "  ";
      const std::string padding(widths[c] - DisplayWidth(lines[l][c]), ' ');
      line += right[c] ? padding + lines[l][c] : lines[l][c] + padding;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += (width > 0 ? Cut(line, width) : line) + "\n";
  }
  return text;
}

}  // namespace attune::cli
