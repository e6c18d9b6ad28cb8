// SPDX-License-Identifier: Apache-2.0
// Tensors of the tests: owned storage with any strides, sentinels in the gaps, and values from a
// fixed seed.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "zerotune/core/tensor_view.hpp"

namespace test {

using zerotune::bfloat16;
using zerotune::float16;
using zerotune::index_t;

template <class T>
double to_double(T value) {
  return static_cast<double>(static_cast<zerotune::accumulator_t<T>>(value));
}
template <class T>
T from_double(double value) {
  return static_cast<T>(static_cast<zerotune::accumulator_t<T>>(value));
}

/// Uniform numbers from a fixed seed, the same with every standard library (SplitMix64).
class random_numbers {
 public:
  explicit random_numbers(std::uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15u + 1) {}
  std::uint64_t bits() {
    std::uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  double uniform(double low, double high) {
    return low + (high - low) * static_cast<double>(bits() >> 11) * 0x1p-53;
  }
  index_t integer(index_t low, index_t high) {  // both included
    return low + static_cast<index_t>(bits() % static_cast<std::uint64_t>(high - low + 1));
  }

 private:
  std::uint64_t state_;
};

/// How a tensor lies in memory.
enum class layout {
  contiguous,  ///< row-major
  swapped,     ///< dimensions 1 and 2 change places: [batch, length, heads, dim]
  reversed,    ///< every stride negative
  spread,      ///< innermost stride 3, gaps everywhere
  transposed,  ///< dimensions 2 and 3 change places: keys of one coordinate side by side
};
inline constexpr layout all_layouts[] = {layout::contiguous, layout::swapped, layout::reversed,
                                         layout::spread, layout::transposed};

/// A tensor of T that owns its memory. Gaps between elements hold a NaN that nobody may write.
template <class T, std::size_t Rank = 4>
class tensor {
 public:
  using extents_type = std::array<index_t, Rank>;

  explicit tensor(const extents_type& extents, layout order = layout::contiguous)
      : extents_(extents) {
    std::array<std::size_t, Rank> dims{};
    for (std::size_t i = 0; i < Rank; ++i) dims[i] = i;
    if constexpr (Rank >= 4) {
      if (order == layout::swapped) std::swap(dims[1], dims[2]);
    }
    if constexpr (Rank >= 2) {
      if (order == layout::transposed) std::swap(dims[Rank - 2], dims[Rank - 1]);
    }
    const index_t gap = order == layout::spread ? 2 : 0;
    index_t step = 1 + gap;
    for (std::size_t i = Rank; i-- > 0;) {
      strides_[dims[i]] = step;
      step = step * (extents_[dims[i]] > 0 ? extents_[dims[i]] : 1) + gap;
    }
    storage_.assign(static_cast<std::size_t>(step + 2), from_double<T>(sentinel()));
    offset_ = 1;  // also off the alignment that an allocator gives
    if (order == layout::reversed)
      for (std::size_t i = 0; i < Rank; ++i) {
        if (extents_[i] > 0) offset_ += strides_[i] * (extents_[i] - 1);
        strides_[i] = -strides_[i];
      }
    for (index_t i = 0; i < size(); ++i) at(i) = from_double<T>(0);
  }

  index_t size() const {
    index_t product = 1;
    for (const index_t extent : extents_) product *= extent;
    return product;
  }
  /// Element number `flat` in row-major order.
  T& at(index_t flat) { return storage_[static_cast<std::size_t>(place(flat))]; }
  const T& at(index_t flat) const { return storage_[static_cast<std::size_t>(place(flat))]; }

  zerotune::tensor_view<T, Rank> view() {
    index_t extents[Rank], strides[Rank];
    for (std::size_t i = 0; i < Rank; ++i) extents[i] = extents_[i], strides[i] = strides_[i];
    return {storage_.data() + offset_, extents, strides};
  }
  zerotune::tensor_view<const T, Rank> const_view() { return view(); }

  tensor& fill(double value) {
    for (index_t i = 0; i < size(); ++i) at(i) = from_double<T>(value);
    return *this;
  }
  tensor& randomise(std::uint64_t seed, double low = -1, double high = 1) {
    random_numbers numbers(seed);
    for (index_t i = 0; i < size(); ++i) at(i) = from_double<T>(numbers.uniform(low, high));
    return *this;
  }
  tensor& set(const std::vector<double>& values) {
    for (index_t i = 0; i < size(); ++i)
      at(i) = from_double<T>(values[static_cast<std::size_t>(i)]);
    return *this;
  }
  /// The values in row-major order.
  std::vector<double> dense() const {
    std::vector<double> values;
    for (index_t i = 0; i < size(); ++i) values.push_back(to_double(at(i)));
    return values;
  }
  /// The elements in row-major order, to compare bits.
  std::vector<T> elements() const {
    std::vector<T> values;
    for (index_t i = 0; i < size(); ++i) values.push_back(at(i));
    return values;
  }
  /// All memory, gaps included: equal before and after means that nothing was written.
  const std::vector<T>& storage() const { return storage_; }
  bool gaps_intact() const {
    std::vector<bool> used(storage_.size(), false);
    for (index_t i = 0; i < size(); ++i) used[static_cast<std::size_t>(place(i))] = true;
    const T expected = from_double<T>(sentinel());
    for (std::size_t i = 0; i < storage_.size(); ++i)
      if (!used[i] && std::memcmp(&storage_[i], &expected, sizeof(T)) != 0) return false;
    return true;
  }

 private:
  static double sentinel() { return std::numeric_limits<double>::quiet_NaN(); }
  index_t place(index_t flat) const {
    index_t result = offset_;
    for (std::size_t i = Rank; i-- > 0;) {
      result += flat % extents_[i] * strides_[i];
      flat /= extents_[i];
    }
    return result;
  }

  extents_type extents_;
  std::array<index_t, Rank> strides_{};
  index_t offset_ = 0;
  std::vector<T> storage_;
};

/// Equal bit by bit: NaN equals the same NaN, 0 differs from -0.
template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

/// Views of what the library takes as const, from anything contiguous.
template <class T>
zerotune::tensor_view<const T, 1> list_view(const std::vector<T>& values) {
  return zerotune::tensor_view<const T, 1>(values.data(), {static_cast<index_t>(values.size())});
}

}  // namespace test
