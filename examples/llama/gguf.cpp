// SPDX-License-Identifier: Apache-2.0
#include "llama/gguf.hpp"

#include <algorithm>
#include <bit>
#include <concepts>
#include <type_traits>
#include <utility>

#include "llama/gguf_parser.hpp"
#include "llama/mapped_file.hpp"
#include "llama/sha256.hpp"

namespace llama {
namespace {

using detail::gguf_cursor;

template <class T>
struct element_of {};
template <class T>
struct element_of<std::vector<T>> {
  using type = T;
};
template <class T>
concept is_vector = requires {
  typename element_of<T>::type;
};

// Calls `receive` with the number that the cursor reads next; nothing for other types.
template <class Receive>
bool with_number(gguf_cursor& cursor, std::uint32_t type, Receive receive) {
  switch (type) {
    case detail::gguf_uint8:
      receive(cursor.read<std::uint8_t>("a number"));
      return true;
    case detail::gguf_int8:
      receive(cursor.read<std::int8_t>("a number"));
      return true;
    case detail::gguf_uint16:
      receive(cursor.read<std::uint16_t>("a number"));
      return true;
    case detail::gguf_int16:
      receive(cursor.read<std::int16_t>("a number"));
      return true;
    case detail::gguf_uint32:
      receive(cursor.read<std::uint32_t>("a number"));
      return true;
    case detail::gguf_int32:
      receive(cursor.read<std::int32_t>("a number"));
      return true;
    case detail::gguf_uint64:
      receive(cursor.read<std::uint64_t>("a number"));
      return true;
    case detail::gguf_int64:
      receive(cursor.read<std::int64_t>("a number"));
      return true;
    case detail::gguf_float32:
      receive(cursor.read<float>("a number"));
      return true;
    case detail::gguf_float64:
      receive(cursor.read<double>("a number"));
      return true;
    default:
      return false;
  }
}

std::string describe(std::uint32_t type) {
  constexpr std::string_view names[] = {"uint8",  "int8",    "uint16", "int16",  "uint32",
                                        "int32",  "float32", "bool",   "string", "array",
                                        "uint64", "int64",   "float64"};
  return std::string(names[type]);
}

// One element of a stored value as T, or what was found in its place.
template <class T>
std::optional<std::string> read_element(gguf_cursor& cursor, std::uint32_t type, T& result) {
  std::optional<std::string> mismatch;
  if constexpr (std::same_as<T, std::string_view>) {
    if (type != detail::gguf_string) return describe(type);
    result = cursor.read_string(detail::max_string_bytes, "a string");
  } else if constexpr (std::same_as<T, bool>) {
    if (type != detail::gguf_bool) return describe(type);
    const auto byte = cursor.read<std::uint8_t>("a bool");
    if (byte > 1) return "the byte " + std::to_string(byte);
    result = byte == 1;
  } else {
    const bool is_number = with_number(cursor, type, [&]<class Stored>(Stored stored) {
      if constexpr (std::integral<Stored> != std::integral<T>) {
        mismatch = describe(type);
      } else if constexpr (std::integral<T>) {
        if (!std::in_range<T>(stored)) mismatch = std::to_string(stored);
        result = static_cast<T>(stored);
      } else {
        result = static_cast<T>(stored);
      }
    });
    if (!is_number) return describe(type);
  }
  return mismatch;
}

template <class T>
constexpr std::string_view type_name() {
  if constexpr (is_vector<T>) {
    using element = typename element_of<T>::type;
    if constexpr (std::same_as<element, std::string_view>) return "an array of strings";
    return std::integral<element> ? "an array of 32-bit integers" : "an array of floats";
  } else if constexpr (std::same_as<T, std::string_view>) {
    return "a string";
  } else if constexpr (std::same_as<T, bool>) {
    return "a bool";
  } else if constexpr (std::integral<T>) {
    if constexpr (std::is_unsigned_v<T>) {
      return sizeof(T) == 4 ? "an unsigned 32-bit integer" : "an unsigned 64-bit integer";
    }
    return sizeof(T) == 4 ? "a signed 32-bit integer" : "a signed 64-bit integer";
  } else {
    return "a float";
  }
}

}  // namespace

// Reads the header, the metadata and the tensors of one file into a gguf_file.
class gguf_file::parser {
 public:
  explicit parser(gguf_file& file) : file_(file), cursor_(file.bytes_, file.name_) {}

