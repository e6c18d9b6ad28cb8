// SPDX-License-Identifier: Apache-2.0
// O^T = shrink O^T + V^T P for a panel and a block of keys (layer: kernel).
#pragma once

#include "zerotune/kernel/simd/panel.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// Adds keys [begin, end) to the sums of vectors [First, Vectors).
template <bool Guarded, class Batch, index_t First, index_t Vectors>
ZEROTUNE_ALWAYS_INLINE void add_values(const typename Batch::value_type* weights,
                                       const typename Batch::value_type* v, index_t begin,
                                       index_t end,
                                       Batch (&sums)[panel_shape<Batch>::group][Vectors]) {
  using shape = panel_shape<Batch>;
  weights += begin * shape::width;
  v += begin * shape::group;
  for (index_t j = begin; j < end; ++j, weights += shape::width, v += shape::group) {
    Batch w[Vectors];
    unrolled<Vectors - First>([&](auto n) __attribute__((always_inline)) {
      w[n + First] = Batch::load_aligned(weights + (n + First) * lanes<Batch>);
    });
    unrolled<shape::group>([&](auto c) __attribute__((always_inline)) {
      const Batch x(v[c]);
      unrolled<Vectors - First>([&](auto n) __attribute__((always_inline)) {
        Batch& sum = sums[c][n + First];
        const Batch added = multiply_add(x, w[n + First], sum);
        if constexpr (Guarded)  // 0 * NaN: a hidden value is as if not read
          sum = xsimd::select(w[n + First] == Batch(typename Batch::value_type(0)), sum, added);
        else
          sum = added;
      });
    });
  }
}

/// One group of columns: out[c][i] = shrink[i] out[c][i] + sum_j weights[j][i] v[j][c].
template <bool Guarded, class Batch, index_t Vectors>
[[gnu::noinline, gnu::flatten]] void value_tile(const typename Batch::value_type* weights,
                                                const typename Batch::value_type* v,
                                                const value_range<panel_shape<Batch>>& keys,
                                                const typename Batch::value_type* shrink,
                                                typename Batch::value_type* out) noexcept {
  using shape = panel_shape<Batch>;
  Batch sums[shape::group][Vectors];
  // The next columns' sums have left the first-level cache since the last block of keys.
  for (index_t i = 0; i < shape::group * shape::width; i += static_cast<index_t>(64 / sizeof *out))
    __builtin_prefetch(out + shape::group * shape::width + i, 1, 3);
  unrolled<Vectors>([&](auto n) __attribute__((always_inline)) {
    const Batch factor = Batch::load_aligned(shrink + n * lanes<Batch>);
    unrolled<shape::group>([&](auto c) __attribute__((always_inline)) {
      sums[c][n] = Batch::load_aligned(out + c * shape::width + n * lanes<Batch>) * factor;
    });
  });
  unrolled<Vectors>([&](auto n) __attribute__((always_inline)) {
    constexpr index_t first = decltype(n)::value;
    const index_t begin = first == 0 ? keys.begin : keys.ends[first == 0 ? 0 : first - 1];
    add_values<Guarded, Batch, first, Vectors>(weights, v, begin, keys.ends[first], sums);
  });
  unrolled<shape::group>([&](auto c) __attribute__((always_inline)) {
    unrolled<Vectors>([&](auto n) __attribute__((always_inline)) {
      sums[c][n].store_aligned(out + c * shape::width + n * lanes<Batch>);
    });
  });
}

/// All columns. Values that are not finite reach only the rows whose weight is not zero.
template <bool Guarded, class Batch, index_t Vectors>
void value_columns(panel<panel_shape<Batch>>& p, const typename Batch::value_type* values,
                   index_t value_tile_step, const typename Batch::value_type* weights,
                   const value_range<panel_shape<Batch>>& keys,
                   const typename Batch::value_type* shrink, index_t value_dim) noexcept {
  using shape = panel_shape<Batch>;
  for (index_t c = 0; c < value_dim; c += shape::group, values += value_tile_step)
    value_tile<Guarded, Batch, Vectors>(weights, values, keys, shrink, p.out + c * shape::width);
}

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
