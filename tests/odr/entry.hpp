// SPDX-License-Identifier: Apache-2.0
// The plain data that the translation units of the test are entered with.
#pragma once

#include <cstdint>

struct odr_call {
  std::int64_t num_heads, q_len, kv_len, head_dim;
  float softmax_scale;
  const float* gamma;              // [num_heads]
  const float *q, *k, *v;          // [num_heads, q_len or kv_len, head_dim]
  float *out, *lse;                // [num_heads, q_len, head_dim], [num_heads, q_len]
  float *weights, *logits, *mask;  // [num_heads, q_len, kv_len]
};

/// Each runs all forms and returns the name of the inline namespace that it was compiled with.
using odr_entry = const char*(const odr_call& call);
