// SPDX-License-Identifier: Apache-2.0
// q8_0: 32 numbers as 8-bit integers with one float16 scale, as GGUF files lay them out (layer:
// core). A key-value cache of them takes 8.5 bits a number. It is read, never accumulated into.
#pragma once

#include <concepts>
#include <type_traits>

#include "zerotune/core/types.hpp"

namespace zerotune {

/// 32 numbers: number i is scale * values[i].
struct q8_0 {
  static constexpr index_t size = 32;

  float16 scale;
  std::int8_t values[32];
};
static_assert(sizeof(q8_0) == 34 && alignof(q8_0) == 2 && std::is_trivially_copyable_v<q8_0>);

/// What a key-value cache may be made of. A view of q8_0 counts blocks in its last dimension.
template <class T>
concept cache_element = element<T> || std::same_as<T, q8_0>;

/// Numbers that one cell of a cache holds.
template <cache_element T>
inline constexpr index_t cell_size = 1;
template <>
inline constexpr index_t cell_size<q8_0> = q8_0::size;

}  // namespace zerotune
