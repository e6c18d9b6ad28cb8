// SPDX-License-Identifier: Apache-2.0
#include "zerotune/interop/mdspan.hpp"

#include <gtest/gtest.h>

#include <array>
#include <type_traits>

namespace zt = zerotune;
using zt::index_t;

namespace {

/// mdspan's language, the least of it.
template <class T, std::size_t Rank, class Index = std::size_t>
class span {
 public:
  using element_type = T;
  span(T* data, std::array<Index, Rank> extents, std::array<Index, Rank> strides)
      : data_(data), extents_(extents), strides_(strides) {}
  static constexpr std::size_t rank() { return Rank; }
  T* data_handle() const { return data_; }
  Index extent(std::size_t i) const { return extents_[i]; }
  Index stride(std::size_t i) const { return strides_[i]; }

 private:
  T* data_;
  std::array<Index, Rank> extents_, strides_;
};

struct plain_accessor {
  float& access(float* data, std::size_t i) const { return data[i]; }
};
struct doubling_accessor {
  float access(float* data, std::size_t i) const { return 2 * data[i]; }
};
template <class Accessor>
struct accessed_span : span<float, 1> {
  using span<float, 1>::span;
  using accessor_type = Accessor;
};
struct no_span {
  int extent(std::size_t) const { return 1; }
};

static_assert(zt::mdspan_like<span<float, 2>>);
static_assert(zt::mdspan_like<accessed_span<plain_accessor>>);
static_assert(!zt::mdspan_like<accessed_span<doubling_accessor>>);
static_assert(!zt::mdspan_like<no_span>);
static_assert(!zt::mdspan_like<int>);
static_assert(zt::mdspan_like<zt::tensor_view<const float, 3>>);

TEST(from_mdspan, extents_strides_and_constness) {
  float data[60] = {};
  const auto view = zt::from_mdspan(span<float, 3>(data, {2, 3, 4}, {30, 5, 1}));
  static_assert(std::is_same_v<decltype(view), const zt::tensor_view<float, 3>>);
  EXPECT_EQ(view.extent(2), 4);
  EXPECT_EQ(view.pointer(1, 2, 3), data + 43);
  const auto constant = zt::from_mdspan(span<const float, 1>(data, {4}, {2}));
  static_assert(std::is_same_v<decltype(constant), const zt::tensor_view<const float, 1>>);
}

TEST(from_mdspan, narrow_and_signed_indices) {
  double data[9] = {};
  const auto view = zt::from_mdspan(span<double, 2, int>(data + 8, {3, 3}, {-3, -1}));
  EXPECT_EQ(view.pointer(2, 2), data);
}

TEST(from_mdspan, memory_is_the_callers_word) {
  float data[4] = {};
  const auto view = zt::from_mdspan<zt::device_memory>(span<float, 1>(data, {4}, {1}));
  static_assert(std::is_same_v<decltype(view), const zt::tensor_view<float, 1, zt::device_memory>>);
  EXPECT_EQ(view.data(), data);
}

}  // namespace
