// SPDX-License-Identifier: Apache-2.0
// Decode over parts of the keys and their merge (layer: kernel): each part of each key-value head
// is a task of its own, then each key-value head merges its parts; or a key-value head is a task,
// with the same result.
#pragma once

#include "zerotune/kernel/attention_problem.hpp"
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

  /// Elements of the workspace; false if they do not fit 64 bits.
  bool workspace_size(index_t* size) const noexcept {
    constexpr index_t most_rows = index_t{1} << 40;
    if (rows > most_rows) return false;
    index_t tasks = 0;
    return !__builtin_mul_overflow(batch, num_kv_heads, &tasks) &&
           !__builtin_mul_overflow(tasks, parts, &tasks) &&
           !__builtin_mul_overflow(tasks, part_size(), size);
  }

  /// The parts of a key-value head in the workspace of them all.
  template <class Acc>
  Acc* head(Acc* workspace, index_t b, index_t kv_head) const noexcept {
    return workspace + (b * num_kv_heads + kv_head) * parts * part_size();
  }
  /// A part in the memory of its head.
  template <class Acc>
  part_memory<Acc> part(Acc* head, index_t number) const noexcept {
    return {head + number * part_size(), rows, head_dim, value_dim};
  }
  index_t part_size() const noexcept { return part_memory<float>::size(rows, head_dim, value_dim); }
};

/// Merges the parts of one key-value head, in `memory`, and writes its outputs. Where gamma = 0
/// excludes all that a query sees, its parts are computed again as if gamma were 1.
template <class Backend, class Ops, element Q, cache_element KV, element Out,
          logit_modifier Modifier>
void merge_decode(const decode_args<Q, KV, Out>& a, const geometry& g, const Modifier& m,
                  const decode_tasks& tasks, index_t b, accumulator_t<KV>* memory) noexcept {
  using acc = accumulator_t<KV>;
  const key_splits splits(g.kv_length(b));
  for (index_t i = 0; i < a.rows(); ++i) {
    const auto part = [&](index_t s) {
      const part_memory<acc> one = tasks.part(memory, s);
      return std::pair<softmax_part<acc>, acc*>(one.state(i), one.out + i * one.out_row);
    };
    const index_t columns = padded_dim(a.value_dim);
    auto merged = merge_parts<Backend, acc>(splits.count(), columns, part);
    if (merged.count > acc(0) && merged.maximum <= zero_threshold<acc>) {
      decode_part<Backend, Ops, Q, KV, Out, Modifier> alone(a, g, m, b, true);
      for (index_t s = 0; s < splits.count(); ++s)
        alone.run(splits.at(s), {i, i + 1}, tasks.part(memory, s));
      merged = merge_parts<Backend, acc>(splits.count(), columns, part);
    }
    const bool none = merged.count == acc(0);
    const index_t head = i % a.group_size, position = i / a.group_size;
    acc* const out = part(0).second;
    Ops::unpack(out, a.value_dim);
    row_ops<Backend, Out>::store(out, none ? acc(0) : acc(1) / merged.sum,
                                 a.out + head * a.out_head + position * a.out_row, a.out_stride,
                                 a.value_dim);
    if (a.lse)
      a.lse[head * a.lse_head + position * a.lse_row] =
          none ? minus_infinity(acc{}) : merged.maximum + log_of(merged.sum);
    if (a.sink_mass)
      a.sink_mass[head * a.sink_head + position * a.sink_row] =
          none ? acc(0) : weight_of(merged.sink, merged.maximum, merged.sum);
  }
}

template <class Backend, element Q, cache_element KV, element Out, logit_modifier Modifier>
void merge_decode(const decode_args<Q, KV, Out>& a, const geometry& g, const Modifier& m,
                  const decode_tasks& tasks, index_t b, accumulator_t<KV>* memory) noexcept {
  decode_choice<Backend, Q, KV>::with(
      [&](auto ops) { merge_decode<Backend, decltype(ops)>(a, g, m, tasks, b, memory); });
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
    run_part<Backend>(args(b, kv_head), g, m, b, splits.at(s),
                      tasks.part(tasks.head(workspace, b, kv_head), s));
  };
  const auto merge = [&](index_t b, index_t kv_head) {
    merge_decode<Backend>(args(b, kv_head), g, m, tasks, b, tasks.head(workspace, b, kv_head));
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

/// Attention of few queries: a task is a key-value head, with the parts of its keys one after the
/// other. Bit by bit what attention_decode returns.
template <class Backend, element Q, element KV, element Out>
struct decode_kernel {
  using problem = attention_problem<Q, KV, Out>;
  using acc = accumulator_t<KV>;

  /// Are rows of this width taken, and as many of them?
  static bool takes(const problem& p) noexcept {
    constexpr index_t most_rows = 1024;
    return p.head_dim() <= decode_dim && p.value_dim() <= decode_dim &&
           p.group_size() <= most_rows && p.group_size() * p.g.shape.q_len <= most_rows;
  }
  static attention_tiling tiling(const problem& p, const attention_plan& plan, index_t) noexcept {
    const decode_tasks tasks = one_head(p);
    attention_tiling t;
    t.place = place_of(
        plan, p.g.shape.kv_len,
        p.g.shape.batch * p.num_kv_heads() * (p.head_dim() + p.value_dim()) * index_t{sizeof(KV)});
    t.tasks = p.g.shape.batch * p.num_kv_heads();
    t.scratch_bytes = tasks.parts * tasks.part_size() * index_t{sizeof(acc)};
    return t;
  }
  template <logit_modifier Modifier>
  static void run(const problem& p, const Modifier& m, const attention_tiling& t, index_t task,
                  std::byte* scratch) noexcept {
    const decode_tasks tasks = one_head(p);
    const index_t b = task / p.num_kv_heads();
    decode_args<Q, KV, Out> args = args_of(p, b, task % p.num_kv_heads());
    args.place = t.place;
    acc* const memory = reinterpret_cast<acc*>(scratch);
    const key_splits splits(p.g.kv_length(b));
    for (index_t s = 0; s < splits.count(); ++s)
      run_part<Backend>(args, p.g, m, b, splits.at(s), tasks.part(memory, s));
    merge_decode<Backend>(args, p.g, m, tasks, b, memory);
  }

 private:
  static decode_tasks one_head(const problem& p) noexcept {
    return {{1, p.group_size(), p.g.shape.q_len, p.g.shape.kv_len}, 1, p.head_dim(), p.value_dim()};
  }
  static decode_args<Q, KV, Out> args_of(const problem& p, index_t b, index_t kv_head) noexcept {
    const index_t head = kv_head * p.group_size();
    return {p.q.pointer(b, head, 0, 0),
            p.q.stride(1),
            p.q.stride(2),
            p.q.stride(3),
            {p.k.pointer(b, kv_head, 0, 0), p.k.stride(2), p.k.stride(3)},
            {p.v.pointer(b, kv_head, 0, 0), p.v.stride(2), p.v.stride(3)},
            p.out.pointer(b, head, 0, 0),
            p.out.stride(1),
            p.out.stride(2),
            p.out.stride(3),
            p.lse.data() ? p.lse.pointer(b, head, 0) : nullptr,
            p.lse.stride(1),
            p.lse.stride(2),
            p.head_dim(),
            p.value_dim(),
            head,
            p.group_size(),
            p.g.shape.q_len,
            p.softmax_scale,
            p.sink.pointer(b, head, 0),
            p.sink.mass.stride(1),
            p.sink.mass.stride(2),
            p.sink.position(b)};
  }
};

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
