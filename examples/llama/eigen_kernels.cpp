// SPDX-License-Identifier: Apache-2.0
// Eigen's products for one instruction set: compiled once for each, with ZEROTUNE_DISPATCHED as the
// name of the one function that it is entered through.
//
// Eigen takes rows of x in groups of nr and those that are left over one by one, which sums in
// another order; and with OpenMP it would cut the sums by the number of threads. Whole groups
// alone, on one thread, make a row's bits independent of the rows beside it.
#define EIGEN_DONT_PARALLELIZE
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12's own AVX-512 header
#endif
// Eigen's functions have the same names whatever they are compiled for: each variant renames it.
#define ZEROTUNE_JOIN_NAMES(a, b) a##_##b
#define ZEROTUNE_NAME_OF_VARIANT(a, b) ZEROTUNE_JOIN_NAMES(a, b)
#define Eigen ZEROTUNE_NAME_OF_VARIANT(zt_eigen, ZEROTUNE_DISPATCHED)
#include <Eigen/Core>

#include <cstdint>

#include "llama/kernels.hpp"

namespace {

using row_major = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using column_major = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::ColMajor>;
using columns = Eigen::Map<column_major, 0, Eigen::OuterStride<>>;
using const_columns = Eigen::Map<const column_major>;

constexpr std::int64_t group = Eigen::internal::gebp_traits<float, float>::nr;

/// y^T = or += left * x^T, where a row of x is a column of x^T.
template <class Left>
void multiply_columns(const Left& left, const float* x, float* y, std::int64_t y_stride,
                      std::int64_t rows, bool add) {
  const const_columns from(x, left.cols(), rows);
  columns to(y, left.rows(), rows, Eigen::OuterStride<>(y_stride));
  if (add)
    to.noalias() += left * from;
  else
    to.noalias() = left * from;
}

/// The same for any number of rows, by whole groups.
template <class Left>
void multiply_groups(const Left& left, const llama::eigen_call& c) {
  const std::int64_t depth = left.cols(), width = left.rows();
  const std::int64_t whole = c.rows / group * group, rest = c.rows - whole;
  float* const y = c.y + c.first;
  if (whole > 0) multiply_columns(left, c.x, y, c.y_stride, whole, c.add);
  if (rest == 0) return;
  // Eigen's own scratch memory, in the calling thread: a group of both.
  thread_local column_major group_x, group_y;
  group_x.setZero(depth, group);
  group_y.setZero(width, group);
  __builtin_memcpy(group_x.data(), c.x + whole * depth,
                   static_cast<std::size_t>(rest * depth) * sizeof(float));
  const auto bytes = static_cast<std::size_t>(width) * sizeof(float);
  for (std::int64_t i = 0; i < rest && c.add; ++i)
    __builtin_memcpy(group_y.data() + i * width, y + (whole + i) * c.y_stride, bytes);
  multiply_columns(left, group_x.data(), group_y.data(), width, group, c.add);
  for (std::int64_t i = 0; i < rest; ++i)
    __builtin_memcpy(y + (whole + i) * c.y_stride, group_y.data() + i * width, bytes);
}

void multiply(const llama::eigen_call& c) {
  const Eigen::Map<const row_major> weights(c.weights, c.weight_rows, c.weight_columns);
  if (c.transposed)
    multiply_groups(weights.middleCols(c.first, c.columns).transpose(), c);
  else
    multiply_groups(weights.middleRows(c.first, c.columns), c);
}

}  // namespace

llama::eigen_kernels ZEROTUNE_DISPATCHED() { return {multiply}; }
