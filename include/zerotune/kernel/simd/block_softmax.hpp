// SPDX-License-Identifier: Apache-2.0
// The softmax of a panel and a block of keys with maxima that are raised late (layer: kernel). A
// row's maximum is that of the first group of keys of which it sees any. It stays until the weights
// of a block sum up to more than 2^24, then it becomes the block's. Each lane decides for itself,
// and the order of its sums is that of the keys: its bits depend neither on its neighbours nor on
// which way its scores were made. Logits are in units of log 2.
#pragma once

#include "zerotune/kernel/simd/softmax_tile.hpp"
#include "zerotune/kernel/simd/weights.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// What has been summed of a block, row by row.
template <class Shape>
struct block_sums {
  using real = typename Shape::real;
  static constexpr index_t width = Shape::width;
  alignas(64) real maximum[width];             // no_maximum: none yet
  alignas(64) real shift[width];               // its negative, 0 where there is none
  alignas(64) real part[width], total[width];  // of weights; parts are of summed_keys keys
  real factor;                                 // of scores
};

/// The sum of a block's weights beyond which a maximum is raised, and an octave that no weight of a
/// smaller sum reaches, whatever the number of keys (1024 at most).
template <class Real>
inline constexpr Real raising_sum = Real(1 << 24);
inline constexpr int raising_octave = 13;

template <class Shape>
void begin_sums(block_sums<Shape>& s, const panel<Shape>& p, typename Shape::real factor) noexcept {
  using real = typename Shape::real;
  for (index_t i = 0; i < Shape::width; ++i) {
    s.maximum[i] = p.maximum[i];
    s.shift[i] = p.maximum[i] > no_maximum<real>() ? -p.maximum[i] : real(0);
    s.part[i] = s.total[i] = 0;
  }
  s.factor = factor;
}

/// Gives a maximum to each row of vector n that has none: the greatest of the first of the groups
/// in which it has a score that is not hidden.
template <class Shape>
[[gnu::flatten]] void begin_maxima(block_sums<Shape>& s, index_t n, key_groups part,
                                   const typename Shape::real* scores) noexcept {
  using Batch = typename Shape::batch;
  using real = typename Shape::real;
  const index_t lane = n * lanes<Batch>;
  const Batch none(no_maximum<real>()), f(s.factor);
  Batch maximum = Batch::load_aligned(s.maximum + lane);
  for (index_t j = part.begin; j < part.end && xsimd::any(maximum <= none); j += Shape::group) {
    const Batch greatest = greatest_scores<Shape>(n, {j, j + Shape::group}, scores, none);
    maximum =
        xsimd::select(maximum > none, maximum, xsimd::select(greatest > none, greatest * f, none));
  }
  maximum.store_aligned(s.maximum + lane);
  xsimd::select(maximum > none, -maximum, Batch(real(0))).store_aligned(s.shift + lane);
}

/// What has been summed of a part, to the total: small weights that are added one by one to a great
/// one, as gamma makes it, all round in the same direction.
template <class Shape>
ZEROTUNE_ALWAYS_INLINE void close_part(block_sums<Shape>& s, index_t lane) {
  using Batch = typename Shape::batch;
  (Batch::load_aligned(s.total + lane) + Batch::load_aligned(s.part + lane))
      .store_aligned(s.total + lane);
  Batch(typename Shape::real(0)).store_aligned(s.part + lane);
}

/// Weights of a pair of keys from their scores.
template <class Weights, class Shape>
ZEROTUNE_ALWAYS_INLINE void weigh_pair(block_sums<Shape>& s, index_t lane,
                                       const typename Shape::batch& first,
                                       const typename Shape::batch& second,
                                       typename Weights::weight* to) {
  using Batch = typename Shape::batch;
  const Batch sum = Weights::weigh(first, second, s.factor, s.shift + lane, to, Shape::width);
  (Batch::load_aligned(s.part + lane) + sum).store_aligned(s.part + lane);
}

