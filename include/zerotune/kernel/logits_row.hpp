// SPDX-License-Identifier: Apache-2.0
// The logits and mask forms on one row (layer: kernel): l_j += log gamma where it acts.
#pragma once

#include "zerotune/kernel/geometry.hpp"
#include "zerotune/kernel/kernel.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// The lowest finite value of a storage type, and what its mask looks like to a host: -inf, or
/// that value, or anything beyond.
template <element T>
constexpr double lowest_finite() {
  if constexpr (std::is_same_v<T, float16>)
    return -65504.0;
  else if constexpr (std::is_same_v<T, bfloat16>)
    return -3.3895313892515355e38;
  else
    return static_cast<double>(lowest_value<T>());
}

/// Stores a logit or a bias: -inf for a masked one; the rest saturates and stays finite, so that
/// gamma = 0 (-1e30, in float16 -6e4) is never taken for a mask.
template <element T>
void store_logit(T* to, double value) {
  using acc = accumulator_t<T>;
  if (is_masked(value)) {
    *to = static_cast<T>(minus_infinity(acc{}));
    return;
  }
  if (std::is_same_v<T, float16> && value < -6e4) value = -6e4;
  *to = static_cast<T>(static_cast<acc>(value));
}

/// A logit that a host's own mask has hidden already.
template <element T>
bool is_masked_logit(T value) {
  const double x = static_cast<double>(static_cast<accumulator_t<T>>(value));
  return std::is_same_v<T, float16> ? x <= lowest_finite<T>() : is_masked(x);
}

/// True if the row has a visible logit that gamma = 0 does not exclude.
template <element T, logit_modifier Modifier>
bool has_other_logit(const T* logits, index_t stride, const Modifier& m, const row& r, range seen) {
  const range changed = intersect(changed_keys(m, r), seen);
  for (index_t j = seen.begin; j < seen.end; ++j) {
    if (is_masked_logit(logits[j * stride])) continue;
    if (!changed.contains(j)) return true;
    const double bias = bias_part(m, r, static_cast<double>(j));
    if (!is_masked(bias) && !is_zero_gamma(bias)) return true;
  }
  return false;
}

/// Modifies one row of logits in place: transforms, biases, and -inf for the keys that the
/// modifier's masks hide (those are written and never read).
template <class Backend, element T, logit_modifier Modifier>
void bias_row(T* logits, index_t stride, const geometry& g, const Modifier& m,
              const row& r) noexcept {
  const range seen = seen_keys(g, m, r);
  const T hidden = static_cast<T>(minus_infinity(accumulator_t<T>{}));
  const index_t first = seen.empty() ? g.shape.kv_len : seen.begin;
  for (index_t j = 0; j < first; ++j) logits[j * stride] = hidden;
  if (seen.empty()) return;
  for (index_t j = seen.end; j < g.shape.kv_len; ++j) logits[j * stride] = hidden;

  const range changed = intersect(changed_keys(m, r), seen);
  if (changed.empty() ||
      m.effect(head_of{r.batch, r.head}, range{r.q_pos, r.q_pos + 1}, seen) == tile_effect::none)
    return;
  bool zero_acts = true, zero_checked = false;
  for (index_t j = changed.begin; j < changed.end; ++j) {
    T& logit = logits[j * stride];
    const double position = static_cast<double>(j);
    const double bias = bias_part(m, r, position);
    if (is_masked(bias)) {  // whatever is there
      logit = hidden;
      continue;
    }
    if (is_masked_logit(logit)) continue;
    if (is_zero_gamma(bias) && !zero_checked) {
      zero_checked = true;
      zero_acts = has_other_logit(logits, stride, m, r, seen);
    }
    const double raw = static_cast<double>(static_cast<accumulator_t<T>>(logit));
    const double transformed = transform_part(m, r, position, raw);
    if (is_zero_gamma(bias) && !zero_acts) {
      if constexpr (!bias_modifier<Modifier>) store_logit(&logit, transformed);
      continue;
    }
    if (bias != 0.0 || !bias_modifier<Modifier>) store_logit(&logit, transformed + bias);
  }
}

/// Writes the additive mask of one row: the sum of the biases, -inf where a key is hidden. A row
/// in which gamma = 0 would exclude all that is seen is left at 0 there.
template <class Backend, element T, bias_modifier Modifier>
void fill_mask_row(T* mask, index_t stride, const geometry& g, const Modifier& m,
                   const row& r) noexcept {
  const range seen = seen_keys(g, m, r);
  const range changed = intersect(changed_keys(m, r), seen);
  const bool excluded = !changed.empty() && sees_only_excluded(m, r, seen);
  const T hidden = static_cast<T>(minus_infinity(accumulator_t<T>{}));
  const T zero = static_cast<T>(accumulator_t<T>{0});
  for (index_t j = 0; j < g.shape.kv_len; ++j) mask[j * stride] = seen.contains(j) ? zero : hidden;
  for (index_t j = changed.begin; j < changed.end; ++j) {
    const double bias = m.log_bias(r, static_cast<double>(j));
    if (excluded && is_zero_gamma(bias)) continue;
    store_logit(&mask[j * stride], bias);
  }
}

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
