// SPDX-License-Identifier: Apache-2.0
// The memory that forward() works in.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "llama/attention.hpp"
#include "llama/matrix.hpp"

namespace llama {

/// One thread's working memory. It grows to the largest call and is kept, so that later calls
/// allocate nothing. Its contents mean nothing between calls; no two calls may use it at once.
struct workspace {
  /// A sequence's place in the batch.
  struct placement {
    std::int64_t first_row = 0;  ///< of its tokens among all rows
    std::int64_t past = 0;       ///< position of its first token
    std::int64_t first_query =
        0;  ///< index of the first token whose attention the last layer needs
    std::int64_t num_queries = 0;  ///< and how many from there on
    std::span<const int> tokens;   ///< the whole sequence, cached tokens included
  };

  matrix residual;        ///< [rows, embedding_dim]
  matrix qkv;             ///< [rows, q_dim + 2 kv_dim]
  matrix attended;        ///< [rows, q_dim]
  matrix normalized;      ///< [a block of rows, embedding_dim]
  matrix activated;       ///< [a block of rows, ffn_dim]
  matrix cosines, sines;  ///< [rows, rope_dim / 2]
  matrix lse;             ///< [num_heads, tokens of a sequence]
  attention_memory attention;
  std::vector<placement> placements;
  std::vector<int> tokens;          ///< of the sequences that have a past
  std::vector<const void*> caches;  ///< to find one that is given twice
};

}  // namespace llama
