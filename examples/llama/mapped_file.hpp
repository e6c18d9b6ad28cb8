// SPDX-License-Identifier: Apache-2.0
// A whole file as read-only memory (POSIX mmap).
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace llama {

/// Owns the mapping of one file; not copyable. The file must not shrink while it is mapped: the
/// operating system answers a read beyond its new end with SIGBUS.
class mapped_file {
 public:
  /// @throws std::system_error that names the file if it cannot be opened, is no regular file or
  ///         cannot be mapped.
  explicit mapped_file(const std::filesystem::path& path);
  ~mapped_file();
  mapped_file(const mapped_file&) = delete;
  mapped_file& operator=(const mapped_file&) = delete;

  /// The bytes of the file; valid as long as this object lives.
  std::span<const std::byte> bytes() const noexcept { return bytes_; }

 private:
  std::span<const std::byte> bytes_;
};

}  // namespace llama
