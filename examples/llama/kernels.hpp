// SPDX-License-Identifier: Apache-2.0
// What crosses from the host, compiled once, to its kernels, compiled once per instruction set:
// plain data and pointers to functions (docs/design.md, "One definition"; docs/configuration.md).
#pragma once

#include <cstddef>
#include <cstdint>

#include "zerotune/core/tensor_view.hpp"
#include "zerotune/kernel/attention_plan.hpp"

namespace llama {

/// Causal attention of the queries of one sequence, which are its last positions, checked.
struct attention_call {
  zerotune::tensor_view<const float, 4> q;  ///< [1, num_heads, q_len, head_dim]
  zerotune::tensor_view<const float, 4> k;  ///< [1, num_kv_heads, kv_len, head_dim]
  zerotune::tensor_view<const float, 4> v;  ///< likewise
  zerotune::tensor_view<float, 4> out;      ///< as q
  zerotune::tensor_view<float, 3> lse;      ///< [1, num_heads, q_len], or empty
  float softmax_scale = 0;
  const float* gammas = nullptr;      ///< [num_heads], of the initial token; null: no modifier
  std::int64_t initial_position = 0;  ///< keys before it are padding
  zerotune::attention_plan plan{};
};

/// The way back; the LSE and output of the call are read.
struct attention_backward_call {
  attention_call forward;
  zerotune::tensor_view<const float, 4> d_out;
  zerotune::tensor_view<float, 4> d_q, d_k, d_v;
  double* d_log_gamma = nullptr;  ///< [num_heads]
};

/// How a call is cut: tasks that do not depend on one another, and the bytes that each needs while
/// it runs, 64-byte aligned.
struct attention_cut {
  std::int64_t tasks = 0, scratch_bytes = 0;
};

struct attention_kernels {
  attention_cut (*cut)(const attention_call&, std::int64_t wanted_tasks) noexcept;
  void (*run)(const attention_call&, std::int64_t wanted_tasks, std::int64_t task,
              std::byte* scratch) noexcept;
  attention_cut (*cut_backward)(const attention_backward_call&) noexcept;
  void (*run_backward)(const attention_backward_call&, std::int64_t task,
                       std::byte* scratch) noexcept;
};

/// What sums_of_exp() gives.
struct exp_sums {
  double plain, weighted;
};

/// As in elementwise.hpp; rows of `size` elements.
struct elementwise_kernels {
  void (*rms_norm)(const float* x, const float* weight, std::int64_t size, float epsilon,
                   float* y) noexcept;
  void (*rms_norm_backward)(const float* x, const float* weight, std::int64_t size, float epsilon,
                            const float* d_y, float* d_x) noexcept;
  /// Turns `heads` heads by their angles times `direction`, 1 or -1.
  void (*turn)(float* heads, std::int64_t num_heads, std::int64_t head_dim, const float* cosines,
               const float* sines, std::int64_t half, float direction) noexcept;
  void (*swiglu)(const float* gate, const float* up, float* y, std::int64_t size) noexcept;
  void (*swiglu_backward)(const float* gate_up, const float* d_y, float* d_gate_up,
                          std::int64_t size) noexcept;
  /// to[i] += from[i]
  void (*add)(const float* from, float* to, std::int64_t size) noexcept;
  /// Rounds to bfloat16, ties to even.
  void (*round)(const float* from, std::uint16_t* to, std::int64_t size) noexcept;
  /// The largest element that is no NaN; -infinity if there is none.
  float (*largest)(const float* x, std::int64_t size) noexcept;
  /// Sums of e^(x - shift) and of (x - shift) e^(x - shift), which is 0 where the exponential is.
  exp_sums (*sums_of_exp)(const float* x, std::int64_t size, double shift) noexcept;
  /// x = -e^(x - shift) * (a + b * (x - shift)), 0 where the exponential is.
  void (*weigh_exp)(float* x, std::int64_t size, double shift, double a, double b) noexcept;
};

/// y = x W^T, or x W, by Eigen on one thread: columns [first, first + columns) of y's. A row's bits
/// do not depend on the others.
struct eigen_call {
  const float* weights = nullptr;  ///< [weight_rows, weight_columns], without gaps
  std::int64_t weight_rows = 0, weight_columns = 0;
  bool transposed = false;  ///< x W
  const float* x = nullptr;
  float* y = nullptr;
  std::int64_t y_stride = 0, rows = 0;
  std::int64_t first = 0, columns = 0;
  bool add = false;
};
struct eigen_kernels {
  void (*multiply)(const eigen_call&);
};

/// What zerotune_add_dispatch chooses among.
using attention_kernel_function = attention_kernels();
using elementwise_kernel_function = elementwise_kernels();
using eigen_kernel_function = eigen_kernels();

/// The kernels for the instruction set in use (cpu.hpp).
/// @throws zerotune::invalid_argument as instruction_set()
const attention_kernels& current_attention_kernels();
const elementwise_kernels& current_elementwise_kernels();
const eigen_kernels& current_eigen_kernels();

}  // namespace llama
