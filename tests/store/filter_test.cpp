// The filter language: against a naive evaluation in three-valued logic, against garbage, and the
// words of its errors.
#include "store/filter.h"

#include <sqlite3.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <functional>
#include <memory>
#include <optional>
#include <random>

namespace attune {
namespace {

using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;

constexpr std::array<std::string_view, 3> kColours = {"red", "green", "blue"};
constexpr std::array kFields = {
    Field{"loss", "loss", FieldKind::kNumber, {}, true},
    Field{"job", "job", FieldKind::kNumber},
    Field{"name", "name", FieldKind::kText, {}, true},
    Field{"colour", "colour", FieldKind::kWord, kColours},
    Field{"created", "created", FieldKind::kTime, {}, true},
};
constexpr double kNow = 1'000'000;

struct Row {
  std::optional<double> loss;
  std::int64_t job = 0;
  std::optional<std::string> name;
  std::int64_t colour = 0;
  std::optional<double> created;
};

// True, false or unknown.
using Truth = std::optional<bool>;
Truth Not(Truth a) { return a ? Truth(!*a) : std::nullopt; }
Truth And(Truth a, Truth b) {
  if ((a && !*a) || (b && !*b)) return false;
  return a && b ? Truth(true) : std::nullopt;
}
Truth Or(Truth a, Truth b) { return Not(And(Not(a), Not(b))); }

// A filter as text, and what it means.
struct Generated {
  std::string text;
  std::function<Truth(const Row&)> truth;
};

// SQL's LIKE for the letters a and b.
bool Like(std::string_view text, std::string_view pattern) {
  if (pattern.empty()) return text.empty();
  if (pattern[0] == '%') {
    return Like(text, pattern.substr(1)) || (!text.empty() && Like(text.substr(1), pattern));
  }
  return !text.empty() && (pattern[0] == '_' || pattern[0] == text[0]) &&
         Like(text.substr(1), pattern.substr(1));
}

class Generator {
 public:
  explicit Generator(std::uint64_t seed) : random_(seed) {}

  std::size_t Below(std::size_t end) { return random_() % end; }

  Row MakeRow() {
    Row row;
    if (Below(4) != 0) row.loss = static_cast<double>(Below(5)) / 2;
    row.job = static_cast<std::int64_t>(Below(4));
    if (Below(4) != 0) row.name = Name();
    row.colour = static_cast<std::int64_t>(Below(3));
    if (Below(4) != 0) row.created = kNow - 3600.0 * static_cast<double>(Below(5));
    return row;
  }

  Generated Make(int depth) {
    switch (depth == 0 ? 9 : Below(10)) {
      case 0:
      case 1: {
        const Generated a = Make(depth - 1);
        const Generated b = Make(depth - 1);
        return {"(" + a.text + (Below(2) == 0 ? " and " : " AND ") + b.text + ")",
                [=](const Row& row) { return And(a.truth(row), b.truth(row)); }};
      }
      case 2:
      case 3: {
        const Generated a = Make(depth - 1);
        const Generated b = Make(depth - 1);
        return {"(" + a.text + " or " + b.text + ")",
                [=](const Row& row) { return Or(a.truth(row), b.truth(row)); }};
      }
      case 4: {
        const Generated a = Make(depth - 1);
        return {"not " + a.text, [=](const Row& row) { return Not(a.truth(row)); }};
      }
      default:
        return Leaf();
    }
  }

 private:
  std::string Name() {
    std::string name;
    for (std::size_t i = Below(4); i > 0; --i) name += Below(2) == 0 ? 'a' : 'b';
    return name;
  }

  template <class T>
  Generated Compare(const std::string& field, const std::string& literal, T value,
                    std::function<std::optional<T>(const Row&)> of) {
    static constexpr std::array<const char*, 6> kSigns = {"=", "!=", "<", "<=", ">", ">="};
    const std::size_t sign = Below(6);
    return {field + " " + kSigns[sign] + " " + literal, [=](const Row& row) -> Truth {
              const auto own = of(row);
              if (!own) return std::nullopt;
              switch (sign) {
                case 0:
                  return *own == value;
                case 1:
                  return *own != value;
                case 2:
                  return *own < value;
                case 3:
                  return *own <= value;
                case 4:
                  return *own > value;
                default:
                  return *own >= value;
              }
            }};
  }

