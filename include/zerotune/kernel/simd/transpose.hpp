// SPDX-License-Identifier: Apache-2.0
// Square transposition of batches (layer: kernel): xsimd 8.1 has none.
#pragma once

#include <utility>

#include "zerotune/kernel/simd/unrolled.hpp"
#include "zerotune/kernel/simd/xsimd_compat.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// One exchange of blocks of Step lanes between two rows.
template <std::size_t Step, class Batch, std::size_t... I>
ZEROTUNE_ALWAYS_INLINE void exchange_lanes(Batch& a, Batch& b, std::index_sequence<I...>) {
  using real = typename Batch::value_type;
  using values = vector_like<real, Batch>;
  constexpr int size = static_cast<int>(Batch::size), step = static_cast<int>(Step);
  const values x = __builtin_bit_cast(values, static_cast<register_of<Batch>>(a));
  const values y = __builtin_bit_cast(values, static_cast<register_of<Batch>>(b));
  const values low = __builtin_shufflevector(
      x, y,
      ((static_cast<int>(I) & step) ? size + static_cast<int>(I) - step : static_cast<int>(I))...);
  const values high = __builtin_shufflevector(
      x, y,
      ((static_cast<int>(I) & step) ? size + static_cast<int>(I) : static_cast<int>(I) + step)...);
  a = Batch(__builtin_bit_cast(register_of<Batch>, low));
  b = Batch(__builtin_bit_cast(register_of<Batch>, high));
}

/// Exchanges rows and columns: a butterfly over blocks of 1, 2, 4, ... lanes.
template <class Batch, std::size_t Step = 1>
ZEROTUNE_ALWAYS_INLINE void transpose_square(Batch (&rows)[Batch::size]) {
  if constexpr (Step < Batch::size) {
    constexpr auto step = static_cast<index_t>(Step);
    unrolled<lanes<Batch>>([&](auto i) __attribute__((always_inline)) {
      if constexpr ((i.value & step) == 0)
        exchange_lanes<Step>(rows[i], rows[i + step], std::make_index_sequence<Batch::size>{});
    });
    transpose_square<Batch, 2 * Step>(rows);
  }
}

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
