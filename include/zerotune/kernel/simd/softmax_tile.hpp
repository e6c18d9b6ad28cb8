// SPDX-License-Identifier: Apache-2.0
// The online softmax of a panel and a block of keys (layer: kernel): masks, maxima, weights, sums.
// Logits are in units of log 2. Milakov and Gimelshein, arXiv 1805.02867.
#pragma once

#include "zerotune/kernel/simd/exp.hpp"
#include "zerotune/kernel/simd/panel.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// A maximum that no logit has raised yet: above the masks, which may be the lowest finite number,
/// and below every logit.
template <class Real>
constexpr Real no_maximum() {
  return lowest_value<Real>() / 2;
}

/// Hides from each row of vector n the keys that it does not see, in the groups [begin, end).
template <class Shape>
[[gnu::flatten]] void mask_scores(const panel<Shape>& p, index_t n, index_t origin, key_groups part,
                                  typename Shape::real* scores) noexcept {
  using real = typename Shape::real;
  using Batch = typename Shape::batch;
  constexpr index_t group = Shape::group;
  const range whole = p.vector_common[n];
  real begins[Batch::size], ends[Batch::size];
  bool ready = false;
  Batch begin(real(0)), end(real(0));
  for (index_t j = part.begin; j < part.end; j += group) {
    if (whole.contains(range{origin + j, origin + j + group})) continue;
    if (!ready) {
      for (index_t i = 0; i < lanes<Batch>; ++i) {
        const index_t query = n * lanes<Batch> + i;
        // Lanes without a query see everything: their scores are 0.
        const range seen = query < p.queries ? intersect(p.seen[query], {origin, origin + part.end})
                                             : range{origin, origin + part.end};
        begins[i] = static_cast<real>(seen.begin - origin);
        ends[i] = seen.empty() ? begins[i] : static_cast<real>(seen.end - origin);
      }
      begin = Batch::load_unaligned(begins), end = Batch::load_unaligned(ends);
      ready = true;
    }
    for (index_t i = j; i < j + group; ++i) {
      real* const at = scores + i * p.width + n * lanes<Batch>;
      const Batch position(static_cast<real>(i));
      const auto visible = (position >= begin) & (position < end);
      xsimd::select(visible, Batch::load_aligned(at), Batch(mask_bias<real>())).store_aligned(at);
    }
  }
}

/// Scores of whole rows times *factor, which becomes 1.
template <class Shape>
[[gnu::flatten]] void scale_scores(key_groups part, typename Shape::real* scores,
                                   typename Shape::real* factor) noexcept {
  using Batch = typename Shape::batch;
  using real = typename Shape::real;
  if (*factor == real(1)) return;
  const Batch f(*factor);
  for (index_t i = part.begin * Shape::width; i < part.end * Shape::width; i += lanes<Batch>)
    (Batch::load_aligned(scores + i) * f).store_aligned(scores + i);
  *factor = real(1);
}

/// The greatest of each row's scores in the groups and of `former`. A NaN is passed over.
template <class Shape>
ZEROTUNE_ALWAYS_INLINE auto greatest_scores(index_t n, key_groups part,
                                            const typename Shape::real* scores,
                                            const typename Shape::batch& former) {
  using Batch = typename Shape::batch;
  const auto* const at = scores + n * lanes<Batch>;
  Batch even = former, odd = former;
  for (index_t j = part.begin; j < part.end; j += 2) {
    even = xsimd::max(Batch::load_aligned(at + j * Shape::width), even);
    odd = xsimd::max(Batch::load_aligned(at + (j + 1) * Shape::width), odd);
  }
  return xsimd::max(even, odd);
}

/// So many weights are summed by themselves: small ones that are added one by one to a great one,
/// as gamma makes it, all round in the same direction.
inline constexpr index_t summed_keys = 64;

/// Raises vector n's maxima, turns its scores of the groups into weights and adds them to the sums.
/// shrink is what the former sums were and the former outputs are to be multiplied by. A NaN does
/// not raise a maximum; it becomes a NaN of the sum.
template <class Shape>
[[gnu::flatten]] void exponentiate(panel<Shape>& p, index_t n, key_groups part,
                                   typename Shape::real* scores,
                                   typename Shape::real* shrink) noexcept {
  using real = typename Shape::real;
  using Batch = typename Shape::batch;
  const index_t lane = n * lanes<Batch>;
  const Batch former = Batch::load_aligned(p.maximum + lane);
  const Batch maximum = greatest_scores<Shape>(n, part, scores, former);
  const Batch factor = exp2_of(former - maximum);
  Batch total(real(0));
  for (key_groups some = part; some.begin < part.end; some.begin = some.end) {
    some.end = part.end < some.begin + summed_keys ? part.end : some.begin + summed_keys;
    Batch sums[2] = {Batch(real(0)), Batch(real(0))};
    for (index_t j = some.begin; j < some.end; j += 2)
      unrolled<2>([&](auto i) __attribute__((always_inline)) {
        real* const at = scores + (j + i) * p.width + lane;
        const Batch weight = exp2_of(Batch::load_aligned(at) - maximum);
        weight.store_aligned(at);
        sums[i] += weight;
      });
    total += sums[0] + sums[1];
  }
  maximum.store_aligned(p.maximum + lane);
  const Batch sum = multiply_add(Batch::load_aligned(p.sum + lane), factor, total);
  sum.store_aligned(p.sum + lane);
  factor.store_aligned(shrink + lane);
}

/// Weights of zero for rows [begin, end) of vector n.
template <class Shape>
void clear_weights(index_t n, index_t begin, index_t end, typename Shape::real* weights) noexcept {
  using Batch = typename Shape::batch;
  for (index_t j = begin; j < end; ++j)
    Batch(typename Shape::real(0)).store_aligned(weights + j * Shape::width + n * lanes<Batch>);
}

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
