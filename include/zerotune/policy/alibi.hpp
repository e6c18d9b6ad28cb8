// SPDX-License-Identifier: Apache-2.0
// alibi: attention with linear biases (layer: policy; Press et al., arXiv 2108.12409).
#pragma once

#include <cmath>
#include <string>

#include "zerotune/core/error.hpp"
#include "zerotune/core/tensor_view.hpp"
#include "zerotune/policy/concepts.hpp"
#include "zerotune/policy/head_gammas.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {

/// Adds -slope[head] * (q_pos - kv_pos).
struct alibi {
  /// [num_heads], finite; must outlive the modifier.
  tensor_view<const float, 1> slopes;

  /// The paper's slope of a head where num_heads is a power of two: 2^(-8 (head + 1) / num_heads).
  static float slope(int head, int num_heads) {
    return ::exp2f(-8.0f * static_cast<float>(head + 1) / static_cast<float>(num_heads));
  }

  template <class Batch>
  ZEROTUNE_HOST_DEVICE Batch log_bias(row r, Batch kv_pos) const {
    using real = impl::value_of<Batch>;
    const Batch query(static_cast<real>(r.q_pos));
    return Batch(static_cast<real>(slopes(r.head))) * (kv_pos - query);
  }
  ZEROTUNE_HOST_DEVICE constexpr tile_effect effect(int head, range, range) const {
    return slopes(head) == 0.0f ? tile_effect::none : tile_effect::apply;
  }
  /// @throws invalid_argument if the slopes do not fit the heads, or one is not finite
  void check(const char* function, const attention_shape& shape) const {
    if (slopes.extent(0) != shape.num_heads)
      impl::fail(function, "alibi slopes dim 0 (num_heads)", std::to_string(shape.num_heads),
                 std::to_string(slopes.extent(0)));
    impl::check_list(function, "alibi", "slopes", slopes);
    for (index_t head = 0; head < shape.num_heads; ++head)
      if (!impl::is_finite(slopes(head)))
        impl::fail(function, "alibi slopes[" + std::to_string(head) + "]", "a finite value",
                   "NaN or infinity");
  }
};

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
