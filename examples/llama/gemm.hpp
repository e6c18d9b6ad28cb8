// SPDX-License-Identifier: Apache-2.0
// Matrix products with weights that are packed once: y = x W^T + bias, and dx = dy W for gradients.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "llama/executor_ref.hpp"
#include "llama/matrix.hpp"

namespace llama {

/// Who multiplies.
enum class gemm_kind {
  eigen,        ///< Eigen, float
  onednn,       ///< oneDNN, float
  onednn_bf16,  ///< oneDNN with weights and inputs rounded to bfloat16, sums in float
};

/// Whether this build has it and the CPU has the instructions: AVX-512 for oneDNN's, for bfloat16
/// AVX512-BF16 or AMX.
bool is_available(gemm_kind kind);
/// "eigen", "onednn" or "onednn-bf16".
std::string_view name_of(gemm_kind kind);

/// oneDNN where it is available, else Eigen; float.
gemm_kind default_gemm();

/// Why `kind` is not available, for a message; empty if it is.
std::string why_unavailable(gemm_kind kind);

/// What becomes of a product.
enum class gemm_output { store, add };

/// A weight matrix W [outputs, inputs] in the form that a kernel likes. Immutable.
class packed_matrix {
 public:
  virtual ~packed_matrix() = default;
  packed_matrix(const packed_matrix&) = delete;
  packed_matrix& operator=(const packed_matrix&) = delete;

  std::int64_t outputs() const { return outputs_; }
  std::int64_t inputs() const { return inputs_; }

  /// y = x W^T or y += x W^T. Threads share blocks of columns whose bounds do not depend on them.
  /// @param x [rows, inputs] and @param y [rows, outputs], without gaps; they must not overlap
  virtual void multiply(const float* x, float* y, std::int64_t rows, gemm_output output,
                        executor_ref threads) const = 0;

  /// y = silu(x W_1^T) * (x W_2^T), silu(g) = g / (1 + e^-g), where W_1 is the first half of the
  /// outputs, the gate, and W_2 the second: the same bits as multiply() and swiglu().
  /// @pre outputs() is even
  /// @param x [rows, inputs] and @param y [rows, outputs / 2], without gaps; they must not overlap
  virtual void multiply_gated(const float* x, float* y, std::int64_t rows,
                              executor_ref threads) const;

  /// x = y W or x += y W, the way that a gradient takes; threads as above. Never both W and its
  /// transpose are in memory, but with oneDNN, which packs the transpose at the first call.
  /// @param y [rows, outputs] and @param x [rows, inputs], without gaps; they must not overlap
  virtual void multiply_transposed(const float* y, float* x, std::int64_t rows, gemm_output output,
                                   executor_ref threads) const = 0;

  /// Whether unpack_row() works.
  virtual bool can_unpack() const { return false; }
  /// Writes row `index` of W. @pre can_unpack() and row.size() == inputs()
  virtual void unpack_row(std::int64_t index, std::span<float> row) const;

 protected:
  packed_matrix(std::int64_t outputs, std::int64_t inputs) : outputs_(outputs), inputs_(inputs) {}

 private:
  std::int64_t outputs_, inputs_;
};

/// Packs W [outputs, inputs], which is not needed afterwards.
/// @param parts of the outputs, all equal, that threads' blocks of columns keep to: 2 is what
///              multiply_gated() likes best
/// @throws std::invalid_argument if `kind` is not available or the outputs are not a multiple of
///         `parts`
std::unique_ptr<const packed_matrix> pack(gemm_kind kind, const matrix& weights,
                                          std::int64_t parts = 1);

/// A linear layer: a packed matrix and, perhaps, a bias.
class linear {
 public:
  linear() = default;
  /// @param weights [outputs, inputs]
  /// @param bias    [outputs], or empty
  /// @param parts   as pack()'s: 2 for gated()
  /// @throws std::invalid_argument if its length is another, or as pack()
  linear(gemm_kind kind, const matrix& weights, std::span<const float> bias = {},
         std::int64_t parts = 1);

  const packed_matrix& weights() const { return *weights_; }

  /// y = x W^T + bias, or y += the same. A row's result is bitwise the same whatever the other rows
  /// and the number of threads: every element is one chain of sums over the inputs in rising order.
  /// (oneDNN promises no order; tests look.)
  /// @param x [rows, inputs] and @param y [rows, outputs], without gaps; they must not overlap
  void operator()(const float* x, float* y, std::int64_t rows, executor_ref threads,
                  gemm_output output = gemm_output::store) const;

  /// y = silu(the first half of the outputs) * the second, with the same promises.
  /// @pre there is no bias, and the number of outputs is even
  /// @param x [rows, inputs] and @param y [rows, outputs / 2], without gaps; they must not overlap
  void gated(const float* x, float* y, std::int64_t rows, executor_ref threads) const {
    weights_->multiply_gated(x, y, rows, threads);
  }

  /// dx = dy W or dx += dy W: the gradient of a loss with respect to x from that with respect to y,
  /// with the same promises, except that the chain is cut at fixed outputs.
  /// @param d_y [rows, outputs] and @param d_x [rows, inputs], without gaps; they must not overlap
  void backward(const float* d_y, float* d_x, std::int64_t rows, executor_ref threads,
                gemm_output output = gemm_output::store) const {
    weights_->multiply_transposed(d_y, d_x, rows, output, threads);
  }

 private:
  std::unique_ptr<const packed_matrix> weights_;
  matrix bias_;  // [1, outputs], or empty
};

}  // namespace llama