  void parse() {
    if (cursor_.remaining() < 4 || cursor_.read<std::uint32_t>("a magic") != 0x46554747u) {
      cursor_.fail("the magic GGUF", "something else");
    }
    const auto version = cursor_.read<std::uint32_t>("a version");
    if (version == 0x03000000u) cursor_.fail("a little-endian file", "a big-endian one");
    if (version != 3) cursor_.fail("version 3", std::to_string(version));
    const auto num_tensors = cursor_.read<std::uint64_t>("a number of tensors");
    const auto num_values = cursor_.read<std::uint64_t>("a number of metadata values");
    // The shortest value: a key's length, a type and one byte. The shortest tensor: a name's
    // length, a number of dimensions, one of them, a type and an offset.
    cursor_.expect_room(num_values, 8 + 4 + 1, "a number of metadata values");
    for (std::uint64_t i = 0; i < num_values; ++i) parse_value();
    cursor_.expect_room(num_tensors, 8 + 4 + 8 + 4 + 8, "a number of tensors");
    if (num_tensors == 0) return;
    std::vector<std::uint64_t> offsets;
    offsets.reserve(static_cast<std::size_t>(num_tensors));
    for (std::uint64_t i = 0; i < num_tensors; ++i) offsets.push_back(parse_tensor());
    place_tensors(offsets);
  }

 private:
  void parse_value() {
    const std::string_view key = cursor_.read_string(detail::max_name_bytes, "a key");
    value stored{cursor_.read_value_type(), false, 1, {}};
    if (stored.type == detail::gguf_array) {
      stored.is_array = true;
      stored.type = cursor_.read_value_type();
      stored.count = cursor_.read<std::uint64_t>("an array length");
    }
    const std::span<const std::byte> rest = cursor_.rest();
    const std::uint64_t before = cursor_.remaining();
    cursor_.skip_values(stored.type, stored.count, 1);
    stored.bytes = rest.first(static_cast<std::size_t>(before - cursor_.remaining()));
    if (!file_.values_.emplace(key, stored).second) {
      cursor_.fail("different keys", "a second '" + std::string(key) + "'");
    }
  }

  // Returns the offset from the start of the data; the bytes are found by `place_tensors`.
  std::uint64_t parse_tensor() {
    gguf_tensor tensor{};
    tensor.name = cursor_.read_string(detail::max_name_bytes, "a tensor name");
    const auto num_dims = cursor_.read<std::uint32_t>("a number of dimensions");
    if (num_dims < 1 || num_dims > 4) cursor_.fail("1 to 4 dimensions", std::to_string(num_dims));
    tensor.num_dims = static_cast<int>(num_dims);
    tensor.shape.fill(1);
    for (std::uint32_t i = 0; i < num_dims; ++i) {
      tensor.shape[i] = cursor_.read<std::int64_t>("a dimension");
      if (tensor.shape[i] < 1) {
        cursor_.fail("a positive dimension", std::to_string(tensor.shape[i]));
      }
    }
    tensor.type_number = cursor_.read<std::uint32_t>("a tensor type");
    const auto offset = cursor_.read<std::uint64_t>("a tensor offset");
    if (!file_.tensor_index_.emplace(tensor.name, file_.tensors_.size()).second) {
      cursor_.fail("different tensor names", "a second '" + std::string(tensor.name) + "'");
    }
    file_.tensors_.push_back(tensor);
    return offset;
  }

  void place_tensors(std::span<const std::uint64_t> offsets) {
    const auto alignment = file_.find<std::uint32_t>("general.alignment").value_or(32);
    if (!std::has_single_bit(alignment)) {
      file_.fail("general.alignment", "a power of two", std::to_string(alignment));
    }
    const std::uint64_t padding = (alignment - cursor_.position() % alignment) % alignment;
    if (padding > cursor_.remaining()) cursor_.fail("tensor data", "the end of the file");
    const auto data = cursor_.rest().subspan(static_cast<std::size_t>(padding));
    std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges;  // offset, size
    for (std::size_t i = 0; i < offsets.size(); ++i) {
      gguf_tensor& tensor = file_.tensors_[i];
      const auto expect = [&](bool holds, std::string_view expected, std::uint64_t found) {
        if (!holds)
          file_.fail("tensor " + std::string(tensor.name), expected, std::to_string(found));
      };
      const std::uint64_t offset = offsets[i];
      expect(offset % alignment == 0, "an aligned offset", offset);
      expect(offset < data.size(), "an offset within the data", offset);
      std::uint64_t size = 1;  // unknown for a type that is not read
      if (const auto type = find_ggml_type(tensor.type_number)) {
        const auto bytes = tensor_bytes(*type, tensor.shape);
        expect(bytes.has_value(),
               "whole blocks of " + std::string(layout_of(*type).name) + " within 63 bits",
               static_cast<std::uint64_t>(tensor.shape[0]));
        size = *bytes;
        expect(size <= data.size() - offset,
               "at most " + std::to_string(data.size() - offset) + " bytes", size);
        tensor.bytes =
            data.subspan(static_cast<std::size_t>(offset), static_cast<std::size_t>(size));
      }
      ranges.emplace_back(offset, size);
    }
    std::sort(ranges.begin(), ranges.end());
    for (std::size_t i = 1; i < ranges.size(); ++i) {
      if (ranges[i].first < ranges[i - 1].first + ranges[i - 1].second) {
        file_.fail("tensor data", "no overlap",
                   "two tensors at offset " + std::to_string(ranges[i].first));
      }
    }
  }

