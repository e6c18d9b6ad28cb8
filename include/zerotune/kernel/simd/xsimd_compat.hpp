// SPDX-License-Identifier: Apache-2.0
// The differences between xsimd 8.1 and current releases, once (layer: kernel): everything else in
// this folder calls the functions below.
#pragma once

#include <type_traits>

// GCC 12 takes the undefined operand inside its own AVX-512 intrinsics for an uninitialised
// variable of the function that they are inlined into (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#if defined(__SSE2__)
#include <immintrin.h>
#endif
#include <xsimd/xsimd.hpp>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#include "zerotune/core/config.hpp"
#include "zerotune/core/types.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// The best architecture that the compiler was told of. AVX-512 means F, BW, DQ and VL together,
/// as every CPU since 2017 has them: xsimd 8.1 does not compile with F alone.
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
using best_simd_arch = xsimd::avx512bw;
#elif defined(__AVX2__) && defined(__FMA__)
using best_simd_arch = xsimd::fma3<xsimd::avx2>;
#elif defined(__AVX2__)
using best_simd_arch = xsimd::avx2;
#elif defined(__AVX__) && defined(__FMA__)
using best_simd_arch = xsimd::fma3<xsimd::avx>;
#elif defined(__AVX__)
using best_simd_arch = xsimd::avx;
#elif defined(__SSE4_2__)
using best_simd_arch = xsimd::sse4_2;
#elif defined(__SSE4_1__)
using best_simd_arch = xsimd::sse4_1;
#elif defined(__SSSE3__)
using best_simd_arch = xsimd::ssse3;
#elif defined(__SSE3__)
using best_simd_arch = xsimd::sse3;
#elif defined(__SSE2__)
using best_simd_arch = xsimd::sse2;
#else
using best_simd_arch = xsimd::default_arch;
#endif

/// The architecture of a back end's tag: void stands for the best one.
template <class Arch>
using simd_arch = std::conditional_t<std::is_void_v<Arch>, best_simd_arch, Arch>;

template <class Real, class Arch>
using batch = xsimd::batch<Real, simd_arch<Arch>>;

template <class Batch>
inline constexpr index_t lanes = static_cast<index_t>(Batch::size);

template <class Batch>
using register_of = typename Batch::register_type;

template <class Batch, class Real>
inline constexpr bool is_512_bits = std::is_same_v<typename Batch::value_type, Real>&& Batch::size *
                                        sizeof(Real) ==
                                    64;

/// The compiler's own vector of Count elements, for what xsimd 8.1 has no function for: widening,
/// narrowing and shifts of 16-bit elements. Never a parameter or a result: their ABI depends on the
/// target.
template <class Element, std::size_t Count>
struct compiler_vector {
  typedef Element type __attribute__((vector_size(sizeof(Element) * Count)));
};
template <class Element, class Batch>
using vector_like = typename compiler_vector<Element, Batch::size>::type;

/// a * b + c in one rounding where the target has it. xsimd 8.1 multiplies and adds on AVX-512,
/// which Clang does not contract.
template <class Batch>
ZEROTUNE_ALWAYS_INLINE Batch multiply_add(const Batch& a, const Batch& b, const Batch& c) {
#if defined(__AVX512F__)
  if constexpr (is_512_bits<Batch, float>)
    return Batch(_mm512_fmadd_ps(a, b, c));
  else if constexpr (is_512_bits<Batch, double>)
    return Batch(_mm512_fmadd_pd(a, b, c));
  else
#endif
    return xsimd::fma(a, b, c);
}

/// The sum of the lanes. Current releases call it reduce_add, 8.1 calls it hadd.
template <class Batch>
ZEROTUNE_ALWAYS_INLINE typename Batch::value_type sum_of_lanes(const Batch& x) {
#if defined(__AVX512F__)
  // 8.1 sums the halves with AVX's functions: weak symbols of another architecture, compiled here.
  if constexpr (is_512_bits<Batch, float>)
    return _mm512_reduce_add_ps(x);
  else if constexpr (is_512_bits<Batch, double>)
    return _mm512_reduce_add_pd(x);
  else
#endif
      if constexpr (requires { reduce_add(x); })
    return reduce_add(x);
  else
    return hadd(x);
}

/// The greatest lane; 8.1 has no reduce_max.
template <class Batch>
ZEROTUNE_ALWAYS_INLINE typename Batch::value_type maximum_of_lanes(const Batch& x) {
  if constexpr (requires { reduce_max(x); }) {
    return reduce_max(x);
  } else {
    typename Batch::value_type values[Batch::size];
    x.store_unaligned(values);
    typename Batch::value_type greatest = values[0];
    for (std::size_t i = 1; i < Batch::size; ++i)
      greatest = values[i] > greatest ? values[i] : greatest;
    return greatest;
  }
}

#if defined(__AVX512F__) && defined(__AVX512DQ__)
/// A vector of 512 bits as the sum of its halves, eight or four of which become one vector of their
/// horizontal sums.
ZEROTUNE_ALWAYS_INLINE __m256 sum_of_halves(__m512 x) {
  return _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
}
ZEROTUNE_ALWAYS_INLINE __m256d sum_of_halves(__m512d x) {
  return _mm256_add_pd(_mm512_castpd512_pd256(x), _mm512_extractf64x4_pd(x, 1));
}
template <class Batch>
ZEROTUNE_ALWAYS_INLINE __m256 sums_of_eight(const Batch* rows) {
  const __m256 low = _mm256_hadd_ps(
      _mm256_hadd_ps(sum_of_halves(__m512(rows[0])), sum_of_halves(__m512(rows[1]))),
      _mm256_hadd_ps(sum_of_halves(__m512(rows[2])), sum_of_halves(__m512(rows[3]))));
  const __m256 high = _mm256_hadd_ps(
      _mm256_hadd_ps(sum_of_halves(__m512(rows[4])), sum_of_halves(__m512(rows[5]))),
      _mm256_hadd_ps(sum_of_halves(__m512(rows[6])), sum_of_halves(__m512(rows[7]))));
  return _mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20),
                       _mm256_permute2f128_ps(low, high, 0x31));
}
template <class Batch>
ZEROTUNE_ALWAYS_INLINE __m256d sums_of_four(const Batch* rows) {
  const __m256d low =
      _mm256_hadd_pd(sum_of_halves(__m512d(rows[0])), sum_of_halves(__m512d(rows[1])));
  const __m256d high =
      _mm256_hadd_pd(sum_of_halves(__m512d(rows[2])), sum_of_halves(__m512d(rows[3])));
  return _mm256_add_pd(_mm256_permute2f128_pd(low, high, 0x20),
                       _mm256_permute2f128_pd(low, high, 0x31));
}
#endif

/// Lane i of the result is the sum of the lanes of rows[i]. On AVX-512 by intrinsics: haddp of 8.1
/// puts the sums of floats in the wrong order there, and that of its halves is another
/// architecture's.
template <class Batch>
ZEROTUNE_ALWAYS_INLINE Batch sums_of_rows(const Batch (&rows)[Batch::size]) {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  if constexpr (is_512_bits<Batch, float>) {
    return Batch(_mm512_insertf32x8(_mm512_castps256_ps512(sums_of_eight(&rows[0])),
                                    sums_of_eight(&rows[8]), 1));
  } else if constexpr (is_512_bits<Batch, double>) {
    return Batch(_mm512_insertf64x4(_mm512_castpd256_pd512(sums_of_four(&rows[0])),
                                    sums_of_four(&rows[4]), 1));
  } else
#endif
    return xsimd::haddp(&rows[0]);
}

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
