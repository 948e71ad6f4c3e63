// The codec: one field list for each message, read by a writer and by a reader.
#include "collectors/codec.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstring>
#include <limits>
#include <msgpack.hpp>
#include <type_traits>
#include <utility>

namespace attune {
namespace {

static_assert(std::endian::native == std::endian::little, "float arrays travel little-endian");

// In the order of Message.
constexpr std::array<std::string_view, std::variant_size_v<Message>> kNames = {
    "Hello", "Welcome", "Observation",   "ActionRequest", "ActionReply", "Heartbeat",
    "Bye",   "Error",   "StatusRequest", "Status",        "Adjust",      "UsePolicy",
    "Reply", "Serve",   "Serving",       "Question",      "Answer"};

// The messages nest to depth 3; the rest is room for fields to come.
constexpr std::size_t kMaxDepth = 8;
// MessagePack values in a frame. A Hello of kMaxSites sites has 28,690.
constexpr std::size_t kMaxValues = 65'536;

template <class Archive, class T>
using In = std::conditional_t<Archive::kWrites, const T, T>;

// The field lists. Their order is the wire's: only ever add at the end.

template <class Archive>
void Fields(Archive& a, In<Archive, Site>& s) {
  a.Text("name", s.name, kMaxNameBytes);
  a.Enum("kind", s.kind, SiteKind::kSelf, SiteKind::kCross);
  a.Flag("causal", s.causal);
  a.Integer("heads", s.heads);
  a.Integer("head_width", s.head_width);
  a.Integer("context", s.context);
}

template <class Archive>
void SettingFields(Archive& a, In<Archive, Setting>& s) {
  a.Floats("scale", s.scale, kMaxHeads);
  a.Floats("gain", s.gain, kMaxHeads);
  a.Mask("active", s.active, kMaxHeads);
}

template <class Archive>
void Fields(Archive& a, In<Archive, Hello>& m) {
  a.Text("key", m.job.key, kMaxNameBytes);
  a.Text("name", m.job.name, kMaxNameBytes);
  a.List("sites", m.job.topology.sites, kMaxSites);
  a.Enum("budget_kind", m.job.budget.kind, BudgetKind::kCompute, BudgetKind::kSteps);
  a.Real("budget_amount", m.job.budget.amount);
  a.Real("price", m.job.budget.price);
  a.Integer("seed", m.job.seed);
  a.Real("learning_rate", m.job.learning_rate);
  SettingFields(a, m.setting);
  a.Integer("step", m.step);
  a.Integer("action", m.action);
  a.Text("policy", m.job.policy, kMaxNameBytes);
  a.LaterText("optimizer", m.job.optimizer, kMaxNameBytes);
  a.LaterFlag("fresh", m.job.fresh, m.step == 0);
  a.LaterMask("scale_fixed", m.scale_fixed, kMaxHeads);
}

template <class Archive>
void Fields(Archive& a, In<Archive, Welcome>& m) {
  a.Integer("job", m.job);
  a.Integer("measure_every", m.measure_every);
  a.Real("heartbeat_seconds", m.heartbeat_seconds);
}

template <class Archive>
void Fields(Archive& a, In<Archive, Observation>& m) {
  a.Integer("step", m.step);
  a.Real("compute_seconds", m.compute_seconds);
  a.Real("loss", m.loss);
  a.Real("attention_share", m.attention_share);
  a.Integer("action", m.action);
  a.Integer("dropped", m.dropped);
  a.Mask("active", m.active, kMaxHeads);
  a.Floats("metrics", m.metrics, kMaxHeads * kMetrics);
  a.Floats("profile", m.profile, kMaxHeads * kProfileBins);
}

template <class Archive>
void Fields(Archive& a, In<Archive, ActionRequest>& m) {
  a.Integer("id", m.id);
  a.Integer("expires_step", m.expires_step);
  SettingFields(a, m.setting);
}

template <class Archive>
void Fields(Archive& a, In<Archive, ActionReply>& m) {
  a.Integer("id", m.id);
  a.Enum("status", m.acknowledgement.status, AckStatus::kApplied, AckStatus::kExpired);
  a.Integer("step", m.acknowledgement.step);
  a.Line("why", m.acknowledgement.why);
}

template <class Archive>
void Fields(Archive& a, In<Archive, Heartbeat>& m) {
  a.Integer("step", m.step);
}

template <class Archive>
void Fields(Archive& a, In<Archive, Bye>& m) {
  a.Enum("outcome", m.outcome, Outcome::kFinished, Outcome::kFailed);
  a.Integer("step", m.step);
  a.Real("compute_seconds", m.compute_seconds);
  a.Maybe("validation_loss", m.validation_loss);
}

template <class Archive>
void Fields(Archive& a, In<Archive, Error>& m) {
  a.Enum("code", m.code, ErrorCode::kMalformed, ErrorCode::kUnusable);
  a.Line("text", m.text);
}

template <class Archive>
void Fields(Archive& /*a*/, In<Archive, StatusRequest>& /*m*/) {}

template <class Archive>
void Fields(Archive& a, In<Archive, LiveJob>& j) {
  a.Integer("id", j.id);
  a.Text("key", j.key, kMaxNameBytes);
  a.Text("name", j.name, kMaxNameBytes);
  a.Integer("step", j.step);
  a.Real("progress", j.progress);
  a.Real("loss", j.loss);
  a.Real("imbalance", j.imbalance);
  a.Integer("active_heads", j.active_heads);
  a.Integer("heads", j.heads);
  a.Integer("window", j.window);
  a.Integer("trials", j.trials);
  a.Integer("dropped", j.dropped);
  a.Line("last_action", j.last_action);
  a.Line("last_decider", j.last_decider);
}

template <class Archive>
void Fields(Archive& a, In<Archive, Status>& m) {
  a.Line("version", m.version);
  a.Integer("pid", m.pid);
  a.Real("uptime_seconds", m.uptime_seconds);
  a.Line("state_directory", m.state_directory);
  a.Line("policy", m.policy);
  a.Integer("policy_version", m.policy_version);
  a.Integer("errors", m.errors);
  a.List("jobs", m.jobs, kMaxLiveJobs);
  a.Line("external", m.external);
  a.Integer("late_answers", m.late_answers);
  a.LaterLine("store_fault", m.store_fault);
}

template <class Archive>
void Fields(Archive& a, In<Archive, Adjust>& m) {
  a.Integer("job", m.job);
  a.Text("site", m.site, kMaxNameBytes);
  a.Maybe("head", m.head);
  a.Maybe("scale", m.scale);
  a.Maybe("gain", m.gain);
  a.Maybe("active_heads", m.active_heads);
}

template <class Archive>
void Fields(Archive& a, In<Archive, UsePolicy>& m) {
  a.Text("name", m.name, kMaxNameBytes);
  a.LaterMaybe("job", m.job);
}

template <class Archive>
void Fields(Archive& a, In<Archive, Reply>& m) {
  a.Flag("ok", m.ok);
  a.Line("text", m.text);
}

template <class Archive>
void Fields(Archive& a, In<Archive, Serve>& m) {
  a.Text("name", m.name, kMaxNameBytes);
}

template <class Archive>
void Fields(Archive& a, In<Archive, Serving>& m) {
  a.Real("heartbeat_seconds", m.heartbeat_seconds);
}

template <class Archive>
void Fields(Archive& a, In<Archive, Question>& m) {
  a.Integer("id", m.id);
  a.Real("deadline_seconds", m.deadline_seconds);
  a.Integer("job", m.job);
  a.Text("key", m.key, kMaxNameBytes);
  a.Integer("window", m.window);
  a.Integer("step", m.step);
  a.Real("progress", m.progress);
  a.Real("loss", m.loss);
  a.Real("imbalance", m.imbalance);
  a.List("sites", m.topology.sites, kMaxSites);
  SettingFields(a, m.setting);
  a.Floats("tokens", m.tokens, kMaxHeads * kTokenFeatures);
  a.Masks("scale_open", m.mask.scale, kMaxHeads);
  a.Masks("count_open", m.mask.count, kMaxSites);
}

template <class Archive>
void Fields(Archive& a, In<Archive, Answer>& m) {
  a.Integer("id", m.id);
  a.Choices("scale", m.action.scale, kMaxHeads, kScaleChoices);
  a.Choices("count", m.action.count, kMaxSites, kCountChoices);
  a.Floats("score", m.action.score, kMaxHeads);
  a.Real("log_probability", m.log_probability);
  a.Integer("policy_version", m.policy_version);
  a.Line("why", m.why);
}

// The bytes of a text cut to the limit, never inside a UTF-8 sequence.
std::string_view Cut(std::string_view text, std::size_t limit) {
  if (text.size() <= limit) return text;
  while (limit > 0 && (static_cast<unsigned char>(text[limit]) & 0xC0U) == 0x80U) --limit;
  return text.substr(0, limit);
}

// Where MessagePack's packer puts its bytes.
struct Bytes {
  std::string data;
  void write(const char* bytes, std::size_t size) { data.append(bytes, size); }  // NOLINT: its name
};

// Packs the fields of one message, or of one element of a list.
class Writer {
 public:
  static constexpr bool kWrites = true;

