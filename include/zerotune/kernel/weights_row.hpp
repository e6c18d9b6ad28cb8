// SPDX-License-Identifier: Apache-2.0
// The weights form on one row (layer: kernel): a'_j = a_j e^{b_j} / D with
// D = (sum_changed a_j e^{b_j} + S_rest) / (sum_changed a_j + S_rest), docs/mathematics.md,
// section 2.
#pragma once

#include "zerotune/kernel/geometry.hpp"
#include "zerotune/kernel/kernel.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// What a hidden key's weight is multiplied by: it is left alone.
inline constexpr double hidden_factor = -1;

/// e^bias of one key. A modifier that knows it without a logarithm says so: factor(row, kv_pos).
template <bias_modifier Modifier>
double weight_factor(const Modifier& m, row r, index_t kv_pos) {
  if constexpr (requires { m.factor(r, kv_pos); }) {
    return m.factor(r, kv_pos);
  } else {
    const double bias = m.log_bias(r, static_cast<double>(kv_pos));
    return is_masked(bias) ? hidden_factor : exp_of(bias);
  }
}

/// Rescales the weights of one row in place. Keys that the row does not see are neither read nor
/// written; a row that would not change is not written. The row keeps its own sum, whatever
/// rounding made of it. S_rest is summed, never 1 - a_0: that cancels where a_0 is near 1.
/// `row_step` is the distance to the row that comes next, for what fetches ahead; 0 if none does.
template <class Backend, element T, bias_modifier Modifier>
void rescale_row(T* weights, index_t stride, const geometry& g, const Modifier& m, row r,
                 index_t row_step = 0) noexcept {
  using ops = row_ops<Backend, T>;
  using acc = typename ops::acc;
  const range seen = seen_keys(g, m, r);
  const range changed = intersect(changed_keys(m, r), seen);
  if (changed.empty() ||
      m.effect(head_of{r.batch, r.head}, range{r.q_pos, r.q_pos + 1}, seen) == tile_effect::none)
    return;

  const auto value = [&](index_t j) {
    return static_cast<double>(static_cast<acc>(weights[j * stride]));
  };
  const double rest = ops::sum(weights + seen.begin * stride, stride, changed.begin - seen.begin) +
                      ops::sum(weights + changed.end * stride, stride, seen.end - changed.end);
  // One logarithm and one exponential a row where one key changes, as with initial_token.
  double first_factor = hidden_factor, before = 0, after = 0;
  bool changes = false;
  for (index_t j = changed.begin; j < changed.end; ++j) {
    const double factor = weight_factor(m, r, j);
    if (j == changed.begin) first_factor = factor;
    if (factor == hidden_factor) continue;
    before += value(j);
    after += value(j) * factor;
    changes |= factor != 1.0 && value(j) != 0.0;
  }
  // All weight on one key: it stays there. This also covers a row that sees the initial token only.
  if (!changes || (rest == 0.0 && changed.size() == 1)) return;
  if (changed.size() == seen.size() && sees_only_excluded(m, r, seen)) return;
  // D = scaled / kept. Its inverse is one division: a row waits for it before anything is written.
  const double kept = before + rest, scaled = after + rest;
  if (scaled == 0.0) return;  // gamma = 0 took all the weight that there was: nothing is left

  const auto scale_range = [&](range keys, acc factor) {
    T* const first = weights + keys.begin * stride;
    if constexpr (requires { ops::scale(first, stride, keys.size(), factor, row_step); })
      ops::scale(first, stride, keys.size(), factor, row_step);
    else
      ops::scale(first, stride, keys.size(), factor);
  };
  // One changed key is scaled with the rest and then written from what it was: one pass.
  const bool in_one_pass = changed.size() == 1;
  const double former = value(changed.begin);
  const auto scale_rest = [&](acc factor) {
    if (in_one_pass) return scale_range(seen, factor);
    scale_range({seen.begin, changed.begin}, factor);
    scale_range({changed.end, seen.end}, factor);
  };
  // 1/D overflows where the rest is tiny and gamma takes what it stood beside: two steps then.
  constexpr acc step = sizeof(acc) == sizeof(float) ? acc(0x1p64) : acc(0x1p512);
  const double large = static_cast<double>(step);
  const bool in_two_steps = scaled * large < kept;
  if (in_two_steps) scale_rest(step);
  scale_rest(static_cast<acc>((in_two_steps ? kept / large : kept) / scaled));
  for (index_t j = changed.begin; j < changed.end; ++j) {
    const double factor = j == changed.begin ? first_factor : weight_factor(m, r, j);
    if (factor == hidden_factor) continue;
    const double weight = in_one_pass ? former : value(j);
    weights[j * stride] = static_cast<T>(static_cast<acc>(weight * factor / (scaled / kept)));
  }
}

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
