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

/// The keys of a row that are changed: what they hold before and after, and whether that differs.
struct changed_sums {
  double before = 0, after = 0;
  bool differ = false;

  void add(double weight, double factor) {
    if (factor == hidden_factor) return;
    before += weight;
    after += weight * factor;
    differ |= factor != 1.0 && weight != 0.0;
  }
};

template <element T>
double weight_at(const T* weights, index_t stride, index_t j) {
  return static_cast<double>(static_cast<accumulator_t<T>>(weights[j * stride]));
}

/// Divides keys by D = scaled / kept; the back end may fetch the next row meanwhile. 1/D overflows
/// where the rest is tiny and gamma takes what it stood beside: two steps then.
template <class Backend, element T>
void divide_keys(T* weights, index_t stride, range keys, double scaled, double kept,
                 index_t row_step) noexcept {
  using ops = row_ops<Backend, T>;
  using acc = typename ops::acc;
  const auto scale = [&](acc factor) {
    T* const first = weights + keys.begin * stride;
    if constexpr (requires { ops::scale(first, stride, keys.size(), factor, row_step); })
      ops::scale(first, stride, keys.size(), factor, row_step);
    else
      ops::scale(first, stride, keys.size(), factor);
  };
  constexpr acc step = sizeof(acc) == sizeof(float) ? acc(0x1p64) : acc(0x1p512);
  constexpr double large = static_cast<double>(step);
  if (scaled * large < kept) {
    scale(step);
    kept /= large;
  }
  scale(static_cast<acc>(kept / scaled));
}

/// rescale_row where one key changes, as with initial_token: the row is scaled in one pass, and the
/// key is then written from what it was.
template <class Backend, element T, bias_modifier Modifier>
ZEROTUNE_ALWAYS_INLINE_HOST void rescale_row_of_one(T* weights, index_t stride, const Modifier& m,
                                                    const row& r, range seen, index_t key,
                                                    index_t row_step) noexcept {
  using ops = row_ops<Backend, T>;
  const double factor = weight_factor(m, r, key), former = weight_at(weights, stride, key);
  if (factor == hidden_factor || factor == 1.0 || former == 0.0) return;
  const auto rest_of_row = [&] {
    if constexpr (requires { ops::sum(weights, stride, key, index_t(1), row_step); })
      if (key == seen.begin)
        return ops::sum(weights + key * stride, stride, seen.size(), 1, row_step);
    return ops::sum(weights + seen.begin * stride, stride, key - seen.begin) +
           ops::sum(weights + (key + 1) * stride, stride, seen.end - key - 1);
  };
  const double rest = rest_of_row();
  // All weight on one key: it stays there. This also covers a row that sees the initial token only.
  if (rest == 0.0) return;
  const double kept = former + rest, scaled = former * factor + rest;
  if (scaled == 0.0) return;  // gamma = 0 took all the weight that there was: nothing is left
  divide_keys<Backend>(weights, stride, seen, scaled, kept, row_step);
  weights[key * stride] =
      static_cast<T>(static_cast<accumulator_t<T>>(former * factor / (scaled / kept)));
}

/// rescale_row where several keys change.
template <class Backend, element T, bias_modifier Modifier>
void rescale_row_of_many(T* weights, index_t stride, const Modifier& m, const row& r, range seen,
                         range changed, index_t row_step) noexcept {
  using ops = row_ops<Backend, T>;
  const range before{seen.begin, changed.begin}, behind{changed.end, seen.end};
  const double rest = ops::sum(weights + before.begin * stride, stride, before.size()) +
                      ops::sum(weights + behind.begin * stride, stride, behind.size());
  changed_sums sums;
  for (index_t j = changed.begin; j < changed.end; ++j)
    sums.add(weight_at(weights, stride, j), weight_factor(m, r, j));
  if (!sums.differ) return;
  if (changed.size() == seen.size() && sees_only_excluded(m, r, seen)) return;
  const double kept = sums.before + rest, scaled = sums.after + rest;
  if (scaled == 0.0) return;
  divide_keys<Backend>(weights, stride, before, scaled, kept, row_step);
  divide_keys<Backend>(weights, stride, behind, scaled, kept, row_step);
  for (index_t j = changed.begin; j < changed.end; ++j) {
    const double factor = weight_factor(m, r, j);
    if (factor == hidden_factor) continue;
    const double weight = weight_at(weights, stride, j);
    weights[j * stride] =
        static_cast<T>(static_cast<accumulator_t<T>>(weight * factor / (scaled / kept)));
  }
}

/// Rescales the weights of one row in place. Keys that the row does not see are neither read nor
/// written; a row that would not change is not written. The row keeps its own sum, whatever
/// rounding made of it. S_rest is summed, never 1 - a_0: that cancels where a_0 is near 1.
/// `row_step` is the distance to the row that comes next, for what fetches ahead; 0 if none does.
/// The row by reference: a copy of it waited for the stores of the row before.
template <class Backend, element T, bias_modifier Modifier>
ZEROTUNE_ALWAYS_INLINE_HOST void rescale_row(T* weights, index_t stride, const geometry& g,
                                             const Modifier& m, const row& r,
                                             index_t row_step = 0) noexcept {
  const range seen = seen_keys(g, m, r);
  const range changed = intersect(changed_keys(m, r), seen);
  if (changed.empty() ||
      m.effect(head_of{r.batch, r.head}, range{r.q_pos, r.q_pos + 1}, seen) == tile_effect::none)
    return;
  if (changed.size() == 1)
    rescale_row_of_one<Backend>(weights, stride, m, r, seen, changed.begin, row_step);
  else
    rescale_row_of_many<Backend>(weights, stride, m, r, seen, changed, row_step);
}

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
