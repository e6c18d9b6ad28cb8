// SPDX-License-Identifier: Apache-2.0
// 2^x as weights of a softmax whose maximum is raised late (layer: kernel): x may lie above 0, and
// what it costs is counted in multiplications, which the products around it wait for. Additions,
// comparisons, permutations and scalef run beside products on Zen 4 at no cost (measured).
#pragma once

#include "zerotune/kernel/simd/exp.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// Weights are 2^32 at most: whoever finds one above 2^24 raises the maximum.
inline constexpr int greatest_octave = 32;

/// What a compiler may not move out of a loop: registers are for sums, constants are operands in
/// memory.
template <class T>
ZEROTUNE_ALWAYS_INLINE const T* kept_in_memory(const T& constants) {
  const T* p = &constants;
  asm volatile("" : "+r"(p));
  return p;
}

#if defined(__AVX512F__) && defined(__AVX512DQ__)
/// x less the nearest whole number, and p 2^floor(n).
ZEROTUNE_ALWAYS_INLINE __m512 from_nearest(__m512 x) { return _mm512_reduce_ps(x, 8); }
ZEROTUNE_ALWAYS_INLINE __m512d from_nearest(__m512d x) { return _mm512_reduce_pd(x, 8); }
ZEROTUNE_ALWAYS_INLINE __m512 scaled(__m512 p, __m512 n) { return _mm512_scalef_ps(p, n); }
ZEROTUNE_ALWAYS_INLINE __m512d scaled(__m512d p, __m512d n) { return _mm512_scalef_pd(p, n); }
#endif

template <class Real>
struct weight_constants {
  Real lowest = exp2_constants<Real>::lowest, least = exp2_constants<Real>::least;
  Real most = greatest_octave, one = 1;
};
template <class Real>
inline constexpr weight_constants<Real> weight_bounds{};

/// Weights without the instructions of AVX-512, for every processor: see below.
template <class Batch>
ZEROTUNE_ALWAYS_INLINE Batch portable_weight(const Batch& x) {
  return exp2_of(xsimd::min(Batch(typename Batch::value_type(greatest_octave)), x));
}
template <class Batch>
ZEROTUNE_ALWAYS_INLINE Batch portable_weight_for_bfloat16(const Batch& x) {
  return exp2_for_bfloat16(xsimd::min(Batch(float(greatest_octave)), x));
}

/// 2^x, as good as exp2_of: for x above the greatest octave 2^32, 0 from 2^-125 (2^-1021) down and
/// for -infinity, NaN for NaN.
template <class Batch>
ZEROTUNE_ALWAYS_INLINE Batch weight_of_score(const Batch& x) {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  if constexpr (sizeof(Batch) == 64) {
    using real = typename Batch::value_type;
    const auto* const c = kept_in_memory(weight_bounds<real>);
    const auto* const series = kept_in_memory(exp2_constants<real>::series);
    // The second operand is what the instruction gives for NaN.
    const Batch bounded = xsimd::max(Batch(c->lowest), xsimd::min(Batch(c->most), x));
    const Batch r(from_nearest(bounded));
    Batch p((*series)[0]);
    constexpr index_t terms = sizeof(exp2_constants<real>::series) / sizeof(real);
    unrolled<terms - 1>([&](auto i) __attribute__((always_inline)) {
      p = multiply_add(p, r, Batch((*series)[i + 1]));
    });
    p = multiply_add(p, r, Batch(c->one));
    return Batch(scaled(p, bounded - r)) - Batch(c->least);
  } else
#endif
    return portable_weight(x);
}

/// 2^(i / 32), and its slope: between them 2^x is a line, 5.9e-5 below it at most.
struct octave_table {
  static constexpr int size = 32;
  float round = 0x1.8p23f / size;  // a sum with it holds x in units of 1 / 32 in its low bits
  alignas(64) float power[size], slope[size];
  constexpr octave_table() : power(), slope() {
    double x = 1;
    for (int i = 0; i < size; ++i, x *= 1.0218971486541166)  // 2^(1 / 32)
      power[i] = static_cast<float>(x), slope[i] = static_cast<float>(x * 0.69314718055994531);
  }
};
inline constexpr octave_table octaves{};

/// 2^x as above with a relative error of 1.1e-4, for weights that are rounded to bfloat16.
template <class Batch>
ZEROTUNE_ALWAYS_INLINE Batch weight_of_score_for_bfloat16(const Batch& x) {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  if constexpr (is_512_bits<Batch, float>) {
    const auto* const c = kept_in_memory(weight_bounds<float>);
    const auto* const t = kept_in_memory(octaves);
    const Batch bounded = xsimd::max(Batch(c->lowest), xsimd::min(Batch(c->most), x));
    const Batch shifted = rounded<Batch>(bounded + Batch(t->round));
    const Batch n = rounded<Batch>(shifted - Batch(t->round));
    const __m512i index = _mm512_castps_si512(shifted);
    const Batch power(
        _mm512_permutex2var_ps(_mm512_load_ps(t->power), index, _mm512_load_ps(t->power + 16)));
    const Batch slope(
        _mm512_permutex2var_ps(_mm512_load_ps(t->slope), index, _mm512_load_ps(t->slope + 16)));
    return Batch(scaled(multiply_add(slope, bounded - n, power), n)) - Batch(c->least);
  } else
#endif
    return portable_weight_for_bfloat16(x);
}

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