  explicit Writer(std::string where) : where_(std::move(where)) {}

  // An array of `head` and then the fields, appended to `out`.
  void Finish(std::span<const std::uint32_t> head, Bytes& out) const {
    msgpack::packer<Bytes> packer(out);
    packer.pack_array(static_cast<std::uint32_t>(head.size()) + count_);
    for (const std::uint32_t value : head) packer.pack_uint32(value);
    out.data += bytes_.data;
  }

  template <std::unsigned_integral T>
  void Integer(std::string_view /*name*/, T value) {
    Next().pack_uint64(value);
  }
  void Real(std::string_view /*name*/, double value) { Next().pack_double(value); }
  void Real(std::string_view /*name*/, float value) { Next().pack_float(value); }
  void Flag(std::string_view /*name*/, bool value) {
    value ? Next().pack_true() : Next().pack_false();
  }
  template <class E>
  void Enum(std::string_view name, E value, E first, E last) {
    if (value < first || value > last) {
      throw std::invalid_argument(Of(name) + " has the value " + std::to_string(Number(value)) +
                                  ", which the protocol does not allow");
    }
    Next().pack_uint64(Number(value));
  }
  void Text(std::string_view name, const std::string& value, std::size_t limit) {
    CheckLength(name, value.size(), limit, "bytes");
    PackText(value);
  }
  void LaterText(std::string_view name, const std::string& value, std::size_t limit) {
    Text(name, value, limit);
  }
  void LaterFlag(std::string_view name, bool value, bool /*missing*/) { Flag(name, value); }
  void LaterMask(std::string_view name, const std::vector<std::uint8_t>& values,
                 std::size_t limit) {
    Mask(name, values, limit);
  }
  void Line(std::string_view /*name*/, const std::string& value) {
    PackText(Cut(value, kMaxTextBytes));
  }
  void LaterLine(std::string_view name, const std::string& value) { Line(name, value); }
  void Floats(std::string_view name, const std::vector<float>& values, std::size_t limit) {
    CheckLength(name, values.size(), limit, "floats");
    PackBin(values.data(), values.size() * sizeof(float));
  }
  void Mask(std::string_view name, const std::vector<std::uint8_t>& values, std::size_t limit) {
    CheckLength(name, values.size(), limit, "bytes");
    if (std::ranges::any_of(values, [](std::uint8_t value) { return value > 1; })) {
      throw std::invalid_argument(Of(name) + " holds a value other than 0 and 1");
    }
    PackBin(values.data(), values.size());
  }
  // A mask of N for each element.
  template <std::size_t N>
  void Masks(std::string_view name, const std::vector<std::array<std::uint8_t, N>>& values,
             std::size_t limit) {
    CheckLength(name, values.size(), limit, "rows");
    Mask(name, Flat(values), limit * N);
  }
  // One byte each, below `choices`.
  template <class T>
  void Choices(std::string_view name, const std::vector<T>& values, std::size_t limit,
               std::size_t choices) {
    static_assert(sizeof(T) == 1);
    CheckLength(name, values.size(), limit, "bytes");
    if (std::ranges::any_of(values, [&](T value) { return Number(value) >= choices; })) {
      throw std::invalid_argument(Of(name) + " holds a choice that is none of the " +
                                  std::to_string(choices));
    }
    PackBin(values.data(), values.size());
  }
  template <class T>
  void List(std::string_view name, const std::vector<T>& values, std::size_t limit) {
    CheckLength(name, values.size(), limit, "elements");
    Next().pack_array(static_cast<std::uint32_t>(values.size()));
    for (const T& value : values) {
      Writer element(Of(name));
      Fields(element, value);
      element.Finish({}, bytes_);
    }
  }
  template <class T>
  void Maybe(std::string_view name, const std::optional<T>& value) {
    if (!value) {
      Next().pack_nil();
    } else if constexpr (std::is_floating_point_v<T>) {
      Real(name, *value);
    } else {
      Integer(name, *value);
    }
  }
  template <class T>
  void LaterMaybe(std::string_view name, const std::optional<T>& value) {
    Maybe(name, value);
  }

