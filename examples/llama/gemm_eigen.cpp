// SPDX-License-Identifier: Apache-2.0
// Products by Eigen. It packs W anew at every call, so W stays as it is and serves both directions.
//
// Eigen takes rows of x in groups of nr and those that are left over one by one, which sums in
// another order; and with OpenMP it would cut the sums by the number of threads. Whole groups
// alone, on one thread, make a row's bits independent of the rows beside it.
#define EIGEN_DONT_PARALLELIZE
#include <Eigen/Core>

#include <algorithm>
#include <memory>

#include "llama/gemm_kinds.hpp"

namespace llama {
namespace {

using row_major = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using column_major = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::ColMajor>;
using columns = Eigen::Map<column_major, 0, Eigen::OuterStride<>>;
using const_columns = Eigen::Map<const column_major>;

constexpr std::int64_t group = Eigen::internal::gebp_traits<float, float>::nr;
// What one thread takes at a time.
constexpr std::int64_t block_columns = 192;

/// to^T = or += left * from^T, where a row of `from` is a column of from^T.
template <class Left>
void multiply_columns(const Left& left, const float* from, float* to, std::int64_t to_stride,
                      std::int64_t rows, gemm_output output) {
  const const_columns x(from, left.cols(), rows);
  columns y(to, left.rows(), rows, Eigen::OuterStride<>(to_stride));
  if (output == gemm_output::add)
    y.noalias() += left * x;
  else
    y.noalias() = left * x;
}

/// The same for any number of rows, by whole groups.
template <class Left>
void multiply_block(const Left& left, const float* from, float* to, std::int64_t to_stride,
                    std::int64_t rows, gemm_output output) {
  const std::int64_t whole = rows / group * group, rest = rows - whole;
  if (whole > 0) multiply_columns(left, from, to, to_stride, whole, output);
  if (rest == 0) return;
  const std::int64_t depth = left.cols(), width = left.rows();
  // Eigen's own scratch memory, in the calling thread: a group of both.
  thread_local column_major group_from, group_to;
  group_from.setZero(depth, group);
  group_to.setZero(width, group);
  std::copy_n(from + whole * depth, rest * depth, group_from.data());
  for (std::int64_t i = 0; i < rest && output == gemm_output::add; ++i)
    std::copy_n(to + (whole + i) * to_stride, width, group_to.data() + i * width);
  multiply_columns(left, group_from.data(), group_to.data(), width, group, output);
  for (std::int64_t i = 0; i < rest; ++i)
    std::copy_n(group_to.data() + i * width, width, to + (whole + i) * to_stride);
}

class eigen_matrix final : public packed_matrix {
 public:
  explicit eigen_matrix(const matrix& weights)
      : packed_matrix(weights.rows(), weights.columns()),
        weights_(Eigen::Map<const row_major>(weights.data(), weights.rows(), weights.columns())) {}

  void multiply(const float* x, float* y, std::int64_t rows, gemm_output output,
                executor_ref threads) const override {
    in_blocks(outputs(), threads, [&](std::int64_t first, std::int64_t count) {
      multiply_block(weights_.middleRows(first, count), x, y + first, outputs(), rows, output);
    });
  }

  void multiply_transposed(const float* y, float* x, std::int64_t rows, gemm_output output,
                           executor_ref threads) const override {
    in_blocks(inputs(), threads, [&](std::int64_t first, std::int64_t count) {
      multiply_block(weights_.middleCols(first, count).transpose(), y, x + first, inputs(), rows,
                     output);
    });
  }

  bool can_unpack() const override { return true; }

  void unpack_row(std::int64_t index, std::span<float> row) const override {
    std::copy_n(weights_.row(index).data(), row.size(), row.data());
  }

 private:
  template <class Body>
  static void in_blocks(std::int64_t size, executor_ref threads, const Body& body) {
    threads.parallel_for((size + block_columns - 1) / block_columns, [&](std::int64_t block) {
      const std::int64_t first = block * block_columns;
      body(first, std::min(block_columns, size - first));
    });
  }

  row_major weights_;
};

}  // namespace

std::unique_ptr<const packed_matrix> pack_eigen(const matrix& weights) {
  return std::make_unique<eigen_matrix>(weights);
}

}  // namespace llama
