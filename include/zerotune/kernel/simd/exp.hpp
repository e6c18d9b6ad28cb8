// SPDX-License-Identifier: Apache-2.0
// exp of a batch (layer: kernel): e^x = 2^n e^r, n = round(x / ln 2), |r| <= ln 2 / 2, and 2^x for
// logits in units of log 2. Twice as fast as xsimd's, exact zero far below, and sound under
// -ffast-math: the rounding goes through integers.
#pragma once

#include "zerotune/kernel/simd/unrolled.hpp"
#include "zerotune/kernel/simd/xsimd_compat.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// x, which -ffast-math may not look into: it would take sums that round apart again.
template <class Batch>
ZEROTUNE_ALWAYS_INLINE Batch rounded(Batch x) {
#if ZEROTUNE_ASSOCIATIVE_MATH
  asm("" : "+m"(x));
#endif
  return x;
}

/// e^x for x <= 0 (weights of a softmax: x = logit - maximum), good to 1.5 units in the last place.
/// Below the least normal number it is 0. A NaN becomes any finite value: callers keep a poison.
template <class Arch>
ZEROTUNE_ALWAYS_INLINE xsimd::batch<float, Arch> exp_nonpositive(
    const xsimd::batch<float, Arch>& x) {
  using reals = xsimd::batch<float, Arch>;
  using floats = vector_like<float, reals>;
  using signed_words = vector_like<std::int32_t, reals>;
  using words = vector_like<std::uint32_t, reals>;
  const reals lowest(-87.33654f);  // ln 2^-126
  const reals bounded = xsimd::max(x, lowest);
  // Truncation of a number <= -1/2 towards zero, after taking 1/2 off, rounds to nearest.
  const floats shifted = __builtin_bit_cast(
      floats,
      static_cast<register_of<reals>>(multiply_add(bounded, reals(1.44269504f), reals(-0.5f))));
  const signed_words exponent = __builtin_convertvector(shifted, signed_words);
  const reals n(__builtin_bit_cast(register_of<reals>, __builtin_convertvector(exponent, floats)));
  // ln 2 in two parts: n times the first is exact.
  const reals r =
      multiply_add(n, reals(2.12194440e-4f), multiply_add(n, reals(-0.693359375f), bounded));
  // (e^r - 1 - r) / r^2, interpolated at Chebyshev nodes: 1.0e-8 of e^r at most.
  reals p(1.3926183588e-3f);
  p = multiply_add(p, r, reals(8.3631790527e-3f));
  p = multiply_add(p, r, reals(4.1666554617e-2f));
  p = multiply_add(p, r, reals(1.6666576990e-1f));
  p = multiply_add(p, r, reals(0.5f));
  p = multiply_add(p, r * r, r) + reals(1.0f);
  const words scale = ((words)exponent + 127u) << 23;
  const reals value = p * reals(__builtin_bit_cast(register_of<reals>, scale));
  return xsimd::select(x < lowest, reals(0.0f), value);
}

/// The same in double: Taylor's series to r^13, whose rest is 4e-18.
template <class Arch>
ZEROTUNE_ALWAYS_INLINE xsimd::batch<double, Arch> exp_nonpositive(
    const xsimd::batch<double, Arch>& x) {
  using reals = xsimd::batch<double, Arch>;
  using doubles = vector_like<double, reals>;
  using signed_words = vector_like<std::int32_t, reals>;
  using signed_long_words = vector_like<std::int64_t, reals>;
  using long_words = vector_like<std::uint64_t, reals>;
  const reals lowest(-708.39641853226411);  // ln 2^-1022
  const reals bounded = xsimd::max(x, lowest);
  const doubles shifted =
      __builtin_bit_cast(doubles, static_cast<register_of<reals>>(multiply_add(
                                      bounded, reals(1.4426950408889634), reals(-0.5))));
  const signed_words exponent = __builtin_convertvector(shifted, signed_words);
  const reals n(__builtin_bit_cast(register_of<reals>, __builtin_convertvector(exponent, doubles)));
  const reals r = multiply_add(n, reals(-0x1.a39ef35793c76p-33),
                               multiply_add(n, reals(-0x1.62e42feep-1), bounded));
  reals p(1.0 / 6227020800.0);
  p = multiply_add(p, r, reals(1.0 / 479001600.0));
  p = multiply_add(p, r, reals(1.0 / 39916800.0));
  p = multiply_add(p, r, reals(1.0 / 3628800.0));
  p = multiply_add(p, r, reals(1.0 / 362880.0));
  p = multiply_add(p, r, reals(1.0 / 40320.0));
  p = multiply_add(p, r, reals(1.0 / 5040.0));
  p = multiply_add(p, r, reals(1.0 / 720.0));
  p = multiply_add(p, r, reals(1.0 / 120.0));
  p = multiply_add(p, r, reals(1.0 / 24.0));
  p = multiply_add(p, r, reals(1.0 / 6.0));
  p = multiply_add(p, r, reals(0.5));
  p = multiply_add(p, r * r, r) + reals(1.0);
  const long_words scale =
      ((long_words) __builtin_convertvector(exponent, signed_long_words) + 1023u) << 52;
  const reals value = p * reals(__builtin_bit_cast(register_of<reals>, scale));
  return xsimd::select(x < lowest, reals(0.0), value);
}

