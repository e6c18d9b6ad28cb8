// SPDX-License-Identifier: Apache-2.0
// Scores of two neighbouring keys to weights (layer: kernel), in the form that the products of
// values take. Both forms have one interface.
#pragma once

#include "zerotune/kernel/simd/pack_pairs.hpp"
#include "zerotune/kernel/simd/weight_exp.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// One number a key, in place of its score. Scores are in units of log 2 already.
template <class Batch>
struct number_weights {
  using real = typename Batch::value_type;
  using weight = real;
  static constexpr index_t keys_of_row = 1;

  /// 2^(score + shift), stored `width` apart; returns the sum of the two.
  ZEROTUNE_ALWAYS_INLINE static Batch weigh(const Batch& first, const Batch& second, const real&,
                                            const real* shift, weight* to, index_t width) {
    const Batch a = weight_of_score<Batch>(first + Batch::load_aligned(shift));
    a.store_aligned(to);
    const Batch b = weight_of_score<Batch>(second + Batch::load_aligned(shift));
    b.store_aligned(to + width);
    return a + b;
  }
};

/// Both keys in one word, as bfloat16. The sum is that of the weights before they are rounded.
template <class Batch>
struct pair_weights {
  using real = float;
  using weight = std::uint32_t;
  static constexpr index_t keys_of_row = 2;

  /// 2^(score factor + shift) in one rounding; returns the sum of the two.
  ZEROTUNE_ALWAYS_INLINE static Batch weigh(const Batch& first, const Batch& second,
                                            const real& factor, const real* shift, weight* to,
                                            index_t) {
    using words = word_vector<Batch>;
    words low, high;
    const Batch a = weight_of_score_for_bfloat16<Batch>(
        multiply_add(first, Batch(factor), Batch::load_aligned(shift)));
    to_words(a, low);
    const Batch b = weight_of_score_for_bfloat16<Batch>(
        multiply_add(second, Batch(factor), Batch::load_aligned(shift)));
    to_words(b, high);
    // Rounds to nearest when the lower halves are cut off.
    const words pair = ((low + 0x8000u) >> 16) | ((high + 0x8000u) & 0xffff0000u);
    __builtin_memcpy(to, &pair, sizeof pair);
    return a + b;
  }
};

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
