// SPDX-License-Identifier: Apache-2.0
// Checked reading of GGUF's primitives; internal to the GGUF reader.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "llama/format_error.hpp"

namespace llama::detail {

static_assert(std::endian::native == std::endian::little, "GGUF files are read as they lie");

/// Types of metadata values by their number in the file.
enum gguf_value : std::uint32_t {
  gguf_uint8 = 0,
  gguf_int8 = 1,
  gguf_uint16 = 2,
  gguf_int16 = 3,
  gguf_uint32 = 4,
  gguf_int32 = 5,
  gguf_float32 = 6,
  gguf_bool = 7,
  gguf_string = 8,
  gguf_array = 9,
  gguf_uint64 = 10,
  gguf_int64 = 11,
  gguf_float64 = 12,
};

inline constexpr std::uint64_t max_string_bytes = std::uint64_t{16} << 20;
inline constexpr std::uint64_t max_name_bytes = std::uint64_t{64} << 10;
inline constexpr int max_array_depth = 4;

/// Bytes of a value of this type; 0 for strings and arrays, whose size varies.
/// @pre `type` is a known type.
constexpr std::size_t fixed_bytes(std::uint32_t type) {
  constexpr std::size_t bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return bytes[type];
}

/// The fewest bytes that a value of this type takes: the length of a string, or the element type
/// and length of an array.
constexpr std::size_t least_bytes(std::uint32_t type) {
  if (type == gguf_string) return 8;
  return type == gguf_array ? 12 : fixed_bytes(type);
}

/// Reads from front to back and never beyond the end.
class gguf_cursor {
 public:
  gguf_cursor(std::span<const std::byte> bytes, std::string_view file)
      : bytes_(bytes), file_(file) {}

  std::size_t position() const { return position_; }
  std::uint64_t remaining() const { return bytes_.size() - position_; }
  std::span<const std::byte> rest() const { return bytes_.subspan(position_); }

  [[noreturn]] void fail(std::string_view expected, std::string_view found) const {
    throw format_error(std::string(file_) + ": byte " + std::to_string(position_), expected, found);
  }

  /// Fails unless `count` items of at least `item_bytes` each can still follow.
  void expect_room(std::uint64_t count, std::size_t item_bytes, std::string_view what) const {
    if (count > remaining() / item_bytes) {
      fail(std::string(what) + " within the remaining " + std::to_string(remaining()) + " bytes",
           std::to_string(count));
    }
  }

  template <class T>
  T read(std::string_view what) {
    if (remaining() < sizeof(T)) fail(what, "the end of the file");
    T value;
    std::memcpy(&value, bytes_.data() + position_, sizeof(T));
    position_ += sizeof(T);
    return value;
  }

  std::string_view read_string(std::uint64_t max_bytes, std::string_view what) {
    const auto length = read<std::uint64_t>(what);
    if (length > max_bytes) {
      fail(std::string(what) + " of at most " + std::to_string(max_bytes) + " bytes",
           std::to_string(length));
    }
    expect_room(length, 1, what);
    const auto* text = reinterpret_cast<const char*>(bytes_.data() + position_);
    position_ += static_cast<std::size_t>(length);
    return {text, static_cast<std::size_t>(length)};
  }

  std::uint32_t read_value_type() {
    const auto type = read<std::uint32_t>("a value type");
    if (type > gguf_float64) fail("a value type from 0 to 12", std::to_string(type));
    return type;
  }

  /// Checks and passes over `count` values of one type.
  void skip_values(std::uint32_t type, std::uint64_t count, int depth) {
    expect_room(count, least_bytes(type), "a number of array elements");
    if (fixed_bytes(type) != 0) {
      position_ += static_cast<std::size_t>(count) * fixed_bytes(type);
      return;
    }
    if (type == gguf_array && depth >= max_array_depth) {
      fail("arrays nested at most " + std::to_string(max_array_depth) + " deep", "a deeper one");
    }
    for (std::uint64_t i = 0; i < count; ++i) {
      if (type == gguf_string) {
        read_string(max_string_bytes, "a string");
      } else {
        const std::uint32_t element = read_value_type();
        skip_values(element, read<std::uint64_t>("an array length"), depth + 1);
      }
    }
  }

 private:
  std::span<const std::byte> bytes_;
  std::string_view file_;
  std::size_t position_ = 0;
};

}  // namespace llama::detail
