// SPDX-License-Identifier: Apache-2.0
// Decode over parts of the keys and their merge (layer: kernel): each part of each key-value head
// is a task of its own, then each key-value head merges its parts.
#pragma once

#include "zerotune/kernel/decode.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// The tasks of a call and their places in the workspace.
struct decode_tasks {
  index_t batch, num_kv_heads, rows, head_dim, value_dim, parts;

  decode_tasks(const attention_shape& shape, index_t kv_heads, index_t head, index_t value)
      : batch(shape.batch),
        num_kv_heads(kv_heads),
        rows(shape.num_heads / kv_heads * shape.q_len),
        head_dim(head),
        value_dim(value),
        parts(key_splits::most(shape.kv_len)) {}

  /// Elements of the workspace, with room to align it; false if they do not fit 64 bits.
  bool workspace_size(index_t* size) const noexcept {
    constexpr index_t most_rows = index_t{1} << 40;
    if (rows > most_rows) return false;
    index_t tasks = 0;
    return !__builtin_mul_overflow(batch, num_kv_heads, &tasks) &&
           !__builtin_mul_overflow(tasks, parts, &tasks) &&
           !__builtin_mul_overflow(tasks, part_memory<float>::size(rows, head_dim, value_dim),
                                   size) &&
           !__builtin_add_overflow(*size, alignment / index_t{sizeof(float)}, size);
  }
  static constexpr index_t alignment = 64;

  template <class Acc>
  part_memory<Acc> memory(Acc* workspace, index_t b, index_t kv_head, index_t part) const noexcept {
    const index_t number = (b * num_kv_heads + kv_head) * parts + part;
    return {workspace + number * part_memory<Acc>::size(rows, head_dim, value_dim), rows, head_dim,
            value_dim};
  }
};

/// Merges the parts of one key-value head and writes its outputs. Where gamma = 0 excludes all that
/// a query sees, its parts are computed again as if gamma were 1.
template <class Backend, element Q, cache_element KV, element Out, logit_modifier Modifier>
void merge_decode(const decode_args<Q, KV, Out>& a, const geometry& g, const Modifier& m,
                  const decode_tasks& tasks, index_t b, index_t kv_head,
                  accumulator_t<KV>* workspace) noexcept {
  using acc = accumulator_t<KV>;
  const key_splits splits(g.kv_length(b));
  for (index_t i = 0; i < a.rows(); ++i) {
    const auto part = [&](index_t s) {
      const part_memory<acc> memory = tasks.memory(workspace, b, kv_head, s);
      return std::pair<softmax_part<acc>, acc*>(memory.state(i), memory.out + i * memory.out_row);
    };
    const index_t columns = padded_dim(a.value_dim);
    auto merged = merge_parts<Backend, acc>(splits.count(), columns, part);
    if (merged.count > acc(0) && merged.maximum <= zero_threshold<acc>) {
      decode_part<Backend, Q, KV, Out, Modifier> alone(a, g, m, b, true);
      for (index_t s = 0; s < splits.count(); ++s)
        alone.run(splits.at(s), {i, i + 1}, tasks.memory(workspace, b, kv_head, s));
      merged = merge_parts<Backend, acc>(splits.count(), columns, part);
    }
    const bool none = merged.count == acc(0);
    const index_t head = i % a.group_size, position = i / a.group_size;
    acc* const out = part(0).second;
    decode_ops<Backend, KV>::unpack(out, a.value_dim);
    row_ops<Backend, Out>::store(out, none ? acc(0) : acc(1) / merged.sum,
                                 a.out + head * a.out_head + position * a.out_row, a.out_stride,
                                 a.value_dim);
    if (a.lse)
      a.lse[head * a.lse_head + position * a.lse_row] =
          none ? minus_infinity(acc{}) : merged.maximum + log_of(merged.sum);
  }
}

/// Runs a decode. args(b, kv_head) returns the decode_args of a key-value head. If the executor
/// throws while the keys are gone over, nothing has been written but the workspace.
template <class Backend, class Args, class Acc, logit_modifier Modifier, class Executor>
void run_decode(Executor& executor, const Args& args, const geometry& g, const Modifier& m,
                const decode_tasks& tasks, Acc* workspace) {
  const index_t heads = tasks.num_kv_heads;
  const auto go_over = [&](index_t b, index_t kv_head, index_t s) {
    const key_splits splits(g.kv_length(b));
    if (s >= splits.count()) return;
    const auto a = args(b, kv_head);
    const part_memory<Acc> memory = tasks.memory(workspace, b, kv_head, s);
    run_part<Backend>(a, g, m, b, splits.at(s), memory);
  };
  const auto merge = [&](index_t b, index_t kv_head) {
    merge_decode<Backend>(args(b, kv_head), g, m, tasks, b, kv_head, workspace);
  };
  if (tasks.parts == 1) {
    executor.parallel_for(tasks.batch * heads, [&](index_t task) {
      go_over(task / heads, task % heads, 0);
      merge(task / heads, task % heads);
    });
    return;
  }
  executor.parallel_for(tasks.batch * heads * tasks.parts, [&](index_t task) {
    const index_t head = task / tasks.parts;
    go_over(head / heads, head % heads, task % tasks.parts);
  });
  executor.parallel_for(tasks.batch * heads,
                        [&](index_t task) { merge(task / heads, task % heads); });
}

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
