// SPDX-License-Identifier: Apache-2.0
// Composition of modifiers with `|` or compose() (layer: policy). The pipeline of a logit is fixed:
// transforms first, then biases; a transform after a bias does not compile.
#pragma once

#include <type_traits>

#include "zerotune/policy/concepts.hpp"
#include "zerotune/policy/identity.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {

template <logit_modifier First, logit_modifier Second>
class composition;

namespace impl {
/// Whether a modifier is a bias or has one in it.
template <class M>
inline constexpr bool has_bias = bias_modifier<M> && !std::is_same_v<M, identity>;
template <class First, class Second>
inline constexpr bool has_bias<composition<First, Second>> = has_bias<First> || has_bias<Second>;
}  // namespace impl

/// First, then Second. A bias_modifier if both are.
template <logit_modifier First, logit_modifier Second>
class composition {
  static_assert(bias_modifier<Second> || !impl::has_bias<First>,
                "zerotune: a logit transform (softcap) must come before every bias (gamma, ALiBi, "
                "masks): write softcap{...} | bias, not bias | softcap{...}");

 public:
  ZEROTUNE_HOST_DEVICE constexpr composition(First first, Second second)
      : first_(first), second_(second) {}

  template <class Batch>
    requires(bias_modifier<First>&& bias_modifier<Second>)
  ZEROTUNE_HOST_DEVICE Batch log_bias(row r, Batch kv_pos)
  const { return first_.log_bias(r, kv_pos) + second_.log_bias(r, kv_pos); }
  template <class Batch>
    requires(!(bias_modifier<First> && bias_modifier<Second>))
  ZEROTUNE_HOST_DEVICE Batch transform_logit(row r, Batch kv_pos, Batch logit)
  const { return transform_part(r, kv_pos, logit) + bias_part(r, kv_pos); }
  /// The transforms alone, and the sum of the biases alone (0 without one).
  template <class Batch>
  ZEROTUNE_HOST_DEVICE Batch transform_part(row r, Batch kv_pos, Batch logit) const {
    return impl::transform_part(second_, r, kv_pos, impl::transform_part(first_, r, kv_pos, logit));
  }
  template <class Batch>
  ZEROTUNE_HOST_DEVICE Batch bias_part(row r, Batch kv_pos) const {
    return impl::bias_part(first_, r, kv_pos) + impl::bias_part(second_, r, kv_pos);
  }
  /// Of a visible key, where both parts know theirs.
  ZEROTUNE_HOST_DEVICE constexpr double factor(row r, index_t kv_pos) const requires
      requires(const First& a, const Second& b) {
    a.factor(r, kv_pos);
    b.factor(r, kv_pos);
  }
  { return first_.factor(r, kv_pos) * second_.factor(r, kv_pos); }
  ZEROTUNE_HOST_DEVICE range visible(row r) const {
    return intersect(visible_keys(first_, r), visible_keys(second_, r));
  }
  ZEROTUNE_HOST_DEVICE range support(row r) const {
    return hull(changed_keys(first_, r), changed_keys(second_, r));
  }
  ZEROTUNE_HOST_DEVICE tile_effect effect(head_of head, range q, range kv) const {
    const tile_effect a = first_.effect(head, q, kv);
    const tile_effect b = second_.effect(head, q, kv);
    if (a == tile_effect::masked || b == tile_effect::masked) return tile_effect::masked;
    return a == tile_effect::apply ? a : b;
  }
  void check(const char* function, const attention_shape& shape) const {
    check_modifier(first_, function, shape);
    check_modifier(second_, function, shape);
  }

 private:
  First first_;
  Second second_;
};

/// Both modifiers, the first one first. Among bias modifiers the order does not matter.
template <logit_modifier First, logit_modifier Second>
ZEROTUNE_HOST_DEVICE constexpr composition<First, Second> compose(First first, Second second) {
  return {first, second};
}
template <logit_modifier First, logit_modifier Second, logit_modifier... Rest>
  requires(sizeof...(Rest) > 0)
ZEROTUNE_HOST_DEVICE constexpr auto compose(First first, Second second, Rest... rest) {
  return compose(compose(first, second), rest...);
}
template <logit_modifier First, logit_modifier Second>
ZEROTUNE_HOST_DEVICE constexpr composition<First, Second> operator|(First first, Second second) {
  return {first, second};
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
