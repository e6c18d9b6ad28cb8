// SPDX-License-Identifier: Apache-2.0
// Decode's softmax where four queries see the same keys and no modifier acts (layer: kernel):
// scores stay as they come out of the products, four queries by four keys to a vector, so that
// maximum, exp and rounding take one vector for them all. A query's weights, sums and maxima have
// the bits that it has alone.
#pragma once

#include "zerotune/kernel/simd/score_rows.hpp"
#include "zerotune/kernel/simd/weight_exp.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// Is the softmax one of maxima that are raised late?
template <class Batch>
inline constexpr bool weighs_late = is_512_bits<Batch, float>;

/// e^(score - maximum), for scores up to the one that raises the maximum; NaN for NaN.
template <class Batch>
ZEROTUNE_ALWAYS_INLINE Batch decode_weight(const Batch& score, const Batch& maximum) {
  if constexpr (weighs_late<Batch>)
    return weight_of_score<Batch>((score - maximum) * Batch(1.44269504f));
  else
    return exp_nonpositive(score - maximum);
}

#if defined(__AVX512F__)
/// The greatest of each four neighbours, in all of them.
ZEROTUNE_ALWAYS_INLINE __m512 greatest_of_four(__m512 x) {
  x = _mm512_max_ps(x, _mm512_permute_ps(x, 0xb1));
  return _mm512_max_ps(x, _mm512_permute_ps(x, 0x4e));
}

/// Weights of decode_keys keys for four queries, as Cells stores them. maximum[i] is raised if a
/// score is above it by more than raise_beyond. totals[i] receives the sum of the weights of query
/// i: in lane n that of keys n, n + 16, ...; poison[i] += 0 * score.
template <class Cells, class T>
ZEROTUNE_ALWAYS_INLINE void weigh_rows(const float* packed, index_t packed_row,
                                       const T* const* keys, index_t dim, float factor,
                                       float raise_beyond, float (&maximum)[4],
                                       float (&totals)[4][16], float (*poison)[16],
                                       typename Cells::weight* weights,
                                       const rows_ahead<T>& ahead) {
  using Batch = typename Cells::batch;
  constexpr index_t tiles = decode_keys / 4;
  alignas(64) float scores[tiles][16], of_lane[16];
  Batch greatest(lowest_value<float>()), products(0.0f);
  for (index_t t = 0; t < tiles; ++t) {
    const T* tile[4];
    take_rows<4>(keys + 4 * t, 4, tile);
    const Batch score = score_tile<4, Cells>(packed, packed_row, tile, 4 * t, dim, factor, ahead);
    score.store_aligned(scores[t]);
    greatest = xsimd::max(score, greatest);
    products = multiply_add(score, Batch(0.0f), products);
  }
  const Batch former(
      _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3),
                            _mm512_castps128_ps512(_mm_loadu_ps(maximum))));
  greatest = Batch(greatest_of_four(greatest));
  const Batch raised = xsimd::select(greatest > former + Batch(raise_beyond), greatest, former);
  Batch sums[4];
  unrolled<4>([&](auto i) __attribute__((always_inline)) { sums[i] = Batch(0.0f); });
  for (index_t t = 0; t < tiles; t += 4)
    unrolled<4>([&](auto i) __attribute__((always_inline)) {
      const Batch weight = decode_weight(Batch::load_aligned(scores[t + i]), raised);
      Cells::store_weights(weight, weights, t + i);
      sums[i] += weight;
    });
  products.store_aligned(of_lane);
  for (index_t i = 0; i < 4; ++i)
    for (index_t t = 0; t < 4; ++t) poison[i][t] += of_lane[4 * i + t];
  raised.store_aligned(of_lane);
  for (index_t i = 0; i < 4; ++i) maximum[i] = of_lane[4 * i];
  unrolled<4>([&](auto t) __attribute__((always_inline)) {
    sums[t].store_aligned(of_lane);
    for (index_t i = 0; i < 4; ++i)
      __builtin_memcpy(&totals[i][4 * t], of_lane + 4 * i, 4 * sizeof(float));
  });
}
#endif

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