 private:
  template <class E>
  static std::uint64_t Number(E value) {
    return static_cast<std::uint64_t>(value);
  }

  template <std::size_t N>
  static std::vector<std::uint8_t> Flat(const std::vector<std::array<std::uint8_t, N>>& rows) {
    std::vector<std::uint8_t> flat;
    flat.reserve(rows.size() * N);
    for (const auto& row : rows) flat.insert(flat.end(), row.begin(), row.end());
    return flat;
  }

  msgpack::packer<Bytes> Next() {
    ++count_;
    return msgpack::packer<Bytes>(bytes_);
  }
  void PackText(std::string_view text) {
    auto packer = Next();
    packer.pack_str(static_cast<std::uint32_t>(text.size()));
    packer.pack_str_body(text.data(), static_cast<std::uint32_t>(text.size()));
  }
  void PackBin(const void* data, std::size_t size) {
    auto packer = Next();
    packer.pack_bin(static_cast<std::uint32_t>(size));
    packer.pack_bin_body(static_cast<const char*>(data), static_cast<std::uint32_t>(size));
  }
  [[nodiscard]] std::string Of(std::string_view name) const {
    return where_ + ": field '" + std::string(name) + "'";
  }
  void CheckLength(std::string_view name, std::size_t size, std::size_t limit,
                   const char* unit) const {
    if (size > limit) {
      throw std::length_error(Of(name) + " has " + std::to_string(size) + " " + unit +
                              "; the protocol allows " + std::to_string(limit));
    }
  }

