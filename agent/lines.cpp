#include "agent/lines.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <iterator>
#include <zmq_addon.hpp>

#include "agent/client.h"
#include "agent/options.h"
#include "collectors/codec.h"

namespace attune {

namespace {
constexpr int kKeepAlive = 60;  // seconds of silence before TCP asks whether the other end is there
}  // namespace

Lines::Lines(const Paths& paths, const std::string& listen) {
  // ZeroMQ would take the socket away from whoever listens there.
  if (!IsDeserted(paths.Endpoint())) {
    throw OptionsError(
        fmt::format("another attuned listens at {}; give this one another --runtime-directory",
                    paths.Endpoint()));
  }
  Open('l');
  try {
    lines_.back().socket.bind(paths.Endpoint());
  } catch (const zmq::error_t& error) {
    throw OptionsError(fmt::format("cannot listen at {}: {}; give another --runtime-directory",
                                   paths.Endpoint(), error.what()));
  }
  if (listen.empty()) return;
  if (!listen.starts_with("tcp://")) {
    throw OptionsError("listen: '" + listen + "' is not tcp://HOST:PORT");
  }
  Open('r');
  Guard(paths);
  // A host that is gone without a word does not keep its connection for ever.
  lines_.back().socket.set(zmq::sockopt::tcp_keepalive, 1);
  lines_.back().socket.set(zmq::sockopt::tcp_keepalive_idle, kKeepAlive);
  try {
    lines_.back().socket.bind(listen);
  } catch (const zmq::error_t& error) {
    throw OptionsError(fmt::format(
        "cannot listen at {}: {}; give --listen an address of this host, as tcp://HOST:PORT",
        listen, error.what()));
  }
}

void Lines::Open(char prefix) {
  zmq::socket_t& socket =
      lines_.emplace_back(Line{prefix, {context_, zmq::socket_type::router}}).socket;
  socket.set(zmq::sockopt::linger, 0);
  socket.set(zmq::sockopt::maxmsgsize, static_cast<std::int64_t>(kMaxFrameBytes));
}

void Lines::Guard(const Paths& paths) {
  keys_ = Keys::Load(paths.Keys());
  keys_file_ = paths.Keys().string();
  authenticator_.bind("inproc://zeromq.zap.01");  // before the line that it guards (RFC 27)
  zmq::socket_t& socket = lines_.back().socket;
  socket.set(zmq::sockopt::zap_domain, "attune");
  socket.set(zmq::sockopt::curve_server, true);
  socket.set(zmq::sockopt::curve_secretkey, keys_->daemon.secret_key);
}

// ZeroMQ asks for every connection from another host (RFC 27).
void Lines::Authenticate() {
  std::vector<zmq::message_t> request;
  if (!zmq::recv_multipart(authenticator_, std::back_inserter(request),
                           zmq::recv_flags::dontwait) ||
      request.size() < 2) {
    return;
  }
  // version, request id, domain, address, identity, mechanism, client's key
  const bool is_trainer = request.size() == 7 && request[5].to_string_view() == "CURVE" &&
                          IsTrainer(*keys_, {request[6].data<std::uint8_t>(), request[6].size()});
  if (!is_trainer) {
    spdlog::warn("refused a connection from {}: its key is not of {}",
                 request.size() > 3 ? request[3].to_string() : "somewhere", keys_file_);
  }
  const std::string id = request[1].to_string();
  const std::array<zmq::const_buffer, 6> reply = {
      zmq::str_buffer("1.0"),
      zmq::buffer(id),
      is_trainer ? zmq::str_buffer("200") : zmq::str_buffer("400"),
      is_trainer ? zmq::str_buffer("OK") : zmq::str_buffer("unknown key"),
      zmq::str_buffer(""),
      zmq::str_buffer("")};
  zmq::send_multipart(authenticator_, reply);
}

bool Lines::Wait(std::chrono::milliseconds at_most, int descriptor) {
  std::vector<zmq::pollitem_t> items = {{nullptr, descriptor, ZMQ_POLLIN, 0},
                                        {authenticator_.handle(), 0, ZMQ_POLLIN, 0}};
  for (Line& line : lines_) items.push_back({line.socket.handle(), 0, ZMQ_POLLIN, 0});
  zmq::poll(items, at_most);
  if ((items[1].revents & ZMQ_POLLIN) != 0) Authenticate();
  return (items[0].revents & ZMQ_POLLIN) != 0;
}

std::optional<Lines::Letter> Lines::Receive() {
  for (std::size_t i = 0; i < lines_.size(); ++i) {
    Line& line = lines_[turn_];
    turn_ = (turn_ + 1) % lines_.size();
    if (!line.socket.recv(identity_, zmq::recv_flags::dontwait)) continue;
    Letter letter;
    letter.peer = line.prefix + identity_.to_string();
    // The frames of a message come together.
    for (bool more = identity_.more(); more; more = frame_.more()) {
      static_cast<void>(line.socket.recv(frame_));
      ++letter.frames;
    }
    letter.frame = {static_cast<const std::byte*>(frame_.data()), frame_.size()};
    return letter;
  }
  return std::nullopt;
}

void Lines::Send(const std::string& peer, std::string_view frame) {
  const auto line = std::ranges::find(lines_, peer.at(0), &Line::prefix);
  const std::array<zmq::const_buffer, 2> frames = {zmq::buffer(peer.data() + 1, peer.size() - 1),
                                                   zmq::buffer(frame)};
  static_cast<void>(zmq::send_multipart(line->socket, frames, zmq::send_flags::dontwait));
}

}  // namespace attune
