// SPDX-License-Identifier: Apache-2.0
// What crosses from the library's front, compiled once, to its kernels, compiled once per
// instruction set: plain data and pointers to functions (docs/design.md, "One definition").
#pragma once

#include <cstdint>

#include "zerotune.h"

namespace zt_c {

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
};

/// Rows [first, last) of a query head; of the backward pass, head is a key-value head.
struct block {
  std::int64_t batch, head, first, last;
};

/// Rows of a block.
inline constexpr std::int64_t block_rows = 32;

/// One operation: the scratch memory that a worker needs for it, in doubles, and its work on one
/// block. Returns the number of amplified rows.
struct operation {
  std::int64_t (*scratch)(const problem&);
  std::int64_t (*run)(const problem&, const block&, double* scratch) noexcept;
};

struct kernels {
  operation attention, backward, rescale, correct;
};

/// What zerotune_add_dispatch chooses among.
using kernel_function = kernels();

/// The kernels for the instruction set in use. @throws zerotune::invalid_argument if the
/// environment forces one that is not there.
const kernels& current_kernels();
/// Its name. @throws the same
const char* current_name();

}  // namespace zt_c
