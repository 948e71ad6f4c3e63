// Reads a sweep's file (TOML).
#include "agent/sweep/spec.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <toml++/toml.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cmath>
#include <set>
#include <span>

#include "agent/chain.h"
#include "agent/options.h"
#include "agent/sweep/figures.h"

namespace attune::sweep {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::size_t kMostRuns = 1'000'000;

// One table of the file, whose keys must all be asked for.
class Section {
 public:
  Section(const toml::table& table, std::string name, const fs::path& file)
      : table_(table), name_(std::move(name)), file_(file) {}

  [[noreturn]] void Fail(const toml::source_region& source, const std::string& what) const {
    throw SweepError(
        fmt::format("{}:{}:{}: {}", file_.string(), source.begin.line, source.begin.column, what));
  }
  [[noreturn]] void Fail(std::string_view key, const std::string& what) const {
    const toml::node* node = table_.get(key);
    Fail(node != nullptr ? node->source() : table_.source(),
         fmt::format("{}{}: {}", name_.empty() ? "" : name_ + ".", key, what));
  }

  const toml::node* Find(std::string_view key) {
    known_.emplace(key);
    return table_.get(key);
  }

  template <class T>
  void Read(std::string_view key, T& value) {
    const toml::node* node = Find(key);
    if (node == nullptr) return;
    if constexpr (std::is_same_v<T, bool>) {
      if (!node->is_boolean()) Fail(key, "give true or false");
      value = *node->value<bool>();
    } else if constexpr (std::is_same_v<T, double>) {
      if (!node->is_number()) Fail(key, "give a number");
      value = *node->value<double>();
      if (!std::isfinite(value)) Fail(key, "give a finite number");
    } else if constexpr (std::is_integral_v<T>) {
      if (!node->is_integer() || *node->value<std::int64_t>() < 0) {
        Fail(key, "give a whole number of at least 0");
      }
      value = static_cast<T>(*node->value<std::int64_t>());
    } else {
      if (!node->is_string()) Fail(key, "give a text in quotes");
      value = *node->value<std::string>();
    }
  }
  void Positive(std::string_view key, double& value) {
    Read(key, value);
    if (value < 0) Fail(key, "give a number of at least 0");
  }
  // One of `words`, as its index.
  std::size_t Choose(std::string_view key, std::span<const std::string_view> words,
                     std::size_t fallback) {
    std::string word;
    Read(key, word);
    if (table_.get(key) == nullptr) return fallback;
    const auto found = std::ranges::find(words, word);
    if (found == words.end()) {
      Fail(key, fmt::format("there is no '{}'; use {}", word, fmt::join(words, ", ")));
    }
    return static_cast<std::size_t>(found - words.begin());
  }
  // Bytes: a number, or a text such as 512M or 2G.
  void Bytes(std::string_view key, std::uint64_t& value) {
    const toml::node* node = Find(key);
    if (node == nullptr) return;
    if (node->is_integer()) {
      Read(key, value);
      return;
    }
    const std::string text = node->value_or<std::string>("");
    double number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    const std::string unit(end, text.data() + text.size());
    constexpr std::string_view kUnits = "KMGT";
    const std::size_t power = unit.size() == 1 ? kUnits.find(unit[0]) : std::string_view::npos;
    if (error != std::errc() || number < 0 || power == std::string_view::npos) {
      Fail(key, "give bytes, as a number or as a text like 512M or 2G");
    }
    value = static_cast<std::uint64_t>(std::ldexp(number, 10 * (static_cast<int>(power) + 1)));
  }
  std::vector<std::string> Words(std::string_view key) {
    std::vector<std::string> words;
    const toml::node* node = Find(key);
    if (node == nullptr) return words;
    if (!node->is_array()) Fail(key, "give a list of texts, one for each word");
    for (const toml::node& word : *node->as_array()) {
      if (word.is_string()) {
        words.push_back(*word.value<std::string>());
      } else {
        Fail(word.source(), fmt::format("{}: put every word in quotes", key));
      }
    }
    return words;
  }
  // The table by that name, empty if there is none.
  Section Table(std::string_view key) {
    static const toml::table kEmpty;
    const toml::node* node = Find(key);
    if (node != nullptr && !node->is_table()) Fail(key, fmt::format("make it a table: [{}]", key));
    return {node == nullptr ? kEmpty : *node->as_table(), std::string(key), file_};
  }
  // The tables of [[key]].
  std::vector<Section> Tables(std::string_view key) {
    std::vector<Section> tables;
    const toml::node* node = Find(key);
    if (node == nullptr) return tables;
    if (!node->is_array_of_tables()) Fail(key, fmt::format("make it tables: [[{}]]", key));
    for (const toml::node& table : *node->as_array()) {
      tables.emplace_back(*table.as_table(), std::string(key), file_);
    }
    return tables;
  }
  [[nodiscard]] const toml::table& Content() const { return table_; }

