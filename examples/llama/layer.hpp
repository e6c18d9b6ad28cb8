// SPDX-License-Identifier: Apache-2.0
// What a layer does around its attention, a block of rows at a time. forward() and backward() share
// it, so that both compute the same bits.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "llama/executor_ref.hpp"
#include "llama/matrix.hpp"
#include "llama/model.hpp"

namespace llama {

/// Most rows that go through a layer's products together: their activations stay in the cache.
inline constexpr std::int64_t row_block = 256;

/// Calls body(first, count) for blocks of about one size, each of at most row_block rows.
template <class Body>
void for_each_block(std::int64_t rows, const Body& body) {
  const std::int64_t blocks = (rows + row_block - 1) / row_block;
  for (std::int64_t b = 0, first = 0; b < blocks; ++b) {
    const std::int64_t count = (rows - first + blocks - b - 1) / (blocks - b);
    body(first, count);
    first += count;
  }
}

/// cos and sin of a position's angles. @param cosines [rope_dim / 2] and @param sines likewise
void rope_angles(const model_weights& weights, std::int64_t position, std::span<float> cosines,
                 std::span<float> sines);

/// normalized = rms_norm(x), row by row, all [rows, weight's length] without gaps.
void normalize_rows(const float* x, const matrix& weight, float epsilon, std::int64_t rows,
                    float* normalized);

/// One layer on rows without gaps. @pre none overlaps another
class layer_rows {
 public:
  layer_rows(const model& m, int layer, executor_ref threads)
      : config_(m.config()),
        weights_(m.weights().layers[static_cast<std::size_t>(layer)]),
        threads_(threads) {}

  /// Norm, then q, k and v, of which q and k are turned.
  /// @param residual [rows, embedding_dim]
  /// @param cosines [rows, rope_dim / 2] and @param sines likewise
  /// @param normalized [rows, embedding_dim], scratch
  /// @param qkv [rows, q_dim + 2 kv_dim]
  void project(std::int64_t rows, const float* residual, const float* cosines, const float* sines,
               float* normalized, float* qkv) const;

  /// residual += the attention's output matrix. @param attended [rows, q_dim]
  void add_attention(std::int64_t rows, const float* attended, float* residual) const;

  /// Norm, then gate and up. @param gate_up [rows, 2 ffn_dim]
  void expand(std::int64_t rows, const float* residual, float* normalized, float* gate_up) const;

  /// residual += down(swiglu(gate_up)). @param activated [rows, ffn_dim], scratch
  void contract(std::int64_t rows, const float* gate_up, float* activated, float* residual) const;

  /// expand() and contract() without what lies between them.
  void feed_forward(std::int64_t rows, float* normalized, float* activated, float* residual) const;

 private:
  const model_config& config_;
  const layer_weights& weights_;
  executor_ref threads_;
};

}  // namespace llama
