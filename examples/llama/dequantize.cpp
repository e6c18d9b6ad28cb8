// SPDX-License-Identifier: Apache-2.0
#include "llama/dequantize.hpp"

#include <bit>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>

#include <zerotune/core/float16.hpp>

namespace llama {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF data are little-endian");

template <class T>
T load(const std::byte* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(T));
  return value;
}

float load_half(const std::byte* bytes) {
  return static_cast<float>(zerotune::float16::from_bits(load<std::uint16_t>(bytes)));
}

int byte_at(const std::byte* bytes, int index) { return std::to_integer<int>(bytes[index]); }
int low_nibble(std::byte byte) { return std::to_integer<int>(byte & std::byte{0xf}); }
int high_nibble(std::byte byte) { return std::to_integer<int>(byte >> 4); }

// Blocks of 32 elements. Nibble j of the low half is element j, of the high half element j + 16;
// the five-bit types keep every element's fifth bit in one 32-bit word.

void decode_q4_0(const std::byte* block, float* values) {
  const float scale = load_half(block);
  for (int j = 0; j < 16; ++j) {
    values[j] = static_cast<float>(low_nibble(block[2 + j]) - 8) * scale;
    values[j + 16] = static_cast<float>(high_nibble(block[2 + j]) - 8) * scale;
  }
}

void decode_q4_1(const std::byte* block, float* values) {
  const float scale = load_half(block);
  const float minimum = load_half(block + 2);
  for (int j = 0; j < 16; ++j) {
    values[j] = static_cast<float>(low_nibble(block[4 + j])) * scale + minimum;
    values[j + 16] = static_cast<float>(high_nibble(block[4 + j])) * scale + minimum;
  }
}

int fifth_bit(std::uint32_t word, int index) { return static_cast<int>(word >> index & 1u) << 4; }

void decode_q5_0(const std::byte* block, float* values) {
  const float scale = load_half(block);
  const auto high = load<std::uint32_t>(block + 2);
  for (int j = 0; j < 16; ++j) {
    const int first = low_nibble(block[6 + j]) | fifth_bit(high, j);
    const int second = high_nibble(block[6 + j]) | fifth_bit(high, j + 16);
    values[j] = static_cast<float>(first - 16) * scale;
    values[j + 16] = static_cast<float>(second - 16) * scale;
  }
}

void decode_q5_1(const std::byte* block, float* values) {
  const float scale = load_half(block);
  const float minimum = load_half(block + 2);
  const auto high = load<std::uint32_t>(block + 4);
  for (int j = 0; j < 16; ++j) {
    const int first = low_nibble(block[8 + j]) | fifth_bit(high, j);
    const int second = high_nibble(block[8 + j]) | fifth_bit(high, j + 16);
    values[j] = static_cast<float>(first) * scale + minimum;
    values[j + 16] = static_cast<float>(second) * scale + minimum;
  }
}

void decode_q8_0(const std::byte* block, float* values) {
  const float scale = load_half(block);
  for (int j = 0; j < 32; ++j) {
    values[j] = static_cast<float>(load<std::int8_t>(block + 2 + j)) * scale;
  }
}

// Blocks of 256 elements in eight groups of 32, each with a 6-bit scale and a 6-bit minimum. Bytes
// 0..3 hold the low six bits of the first four scales, 4..7 of the first four minima; the last four
// of both have their low nibbles in bytes 8..11 and their upper two bits atop the bytes before.
std::pair<int, int> scale_and_minimum(const std::byte* packed, int group) {
  if (group < 4) return {byte_at(packed, group) & 63, byte_at(packed, group + 4) & 63};
  const int low = byte_at(packed, group + 4);
  return {(low & 15) | (byte_at(packed, group - 4) >> 6) << 4,
          (low >> 4) | (byte_at(packed, group) >> 6) << 4};
}

// q4_k and q5_k: quants of groups 2p and 2p + 1 are the low and the high nibbles of 32 bytes;
// q5_k's fifth bits are bit 2p and 2p + 1 of 32 further bytes, null for q4_k.
void decode_scaled_k(const std::byte* block, const std::byte* quants, const std::byte* fifth,
                     float* values) {
  const float scale_of_scales = load_half(block);
  const float scale_of_minima = load_half(block + 2);
  for (int group = 0; group < 8; ++group) {
    const auto [scale_quant, minimum_quant] = scale_and_minimum(block + 4, group);
    const float scale = scale_of_scales * static_cast<float>(scale_quant);
    const float minimum = scale_of_minima * static_cast<float>(minimum_quant);
    const std::byte* bytes = quants + 32 * (group / 2);
    for (int j = 0; j < 32; ++j) {
      int quant = group % 2 == 0 ? low_nibble(bytes[j]) : high_nibble(bytes[j]);
      if (fifth) quant |= (byte_at(fifth, j) >> group & 1) << 4;
      values[32 * group + j] = scale * static_cast<float>(quant) - minimum;
    }
  }
}

