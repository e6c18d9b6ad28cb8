// SPDX-License-Identifier: Apache-2.0
// What a modifier of attention is (layer: policy): logit_modifier, bias_modifier, and what they may
// add so that kernels skip work. docs/modifiers.md walks through writing one.
#pragma once

#include <concepts>
#include <type_traits>

#include "zerotune/core/types.hpp"
#include "zerotune/policy/limits.hpp"

namespace zerotune {

/// The shape that a modifier is about to be used with; its `check` is called with it.
struct attention_shape {
  index_t batch = 0;
  index_t num_heads = 0;
  index_t q_len = 0;
  index_t kv_len = 0;
};

inline namespace ZEROTUNE_ABI {

/// Every modifier is trivially copyable and says what it does to a block of rows by keys:
/// `effect(head, q, kv)`, conservatively (`none` only if no logit of the block changes, `masked`
/// only if all of it is hidden). `head` is a head_of; an int parameter takes it as well.
template <class M>
concept modifier = std::is_trivially_copyable_v<M> &&
    requires(const M& m, head_of head, range positions) {
  { m.effect(head, positions, positions) } -> std::same_as<tile_effect>;
};

/// A modifier whose transform is the addition of `log_bias(row, kv_pos)`, -inf to hide the key. It
/// works in every exact form. Vector code may call it with a SIMD batch of positions; a scalar
/// call must always work.
template <class M>
concept bias_modifier = modifier<M> && requires(const M& m, row r, float f, double d) {
  { m.log_bias(r, f) } -> std::convertible_to<float>;
  { m.log_bias(r, d) } -> std::convertible_to<double>;
};

/// A modifier of one logit: a bias, or any `transform_logit(row, kv_pos, logit)`. It works where
/// logits are at hand: in the logits form and in fused attention.
template <class M>
concept logit_modifier = bias_modifier<M> ||
    (modifier<M>&& requires(const M& m, row r, float f, double d) {
      { m.transform_logit(r, f, f) } -> std::convertible_to<float>;
      { m.transform_logit(r, d, d) } -> std::convertible_to<double>;
    });

/// The keys that a row may see: `visible(row)` if the modifier has one, else all. Keys outside are
/// never read. A mask that is no interval hides the rest with a bias of -inf.
template <modifier M>
ZEROTUNE_HOST_DEVICE range visible_keys(const M& m, row r) {
  if constexpr (requires { m.visible(r); })
    return m.visible(r);
  else
    return everywhere;
}

/// The keys whose logit the modifier may change: `support(row)` if it has one, else all. Keys
/// outside `visible` need not be in it.
template <modifier M>
ZEROTUNE_HOST_DEVICE range changed_keys(const M& m, row r) {
  if constexpr (requires { m.support(r); })
    return m.support(r);
  else
    return everywhere;
}

namespace impl {

/// The pipeline of a logit is transforms, then biases; these are its two halves.
template <logit_modifier M, class Batch>
ZEROTUNE_HOST_DEVICE Batch transform_part(const M& m, row r, Batch kv_pos, Batch logit) {
  if constexpr (requires { m.transform_part(r, kv_pos, logit); })
    return m.transform_part(r, kv_pos, logit);
  else if constexpr (bias_modifier<M>)
    return logit;
  else
    return m.transform_logit(r, kv_pos, logit);
}
template <logit_modifier M, class Batch>
ZEROTUNE_HOST_DEVICE Batch bias_part(const M& m, row r, Batch kv_pos) {
  if constexpr (requires { m.bias_part(r, kv_pos); })
    return m.bias_part(r, kv_pos);
  else if constexpr (bias_modifier<M>)
    return m.log_bias(r, kv_pos);
  else
    return Batch(value_of<Batch>(0));
}

}  // namespace impl

/// The modified logit of one key, or of a batch of keys.
template <logit_modifier M, class Batch>
ZEROTUNE_HOST_DEVICE Batch apply_to_logit(const M& m, row r, Batch kv_pos, Batch logit) {
  return impl::transform_part(m, r, kv_pos, logit) + impl::bias_part(m, r, kv_pos);
}

/// Lets the modifier check itself against a shape: `check(function, shape)`, if it has one.
/// @throws invalid_argument naming the function and the field
template <modifier M>
void check_modifier(const M& m, const char* function, const attention_shape& shape) {
  if constexpr (requires { m.check(function, shape); }) m.check(function, shape);
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