  std::string where_;
  std::uint32_t count_ = 0;
  Bytes bytes_;
};

[[noreturn]] void Malformed(const std::string& text) {
  throw CodecError(ErrorCode::kMalformed, text);
}

const char* Kind(const msgpack::object& value) {
  switch (value.type) {
    case msgpack::type::NIL:
      return "nil";
    case msgpack::type::BOOLEAN:
      return "a boolean";
    case msgpack::type::POSITIVE_INTEGER:
      return "an integer";
    case msgpack::type::NEGATIVE_INTEGER:
      return "a negative integer";
    case msgpack::type::FLOAT32:
    case msgpack::type::FLOAT64:
      return "a float";
    case msgpack::type::STR:
      return "a string";
    case msgpack::type::BIN:
      return "a binary";
    case msgpack::type::ARRAY:
      return "an array";
    default:
      return "a map or an extension";
  }
}

// Reads the fields of one message, or of one element of a list.
class Reader {
 public:
  static constexpr bool kWrites = false;

  // `prefix` goes before the fields' names in complaints: "" or "sites[3].".
  Reader(std::string_view message, std::string prefix, std::span<const msgpack::object> values)
      : message_(message), prefix_(std::move(prefix)), values_(values) {}

  template <std::unsigned_integral T>
  void Integer(std::string_view name, T& out) {
    out = static_cast<T>(Unsigned(name, 0, std::numeric_limits<T>::max()));
  }
  void Real(std::string_view name, double& out) {
    const msgpack::object& value = Next(name);
    switch (value.type) {
      case msgpack::type::FLOAT32:
      case msgpack::type::FLOAT64:
        out = value.via.f64;
        return;
      case msgpack::type::POSITIVE_INTEGER:
        out = static_cast<double>(value.via.u64);
        return;
      case msgpack::type::NEGATIVE_INTEGER:
        out = static_cast<double>(value.via.i64);
        return;
      default:
        FailType(name, value, "a number");
    }
  }
  void Real(std::string_view name, float& out) {
    double wide = 0;
    Real(name, wide);
    if (std::isfinite(wide) && std::abs(wide) > std::numeric_limits<float>::max()) {
      Fail(name, "is beyond the range of float32");
    }
    out = static_cast<float>(wide);
  }
  void Flag(std::string_view name, bool& out) {
    const msgpack::object& value = Next(name);
    if (value.type != msgpack::type::BOOLEAN) FailType(name, value, "a boolean");
    out = value.via.boolean;
  }
  template <class E>
  void Enum(std::string_view name, E& out, E first, E last) {
    out = static_cast<E>(
        Unsigned(name, static_cast<std::uint64_t>(first), static_cast<std::uint64_t>(last)));
  }
  void Text(std::string_view name, std::string& out, std::size_t limit) {
    const msgpack::object& value = Next(name);
    if (value.type != msgpack::type::STR) FailType(name, value, "a string");
    CheckLength(name, value.via.str.size, limit, "bytes");
    out.assign(value.via.str.ptr, value.via.str.size);
  }
  // Those that senders from before them do not have: then it is empty, or `missing`.
  template <class T>
  void LaterMaybe(std::string_view name, std::optional<T>& out) {
    if (next_ == values_.size()) {
      out.reset();
    } else {
      Maybe(name, out);
    }
  }
  void LaterText(std::string_view name, std::string& out, std::size_t limit) {
    if (next_ == values_.size()) {
      out.clear();
    } else {
      Text(name, out, limit);
    }
  }
  void LaterFlag(std::string_view name, bool& out, bool missing) {
    if (next_ == values_.size()) {
      out = missing;
    } else {
      Flag(name, out);
    }
  }
  void LaterMask(std::string_view name, std::vector<std::uint8_t>& out, std::size_t limit) {
    if (next_ == values_.size()) {
      out.clear();
    } else {
      Mask(name, out, limit);
    }
  }
  void Line(std::string_view name, std::string& out) { Text(name, out, kMaxTextBytes); }
  void LaterLine(std::string_view name, std::string& out) { LaterText(name, out, kMaxTextBytes); }
  void Floats(std::string_view name, std::vector<float>& out, std::size_t limit) {
    const std::span<const char> bytes = Binary(name);
    if (bytes.size() % sizeof(float) != 0) {
      Fail(name,
           "is " + std::to_string(bytes.size()) + " bytes, which is no whole number of float32");
    }
    CheckLength(name, bytes.size() / sizeof(float), limit, "floats");
    out.resize(bytes.size() / sizeof(float));
    if (!out.empty()) std::memcpy(out.data(), bytes.data(), bytes.size());
  }
  void Mask(std::string_view name, std::vector<std::uint8_t>& out, std::size_t limit) {
    const std::span<const char> bytes = Binary(name);
    CheckLength(name, bytes.size(), limit, "bytes");
    out.assign(bytes.begin(), bytes.end());
    const auto wrong = std::ranges::find_if(out, [](std::uint8_t value) { return value > 1; });
    if (wrong != out.end()) {
      Fail(name, "holds " + std::to_string(*wrong) + " at place " +
                     std::to_string(wrong - out.begin()) + " where only 0 and 1 may stand");
    }
  }
  template <std::size_t N>
  void Masks(std::string_view name, std::vector<std::array<std::uint8_t, N>>& out,
             std::size_t limit) {
    std::vector<std::uint8_t> flat;
    Mask(name, flat, limit * N);
    if (flat.size() % N != 0) {
      Fail(name, "is " + std::to_string(flat.size()) + " bytes, which is no whole number of " +
                     std::to_string(N));
    }
    out.resize(flat.size() / N);
    for (std::size_t i = 0; i < flat.size(); ++i) out[i / N][i % N] = flat[i];
  }
  template <class T>
  void Choices(std::string_view name, std::vector<T>& out, std::size_t limit, std::size_t choices) {
    static_assert(sizeof(T) == 1);
    const std::span<const char> bytes = Binary(name);
    CheckLength(name, bytes.size(), limit, "bytes");
    out.clear();
    for (const char byte : bytes) {
      const auto choice = static_cast<std::uint8_t>(byte);
      if (choice >= choices) {
        Fail(name, "holds " + std::to_string(choice) + " at place " + std::to_string(out.size()) +
                       " where 0 to " + std::to_string(choices - 1) + " may stand");
      }
      out.push_back(static_cast<T>(choice));
    }
  }
  template <class T>
  void List(std::string_view name, std::vector<T>& out, std::size_t limit) {
    const msgpack::object& value = Next(name);
    if (value.type != msgpack::type::ARRAY) FailType(name, value, "an array");
    const std::span<const msgpack::object> elements(value.via.array.ptr, value.via.array.size);
    CheckLength(name, elements.size(), limit, "elements");
    // Grows with the elements that are found whole, not with the number that is claimed.
    out.clear();
    for (std::size_t i = 0; i < elements.size(); ++i) {
      const std::string place = std::string(name) + "[" + std::to_string(i) + "]";
      if (elements[i].type != msgpack::type::ARRAY) FailType(place, elements[i], "an array");
      Reader element(message_, place + ".",
                     {elements[i].via.array.ptr, elements[i].via.array.size});
      Fields(element, out.emplace_back());
    }
  }
  template <class T>
  void Maybe(std::string_view name, std::optional<T>& out) {
    if (next_ < values_.size() && values_[next_].type == msgpack::type::NIL) {
      ++next_;
      out.reset();
    } else if constexpr (std::is_floating_point_v<T>) {
      Real(name, out.emplace());
    } else {
      Integer(name, out.emplace());
    }
  }

