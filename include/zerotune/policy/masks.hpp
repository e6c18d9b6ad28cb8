// SPDX-License-Identifier: Apache-2.0
// causal and sliding_window: masks as modifiers (layer: policy).
#pragma once

#include <string>

#include "zerotune/core/error.hpp"
#include "zerotune/policy/concepts.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {

namespace impl {
template <class Batch>
ZEROTUNE_HOST_DEVICE Batch bias_outside(range seen, Batch kv_pos) {
  using real = value_of<Batch>;
  using zerotune::select;
  const Batch hidden(mask_bias<real>());
  const Batch zero(real(0));
  return select(kv_pos < Batch(static_cast<real>(seen.begin)), hidden,
                select(kv_pos < Batch(static_cast<real>(seen.end)), zero, hidden));
}
}  // namespace impl

/// A query sees the keys up to its own position.
struct causal {
  template <class Batch>
  ZEROTUNE_HOST_DEVICE Batch log_bias(row r, Batch kv_pos) const {
    return impl::bias_outside(visible(r), kv_pos);
  }
  ZEROTUNE_HOST_DEVICE constexpr range visible(row r) const {
    return {everywhere.begin, r.q_pos + 1};
  }
  ZEROTUNE_HOST_DEVICE constexpr double factor(row, index_t) const { return 1.0; }
  ZEROTUNE_HOST_DEVICE constexpr range support(row) const { return {}; }
  ZEROTUNE_HOST_DEVICE constexpr tile_effect effect(int, range q, range kv) const {
    if (kv.begin >= q.end) return tile_effect::masked;
    return kv.end <= q.begin + 1 ? tile_effect::none : tile_effect::apply;
  }
};

/// A query sees the last `size` keys up to its own position, itself included; the limit is on the
/// past only (compose with causal), and the initial token is not kept.
struct sliding_window {
  index_t size = 0;

  template <class Batch>
  ZEROTUNE_HOST_DEVICE Batch log_bias(row r, Batch kv_pos) const {
    return impl::bias_outside(visible(r), kv_pos);
  }
  ZEROTUNE_HOST_DEVICE constexpr range visible(row r) const {
    return {r.q_pos - size + 1, everywhere.end};
  }
  ZEROTUNE_HOST_DEVICE constexpr double factor(row, index_t) const { return 1.0; }
  ZEROTUNE_HOST_DEVICE constexpr range support(row) const { return {}; }
  ZEROTUNE_HOST_DEVICE constexpr tile_effect effect(int, range q, range kv) const {
    if (kv.end <= q.begin - size + 1) return tile_effect::masked;
    return kv.begin >= q.end - size ? tile_effect::none : tile_effect::apply;
  }
  /// @throws invalid_argument if size is not positive, or beyond 2^62
  void check(const char* function, const attention_shape&) const {
    if (size < 1 || size > everywhere.end)
      impl::fail(function, "sliding_window size", "at least 1", std::to_string(size));
  }
};

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
