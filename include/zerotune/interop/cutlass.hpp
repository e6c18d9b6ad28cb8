// SPDX-License-Identifier: Apache-2.0
// A fragment for kernels built of tiles with an epilogue (layer: interop): the visitor that turns
// an accumulator of q.k into a modified logit, element by element, as CUTLASS's epilogue visitors
// and FMHA collectives do it. Nothing of CUTLASS is included. docs/cuda.md shows where it goes.
#pragma once

#include "zerotune/policy/compose.hpp"
#include "zerotune/policy/initial_token.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace interop {

/// Visits accumulators of one head of one sequence. `Modifier` must hold device views only.
template <logit_modifier Modifier>
struct score_visitor {
  Modifier modifier;
  index_t batch = 0;
  int head = 0;
  index_t q_start = 0;  ///< position of row 0 of the score matrix
  float softmax_scale = 1.0f;

  /// One element: (row, column) of the score matrix of the head, the accumulator of q.k there.
  ZEROTUNE_HOST_DEVICE float visit(index_t row_index, index_t column, float accumulator) const {
    const row r{batch, head, q_start + row_index};
    if (!visible_keys(modifier, r).contains(column)) return impl::minus_infinity(0.0f);
    return apply_to_logit(modifier, r, static_cast<float>(column), accumulator * softmax_scale);
  }

  /// A fragment: Count elements whose coordinates `where(i, &row, &column)` tells.
  template <int Count, class Coordinates>
  ZEROTUNE_HOST_DEVICE void visit(float (&fragment)[Count], const Coordinates& where) const {
    for (int i = 0; i < Count; ++i) {
      index_t row_index = 0, column = 0;
      where(i, &row_index, &column);
      fragment[i] = visit(row_index, column, fragment[i]);
    }
  }

  /// What the modifier does to a tile [first_row, last_row) x [first_column, last_column): skip
  /// it (masked), leave it (none) or visit it (apply).
  ZEROTUNE_HOST_DEVICE tile_effect effect(index_t first_row, index_t last_row, index_t first_column,
                                          index_t last_column) const {
    return modifier.effect(head_of{batch, head}, range{q_start + first_row, q_start + last_row},
                           range{first_column, last_column});
  }
};

/// log gamma in units of log2, for kernels that add a bias to the first column by themselves
/// (`if (kv_idx == 0) score += bias`): exactly 0 for gamma = 1, -1e30 for 0.
ZEROTUNE_HOST_DEVICE inline float log2_gamma(float gamma) {
  return gamma > 0.0f ? impl::log_gamma<float>(gamma) * 1.44269504088896341f : zero_gamma_bias;
}

}  // namespace interop
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
