// Compiles questions to SQL and runs them.
#include "store/query.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <optional>
#include <utility>

#include "store/sqlite.h"

namespace attune {
namespace {

using sqlite::Database;

constexpr std::size_t kMostRows = 1'000'000'000;  // of a page

constexpr std::array<std::string_view, 4> kOutcomes = {"running", "finished", "failed", "lost"};
constexpr std::array<std::string_view, 2> kBudgetKinds = {"compute", "steps"};
constexpr std::array<std::string_view, 5> kAcks = {"none", "pending", "applied", "rejected",
                                                   "expired"};
constexpr std::array<std::string_view, 4> kAnomalyKinds = {"saturated", "diffuse", "dormant",
                                                           "drifting"};

// What is listed is what stands first, up to the count in kListings; the rest can be asked for.
constexpr std::array kJobFields = {
    Field{"job", "jobs.id"},
    Field{"name", "jobs.name", FieldKind::kText},
    Field{"outcome", "jobs.outcome", FieldKind::kWord, kOutcomes},
    Field{"started", "jobs.started", FieldKind::kTime},
    Field{"steps", "jobs.steps"},
    Field{"compute_seconds", "jobs.compute_seconds"},
    Field{"loss", "jobs.loss", FieldKind::kNumber, {}, true},
    Field{"validation_loss", "jobs.validation_loss", FieldKind::kNumber, {}, true},
    Field{"trials", "(SELECT count(*) FROM trials WHERE trials.job = jobs.id)"},
    Field{"sites", "(SELECT count(*) FROM sites WHERE sites.job = jobs.id)"},
    Field{"heads", "(SELECT sum(heads) FROM sites WHERE sites.job = jobs.id)"},
    Field{"seed", "jobs.seed"},
    Field{"policy", "jobs.policy", FieldKind::kText},
    Field{"key", "jobs.key", FieldKind::kText},
    Field{"ended", "nullif(jobs.ended, 0)", FieldKind::kTime, {}, true},
    Field{"budget_kind", "jobs.budget_kind", FieldKind::kWord, kBudgetKinds},
    Field{"budget_amount", "jobs.budget_amount"},
    Field{"learning_rate", "jobs.learning_rate"},
    Field{"optimizer", "jobs.optimizer", FieldKind::kText},
    Field{"fresh", "jobs.fresh"},
};
constexpr std::array kTrialFields = {
    Field{"trial", "id"},
    Field{"job", "job"},
    Field{"window", "window"},
    Field{"step", "step"},
    Field{"loss", "loss"},
    Field{"imbalance", "imbalance"},
    Field{"active_heads", "active_heads"},
    Field{"decider", "decider", FieldKind::kText},
    Field{"ack", "ack_status", FieldKind::kWord, kAcks},
    Field{"ack_step",
          "CASE ack_status WHEN 0 THEN NULL ELSE ack_step END",
          FieldKind::kNumber,
          {},
          true},
    Field{"reward", "reward", FieldKind::kNumber, {}, true},
    Field{"why",
          "CASE ack_why WHEN '' THEN why ELSE why || ' (' || ack_why "
          "|| ')' END",
          FieldKind::kText},
    Field{"created", "created", FieldKind::kTime},
    Field{"policy_version", "policy_version"},
    Field{"log_probability", "log_probability"},
};
constexpr std::array kAnomalyFields = {
    Field{"job", "anomalies.job"},
    Field{"site", "sites.name", FieldKind::kText},
    Field{"head", "anomalies.head"},
    Field{"kind", "anomalies.kind", FieldKind::kWord, kAnomalyKinds},
    Field{"first_step", "anomalies.first_step"},
    Field{"last_step", "anomalies.last_step"},
    Field{"severity", "anomalies.severity"},
};

struct Source {
  std::span<const Field> fields;
  std::size_t shown;  // of them, in a list
  std::string_view from;
  std::vector<std::string_view> id;  // numbers that make a row's place unique
  bool newest_first;
};

const Source& SourceOf(Listing listing) {
  static const std::array<Source, 3> kSources = {
      Source{kJobFields, 13, "jobs", {"jobs.id"}, true},
      Source{kTrialFields, 12, "trials", {"id"}, true},
      Source{kAnomalyFields,
             7,
             "anomalies JOIN sites ON sites.job = anomalies.job AND sites.position = "
             "anomalies.site",
             {"anomalies.job", "anomalies.position"},
             false}};
  return kSources[static_cast<std::size_t>(listing)];
}

// quantile(x, q): of the x that are not null, linearly between the two nearest (Hyndman and Fan's
// seventh).
struct Quantile {
  std::vector<double> values;
  double q = 0;
};

void QuantileStep(sqlite3_context* context, int /*count*/, sqlite3_value** arguments) {
  auto** quantile = static_cast<Quantile**>(sqlite3_aggregate_context(context, sizeof(Quantile*)));
  if (quantile == nullptr) return sqlite3_result_error_nomem(context);
  if (*quantile == nullptr) *quantile = std::make_unique<Quantile>().release();
  if (sqlite3_value_type(arguments[0]) != SQLITE_NULL) {
    (*quantile)->values.push_back(sqlite3_value_double(arguments[0]));
  }
  (*quantile)->q = sqlite3_value_double(arguments[1]);
}

void QuantileFinal(sqlite3_context* context) {
  auto** held = static_cast<Quantile**>(sqlite3_aggregate_context(context, 0));
  if (held == nullptr || *held == nullptr) return sqlite3_result_null(context);
  const std::unique_ptr<Quantile> quantile(*held);
  if (!(quantile->q >= 0 && quantile->q <= 1)) {
    return sqlite3_result_error(context, "quantile(x, q): q must be 0 to 1", -1);
  }
  auto& values = quantile->values;
  if (values.empty()) return sqlite3_result_null(context);
  const double place = quantile->q * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::ptrdiff_t>(place);
  std::ranges::nth_element(values, values.begin() + below);
  const double low = values[static_cast<std::size_t>(below)];
  double high = low;
  if (below + 1 < static_cast<std::ptrdiff_t>(values.size())) {
    high = *std::min_element(values.begin() + below + 1, values.end());
  }
  sqlite3_result_double(context, low + (place - static_cast<double>(below)) * (high - low));
}

// The pragmas that tell of the schema, which people's own SQL may read as tables.
constexpr std::array<std::string_view, 5> kTelling = {"table_info", "table_xinfo", "table_list",
                                                      "index_list", "index_info"};

// What people's own SQL may do: read.
int Authorize(void* /*data*/, int action, const char* first, const char* second,
              const char* /*database*/, const char* /*trigger*/) {
  switch (action) {
    case SQLITE_SELECT:
    case SQLITE_READ:
    case SQLITE_RECURSIVE:
      return SQLITE_OK;
    case SQLITE_FUNCTION:
      return second != nullptr && std::string_view(second) == "load_extension" ? SQLITE_DENY
                                                                               : SQLITE_OK;
    case SQLITE_PRAGMA:
      return std::ranges::find(kTelling, std::string_view(first)) != kTelling.end() ? SQLITE_OK
                                                                                    : SQLITE_DENY;
    default:
      return SQLITE_DENY;
  }
}

Cell ReadCell(sqlite3_stmt* statement, int column) {
  switch (sqlite3_column_type(statement, column)) {
    case SQLITE_INTEGER:
      return std::int64_t{sqlite3_column_int64(statement, column)};
    case SQLITE_FLOAT:
      return sqlite3_column_double(statement, column);
    case SQLITE_TEXT: {
      const unsigned char* text = sqlite3_column_text(statement, column);
      const auto size = static_cast<std::size_t>(sqlite3_column_bytes(statement, column));
      return std::string(reinterpret_cast<const char*>(text), size);
    }
    case SQLITE_BLOB: {
      constexpr int kShown = 32;
      const auto* bytes = static_cast<const unsigned char*>(sqlite3_column_blob(statement, column));
      const int size = sqlite3_column_bytes(statement, column);
      std::string text = "x'";
      for (int i = 0; i < std::min(size, kShown); ++i) text += fmt::format("{:02x}", bytes[i]);
      return text + (size > kShown ? fmt::format("…' ({} bytes)", size) : "'");
    }
    default:
      return std::monostate();
  }
}

using Statement = std::unique_ptr<sqlite3_stmt, sqlite::Finalize>;

void Bind(Database& database, sqlite3_stmt* statement, int index, const SqlValue& value) {
  database.Check(std::visit(
      [&](const auto& content) {
        using Content = std::decay_t<decltype(content)>;
        if constexpr (std::is_same_v<Content, std::int64_t>) {
          return sqlite3_bind_int64(statement, index, content);
        } else if constexpr (std::is_same_v<Content, double>) {
          return sqlite3_bind_double(statement, index, content);
        } else {
          return sqlite3_bind_text64(statement, index, content.data(), content.size(),
                                     SQLITE_TRANSIENT, SQLITE_UTF8);
        }
      },
      value));
}

struct SortKey {
  std::string sql;
  bool descending = false;
  bool can_be_null = false;
};

// "count", or a function and its field, such as p90(reward).
struct Aggregate {
  std::string name;
  std::string sql;
};

Aggregate ParseAggregate(const std::string& text, std::span<const Field> fields) {
  if (text == "count") return {text, "count(*)"};
  const std::size_t open = text.find('(');
  if (open == std::string::npos || text.back() != ')') {
    throw FilterError(fmt::format(
        "'{}': show count, or mean, min, max, sum or p0 to p100 of a field, as in p90(reward)",
        text));
  }
  const std::string function = text.substr(0, open);
  const Field& field = FindField(text.substr(open + 1, text.size() - open - 2), fields);
  if (field.kind == FieldKind::kText || field.kind == FieldKind::kWord) {
    throw FilterError(fmt::format("'{}': {} has no numbers", text, field.name));
  }
  if (function == "mean") return {text, fmt::format("avg({})", field.sql)};
  if (function == "min" || function == "max" || function == "sum") {
    return {text, fmt::format("{}({})", function, field.sql)};
  }
  int percent = -1;
  const char* end = function.data() + function.size();
  if (function.starts_with('p') && std::from_chars(function.data() + 1, end, percent).ptr == end &&
      percent >= 0 && percent <= 100) {
    return {text, fmt::format("quantile({}, {})", field.sql, percent / 100.0)};
  }
  throw FilterError(
      fmt::format("there is no function '{}'; use mean, min, max, sum or p0 to p100", function));
}

// A word's index or a time's seconds as people read it.
void Decode(const Field& field, Cell& cell) {
  if (field.kind == FieldKind::kWord && std::holds_alternative<std::int64_t>(cell)) {
    const auto index = static_cast<std::size_t>(std::get<std::int64_t>(cell));
    if (index < field.words.size()) cell = std::string(field.words[index]);
  } else if (field.kind == FieldKind::kTime && std::holds_alternative<double>(cell)) {
    const auto seconds = static_cast<std::time_t>(std::get<double>(cell));
    std::tm time{};
    std::array<char, 32> text{};
    gmtime_r(&seconds, &time);
    std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &time);
    cell = std::string(text.data());
  }
}

}  // namespace

