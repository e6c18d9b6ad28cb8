// SPDX-License-Identifier: Apache-2.0
// Fused attention with any modifier (layer: apply): softmax(modified(scale Q K^T)) V.
#pragma once

#include <cmath>
#include <cstddef>

#include "zerotune/apply/rows.hpp"
#include "zerotune/apply/scratch.hpp"
#include "zerotune/kernel/attention_problem.hpp"
#include "zerotune/policy/head_gammas.hpp"

namespace zerotune {

/// Options of attention. Acc is float, or double where the tensors are double.
template <class Acc = float>
struct attention_options {
  /// Multiplies q.k; 0 stands for 1/sqrt(head_dim).
  Acc softmax_scale = 0;
  /// Output [batch, num_heads, q_len] if given: log sum exp of the modified logits (natural).
  tensor_view<Acc, 3> lse{};
  /// Output [batch, num_heads, q_len] if given: the weight a_0 of each row's initial token, after
  /// the modifier; 0 where it is not seen. From the same pass.
  tensor_view<Acc, 3> sink_mass{};
  /// [batch], each in [0, kv_len): the initial tokens of sink_mass. Empty: 0.
  tensor_view<const index_t, 1> sink_positions{};
  /// As in sequence_options.
  tensor_view<const index_t, 1> kv_lengths{};
  tensor_view<const index_t, 1> q_starts{};
  /// How the call is cut to the caches; empty: plan_attention(), for this machine. Make one for all
  /// layers and calls.
  attention_plan plan{};
  /// Scratch memory of attention_workspace_bytes bytes or more, so that the call allocates nothing.
  /// Empty: allocated, before anything is written.
  tensor_view<std::byte, 1> workspace{};
};

inline namespace ZEROTUNE_ABI {
namespace impl {

template <class T>
using plain = std::remove_const_t<T>;

inline void check_scale(const char* function, double scale) {
  if (!is_finite(scale)) fail(function, "softmax_scale", "a finite value", "NaN or infinity");
}

/// Checks q, k and v against one another. Returns the shape.
template <class Q, class K, class V>
attention_shape check_qkv(const char* function, const tensor_view<Q, 4>& q,
                          const tensor_view<K, 4>& k, const tensor_view<V, 4>& v) {
  check_memory(function, "q", q);
  check_memory(function, "k", k);
  check_memory(function, "v", v);
  check_extent(function, "k", k, 0, "batch", q.extent(0));
  check_extent(function, "v", v, 0, "batch", q.extent(0));
  check_extent(function, "v", v, 1, "num_kv_heads", k.extent(1));
  check_extent(function, "v", v, 2, "kv_len", k.extent(2));
  check_extent(function, "k", k, 3, "head_dim", q.extent(3));
  if (q.extent(3) < 1) fail(function, "q dim 3 (head_dim)", "at least 1", "0");
  if (v.extent(3) < 1) fail(function, "v dim 3 (value_dim)", "at least 1", "0");
  if (k.extent(1) < 1 || q.extent(1) % k.extent(1) != 0)
    fail(function, "q dim 1 (num_heads)",
         "a multiple of num_kv_heads = " + std::to_string(k.extent(1)),
         std::to_string(q.extent(1)));
  return {q.extent(0), q.extent(1), q.extent(2), k.extent(2)};
}

/// Tasks that a call is to be cut into: some for each thread, so that all end at about one time.
inline index_t attention_tasks(int threads) {
  return threads < 2 ? 1 : 8 * static_cast<index_t>(threads);
}

template <class Executor>
index_t attention_tasks_of(const Executor& executor) {
  if constexpr (std::same_as<Executor, serial_executor>)
    return 1;
  else if constexpr (requires { executor.num_threads(); })
    return attention_tasks(static_cast<int>(executor.num_threads()));
  else
    return attention_tasks(2);  // unknown
}

template <class Backend, class Q, class K, element Out>
auto attention_tiling_of(const attention_problem<Q, K, Out>& problem, const attention_plan& plan,
                         index_t wanted_tasks) {
  attention_plan used = plan;
  if (plan.score_bytes <= 0 || plan.task_bytes <= 0) {
    used = plan_attention();
    used.kept_bytes = plan.kept_bytes;
  }
  // More than any cache has; what is computed from them fits 64 bits.
  constexpr index_t most = index_t{1} << 40;
  used.score_bytes = used.score_bytes < most ? used.score_bytes : most;
  used.task_bytes = used.task_bytes < most ? used.task_bytes : most;
  return attention_kernel<Backend, Q, K, Out>::tiling(problem, used, wanted_tasks);
}

}  // namespace impl

/// Bytes of scratch memory that attention needs for `threads` threads with tensors of these shapes
/// and element types, and with any other batch and kv_len or a shorter q_len.
/// @throws invalid_argument for shapes that attention would refuse
template <class Backend, class Q, class K, class V, element Out>
index_t attention_workspace_bytes(Backend, const tensor_view<Q, 4>& q, const tensor_view<K, 4>& k,
                                  const tensor_view<V, 4>& v, const tensor_view<Out, 4>& out,
                                  const attention_plan& plan = {}, index_t threads = 1) {
  impl::attention_problem<impl::plain<Q>, impl::plain<K>, Out> problem{
      q, k, v, out, {}, 1, {impl::check_qkv("attention_workspace_bytes", q, k, v), {}, {}}};
  problem.g.shape.kv_len = everywhere.end;  // what grows with kv_len has a bound
  index_t bytes = 0;
  const auto consider = [&](index_t most_queries) {
    index_t& q_len = problem.g.shape.q_len;
    q_len = q_len < most_queries ? q_len : most_queries;
    const auto tiling = impl::attention_tiling_of<Backend>(problem, plan, 1);
    bytes = bytes < tiling.scratch_bytes ? tiling.scratch_bytes : bytes;
  };
  consider(problem.g.shape.q_len);
  // Few queries go another way, as long as those of a group fit it.
  using kernel = impl::attention_kernel<Backend, impl::plain<Q>, impl::plain<K>, Out>;
  for (index_t few = kernel::few_queries; few > 0; --few) consider(few);
  return impl::workspace_bytes(bytes, threads);
}

/// Attention of every query to the keys that it sees, the modifier applied to the logits, without a
/// row of kv_len numbers (online softmax). Query head h reads key-value head h / group_size.
///
/// @param q         [batch, num_heads, q_len, head_dim]
/// @param k         [batch, num_kv_heads, kv_len, head_dim]; num_heads % num_kv_heads == 0
/// @param v         [batch, num_kv_heads, kv_len, value_dim]
/// @param out       [batch, num_heads, q_len, value_dim], overwritten; zeros where nothing is seen
/// @param modifier  any logit_modifier, masks included: causal{} | initial_token{gammas}
/// @param options   scale, LSE and sink mass outputs, sequence lengths and positions (prefill,
/// chunk and decode
///                  differ by q_len and q_starts only)
/// @param executor  runs blocks of rows; the result does not depend on it
/// Inputs may have any strides, also zero or negative, and any element types of one accumulator.
/// Outputs may not overlap inputs. gamma = 1 and untouched heads are bitwise those of identity.
/// @throws invalid_argument for what does not fit, before anything is written
template <class Backend, class Q, class K, class V, element Out, logit_modifier Modifier,
          impl::executor_reference Executor = serial_executor>
  requires(element<impl::plain<Q>>&& element<impl::plain<K>>&&
               std::same_as<impl::plain<K>, impl::plain<V>>)
void attention(Backend, const tensor_view<Q, 4>& q, const tensor_view<K, 4>& k,
               const tensor_view<V, 4>& v, const tensor_view<Out, 4>& out, const Modifier& modifier,
               const attention_options<accumulator_t<impl::plain<K>>>& options = {},
               Executor&& executor = {}) {
  using kv_type = impl::plain<K>;
  using acc = accumulator_t<kv_type>;
  static_assert(
      std::same_as<accumulator_t<impl::plain<Q>>, acc> && std::same_as<accumulator_t<Out>, acc>,
      "zerotune: double and float tensors do not mix in one attention");
  impl::require_kernel<Backend, form::attention, kv_type>();
  constexpr const char* function = "attention";
  const attention_shape shape = impl::check_qkv(function, q, k, v);
  impl::call_tensors tensors(function);
  tensors.read("q", q);
  tensors.read("k", k);
  tensors.read("v", v);
  impl::read_lists(tensors, options.kv_lengths, options.q_starts);
  if (options.sink_positions.data()) tensors.read("sink_positions", options.sink_positions);
  tensors.written("out", out);
  impl::check_extent(function, "out", out, 0, "batch", shape.batch);
  impl::check_extent(function, "out", out, 1, "num_heads", shape.num_heads);
  impl::check_extent(function, "out", out, 2, "q_len", shape.q_len);
  impl::check_extent(function, "out", out, 3, "value_dim", v.extent(3));
  if (options.lse.data()) {
    impl::check_row_shape(function, "lse", options.lse, shape);
    tensors.written("lse", options.lse);
  }
  if (options.sink_mass.data()) {
    impl::check_row_shape(function, "sink_mass", options.sink_mass, shape);
    tensors.written("sink_mass", options.sink_mass);
  }
  impl::check_positions(function, options.sink_positions, shape.batch, shape.kv_len);
  if (options.workspace.data()) tensors.scratch("workspace", options.workspace);
  impl::check_scale(function, static_cast<double>(options.softmax_scale));
  const geometry g =
      impl::resolve(function, shape, sequence_options{options.kv_lengths, options.q_starts});
  check_modifier(modifier, function, shape);
  if (q.empty()) return;

  const acc scale = options.softmax_scale != acc(0)
                        ? options.softmax_scale
                        : static_cast<acc>(1.0 / std::sqrt(static_cast<double>(q.extent(3))));
  using kernel = impl::attention_kernel<Backend, impl::plain<Q>, kv_type, Out>;
  const impl::attention_problem<impl::plain<Q>, kv_type, Out> problem{
      q, k, v, out, options.lse, scale, g, {options.sink_mass, options.sink_positions}};
  const index_t wanted_tasks = impl::attention_tasks_of(executor);
  const impl::attention_tiling tiling =
      impl::attention_tiling_of<Backend>(problem, options.plan, wanted_tasks);
  impl::scratch_slots scratch(function, options.workspace, tiling.scratch_bytes,
                              wanted_tasks == 1 ? 1 : tiling.tasks);
  executor.parallel_for(tiling.tasks, [&](index_t task) {
    const impl::scratch_slot slot(scratch);
    kernel::run(problem, modifier, tiling, task, slot.data());
  });
}

/// The same on the scalar back end.
template <class Q, class K, class V, element Out, logit_modifier Modifier,
          impl::executor_reference Executor = serial_executor>
  requires(element<impl::plain<Q>>&& element<impl::plain<K>>&&
               std::same_as<impl::plain<K>, impl::plain<V>>)
void attention(const tensor_view<Q, 4>& q, const tensor_view<K, 4>& k, const tensor_view<V, 4>& v,
               const tensor_view<Out, 4>& out, const Modifier& modifier,
               const attention_options<accumulator_t<impl::plain<K>>>& options = {},
               Executor&& executor = {}) {
  attention(backend::scalar{}, q, k, v, out, modifier, options, executor);
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
