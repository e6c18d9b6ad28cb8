// SPDX-License-Identifier: Apache-2.0
// A small seeded generator (layer: tuning): the standard library's distributions and shuffle differ
// between implementations, and a seed must mean the same rows everywhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "zerotune/core/config.hpp"
#include "zerotune/core/types.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
class random_source {
 public:
  explicit random_source(std::uint64_t seed) : state_(seed) {}

  std::uint64_t next() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }

  /// A number in [0, bound), every one as likely. @pre bound > 0
  std::uint64_t below(std::uint64_t bound) {
    // The lowest 2^64 mod bound values would make some remainders likelier than others.
    const std::uint64_t reject = (0 - bound) % bound;
    std::uint64_t value = next();
    while (value < reject) value = next();
    return value % bound;
  }

  /// A number in [0, 1).
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }

  /// Every order as likely (Fisher and Yates).
  template <class T>
  void shuffle(std::vector<T>& items) {
    for (std::size_t i = items.size(); i > 1; --i)
      std::swap(items[i - 1], items[static_cast<std::size_t>(below(i))]);
  }

 private:
  std::uint64_t state_;
};

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
