// SPDX-License-Identifier: Apache-2.0
// Reader of GGUF version 3, little-endian: typed metadata and tensors, all of them views into the
// mapped file. The file is not trusted: every count, length and offset is checked against the bytes
// that are left before it is used or anything is allocated for it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "llama/format_error.hpp"
#include "llama/ggml_type.hpp"

namespace llama {

class mapped_file;

/// One tensor of a file.
struct gguf_tensor {
  std::string_view name;
  std::uint32_t type_number;          ///< element type as stored; see `gguf_file::tensor`
  int num_dims;                       ///< 1 to 4
  std::array<std::int64_t, 4> shape;  ///< the row's length first; 1 beyond `num_dims`
  std::span<const std::byte> bytes;   ///< the data; empty if this host does not read the type
};

/// A GGUF file. All views that it hands out live as long as it or a copy of it.
///
/// Refused with `format_error` when the file is opened: another magic or version; anything that
/// does not fit into the file; strings above 16 MiB, keys and names above 64 KiB; arrays nested
/// more than four deep; duplicate keys or tensor names; an alignment that is no power of two;
/// tensors of more than four or of non-positive dimensions, off the alignment, outside the file or
/// overlapping. A tensor of a type that this host does not read is refused only when it is asked
/// for, so that metadata and vocabulary of such a file can be used (its size is unknown, so it may
/// overlap the next one).
class gguf_file {
 public:
  /// Maps and checks a file.
  /// @throws format_error as above, std::system_error if the file cannot be opened.
  explicit gguf_file(const std::filesystem::path& path);

  /// Reads a file that is already in memory, which must outlive the result.
  /// @param name stands for the file's name in messages.
  /// @throws format_error as above.
  static gguf_file from_memory(std::span<const std::byte> bytes, std::string name = "memory");

  /// The file's name, as in messages.
  const std::string& name() const noexcept { return name_; }

  /// Whether the metadata hold this key.
  bool contains(std::string_view key) const { return values_.contains(key); }

  /// The value of a key, or nothing if the key is absent.
  ///
  /// `T` is bool, std::int32_t, std::uint32_t, std::int64_t, std::uint64_t, float,
  /// std::string_view, or std::vector of std::int32_t, float or std::string_view. Any stored
  /// integer type will do for an integer whose range holds the value; float takes both stored
  /// widths.
  /// @throws format_error that names the key if the value has another type or does not fit.
  template <class T>
  std::optional<T> find(std::string_view key) const;

  /// As `find`, but the key must be there.
  /// @throws format_error also if the key is absent.
  template <class T>
  T require(std::string_view key) const;

  /// The value of a key that must be there and lie in [least, most].
  /// @throws format_error if it does not.
  std::int64_t require_in(std::string_view key, std::int64_t least, std::int64_t most) const;

  /// All tensors, in the file's order.
  std::span<const gguf_tensor> tensors() const noexcept { return tensors_; }

  /// A tensor by name, null if the file has none of that name.
  /// @throws format_error that names the tensor if this host does not read its type.
  const gguf_tensor* find_tensor(std::string_view name) const;

  /// As `find_tensor`, but the tensor must be there.
  const gguf_tensor& tensor(std::string_view name) const;

  /// SHA-256 of the whole file, hexadecimal. Reads all of it: about five seconds a gigabyte.
  std::string file_hash() const;

 private:
  struct value {
    std::uint32_t type;  // of the value, of the elements if it is an array
    bool is_array;
    std::uint64_t count;               // elements; 1 if it is no array
    std::span<const std::byte> bytes;  // from the first element on
  };
  class parser;

  gguf_file(std::shared_ptr<const mapped_file> file, std::span<const std::byte> bytes,
            std::string name);
  const value* find_value(std::string_view key) const;
  [[noreturn]] void fail(std::string_view key, std::string_view expected,
                         std::string_view found) const;
  template <class T>
  T decode(std::string_view key, const value& stored) const;

  std::shared_ptr<const mapped_file> file_;  // null for a file in memory
  std::span<const std::byte> bytes_;
  std::string name_;
  std::map<std::string_view, value> values_;
  std::vector<gguf_tensor> tensors_;
  std::map<std::string_view, std::size_t> tensor_index_;
};

template <class T>
T gguf_file::require(std::string_view key) const {
  if (std::optional<T> found = find<T>(key)) return *std::move(found);
  fail(key, "a value", "none");
}

}  // namespace llama