 private:
  const msgpack::object& Next(std::string_view name) {
    if (next_ == values_.size()) Fail(name, "is missing");
    return values_[next_++];
  }
  std::uint64_t Unsigned(std::string_view name, std::uint64_t first, std::uint64_t last) {
    const msgpack::object& value = Next(name);
    if (value.type != msgpack::type::POSITIVE_INTEGER) FailType(name, value, "an integer from 0");
    if (value.via.u64 < first || value.via.u64 > last) {
      Fail(name, "is " + std::to_string(value.via.u64) + ", outside " + std::to_string(first) +
                     " to " + std::to_string(last));
    }
    return value.via.u64;
  }
  std::span<const char> Binary(std::string_view name) {
    const msgpack::object& value = Next(name);
    if (value.type != msgpack::type::BIN) FailType(name, value, "a binary");
    return {value.via.bin.ptr, value.via.bin.size};
  }
  void CheckLength(std::string_view name, std::size_t size, std::size_t limit,
                   const char* unit) const {
    if (size > limit) {
      Fail(name,
           "has " + std::to_string(size) + " " + unit + ", more than " + std::to_string(limit));
    }
  }
  [[noreturn]] void FailType(std::string_view name, const msgpack::object& value,
                             const char* wanted) const {
    Fail(name, std::string("is ") + Kind(value) + ", not " + wanted);
  }
  [[noreturn]] void Fail(std::string_view name, const std::string& what) const {
    Malformed(std::string(message_) + ": field '" + prefix_ + std::string(name) + "' " + what);
  }

