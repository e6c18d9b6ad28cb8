// SPDX-License-Identifier: Apache-2.0
// The element types of GGUF tensors that this host reads, and how large their data are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace llama {

/// Element types by their number in the file. A quantised type stores blocks of consecutive
/// elements of a row.
enum class ggml_type : std::uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  bf16 = 30,
};

/// What one block of a type holds.
struct block_layout {
  std::string_view name;     ///< as people write it, such as "q4_k"
  std::size_t num_elements;  ///< elements of a block; 1 for the types that are not quantised
  std::size_t num_bytes;     ///< bytes of a block
};

/// The type with this number in the file, or nothing if this host does not read it.
std::optional<ggml_type> find_ggml_type(std::uint32_t number);

/// @pre `type` is one of the enumerators.
const block_layout& layout_of(ggml_type type);

/// The bytes of a tensor.
/// @param shape number of elements along each dimension, the row's length first.
/// @return nothing if an extent is not positive, if the row's length is no multiple of the block,
///         or if the number of elements or bytes does not fit into 63 bits.
std::optional<std::uint64_t> tensor_bytes(ggml_type type, std::span<const std::int64_t> shape);

}  // namespace llama