  Generated Leaf() {
    const bool negated = Below(2) == 0;
    const auto maybe = [negated](Truth truth) { return negated ? Not(truth) : truth; };
    const std::string word = negated ? "not " : "";
    switch (Below(8)) {
      case 0: {
        const double value = static_cast<double>(Below(5)) / 2;
        return Compare<double>("loss", std::to_string(value), value,
                               [](const Row& row) { return row.loss; });
      }
      case 1: {
        const auto value = static_cast<std::int64_t>(Below(4));
        return Compare<std::int64_t>("job", std::to_string(value), value,
                                     [](const Row& row) { return std::optional(row.job); });
      }
      case 2: {
        const std::string value = Name();
        return Compare<std::string>("name", "'" + value + "'", value,
                                    [](const Row& row) { return row.name; });
      }
      case 3: {
        const std::size_t hours = Below(5);
        return Compare<double>("created", "-" + std::to_string(hours) + "h",
                               kNow - 3600.0 * static_cast<double>(hours),
                               [](const Row& row) { return row.created; });
      }
      case 4: {
        const std::size_t a = Below(3);
        const std::size_t b = Below(3);
        return {"colour " + word + "in (" + std::string(kColours[a]) + ", '" +
                    std::string(kColours[b]) + "')",
                [=](const Row& row) {
                  const auto own = static_cast<std::size_t>(row.colour);
                  return maybe(own == a || own == b);
                }};
      }
      case 5: {
        std::string pattern = Name() + (Below(2) == 0 ? "%" : "_") + Name();
        return {"name " + word + "like \"" + pattern + "\"", [=](const Row& row) -> Truth {
                  if (!row.name) return std::nullopt;
                  return maybe(Like(*row.name, pattern));
                }};
      }
      case 6: {
        const double a = static_cast<double>(Below(5)) / 2;
        return {"loss " + word + "in (" + std::to_string(a) + ", 1e9)",
                [=](const Row& row) -> Truth {
                  if (!row.loss) return std::nullopt;
                  return maybe(*row.loss == a);
                }};
      }
      default: {
        return {"name is " + word + "null",
                [=](const Row& row) { return maybe(!row.name.has_value()); }};
      }
    }
  }

  std::mt19937_64 random_;
};

// A table of rows in memory.
class Rows {
 public:
  explicit Rows(const std::vector<Row>& rows) {
    sqlite3* database = nullptr;
    REQUIRE(sqlite3_open(":memory:", &database) == SQLITE_OK);
    database_.reset(database);
    Run("CREATE TABLE t (loss REAL, job INTEGER, name TEXT, colour INTEGER, created REAL)", {});
    for (const Row& row : rows) {
      const auto number = [](const auto& value) { return value ? std::to_string(*value) : "NULL"; };
      Run("INSERT INTO t VALUES (" + number(row.loss) + ", " + std::to_string(row.job) + ", " +
              (row.name ? "'" + *row.name + "'" : "NULL") + ", " + std::to_string(row.colour) +
              ", " + number(row.created) + ")",
          {});
    }
  }
  // The numbers of the rows that the condition chooses, from 0.
  std::vector<std::int64_t> Chosen(const Condition& condition) {
    return Run("SELECT rowid - 1 FROM t WHERE " + condition.sql + " ORDER BY 1", condition.values);
  }

