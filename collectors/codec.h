// Messages to bytes and back: MessagePack, positional, one frame a message (PROTOCOL.md).
// The functions are thread safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

#include "collectors/messages.h"

namespace attune {

inline constexpr std::uint32_t kProtocolVersion = 1;
// Larger frames are refused by both sides.
inline constexpr std::size_t kMaxFrameBytes = 16U << 20U;
// Lines for people (`text`, `why`, …) are cut to this length when encoded.
inline constexpr std::size_t kMaxTextBytes = 4096;
// Jobs in one Status.
inline constexpr std::size_t kMaxLiveJobs = 1024;

// Bytes that are no message; what() is one line that says what and where.
class CodecError : public std::runtime_error {
 public:
  CodecError(ErrorCode code, const std::string& text) : std::runtime_error(text), code_(code) {}
  // kMalformed, or kVersion for a frame of another version of the protocol.
  [[nodiscard]] ErrorCode Code() const { return code_; }

 private:
  ErrorCode code_;
};

// The name of the message's type, e.g. "Hello".
[[nodiscard]] std::string_view Name(const Message& message);

// Throws std::length_error where a name, an array or the frame would be longer than its limit, and
// std::invalid_argument for an enumerator or a mask value that the protocol does not allow: what it
// returns is always decodable.
[[nodiscard]] std::string Encode(const Message& message);

// Checks form, lengths, types and enumerators, not the sense of the content (FindFault does). Extra
// fields at the end of a message are ignored. Allocates no more than a small multiple of the frame.
// Throws CodecError.
[[nodiscard]] Message Decode(std::span<const std::byte> frame);
// The same into a message that was there, whose memory serves again where it is of the same type.
// After an exception what it holds means nothing.
void Decode(std::span<const std::byte> frame, Message& message);

}  // namespace attune