/// Weights of vector n from scores in memory. `row` is 0 where the weights are not wanted: all
/// overwrite each other then.
template <class Weights, class Shape>
[[gnu::flatten]] void weigh_stored(block_sums<Shape>& s, index_t n, key_groups part,
                                   const typename Shape::real* scores,
                                   typename Weights::weight* weights, index_t row) noexcept {
  using Batch = typename Shape::batch;
  const index_t lane = n * lanes<Batch>;
  for (index_t j = part.begin; j < part.end; j += 2) {
    const auto* const at = scores + j * Shape::width + lane;
    weigh_pair<Weights>(s, lane, Batch::load_aligned(at), Batch::load_aligned(at + Shape::width),
                        weights + j / Weights::keys_of_row * row + lane);
    if ((j + 2) % summed_keys == 0) close_part(s, lane);
  }
}

/// Raises the maxima of vector n whose block sums up to too much. The block's scores are in memory
/// and stay; sums begin anew.
template <class Weights, class Shape>
[[gnu::flatten]] void raise_maxima(block_sums<Shape>& s, index_t n, key_groups part,
                                   const typename Shape::real* scores) noexcept {
  using Batch = typename Shape::batch;
  using real = typename Shape::real;
  const index_t lane = n * lanes<Batch>;
  const Batch none(no_maximum<real>()), zero(real(0)), f(s.factor);
  const Batch maximum = Batch::load_aligned(s.maximum + lane);
  const Batch greatest = greatest_scores<Shape>(n, part, scores, none);
  const Batch shift = Batch::load_aligned(s.shift + lane);
  if (!xsimd::any(multiply_add(greatest, f, shift) > Batch(real(raising_octave)))) return;
  alignas(64) typename Weights::weight unwanted[2 * Shape::width];
  weigh_stored<Weights>(s, n, part, scores, unwanted, 0);
  close_part(s, lane);
  const Batch raised = xsimd::select(Batch::load_aligned(s.total + lane) > Batch(raising_sum<real>),
                                     xsimd::max(maximum, greatest * f), maximum);
  raised.store_aligned(s.maximum + lane);
  xsimd::select(raised > none, -raised, zero).store_aligned(s.shift + lane);
  zero.store_aligned(s.total + lane);
}

/// True if each row has a maximum, or a sum that is NaN already.
template <class Shape>
bool all_begun(const block_sums<Shape>& s, const panel<Shape>& p) noexcept {
  using real = typename Shape::real;
  bool begun = true;
  for (index_t i = 0; i < Shape::width; ++i) {
    const real sum = p.sum[i] + s.total[i] + s.part[i];
    begun &= s.maximum[i] > no_maximum<real>() || sum != sum;
  }
  return begun;
}

/// True if some row's block sums up to so much that its maximum has to be raised.
template <class Shape>
bool must_raise(const block_sums<Shape>& s) noexcept {
  bool any = false;
  for (index_t i = 0; i < Shape::width; ++i)
    any |= s.total[i] + s.part[i] > raising_sum<typename Shape::real>;
  return any;
}

/// Adds the block to the panel. shrink is what the former outputs are to be multiplied by; false if
/// by 1, all of them.
template <class Shape>
[[gnu::flatten]] bool add_block(const block_sums<Shape>& s, panel<Shape>& p,
                                typename Shape::real* shrink) noexcept {
  using Batch = typename Shape::batch;
  using real = typename Shape::real;
  bool shrinks = false;
  for (index_t lane = 0; lane < p.used * lanes<Batch>; lane += lanes<Batch>) {
    const Batch former = Batch::load_aligned(p.maximum + lane), one(real(1));
    const Batch maximum = Batch::load_aligned(s.maximum + lane);
    const Batch factor = xsimd::select(maximum == former, one, exp2_of(former - maximum));
    const Batch total = Batch::load_aligned(s.total + lane) + Batch::load_aligned(s.part + lane);
    shrinks |= xsimd::any(factor != one);
    factor.store_aligned(shrink + lane);
    maximum.store_aligned(p.maximum + lane);
    multiply_add(Batch::load_aligned(p.sum + lane), factor, total).store_aligned(p.sum + lane);
  }
  return shrinks;
}

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
