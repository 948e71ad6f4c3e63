// Multi-head attention by stock kernels, on the active heads alone; measuring on sampled rows.
#include "collectors/attention.h"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "collectors/measure.h"

namespace attune {
namespace {

namespace F = torch::nn::functional;

constexpr float kHiddenBelow = -1e4F;  // a mask entry so low hides its key from the measurement
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

double ProcessorSeconds() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// [batch, length, heads × width] → [batch, heads, length, width]
torch::Tensor Split(const torch::Tensor& x, std::int64_t heads, std::int64_t width) {
  return x.view({x.size(0), x.size(1), heads, width}).transpose(1, 2);
}

// The reverse.
torch::Tensor Merge(const torch::Tensor& x) { return x.transpose(1, 2).flatten(2); }

void CheckInputs(const torch::Tensor& memory, const torch::Tensor& mask, bool causal) {
  if (mask.defined() && !mask.is_floating_point()) {
    throw std::invalid_argument(
        "an attention mask is added to the logits: give 0 and -infinity, not booleans");
  }
  if (causal && memory.defined()) {
    throw std::invalid_argument("causal attention takes no memory: its keys are its own input");
  }
  if (mask.defined() && mask.dim() > 2 && mask.size(-3) != 1) {
    throw std::invalid_argument(
        "an attention mask is the same for all heads: [batch, 1, queries, "
        "keys]");
  }
}

// Weighted values of every head, from queries that are scaled already; `causal` and `mask` are
// added to the logits where defined.
torch::Tensor Attend(const torch::Tensor& queries, const torch::Tensor& keys,
                     const torch::Tensor& values, const torch::Tensor& causal,
                     const torch::Tensor& mask) {
  torch::Tensor logits = torch::matmul(queries, keys.transpose(-2, -1));
  if (causal.defined()) logits.add_(causal);
  if (mask.defined()) logits.add_(mask.to(logits.dtype()));
  return torch::matmul(torch::softmax(logits, -1), values);
}

std::vector<float> Floats(const torch::Tensor& tensor) {
  const torch::Tensor flat =
      tensor.detach().to(torch::kCPU, torch::kFloat32).contiguous().flatten();
  return {flat.data_ptr<float>(), flat.data_ptr<float>() + flat.numel()};
}

// One number drawn from each of `count` equal stretches of [first, end); all where there are fewer.
std::vector<std::int64_t> DrawStratified(std::int64_t first, std::int64_t end, std::int64_t count,
                                         std::mt19937_64& generator) {
  const std::int64_t drawn = std::min(count, end - first);
  std::vector<std::int64_t> numbers;
  numbers.reserve(static_cast<std::size_t>(drawn));
  for (std::int64_t i = 0; i < drawn; ++i) {
    const std::int64_t low = first + (end - first) * i / drawn;
    const std::int64_t high = first + (end - first) * (i + 1) / drawn - 1;
    numbers.push_back(std::uniform_int_distribution<std::int64_t>(low, high)(generator));
  }
  return numbers;
}

// Of every example the products of a head's values, summed; of these the sizes, summed over the
// examples: [heads], in float32. The factors are [batch, length, heads × head_width].
torch::Tensor SizesOfProducts(const torch::Tensor& one, const torch::Tensor& other,
                              std::int64_t heads) {
  // Some rows at a time: their sums stay in the processor's cache.
  constexpr std::int64_t kRows = 64;
  const std::int64_t length = one.size(1);
  const auto floats = one.options().dtype(torch::kFloat32);
  torch::Tensor sums = torch::empty({std::min(kRows, length), one.size(2)}, floats);
  torch::Tensor sizes = torch::zeros({heads}, floats);
  for (std::int64_t example = 0; example < one.size(0); ++example) {
    sums.zero_();
    for (std::int64_t row = 0; row < length; row += kRows) {
      const std::int64_t count = std::min(kRows, length - row);
      const auto part = [&](const torch::Tensor& x) {
        return x.select(0, example).narrow(0, row, count).to(torch::kFloat32);
      };
      sums.narrow(0, 0, count).addcmul_(part(one), part(other));
    }
    sizes += sums.sum(0).view({heads, -1}).sum(-1).abs();
  }
  return sizes;
}

// Lets backward() add |∂loss/∂gain| of every head, example by example, to `importance`, [heads]
// (Michel et al., 1905.10650: signs that differ between examples do not cancel). `gained` are the
// heads' outputs with their gains, `ungained` without, [batch, length, heads × head_width].
// Returns what to use in place of `gained`.
torch::Tensor MeasureImportance(const torch::Tensor& gained, const torch::Tensor& ungained,
                                std::int64_t heads,
                                const std::shared_ptr<torch::Tensor>& importance) {
  torch::Tensor of_pass =
      gained.requires_grad() ? gained.view_as(gained) : gained.detach().requires_grad_(true);
  of_pass.register_hook(
      [importance, heads, values = ungained.detach()](const torch::Tensor& gradient) {
        const torch::NoGradGuard no_grad;
        try {
          const torch::Tensor now = SizesOfProducts(gradient, values, heads);
          *importance = importance->defined() ? *importance + now : now;
        } catch (const c10::Error&) {
          // No room on its device: this pass is left out, and the backward pass goes on.
        }
      });
  return of_pass;
}

// What makes scales, gains and activity unusable for so many heads, or nothing.
std::optional<std::string> FindFault(std::span<const float> scale, std::span<const float> gain,
                                     std::span<const std::uint8_t> active, std::size_t heads) {
  if (scale.size() != heads || gain.size() != heads || active.size() != heads) {
    return "a site of " + std::to_string(heads) + " heads was given " +
           std::to_string(scale.size()) + " scales, " + std::to_string(gain.size()) +
           " gains and " + std::to_string(active.size()) + " activities";
  }
  for (std::size_t head = 0; head < heads; ++head) {
    // Written so that NaN is out of bounds.
    if (!(scale[head] >= kMinScale && scale[head] <= kMaxScale)) {
      return "scale " + std::to_string(scale[head]) + " of head " + std::to_string(head) +
             " is not within 1/16 to 16";
    }
    if (!(gain[head] >= kMinGain && gain[head] <= kMaxGain)) {
      return "gain " + std::to_string(gain[head]) + " of head " + std::to_string(head) +
             " is not within 0 to 16";
    }
  }
  if (CountActive(active) == 0) return "no head is active: at least one must be";
  return std::nullopt;
}

torch::nn::Linear MakeLinear(std::int64_t in, std::int64_t out, bool bias) {
  return torch::nn::Linear(torch::nn::LinearOptions(in, out).bias(bias));
}

}  // namespace

torch::Tensor CausalMask::Of(std::int64_t length, const torch::TensorOptions& options) {
  const std::lock_guard lock(mutex_);
  if (!mask_.defined() || mask_.size(0) < length || mask_.dtype() != options.dtype() ||
      mask_.device() != options.device()) {
    const c10::InferenceMode normal(false);  // usable in training whoever comes first
    mask_ = torch::full({length, length}, kMinusInfinity, options.requires_grad(false)).triu(1);
  }
  return mask_.narrow(0, 0, length).narrow(1, 0, length);
}

PlainAttentionImpl::PlainAttentionImpl(const AttentionOptions& options, std::int64_t heads,
                                       std::int64_t head_width)
    : heads_(heads), head_width_(head_width), causal_(options.causal) {
  const std::int64_t key_width = options.key_width == 0 ? options.width : options.key_width;
  const std::int64_t inner = heads * head_width;
  query = register_module("query", MakeLinear(options.width, inner, options.bias));
  key = register_module("key", MakeLinear(key_width, inner, options.bias));
  value = register_module("value", MakeLinear(key_width, inner, options.bias));
  output = register_module("output", MakeLinear(inner, options.width, options.bias));
}

torch::Tensor PlainAttentionImpl::forward(const torch::Tensor& x, const torch::Tensor& memory,
                                          const torch::Tensor& mask) {
  CheckInputs(memory, mask, causal_);
  const torch::Tensor& source = memory.defined() ? memory : x;
  const torch::Tensor queries = Split(query->forward(x), heads_, head_width_) *
                                (1.0 / std::sqrt(static_cast<double>(head_width_)));
  const torch::Tensor keys = Split(key->forward(source), heads_, head_width_);
  const torch::Tensor values = Split(value->forward(source), heads_, head_width_);
  torch::Tensor causal;
  if (causal_) causal = causal_mask_.Of(queries.size(2), queries.options());
  return output->forward(Merge(Attend(queries, keys, values, causal, mask)));
}

TunableAttentionImpl::TunableAttentionImpl(const AttentionOptions& options) : options_(options) {
  if (options.width < 1 || options.heads < 1 || options.context < 1 || options.key_width < 0) {
    throw std::invalid_argument("attention needs a width, heads and a context of at least 1");
  }
  if (options.width % options.heads != 0) {
    throw std::invalid_argument("attention of width " + std::to_string(options.width) +
                                " cannot be divided among " + std::to_string(options.heads) +
                                " heads");
  }
  if (options.causal && options.key_width != 0) {
    throw std::invalid_argument("cross-attention cannot be causal: leave key_width at 0");
  }
  head_width_ = options.width / options.heads;
  const std::int64_t key_width = options.key_width == 0 ? options.width : options.key_width;
  query = register_module("query", MakeLinear(options.width, options.width, options.bias));
  key = register_module("key", MakeLinear(key_width, options.width, options.bias));
  value = register_module("value", MakeLinear(key_width, options.width, options.bias));
  output = register_module("output", MakeLinear(options.width, options.width, options.bias));
  scale_ = register_buffer("scale", torch::ones({options.heads}, torch::kFloat32));
  gain_ = register_buffer("gain", torch::ones({options.heads}, torch::kFloat32));
  active_ = register_buffer("active", torch::ones({options.heads}, torch::kUInt8));
}

const TunableAttentionImpl::Prepared& TunableAttentionImpl::Prepare() const {
  // Writing to a buffer changes its version, loading or moving it the place of its data: seen here
  // without reading the data, which may lie on another device.
  const std::array<const torch::Tensor*, 3> buffers = {&scale_, &gain_, &active_};
  std::array<const void*, 3> place{};
  std::array<std::int64_t, 3> version{};
  for (std::size_t i = 0; i < buffers.size(); ++i) {
    place[i] = buffers[i]->data_ptr();
    version[i] = buffers[i]->is_inference() ? 0 : static_cast<std::int64_t>(buffers[i]->_version());
  }
  if (prepared_.count > 0 && place == prepared_.place && version == prepared_.version) {
    return prepared_;
  }

  const c10::InferenceMode normal(false);  // usable in training whoever comes first
  const torch::NoGradGuard no_grad;
  Prepared now;
  now.place = place;
  now.version = version;
  now.setting.scale = Floats(scale_);
  now.setting.gain = Floats(gain_);
  for (const float flag : Floats(active_)) now.setting.active.push_back(flag != 0 ? 1 : 0);
  if (const auto fault = FindFault(now.setting.scale, now.setting.gain, now.setting.active,
                                   static_cast<std::size_t>(options_.heads))) {
    throw std::invalid_argument("attention's buffers cannot be used: " + *fault);
  }

  const auto root = static_cast<float>(std::sqrt(static_cast<double>(head_width_)));
  std::vector<float> factor, gain;
  std::vector<std::int64_t> numbers;
  for (std::int64_t head = 0; head < options_.heads; ++head) {
    const auto h = static_cast<std::size_t>(head);
    if (now.setting.active[h] == 0) continue;
    if (now.count == 0) now.first = head;
    ++now.count;
    now.plain_scale = now.plain_scale && now.setting.scale[h] == 1;
    now.plain_gain = now.plain_gain && now.setting.gain[h] == 1;
    factor.push_back(now.setting.scale[h] / root);
    gain.push_back(now.setting.gain[h]);
    numbers.push_back(head);
  }
  const torch::Device device = query->weight.device();
  now.factor = torch::tensor(factor).view({-1, 1, 1}).to(device);
  now.gain = torch::tensor(gain).repeat_interleave(head_width_).to(device);
  if (numbers.back() - now.first + 1 != now.count) now.heads = torch::tensor(numbers).to(device);
  prepared_ = std::move(now);
  return prepared_;
}

torch::Tensor TunableAttentionImpl::Part(const Prepared& now, const torch::Tensor& tensor,
                                         std::int64_t dimension) const {
  if (!tensor.defined() || now.count == options_.heads) return tensor;
  if (now.heads.defined()) {
    // Whole heads are blocks of memory; picked row by row, or column by column, they cost more than
    // all of a small layer's arithmetic.
    std::vector<std::int64_t> by_head = tensor.sizes().vec();
    by_head[static_cast<std::size_t>(dimension)] = head_width_;
    by_head.insert(by_head.begin() + dimension, options_.heads);
    return tensor.view(by_head)
        .index_select(dimension, now.heads)
        .flatten(dimension, dimension + 1);
  }
  return tensor.narrow(dimension, now.first * head_width_, now.count * head_width_);
}

torch::Tensor TunableAttentionImpl::forward(const torch::Tensor& x, const torch::Tensor& memory,
                                            const torch::Tensor& mask) {
  CheckInputs(memory, mask, options_.causal);
  const Prepared& now = Prepare();
  const bool measure = wish_.has_value() && is_training();
  const bool again = !wish_ && measured_ && is_training();  // a further pass of a measured step
  const double start = measure || again ? ProcessorSeconds() : 0;

  const auto project = [&](const torch::nn::Linear& linear, const torch::Tensor& input) {
    return Split(F::linear(input, Part(now, linear->weight, 0), Part(now, linear->bias, 0)),
                 now.count, head_width_);
  };
  const torch::Tensor& source = memory.defined() ? memory : x;
  torch::Tensor queries = project(query, x);
  queries = now.plain_scale ? queries * (1.0 / std::sqrt(static_cast<double>(head_width_)))
                            : queries * now.factor.to(queries.dtype());
  const torch::Tensor keys = project(key, source);
  const torch::Tensor values = project(value, source);
  torch::Tensor causal;
  if (options_.causal) causal = causal_mask_.Of(queries.size(2), queries.options());
  const torch::Tensor heads = Attend(queries, keys, values, causal, mask);
  std::shared_ptr<torch::Tensor> importance;  // of this pass, where it counts
  if (measure) importance = std::make_shared<torch::Tensor>();
  if (again && now.setting.active == measured_->active) importance = measured_->importance;
  torch::Tensor merged = Merge(heads);
  torch::Tensor projection = Part(now, output->weight, 1);
  if (importance && torch::GradMode::is_enabled() &&
      (merged.requires_grad() || projection.requires_grad())) {
    const torch::Tensor gained = now.plain_gain ? merged : merged * now.gain.to(merged.dtype());
    merged = MeasureImportance(gained, merged, now.count, importance);
  } else if (!now.plain_gain) {
    projection = projection * now.gain.to(projection.dtype());
  }
  const torch::Tensor result = F::linear(merged, projection, output->bias);

  if (measure) {
    const double seconds = ProcessorSeconds() - start;
    measured_.reset();
    try {
      // Of a pass that shows nothing (no rows, one key) the wish stays for the next.
      if (auto sample = Draw(now, queries, keys, heads, mask, *wish_)) {
        measured_ =
            Measured{*std::move(sample), std::move(importance), now.setting.active, seconds};
        if (queries.is_cpu()) measured_->content = WorkOut(std::get<Sample>(measured_->content));
        wish_.reset();
      }
    } catch (const c10::Error&) {  // no room on its device: a step without a measurement
      measured_.reset();
      wish_.reset();
    }
  } else if (again) {
    measured_->forward_seconds += ProcessorSeconds() - start;
  }
  return result;
}

// From the scaled queries, the keys and the heads' outputs before the gain, [batch, count, length,
// head_width] each: what Measure needs, in 32-bit floats; nothing where there are no two keys. S
// sequences, A active heads, R rows and K keys below.
std::optional<TunableAttentionImpl::Sample> TunableAttentionImpl::Draw(
    const Prepared& now, const torch::Tensor& queries, const torch::Tensor& keys,
    const torch::Tensor& heads, const torch::Tensor& mask, const Wish& wish) {
  const torch::NoGradGuard no_grad;
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const std::int64_t batch = queries.size(0);
  const std::int64_t length = queries.size(2);
  const std::int64_t key_count = keys.size(2);
  if (batch == 0 || length == 0 || key_count < 2) return std::nullopt;
  const std::int64_t first =
      !options_.causal ? 0 : std::min<std::int64_t>(length - 1, length >= 16 ? 15 : 1);

  const torch::Device device = queries.device();
  const torch::Tensor rows =
      torch::tensor(DrawStratified(first, length, wish.rows, sampler_)).to(device);
  const std::vector<std::int64_t> drawn = DrawStratified(0, batch, wish.sequences, sampler_);
  const torch::Tensor sequences = torch::tensor(drawn).to(device);
  const auto sample = [&](const torch::Tensor& x) {
    return x.index_select(2, rows).index_select(0, sequences).to(torch::kFloat32);
  };

  const torch::Tensor sampled = sample(queries);
  Sample result;
  result.logits =
      torch::empty({sampled.size(0), now.count, sampled.size(2), key_count}, sampled.options());
  for (std::int64_t i = 0; i < sampled.size(0); ++i) {  // sequence by sequence: no key is copied
    torch::Tensor of_sequence = result.logits[i];
    torch::matmul_out(
        of_sequence, sampled[i],
        keys[drawn[static_cast<std::size_t>(i)]].to(torch::kFloat32).transpose(-2, -1));
  }
  if (options_.causal) {
    result.logits.add_(causal_mask_.Of(length, queries.options()).index_select(0, rows));
  }
  if (mask.defined()) {
    const torch::Tensor part = sample(mask.expand({batch, 1, length, key_count}));
    result.logits.add_(part.masked_fill(part <= kHiddenBelow, kMinusInfinity));
  }
  const torch::Tensor gain = now.gain.view({now.count, -1}).narrow(1, 0, 1);  // [A, 1]
  result.norms = sample(heads).norm(2, -1) * gain;                            // [S, A, R]
  return result;
}

TunableAttentionImpl::Numbers TunableAttentionImpl::WorkOut(const Sample& sample) {
  const auto size = [&](std::int64_t i) { return static_cast<std::size_t>(sample.logits.size(i)); };
  std::vector<torch::Tensor> here;  // where the processor can read them
  const auto read = [&here](const torch::Tensor& tensor) -> std::span<const float> {
    here.push_back(tensor.to(torch::kCPU).contiguous());
    return {here.back().data_ptr<float>(), static_cast<std::size_t>(tensor.numel())};
  };
  const torch::NoGradGuard no_grad;
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const SampledRows rows{size(0),
                         size(1),
                         size(2),
                         size(3),
                         read(sample.logits),
                         read(torch::softmax(sample.logits, -1)),
                         read(sample.norms)};
  Numbers numbers;
  numbers.metrics.assign(size(1) * kMetrics, 0.0F);
  numbers.profile.assign(size(1) * kProfileBins, 0.0F);
  if (Measure(rows, numbers.metrics, numbers.profile) == 0) return {};
  return numbers;
}

Site TunableAttentionImpl::Describe(std::string name) const {
  return {std::move(name),
          options_.key_width == 0 ? SiteKind::kSelf : SiteKind::kCross,
          options_.causal,
          static_cast<std::uint32_t>(options_.heads),
          static_cast<std::uint32_t>(head_width_),
          static_cast<std::uint32_t>(options_.context)};
}

void TunableAttentionImpl::Apply(std::span<const float> scale, std::span<const float> gain,
                                 std::span<const std::uint8_t> active) {
  if (const auto fault = FindFault(scale, gain, active, static_cast<std::size_t>(options_.heads))) {
    throw std::invalid_argument(*fault);
  }
  const torch::NoGradGuard no_grad;
  const auto write = [](torch::Tensor& buffer, auto values) {
    buffer.copy_(torch::tensor(std::vector(values.begin(), values.end())));
  };
  write(scale_, scale);
  write(gain_, gain);
  write(active_, active);
}

Setting TunableAttentionImpl::Current() const { return Prepare().setting; }

void TunableAttentionImpl::MeasureNext(std::int64_t rows, std::int64_t sequences) {
  if (rows < 1 || sequences < 1) {
    throw std::invalid_argument("measuring attention takes at least 1 row of 1 sequence");
  }
  wish_ = Wish{rows, sequences};
}

std::optional<SiteMeasurement> TunableAttentionImpl::TakeMeasurement() {
  wish_.reset();
  std::optional<Measured> measured = std::exchange(measured_, std::nullopt);
  if (!measured) return std::nullopt;
  if (const auto* sample = std::get_if<Sample>(&measured->content)) {
    try {
      measured->content = WorkOut(*sample);
    } catch (const c10::Error&) {  // no room on its device
      return std::nullopt;
    }
  }
  auto& [metrics, profile] = std::get<Numbers>(measured->content);
  if (metrics.empty()) return std::nullopt;
  const std::size_t count = metrics.size() / kMetrics;
  const std::vector<float> importance = measured->importance->defined()
                                            ? Floats(*measured->importance)
                                            : std::vector<float>(count, 0.0F);

  const std::size_t heads = measured->active.size();
  SiteMeasurement result;
  result.metrics.assign(heads * kMetrics, 0.0F);
  result.profile.assign(heads * kProfileBins, 0.0F);
  result.active = measured->active;
  result.forward_seconds = measured->forward_seconds;
  std::size_t row = 0;
  for (std::size_t head = 0; head < heads; ++head) {
    if (measured->active[head] == 0) continue;
    metrics[row * kMetrics + static_cast<std::size_t>(Metric::kImportance)] = importance[row];
    std::copy_n(metrics.begin() + row * kMetrics, kMetrics,
                result.metrics.begin() + head * kMetrics);
    std::copy_n(profile.begin() + row * kProfileBins, kProfileBins,
                result.profile.begin() + head * kProfileBins);
    ++row;
  }
  return result;
}

PlainAttention TunableAttentionImpl::Bake() const {
  const torch::NoGradGuard no_grad;
  const Prepared& now = Prepare();
  PlainAttention plain(options_, now.count, head_width_);
  plain->to(query->weight.device(), query->weight.scalar_type());
  plain->train(is_training());

  const auto copy = [](torch::Tensor& to, const torch::Tensor& from) {
    if (from.defined()) to.copy_(from);
  };
  // Of every row of the query projection, and of every column of the output's.
  const torch::Tensor scale = (now.factor * std::sqrt(static_cast<double>(head_width_)))
                                  .flatten()
                                  .repeat_interleave(head_width_);
  copy(plain->query->weight, Part(now, query->weight, 0) * scale.unsqueeze(1));
  if (options_.bias) copy(plain->query->bias, Part(now, query->bias, 0) * scale);
  copy(plain->key->weight, Part(now, key->weight, 0));
  copy(plain->key->bias, Part(now, key->bias, 0));
  copy(plain->value->weight, Part(now, value->weight, 0));
  copy(plain->value->bias, Part(now, value->bias, 0));
  copy(plain->output->weight, Part(now, output->weight, 1) * now.gain);
  copy(plain->output->bias, output->bias);
  return plain;
}

}  // namespace attune
