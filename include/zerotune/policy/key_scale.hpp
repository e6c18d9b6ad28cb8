// SPDX-License-Identifier: Apache-2.0
// key_scale: the factors of the paper's key-state form, k_0 *= c (layer: policy). Not a modifier of
// logits: the effective gamma, exp((c - 1) softmax_scale q.k_0), differs from query to query.
#pragma once

#include "zerotune/policy/head_gammas.hpp"

namespace zerotune {

/// What scale_keys does where the query heads of one key-value head want different factors.
enum class mixed_groups : std::uint8_t {
  refuse,  ///< an error that names the group
  mean,    ///< their mean is applied to all of them
};

/// One factor of the initial token's key for all heads, or a view [num_heads] of one per query
/// head.
struct key_scale {
  float factor = 1.0f;
  tensor_view<const float, 1> factors{};      ///< [num_heads]; empty: `factor` for all
  tensor_view<const index_t, 1> positions{};  ///< [batch]; empty: 0
  mixed_groups groups = mixed_groups::refuse;

  ZEROTUNE_ALWAYS_INLINE float of(index_t head) const {
    return factors.data() ? factors(head) : factor;
  }
  ZEROTUNE_ALWAYS_INLINE index_t position(index_t batch) const {
    return positions.data() ? positions(batch) : 0;
  }
};

}  // namespace zerotune