/// log x for positive, finite, normal x, good to 1e-15 of it: x = 2^n m with m between sqrt(1/2)
/// and sqrt(2), log m = 2 artanh((m - 1) / (m + 1)), whose series' rest is 3e-17 of it. (xsimd's
/// does not compile for AVX-512 without optimisation.)
template <class Arch>
ZEROTUNE_ALWAYS_INLINE xsimd::batch<double, Arch> log_positive(
    const xsimd::batch<double, Arch>& x) {
  using reals = xsimd::batch<double, Arch>;
  using long_words = vector_like<std::uint64_t, reals>;
  const long_words bits = __builtin_bit_cast(long_words, static_cast<register_of<reals>>(x));
  // Counted from sqrt(1/2), and upwards by 1024 so that it is positive: n + 1024.
  const long_words biased = (bits - 0x3fe6a09e667f3bcdu + (std::uint64_t{1024} << 52)) >> 52;
  const long_words mantissa = bits - (biased << 52) + (std::uint64_t{1024} << 52);
  const reals m(__builtin_bit_cast(register_of<reals>, mantissa));
  // 2^52 + (n + 1024), as bits.
  const reals n = reals(__builtin_bit_cast(register_of<reals>, biased + 0x4330000000000000u)) -
                  reals(0x1p52 + 1024);
  const reals s = (m - reals(1.0)) / (m + reals(1.0)), z = s * s;
  reals p(1.0 / 19);
  p = multiply_add(p, z, reals(1.0 / 17));
  p = multiply_add(p, z, reals(1.0 / 15));
  p = multiply_add(p, z, reals(1.0 / 13));
  p = multiply_add(p, z, reals(1.0 / 11));
  p = multiply_add(p, z, reals(1.0 / 9));
  p = multiply_add(p, z, reals(1.0 / 7));
  p = multiply_add(p, z, reals(1.0 / 5));
  p = multiply_add(p, z, reals(1.0 / 3));
  const reals of_m = multiply_add(s * z, p + p, s + s);
  return multiply_add(n, reals(0x1.62e42feep-1),
                      multiply_add(n, reals(0x1.a39ef35793c76p-33), of_m));
}

/// What 2^x of a batch is made of, for float and double.
template <class Real>
struct exp2_constants;
template <>
struct exp2_constants<float> {
  using word = std::uint32_t;
  static constexpr word one = 0x3f800000u;
  static constexpr int exponent_at = 23;
  static constexpr float lowest = -125.0f, least = 0x1p-125f, round = 0x1.8p23f;
  /// (2^r - 1) / r, of least relative error in 2^r on [-1/2, 1/2]: 9.2e-8.
  static constexpr float series[] = {1.3264729096e-3f, 9.6715126398e-3f, 5.5507337372e-2f,
                                     2.4022242085e-1f, 6.9314697760e-1f};
  /// The same of fewer terms: 1.1e-4.
  static constexpr float short_series[] = {5.5008931791e-2f, 2.4221095951e-1f, 6.9328292697e-1f};
};
template <>
struct exp2_constants<double> {
  using word = std::uint64_t;
  static constexpr word one = 0x3ff0000000000000u;
  static constexpr int exponent_at = 52;
  static constexpr double lowest = -1021.0, least = 0x1p-1021, round = 0x1.8p52;
  /// Taylor's: (ln 2)^k / k!, k = 13 ... 1. The rest is below 4e-18.
  static constexpr double series[] = {
      1.3691488853904124e-12, 2.5678435993488196e-11, 4.4455382718708101e-10,
      7.0549116208011209e-09, 1.0178086009239696e-07, 1.3215486790144305e-06,
      1.5252733804059838e-05, 1.5403530393381606e-04, 1.3333558146428441e-03,
      9.6181291076284769e-03, 5.5504108664821576e-02, 2.4022650695910069e-01,
      6.9314718055994529e-01};
};

/// 2^x for x <= 100, less 2^-125 (2^-1021 in double): exactly 0 below that and for -infinity, NaN
/// for NaN. Series are the coefficients of (2^r - 1) / r, the highest first.
template <class Batch, std::size_t Terms>
ZEROTUNE_ALWAYS_INLINE Batch exp2_by_series(const Batch& x,
                                            const typename Batch::value_type (&series)[Terms]) {
  using constants = exp2_constants<typename Batch::value_type>;
  using words = vector_like<typename constants::word, Batch>;
  // The second operand is what the instruction gives for NaN.
  const Batch bounded = xsimd::max(Batch(constants::lowest), x);
  // The sum holds round(x) in its low bits.
  const Batch shifted = rounded<Batch>(bounded + Batch(constants::round));
  const Batch r = bounded - rounded<Batch>(shifted - Batch(constants::round));
  Batch p(series[0]);
  unrolled<static_cast<index_t>(Terms) - 1>([&](auto i) __attribute__((always_inline)) {
    p = multiply_add(p, r, Batch(series[i + 1]));
  });
  p = multiply_add(p, r, Batch(1));
  const words bits = __builtin_bit_cast(words, static_cast<register_of<Batch>>(shifted));
  const words scale = (bits << constants::exponent_at) + constants::one;
  // Where x was below the bound, p is 1 and the difference exactly 0.
  return multiply_add(p, Batch(__builtin_bit_cast(register_of<Batch>, scale)),
                      Batch(-constants::least));
}

/// 2^x as above, good to 1.5 units in the last place of a float, and of a double.
template <class Batch>
ZEROTUNE_ALWAYS_INLINE Batch exp2_of(const Batch& x) {
  return exp2_by_series(x, exp2_constants<typename Batch::value_type>::series);
}

/// 2^x as above with a relative error of 1.1e-4: for results that are rounded to bfloat16.
template <class Batch>
ZEROTUNE_ALWAYS_INLINE Batch exp2_for_bfloat16(const Batch& x) {
  return exp2_by_series(x, exp2_constants<float>::short_series);
}

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
