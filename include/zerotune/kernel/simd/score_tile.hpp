// SPDX-License-Identifier: Apache-2.0
// S^T = K Q^T for a group of keys and the vectors of a panel (layer: kernel).
#pragma once

#include "zerotune/kernel/simd/panel.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// scores[j][i] = <k_j, q_i> for a group of keys and Vectors batches of queries; q and scores stand
/// at the first of these vectors, their rows are a panel's width apart. All sums stay in registers.
template <class Batch, index_t Vectors>
[[gnu::noinline, gnu::flatten]] void score_tile(const typename Batch::value_type* q,
                                                const typename Batch::value_type* k, index_t k_row,
                                                index_t head_dim,
                                                typename Batch::value_type* scores) noexcept {
  using shape = panel_shape<Batch>;
  using real = typename Batch::value_type;
  Batch sums[shape::group][Vectors];
  unrolled<shape::group>([&](auto j) __attribute__((always_inline)) {
    unrolled<Vectors>([&](auto n) __attribute__((always_inline)) { sums[j][n] = Batch(real(0)); });
  });
  for (index_t c = 0; c < head_dim; ++c, ++k, q += shape::width) {
    Batch queries[Vectors];
    unrolled<Vectors>([&](auto n) __attribute__((always_inline)) {
      queries[n] = Batch::load_aligned(q + n * lanes<Batch>);
    });
    unrolled<shape::group>([&](auto j) __attribute__((always_inline)) {
      const Batch x(k[j * k_row]);
      unrolled<Vectors>([&](auto n) __attribute__((always_inline)) {
        sums[j][n] = multiply_add(x, queries[n], sums[j][n]);
      });
    });
  }
  unrolled<shape::group>([&](auto j) __attribute__((always_inline)) {
    unrolled<Vectors>([&](auto n) __attribute__((always_inline)) {
      sums[j][n].store_aligned(scores + j * shape::width + n * lanes<Batch>);
    });
  });
}

/// The same for vectors [first, last) of a panel.
template <class Batch>
void score_group(const panel<panel_shape<Batch>>& p, index_t first, index_t last,
                 const typename Batch::value_type* k, index_t k_row, index_t head_dim,
                 typename Batch::value_type* scores) noexcept {
  const auto* const q = p.q + first * lanes<Batch>;
  auto* const to = scores + first * lanes<Batch>;
  const index_t count = last - first;
  if constexpr (panel_shape<Batch>::vectors == 3)
    if (count == 3) return score_tile<Batch, 3>(q, k, k_row, head_dim, to);
  if (count == 2) return score_tile<Batch, 2>(q, k, k_row, head_dim, to);
  score_tile<Batch, 1>(q, k, k_row, head_dim, to);
}

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
