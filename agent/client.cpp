#include "agent/client.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <string_view>
#include <zmq.hpp>

#include "collectors/codec.h"

namespace attune {

// Its socket is missing, or was left by a killed daemon. ZeroMQ itself would go on trying to
// connect.
bool IsDeserted(const std::string& endpoint) {
  constexpr std::string_view kScheme = "ipc://";
  sockaddr_un address{};
  if (!endpoint.starts_with(kScheme) ||
      endpoint.size() - kScheme.size() >= sizeof(address.sun_path)) {
    return false;
  }
  address.sun_family = AF_UNIX;
  endpoint.copy(address.sun_path, sizeof(address.sun_path) - 1, kScheme.size());
  const int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (probe < 0) return false;
  const bool deserted =
      connect(probe, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 &&
      (errno == ENOENT || errno == ECONNREFUSED);
  close(probe);
  return deserted;
}

std::optional<Message> Ask(const std::string& endpoint, const Message& question,
                           std::chrono::milliseconds timeout) {
  using Clock = std::chrono::steady_clock;
  if (IsDeserted(endpoint)) return std::nullopt;
  zmq::context_t context(1);
  zmq::socket_t socket(context, zmq::socket_type::dealer);
  socket.set(zmq::sockopt::linger, 0);
  socket.set(zmq::sockopt::maxmsgsize, static_cast<std::int64_t>(kMaxFrameBytes));
  socket.connect(endpoint);
  const std::string bytes = Encode(question);
  socket.send(zmq::buffer(bytes), zmq::send_flags::none);
  const auto deadline = Clock::now() + timeout;
  while (true) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
    if (left.count() <= 0) return std::nullopt;
    socket.set(zmq::sockopt::rcvtimeo, static_cast<int>(left.count()));
    try {
      zmq::message_t frame;
      if (!socket.recv(frame)) return std::nullopt;
      return Decode({static_cast<const std::byte*>(frame.data()), frame.size()});
    } catch (const zmq::error_t& error) {
      if (error.num() != EINTR) throw;  // a signal was handled: wait for the rest of the time
    }
  }
}

}  // namespace attune
