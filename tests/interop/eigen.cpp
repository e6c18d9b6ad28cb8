// SPDX-License-Identifier: Apache-2.0
#include "zerotune/interop/eigen.hpp"

#include <gtest/gtest.h>

#include <type_traits>

namespace zt = zerotune;
using zt::index_t;

namespace {

template <class Matrix>
void fill(Matrix& m) {
  for (Eigen::Index r = 0; r < m.rows(); ++r)
    for (Eigen::Index c = 0; c < m.cols(); ++c)
      m(r, c) = static_cast<typename Matrix::Scalar>(10 * r + c);
}

template <class Matrix>
void expect_same_elements(Matrix&& m) {
  const auto view = zt::from_eigen(m);
  ASSERT_EQ(view.extent(0), m.rows());
  ASSERT_EQ(view.extent(1), m.cols());
  for (index_t r = 0; r < m.rows(); ++r)
    for (index_t c = 0; c < m.cols(); ++c) EXPECT_EQ(&view(r, c), &m.coeffRef(r, c));
}

TEST(from_eigen, matrices_and_arrays_of_both_orders) {
  Eigen::MatrixXf column_major(3, 4);
  Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> row_major(5, 2);
  Eigen::Array<float, 4, 3> fixed;
  Eigen::VectorXd vector(6);
  Eigen::RowVectorXf row_vector(7);
  expect_same_elements(column_major);
  expect_same_elements(row_major);
  expect_same_elements(fixed);
  expect_same_elements(vector);
  expect_same_elements(row_vector);
}

TEST(from_eigen, maps_blocks_and_references) {
  Eigen::MatrixXf matrix(6, 8);
  fill(matrix);
  expect_same_elements(matrix.block(1, 2, 3, 4));
  expect_same_elements(matrix.row(2));
  expect_same_elements(Eigen::Ref<Eigen::MatrixXf>(matrix));
  float data[60] = {};
  using strides = Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>;
  expect_same_elements(
      Eigen::Map<Eigen::MatrixXf, Eigen::Unaligned, strides>(data, 3, 4, strides(13, 2)));
}

TEST(from_eigen, constness_follows) {
  Eigen::MatrixXf matrix(2, 2);
  const Eigen::MatrixXf& constant = matrix;
  const float data[4] = {};
  const Eigen::Map<const Eigen::Matrix2f> map(data);
  static_assert(std::is_same_v<decltype(zt::from_eigen(matrix)), zt::tensor_view<float, 2>>);
  static_assert(
      std::is_same_v<decltype(zt::from_eigen(constant)), zt::tensor_view<const float, 2>>);
  static_assert(std::is_same_v<decltype(zt::from_eigen(map)), zt::tensor_view<const float, 2>>);
}

TEST(to_eigen, any_strides_also_negative) {
  float data[24];
  for (int i = 0; i < 24; ++i) data[i] = static_cast<float>(i);
  const zt::tensor_view<float, 2> plain(data, {4, 6});
  const zt::tensor_view<float, 2> odd(data + 23, {3, 4}, {-7, -2});
  const zt::tensor_view<const float, 2> repeated(data, {3, 4}, {0, 1});
  const auto check = [](const auto& view) {
    const auto map = zt::to_eigen(view);
    ASSERT_EQ(map.rows(), view.extent(0));
    ASSERT_EQ(map.cols(), view.extent(1));
    for (index_t r = 0; r < map.rows(); ++r)
      for (index_t c = 0; c < map.cols(); ++c) EXPECT_EQ(map(r, c), view(r, c));
  };
  check(plain);
  check(odd);
  check(repeated);
  zt::to_eigen(plain) *= 2;
  EXPECT_EQ(data[23], 46.0f);
}

TEST(to_eigen, vectors) {
  double data[10] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
  auto every_third = zt::to_eigen(zt::tensor_view<double, 1>(data, {4}, {3}));
  EXPECT_EQ(every_third.sum(), 0 + 3 + 6 + 9);
  every_third.array() += 1;
  EXPECT_EQ(data[9], 10.0);
  EXPECT_EQ(data[8], 8.0);
  const auto backwards = zt::to_eigen(zt::tensor_view<const double, 1>(data + 8, {3}, {-1}));
  EXPECT_EQ(backwards(2), 7.0);
}

TEST(to_eigen, round_trip) {
  Eigen::MatrixXd matrix(4, 5);
  fill(matrix);
  EXPECT_EQ(zt::to_eigen(zt::from_eigen(matrix)), matrix);
}

}  // namespace
