// The command line's line to a daemon: one question, one answer.
#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "collectors/messages.h"

namespace attune {

// Whether nobody can be listening at an ipc endpoint; false of others, where it takes a question.
[[nodiscard]] bool IsDeserted(const std::string& endpoint);

// The daemon's answer, or nothing: at once where nobody listens at an ipc endpoint, else when none
// came in time (a busy daemon, no daemon at a tcp endpoint). Signals do not cut it short. Throws
// CodecError if the answer is not attune's, std::runtime_error if ZeroMQ cannot use the endpoint.
[[nodiscard]] std::optional<Message> Ask(const std::string& endpoint, const Message& question,
                                         std::chrono::milliseconds timeout);

}  // namespace attune
