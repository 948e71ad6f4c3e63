// The CURVE keys by which trainers on other hosts reach the daemon, and nobody else does (ZeroMQ's
// CurveZMQ, RFC 26). One pair is the daemon's, one is shared by its trainers.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

namespace attune {

struct KeyPair {
  std::string public_key;  // Z85, 40 characters
  std::string secret_key;
};

struct Keys {
  KeyPair daemon;
  KeyPair trainers;

  // Reads the file, or makes keys and writes it (0600) where there is none. Throws OptionsError for
  // a file that cannot be read, written or understood.
  [[nodiscard]] static Keys Load(const std::filesystem::path& file);

  // What a trainer needs, as ATTUNE_KEYS has it.
  [[nodiscard]] std::string ForTrainers() const;
};

// Whether a client that proves to hold the secret of this public key (32 bytes) is a trainer.
[[nodiscard]] bool IsTrainer(const Keys& keys, std::span<const std::uint8_t> public_key);

}  // namespace attune