  std::string_view message_;
  std::string prefix_;
  std::span<const msgpack::object> values_;
  std::size_t next_ = 0;
};

// Walks a frame without storing anything, so that a hostile one is refused before memory is spent:
// unpacking takes 24 bytes for every value that an array claims.
struct ShapeCheck : msgpack::null_visitor {
  explicit ShapeCheck(std::size_t frame_bytes) : values_left(std::min(frame_bytes, kMaxValues)) {}

  // Names that MessagePack calls. NOLINTBEGIN(readability-identifier-naming)
  bool start_array(std::uint32_t size) {
    if (++depth > kMaxDepth) return Refuse("arrays nest deeper than " + std::to_string(kMaxDepth));
    if (size > values_left) {
      return Refuse("an array claims " + std::to_string(size) +
                    " elements, more than fit into the frame or the limit of " +
                    std::to_string(kMaxValues));
    }
    values_left -= size;
    return true;
  }
  bool end_array() {
    --depth;
    return true;
  }
  bool start_map(std::uint32_t /*size*/) { return Refuse("it holds a map"); }
  bool visit_ext(const char* /*data*/, std::uint32_t /*size*/) {
    return Refuse("it holds an extension type");
  }
  void insufficient_bytes(std::size_t /*parsed*/, std::size_t /*at*/) {
    fault = "it ends inside a value";
  }
  void parse_error(std::size_t /*parsed*/, std::size_t at) {
    fault = "the byte at " + std::to_string(at) + " begins no MessagePack value";
  }
  // NOLINTEND(readability-identifier-naming)

