// SPDX-License-Identifier: Apache-2.0
#include "zerotune/core/tensor_view.hpp"

#include <gtest/gtest.h>

#include <array>
#include <numeric>
#include <type_traits>
#include <vector>

namespace {

using zerotune::device_memory;
using zerotune::host_memory;
using zerotune::index_t;
using zerotune::tensor_view;

static_assert(std::is_trivially_copyable_v<tensor_view<float, 1>>);
static_assert(std::is_trivially_copyable_v<tensor_view<const double, 4, device_memory>>);
static_assert(std::is_trivially_destructible_v<tensor_view<float, 4>>);
static_assert(tensor_view<float, 3>::rank() == 3);
static_assert(std::is_same_v<tensor_view<const float, 2>::value_type, float>);
static_assert(std::is_same_v<tensor_view<const float, 2>::element_type, const float>);

// Reading from what one may write is fine, writing to what one may read is not.
static_assert(std::is_convertible_v<tensor_view<float, 2>, tensor_view<const float, 2>>);
static_assert(!std::is_convertible_v<tensor_view<const float, 2>, tensor_view<float, 2>>);
static_assert(!std::is_constructible_v<tensor_view<float, 2>, tensor_view<const float, 2>>);
// Neither a view of other elements, nor of another rank, nor of another memory.
static_assert(!std::is_constructible_v<tensor_view<double, 2>, tensor_view<float, 2>>);
static_assert(!std::is_constructible_v<tensor_view<float, 2>, tensor_view<float, 3>>);
static_assert(
    !std::is_constructible_v<tensor_view<const float, 2>, tensor_view<float, 2, device_memory>>);
static_assert(
    !std::is_constructible_v<tensor_view<float, 2, device_memory>, tensor_view<float, 2>>);

TEST(tensor_view, is_empty_by_default) {
  const tensor_view<float, 3> view;
  EXPECT_EQ(view.data(), nullptr);
  EXPECT_TRUE(view.empty());
  EXPECT_EQ(view.size(), 0);
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(view.extent(i), 0);
}

TEST(tensor_view, is_row_major_without_strides) {
  std::vector<int> numbers(24);
  std::iota(numbers.begin(), numbers.end(), 0);
  const tensor_view view(numbers.data(), {2, 3, 4});
  EXPECT_EQ(view.stride(0), 12);
  EXPECT_EQ(view.stride(1), 4);
  EXPECT_EQ(view.stride(2), 1);
  EXPECT_EQ(view.size(), 24);
  for (index_t i = 0; i < 2; ++i)
    for (index_t j = 0; j < 3; ++j)
      for (index_t k = 0; k < 4; ++k) EXPECT_EQ(view(i, j, k), i * 12 + j * 4 + k);
}

TEST(tensor_view, takes_any_strides) {
  std::vector<int> numbers(24);
  std::iota(numbers.begin(), numbers.end(), 0);
  const tensor_view<int, 2> transposed(numbers.data(), {4, 6}, {1, 4});
  EXPECT_EQ(transposed(3, 5), 23);
  const tensor_view<int, 2> backwards(numbers.data() + 23, {6, 4}, {-4, -1});
  EXPECT_EQ(backwards(0, 0), 23);
  EXPECT_EQ(backwards(5, 3), 0);
  EXPECT_EQ(backwards(2, 1), 14);
  const tensor_view<int, 2> repeated(numbers.data() + 5, {1000, 2}, {0, 7});
  EXPECT_EQ(repeated(999, 1), 12);
}

TEST(tensor_view, writes_through_to_its_owner) {
  std::array<float, 6> numbers{};
  const tensor_view<float, 2> view(numbers.data(), {2, 3});
  view(1, 2) = 7.0f;  // shallow const: the view is const, not what it sees
  EXPECT_EQ(numbers[5], 7.0f);
  const tensor_view<const float, 2> seen = view;
  EXPECT_EQ(seen(1, 2), 7.0f);
  EXPECT_EQ(seen.data(), view.data());
  EXPECT_EQ(seen.stride(0), 3);
}

// Offsets in 32 bits would wrap: a KV cache of 2^33 elements is ordinary.
TEST(tensor_view, computes_offsets_in_64_bits) {
  char byte = 0;
  const tensor_view<char, 2> view(&byte, {4, 3}, {index_t{1} << 40, 1});
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(view.pointer(3, 2)) -
                reinterpret_cast<std::uintptr_t>(&byte),
            (std::uintptr_t{3} << 40) + 2);
  const tensor_view<char, 3> contiguous(&byte, {1 << 12, 1 << 12, 1 << 12});
  EXPECT_EQ(contiguous.size(), index_t{1} << 36);
  EXPECT_EQ(contiguous.stride(0), index_t{1} << 24);
  EXPECT_EQ(contiguous.pointer(4095, 4095, 4095) - &byte, (index_t{1} << 36) - 1);
}

TEST(tensor_view, with_a_zero_extent_is_empty_but_keeps_its_data) {
  float number = 0;
  const tensor_view<float, 2> view(&number, {0, 5});
  EXPECT_TRUE(view.empty());
  EXPECT_EQ(view.size(), 0);
  EXPECT_EQ(view.data(), &number);
}

TEST(tensor_view, takes_indices_of_any_integer_type) {
  std::array<int, 4> numbers{0, 1, 2, 3};
  const tensor_view<int, 2> view(numbers.data(), {2, 2});
  EXPECT_EQ(view(std::size_t{1}, 0), 2);
  EXPECT_EQ(view(short{1}, index_t{1}), 3);
}

TEST(view_of, sees_vectors_and_arrays) {
  std::vector<float> numbers{1, 2, 3};
  const auto view = zerotune::view_of(numbers);
  static_assert(std::is_same_v<decltype(view), const tensor_view<float, 1>>);
  EXPECT_EQ(view.extent(0), 3);
  EXPECT_EQ(view(2), 3.0f);
  const std::array<double, 2> constants{4, 5};
  const auto constant_view = zerotune::view_of(constants);
  static_assert(std::is_same_v<decltype(constant_view), const tensor_view<const double, 1>>);
  EXPECT_EQ(constant_view(1), 5.0);
}

}  // namespace
