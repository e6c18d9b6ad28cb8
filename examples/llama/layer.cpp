// SPDX-License-Identifier: Apache-2.0
#include "llama/layer.hpp"

#include <cmath>
#include <cstddef>

#include "llama/elementwise.hpp"

namespace llama {
namespace {

std::span<const float> row_of(const float* rows, std::int64_t index, std::int64_t size) {
  return {rows + index * size, static_cast<std::size_t>(size)};
}
std::span<float> row_of(float* rows, std::int64_t index, std::int64_t size) {
  return {rows + index * size, static_cast<std::size_t>(size)};
}

}  // namespace

void rope_angles(const model_weights& weights, std::int64_t position, std::span<float> cosines,
                 std::span<float> sines) {
  for (std::size_t i = 0; i < cosines.size(); ++i) {
    const double angle = static_cast<double>(position) * weights.rope_frequencies[i];
    cosines[i] = static_cast<float>(std::cos(angle));
    sines[i] = static_cast<float>(std::sin(angle));
  }
}

void normalize_rows(const float* x, const matrix& weight, float epsilon, std::int64_t rows,
                    float* normalized) {
  const std::int64_t size = weight.columns();
  for (std::int64_t i = 0; i < rows; ++i)
    rms_norm(row_of(x, i, size), weight.values(), epsilon, row_of(normalized, i, size));
}

void layer_rows::project(std::int64_t rows, const float* residual, const float* cosines,
                         const float* sines, float* normalized, float* qkv) const {
  normalize_rows(residual, weights_.attention_norm, config_.rms_epsilon, rows, normalized);
  weights_.qkv(normalized, qkv, rows, threads_);
  const std::int64_t half = config_.rope_dim / 2;
  const auto q_and_k = static_cast<std::size_t>(config_.q_dim() + config_.kv_dim());
  for (std::int64_t i = 0; i < rows; ++i)
    rotate(row_of(qkv, i, config_.q_dim() + 2 * std::int64_t{config_.kv_dim()}).first(q_and_k),
           config_.head_dim, row_of(cosines, i, half), row_of(sines, i, half));
}

void layer_rows::add_attention(std::int64_t rows, const float* attended, float* residual) const {
  weights_.attention_output(attended, residual, rows, threads_, gemm_output::add);
}

void layer_rows::expand(std::int64_t rows, const float* residual, float* normalized,
                        float* gate_up) const {
  normalize_rows(residual, weights_.ffn_norm, config_.rms_epsilon, rows, normalized);
  weights_.gate_up(normalized, gate_up, rows, threads_);
}

void layer_rows::contract(std::int64_t rows, const float* gate_up, float* activated,
                          float* residual) const {
  const std::int64_t ffn = config_.ffn_dim;
  for (std::int64_t i = 0; i < rows; ++i) {
    const auto row = row_of(gate_up, i, 2 * ffn);
    const auto size = static_cast<std::size_t>(ffn);
    swiglu(row.first(size), row.last(size), row_of(activated, i, ffn));
  }
  weights_.down(activated, residual, rows, threads_, gemm_output::add);
}

void layer_rows::feed_forward(std::int64_t rows, float* normalized, float* activated,
                              float* residual) const {
  normalize_rows(residual, weights_.ffn_norm, config_.rms_epsilon, rows, normalized);
  weights_.gate_up.gated(normalized, activated, rows, threads_);
  weights_.down(activated, residual, rows, threads_, gemm_output::add);
}

}  // namespace llama
