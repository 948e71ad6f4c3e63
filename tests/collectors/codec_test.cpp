// The codec against golden bytes (tests/collectors/golden, which other languages decode too), and
// against frames that are cut, changed or made to harm.
#include "collectors/codec.h"

#include <array>
#include <catch2/catch.hpp>
#include <cctype>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

using namespace attune;

namespace {

std::filesystem::path Here() { return std::filesystem::path(__FILE__).parent_path(); }

std::string ReadText(const std::filesystem::path& path) {
  std::ifstream file(path);
  INFO(path);
  REQUIRE(file);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string Hex(std::string_view bytes) {
  std::ostringstream out;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    constexpr std::string_view kDigits = "0123456789abcdef";
    const auto byte = static_cast<unsigned char>(bytes[i]);
    out << kDigits[byte >> 4U] << kDigits[byte & 15U] << (i % 32 == 31 ? '\n' : ' ');
  }
  return out.str();
}

std::string FromHex(std::string_view hex) {
  std::string digits;
  for (const char c : hex) {
    if (std::isxdigit(static_cast<unsigned char>(c)) != 0) digits += c;
  }
  std::string bytes;
  for (std::size_t i = 0; i + 1 < digits.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(digits.substr(i, 2), nullptr, 16));
  }
  return bytes;
}

Message DecodeText(std::string_view bytes) {
  return Decode(std::as_bytes(std::span(bytes.data(), bytes.size())));
}

// What the codec says about bytes that it refuses.
CodecError Refusal(std::string_view bytes) {
  try {
    (void)DecodeText(bytes);
  } catch (const CodecError& error) {
    return error;
  }
  FAIL("was decoded: " << Hex(bytes.substr(0, 64)));
  throw std::logic_error("FAIL throws");
}

