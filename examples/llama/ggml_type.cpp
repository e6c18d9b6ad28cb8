// SPDX-License-Identifier: Apache-2.0
#include "llama/ggml_type.hpp"

#include <array>
#include <limits>

namespace llama {
namespace {

struct entry {
  ggml_type type;
  block_layout layout;
};

// A scale or minimum is a float16 (2 bytes); a k-quant block of 256 elements has 12 or 16 bytes of
// 6- or 8-bit scales.
constexpr std::array<entry, 11> entries{{
    {ggml_type::f32, {"f32", 1, 4}},
    {ggml_type::f16, {"f16", 1, 2}},
    {ggml_type::bf16, {"bf16", 1, 2}},
    {ggml_type::q4_0, {"q4_0", 32, 2 + 16}},
    {ggml_type::q4_1, {"q4_1", 32, 2 + 2 + 16}},
    {ggml_type::q5_0, {"q5_0", 32, 2 + 4 + 16}},
    {ggml_type::q5_1, {"q5_1", 32, 2 + 2 + 4 + 16}},
    {ggml_type::q8_0, {"q8_0", 32, 2 + 32}},
    {ggml_type::q4_k, {"q4_k", 256, 2 + 2 + 12 + 128}},
    {ggml_type::q5_k, {"q5_k", 256, 2 + 2 + 12 + 32 + 128}},
    {ggml_type::q6_k, {"q6_k", 256, 128 + 64 + 16 + 2}},
}};

const entry* find(std::uint32_t number) {
  for (const entry& candidate : entries) {
    if (static_cast<std::uint32_t>(candidate.type) == number) return &candidate;
  }
  return nullptr;
}

}  // namespace

std::optional<ggml_type> find_ggml_type(std::uint32_t number) {
  const entry* found = find(number);
  return found ? std::optional(found->type) : std::nullopt;
}

const block_layout& layout_of(ggml_type type) {
  return find(static_cast<std::uint32_t>(type))->layout;
}

std::optional<std::uint64_t> tensor_bytes(ggml_type type, std::span<const std::int64_t> shape) {
  const block_layout& layout = layout_of(type);
  constexpr auto limit = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  std::uint64_t num_elements = 1;
  for (const std::int64_t extent : shape) {
    if (extent <= 0) return std::nullopt;
    const auto factor = static_cast<std::uint64_t>(extent);
    if (num_elements > limit / factor) return std::nullopt;
    num_elements *= factor;
  }
  const std::uint64_t row = shape.empty() ? 1 : static_cast<std::uint64_t>(shape[0]);
  if (row % layout.num_elements != 0) return std::nullopt;
  const std::uint64_t num_blocks = num_elements / layout.num_elements;
  if (num_blocks > limit / layout.num_bytes) return std::nullopt;
  return num_blocks * layout.num_bytes;
}

}  // namespace llama
