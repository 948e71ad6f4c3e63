// A small language to choose rows of the history, compiled to SQL with bound values.
//
//   reward > 0.01 and decider = kmeans and not (ack in (rejected, expired) or created < -7d)
//
//   expression  = term { "or" term }         term = factor { "and" factor }
//   factor      = "not" factor | "(" expression ")" | comparison
//   comparison  = FIELD ( = | != | < | <= | > | >= ) value
//               | FIELD [ "not" ] "in" "(" value { "," value } ")"
//               | FIELD [ "not" ] "like" value         % is any text, _ one character
//               | FIELD "is" [ "not" ] "null"
//
// Values are numbers, times (2026-11-01, 2026-11-01T12:00, UTC, or an age such as -2h: s, m, h, d,
// w before now) or texts, in quotes where they hold more than letters, digits and _ . : + -.
// Keywords are understood in any case. As in SQL, a comparison with a value that is not there
// (null) is neither true nor false, nor is its `not`: such rows are chosen by `is null` alone.
#pragma once

#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace attune {

enum class FieldKind {
  kNumber,
  kText,
  kTime,  // Unix seconds
  kWord,  // one of a few words, kept as its index
};

struct Field {
  std::string_view name;
  std::string_view sql;  // an expression over the listing's tables
  FieldKind kind = FieldKind::kNumber;
  std::span<const std::string_view> words = {};  // of kWord
  bool can_be_null = false;
};

using SqlValue = std::variant<std::int64_t, double, std::string>;

// `sql` has a ? for each of `values`, in their order.
struct Condition {
  std::string sql;
  std::vector<SqlValue> values;
};

// What cannot be understood; what() says the column (from 1), what is there and what was meant.
class FilterError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// `now` is what ages count from, Unix seconds. Throws FilterError. An empty text chooses all rows.
[[nodiscard]] Condition CompileFilter(std::string_view text, std::span<const Field> fields,
                                      double now);

// The field of the name, for sorting and grouping. Throws FilterError, naming the nearest.
[[nodiscard]] const Field& FindField(std::string_view name, std::span<const Field> fields);

// Of `known`, the word nearest to `word` by edit distance, if it is near; else empty.
[[nodiscard]] std::string Nearest(std::string_view word, const std::vector<std::string>& known);

}  // namespace attune
