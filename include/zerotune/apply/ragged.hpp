// SPDX-License-Identifier: Apache-2.0
// Attention of sequences of different lengths, packed one behind the other (layer: apply).
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <string>
#include <thread>

#include "zerotune/apply/attention.hpp"

namespace zerotune {

/// Where the sequences of a packed batch begin: sequence b takes rows [offsets(b), offsets(b + 1)).
struct ragged_batch {
  /// [batch + 1] each: 0, then sums of lengths up to the number of rows of q, and of k and v
  tensor_view<const index_t, 1> q_offsets;
  tensor_view<const index_t, 1> kv_offsets;
};

/// Options of attention_ragged. Acc is float, or double where the tensors are double.
template <class Acc = float>
struct ragged_options {
  /// Multiplies q.k; 0 stands for 1/sqrt(head_dim).
  Acc softmax_scale = 0;
  /// Output [total_q_len, num_heads] if given: log sum exp of the modified logits (natural).
  tensor_view<Acc, 2> lse{};
  /// [batch]: position of the first query. Empty: the queries are the last positions.
  tensor_view<const index_t, 1> q_starts{};
  /// As in attention_options.
  attention_plan plan{};
  /// Scratch memory of attention_ragged_workspace_bytes bytes or more, so that the call allocates
  /// nothing. Empty: allocated once, before anything is written.
  tensor_view<std::byte, 1> workspace{};
};

inline namespace ZEROTUNE_ABI {
namespace impl {

/// A batch's modifier as the modifier of one of its sequences.
template <logit_modifier Modifier>
struct for_sequence {
  Modifier modifier;
  index_t batch;

  row at(row r) const { return {batch, r.head, r.q_pos}; }

  template <class Batch>
  Batch log_bias(row r, Batch kv_pos) const requires bias_modifier<Modifier> {
    return modifier.log_bias(at(r), kv_pos);
  }
  template <class Batch>
  Batch transform_logit(row r, Batch kv_pos, Batch logit) const requires(!bias_modifier<Modifier>) {
    return transform_part(r, kv_pos, logit) + bias_part(r, kv_pos);
  }
  template <class Batch>
  Batch transform_part(row r, Batch kv_pos, Batch logit) const {
    return impl::transform_part(modifier, at(r), kv_pos, logit);
  }
  template <class Batch>
  Batch bias_part(row r, Batch kv_pos) const {
    return impl::bias_part(modifier, at(r), kv_pos);
  }
  range visible(row r) const { return visible_keys(modifier, at(r)); }
  range support(row r) const { return changed_keys(modifier, at(r)); }
  tile_effect effect(head_of head, range q, range kv) const {
    return modifier.effect(head_of{batch, head.head}, q, kv);
  }
};

/// It takes batches of positions if the modifier does (kernel/simd/modifier.hpp).
template <class Modifier, class Batch>
struct takes_batch;
template <class Modifier, class Batch>
struct takes_batch<for_sequence<Modifier>, Batch> : takes_batch<Modifier, Batch> {};

/// @throws invalid_argument unless the offsets are 0, then never fall, up to `rows`
inline void check_offsets(const char* function, const char* name,
                          const tensor_view<const index_t, 1>& offsets, index_t rows) {
  check_memory(function, name, offsets);
  const auto entry = [&](index_t b) { return std::string(name) + "[" + std::to_string(b) + "]"; };
  if (offsets.extent(0) < 1) fail(function, std::string(name) + " dim 0 (batch + 1)", "1", "0");
  if (offsets(0) != 0) fail(function, entry(0), "0", std::to_string(offsets(0)));
  const index_t batch = offsets.extent(0) - 1;
  for (index_t b = 0; b < batch; ++b)
    if (offsets(b + 1) < offsets(b) || offsets(b + 1) > rows)
      fail(function, entry(b + 1),
           "an offset in [" + std::to_string(offsets(b)) + ", " + std::to_string(rows) + "]",
           std::to_string(offsets(b + 1)));
  if (offsets(batch) != rows)
    fail(function, entry(batch), std::to_string(rows), std::to_string(offsets(batch)));
}

/// Rows `rows` of a packed tensor [length, heads, dim] as [1, heads, length, dim].
template <class T>
tensor_view<T, 4> sequence_of(const tensor_view<T, 3>& packed, range rows) {
  return {packed.data() ? packed.pointer(rows.begin, 0, 0) : nullptr,
          {1, packed.extent(1), rows.size(), packed.extent(2)},
          {0, packed.stride(1), packed.stride(0), packed.stride(2)}};
}

}  // namespace impl

/// Bytes of scratch memory that attention_ragged needs for `threads` threads with tensors of these
/// heads, dims and element types and sequences of at most `max_q_len` queries each, however many
/// they are and whatever keys they have.
/// @throws invalid_argument for shapes that attention_ragged would refuse, and for max_q_len < 0
template <class Backend, class Q, class K, class V, element Out>
index_t attention_ragged_workspace_bytes(Backend backend, const tensor_view<Q, 3>& q,
                                         const tensor_view<K, 3>& k, const tensor_view<V, 3>& v,
                                         const tensor_view<Out, 3>& out, index_t max_q_len,
                                         const attention_plan& plan = {}, index_t threads = 1) {
  if (max_q_len < 0)
    impl::fail("attention_ragged_workspace_bytes", "max_q_len", "at least 0",
               std::to_string(max_q_len));
  const range none{0, 0}, queries{0, max_q_len};
  return attention_workspace_bytes(backend, impl::sequence_of(q, queries),
                                   impl::sequence_of(k, none), impl::sequence_of(v, none),
                                   impl::sequence_of(out, queries), plan, threads);
}

/// attention of packed sequences: each one as attention would run it alone, bit by bit.
///
/// @param q         [total_q_len, num_heads, head_dim]
/// @param k         [total_kv_len, num_kv_heads, head_dim]
/// @param v         [total_kv_len, num_kv_heads, value_dim]
/// @param out       [total_q_len, num_heads, value_dim], overwritten
/// @param sequences where each sequence begins; one may have no queries, or no keys
/// @param modifier  any logit_modifier; it sees each sequence by its number in the batch
/// @param executor  runs the rows of one sequence after the other's
/// @throws invalid_argument for what does not fit, before anything is written
template <class Backend, class Q, class K, class V, element Out, logit_modifier Modifier,
          impl::executor_reference Executor = serial_executor>
  requires(element<impl::plain<Q>>&& element<impl::plain<K>>&&
               std::same_as<impl::plain<K>, impl::plain<V>>)
void attention_ragged(Backend backend, const tensor_view<Q, 3>& q, const tensor_view<K, 3>& k,
                      const tensor_view<V, 3>& v, const tensor_view<Out, 3>& out,
                      const ragged_batch& sequences, const Modifier& modifier,
                      const ragged_options<accumulator_t<impl::plain<K>>>& options = {},
                      Executor&& executor = {}) {
  using acc = accumulator_t<impl::plain<K>>;
  constexpr const char* function = "attention_ragged";
  impl::call_tensors tensors(function);
  tensors.read("q", q);
  tensors.read("k", k);
  tensors.read("v", v);
  tensors.read("q_offsets", sequences.q_offsets);
  tensors.read("kv_offsets", sequences.kv_offsets);
  impl::read_lists(tensors, {}, options.q_starts);
  impl::check_extent(function, "v", v, 0, "total_kv_len", k.extent(0));
  impl::check_extent(function, "v", v, 1, "num_kv_heads", k.extent(1));
  impl::check_extent(function, "k", k, 2, "head_dim", q.extent(2));
  if (q.extent(2) < 1) impl::fail(function, "q dim 2 (head_dim)", "at least 1", "0");
  if (v.extent(2) < 1) impl::fail(function, "v dim 2 (value_dim)", "at least 1", "0");
  if (k.extent(1) < 1 || q.extent(1) % k.extent(1) != 0)
    impl::fail(function, "q dim 1 (num_heads)",
               "a multiple of num_kv_heads = " + std::to_string(k.extent(1)),
               std::to_string(q.extent(1)));
  tensors.written("out", out);
  impl::check_extent(function, "out", out, 0, "total_q_len", q.extent(0));
  impl::check_extent(function, "out", out, 1, "num_heads", q.extent(1));
  impl::check_extent(function, "out", out, 2, "value_dim", v.extent(2));
  if (options.lse.data()) {
    impl::check_extent(function, "lse", options.lse, 0, "total_q_len", q.extent(0));
    impl::check_extent(function, "lse", options.lse, 1, "num_heads", q.extent(1));
    tensors.written("lse", options.lse);
  }
  if (options.workspace.data()) tensors.scratch("workspace", options.workspace);
  if (!impl::is_finite(options.softmax_scale))
    impl::fail(function, "softmax_scale", "a finite value", "NaN or infinity");
  impl::check_offsets(function, "q_offsets", sequences.q_offsets, q.extent(0));
  impl::check_offsets(function, "kv_offsets", sequences.kv_offsets, k.extent(0));
  const index_t batch = sequences.q_offsets.extent(0) - 1;
  impl::check_extent(function, "kv_offsets", sequences.kv_offsets, 0, "batch + 1", batch + 1);
  attention_shape longest{batch, q.extent(1), 0, 0};
  const auto rows_of = [](const tensor_view<const index_t, 1>& offsets, index_t b) {
    return range{offsets(b), offsets(b + 1)};
  };
  for (index_t b = 0; b < batch; ++b) {
    longest.q_len = std::max(longest.q_len, rows_of(sequences.q_offsets, b).size());
    longest.kv_len = std::max(longest.kv_len, rows_of(sequences.kv_offsets, b).size());
  }
  impl::resolve(function, longest, sequence_options{{}, options.q_starts});
  check_modifier(modifier, function, longest);

  // One memory for all, before anything is written.
  const auto bytes_for = [&](index_t threads) {
    return attention_ragged_workspace_bytes(backend, q, k, v, out, longest.q_len, options.plan,
                                            threads);
  };
  tensor_view<std::byte, 1> workspace = options.workspace;
  std::unique_ptr<std::byte[]> owned;
  if (!workspace.data()) {
    const index_t bytes = bytes_for(impl::attention_tasks_of(executor) > 1
                                        ? static_cast<index_t>(std::thread::hardware_concurrency())
                                        : index_t{1});
    if (bytes > 0) {
      owned.reset(new std::byte[static_cast<std::size_t>(bytes)]);
      workspace = tensor_view<std::byte, 1>(owned.get(), {bytes});
    }
  } else if (workspace.extent(0) < bytes_for(1)) {
    impl::fail(function, "workspace dim 0 (bytes)", "at least " + std::to_string(bytes_for(1)),
               std::to_string(workspace.extent(0)));
  }
  for (index_t b = 0; b < batch; ++b) {
    const range queries = rows_of(sequences.q_offsets, b), keys = rows_of(sequences.kv_offsets, b);
    if (queries.empty()) continue;
    attention_options<acc> one;
    one.plan = options.plan;
    one.workspace = workspace;
    one.softmax_scale = options.softmax_scale;
    if (options.lse.data())
      one.lse = tensor_view<acc, 3>(options.lse.pointer(queries.begin, 0),
                                    {1, q.extent(1), queries.size()},
                                    {0, options.lse.stride(1), options.lse.stride(0)});
    if (options.q_starts.data())
      one.q_starts = tensor_view<const index_t, 1>(options.q_starts.pointer(b), {1});
    attention(backend, impl::sequence_of(q, queries), impl::sequence_of(k, keys),
              impl::sequence_of(v, keys), impl::sequence_of(out, queries),
              impl::for_sequence<Modifier>{modifier, b}, one, executor);
  }
}
template <class Q, class K, class V, element Out, logit_modifier Modifier,
          impl::executor_reference Executor = serial_executor>
  requires(element<impl::plain<Q>>&& element<impl::plain<K>>&&
               std::same_as<impl::plain<K>, impl::plain<V>>)
void attention_ragged(const tensor_view<Q, 3>& q, const tensor_view<K, 3>& k,
                      const tensor_view<V, 3>& v, const tensor_view<Out, 3>& out,
                      const ragged_batch& sequences, const Modifier& modifier,
                      const ragged_options<accumulator_t<impl::plain<K>>>& options = {},
                      Executor&& executor = {}) {
  attention_ragged(backend::scalar{}, q, k, v, out, sequences, modifier, options, executor);
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
