// SPDX-License-Identifier: Apache-2.0
#include "llama/gemm.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "llama/cpu.hpp"
#include "llama/elementwise.hpp"
#include "llama/gemm_kinds.hpp"

namespace llama {

bool is_available(gemm_kind kind) {
#if defined(ZEROTUNE_LLAMA_WITH_ONEDNN)
  // With AVX2 and less, oneDNN cuts a long sum according to the number of rows, so that a row's
  // bits depend on the others (seen with 960 inputs).
  if (kind == gemm_kind::onednn) return instruction_set() >= zerotune::instruction_set::avx512;
  return kind == gemm_kind::eigen || onednn_has_bf16();
#else
  return kind == gemm_kind::eigen;
#endif
}

std::string_view name_of(gemm_kind kind) {
  switch (kind) {
    case gemm_kind::onednn:
      return "onednn";
    case gemm_kind::onednn_bf16:
      return "onednn-bf16";
    case gemm_kind::eigen:
      break;
  }
  return "eigen";
}

gemm_kind default_gemm() {
  return is_available(gemm_kind::onednn) ? gemm_kind::onednn : gemm_kind::eigen;
}

std::string why_unavailable(gemm_kind kind) {
  if (is_available(kind)) return {};
#if defined(ZEROTUNE_LLAMA_WITH_ONEDNN)
  const std::string needed = kind == gemm_kind::onednn ? "AVX-512" : "instructions for bfloat16";
  return "this CPU has no " + needed + ", or ZEROTUNE_INSTRUCTION_SET keeps them off";
#else
  return "this build has no oneDNN (Debian: libdnnl-dev)";
#endif
}

std::unique_ptr<const packed_matrix> pack(gemm_kind kind, const matrix& weights,
                                          std::int64_t parts) {
  if (!is_available(kind))
    throw std::invalid_argument("pack: kind: expected one that this build and CPU offer, got " +
                                std::string(name_of(kind)) + ": " + why_unavailable(kind));
  if (parts < 1 || weights.rows() % parts != 0)
    throw std::invalid_argument("pack: weights dim 0 (outputs): expected a multiple of " +
                                std::to_string(parts) + " parts, got " +
                                std::to_string(weights.rows()));
#if defined(ZEROTUNE_LLAMA_WITH_ONEDNN)
  if (kind != gemm_kind::eigen) return pack_onednn(kind, weights, parts);
#endif
  return pack_eigen(weights);
}

void packed_matrix::multiply_gated(const float* x, float* y, std::int64_t rows,
                                   executor_ref threads) const {
  thread_local std::vector<float> memory;
  memory.resize(std::max(memory.size(), static_cast<std::size_t>(rows * outputs())));
  multiply(x, memory.data(), rows, gemm_output::store, threads);
  const std::int64_t half = outputs() / 2;
  const auto size = static_cast<std::size_t>(half);
  for (std::int64_t i = 0; i < rows; ++i) {
    const float* const gate = memory.data() + i * outputs();
    swiglu({gate, size}, {gate + half, size}, {y + i * half, size});
  }
}

void packed_matrix::unpack_row(std::int64_t, std::span<float>) const {
  throw std::logic_error("packed_matrix::unpack_row: the rows are not at hand");
}

linear::linear(gemm_kind kind, const matrix& weights, std::span<const float> bias,
               std::int64_t parts)
    : weights_(pack(kind, weights, parts)) {
  if (bias.empty()) return;
  if (static_cast<std::int64_t>(bias.size()) != weights.rows())
    throw std::invalid_argument("linear: bias dim 0 (outputs): expected " +
                                std::to_string(weights.rows()) + ", got " +
                                std::to_string(bias.size()));
  bias_.resize(1, weights.rows());
  std::copy(bias.begin(), bias.end(), bias_.data());
}

void linear::operator()(const float* x, float* y, std::int64_t rows, executor_ref threads,
                        gemm_output output) const {
  weights_->multiply(x, y, rows, output, threads);
  const std::int64_t outputs = bias_.columns();
  if (outputs == 0) return;
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < outputs; ++j) y[i * outputs + j] += bias_.data()[j];
}

}  // namespace llama
