// SPDX-License-Identifier: Apache-2.0
// S^T = K Q^T for a group of keys and the vectors of a panel (layer: kernel).
#pragma once

#include "zerotune/kernel/simd/operands.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// scores[j][i] = <k_j, q_i> for a group of keys and Vectors batches of
/// queries; q and scores stand at the first of these vectors, their rows are a
/// panel's width apart. `depth` counts elements of the operand. All sums stay
/// in registers.
template <class Operand, index_t Vectors>
[[gnu::noinline, gnu::flatten]] void score_tile(
    const typename Operand::element* q, const typename Operand::element* k, index_t k_row,
    index_t depth, typename Operand::batch::value_type* scores) noexcept {
  using Batch = typename Operand::batch;
  using shape = panel_shape<Batch>;
  Batch sums[shape::group][Vectors];
  unrolled<shape::group>([&](auto j) __attribute__((always_inline)) {
    unrolled<Vectors>([&](auto n) __attribute__((always_inline)) {
      sums[j][n] = Batch(typename Batch::value_type(0));
    });
  });
  for (index_t c = 0; c < depth; ++c, ++k, q += shape::width) {
    Operand queries[Vectors];
    unrolled<Vectors>([&](auto n) __attribute__((always_inline)) {
      queries[n] = Operand::load(q + n * lanes<Batch>);
    });
    unrolled<shape::group>([&](auto j) __attribute__((always_inline)) {
      const Operand x = Operand::splat(k[j * k_row]);
      unrolled<Vectors>([&](auto n) __attribute__((always_inline)) {
        sums[j][n] = queries[n].multiply(x, sums[j][n]);
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
template <class Operand>
void score_group(const typename Operand::element* q, index_t first, index_t last,
                 const typename Operand::element* k, index_t k_row, index_t depth,
                 typename Operand::batch::value_type* scores) noexcept {
  constexpr index_t lanes = impl::lanes<typename Operand::batch>;
  q += first * lanes, scores += first * lanes;
  const index_t count = last - first;
  if constexpr (panel_shape<typename Operand::batch>::vectors == 3)
    if (count == 3) return score_tile<Operand, 3>(q, k, k_row, depth, scores);
  if (count == 2) return score_tile<Operand, 2>(q, k, k_row, depth, scores);
  score_tile<Operand, 1>(q, k, k_row, depth, scores);
}

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
