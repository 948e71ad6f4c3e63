#include "agent/keys.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include "agent/options.h"

namespace attune {
namespace {

constexpr std::size_t kKeyBytes = 32;
constexpr std::size_t kKeyCharacters = 40;

KeyPair MakePair() {
  std::array<char, kKeyCharacters + 1> public_key{};
  std::array<char, kKeyCharacters + 1> secret_key{};
  if (zmq_curve_keypair(public_key.data(), secret_key.data()) != 0) {
    throw OptionsError("listen: this ZeroMQ was built without CURVE; install Debian's libzmq5");
  }
  return {public_key.data(), secret_key.data()};
}

bool IsKey(const std::string& text) {
  std::array<std::uint8_t, kKeyBytes> bytes{};
  return text.size() == kKeyCharacters && zmq_z85_decode(bytes.data(), text.c_str()) != nullptr;
}

[[noreturn]] void FailWriting(const std::filesystem::path& file) {
  throw OptionsError(fmt::format("cannot write {}: {}", file.string(), std::strerror(errno)));
}

}  // namespace

Keys Keys::Load(const std::filesystem::path& file) {
  if (std::filesystem::exists(file)) {
    std::ifstream stream(file);
    Keys keys;
    stream >> keys.daemon.public_key >> keys.daemon.secret_key >> keys.trainers.public_key >>
        keys.trainers.secret_key;
    for (const KeyPair& pair : {keys.daemon, keys.trainers}) {
      if (!IsKey(pair.public_key) || !IsKey(pair.secret_key)) {
        throw OptionsError(fmt::format(
            "{} does not hold four keys; remove it, and new ones are made", file.string()));
      }
    }
    return keys;
  }
  const Keys keys{MakePair(), MakePair()};
  const std::string text =
      fmt::format("{}\n{}\n{}\n{}\n", keys.daemon.public_key, keys.daemon.secret_key,
                  keys.trainers.public_key, keys.trainers.secret_key);
  const int descriptor = open(file.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (descriptor < 0) FailWriting(file);
  const bool whole =
      write(descriptor, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  close(descriptor);
  if (!whole) FailWriting(file);
  return keys;
}

std::string Keys::ForTrainers() const {
  return daemon.public_key + " " + trainers.public_key + " " + trainers.secret_key;
}

bool IsTrainer(const Keys& keys, std::span<const std::uint8_t> public_key) {
  std::array<std::uint8_t, kKeyBytes> known{};
  zmq_z85_decode(known.data(), keys.trainers.public_key.c_str());
  return std::ranges::equal(known, public_key);
}

}  // namespace attune