  // Throws for a key that nobody has asked for.
  void Finish() const {
    for (const auto& [key, node] : table_) {
      if (!known_.contains(key.str())) {
        Fail(key.source(),
             fmt::format("there is no key '{}'{}; use {}", key.str(),
                         name_.empty() ? "" : " in [" + name_ + "]", fmt::join(known_, ", ")));
      }
    }
  }

 private:
  const toml::table& table_;
  std::string name_;
  const fs::path& file_;
  std::set<std::string, std::less<>> known_;
};

bool IsName(std::string_view text) {
  return !text.empty() && std::ranges::all_of(text, [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '_' || c == '-' || c == '.';
  });
}

// A parameter's value: text, number or switch.
json Value(const Section& section, const toml::node& node) {
  if (node.is_string()) return *node.value<std::string>();
  if (node.is_boolean()) return *node.value<bool>();
  if (node.is_integer()) return *node.value<std::int64_t>();
  if (node.is_floating_point() && std::isfinite(*node.value<double>())) {
    return *node.value<double>();
  }
  section.Fail(node.source(), "a parameter's value is a text, a finite number, true or false");
}

bool IsPolicy(std::string_view name) { return name == kUntuned || Chain::Knows(name); }

void CheckParameter(const Section& section, const toml::node& at, const std::string& name,
                    const json& value, const Spec& spec) {
  if (name != "policy") return;
  if (!value.is_string() ||
      (!IsPolicy(value.get<std::string>()) && !spec.variants.contains(value.get<std::string>()))) {
    section.Fail(at.source(), fmt::format("there is no policy {}; use {}, untuned or a [variant]",
                                          value.dump(), fmt::join(kPolicyNames, ", ")));
  }
}

void CheckParameterName(const Section& section, const toml::key& key) {
  constexpr std::array<std::string_view, 4> kTaken = {"seed", "run", "directory", "twin"};
  const std::string name(key.str());
  if (!IsName(name)) {
    section.Fail(key.source(),
                 fmt::format("'{}': name a parameter by letters, digits, _ - .", name));
  }
  if (std::ranges::find(kTaken, name) != kTaken.end()) {
    section.Fail(key.source(), fmt::format("'{}' is attune's own; {}", name,
                                           name == "seed" ? "state seeds = [...] above the tables"
                                                          : "give it another name"));
  }
}

Parameter ReadParameter(Section& parameters, const toml::key& key, const toml::node& node,
                        const fs::path& file, const Spec& spec) {
  const std::string name(key.str());
  CheckParameterName(parameters, key);
  if (const toml::array* list = node.as_array()) {
    std::vector<json> values;
    for (const toml::node& value : *list) {
      values.push_back(Value(parameters, value));
      CheckParameter(parameters, value, name, values.back(), spec);
      if (std::ranges::count(values, values.back()) > 1) {
        parameters.Fail(value.source(),
                        fmt::format("{}: {} stands here twice", name, values.back().dump()));
      }
    }
    if (values.empty()) {
      parameters.Fail(node.source(), fmt::format("{}: the grid is empty; give it a value", name));
    }
    return {name, std::move(values)};
  }
  const toml::table* table = node.as_table();
  if (table == nullptr) {
    json value = Value(parameters, node);
    CheckParameter(parameters, node, name, value, spec);
    return {name, std::vector<json>{std::move(value)}};
  }
  constexpr std::array<std::pair<std::string_view, Scale>, 3> kScales = {
      {{"uniform", Scale::kUniform},
       {"log_uniform", Scale::kLogUniform},
       {"integers", Scale::kIntegers}}};
  Section section(*table, name, file);
  std::optional<Range> range;
  for (const auto& [word, scale] : kScales) {
    const toml::node* ends = section.Find(word);
    if (ends == nullptr) continue;
    const toml::array* pair = ends->as_array();
    if (pair == nullptr || pair->size() != 2 || !(*pair)[0].is_number() ||
        !(*pair)[1].is_number()) {
      section.Fail(word, "give its two ends, as in [0.1, 0.5]");
    }
    range = Range{scale, *(*pair)[0].value<double>(), *(*pair)[1].value<double>()};
    if (!std::isfinite(range->low) || !std::isfinite(range->high) || range->low >= range->high) {
      section.Fail(word, "the first end must be below the second");
    }
    if (scale == Scale::kLogUniform && range->low <= 0) {
      section.Fail(word, "a logarithm needs ends above 0");
    }
    if (scale == Scale::kIntegers &&
        (std::floor(range->low) != range->low || std::floor(range->high) != range->high)) {
      section.Fail(word, "give whole numbers");
    }
  }
  section.Finish();
  if (!range || table->size() != 1) {
    parameters.Fail(node.source(),
                    fmt::format("{}: give one of uniform, log_uniform, integers", name));
  }
  if (name == "policy") parameters.Fail(node.source(), "policy: give a list of policies");
  return {name, *range};
}

Bar ReadBar(Section& section) {
  Bar bar;
  section.Read("name", bar.name);
  section.Read("figure", bar.figure);
  if (std::ranges::find(kFigureNames, bar.figure) == kFigureNames.end()) {
    section.Fail("figure", fmt::format("there is no figure '{}'; use {}", bar.figure,
                                       fmt::join(kFigureNames, ", ")));
  }
  section.Read("policy", bar.policy);
  bar.against = kUntuned;
  section.Read("against", bar.against);
  bar.where = json::object();
  const Section where = section.Table("where");
  for (const auto& [key, node] : where.Content()) {
    bar.where[std::string(key.str())] = Value(where, node);
  }
  section.Read("field", bar.field);
  bar.among = section.Words("among");
  bar.longer = section.Words("longer");
  bar.healthy = json::object();
  const Section healthy = section.Table("healthy");
  for (const auto& [key, node] : healthy.Content()) {
    bar.healthy[std::string(key.str())] = Value(healthy, node);
  }
  if (bar.healthy.empty() != (bar.figure != "gap_closed")) {
    section.Fail("healthy", "goes with the figure gap_closed, which needs it");
  }
  if (bar.among.empty() != (bar.figure != "hindsight")) {
    section.Fail("among", "goes with the figure hindsight, which needs it");
  }
  if (!bar.longer.empty() && bar.figure != "compute_to_target") {
    section.Fail("longer", "goes with the figure compute_to_target");
  }
  if (!bar.field.empty() && bar.figure != "value" && bar.figure != "relative") {
    section.Fail("field", "goes with the figures value and relative");
  }
  constexpr std::array<std::string_view, 3> kBounds = {"mean", "low", "high"};
  bar.bound = kBounds[section.Choose("bound", kBounds, 0)];
  const bool most = section.Find("at_most") != nullptr;
  if (most == (section.Find("at_least") != nullptr)) {
    section.Fail("name", "give a bar either at_most or at_least");
  }
  bar.at_most = most;
  section.Read(most ? "at_most" : "at_least", bar.threshold);
  if (bar.name.empty()) {
    bar.name = fmt::format("{}{}", bar.figure, bar.policy.empty() ? "" : " of " + bar.policy);
  }
  section.Finish();
  return bar;
}

void ReadDaemon(Section section, std::map<std::string, std::string>& daemon) {
  for (const auto& [key, node] : section.Content()) {
    const std::string name(key.str());
    const json value = Value(section, node);
    std::string text = value.is_string() ? value.get<std::string>() : value.dump();
    try {
      static_cast<void>(ParseOptions({"--" + name + "=" + text}, "/dev/null"));
    } catch (const OptionsError& error) {
      section.Fail(key.source(), fmt::format("attuned: {}", error.what()));
    }
    if (name.ends_with("-directory")) {
      section.Fail(key.source(), "a sweep's daemon has its folder in the sweep's own");
    }
    daemon[name] = std::move(text);
  }
}

void ReadVariants(Section section, const fs::path& file, Spec& spec) {
  for (const auto& [key, node] : section.Content()) {
    const std::string name(key.str());
    const toml::table* table = node.as_table();
    if (table == nullptr) section.Fail(node.source(), "a variant is a table: [variant.NAME]");
    if (!IsName(name) || IsPolicy(name)) {
      section.Fail(key.source(), fmt::format("'{}': name a variant by letters, digits, _ - ., and "
                                             "not as a policy",
                                             name));
    }
    Section own(*table, "variant." + name, file);
    Variant variant;
    own.Read("policy", variant.policy);
    if (!IsPolicy(variant.policy)) {
      own.Fail("policy", fmt::format("there is no policy '{}'", variant.policy));
    }
    variant.arguments = own.Words("arguments");
    ReadDaemon(own.Table("daemon"), variant.daemon);
    if (!variant.daemon.empty() && variant.policy == kUntuned) {
      own.Fail("daemon", "its runs are untuned; give it a policy");
    }
    own.Finish();
    spec.variants[name] = std::move(variant);
  }
}

std::vector<std::uint64_t> ReadSeeds(Section& section) {
  const toml::node* node = section.Find("seeds");
  std::vector<std::uint64_t> seeds;
  if (node == nullptr) return {0};
  if (node->is_integer()) {
    std::uint64_t count = 0;
    section.Read("seeds", count);
    if (count > kMostRuns) section.Fail("seeds", "that is too many");
    for (std::uint64_t seed = 0; seed < count; ++seed) seeds.push_back(seed);
  } else if (const toml::array* list = node->as_array()) {
    for (const toml::node& seed : *list) {
      if (!seed.is_integer() || *seed.value<std::int64_t>() < 0) {
        section.Fail(seed.source(), "seeds: give whole numbers of at least 0");
      }
      seeds.push_back(static_cast<std::uint64_t>(*seed.value<std::int64_t>()));
      if (std::ranges::count(seeds, seeds.back()) > 1) {
        section.Fail(seed.source(), fmt::format("seeds: {} stands here twice", seeds.back()));
      }
    }
  }
  if (seeds.empty()) section.Fail("seeds", "give a list of seeds, or how many");
  return seeds;
}

// Every placeholder has its parameter, and every parameter reaches the runs.
void CheckUse(const Spec& spec, const Section& section, const Section& environment,
              const std::map<std::string, toml::source_region>& parameters) {
  std::set<std::string> used = {"policy"};
  const auto check = [&](const Section& at, std::string_view key, const std::string& text) {
    for (const std::string& name : Placeholders(text)) {
      if (name != "seed" && name != "run" && name != "directory" && !parameters.contains(name)) {
        at.Fail(key, fmt::format("there is no parameter '{}'; put it into [parameters]", name));
      }
    }
  };
  const auto use = [&](const Section& at, std::string_view key, const std::string& text) {
    check(at, key, text);
    for (const std::string& name : Placeholders(text)) used.insert(name);
  };
  for (const std::string& word : spec.command) use(section, "command", word);
  for (const auto& [name, variant] : spec.variants) {
    // What reaches a variant alone would be other jobs that are the same to all the others.
    for (const std::string& word : variant.arguments) check(section, "variant", word);
  }
  for (const auto& [name, value] : spec.environment) use(environment, name, value);
  for (const auto& [name, source] : parameters) {
    if (!used.contains(name)) {
      section.Fail(source, fmt::format("parameter '{}' reaches no run; put {{{}}} into command or "
                                       "[environment]",
                                       name, name));
    }
  }
  if (spec.seeds.size() > 1 && !used.contains("seed")) {
    section.Fail("seeds", "they reach no run; put {seed} into command or [environment]");
  }
}

bool HasParameter(const Spec& spec, const std::string& name) {
  return std::ranges::any_of(spec.parameters, [&](const auto& own) { return own.name == name; }) ||
         std::ranges::any_of(spec.cases, [&](const json& point) { return point.contains(name); });
}

// Who is run at all: by [parameters], by cases, or by default.
std::set<std::string> PoliciesOf(const Spec& spec) {
  std::set<std::string> policies;
  for (const Parameter& parameter : spec.parameters) {
    if (parameter.name != "policy") continue;
    for (const json& policy : std::get<0>(parameter.values)) policies.insert(policy);
  }
  for (const json& point : spec.cases) {
    if (point.contains("policy")) policies.insert(point["policy"]);
  }
  if (policies.empty()) policies.insert(spec.twin ? "auto" : std::string(kUntuned));
  if (spec.twin) policies.insert(std::string(kUntuned));
  return policies;
}

// A bar about runs that the sweep does not have would fail after all the others had run.
void CheckBar(const Spec& spec, const Bar& bar, const Section& section) {
  const std::set<std::string> policies = PoliciesOf(spec);
  const auto check = [&](std::string_view key, const std::string& policy) {
    if (policy.empty() || policies.contains(policy)) return;
    section.Fail(key, fmt::format("no run has the policy '{}'; there are {}", policy,
                                  fmt::join(policies, ", ")));
  };
  check("policy", bar.policy);
  constexpr std::array<std::string_view, 3> kWithoutInterval = {"worst_job", "worst_relative",
                                                                "hindsight"};
  if (bar.bound != "mean" &&
      std::ranges::find(kWithoutInterval, bar.figure) != kWithoutInterval.end()) {
    section.Fail("bound", fmt::format("{} has no interval; leave it out", bar.figure));
  }
  const bool compares = bar.figure != "value" && bar.figure != "failed";
  if (compares || bar.against != kUntuned) check("against", bar.against);
  for (const std::string& policy : bar.among) check("among", policy);
  for (const std::string& policy : bar.longer) check("longer", policy);
  const auto check_names = [&](std::string_view table, const json& names, bool or_seed) {
    for (const auto& [name, value] : names.items()) {
      const bool known =
          (or_seed && name == "seed") || (name != "policy" && HasParameter(spec, name));
      if (!known) section.Fail(table, fmt::format("no run has a parameter '{}'", name));
    }
  };
  check_names("where", bar.where, true);
  check_names("healthy", bar.healthy, false);
}

}  // namespace

