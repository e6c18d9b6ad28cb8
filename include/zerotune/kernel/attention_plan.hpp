// SPDX-License-Identifier: Apache-2.0
// How fused attention is cut to the caches (layer: kernel). A plan is plain data: made once, used
// for every layer and call.
#pragma once

#include "zerotune/core/caches.hpp"

namespace zerotune {

/// Sizes that a back end fits its tiles to. Results depend on score_bytes (it says where a block of
/// keys ends, counted from position 0), never on the others.
struct attention_plan {
  /// Bytes of the scores of one block of keys; they are written and read in the first-level cache.
  /// Where scores stay in registers, blocks are a fixed multiple of what this allows.
  index_t score_bytes = 0;
  /// Bytes of the queries, sums and keys that one task goes over again and again; they stay in the
  /// second-level cache. Where scores stay in registers a task takes up to eight times as much, and
  /// a quarter of that for keys: it goes over a section of keys panel by panel.
  index_t task_bytes = 0;
  /// Bytes of keys and values that decode finds in a cache again at the next call; more of them are
  /// fetched from memory. 0 where other work goes through the caches between the calls, as the
  /// weights of a model do; where none does, three quarters of the third level.
  index_t kept_bytes = 0;
};

inline namespace ZEROTUNE_ABI {

/// The plan for a machine with these caches: half of each, the rest streams by.
inline attention_plan plan_attention(const cache_sizes& caches = machine_caches()) {
  return {caches.level1 / 2, caches.level2 / 2, 0};
}

namespace impl {

/// Where keys and values are likely to be: left in a cache by the call before, or in memory.
enum class kv_place { caches, memory };

/// Where the keys and values of a call are. A kernel asks for both in other ways, with the same
/// result.
inline kv_place place_of(const attention_plan& plan, index_t positions, index_t bytes) {
  return static_cast<double>(positions) * static_cast<double>(bytes) <=
                 static_cast<double>(plan.kept_bytes)
             ? kv_place::caches
             : kv_place::memory;
}

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