struct History::Connection {
  explicit Connection(const std::filesystem::path& path) : database(path, SQLITE_OPEN_READONLY) {
    database.Script("PRAGMA busy_timeout = 5000; PRAGMA query_only = ON");
    database.Check(sqlite3_create_function_v2(
        database.Handle(), "quantile", 2, SQLITE_UTF8 | SQLITE_DETERMINISTIC | SQLITE_INNOCUOUS,
        nullptr, nullptr, QuantileStep, QuantileFinal, nullptr));
  }

  Statement Prepare(std::string_view sql) {
    sqlite3_stmt* statement = nullptr;
    database.Check(sqlite3_prepare_v3(database.Handle(), sql.data(), static_cast<int>(sql.size()),
                                      0, &statement, nullptr));
    return Statement(statement);
  }

  std::vector<std::vector<Cell>> Rows(sqlite3_stmt* statement) {
    std::vector<std::vector<Cell>> rows;
    const int columns = sqlite3_column_count(statement);
    while (true) {
      const int code = sqlite3_step(statement);
      if (code == SQLITE_DONE) return rows;
      if (code != SQLITE_ROW) database.Check(code);
      auto& row = rows.emplace_back();
      row.reserve(static_cast<std::size_t>(columns));
      for (int column = 0; column < columns; ++column) row.push_back(ReadCell(statement, column));
    }
  }

