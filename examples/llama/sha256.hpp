// SPDX-License-Identifier: Apache-2.0
// SHA-256 (FIPS 180-4), which names files and vocabularies in tuning profiles.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace llama {

/// Hashes a message that arrives in pieces: any number of `update`, then one `hex`.
class sha256 {
 public:
  sha256& update(std::span<const std::byte> bytes);
  sha256& update(std::string_view text) { return update(std::as_bytes(std::span(text))); }

  /// The digest as 64 lower-case hexadecimal digits. Ends the message.
  std::string hex();

  /// The digest of one message.
  static std::string of(std::span<const std::byte> bytes) { return sha256{}.update(bytes).hex(); }
  static std::string of(std::string_view text) { return sha256{}.update(text).hex(); }

 private:
  void compress(const std::byte* block);

  std::array<std::uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::byte, 64> block_{};
  std::uint64_t length_ = 0;  // bytes so far
};

}  // namespace llama
