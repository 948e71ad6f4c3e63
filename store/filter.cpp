// Reads filters by recursive descent.
#include "store/filter.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <ctime>
#include <numeric>
#include <optional>
#include <utility>

namespace attune {
namespace {

constexpr std::size_t kLongest = 16'384;  // bytes
constexpr int kDeepest = 100;             // parentheses and nots in each other

enum class TokenKind { kWord, kText, kSign, kEnd };

struct Token {
  TokenKind kind = TokenKind::kEnd;
  std::string text;
  std::size_t column = 1;
};

bool IsWordByte(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '.' || c == ':' ||
         c == '+' || c == '-';
}

std::string Lower(std::string_view text) {
  std::string lower(text);
  std::ranges::transform(lower, lower.begin(),
                         [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return lower;
}

[[noreturn]] void Fail(std::size_t column, const std::string& what) {
  throw FilterError(fmt::format("column {}: {}", column, what));
}

std::vector<Token> Tokens(std::string_view text) {
  if (text.size() > kLongest) Fail(kLongest, fmt::format("longer than {} bytes", kLongest));
  std::vector<Token> tokens;
  for (std::size_t at = 0; at < text.size();) {
    const char c = text[at];
    const std::size_t column = at + 1;
    if (std::isspace(static_cast<unsigned char>(c)) != 0) {
      ++at;
    } else if (c == '\'' || c == '"') {
      std::string content;
      for (++at;; ++at) {
        if (at >= text.size())
          Fail(column, fmt::format("the text is not closed: put a {} behind it", c));
        if (text[at] != c) {
          content += text[at];
        } else if (at + 1 < text.size() && text[at + 1] == c) {
          content += c;  // doubled: itself
          ++at;
        } else {
          break;
        }
      }
      ++at;
      if (content.find('\0') != std::string::npos) Fail(column, "a text cannot hold a zero byte");
      tokens.push_back({TokenKind::kText, std::move(content), column});
    } else if (IsWordByte(c)) {
      std::size_t end = at;
      while (end < text.size() && IsWordByte(text[end])) ++end;
      tokens.push_back({TokenKind::kWord, std::string(text.substr(at, end - at)), column});
      at = end;
    } else {
      static constexpr std::string_view kSigns[] = {"==", "!=", "<>", "<=", ">=", "=",
                                                    "<",  ">",  "(",  ")",  ","};
      const auto* sign = std::ranges::find_if(
          kSigns, [&](std::string_view s) { return text.substr(at).starts_with(s); });
      if (sign == std::end(kSigns)) {
        const auto byte = static_cast<unsigned char>(c);
        Fail(column, byte >= 0x20 && byte < 0x7f
                         ? fmt::format("'{}' means nothing here; put texts in quotes", c)
                         : "a character that means nothing here; put texts in quotes");
      }
      tokens.push_back({TokenKind::kSign, std::string(*sign), column});
      at += sign->size();
    }
  }
  tokens.push_back({TokenKind::kEnd, "", text.size() + 1});
  return tokens;
}

std::optional<double> Number(std::string_view text) {
  if (text.starts_with('+')) text.remove_prefix(1);
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(number)) {
    return std::nullopt;
  }
  return number;
}

// A date, a date with a time, an age, or Unix seconds.
std::optional<double> Time(const std::string& text, double now) {
  if (text == "now") return now;
  if (text.starts_with('-') && text.size() > 2) {
    static constexpr std::pair<char, double> kUnits[] = {
        {'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}, {'w', 604800}};
    const auto* unit =
        std::ranges::find(kUnits, text.back(), [](const auto& pair) { return pair.first; });
    const auto age = Number(std::string_view(text).substr(1, text.size() - 2));
    if (unit != std::end(kUnits) && age && *age >= 0) return now - *age * unit->second;
  }
  for (const char* form :
       {"%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"}) {
    std::tm time{};
    const char* end = strptime(text.c_str(), form, &time);
    if (end == nullptr || *end != '\0') continue;
    const std::tm asked = time;
    const std::time_t seconds = timegm(&time);
    // timegm carries a 31st of June on into July.
    if (time.tm_mday == asked.tm_mday && time.tm_mon == asked.tm_mon) {
      return static_cast<double>(seconds);
    }
  }
  return Number(text);
}

class Parser {
 public:
  Parser(std::string_view text, std::span<const Field> fields, double now)
      : tokens_(Tokens(text)), fields_(fields), now_(now) {}

  Condition Parse() {
    if (Here().kind == TokenKind::kEnd) return {"1", {}};
    Expression();
    if (Here().kind != TokenKind::kEnd) {
      Fail(Here().column,
           fmt::format("'{}' is one too many; put and or or between comparisons", Here().text));
    }
    return std::move(condition_);
  }

 private:
  [[nodiscard]] const Token& Here() const { return tokens_[at_]; }
  [[nodiscard]] std::string Found() const {
    return Here().kind == TokenKind::kEnd ? "the end" : "'" + Here().text + "'";
  }
  bool TakeKeyword(std::string_view keyword) {
    if (Here().kind != TokenKind::kWord || Lower(Here().text) != keyword) return false;
    ++at_;
    return true;
  }
  bool TakeSign(std::string_view sign) {
    if (Here().kind != TokenKind::kSign || Here().text != sign) return false;
    ++at_;
    return true;
  }
  void Expect(std::string_view sign) {
    if (!TakeSign(sign)) {
      Fail(Here().column, fmt::format("'{}' is missing; there is {}", sign, Found()));
    }
  }

  void Expression() {
    condition_.sql += "(";
    Term();
    while (TakeKeyword("or")) {
      condition_.sql += " OR ";
      Term();
    }
    condition_.sql += ")";
  }
  void Term() {
    Factor();
    while (TakeKeyword("and")) {
      condition_.sql += " AND ";
      Factor();
    }
  }
  void Factor() {
    if (++depth_ > kDeepest) Fail(Here().column, fmt::format("nested deeper than {}", kDeepest));
    if (TakeKeyword("not")) {
      condition_.sql += "NOT ";
      Factor();
    } else if (TakeSign("(")) {
      Expression();
      Expect(")");
    } else {
      Comparison();
    }
    --depth_;
  }

  void Comparison() {
    if (Here().kind != TokenKind::kWord) {
      Fail(Here().column, fmt::format("a field is missing; there is {}", Found()));
    }
    const Token name = Here();
    ++at_;
    const Field* field = nullptr;
    try {
      field = &FindField(name.text, fields_);
    } catch (const FilterError& error) {
      Fail(name.column, error.what());
    }
    if (TakeKeyword("is")) {
      const bool negated = TakeKeyword("not");
      if (!TakeKeyword("null")) {
        Fail(Here().column, fmt::format("'null' is missing; there is {}", Found()));
      }
      condition_.sql += fmt::format("({}) IS {}NULL", field->sql, negated ? "NOT " : "");
      return;
    }
    const bool negated = TakeKeyword("not");
    if (TakeKeyword("in")) {
      condition_.sql += fmt::format("({}) {}IN (", field->sql, negated ? "NOT " : "");
      Expect("(");
      do {
        if (condition_.sql.back() != '(') condition_.sql += ", ";
        Value(*field);
      } while (TakeSign(","));
      Expect(")");
      condition_.sql += ")";
      return;
    }
    if (TakeKeyword("like")) {
      if (field->kind != FieldKind::kText) {
        Fail(Here().column, fmt::format("like is for texts, and {} is none", field->name));
      }
      condition_.sql += fmt::format("({}) {}LIKE ", field->sql, negated ? "NOT " : "");
      Value(*field);
      return;
    }
    if (negated) Fail(Here().column, fmt::format("in or like is missing; there is {}", Found()));
    static constexpr std::pair<std::string_view, std::string_view> kOperators[] = {
        {"=", "="}, {"==", "="},  {"!=", "<>"}, {"<>", "<>"},
        {"<", "<"}, {"<=", "<="}, {">", ">"},   {">=", ">="}};
    const auto* sign = Here().kind == TokenKind::kSign
                           ? std::ranges::find(kOperators, std::string_view(Here().text),
                                               [](const auto& pair) { return pair.first; })
                           : std::end(kOperators);
    if (sign == std::end(kOperators)) {
      Fail(
          Here().column,
          fmt::format("a comparison is missing behind {} (=, !=, <, <=, >, >=, in, like, is null); "
                      "there is {}",
                      field->name, Found()));
    }
    if (field->kind == FieldKind::kWord && sign->second != "=" && sign->second != "<>") {
      Fail(Here().column,
           fmt::format("{} has words, which have no order; use =, != or in", field->name));
    }
    ++at_;
    condition_.sql += fmt::format("({}) {} ", field->sql, sign->second);
    Value(*field);
  }

  // A value that the field can have, bound.
  void Value(const Field& field) {
    const Token token = Here();
    if (token.kind != TokenKind::kWord && token.kind != TokenKind::kText) {
      Fail(token.column,
           fmt::format("a value for {} is missing; there is {}", field.name, Found()));
    }
    ++at_;
    condition_.sql += "?";
    switch (field.kind) {
      case FieldKind::kText:
        condition_.values.emplace_back(token.text);
        return;
      case FieldKind::kNumber:
        if (const auto number = Number(token.text)) {
          // Whole numbers as such: numbers of jobs and trials are compared exactly.
          std::int64_t whole = 0;
          const auto [end, error] =
              std::from_chars(token.text.data(), token.text.data() + token.text.size(), whole);
          if (error == std::errc() && end == token.text.data() + token.text.size()) {
            condition_.values.emplace_back(whole);
          } else {
            condition_.values.emplace_back(*number);
          }
          return;
        }
        Fail(token.column,
             fmt::format("'{}' is no number, and {} has numbers", token.text, field.name));
      case FieldKind::kTime:
        if (const auto time = Time(token.text, now_)) {
          condition_.values.emplace_back(*time);
          return;
        }
        Fail(token.column,
             fmt::format("'{}' is no time; give 2026-11-01, 2026-11-01T12:00 (UTC) or an age such "
                         "as -2h, -7d",
                         token.text));
      case FieldKind::kWord:
        break;
    }
    const auto word = std::ranges::find(field.words, token.text);
    if (word == field.words.end()) {
      const std::string nearest = Nearest(token.text, {field.words.begin(), field.words.end()});
      Fail(token.column, fmt::format("{} is never '{}'; {}it is one of {}", field.name, token.text,
                                     nearest.empty() ? "" : "did you mean " + nearest + "? ",
                                     fmt::join(field.words, ", ")));
    }
    condition_.values.emplace_back(static_cast<std::int64_t>(word - field.words.begin()));
  }

  std::vector<Token> tokens_;
  std::span<const Field> fields_;
  double now_;
  std::size_t at_ = 0;
  int depth_ = 0;
  Condition condition_;
};

// Levenshtein's distance.
std::size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row.back();
}

}  // namespace

Condition CompileFilter(std::string_view text, std::span<const Field> fields, double now) {
  return Parser(text, fields, now).Parse();
}

const Field& FindField(std::string_view name, std::span<const Field> fields) {
  const auto field = std::ranges::find(fields, name, &Field::name);
  if (field != fields.end()) return *field;
  std::vector<std::string> names;
  for (const Field& known : fields) names.emplace_back(known.name);
  const std::string nearest = Nearest(name, names);
  throw FilterError(fmt::format("there is no field '{}'; {}", name,
                                nearest.empty()
                                    ? fmt::format("there are {}", fmt::join(names, ", "))
                                    : "did you mean " + nearest + "?"));
}

std::string Nearest(std::string_view word, const std::vector<std::string>& known) {
  std::string nearest;
  std::size_t least = word.size() / 3 + 2;  // farther away it is another word
  for (const std::string& candidate : known) {
    const std::size_t distance = EditDistance(word.substr(0, 64), candidate);
    if (distance < least) {
      least = distance;
      nearest = candidate;
    }
  }
  return nearest;
}

}  // namespace attune