  std::vector<std::vector<Cell>> Run(const std::string& sql, const std::vector<SqlValue>& values) {
    const Statement statement = Prepare(sql);
    int index = 0;
    for (const SqlValue& value : values) Bind(database, statement.get(), ++index, value);
    return Rows(statement.get());
  }

  Database database;
};

History::History(const std::filesystem::path& path) {
  { const Store checked(path, Store::Mode::kReadOnly); }  // refuses what is not a store
  connection_ = std::make_unique<Connection>(path);
}

History::~History() = default;

std::span<const Field> Fields(Listing listing) { return SourceOf(listing).fields; }

namespace {

std::vector<SortKey> SortKeys(const Query& query, const Source& source) {
  std::vector<SortKey> keys;
  bool descending = source.newest_first;
  for (const std::string& text : query.sort) {
    descending = text.starts_with('-');
    const Field& field =
        FindField(std::string_view(text).substr(descending ? 1 : 0), source.fields);
    keys.push_back({std::string(field.sql), descending, field.can_be_null});
  }
  // What makes the order total goes the way of the last field.
  for (const std::string_view id : source.id) {
    const bool known = std::ranges::find(keys, id, &SortKey::sql) != keys.end();
    if (!known) keys.push_back({std::string(id), descending, false});
  }
  return keys;
}

// Adds the condition that a row stands behind the one whose sort values are `row`. The first key
// also stands alone where it can bound an index.
void AddBehind(const std::vector<SortKey>& keys, const std::vector<Cell>& row, Condition& where) {
  const auto bind = [&](const Cell& cell) {
    std::visit(
        [&](const auto& content) {
          if constexpr (!std::is_same_v<std::decay_t<decltype(content)>, std::monostate>) {
            where.values.emplace_back(content);
          }
        },
        cell);
  };
  const auto is_null = [](const Cell& cell) {
    return std::holds_alternative<std::monostate>(cell);
  };
  if (keys.size() > 1 && !is_null(row[0]) && !(keys[0].descending && keys[0].can_be_null)) {
    where.sql += fmt::format(" AND {} {} ?", keys[0].sql, keys[0].descending ? "<=" : ">=");
    bind(row[0]);
  }
  where.sql += " AND (";
  for (std::size_t depth = 0; depth < keys.size(); ++depth) {
    where.sql += depth == 0 ? "(" : " OR (";
    for (std::size_t k = 0; k < depth; ++k) {
      where.sql += keys[k].sql + (is_null(row[k]) ? " IS NULL AND " : " = ? AND ");
      bind(row[k]);
    }
    const SortKey& key = keys[depth];
    if (is_null(row[depth])) {
      // Null is below every value: behind it stands what has one, or, descending, nothing.
      where.sql += key.descending ? "0" : key.sql + " IS NOT NULL";
    } else {
      where.sql += fmt::format("({} {} ?", key.sql, key.descending ? "<" : ">");
      where.sql += key.descending && key.can_be_null ? " OR " + key.sql + " IS NULL)" : ")";
      bind(row[depth]);
    }
    where.sql += ")";
  }
  where.sql += ")";
}

}  // namespace

