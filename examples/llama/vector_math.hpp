// SPDX-License-Identifier: Apache-2.0
// The widest vectors of floats that this translation unit is compiled for, and exp on them.
// (GCC's and Clang's vector extensions.) The last, partial vector of a row takes the same
// instructions as the others, so that no result depends on where a row lies in memory.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace llama {

// The one place of this host that looks at the instruction set.
#if defined(__AVX512F__)
inline constexpr int vector_lanes = 16;
#elif defined(__AVX__)
inline constexpr int vector_lanes = 8;
#else
inline constexpr int vector_lanes = 4;
#endif

using vector = float __attribute__((vector_size(vector_lanes * sizeof(float))));
using int_vector = std::int32_t __attribute__((vector_size(vector_lanes * sizeof(float))));

[[gnu::always_inline]] inline vector broadcast(float value) { return value - vector{}; }

[[gnu::always_inline]] inline vector load(const float* from) {
  vector v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
[[gnu::always_inline]] inline void store(float* to, vector v) { std::memcpy(to, &v, sizeof v); }

/// The first `count` lanes from memory, the others zero. @pre 0 < count <= vector_lanes
[[gnu::always_inline]] inline vector load_part(const float* from, std::int64_t count) {
  vector v{};
  std::memcpy(&v, from, static_cast<std::size_t>(count) * sizeof(float));
  return v;
}
[[gnu::always_inline]] inline void store_part(float* to, vector v, std::int64_t count) {
  std::memcpy(to, &v, static_cast<std::size_t>(count) * sizeof(float));
}

/// Calls body(load, store, first) for every vector of [0, count): `load(p)` and `store(p, v)`
/// access p[first ...], only as far as the row goes.
template <class Body>
[[gnu::always_inline]] inline void for_each_vector(std::int64_t count, const Body& body) {
  std::int64_t i = 0;
  for (; i + vector_lanes <= count; i += vector_lanes)
    body([i](const float* p) { return load(p + i); }, [i](float* p, vector v) { store(p + i, v); });
  if (i < count)
    body([=](const float* p) { return load_part(p + i, count - i); },
         [=](float* p, vector v) { store_part(p + i, v, count - i); });
}

/// Sum of the lanes of a vector of floats or doubles, pairwise.
template <class Vector>
[[gnu::always_inline]] inline auto sum_of(Vector v) {
  using element = std::remove_cvref_t<decltype(v[0])>;
  constexpr int count = sizeof(Vector) / sizeof(element);
  element lanes[count];
  std::memcpy(lanes, &v, sizeof v);
  for (int width = count / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  return lanes[0];
}

/// Half as many doubles, which take as many bytes, and floats to make them of.
using double_vector = double __attribute__((vector_size(vector_lanes * sizeof(float))));
using half_vector = float __attribute__((vector_size(vector_lanes * sizeof(float) / 2)));
using long_vector = std::int64_t __attribute__((vector_size(vector_lanes * sizeof(float))));
inline constexpr int double_lanes = vector_lanes / 2;

[[gnu::always_inline]] inline double_vector broadcast_double(double value) {
  return value - double_vector{};
}

/// Calls body(x, put) for every vector of [0, count): its elements of `from`, and put(p, v), which
/// writes v to p as floats. Past the end of the row x is `filler`, and nothing is written.
template <class Body>
[[gnu::always_inline]] inline void for_each_double_vector(const float* from, std::int64_t count,
                                                          float filler, const Body& body) {
  std::int64_t i = 0;
  half_vector v;
  for (; i + double_lanes <= count; i += double_lanes) {
    std::memcpy(&v, from + i, sizeof v);
    body(__builtin_convertvector(v, double_vector), [i](float* p, double_vector result) {
      const half_vector rounded = __builtin_convertvector(result, half_vector);
      std::memcpy(p + i, &rounded, sizeof rounded);
    });
  }
  if (i == count) return;
  const std::size_t bytes = static_cast<std::size_t>(count - i) * sizeof(float);
  v = filler - half_vector{};
  std::memcpy(&v, from + i, bytes);
  body(__builtin_convertvector(v, double_vector), [=](float* p, double_vector result) {
    const half_vector rounded = __builtin_convertvector(result, half_vector);
    std::memcpy(p + i, &rounded, bytes);
  });
}

/// e^x, relative error below 1e-15, for x in [-708, 709]; below, 0. NaN is NaN.
[[gnu::always_inline]] inline double_vector exp_of(double_vector x) {
  const double_vector low = broadcast_double(-708.0), high = broadcast_double(709.0);
  double_vector t = x < low ? low : x;
  t = t > high ? high : t;
  // As for floats: 1.5 * 2^52.
  const double_vector magic = broadcast_double(6755399441055744.0);
  const double_vector shifted = t * broadcast_double(1.4426950408889634) + magic;
  const double_vector n = shifted - magic;
  // log 2 in two parts: the first has 31 bits, so that n times it is exact.
  const double_vector r =
      (t - n * broadcast_double(0x1.62e42feep-1)) - n * broadcast_double(0x1.a39ef35793c76p-33);
  // Taylor's series; |r| <= log(2) / 2, so the first term left out is below 2e-16.
  double_vector p = broadcast_double(1.0 / 479001600.0);
  p = p * r + broadcast_double(1.0 / 39916800.0);
  p = p * r + broadcast_double(1.0 / 3628800.0);
  p = p * r + broadcast_double(1.0 / 362880.0);
  p = p * r + broadcast_double(1.0 / 40320.0);
  p = p * r + broadcast_double(1.0 / 5040.0);
  p = p * r + broadcast_double(1.0 / 720.0);
  p = p * r + broadcast_double(1.0 / 120.0);
  p = p * r + broadcast_double(1.0 / 24.0);
  p = p * r + broadcast_double(1.0 / 6.0);
  p = p * r + broadcast_double(0.5);
  p = p * r + broadcast_double(1.0);
  p = p * r + broadcast_double(1.0);
  const long_vector exponent = (std::bit_cast<long_vector>(shifted) << 52);
  const double_vector result =
      std::bit_cast<double_vector>(std::bit_cast<long_vector>(p) + exponent);
  const double_vector limited = x < low ? double_vector{} : result;
  return x == x ? limited : x;
}

/// e^x, relative error below 2e-7, for x in [-87, 88]; beyond, that of the nearer end. NaN is NaN.
[[gnu::always_inline]] inline vector exp_of(vector x) {
  const vector low = broadcast(-87.0f), high = broadcast(88.0f);
  vector t = x < low ? low : x;
  t = t > high ? high : t;
  // Adding 1.5 * 2^23 rounds to an integer, which then is in the low bits.
  const vector magic = broadcast(12582912.0f);
  const vector shifted = t * broadcast(1.44269504f) + magic;
  const vector n = shifted - magic;
  // log 2 in two parts: the first has few enough bits that n times it is exact.
  const vector r = (t - n * broadcast(0.693359375f)) - n * broadcast(-2.12194440e-4f);
  // Taylor's series; |r| <= log(2) / 2, so the first term left out is below 6e-9.
  vector p = broadcast(1.0f / 5040.0f);
  p = p * r + broadcast(1.0f / 720.0f);
  p = p * r + broadcast(1.0f / 120.0f);
  p = p * r + broadcast(1.0f / 24.0f);
  p = p * r + broadcast(1.0f / 6.0f);
  p = p * r + broadcast(0.5f);
  p = p * r + broadcast(1.0f);
  p = p * r + broadcast(1.0f);
  const int_vector exponent = (std::bit_cast<int_vector>(shifted) << 23);
  const vector result = std::bit_cast<vector>(std::bit_cast<int_vector>(p) + exponent);
  return x == x ? result : x;
}

}  // namespace llama
