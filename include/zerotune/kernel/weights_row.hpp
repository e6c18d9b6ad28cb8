// SPDX-License-Identifier: Apache-2.0
// The weights form on one row (layer: kernel): a'_j = a_j e^{b_j} / D with
// D = (sum_changed a_j e^{b_j} + S_rest) / (sum_changed a_j + S_rest), docs/mathematics.md, section 2.
#pragma once

#include "zerotune/kernel/geometry.hpp"
#include "zerotune/kernel/kernel.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// Rescales the weights of one row in place. Keys that the row does not see are neither read nor
/// written; a row that would not change is not written. The row keeps its own sum, whatever
/// rounding made of it. S_rest is summed, never 1 - a_0: that cancels where a_0 is near 1.
template <class Backend, element T, bias_modifier Modifier>
void rescale_row(T* weights, index_t stride, const geometry& g, const Modifier& m, row r) noexcept {
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
  double before = 0, after = 0;
  bool changes = false;
  for (index_t j = changed.begin; j < changed.end; ++j) {
    const double bias = m.log_bias(r, static_cast<double>(j));
    if (is_masked(bias)) continue;
    before += value(j);
    after += value(j) * exp_of(bias);
    changes |= bias != 0.0 && value(j) != 0.0;
  }
  // All weight on one key: it stays there. This also covers a row that sees the initial token only.
  if (!changes || (rest == 0.0 && changed.size() == 1)) return;
  if (sees_only_excluded(m, r, seen)) return;
  const double d = (after + rest) / (before + rest);
  if (d == 0.0) return;  // gamma = 0 took all the weight that there was: nothing is left to share

  const auto scale_rest = [&](acc factor) {
    ops::scale(weights + seen.begin * stride, stride, changed.begin - seen.begin, factor);
    ops::scale(weights + changed.end * stride, stride, seen.end - changed.end, factor);
  };
  // 1/D overflows where the rest is tiny and gamma takes what it stood beside: two steps then.
  constexpr acc step = sizeof(acc) == sizeof(float) ? acc(0x1p64) : acc(0x1p512);
  const bool in_two_steps = d < 1.0 / static_cast<double>(step);
  if (in_two_steps) scale_rest(step);
  scale_rest(static_cast<acc>(1.0 / (in_two_steps ? d * static_cast<double>(step) : d)));
  for (index_t j = changed.begin; j < changed.end; ++j) {
    const double bias = m.log_bias(r, static_cast<double>(j));
    if (is_masked(bias)) continue;
    weights[j * stride] = static_cast<T>(static_cast<acc>(value(j) * exp_of(bias) / d));
  }
}

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
