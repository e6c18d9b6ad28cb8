// SPDX-License-Identifier: Apache-2.0
// The special values of biases and tests on them that hold under -ffast-math too (layer: policy).
// docs/mathematics.md, section 3: gamma = 0 is a finite bias, distinct from a mask's -inf.
#pragma once

#include <cmath>
#include <limits>
#include <type_traits>

#include "zerotune/core/types.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {

/// log gamma for gamma = 0: excludes a token exactly (exp of it is 0 beside any other logit) and
/// stays finite, so that partial results merge rightly.
inline constexpr float zero_gamma_bias = -1e30f;

namespace impl {

/// A bias below this hides a key: -inf, the lowest finite value, or the sum of two masks.
template <class Real>
inline constexpr Real mask_threshold = Real(-1e37);

/// A bias between the mask and this one stands for gamma = 0, times whatever else acts.
template <class Real>
inline constexpr Real zero_threshold = Real(-1e29);

/// The lowest finite value. A builtin: std::numeric_limits leaves an untagged weak symbol behind
/// without optimisation.
template <class Real>
ZEROTUNE_HOST_DEVICE constexpr Real lowest_value() {
  if constexpr (std::is_same_v<Real, float>)
    return -__FLT_MAX__;
  else
    return -__DBL_MAX__;
}

/// The bias that hides a key.
template <class Real>
ZEROTUNE_HOST_DEVICE constexpr Real mask_bias() {
#if defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__
  return lowest_value<Real>();
#else
  return -static_cast<Real>(__builtin_inf());
#endif
}

/// LSE of a row that sees nothing. Made from bits: also -ffast-math must write it.
ZEROTUNE_HOST_DEVICE inline float minus_infinity(float) {
  return __builtin_bit_cast(float, 0xff800000u);
}
ZEROTUNE_HOST_DEVICE inline double minus_infinity(double) {
  return __builtin_bit_cast(double, 0xfff0000000000000ull);
}

/// Finite and >= 0; -0 is 0. An integer test: -ffast-math assumes the classifying ones away.
ZEROTUNE_HOST_DEVICE inline bool is_valid_gamma(float gamma) {
  const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, gamma);
  return bits < 0x7f800000u || bits == 0x80000000u;
}
ZEROTUNE_HOST_DEVICE inline bool is_finite(float value) {
  return (__builtin_bit_cast(std::uint32_t, value) & 0x7f800000u) != 0x7f800000u;
}
ZEROTUNE_HOST_DEVICE inline bool is_finite(double value) {
  return (__builtin_bit_cast(std::uint64_t, value) & 0x7ff0000000000000ull) !=
         0x7ff0000000000000ull;
}

/// Real of a scalar or of a SIMD batch.
template <class Batch>
struct value_of_batch {
  using type = typename Batch::value_type;
};
template <>
struct value_of_batch<float> {
  using type = float;
};
template <>
struct value_of_batch<double> {
  using type = double;
};
template <class Batch>
using value_of = typename value_of_batch<Batch>::type;

ZEROTUNE_HOST_DEVICE inline float log_of(float x) { return ::logf(x); }
ZEROTUNE_HOST_DEVICE inline double log_of(double x) { return ::log(x); }
ZEROTUNE_HOST_DEVICE inline float exp_of(float x) { return ::expf(x); }
ZEROTUNE_HOST_DEVICE inline double exp_of(double x) { return ::exp(x); }
ZEROTUNE_HOST_DEVICE inline float tanh_of(float x) { return ::tanhf(x); }
ZEROTUNE_HOST_DEVICE inline double tanh_of(double x) { return ::tanh(x); }
template <class Batch>
ZEROTUNE_HOST_DEVICE inline Batch tanh_of(Batch x) {
  // Kept within +-30, where tanh has reached +-1, and from NaN: without AVX-512 xsimd 8.1 converts
  // its argument to integers.
  if constexpr (requires { select(x > x, x, x); }) {
    const Batch bound(value_of<Batch>(30)), zero(value_of<Batch>(0));
    const Batch number = select(x == x, x, zero);
    const Batch below = select(number > bound, bound, number);
    return select(x == x, Batch(tanh(select(below < zero - bound, zero - bound, below))), x);
  } else {
    return tanh(x);
  }
}

/// log gamma as a bias: exactly 0 for 1, zero_gamma_bias for 0 (and for a subnormal that a program
/// linked with -ffast-math flushes).
template <class Real>
ZEROTUNE_HOST_DEVICE inline Real log_gamma(float gamma) {
  if (gamma == 1.0f) return Real(0);
  if (!(gamma > 0.0f)) return Real(zero_gamma_bias);
  const Real value = log_of(static_cast<Real>(gamma));
  return value > Real(zero_gamma_bias) ? value : Real(zero_gamma_bias);
}

}  // namespace impl

/// `condition ? a : b`, for scalars; a SIMD batch brings its own. Call it unqualified, after
/// `using zerotune::select;`, in a modifier that is called with both.
template <class Real>
ZEROTUNE_HOST_DEVICE constexpr Real select(bool condition, Real a, Real b) {
  return condition ? a : b;
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