  bool Refuse(std::string why) {
    fault = std::move(why);
    return false;
  }

  std::size_t values_left;
  std::size_t depth = 0;
  std::string fault;
};

// The frame as an array of values, which point into the frame and the zone.
std::span<const msgpack::object> Unpack(std::span<const std::byte> frame, msgpack::zone& zone) {
  const std::string what = "frame of " + std::to_string(frame.size()) + " bytes: ";
  if (frame.size() > kMaxFrameBytes) {
    Malformed(what + "larger than " + std::to_string(kMaxFrameBytes));
  }
  const char* data = reinterpret_cast<const char*>(frame.data());
  ShapeCheck shape(frame.size());
  std::size_t end = 0;
  if (frame.empty() || !msgpack::parse(data, frame.size(), end, shape) || !shape.fault.empty()) {
    Malformed(what + (frame.empty() ? "empty" : shape.fault));
  }
  if (end != frame.size()) {
    Malformed(what + "the message ends at byte " + std::to_string(end));
  }
  std::size_t offset = 0;
  const auto by_reference = [](msgpack::type::object_type, std::size_t, void*) { return true; };
  const msgpack::object root = msgpack::unpack(zone, data, frame.size(), offset, by_reference);
  if (root.type != msgpack::type::ARRAY) Malformed(what + Kind(root) + ", not an array");
  return {root.via.array.ptr, root.via.array.size};
}

template <std::size_t type>
void Read(std::span<const msgpack::object> values, Message& message) {
  if (message.index() != type) message.emplace<type>();
  Reader reader(kNames[type], "", values);
  Fields(reader, std::get<type>(message));
}

template <std::size_t... types>
constexpr auto MakeReaders(std::index_sequence<types...> /*types*/) {
  return std::array{&Read<types>...};
}

}  // namespace

std::string_view Name(const Message& message) { return kNames.at(message.index()); }

std::string Encode(const Message& message) {
  Writer writer{std::string(Name(message))};
  std::visit([&writer](const auto& value) { Fields(writer, value); }, message);
  Bytes frame;
  writer.Finish(std::array{kProtocolVersion, static_cast<std::uint32_t>(message.index())}, frame);
  if (frame.data.size() > kMaxFrameBytes) {
    throw std::length_error(std::string(Name(message)) + ": " + std::to_string(frame.data.size()) +
                            " bytes; a frame may have " + std::to_string(kMaxFrameBytes));
  }
  return std::move(frame.data);
}

Message Decode(std::span<const std::byte> frame) {
  Message message;
  Decode(frame, message);
  return message;
}

void Decode(std::span<const std::byte> frame, Message& message) {
  static constexpr auto kReaders =
      MakeReaders(std::make_index_sequence<std::variant_size_v<Message>>());
  constexpr std::size_t kZoneBytes = 1024;  // of a piece; arrays stay in the frame
  msgpack::zone zone(kZoneBytes);
  const std::span<const msgpack::object> values = Unpack(frame, zone);
  if (values.size() < 2 || values[0].type != msgpack::type::POSITIVE_INTEGER ||
      values[1].type != msgpack::type::POSITIVE_INTEGER) {
    Malformed("frame of " + std::to_string(frame.size()) +
              " bytes: does not begin with the numbers of a version and a message type");
  }
  if (values[0].via.u64 != kProtocolVersion) {
    throw CodecError(ErrorCode::kVersion,
                     "frame of protocol version " + std::to_string(values[0].via.u64) +
                         "; this side speaks version " + std::to_string(kProtocolVersion) +
                         ": install the same version of attune on both sides");
  }
  if (values[1].via.u64 >= kReaders.size()) {
    Malformed("frame of message type " + std::to_string(values[1].via.u64) + ", which version " +
              std::to_string(kProtocolVersion) + " does not have");
  }
  kReaders[values[1].via.u64](values.subspan(2), message);
}

}  // namespace attune
