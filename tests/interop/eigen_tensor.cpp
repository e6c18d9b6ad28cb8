// SPDX-License-Identifier: Apache-2.0
#include "zerotune/interop/eigen_tensor.hpp"

#include <gtest/gtest.h>

#include <type_traits>

#include "zerotune/interop/eigen.hpp"

namespace zt = zerotune;
using zt::index_t;

namespace {

TEST(from_eigen_tensor, both_orders) {
  Eigen::Tensor<float, 3> column_major(2, 3, 4);
  Eigen::Tensor<float, 3, Eigen::RowMajor> row_major(2, 3, 4);
  const auto check = [](auto& tensor) {
    const auto view = zt::from_eigen(tensor);
    for (index_t i = 0; i < 2; ++i)
      for (index_t j = 0; j < 3; ++j)
        for (index_t k = 0; k < 4; ++k) EXPECT_EQ(&view(i, j, k), &tensor(i, j, k));
  };
  check(column_major);
  check(row_major);
  EXPECT_EQ(zt::from_eigen(row_major).stride(0), 12);
  EXPECT_EQ(zt::from_eigen(column_major).stride(0), 1);
}

TEST(from_eigen_tensor, maps_fixed_sizes_and_constness) {
  double data[24] = {};
  const auto view =
      zt::from_eigen(Eigen::TensorMap<Eigen::Tensor<double, 4, Eigen::RowMajor>>(data, 1, 2, 3, 4));
  static_assert(std::is_same_v<decltype(view), const zt::tensor_view<double, 4>>);
  EXPECT_EQ(view.pointer(0, 1, 2, 3), data + 23);
  Eigen::TensorFixedSize<float, Eigen::Sizes<2, 5>> fixed;
  EXPECT_EQ(&zt::from_eigen(fixed)(1, 4), &fixed(1, 4));
  const Eigen::Tensor<float, 1> constant(3);
  static_assert(
      std::is_same_v<decltype(zt::from_eigen(constant)), zt::tensor_view<const float, 1>>);
}

TEST(to_eigen_tensor, contiguous_views_only) {
  float data[24];
  for (int i = 0; i < 24; ++i) data[i] = static_cast<float>(i);
  const zt::tensor_view<float, 3> view(data, {2, 3, 4});
  auto tensor = zt::to_eigen_tensor(view);
  EXPECT_EQ(tensor.dimension(2), 4);
  EXPECT_EQ(tensor(1, 2, 3), 23.0f);
  tensor(0, 0, 1) = -1.0f;
  EXPECT_EQ(data[1], -1.0f);
  const zt::tensor_view<const float, 2> padded(data, {3, 4}, {8, 1});
  EXPECT_THROW(zt::to_eigen_tensor(padded), zt::invalid_argument);
  try {
    zt::to_eigen_tensor(padded);
  } catch (const zt::invalid_argument& error) {
    EXPECT_STREQ(error.what(), "to_eigen_tensor: view stride 0: expected 4, got 8");
  }
  // The step of a dimension of one element is never taken.
  EXPECT_NO_THROW(zt::to_eigen_tensor(zt::tensor_view<const float, 2>(data, {1, 4}, {1000, 1})));
}

}  // namespace
