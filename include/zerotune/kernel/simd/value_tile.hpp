// SPDX-License-Identifier: Apache-2.0
// O^T = shrink O^T + V^T P for a panel and a block of keys (layer: kernel).
#pragma once

#include "zerotune/kernel/simd/operands.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// Adds the elements [begin, end) of weights and values to the sums of vectors
/// [First, Vectors).
template <bool Guarded, class Operand, index_t First, index_t Vectors>
ZEROTUNE_ALWAYS_INLINE void add_to_sums(
    const typename Operand::element* weights, const typename Operand::element* v, index_t begin,
    index_t end,
    typename Operand::batch (&sums)[panel_shape<typename Operand::batch>::group][Vectors]) {
  using Batch = typename Operand::batch;
  using shape = panel_shape<Batch>;
  weights += begin * shape::width;
  v += begin * shape::group;
  for (index_t j = begin; j < end; ++j, weights += shape::width, v += shape::group) {
    Operand w[Vectors];
    unrolled<Vectors - First>([&](auto n) __attribute__((always_inline)) {
      w[n + First] = Operand::load(weights + (n + First) * lanes<Batch>);
    });
    unrolled<shape::group>([&](auto c) __attribute__((always_inline)) {
      const Operand x = Operand::splat(v[c]);
      unrolled<Vectors - First>([&](auto n) __attribute__((always_inline)) {
        Batch& sum = sums[c][n + First];
        if constexpr (Guarded)
          sum = w[n + First].multiply_guarded(x, sum);
        else
          sum = w[n + First].multiply(x, sum);
      });
    });
  }
}

/// One group of columns: out[c][i] = shrink[i] out[c][i] + sum_j weights[j][i]
/// v[j][c], the columns' outputs `out_row` numbers apart. `keys` counts
/// elements of the operand.
template <bool Guarded, class Operand, index_t Vectors>
[[gnu::noinline, gnu::flatten]] void value_tile(
    const typename Operand::element* weights, const typename Operand::element* v,
    const value_range<panel_shape<typename Operand::batch>>& keys, former_sums former,
    const typename Operand::batch::value_type* shrink, typename Operand::batch::value_type* out,
    index_t out_row) noexcept {
  using Batch = typename Operand::batch;
  using shape = panel_shape<Batch>;
  Batch sums[shape::group][Vectors];
  // The next columns' sums have left the first-level cache since the last block
  // of keys.
  for (index_t i = 0; i < shape::group * shape::width; i += static_cast<index_t>(64 / sizeof *out))
    __builtin_prefetch(out + shape::group * shape::width + i, 1, 3);
  unrolled<Vectors>([&](auto n) __attribute__((always_inline)) {
    unrolled<shape::group>([&](auto c) __attribute__((always_inline)) {
      sums[c][n] = former == former_sums::none
                       ? Batch(typename Batch::value_type(0))
                       : Batch::load_aligned(out + c * out_row + n * lanes<Batch>);
    });
  });
  if (former == former_sums::shrunk)
    unrolled<Vectors>([&](auto n) __attribute__((always_inline)) {
      const Batch factor = Batch::load_aligned(shrink + n * lanes<Batch>);
      unrolled<shape::group>([&](auto c) __attribute__((always_inline)) {
        sums[c][n] = sums[c][n] * factor;
      });
    });
  unrolled<Vectors>([&](auto n) __attribute__((always_inline)) {
    constexpr index_t first = decltype(n)::value;
    const index_t begin = first == 0 ? keys.begin : keys.ends[first == 0 ? 0 : first - 1];
    add_to_sums<Guarded, Operand, first, Vectors>(weights, v, begin, keys.ends[first], sums);
  });
  unrolled<shape::group>([&](auto c) __attribute__((always_inline)) {
    unrolled<Vectors>([&](auto n) __attribute__((always_inline)) {
      sums[c][n].store_aligned(out + c * out_row + n * lanes<Batch>);
    });
  });
}

/// The same for as many vectors as the panel uses. Values that are not finite
/// reach only the rows whose weight is not zero.
template <class Operand>
void add_value_columns(index_t used, bool finite, const typename Operand::element* weights,
                       const typename Operand::element* v,
                       const value_range<panel_shape<typename Operand::batch>>& keys,
                       former_sums former, const typename Operand::batch::value_type* shrink,
                       typename Operand::batch::value_type* out, index_t out_row) noexcept {
  unrolled<panel_shape<typename Operand::batch>::vectors>([&](
      auto n) __attribute__((always_inline)) {
    constexpr index_t count = decltype(n)::value + 1;
    if (used != count) return;
    if (finite)
      value_tile<false, Operand, count>(weights, v, keys, former, shrink, out, out_row);
    else
      value_tile<true, Operand, count>(weights, v, keys, former, shrink, out, out_row);
  });
}

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