bool Spec::Tunes(const std::string& policy) const {
  const auto variant = variants.find(policy);
  return (variant == variants.end() ? policy : variant->second.policy) != kUntuned;
}

bool Spec::IsLonger(const std::string& policy) const {
  return std::ranges::any_of(bars, [&](const Bar& bar) {
    return std::ranges::find(bar.longer, policy) != bar.longer.end();
  });
}

std::string Spec::DaemonOf(const std::string& policy) const {
  const auto variant = variants.find(policy);
  return variant == variants.end() || variant->second.daemon.empty() ? "" : policy;
}

bool Spec::Tunes() const {
  return twin || std::ranges::any_of(PoliciesOf(*this),
                                     [this](const std::string& policy) { return Tunes(policy); });
}

Spec ParseSpec(std::string_view text, const fs::path& file) {
  toml::table table;
  try {
    table = toml::parse(text);
  } catch (const toml::parse_error& error) {
    throw SweepError(fmt::format("{}:{}:{}: {}", file.string(), error.source().begin.line,
                                 error.source().begin.column, error.description()));
  }
  const fs::path folder = fs::absolute(file).parent_path();
  Spec spec;
  Section section(table, "", file);
  spec.name = file.stem();
  section.Read("name", spec.name);
  if (!IsName(spec.name) || spec.name.starts_with('.')) {
    section.Fail("name", fmt::format("'{}': name a sweep by letters, digits, _ - .", spec.name));
  }
  spec.command = section.Words("command");
  if (spec.command.empty()) section.Fail("command", "give the command of a run, word by word");
  std::string directory = ".";
  section.Read("directory", directory);
  spec.directory = (folder / directory).lexically_normal();
  section.Read("metric", spec.metric);
  section.Read("step", spec.step);
  section.Read("compute", spec.compute);
  constexpr std::array<std::string_view, 2> kGoals = {"minimize", "maximize"};
  spec.minimize = section.Choose("goal", kGoals, 0) == 0;
  spec.seeds = ReadSeeds(section);
  section.Read("twin", spec.twin);
  constexpr std::array<std::string_view, 2> kSamplers = {"random", "sobol"};
  spec.sampler = section.Choose("sampler", kSamplers, 1) == 0 ? Sampler::kRandom : Sampler::kSobol;
  section.Read("samples", spec.samples);
  if (spec.samples == 0) section.Fail("samples", "give at least 1");
  section.Read("sampler_seed", spec.sampler_seed);
  std::string results;
  section.Read("results", results);
  if (!results.empty()) spec.results = (folder / results).lexically_normal();

  ReadVariants(section.Table("variant"), file, spec);
  std::map<std::string, toml::source_region> names;
  Section parameters = section.Table("parameters");
  for (const auto& [key, node] : parameters.Content()) {
    spec.parameters.push_back(ReadParameter(parameters, key, node, file, spec));
    names.emplace(key.str(), key.source());
  }
  for (const Section& point : section.Tables("case")) {
    json values = json::object();
    for (const auto& [key, node] : point.Content()) {
      const std::string name(key.str());
      CheckParameterName(point, key);
      if (parameters.Content().contains(key.str())) {
        point.Fail(key.source(), fmt::format("'{}' is in [parameters] too", name));
      }
      values[name] = Value(point, node);
      CheckParameter(point, node, name, values[name], spec);
      names.emplace(name, key.source());
    }
    if (!spec.cases.empty() && spec.cases[0].size() != values.size()) {
      point.Fail(point.Content().source(), "every [[case]] must give the same parameters");
    }
    for (const auto& [name, value] : values.items()) {
      if (!spec.cases.empty() && !spec.cases[0].contains(name)) {
        point.Fail(point.Content().source(),
                   fmt::format("every [[case]] must give the same parameters; '{}' is not in the "
                               "first",
                               name));
      }
    }
    if (std::ranges::find(spec.cases, values) != spec.cases.end()) {
      point.Fail(point.Content().source(), "this [[case]] stands here twice");
    }
    spec.cases.push_back(std::move(values));
  }
  const bool draws = std::ranges::any_of(spec.parameters, [](const Parameter& parameter) {
    return std::holds_alternative<Range>(parameter.values);
  });
  if (spec.samples > 1 && !draws) {
    section.Fail("samples", "there is no range to draw from in [parameters]");
  }

  Section environment = section.Table("environment");
  for (const auto& [key, node] : environment.Content()) {
    const json value = Value(environment, node);
    spec.environment[std::string(key.str())] =
        value.is_string() ? value.get<std::string>() : value.dump();
  }

  Section limits = section.Table("limits");
  limits.Read("parallel", spec.limits.parallel);
  if (spec.limits.parallel == 0) limits.Fail("parallel", "give at least 1");
  limits.Positive("seconds", spec.limits.seconds);
  limits.Positive("silence", spec.limits.silence);
  limits.Bytes("memory", spec.limits.memory);
  limits.Positive("compute_seconds", spec.limits.compute_seconds);
  limits.Read("cpus", spec.limits.cpus);
  if (spec.limits.cpus == 0) limits.Fail("cpus", "give at least 1");
  limits.Read("pin", spec.limits.pin);
  limits.Bytes("log", spec.limits.log);
  limits.Finish();

  if (section.Find("halving") != nullptr) {
    Section halving = section.Table("halving");
    Halving& rule = spec.halving.emplace();
    constexpr std::array<std::string_view, 2> kResources = {"compute", "step"};
    rule.by_step = halving.Choose("resource", kResources, 0) == 1;
    halving.Read("least", rule.least);
    if (rule.least <= 0) halving.Fail("least", "give the resource at the first look, above 0");
    halving.Read("factor", rule.factor);
    if (rule.factor <= 1) halving.Fail("factor", "give a number above 1");
    halving.Finish();
  }
  ReadDaemon(section.Table("daemon"), spec.daemon);
  Section slurm = section.Table("slurm");
  slurm.Read("partition", spec.slurm.partition);
  spec.slurm.options = slurm.Words("options");
  slurm.Read("listen", spec.slurm.listen);
  slurm.Finish();
  spec.clusters = section.Words("clusters");
  for (const std::string& name : spec.clusters) {
    if (name == "policy" || !HasParameter(spec, name)) {
      section.Fail("clusters", fmt::format("no run has a parameter '{}'", name));
    }
  }
  for (Section& bar : section.Tables("bar")) {
    spec.bars.push_back(ReadBar(bar));
    CheckBar(spec, spec.bars.back(), bar);
  }
  section.Finish();

  CheckUse(spec, section, environment, names);
  return spec;
}

namespace {

// Calls back with each {NAME}'s bounds in `text`, braces included.
template <class Callback>
void ForEachPlaceholder(std::string_view text, const Callback& callback) {
  for (std::size_t open = text.find('{'); open != std::string_view::npos;
       open = text.find('{', open + 1)) {
    if (open > 0 && text[open - 1] == '$') continue;
    const std::size_t close = text.find('}', open);
    if (close == std::string_view::npos) return;
    if (IsName(text.substr(open + 1, close - open - 1))) callback(open, close + 1);
  }
}

}  // namespace

std::vector<std::string> Placeholders(std::string_view text) {
  std::vector<std::string> names;
  ForEachPlaceholder(text, [&](std::size_t begin, std::size_t end) {
    names.emplace_back(text.substr(begin + 1, end - begin - 2));
  });
  return names;
}

std::string Fill(std::string_view text,
                 const std::function<std::string(const std::string&)>& value) {
  std::string filled;
  std::size_t done = 0;
  ForEachPlaceholder(text, [&](std::size_t begin, std::size_t end) {
    filled += text.substr(done, begin - done);
    filled += value(std::string(text.substr(begin + 1, end - begin - 2)));
    done = end;
  });
  return filled.append(text.substr(done));
}

}  // namespace attune::sweep
