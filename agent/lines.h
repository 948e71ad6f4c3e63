// How the daemon is reached: by a socket of this host and, where asked for, a tcp port that lets
// nobody in but trainers with the daemon's keys. Used by one thread.
#pragma once

#include <chrono>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>
#include <zmq.hpp>

#include "agent/keys.h"
#include "agent/paths.h"

namespace attune {

class Lines {
 public:
  struct Letter {
    std::string peer;                  // to whom an answer goes
    std::size_t frames = 0;            // of the message; one is right
    std::span<const std::byte> frame;  // the last of them, until the next call of Receive
  };

  // `listen`: tcp://HOST:PORT, or empty for none. Throws OptionsError where it cannot listen.
  Lines(const Paths& paths, const std::string& listen);

  // Until a letter has come, `descriptor` can be read or so much time is over; negative: no limit.
  // Whether `descriptor` can be read. Throws zmq::error_t with EINTR for a signal.
  bool Wait(std::chrono::milliseconds at_most, int descriptor);
  // A letter that has come, from the lines by turns; none where none waits.
  [[nodiscard]] std::optional<Letter> Receive();
  // A peer that is gone or full loses the message: a trainer asks again, a command line gives up.
  void Send(const std::string& peer, std::string_view frame);

 private:
  // Peers of a line have its prefix before their identity there.
  struct Line {
    char prefix;
    zmq::socket_t socket;
  };

  void Open(char prefix);
  void Guard(const Paths& paths);
  void Authenticate();

  zmq::context_t context_{1};
  std::optional<Keys> keys_;  // where there is a tcp port
  std::string keys_file_;
  zmq::socket_t authenticator_{context_, zmq::socket_type::rep};
  std::vector<Line> lines_;  // of this host; tcp
  std::size_t turn_ = 0;     // of the lines
  zmq::message_t identity_, frame_;
};

}  // namespace attune