void decode_q4_k(const std::byte* block, float* values) {
  decode_scaled_k(block, block + 16, nullptr, values);
}

void decode_q5_k(const std::byte* block, float* values) {
  decode_scaled_k(block, block + 48, block + 16, values);
}

// q6_k: two halves of 128 elements, each of four runs of 32. Run r has its low nibbles in the low
// (r < 2) or high nibbles of 32 of the half's 64 bytes, its upper two bits in bits 2r and 2r + 1 of
// the half's 32 bytes, and a signed 8-bit scale for every 16 elements.
void decode_q6_k(const std::byte* block, float* values) {
  const std::byte* high_bits = block + 128;
  const std::byte* scales = high_bits + 64;
  const float scale_of_scales = load_half(scales + 16);
  for (int run = 0; run < 8; ++run) {
    const int half = run / 4;
    const int part = run % 4;
    const std::byte* low = block + 64 * half + 32 * (part % 2);
    const std::byte* high = high_bits + 32 * half;
    for (int j = 0; j < 32; ++j) {
      const int nibble = part < 2 ? low_nibble(low[j]) : high_nibble(low[j]);
      const int quant = (nibble | (byte_at(high, j) >> (2 * part) & 3) << 4) - 32;
      const auto scale = static_cast<float>(load<std::int8_t>(scales + 2 * run + j / 16));
      values[32 * run + j] = scale_of_scales * scale * static_cast<float>(quant);
    }
  }
}

void decode_f32(const std::byte* block, float* value) { *value = load<float>(block); }
void decode_f16(const std::byte* block, float* value) { *value = load_half(block); }
void decode_bf16(const std::byte* block, float* value) {
  *value = static_cast<float>(zerotune::bfloat16::from_bits(load<std::uint16_t>(block)));
}

using block_decoder = void (*)(const std::byte*, float*);

template <block_decoder Decode>
void decode_all(const block_layout& layout, std::span<const std::byte> blocks, float* values) {
  const std::size_t num_blocks = blocks.size() / layout.num_bytes;
  for (std::size_t i = 0; i < num_blocks; ++i) {
    Decode(blocks.data() + i * layout.num_bytes, values + i * layout.num_elements);
  }
}

}  // namespace

void dequantize(ggml_type type, std::span<const std::byte> blocks, std::span<float> values) {
  const block_layout& layout = layout_of(type);
  const std::size_t num_blocks = blocks.size() / layout.num_bytes;
  if (blocks.size() % layout.num_bytes != 0 || values.size() % layout.num_elements != 0 ||
      values.size() / layout.num_elements != num_blocks) {
    throw std::invalid_argument(
        "dequantize: values: expected the elements of " + std::to_string(blocks.size()) +
        " bytes of " + std::string(layout.name) + ", got " + std::to_string(values.size()));
  }
  switch (type) {
    case ggml_type::f32:
      return decode_all<decode_f32>(layout, blocks, values.data());
    case ggml_type::f16:
      return decode_all<decode_f16>(layout, blocks, values.data());
    case ggml_type::bf16:
      return decode_all<decode_bf16>(layout, blocks, values.data());
    case ggml_type::q4_0:
      return decode_all<decode_q4_0>(layout, blocks, values.data());
    case ggml_type::q4_1:
      return decode_all<decode_q4_1>(layout, blocks, values.data());
    case ggml_type::q5_0:
      return decode_all<decode_q5_0>(layout, blocks, values.data());
    case ggml_type::q5_1:
      return decode_all<decode_q5_1>(layout, blocks, values.data());
    case ggml_type::q8_0:
      return decode_all<decode_q8_0>(layout, blocks, values.data());
    case ggml_type::q4_k:
      return decode_all<decode_q4_k>(layout, blocks, values.data());
    case ggml_type::q5_k:
      return decode_all<decode_q5_k>(layout, blocks, values.data());
    case ggml_type::q6_k:
      return decode_all<decode_q6_k>(layout, blocks, values.data());
  }
}

}  // namespace llama
