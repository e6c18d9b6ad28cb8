// SPDX-License-Identifier: Apache-2.0
#include "requantise.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <ostream>
#include <stdexcept>
#include <vector>

#include "llama/dequantize.hpp"
#include "llama/gguf.hpp"
#include "llama/gguf_parser.hpp"
#include "zerotune/core/float16.hpp"

namespace zerotune_reproduce {

namespace {

using llama::ggml_type;

constexpr std::size_t block = 32;

template <class T>
void append(std::string& out, T value) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out.append(bytes, sizeof(T));
}

void append_text(std::string& out, std::string_view text) {
  append(out, static_cast<std::uint64_t>(text.size()));
  out += text;
}

float append_half(std::string& out, float value) {
  const zerotune::float16 half(value);
  append(out, half.bits);
  return static_cast<float>(half);
}

// The element with the largest magnitude, with its sign.
float extreme(std::span<const float> values) {
  return *std::max_element(values.begin(), values.end(),
                           [](float a, float b) { return std::fabs(a) < std::fabs(b); });
}

int quant(float value, float scale, int least, int most) {
  if (scale == 0) return 0;
  return std::clamp(static_cast<int>(std::lround(value / scale)), least, most);
}

void append_q8_0(std::string& out, std::span<const float> values) {
  const float scale = append_half(out, std::fabs(extreme(values)) / 127);
  for (const float value : values)
    append(out, static_cast<std::int8_t>(quant(value, scale, -127, 127)));
}

// The extreme element gets the quant -8, which has no positive counterpart.
void append_q4_0(std::string& out, std::span<const float> values) {
  const float scale = append_half(out, extreme(values) / -8);
  for (std::size_t j = 0; j < block / 2; ++j) {
    const int low = quant(values[j], scale, -8, 7) + 8;
    const int high = quant(values[j + block / 2], scale, -8, 7) + 8;
    append(out, static_cast<std::uint8_t>(low | high << 4));
  }
}

std::size_t metadata_end(std::span<const std::byte> bytes, const std::string& name) {
  llama::detail::gguf_cursor cursor(bytes, name);
  cursor.read<std::uint64_t>("a magic and version");
  cursor.read<std::uint64_t>("a number of tensors");
  const auto values = cursor.read<std::uint64_t>("a number of metadata values");
  for (std::uint64_t i = 0; i < values; ++i) {
    cursor.read_string(llama::detail::max_name_bytes, "a key");
    cursor.skip_values(cursor.read_value_type(), 1, 0);
  }
  return cursor.position();
}

struct planned_tensor {
  const llama::gguf_tensor* tensor;
  ggml_type from, to;
  std::uint64_t offset, size;
};

std::uint64_t padded(std::uint64_t size, std::uint64_t alignment) {
  return (size + alignment - 1) / alignment * alignment;
}

std::vector<planned_tensor> plan(const llama::gguf_file& file, ggml_type type,
                                 std::uint64_t alignment) {
  std::vector<planned_tensor> planned;
  std::uint64_t offset = 0;
  for (const llama::gguf_tensor& listed : file.tensors()) {
    const llama::gguf_tensor& tensor = file.tensor(listed.name);  // refuses unknown types
    const ggml_type from = *llama::find_ggml_type(tensor.type_number);
    const ggml_type to = tensor.num_dims > 1 ? type : from;
    const auto size = llama::tensor_bytes(to, tensor.shape);
    if (!size)
      throw std::invalid_argument(std::string(tensor.name) + ": expected rows of a multiple of " +
                                  std::to_string(llama::layout_of(to).num_elements) +
                                  " elements, got " + std::to_string(tensor.shape[0]));
    planned.push_back({&tensor, from, to, offset, *size});
    offset = padded(offset + *size, alignment);
  }
  return planned;
}

// A part at a time: a whole matrix in float would be large.
void write_data(const planned_tensor& planned, std::ostream& out) {
  const std::span<const std::byte> bytes = planned.tensor->bytes;
  if (planned.from == planned.to) {
    out.write(reinterpret_cast<const char*>(bytes.data()),
              static_cast<std::streamsize>(bytes.size()));
    return;
  }
  const llama::block_layout& layout = llama::layout_of(planned.from);
  const std::size_t blocks = bytes.size() / layout.num_bytes;
  // A multiple of 32 elements for every type.
  constexpr std::size_t part = 4096;
  std::vector<float> values;
  for (std::size_t first = 0; first < blocks; first += part) {
    const std::size_t count = std::min(part, blocks - first);
    values.resize(count * layout.num_elements);
    llama::dequantize(planned.from,
                      bytes.subspan(first * layout.num_bytes, count * layout.num_bytes), values);
    const std::string encoded = encode(planned.to, values);
    out.write(encoded.data(), static_cast<std::streamsize>(encoded.size()));
  }
}

}  // namespace

std::string encode(ggml_type type, std::span<const float> values) {
  std::string out;
  if (type == ggml_type::f16) {
    for (const float value : values) append_half(out, value);
    return out;
  }
  if (type != ggml_type::q8_0 && type != ggml_type::q4_0)
    throw std::invalid_argument("encode: expected f16, q8_0 or q4_0, got another type");
  if (values.size() % block != 0)
    throw std::invalid_argument("encode: expected a multiple of 32 values, got " +
                                std::to_string(values.size()));
  for (std::size_t i = 0; i < values.size(); i += block)
    (type == ggml_type::q8_0 ? append_q8_0 : append_q4_0)(out, values.subspan(i, block));
  return out;
}

void requantise(std::span<const std::byte> bytes, ggml_type type, std::ostream& out) {
  const llama::gguf_file file = llama::gguf_file::from_memory(bytes, "model");
  const std::uint64_t alignment = file.find<std::uint32_t>("general.alignment").value_or(32);
  const std::vector<planned_tensor> tensors = plan(file, type, alignment);
  std::string head(reinterpret_cast<const char*>(bytes.data()), metadata_end(bytes, file.name()));
  for (const planned_tensor& planned : tensors) {
    append_text(head, planned.tensor->name);
    append(head, static_cast<std::uint32_t>(planned.tensor->num_dims));
    for (int i = 0; i < planned.tensor->num_dims; ++i)
      append(head, planned.tensor->shape[static_cast<std::size_t>(i)]);
    append(head, static_cast<std::uint32_t>(planned.to));
    append(head, planned.offset);
  }
  head.resize(static_cast<std::size_t>(padded(head.size(), alignment)), '\0');
  out.write(head.data(), static_cast<std::streamsize>(head.size()));
  for (const planned_tensor& planned : tensors) {
    write_data(planned, out);
    const std::string padding(
        static_cast<std::size_t>(padded(planned.size, alignment) - planned.size), '\0');
    out.write(padding.data(), static_cast<std::streamsize>(padding.size()));
  }
}

}  // namespace zerotune_reproduce
