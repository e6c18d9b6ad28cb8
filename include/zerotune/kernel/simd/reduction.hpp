// SPDX-License-Identifier: Apache-2.0
// Horizontal reductions of decode's tiles (layer: kernel).
#pragma once

#include "zerotune/kernel/simd/xsimd_compat.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

#if defined(__AVX512F__)
/// One level of a tree: lanes of a and b added across 128-bit blocks, two blocks of each remain.
ZEROTUNE_ALWAYS_INLINE __m512 add_blocks(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}
/// The next one: within the blocks of a and b.
ZEROTUNE_ALWAYS_INLINE __m512 add_within_blocks(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
}
/// Lane k of block n is the sum of block n of t[k].
ZEROTUNE_ALWAYS_INLINE __m512 add_across_blocks(const __m512 (&t)[4]) {
  const __m512d first = _mm512_castps_pd(add_within_blocks(t[0], t[1]));
  const __m512d second = _mm512_castps_pd(add_within_blocks(t[2], t[3]));
  return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(first, second)),
                       _mm512_castpd_ps(_mm512_unpackhi_pd(first, second)));
}
/// Block n of the result holds four partial sums of the lanes of rows[step * n].
template <index_t Step, class Batch>
ZEROTUNE_ALWAYS_INLINE __m512 add_four(const Batch* rows) {
  return add_blocks(add_blocks(rows[0], rows[Step]), add_blocks(rows[2 * Step], rows[3 * Step]));
}
#endif

/// Lane i is the sum of the lanes of rows[i], each summed in the same order. For 16 floats 45
/// instructions where horizontal additions take 75.
template <class Batch>
ZEROTUNE_ALWAYS_INLINE Batch reduce_rows(const Batch (&rows)[Batch::size]) {
#if defined(__AVX512F__)
  if constexpr (is_512_bits<Batch, float>) {
    const __m512 t[4] = {add_four<4>(rows), add_four<4>(rows + 1), add_four<4>(rows + 2),
                         add_four<4>(rows + 3)};
    return Batch(add_across_blocks(t));
  } else
#endif
    return sums_of_rows(rows);
}

/// The greatest lane.
template <class Batch>
ZEROTUNE_ALWAYS_INLINE typename Batch::value_type greatest_lane(const Batch& x) {
#if defined(__AVX512F__)
  if constexpr (is_512_bits<Batch, float>)
    return _mm512_reduce_max_ps(x);
  else if constexpr (is_512_bits<Batch, double>)
    return _mm512_reduce_max_pd(x);
  else
#endif
    return maximum_of_lanes(x);
}

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