  gguf_file& file_;
  gguf_cursor cursor_;
};

gguf_file::gguf_file(std::shared_ptr<const mapped_file> file, std::span<const std::byte> bytes,
                     std::string name)
    : file_(std::move(file)), bytes_(bytes), name_(std::move(name)) {
  parser(*this).parse();
}

gguf_file::gguf_file(const std::filesystem::path& path)
    : file_(std::make_shared<mapped_file>(path)), bytes_(file_->bytes()), name_(path.string()) {
  parser(*this).parse();
}

gguf_file gguf_file::from_memory(std::span<const std::byte> bytes, std::string name) {
  return gguf_file(nullptr, bytes, std::move(name));
}

void gguf_file::fail(std::string_view key, std::string_view expected,
                     std::string_view found) const {
  throw format_error(name_ + ": " + std::string(key), expected, found);
}

template <class T>
T gguf_file::decode(std::string_view key, const value& stored) const {
  if (stored.is_array != is_vector<T>) {
    fail(key, type_name<T>(), stored.is_array ? "an array" : describe(stored.type));
  }
  gguf_cursor cursor(stored.bytes, name_);
  T result{};
  std::optional<std::string> mismatch;
  if constexpr (is_vector<T>) {
    result.resize(static_cast<std::size_t>(stored.count));
    for (auto& element : result) {
      mismatch = read_element(cursor, stored.type, element);
      if (mismatch) break;
    }
  } else {
    mismatch = read_element(cursor, stored.type, result);
  }
  if (mismatch) fail(key, type_name<T>(), *mismatch);
  return result;
}

template <class T>
std::optional<T> gguf_file::find(std::string_view key) const {
  const auto found = values_.find(key);
  if (found == values_.end()) return std::nullopt;
  return decode<T>(key, found->second);
}

template std::optional<bool> gguf_file::find(std::string_view) const;
template std::optional<std::int32_t> gguf_file::find(std::string_view) const;
template std::optional<std::uint32_t> gguf_file::find(std::string_view) const;
template std::optional<std::int64_t> gguf_file::find(std::string_view) const;
template std::optional<std::uint64_t> gguf_file::find(std::string_view) const;
template std::optional<float> gguf_file::find(std::string_view) const;
template std::optional<std::string_view> gguf_file::find(std::string_view) const;
template std::optional<std::vector<std::int32_t>> gguf_file::find(std::string_view) const;
template std::optional<std::vector<float>> gguf_file::find(std::string_view) const;
template std::optional<std::vector<std::string_view>> gguf_file::find(std::string_view) const;

std::int64_t gguf_file::require_in(std::string_view key, std::int64_t least,
                                   std::int64_t most) const {
  const auto number = require<std::int64_t>(key);
  if (number < least || number > most) {
    fail(key, std::to_string(least) + " to " + std::to_string(most), std::to_string(number));
  }
  return number;
}

const gguf_tensor* gguf_file::find_tensor(std::string_view name) const {
  const auto found = tensor_index_.find(name);
  if (found == tensor_index_.end()) return nullptr;
  const gguf_tensor& tensor = tensors_[found->second];
  if (!find_ggml_type(tensor.type_number)) {
    fail("tensor " + std::string(name),
         "f32, f16, bf16, q4_0, q4_1, q5_0, q5_1, q8_0, q4_k, q5_k "
         "or q6_k",
         "the element type number " + std::to_string(tensor.type_number));
  }
  return &tensor;
}

const gguf_tensor& gguf_file::tensor(std::string_view name) const {
  if (const gguf_tensor* found = find_tensor(name)) return *found;
  fail("tensor " + std::string(name), "to find it", "none of that name");
}

std::string gguf_file::file_hash() const { return sha256::of(bytes_); }

}  // namespace llama