Page History::Select(const Query& query, double now) {
  const Source& source = SourceOf(query.listing);
  Condition where;
  try {
    where = CompileFilter(query.where, source.fields, now);
  } catch (const FilterError& error) {
    throw FilterError(fmt::format("--where, {}", error.what()));
  }
  if (query.job != 0) {
    where.sql += fmt::format(" AND {} = ?", FindField("job", source.fields).sql);
    where.values.emplace_back(static_cast<std::int64_t>(query.job));
  }
  Page page;
  if (!query.group_by.empty()) {
    std::string columns;
    std::vector<const Field*> groups;
    for (const std::string& name : query.group_by) {
      groups.push_back(&FindField(name, source.fields));
      columns += fmt::format("{}{}", columns.empty() ? "" : ", ", groups.back()->sql);
      page.columns.push_back(name);
    }
    const std::string group = columns;
    for (const std::string& text :
         query.show.empty() ? std::vector<std::string>{"count"} : query.show) {
      const Aggregate aggregate = ParseAggregate(text, source.fields);
      columns += ", " + aggregate.sql;
      page.columns.push_back(aggregate.name);
    }
    if (!query.after.empty()) throw FilterError("--after is for rows: groups have one page");
    std::string order;
    for (const std::string& text : query.sort) {
      const bool descending = text.starts_with('-');
      const auto column = std::ranges::find(page.columns, text.substr(descending ? 1 : 0));
      if (column == page.columns.end()) {
        throw FilterError(fmt::format("--sort '{}': groups are sorted by what they show, {}", text,
                                      fmt::join(page.columns, ", ")));
      }
      order += fmt::format("{}{}, ", column - page.columns.begin() + 1, descending ? " DESC" : "");
    }
    const std::size_t limit = std::min(query.limit, kMostRows);
    where.values.emplace_back(static_cast<std::int64_t>(limit) + 1);
    page.rows =
        connection_->Run(fmt::format("SELECT {} FROM {} WHERE {} GROUP BY {} ORDER BY {}{} LIMIT ?",
                                     columns, source.from, where.sql, group, order, group),
                         where.values);
    page.cut = page.rows.size() > limit;
    if (page.cut) page.rows.pop_back();
    for (auto& row : page.rows) {
      for (std::size_t column = 0; column < groups.size(); ++column) {
        Decode(*groups[column], row[column]);
      }
    }
    return page;
  }
  if (!query.show.empty()) throw FilterError("show is for groups: give --group-by too");

  const std::vector<SortKey> keys = SortKeys(query, source);
  std::string sort_columns;
  std::string order;
  for (const SortKey& key : keys) {
    sort_columns += (sort_columns.empty() ? "" : ", ") + key.sql;
    order +=
        fmt::format("{}{}{}", order.empty() ? "" : ", ", key.sql, key.descending ? " DESC" : "");
  }
  std::string ids;
  for (const std::string_view id : source.id) ids += fmt::format(", {}", id);
  if (!query.after.empty()) {
    std::vector<SqlValue> place;
    std::string match;
    std::size_t begin = 0;
    for (const std::string_view id : source.id) {
      const std::size_t end = std::min(query.after.find('/', begin), query.after.size());
      std::int64_t number = 0;
      const auto [rest, error] =
          std::from_chars(query.after.data() + begin, query.after.data() + end, number);
      if (begin > end || error != std::errc() || rest != query.after.data() + end) {
        throw FilterError(fmt::format("--after '{}': give what the page before said", query.after));
      }
      place.emplace_back(number);
      match += fmt::format("{}{} = ?", match.empty() ? "" : " AND ", id);
      begin = end + 1;
    }
    const bool by_id = std::ranges::equal(keys, source.id, {}, &SortKey::sql);
    std::vector<std::vector<Cell>> row;
    if (by_id) {
      auto& cells = row.emplace_back();
      for (const SqlValue& id : place) cells.emplace_back(std::get<std::int64_t>(id));
    } else {
      row = connection_->Run(
          fmt::format("SELECT {} FROM {} WHERE {}", sort_columns, source.from, match), place);
    }
    if (row.empty()) {
      throw FilterError(
          fmt::format("--after '{}': that row is not there any more; begin again", query.after));
    }
    AddBehind(keys, row[0], where);
  }
  std::string columns;
  for (const Field& field : source.fields.first(source.shown)) {
    columns += fmt::format("{}{}", columns.empty() ? "" : ", ", field.sql);
    page.columns.emplace_back(field.name);
  }
  // One more than asked for says whether there is a next page.
  where.values.emplace_back(static_cast<std::int64_t>(std::min(query.limit, kMostRows)) + 1);
  page.rows = connection_->Run(fmt::format("SELECT {}{} FROM {} WHERE {} ORDER BY {} LIMIT ?",
                                           columns, ids, source.from, where.sql, order),
                               where.values);
  const bool more = page.rows.size() > query.limit;
  if (more) page.rows.pop_back();
  if (more && !page.rows.empty()) {
    for (std::size_t i = 0; i < source.id.size(); ++i) {
      page.next += fmt::format("{}{}", i == 0 ? "" : "/",
                               std::get<std::int64_t>(page.rows.back()[source.shown + i]));
    }
  }
  for (auto& row : page.rows) {
    row.resize(source.shown);
    for (std::size_t column = 0; column < source.shown; ++column) {
      Decode(source.fields[column], row[column]);
    }
  }
  return page;
}

