// SPDX-License-Identifier: Apache-2.0
// Modifiers called with batches of positions (layer: kernel).
#pragma once

#include "zerotune/kernel/geometry.hpp"
#include "zerotune/kernel/simd/load.hpp"
#include "zerotune/policy/compose.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// Can the modifier be called with a batch? One written for float and double alone cannot, nor can
/// a composition with one: those are called position by position.
template <class Modifier, class Batch>
struct takes_batch {
  static constexpr bool value = requires(const Modifier& m, row r, Batch x) {
    { m.log_bias(r, x) } -> std::same_as<Batch>;
  }
  || requires(const Modifier& m, row r, Batch x) {
    { m.transform_logit(r, x, x) } -> std::same_as<Batch>;
  };
};
template <class First, class Second, class Batch>
struct takes_batch<composition<First, Second>, Batch> {
  static constexpr bool value =
      takes_batch<First, Batch>::value && takes_batch<Second, Batch>::value;
};

/// A float holds every position below this one.
template <class Real>
inline constexpr index_t last_exact_position =
    std::is_same_v<Real, float> ? index_t{1} << 24 : index_t{1} << 53;

/// As modify_scores of kernel/attention_row.hpp for whole batches of contiguous scores; returns how
/// many keys it took, and counts the hidden ones.
template <class Batch, logit_modifier Modifier>
ZEROTUNE_ALWAYS_INLINE index_t modify_batches(const Modifier& m, const row& r, range changed,
                                              bool ignore_zero_gamma,
                                              typename Batch::value_type* scores, index_t* hidden,
                                              typename Batch::value_type* poison) {
  using real = typename Batch::value_type;
  if constexpr (!takes_batch<Modifier, Batch>::value) {
    return 0;
  } else {
    const index_t bound = last_exact_position<real>;
    if (changed.size() < lanes<Batch> || changed.end > bound || r.q_pos >= bound ||
        r.q_pos < -bound)
      return 0;
    real first[Batch::size];
    for (std::size_t i = 0; i < Batch::size; ++i)
      first[i] = static_cast<real>(changed.begin) + static_cast<real>(i);
    Batch position = Batch::load_unaligned(first);
    const Batch zero(real(0)), one(real(1));
    Batch hidden_lanes(real(0)), products(real(0));
    index_t i = 0;
    for (; i + lanes<Batch> <= changed.size(); i += lanes<Batch>) {
      const Batch score = Batch::load_unaligned(scores + i);
      Batch bias = bias_part(m, r, position);
      const auto masked = bias <= Batch(mask_threshold<real>);
      products += xsimd::select(masked, zero, score * zero);
      if (ignore_zero_gamma) bias = xsimd::select(bias <= Batch(zero_threshold<real>), zero, bias);
      const Batch modified = transform_part(m, r, position, score) + bias;
      xsimd::select(masked, Batch(mask_bias<real>()), modified).store_unaligned(scores + i);
      hidden_lanes += xsimd::select(masked, one, zero);
      position += Batch(static_cast<real>(lanes<Batch>));
    }
    *hidden += static_cast<index_t>(sum_of_lanes(hidden_lanes));
    *poison += sum_of_lanes(products);
    return i;
  }
}

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
