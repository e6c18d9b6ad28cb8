// SPDX-License-Identifier: Apache-2.0
// The widest vectors of floats that this translation unit is compiled for, and exp on them.
// (GCC's and Clang's vector extensions.) The last, partial vector of a row takes the same
// instructions as the others, so that no result depends on where a row lies in memory.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

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

/// Sum of the lanes, pairwise.
[[gnu::always_inline]] inline float sum_of(vector v) {
  float lanes[vector_lanes];
  std::memcpy(lanes, &v, sizeof v);
  for (int width = vector_lanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  return lanes[0];
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
