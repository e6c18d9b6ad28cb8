// SPDX-License-Identifier: Apache-2.0
// Rows of any stride for the tests of the back ends' own operations.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <vector>

#include "zerotune/core/types.hpp"

namespace kernel_test {

using zerotune::index_t;

#if defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__
inline constexpr bool finite_math = true;
#else
inline constexpr bool finite_math = false;
#endif

/// Numbers in (-1, 1) from a generator of our own: the same everywhere.
class numbers {
 public:
  explicit numbers(std::uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}
  double operator()() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<double>(static_cast<std::int64_t>(state_ >> 11)) / 0x1p52 - 1.0;
  }

 private:
  std::uint64_t state_;
};

template <class T>
double value(T x) {
  return static_cast<double>(static_cast<zerotune::accumulator_t<T>>(x));
}

/// A row with its own memory on both sides of it, to be read and written with any stride.
template <class T>
struct strided {
  strided(index_t elements, index_t step, std::uint64_t seed)
      : count(elements), stride(step), memory(size(elements, step)) {
    numbers next(seed);
    for (T& x : memory) x = static_cast<T>(static_cast<zerotune::accumulator_t<T>>(next()));
  }
  static std::size_t size(index_t elements, index_t step) {
    return static_cast<std::size_t>((elements - 1) * std::abs(step) + 1 + 2 * guard);
  }
  T* data() { return memory.data() + guard + (stride < 0 ? (1 - count) * stride : 0); }
  double operator[](index_t i) { return value(data()[i * stride]); }

  static constexpr index_t guard = 3;
  index_t count, stride;
  std::vector<T> memory;
};

}  // namespace kernel_test
