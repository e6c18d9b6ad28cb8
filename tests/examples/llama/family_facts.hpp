// SPDX-License-Identifier: Apache-2.0
// What the models of family_models.hpp consist of: the families' shapes and element types, and how
// a block of each type is made from hashed bytes. Read by family_models.cpp only.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "family_models.hpp"

namespace llama_test {

/// Element types by their numbers in GGUF.
enum class element : std::uint32_t {
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
  none = 99,
};

/// A float16 field of a block: ten hashed bits under this sign and exponent (above the tensor's).
struct half_field {
  std::size_t offset;
  int above;
  bool negative;
};
inline constexpr int subnormal = -1000;  // as `above`: exponent field 0

/// How a block of a type looks, and the exponent that its scales have before any shift.
struct block_format {
  std::size_t num_elements, num_bytes;  // of a block; 1 element where the type has no blocks
  int exponent;                         // makes the standard deviation of a weight about 0.05
  std::size_t num_fields;
  std::array<half_field, 2> fields;
};

inline constexpr std::size_t vocabulary_size = 512;

/// The element types of a layer's matrices.
struct layer_types {
  element query, key, value, output, gate, up, down;
};

/// What distinguishes a model; the weights of tensor i come from the hash stream (seed, i).
struct family_facts {
  std::string_view name;
  std::uint64_t seed;
  std::string_view architecture;
  std::uint32_t embedding, heads, kv_heads, head_dim, feed_forward, context;
  float theta, epsilon;
  std::string_view pre_tokenizer;
  std::array<std::string_view, 4> special;
  bool add_bos;
  std::uint32_t bos, eos;
  element embedding_type, output_type;   // none: the output is the embedding
  int embedding_shift, attention_shift;  // added to the exponents of the embedding, of q and k
  std::vector<layer_types> layers;
};

block_format format_of(element type);
family_facts facts_of(model_family family);

}  // namespace llama_test
