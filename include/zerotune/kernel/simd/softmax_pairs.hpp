// SPDX-License-Identifier: Apache-2.0
// Weights of the online softmax as bfloat16 pairs (layer: kernel): two keys of
// a query in one word, as products of pairs take them.
#pragma once

#include "zerotune/kernel/simd/pack_pairs.hpp"
#include "zerotune/kernel/simd/softmax_tile.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// A maximum is left where it is until scores rise above it by more than this
/// power of two: weights may be as large as it then, sums and outputs are
/// seldom shrunk. Decided row by row.
inline constexpr float raise_beyond = 8;

/// As exponentiate, with scores that are still to be multiplied by `factor` >
/// 0, to pairs [key / 2][width]. Biased says that a bias as large as that of
/// gamma = 0 may be among them: its product with the factor is rounded to a
/// multiple of 2^77, so what is left of a difference is bounded.
template <bool Biased, class Shape>
[[gnu::flatten]] void exponentiate_pairs(panel<Shape>& p, index_t n, key_groups part, float factor,
                                         const float* scores, std::uint32_t* pairs,
                                         float* shrink) noexcept {
  using Batch = typename Shape::batch;
  using words = word_vector<Batch>;
  const index_t lane = n * lanes<Batch>;
  const Batch former = Batch::load_aligned(p.maximum + lane), f(factor);
  const Batch none(no_maximum<float>());
  const Batch score = greatest_scores<Shape>(n, part, scores, none);
  const Batch greatest = xsimd::select(score > none, score * f, none);
  const Batch maximum = xsimd::select(greatest > former + Batch(raise_beyond), greatest, former);
  const Batch shrinks = exp2_of(former - maximum);
  Batch total(0.0f);
  // A row that has seen nothing yet has no maximum: a mask times the factor less that would be
  // great.
  const Batch shift = xsimd::select(maximum > none, -maximum, Batch(0.0f));
  for (key_groups some = part; some.begin < part.end; some.begin = some.end) {
    some.end = part.end < some.begin + summed_keys ? part.end : some.begin + summed_keys;
    Batch sums[2] = {Batch(0.0f), Batch(0.0f)};
    for (index_t j = some.begin; j < some.end; j += 2) {
      words bits[2];
      unrolled<2>([&](auto i) __attribute__((always_inline)) {
        const Batch at = Batch::load_aligned(scores + (j + i) * p.width + lane);
        Batch x = multiply_add(at, f, shift);
        if constexpr (Biased) x = xsimd::min(Batch(raise_beyond + 1), x);
        const Batch weight = exp2_for_bfloat16(x);
        sums[i] += weight;
        to_words(weight, bits[i]);
        bits[i] += 0x8000u;  // rounds to nearest when the lower half is cut off
      });
      const words pair = (bits[0] >> 16) | (bits[1] & 0xffff0000u);
      __builtin_memcpy(pairs + j / 2 * p.width + lane, &pair, sizeof pair);
    }
    total += sums[0] + sums[1];
  }
  maximum.store_aligned(p.maximum + lane);
  const Batch sum = multiply_add(Batch::load_aligned(p.sum + lane), shrinks, total);
  sum.store_aligned(p.sum + lane);
  shrinks.store_aligned(shrink + lane);
}

/// Weights of zero for the pairs that hold keys [begin, end) of vector n.
template <class Shape>
void clear_pairs(index_t n, index_t begin, index_t end, std::uint32_t* pairs) noexcept {
  for (index_t j = begin / 2; j < (end + 1) / 2; ++j)
    __builtin_memset(pairs + j * Shape::width + n * lanes<typename Shape::batch>, 0,
                     sizeof(std::uint32_t) * Shape::batch::size);
}

/// out *= shrink, unless every factor is 1.
template <class Shape>
[[gnu::flatten]] void shrink_output(panel<Shape>& p, const float* shrink, index_t rows) noexcept {
  using Batch = typename Shape::batch;
  for (index_t n = 0; n < p.used; ++n) {
    const index_t lane = n * lanes<Batch>;
    bool all_one = true;
    for (index_t i = lane; i < lane + lanes<Batch>; ++i) all_one &= shrink[i] == 1.0f;
    if (all_one) continue;
    const Batch factor = Batch::load_aligned(shrink + lane);
    for (index_t c = 0; c < rows; ++c) {
      float* const at = p.out + c * p.width + lane;
      (Batch::load_aligned(at) * factor).store_aligned(at);
    }
  }
}

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