// A job of two sites with three heads, the second head skipped.
JobSpec GoldenJob() {
  return {.key = "run-7",
          .name = "tiny translator",
          .topology = {{{.name = "decoder.0.self",
                         .kind = SiteKind::kSelf,
                         .causal = true,
                         .heads = 2,
                         .head_width = 16,
                         .context = 128},
                        {.name = "decoder.0.cross",
                         .kind = SiteKind::kCross,
                         .causal = false,
                         .heads = 1,
                         .head_width = 32,
                         .context = 300}}},
          .budget = {BudgetKind::kSteps, 20'000, 0.0625},
          .seed = 42,
          .learning_rate = 0.00048828125,
          .policy = "kmeans",
          .optimizer = "AdamW",
          .fresh = true};
}
Setting GoldenSetting() { return {{1.0F, 1.5F, 0.25F}, {1.0F, 0.5F, 2.0F}, {1, 0, 1}}; }

Observation GoldenObservation() {
  Observation observation{.step = 4096,
                          .compute_seconds = 12.5,
                          .loss = 2.75,
                          .attention_share = 0.375F,
                          .action = 11,
                          .dropped = 3,
                          .active = {1, 0, 1},
                          .metrics = std::vector<float>(3 * kMetrics),
                          .profile = std::vector<float>(3 * kProfileBins)};
  for (std::size_t i = 0; i < kMetrics; ++i) {
    observation.metrics[i] = static_cast<float>(i) / 8.0F;
    observation.metrics[2 * kMetrics + i] = 1.0F - static_cast<float>(i) / 8.0F;
  }
  for (std::size_t i = 0; i < kProfileBins; ++i) {
    observation.profile[i] = 0.0625F;
    observation.profile[2 * kProfileBins + i] = i == 0 ? 1.0F : 0.0F;
  }
  return observation;
}

Action GoldenAction() {
  return {{3, 2, 2}, {CountChange::kKeep, CountChange::kDouble}, {0.5F, -1.0F, 0.0F}};
}

Question GoldenQuestion() {
  Question question{.id = 13,
                    .deadline_seconds = 2.5,
                    .job = 5,
                    .key = "run-7",
                    .window = 6,
                    .step = 4096,
                    .progress = 0.25,
                    .loss = 2.75,
                    .imbalance = -0.125,
                    .topology = GoldenJob().topology,
                    .setting = GoldenSetting(),
                    .tokens = std::vector<float>(3 * kTokenFeatures),
                    .mask = {{{1, 1, 1, 1, 0}, {0, 0, 1, 0, 0}, {0, 1, 1, 1, 1}},
                             {{0, 0, 1, 0, 1}, {0, 0, 1, 0, 0}}}};
  for (std::size_t i = 0; i < kTokenFeatures; ++i) {
    question.tokens[i] = static_cast<float>(i) / 32.0F;
    question.tokens[2 * kTokenFeatures + i] = 1.0F - static_cast<float>(i) / 32.0F;
  }
  return question;
}

// One message of every type, by the name of its golden file.
std::map<std::string, Message> GoldenMessages() {
  return {
      {"hello", Hello{GoldenJob(), GoldenSetting(), 4000, 11, {0, 1, 1}}},
      {"welcome", Welcome{5, 8, 2.5}},
      {"observation", GoldenObservation()},
      {"action_request", ActionRequest{12, 4500, GoldenSetting()}},
      {"action_reply", ActionReply{12, {AckStatus::kRejected, 4104, "gain 2 is above 1"}}},
      {"heartbeat", Heartbeat{4104}},
      {"bye", Bye{Outcome::kFinished, 20'000, 61.25, 2.125}},
      {"error", Error{ErrorCode::kOutOfOrder, "Observation before Hello: send Hello first"}},
      {"status_request", StatusRequest{}},
      {"status", Status{"0.1.0",
                        4711,
                        3600.5,
                        "/var/lib/attune",
                        "network",
                        9,
                        2,
                        {{5, "run-7", "tiny translator", 4104, 0.205, 2.75, -0.125, 2, 3, 6, 7, 3,
                          "decoder.0.self: scale of head 0 x1.15", "network"}},
                        "bandit",
                        4,
                        "disk is full"}},
      {"adjust", Adjust{5, "decoder.0.self", 1, 1.5F, std::nullopt, std::nullopt}},
      {"use_policy", UsePolicy{"kmeans", 5}},
      {"reply", Reply{true, "policy is kmeans now"}},
      {"serve", Serve{"bandit"}},
      {"serving", Serving{2.5}},
      {"question", GoldenQuestion()},
      {"answer", Answer{13, GoldenAction(), -0.75F, 3, "the second head adds nothing"}},
  };
}

std::string GoldenBytes(const std::string& name) {
  return FromHex(ReadText(Here() / "golden" / (name + ".hex")));
}

// A frame by hand: the array header for `fields` fields behind version 1 and the type, then `body`.
std::string Frame(std::uint8_t type, std::uint8_t fields, const std::string& body) {
  return std::string{static_cast<char>(0x90U + fields + 2U), 1, static_cast<char>(type)} + body;
}

}  // namespace

TEST_CASE("every message type has golden bytes, and encoding gives exactly these") {
  const auto messages = GoldenMessages();
  std::vector<bool> seen(std::variant_size_v<Message>);
  for (const auto& [name, message] : messages) {
    INFO(name << " is\n" << Hex(Encode(message)));
    seen[message.index()] = true;
    CHECK(Hex(Encode(message)) == Hex(GoldenBytes(name)));
  }
  CHECK(std::count(seen.begin(), seen.end(), true) == std::ptrdiff_t(seen.size()));
}

TEST_CASE("golden bytes decode to the message that was encoded") {
  for (const auto& [name, message] : GoldenMessages()) {
    INFO(name);
    const Message decoded = DecodeText(GoldenBytes(name));
    CHECK(decoded.index() == message.index());
    CHECK(Hex(Encode(decoded)) == Hex(Encode(message)));
  }

  const auto hello = std::get<Hello>(DecodeText(GoldenBytes("hello")));
  CHECK(hello.job == GoldenJob());
  CHECK(hello.setting == GoldenSetting());
  CHECK(hello.step == 4000);
  CHECK(hello.action == 11);
  CHECK(hello.scale_fixed == std::vector<std::uint8_t>{0, 1, 1});

  const auto observation = std::get<Observation>(DecodeText(GoldenBytes("observation")));
  CHECK(observation.step == 4096);
  CHECK(observation.compute_seconds == 12.5);
  CHECK(observation.loss == 2.75);
  CHECK(observation.attention_share == 0.375F);
  CHECK(observation.action == 11);
  CHECK(observation.dropped == 3);
  CHECK(observation.active == GoldenObservation().active);
  CHECK(observation.metrics == GoldenObservation().metrics);
  CHECK(observation.profile == GoldenObservation().profile);

  const auto bye = std::get<Bye>(DecodeText(GoldenBytes("bye")));
  CHECK(bye.outcome == Outcome::kFinished);
  CHECK(bye.validation_loss == 2.125);

  const auto reply = std::get<ActionReply>(DecodeText(GoldenBytes("action_reply")));
  CHECK(reply.id == 12);
  CHECK(reply.acknowledgement == Acknowledgement{AckStatus::kRejected, 4104, "gain 2 is above 1"});

  const auto adjust = std::get<Adjust>(DecodeText(GoldenBytes("adjust")));
  CHECK(adjust.head == 1U);
  CHECK(adjust.scale == 1.5F);
  CHECK(adjust.gain == std::nullopt);

  const auto question = std::get<Question>(DecodeText(GoldenBytes("question")));
  CHECK(question.topology == GoldenJob().topology);
  CHECK(question.setting == GoldenSetting());
  CHECK(question.tokens == GoldenQuestion().tokens);
  CHECK(question.mask == GoldenQuestion().mask);
  CHECK(question.progress == 0.25);

  const auto answer = std::get<Answer>(DecodeText(GoldenBytes("answer")));
  CHECK(answer.action == GoldenAction());
  CHECK(answer.log_probability == -0.75F);
  CHECK_FALSE(answer.Declines());
  CHECK(std::get<Answer>(DecodeText(Encode(Answer{13, {}, 0, 0, "never saw such"}))).Declines());

  const auto status = std::get<Status>(DecodeText(GoldenBytes("status")));
  REQUIRE(status.jobs.size() == 1);
  CHECK(status.jobs[0].key == "run-7");
  CHECK(status.jobs[0].imbalance == -0.125);
  CHECK(status.jobs[0].last_decider == "network");
}

TEST_CASE("a Hello from before it had an optimiser is read, and says none") {
  std::string frame = GoldenBytes("hello");
  frame.resize(frame.size() - 12);        // a5 "AdamW", true, and c4 03 with three heads
  frame.at(2) = static_cast<char>(0x10);  // an array of 16
  const auto hello = std::get<Hello>(DecodeText(frame));
  JobSpec job = GoldenJob();
  job.optimizer.clear();
  job.fresh = false;
  CHECK(hello.job == job);
  Message memory = DecodeText(GoldenBytes("hello"));
  Decode(std::as_bytes(std::span(frame)), memory);
  CHECK(std::get<Hello>(memory).job == job);
}

TEST_CASE("a Hello from before it could say that weights are fresh says so by its step") {
  std::string frame = GoldenBytes("hello");
  frame.resize(frame.size() - 6);         // true, and c4 03 with three heads
  frame.at(2) = static_cast<char>(0x11);  // an array of 17
  const auto hello = std::get<Hello>(DecodeText(frame));
  CHECK(hello.job.optimizer == "AdamW");
  CHECK_FALSE(hello.job.fresh);
  Hello first = std::get<Hello>(DecodeText(GoldenBytes("hello")));
  first.step = 0;
  frame = Encode(first);
  frame.resize(frame.size() - 6);
  frame.at(2) = static_cast<char>(0x11);
  CHECK(std::get<Hello>(DecodeText(frame)).job.fresh);
}

TEST_CASE("a Hello from before it could fix scales fixes none") {
  std::string frame = GoldenBytes("hello");
  frame.resize(frame.size() - 5);
  frame.at(2) = static_cast<char>(0x12);  // an array of 18
  const auto hello = std::get<Hello>(DecodeText(frame));
  CHECK(hello.job == GoldenJob());
  CHECK(hello.scale_fixed.empty());
  Message memory = DecodeText(GoldenBytes("hello"));
  Decode(std::as_bytes(std::span(frame)), memory);
  CHECK(std::get<Hello>(memory).scale_fixed.empty());
}

TEST_CASE("a UsePolicy from before it could name a job is about all of them") {
  const Message memory = DecodeText(GoldenBytes("use_policy"));
  CHECK(std::get<UsePolicy>(memory).job == 5U);
  Message before = memory;
  const std::string frame = Frame(11, 1, "\xa6kmeans");
  Decode(std::as_bytes(std::span(frame)), before);
  CHECK(std::get<UsePolicy>(before).name == "kmeans");
  CHECK_FALSE(std::get<UsePolicy>(before).job);
}

TEST_CASE("a message is read into the memory of any other and nothing of that is left") {
  std::vector<std::string> frames;
  for (const auto& [name, message] : GoldenMessages()) frames.push_back(GoldenBytes(name));
  frames.push_back(Encode(Answer{13, {}, 0, 0, "declined: nothing of an action in it"}));
  frames.push_back(Encode(Status{}));
  for (const std::string& before : frames) {
    for (const std::string& frame : frames) {
      Message message = DecodeText(before);
      Decode(std::as_bytes(std::span(frame)), message);
      CHECK(Encode(message) == frame);
    }
  }
}

TEST_CASE("the worked example in PROTOCOL.md shows the golden bytes") {
  std::istringstream protocol(ReadText(Here() / "../../collectors/PROTOCOL.md"));
  const std::string fence = "```hex ";
  std::vector<std::string> shown;
  std::string hex;
  bool inside = false;
  for (std::string line; std::getline(protocol, line);) {
    if (line.starts_with(fence)) {
      shown.push_back(line.substr(fence.size()));
      hex.clear();
      inside = true;
    } else if (inside && line == "```") {
      INFO(shown.back());
      CHECK(Hex(FromHex(hex)) == Hex(GoldenBytes(shown.back())));
      inside = false;
    } else if (inside) {
      hex += line.substr(0, line.find(';'));
    }
  }
  CHECK(shown == std::vector<std::string>{"welcome", "action_request", "action_reply", "heartbeat",
                                          "error"});
}

TEST_CASE("a frame cut anywhere is refused as malformed") {
  for (const auto& [name, message] : GoldenMessages()) {
    const std::string bytes = GoldenBytes(name);
    for (std::size_t length = 0; length < bytes.size(); ++length) {
      INFO(name << " cut to " << length << " bytes");
      CHECK(Refusal(bytes.substr(0, length)).Code() == ErrorCode::kMalformed);
    }
  }
}

TEST_CASE("a frame with any one byte changed decodes or is refused, nothing else") {
  std::size_t decoded = 0;
  std::size_t refused = 0;
  for (const auto& [name, message] : GoldenMessages()) {
    const std::string bytes = GoldenBytes(name);
    for (std::size_t place = 0; place < bytes.size(); ++place) {
      for (int value = 0; value < 256; ++value) {
        std::string changed = bytes;
        changed[place] = static_cast<char>(value);
        try {
          // What was decoded is a message, so it can be encoded and decoded again.
          const std::string again = Encode(DecodeText(changed));
          if (Encode(DecodeText(again)) != again) FAIL(name << ", byte " << place);
          ++decoded;
        } catch (const CodecError& error) {
          if (std::string(error.what()).find('\n') != std::string::npos) FAIL(error.what());
          ++refused;
        }
      }
    }
  }
  CHECK(decoded > 1000);
  CHECK(refused > 1000);
}

TEST_CASE("bytes behind a message are refused, fields behind its last are ignored") {
  std::string bytes = Encode(Heartbeat{7});
  CHECK(std::string(Refusal(bytes + '\0').what()) ==
        "frame of 5 bytes: the message ends at byte 4");

  bytes = Frame(5, 3, {7, static_cast<char>(0xc0), static_cast<char>(0xa1), 'x'});
  CHECK(std::get<Heartbeat>(DecodeText(bytes)).step == 7);
}

TEST_CASE("another version of the protocol is told from malformed bytes") {
  std::string bytes = Encode(Heartbeat{7});
  bytes[1] = 9;
  const CodecError error = Refusal(bytes);
  CHECK(error.Code() == ErrorCode::kVersion);
  CHECK_THAT(error.what(), Catch::Contains("version 9") && Catch::Contains("version 1"));
}

TEST_CASE("refusals name the message and the field") {
  CHECK(std::string(Refusal(Frame(5, 0, "")).what()) == "Heartbeat: field 'step' is missing");
  CHECK(std::string(Refusal(Frame(5, 1, "\xff")).what()) ==
        "Heartbeat: field 'step' is a negative integer, not an integer from 0");
  CHECK(std::string(Refusal(Frame(12, 2, {1, static_cast<char>(0xa0)})).what()) ==
        "Reply: field 'ok' is an integer, not a boolean");
  CHECK(std::string(Refusal(Frame(7, 2, {5, static_cast<char>(0xa0)})).what()) ==
        "Error: field 'code' is 5, outside 0 to 4");
  CHECK(std::string(Refusal(Frame(99, 0, "")).what()) ==
        "frame of message type 99, which version 1 does not have");
  CHECK(std::string(Refusal("").what()) == "frame of 0 bytes: empty");
  CHECK(std::string(Refusal("\x07").what()) == "frame of 1 bytes: an integer, not an array");

  // measure_every is uint32: a larger number is not narrowed.
  const std::string two_to_32("\xcf\x00\x00\x00\x01\x00\x00\x00\x00", 9);
  CHECK(std::string(Refusal(Frame(1, 3, "\x05" + two_to_32 + "\x02")).what()) ==
        "Welcome: field 'measure_every' is 4294967296, outside 0 to 4294967295");

  // Adjust's scale is a float32.
  const std::string large("\xcb\x7f\xe0\x00\x00\x00\x00\x00\x00", 9);
  CHECK(std::string(Refusal(Frame(10, 6, "\x05\xa0\xc0" + large + "\xc0\xc0")).what()) ==
        "Adjust: field 'scale' is beyond the range of float32");

  std::string request = Encode(ActionRequest{1, 2, {{}, {}, {1}}});
  request.back() = 2;
  CHECK(std::string(Refusal(request).what()) ==
        "ActionRequest: field 'active' holds 2 at place 0 where only 0 and 1 may stand");
  request = Encode(ActionRequest{1, 2, {{1.0F}, {}, {}}});
  request.erase(request.size() - 5, 1);  // one byte of the float
  request[6] = 3;                        // and of its length
  CHECK(std::string(Refusal(request).what()) ==
        "ActionRequest: field 'scale' is 3 bytes, which is no whole number of float32");

  // A choice that there is not, and masks that are no whole number of choices.
  CHECK(std::string(
            Refusal(Frame(16, 7, "\x05" + std::string("\xc4\x02\x04\x05") + std::string(5, '\xc0')))
                .what()) == "Answer: field 'scale' holds 5 at place 1 where 0 to 4 may stand");
  Question question = GoldenQuestion();
  question.mask.count.clear();
  std::string uneven = Encode(question);
  uneven.back() = 1;  // the length of count_open
  uneven += '\x01';
  CHECK(std::string(Refusal(uneven).what()) ==
        "Question: field 'count_open' is 1 bytes, which is no whole number of 5");

  std::string hello = GoldenBytes("hello");
  hello[hello.find("decoder.0.cross") + 15] = static_cast<char>(0xc0);  // kind := nil
  CHECK(std::string(Refusal(hello).what()) ==
        "Hello: field 'sites[1].kind' is nil, not an integer from 0");
}

TEST_CASE("numbers may come as any MessagePack number that fits") {
  const std::string as_double("\xcb\x40\x04\x00\x00\x00\x00\x00\x00", 9);  // 2.5
  const std::string as_float("\xca\x40\x20\x00\x00", 5);                   // 2.5
  for (const auto& [bytes, seconds] :
       {std::pair{as_double, 2.5}, {as_float, 2.5}, {std::string("\x02"), 2.0}}) {
    CHECK(std::get<Welcome>(DecodeText(Frame(1, 3, "\x05\x08" + bytes))).heartbeat_seconds ==
          seconds);
  }
  const auto nan = std::numeric_limits<double>::quiet_NaN();
  CHECK(std::isnan(
      std::get<Bye>(DecodeText(Encode(Bye{Outcome::kFailed, 1, nan, {}}))).compute_seconds));
}

TEST_CASE("lengths over their limits are refused both ways") {
  CHECK_THROWS_AS(Encode(UsePolicy{std::string(kMaxNameBytes + 1, 'x')}), std::length_error);
  CHECK(std::get<UsePolicy>(DecodeText(Encode(UsePolicy{std::string(kMaxNameBytes, 'x')})))
            .name.size() == kMaxNameBytes);
  CHECK(
      std::string(Refusal(Frame(11, 1, "\xd9\xc9" + std::string(kMaxNameBytes + 1, 'x'))).what()) ==
      "UsePolicy: field 'name' has 201 bytes, more than 200");

  ActionRequest request{1, 2, Setting::Neutral(kMaxHeads)};
  CHECK(std::get<ActionRequest>(DecodeText(Encode(request))).setting == request.setting);
  request.setting.gain.push_back(1);
  CHECK_THROWS_AS(Encode(request), std::length_error);

  Hello hello{GoldenJob(), GoldenSetting(), 0, 0};
  hello.job.topology.sites.resize(kMaxSites);
  CHECK(std::get<Hello>(DecodeText(Encode(hello))).job.topology.sites.size() == kMaxSites);
  hello.job.topology.sites.emplace_back();
  CHECK_THROWS_AS(Encode(hello), std::length_error);

  Status status;
  status.jobs.resize(kMaxLiveJobs);
  CHECK(std::get<Status>(DecodeText(Encode(status))).jobs.size() == kMaxLiveJobs);
}

TEST_CASE("the largest observation fits into a frame") {
  const Observation observation{.active = std::vector<std::uint8_t>(kMaxHeads, 1),
                                .metrics = std::vector<float>(kMaxHeads * kMetrics, 0.5F),
                                .profile = std::vector<float>(kMaxHeads * kProfileBins, 0.0625F)};
  const auto decoded = std::get<Observation>(DecodeText(Encode(observation)));
  CHECK(decoded.metrics == observation.metrics);
  CHECK(decoded.profile == observation.profile);
}

TEST_CASE("what a frame may not say cannot be encoded") {
  CHECK_THROWS_AS(Encode(ActionReply{1, {AckStatus::kPending, 0, ""}}), std::invalid_argument);
  CHECK_THROWS_AS(Encode(Bye{Outcome::kRunning, 0, 0, {}}), std::invalid_argument);
  CHECK_THROWS_AS(Encode(ActionRequest{1, 2, {{1}, {1}, {2}}}), std::invalid_argument);
  CHECK_THROWS_AS(Encode(Answer{1, {{kScaleChoices}, {}, {}}, 0, 0, ""}), std::invalid_argument);
}

TEST_CASE("long lines for people are cut, never inside a character") {
  const std::string text(kMaxTextBytes - 1, 'x');
  CHECK(std::get<Reply>(DecodeText(Encode(Reply{true, text + "yz"}))).text == text + "y");
  CHECK(std::get<Reply>(DecodeText(Encode(Reply{true, text + "\u00fc"}))).text == text);
}

TEST_CASE("hostile frames are refused before memory is spent on them") {
  // An array that claims 2^32 - 1 elements.
  CHECK_THAT(Refusal("\xdd\xff\xff\xff\xff").what(), Catch::Contains("claims 4294967295 elements"));
  // Arrays within arrays.
  CHECK_THAT(Refusal(std::string(1'000'000, '\x91')).what(), Catch::Contains("nest deeper than 8"));
  // A million nils.
  CHECK_THAT(
      Refusal(std::string("\xdd\x00\x0f\x42\x40", 5) + std::string(1'000'000, '\xc0')).what(),
      Catch::Contains("claims 1000000 elements"));
  // A string and a binary that claim 4 GiB.
  CHECK_THAT(Refusal(Frame(11, 1, "\xdb\xff\xff\xff\xff")).what(),
             Catch::Contains("ends inside a value"));
  CHECK_THAT(Refusal(Frame(11, 1, "\xc6\xff\xff\xff\xff")).what(),
             Catch::Contains("ends inside a value"));
  // A map, an extension, the byte that MessagePack never uses.
  CHECK_THAT(Refusal(Frame(5, 1, "\x81\x01\x02")).what(), Catch::Contains("map"));
  CHECK_THAT(Refusal(Frame(5, 1, "\xd4\x01\x02")).what(), Catch::Contains("extension"));
  CHECK_THAT(Refusal(Frame(5, 1, "\xc1")).what(), Catch::Contains("the byte at 3"));
  CHECK_THAT(Refusal(std::string(kMaxFrameBytes + 1, '\xc0')).what(),
             Catch::Contains("larger than 16777216"));
}
