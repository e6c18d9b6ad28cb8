// SPDX-License-Identifier: Apache-2.0
// How fused attention is cut to the caches (layer: kernel). A plan is plain data: made once, used
// for every layer and call.
#pragma once

#include "zerotune/core/caches.hpp"

namespace zerotune {

/// Sizes that a back end fits its tiles to. Results depend on score_bytes (it says where a block of
/// keys ends, counted from position 0), never on task_bytes.
struct attention_plan {
  /// Bytes of the scores of one block of keys; they are written and read in the first-level cache.
  /// Where scores stay in registers, blocks are a fixed multiple of what this allows.
  index_t score_bytes = 0;
  /// Bytes of the queries, sums and keys that one task goes over again and again; they stay in the
  /// second-level cache. Where scores stay in registers a task takes up to eight times as much, and
  /// a quarter of that for keys: it goes over a section of keys panel by panel.
  index_t task_bytes = 0;
};

inline namespace ZEROTUNE_ABI {

/// The plan for a machine with these caches: half of each, the rest streams by.
inline attention_plan plan_attention(const cache_sizes& caches = machine_caches()) {
  return {caches.level1 / 2, caches.level2 / 2};
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
