// SPDX-License-Identifier: Apache-2.0
// Builds small GGUF files in memory, right or wrong as a test wants them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace llama::test {

/// Appends the format's primitives in the order of the calls.
class gguf_writer {
 public:
  template <class T>
  gguf_writer& number(T value) {
    char bytes[sizeof(T)];
    std::memcpy(bytes, &value, sizeof(T));
    bytes_.append(bytes, sizeof(T));
    return *this;
  }
  gguf_writer& u32(std::uint32_t value) { return number(value); }
  gguf_writer& u64(std::uint64_t value) { return number(value); }
  gguf_writer& string(std::string_view text) {
    u64(text.size());
    bytes_ += text;
    return *this;
  }
  gguf_writer& header(std::uint64_t num_tensors, std::uint64_t num_values) {
    bytes_ += "GGUF";
    return u32(3).u64(num_tensors).u64(num_values);
  }
  gguf_writer& string_value(std::string_view key, std::string_view text) {
    return string(key).u32(8).string(text);
  }
  gguf_writer& u32_value(std::string_view key, std::uint32_t value) {
    return string(key).u32(4).u32(value);
  }
  gguf_writer& bool_value(std::string_view key, bool value) {
    return string(key).u32(7).number<std::uint8_t>(value);
  }
  gguf_writer& strings_value(std::string_view key, const std::vector<std::string>& texts) {
    string(key).u32(9).u32(8).u64(texts.size());
    for (const std::string& text : texts) string(text);
    return *this;
  }
  template <class T>
  gguf_writer& numbers_value(std::string_view key, std::uint32_t type, const std::vector<T>& all) {
    string(key).u32(9).u32(type).u64(all.size());
    for (const T value : all) number(value);
    return *this;
  }
  gguf_writer& tensor(std::string_view name, const std::vector<std::int64_t>& shape,
                      std::uint32_t type, std::uint64_t offset) {
    string(name).u32(static_cast<std::uint32_t>(shape.size()));
    for (const std::int64_t extent : shape) number(extent);
    return u32(type).u64(offset);
  }
  gguf_writer& pad(std::size_t alignment = 32) {
    while (bytes_.size() % alignment != 0) bytes_ += '\0';
    return *this;
  }
  gguf_writer& raw(std::string_view bytes) {
    bytes_ += bytes;
    return *this;
  }

  std::string& bytes() { return bytes_; }

 private:
  std::string bytes_;
};

inline std::span<const std::byte> as_bytes(const std::string& text) {
  return std::as_bytes(std::span(text));
}

}  // namespace llama::test
