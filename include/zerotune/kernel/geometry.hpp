// SPDX-License-Identifier: Apache-2.0
// Which keys exist and where the queries stand in each sequence (layer: kernel).
#pragma once

#include "zerotune/core/tensor_view.hpp"
#include "zerotune/policy/concepts.hpp"

namespace zerotune {

/// Shape of a call and, per sequence, its number of keys and the position of its first query.
struct geometry {
  attention_shape shape;
  tensor_view<const index_t, 1> kv_lengths;  // [batch]; empty: kv_len each
  tensor_view<const index_t, 1> q_starts;    // [batch]; empty: queries are the last positions

  ZEROTUNE_ALWAYS_INLINE index_t kv_length(index_t batch) const {
    return kv_lengths.data() ? kv_lengths(batch) : shape.kv_len;
  }
  ZEROTUNE_ALWAYS_INLINE index_t q_start(index_t batch) const {
    return q_starts.data() ? q_starts(batch) : kv_length(batch) - shape.q_len;
  }
  ZEROTUNE_ALWAYS_INLINE row at(index_t batch, index_t head, index_t q) const {
    return {batch, static_cast<int>(head), q_start(batch) + q};
  }
};

inline namespace ZEROTUNE_ABI {
namespace impl {

/// The keys that a row sees by geometry and masks.
template <class Modifier>
range seen_keys(const geometry& g, const Modifier& m, const row& r) {
  return intersect(visible_keys(m, r), {0, g.kv_length(r.batch)});
}

/// A bias that stands for gamma = 0, and not for a mask.
template <class Real>
bool is_zero_gamma(Real bias) {
  return bias <= zero_threshold<Real> && bias > mask_threshold<Real>;
}

/// A bias that hides the key.
template <class Real>
bool is_masked(Real bias) {
  return bias <= mask_threshold<Real>;
}

/// What a hidden key's weight is multiplied by: it is left alone.
inline constexpr double hidden_factor = -1;

/// e^bias of one key. A modifier that knows it without a logarithm says so: factor(row, kv_pos).
template <bias_modifier Modifier>
double weight_factor(const Modifier& m, const row& r, index_t kv_pos) {
  if constexpr (requires { m.factor(r, kv_pos); }) {
    return m.factor(r, kv_pos);
  } else {
    const double bias = m.log_bias(r, static_cast<double>(kv_pos));
    return is_masked(bias) ? hidden_factor : exp_of(bias);
  }
}

/// True if gamma = 0 excludes every key that the row sees: such a row is finalised as if it were
/// unmodified. Decided by positions and masks alone, never by a weight.
template <bias_modifier Modifier>
bool sees_only_excluded(const Modifier& m, const row& r, range seen) {
  const range changed = intersect(changed_keys(m, r), seen);
  if (seen.empty() || changed.size() != seen.size()) return false;
  bool any = false;
  for (index_t j = seen.begin; j < seen.end; ++j) {
    const double bias = m.log_bias(r, static_cast<double>(j));
    if (is_masked(bias)) continue;
    if (!is_zero_gamma(bias)) return false;
    any = true;
  }
  return any;
}

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
