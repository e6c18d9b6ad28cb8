// SPDX-License-Identifier: Apache-2.0
// A whole call of fused attention, cut into tasks (layer: kernel). In general a task is a block of
// rows; a back end that takes many rows at once specialises attention_kernel in its own folder.
#pragma once

#include <cstddef>

#include "zerotune/kernel/attention_plan.hpp"
#include "zerotune/kernel/attention_row.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// Where the weight of the initial token goes, row by row.
template <class Acc>
struct sink_output {
  tensor_view<Acc, 3> mass;                 // [batch, num_heads, q_len], or empty
  tensor_view<const index_t, 1> positions;  // [batch]; empty: 0

  ZEROTUNE_ALWAYS_INLINE index_t position(index_t batch) const {
    return positions.data() ? positions(batch) : 0;
  }
  /// Null if it is not asked for.
  ZEROTUNE_ALWAYS_INLINE Acc* pointer(index_t batch, index_t head, index_t i) const {
    return mass.data() ? mass.pointer(batch, head, i) : nullptr;
  }
};

/// The tensors of a call, checked by whoever made it.
template <element Q, element KV, element Out>
struct attention_problem {
  using acc = accumulator_t<KV>;

  tensor_view<const Q, 4> q;   // [batch, num_heads, q_len, head_dim]
  tensor_view<const KV, 4> k;  // [batch, num_kv_heads, kv_len, head_dim]
  tensor_view<const KV, 4> v;  // [batch, num_kv_heads, kv_len, value_dim]
  tensor_view<Out, 4> out;     // [batch, num_heads, q_len, value_dim]
  tensor_view<acc, 3> lse;     // [batch, num_heads, q_len], or empty
  acc softmax_scale;
  geometry g;
  sink_output<acc> sink{};

  ZEROTUNE_ALWAYS_INLINE index_t head_dim() const { return q.extent(3); }
  ZEROTUNE_ALWAYS_INLINE index_t value_dim() const { return v.extent(3); }
  ZEROTUNE_ALWAYS_INLINE index_t num_kv_heads() const { return k.extent(1); }
  ZEROTUNE_ALWAYS_INLINE index_t group_size() const { return q.extent(1) / k.extent(1); }
};

/// The arguments of attention_row for one query.
template <element Q, element KV, element Out>
attention_row_args<Q, KV, Out> row_args(const attention_problem<Q, KV, Out>& p, index_t batch,
                                        index_t head, index_t i) noexcept {
  const index_t kv_head = head / p.group_size();
  return {p.q.pointer(batch, head, i, 0),
          p.q.stride(3),
          p.k.pointer(batch, kv_head, 0, 0),
          p.k.stride(2),
          p.k.stride(3),
          p.v.pointer(batch, kv_head, 0, 0),
          p.v.stride(2),
          p.v.stride(3),
          p.out.pointer(batch, head, i, 0),
          p.out.stride(3),
          p.lse.data() ? p.lse.pointer(batch, head, i) : nullptr,
          p.head_dim(),
          p.value_dim(),
          p.softmax_scale,
          p.sink.pointer(batch, head, i),
          p.sink.position(batch)};
}

/// Rows of one head, one after the other.
template <class Backend, element Q, element KV, element Out, logit_modifier Modifier>
void attention_head_rows(const attention_problem<Q, KV, Out>& p, const Modifier& m, index_t batch,
                         index_t head, range queries) noexcept {
  for (index_t i = queries.begin; i < queries.end; ++i)
    attention_row<Backend>(row_args(p, batch, head, i), p.g, m, p.g.at(batch, head, i));
}

/// How a call is cut: tasks are independent of one another, and each that runs needs scratch memory
/// of its own, aligned to 64 bytes. More lengths never need less of it.
struct attention_tiling {
  index_t tasks = 0;
  index_t scratch_bytes = 0;
  index_t key_block = 0;           // keys of one step of the online softmax
  index_t blocks_per_section = 0;  // blocks that are packed together
  index_t panels_per_task = 0;     // panels of queries that share a task's keys
  kv_place place = kv_place::memory;
};

/// Attention by blocks of rows, without scratch memory.
template <class Backend, element Q, element KV, element Out>
struct row_kernel {
  using problem = attention_problem<Q, KV, Out>;
  static constexpr index_t rows_per_task = 32;
  static constexpr index_t few_queries = 0;

  static attention_tiling tiling(const problem& p, const attention_plan&, index_t) noexcept {
    attention_tiling t;
    t.tasks = p.g.shape.batch * p.g.shape.num_heads * blocks(p);
    return t;
  }
  template <logit_modifier Modifier>
  static void run(const problem& p, const Modifier& m, const attention_tiling&, index_t task,
                  std::byte*) noexcept {
    const index_t first = task % blocks(p) * rows_per_task, head = task / blocks(p);
    const range rows = intersect({first, first + rows_per_task}, {0, p.g.shape.q_len});
    attention_head_rows<Backend>(p, m, head / p.g.shape.num_heads, head % p.g.shape.num_heads,
                                 rows);
  }

 private:
  static index_t blocks(const problem& p) {
    return (p.g.shape.q_len + rows_per_task - 1) / rows_per_task;
  }
};

/// A back end's attention: tiling(problem, plan, wanted_tasks) cuts a call, into wanted_tasks or
/// more where that costs little; run(problem, modifier, tiling, task, scratch) does a task. Several
/// threads may do so at once. The result does not depend on wanted_tasks. With few_queries or fewer
/// it may take another way, whose scratch memory is larger with more of them.
template <class Backend, element Q, element KV, element Out>
struct attention_kernel : row_kernel<Backend, Q, KV, Out> {};

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
