// SPDX-License-Identifier: Apache-2.0
// Products by Eigen. It packs W anew at every call, so W stays as it is and serves both directions.
#include <algorithm>
#include <memory>

#include "llama/gemm_kinds.hpp"
#include "llama/kernels.hpp"

namespace llama {
namespace {

// What one thread takes at a time.
constexpr std::int64_t block_columns = 192;

class eigen_matrix final : public packed_matrix {
 public:
  explicit eigen_matrix(const matrix& weights) : packed_matrix(weights.rows(), weights.columns()) {
    weights_.resize(weights.rows(), weights.columns());
    std::ranges::copy(weights.values(), weights_.data());
  }

  void multiply(const float* x, float* y, std::int64_t rows, gemm_output output,
                executor_ref threads) const override {
    in_blocks({.transposed = false, .x = x, .y = y, .y_stride = outputs(), .rows = rows}, output,
              threads);
  }

  void multiply_transposed(const float* y, float* x, std::int64_t rows, gemm_output output,
                           executor_ref threads) const override {
    in_blocks({.transposed = true, .x = y, .y = x, .y_stride = inputs(), .rows = rows}, output,
              threads);
  }

  bool can_unpack() const override { return true; }

  void unpack_row(std::int64_t index, std::span<float> row) const override {
    std::ranges::copy(weights_.row(index), row.begin());
  }

 private:
  void in_blocks(eigen_call call, gemm_output output, executor_ref threads) const {
    call.weights = weights_.data();
    call.weight_rows = outputs();
    call.weight_columns = inputs();
    call.add = output == gemm_output::add;
    const std::int64_t size = call.y_stride;
    threads.parallel_for((size + block_columns - 1) / block_columns, [&](std::int64_t block) {
      eigen_call part = call;
      part.first = block * block_columns;
      part.columns = std::min(block_columns, size - part.first);
      current_eigen_kernels().multiply(part);
    });
  }

  matrix weights_;
};

}  // namespace

std::unique_ptr<const packed_matrix> pack_eigen(const matrix& weights) {
  return std::make_unique<eigen_matrix>(weights);
}

}  // namespace llama