 private:
  struct Close {
    void operator()(sqlite3* database) const { sqlite3_close(database); }
  };
  std::vector<std::int64_t> Run(const std::string& sql, const std::vector<SqlValue>& values) {
    sqlite3_stmt* statement = nullptr;
    INFO(sql);
    REQUIRE(sqlite3_prepare_v2(database_.get(), sql.c_str(), -1, &statement, nullptr) == SQLITE_OK);
    REQUIRE(static_cast<std::size_t>(sqlite3_bind_parameter_count(statement)) == values.size());
    int index = 0;
    for (const SqlValue& value : values) {
      ++index;
      if (const auto* whole = std::get_if<std::int64_t>(&value)) {
        sqlite3_bind_int64(statement, index, *whole);
      } else if (const auto* real = std::get_if<double>(&value)) {
        sqlite3_bind_double(statement, index, *real);
      } else {
        sqlite3_bind_text(statement, index, std::get<std::string>(value).c_str(), -1,
                          SQLITE_TRANSIENT);
      }
    }
    std::vector<std::int64_t> found;
    while (sqlite3_step(statement) == SQLITE_ROW)
      found.push_back(sqlite3_column_int64(statement, 0));
    sqlite3_finalize(statement);
    return found;
  }
  std::unique_ptr<sqlite3, Close> database_;
};

TEST_CASE("random filters choose the rows that a naive evaluation chooses") {
  Generator generator(20261123);
  std::vector<Row> rows;
  for (int i = 0; i < 60; ++i) rows.push_back(generator.MakeRow());
  Rows table(rows);
  for (int round = 0; round < 4000; ++round) {
    const Generated filter = generator.Make(4);
    INFO(filter.text);
    std::vector<std::int64_t> expected;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (filter.truth(rows[i]).value_or(false)) expected.push_back(static_cast<std::int64_t>(i));
    }
    REQUIRE(table.Chosen(CompileFilter(filter.text, kFields, kNow)) == expected);
  }
}

TEST_CASE("and binds closer than or, and not closer than both") {
  std::vector<Row> rows(8);
  for (std::size_t i = 0; i < 8; ++i) {
    rows[i].job = (i & 4U) != 0 ? 1 : 0;
    rows[i].colour = (i & 2U) != 0 ? 1 : 0;
    rows[i].loss = (i & 1U) != 0 ? 1 : 0;
  }
  Rows table(rows);
  const auto chosen = [&](const char* text) {
    return table.Chosen(CompileFilter(text, kFields, kNow));
  };
  CHECK(chosen("job = 1 or colour = green and loss = 1") ==
        std::vector<std::int64_t>{3, 4, 5, 6, 7});
  CHECK(chosen("(job = 1 or colour = green) and loss = 1") == std::vector<std::int64_t>{3, 5, 7});
  CHECK(chosen("not job = 1 and loss = 1") == std::vector<std::int64_t>{1, 3});
  CHECK(chosen("").size() == 8);
}

TEST_CASE("values are bound and never pasted") {
  const Condition condition = CompileFilter("name = 'x'' OR 1=1 --' and job = 7", kFields, kNow);
  CHECK(condition.sql == "((name) = ? AND (job) = ?)");
  CHECK(std::get<std::string>(condition.values[0]) == "x' OR 1=1 --");
  CHECK(std::get<std::int64_t>(condition.values[1]) == 7);
}

TEST_CASE("times are dates in UTC, ages, or Unix seconds") {
  const auto time = [](const std::string& text) {
    return std::get<double>(CompileFilter("created > " + text, kFields, kNow).values[0]);
  };
  CHECK(time("1970-01-02") == 86400);
  CHECK(time("1970-01-01T01:30") == 5400);
  CHECK(time("'1970-01-01T00:00:05Z'") == 5);
  CHECK(time("2024-02-29") == 1709164800);
  CHECK(time("-90s") == kNow - 90);
  CHECK(time("-1.5h") == kNow - 5400);
  CHECK(time("-2w") == kNow - 14 * 86400);
  CHECK(time("now") == kNow);
  CHECK(time("12.5") == 12.5);
}

TEST_CASE("an error says the column, what is there and what was meant") {
  const auto fault = [](const std::string& text) -> std::string {
    try {
      static_cast<void>(CompileFilter(text, kFields, kNow));
    } catch (const FilterError& error) {
      return error.what();
    }
    return "accepted";
  };
  CHECK(fault("los > 1") == "column 1: there is no field 'los'; did you mean loss?");
  CHECK_THAT(fault("job = 1 and zzzzzzzz = 2"),
             StartsWith("column 13: there is no field 'zzzzzzzz'; there are loss, job"));
  CHECK_THAT(fault("colour = gren"), StartsWith("column 10: colour is never 'gren'; did you mean "
                                                "green?"));
  CHECK_THAT(fault("colour > red"), StartsWith("column 8: colour has words, which have no order"));
  CHECK(fault("loss > much") == "column 8: 'much' is no number, and loss has numbers");
  CHECK_THAT(fault("loss"), StartsWith("column 5: a comparison is missing behind loss"));
  CHECK_THAT(fault("loss >"),
             StartsWith("column 7: a value for loss is missing; there is the end"));
  CHECK_THAT(fault("loss > 1 job = 2"), StartsWith("column 10: 'job' is one too many"));
  CHECK_THAT(fault("(loss > 1"), StartsWith("column 10: ')' is missing"));
  CHECK_THAT(fault("job in 1"), StartsWith("column 8: '(' is missing; there is '1'"));
  CHECK_THAT(fault("name = 'abc"), StartsWith("column 8: the text is not closed"));
  CHECK_THAT(fault("job like 'x'"), StartsWith("column 10: like is for texts"));
  CHECK_THAT(fault("job is 3"), StartsWith("column 8: 'null' is missing"));
  CHECK_THAT(fault("job & 3"), StartsWith("column 5: '&' means nothing here"));
  CHECK_THAT(fault("created > 2026-02-30"), StartsWith("column 11: '2026-02-30' is no time"));
  CHECK_THAT(fault("loss = nan"), Contains("is no number"));
  CHECK_THAT(fault(std::string(300, '(')), Contains("nested deeper than 100"));
  CHECK_THAT(fault(std::string(20000, 'x')), Contains("longer than"));
}

TEST_CASE("garbage is accepted or refused with a column, and what is accepted SQLite accepts") {
  std::mt19937_64 random(7);
  Generator generator(8);
  Rows table({Row{}});
  const std::string alphabet =
      "lossjobname()=<>!',\"% \t\n-_.0123456789andornotinlikeisnull\x01\xff";
  for (int round = 0; round < 20000; ++round) {
    std::string text = round % 2 == 0 ? generator.Make(3).text : "";
    const std::size_t edits = 1 + random() % (text.empty() ? 40 : 4);
    for (std::size_t edit = 0; edit < edits; ++edit) {
      const std::size_t at = text.empty() ? 0 : random() % (text.size() + 1);
      if (random() % 3 == 0 && at < text.size()) {
        text.erase(at, 1 + random() % 3);
      } else {
        text.insert(at, 1, alphabet[random() % alphabet.size()]);
      }
    }
    INFO(text);
    try {
      static_cast<void>(table.Chosen(CompileFilter(text, kFields, kNow)));
    } catch (const FilterError& error) {
      REQUIRE_THAT(error.what(), StartsWith("column "));
    }
  }
}

}  // namespace
}  // namespace attune
