// SPDX-License-Identifier: Apache-2.0
// What crosses from the library's front, compiled once, to its kernels, compiled once per
// instruction set: plain data and pointers to functions (docs/design.md, "One definition").
#pragma once

#include <cstddef>
#include <cstdint>

#include "zerotune.h"

namespace capi {

/// A checked call. Tensors that it does not have are all zero.
struct problem {
  zt_tensor q, k, v, out, lse, d_out, d_q, d_k, d_v, weights;
  float* d_log_gamma;
  double softmax_scale, min_d;
  float softcap;
  bool causal;
  std::int64_t window;
  const float* gamma;
  const std::int64_t* initial_pos;
  std::int64_t batch, num_heads, num_kv_heads, q_len, kv_len;
  std::int64_t score_bytes, task_bytes, kept_bytes;  // of zerotune::attention_plan
};

/// How a call is cut into tasks. Each that runs needs scratch memory of its own, aligned to 64
/// bytes. What follows is for the kernel that planned it.
struct work {
  std::int64_t tasks, scratch_bytes;
  std::int64_t key_block = 0, blocks_per_section = 0, panels_per_task = 0;
  bool cached = false;  // keys and values
};

/// One operation: how it is cut, into wanted_tasks or more where that costs little, and one task.
/// Returns the number of amplified rows.
struct operation {
  work (*plan)(const problem&, std::int64_t wanted_tasks) noexcept;
  std::int64_t (*run)(const problem&, const work&, std::int64_t task, std::byte* scratch) noexcept;
};

/// What depends on the element type of k and v, or of the weights.
struct type_kernels {
  operation attention;  // q and out both of k's type, or both of the accumulator
  operation rescale, correct;
};
/// What depends on the accumulator alone.
struct sum_kernels {
  operation backward;
  operation convert;  // q, of any type of the accumulator, to out
};

/// What zerotune_add_dispatch chooses among.
using type_function = type_kernels();
using sum_function = sum_kernels();

/// The kernels for the instruction set in use and an element type. @throws
/// zerotune::invalid_argument if the environment forces one that is not there.
const type_kernels& kernels_for(std::int32_t dtype);
const sum_kernels& sums_for(std::int32_t dtype);
/// Its name. @throws the same
const char* current_name();

}  // namespace capi