Page History::Sql(std::string_view text) {
  sqlite3* handle = connection_->database.Handle();
  // SQLite makes these tables when they are first named, which is no reading: not by people's SQL.
  for (const std::string_view pragma : kTelling) {
    connection_->database.Script(fmt::format("SELECT 1 FROM pragma_{} LIMIT 0", pragma));
  }
  sqlite3_set_authorizer(handle, Authorize, nullptr);
  sqlite3_stmt* raw = nullptr;
  const char* rest = nullptr;
  const int code =
      sqlite3_prepare_v3(handle, text.data(), static_cast<int>(text.size()), 0, &raw, &rest);
  const Statement statement(raw);
  if (code != SQLITE_OK) {
    const int offset = sqlite3_error_offset(handle);
    if ((code & 0xff) == SQLITE_AUTH) {
      throw FilterError("this only reads: give one SELECT");
    }
    if ((code & 0xff) == SQLITE_CORRUPT) connection_->database.Check(code);
    throw FilterError(offset >= 0 ? fmt::format("column {}: {}", offset + 1, sqlite3_errmsg(handle))
                                  : sqlite3_errmsg(handle));
  }
  if (!statement) throw FilterError("there is no statement; give one SELECT");
  const std::string_view behind = text.substr(static_cast<std::size_t>(rest - text.data()));
  if (const std::size_t more = behind.find_first_not_of(" \t\r\n;"); more != behind.npos) {
    throw FilterError(fmt::format("column {}: one statement at a time",
                                  static_cast<std::size_t>(rest - text.data()) + more + 1));
  }
  if (sqlite3_stmt_readonly(statement.get()) == 0) {
    throw FilterError("this only reads: give one SELECT");
  }
  Page page;
  for (int column = 0; column < sqlite3_column_count(statement.get()); ++column) {
    page.columns.emplace_back(sqlite3_column_name(statement.get(), column));
  }
  page.rows = connection_->Rows(statement.get());
  return page;
}

}  // namespace attune
