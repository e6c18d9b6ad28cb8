// SPDX-License-Identifier: Apache-2.0
// The backward pass of fused attention (layer: apply): dL/dq, dL/dk, dL/dv and dL/d log gamma from
// the attention's output and LSE. docs/mathematics.md, section 8.
#pragma once

#include <cstddef>

#include "zerotune/apply/attention.hpp"
#include "zerotune/apply/scratch.hpp"
#include "zerotune/kernel/attention_backward_block.hpp"
#include "zerotune/policy/head_gammas.hpp"

namespace zerotune {

/// Options of attention_backward: those that the forward pass had, and scratch memory.
template <class Acc = float>
struct attention_backward_options {
  /// Multiplies q.k; 0 stands for 1/sqrt(head_dim).
  Acc softmax_scale = 0;
  /// [batch]: position of each sequence's initial token, for d_log_gamma; those of
  /// initial_token::at, if the modifier has them. Empty: 0.
  tensor_view<const index_t, 1> initial_positions{};
  /// As in sequence_options.
  tensor_view<const index_t, 1> kv_lengths{};
  tensor_view<const index_t, 1> q_starts{};
  /// Scratch memory of attention_backward_workspace_bytes bytes or more, so that the call allocates
  /// nothing. Empty: allocated for as many threads as may run, before anything is written.
  tensor_view<std::byte, 1> workspace{};
};

inline namespace ZEROTUNE_ABI {
namespace impl {

/// Bytes that a group (a key-value head of a sequence and its query heads) needs.
template <class Acc>
index_t backward_scratch_bytes(const char* function, const attention_shape& shape,
                               index_t num_kv_heads, index_t head_dim, index_t value_dim) {
  const index_t group_size = shape.num_heads / num_kv_heads;
  // Whatever fits an allocation at all stays below this, so the layout's sums cannot overflow.
  constexpr index_t limit = index_t{1} << 48;
  index_t rows = 0, numbers = 0;
  if (!multiply(group_size, shape.q_len, &rows) || rows > limit || head_dim > limit ||
      value_dim > limit ||
      !multiply(rows + 8 * backward_keys, head_dim + value_dim + 64, &numbers) || numbers > limit)
    fail(function, "workspace", "a size that fits 48 bits",
         std::to_string(rows) + " rows of " + std::to_string(head_dim));
  return backward_layout(head_dim, value_dim, rows).total * static_cast<index_t>(sizeof(Acc));
}

/// Where a head begins; the data itself of a tensor without elements, which may be null.
template <class T, std::size_t Rank, class... Indices>
T* head_pointer(const tensor_view<T, Rank>& x, Indices... indices) {
  return x.empty() ? x.data() : x.pointer(indices...);
}

template <class Backend, class Acc, class T>
row_source<Acc> source_of(const tensor_view<T, 4>& x, index_t batch, index_t head) {
  const T* const data = head_pointer(x, batch, head, 0, 0);
  row_source<Acc> source{data,        x.stride(1), x.stride(2),
                         x.stride(3), nullptr,     &add_row<Backend, plain<T>>};
  if constexpr (std::same_as<plain<T>, Acc>) {
    if (x.stride(3) == 1) source.direct = data;
  }
  return source;
}
template <class Backend, class Acc, class T>
row_sink<Acc> sink_of(const tensor_view<T, 4>& x, index_t batch, index_t head) {
  return {head_pointer(x, batch, head, 0, 0), x.stride(1), x.stride(2), x.stride(3),
          &store_row<Backend, T>};
}

/// A tensor has the four extents, by name.
template <class T>
void check_extents(const char* function, const char* name, const tensor_view<T, 4>& view,
                   const char* const (&dims)[4], const index_t (&expected)[4]) {
  for (std::size_t i = 0; i < 4; ++i) check_extent(function, name, view, i, dims[i], expected[i]);
}

template <class Acc, class... T>
inline constexpr bool accumulate_in = (std::same_as<accumulator_t<plain<T>>, Acc> && ...);

}  // namespace impl

/// Bytes of scratch memory that attention_backward needs for `threads` threads; more than batch *
/// num_kv_heads of them have no work. With less memory than that some of them wait.
/// @throws invalid_argument for a shape that attention would refuse
template <class Q, class K, class V>
index_t attention_backward_workspace_bytes(const tensor_view<Q, 4>& q, const tensor_view<K, 4>& k,
                                           const tensor_view<V, 4>& v, index_t threads = 1) {
  constexpr const char* function = "attention_backward_workspace_bytes";
  const attention_shape shape = impl::check_qkv(function, q, k, v);
  return impl::workspace_bytes(impl::backward_scratch_bytes<accumulator_t<impl::plain<K>>>(
                                   function, shape, k.extent(1), q.extent(3), v.extent(3)),
                               threads);
}

/// Gradients of a loss L through attention(q, k, v, out, modifier), from its output and LSE,
/// without a row of kv_len numbers.
///
/// @param q, k, v      as attention took them
/// @param out          [batch, num_heads, q_len, value_dim], attention's output
/// @param lse          [batch, num_heads, q_len], attention's LSE with the same modifier and
/// options
/// @param d_out        [batch, num_heads, q_len, value_dim], dL/dout
/// @param d_q          [batch, num_heads, q_len, head_dim], overwritten
/// @param d_k          [batch, num_kv_heads, kv_len, head_dim], overwritten: the sum over the query
///                     heads of the group; zero for keys that no query sees
/// @param d_v          [batch, num_kv_heads, kv_len, value_dim], overwritten, likewise
/// @param d_log_gamma  [batch, num_heads] of float or double, overwritten; may be empty. dL/d log
///                     gamma of initial_token: the sum over the rows of dL/dl at the initial token,
///                     whatever else the modifier does. 0 where gamma = 0 and in rows that see the
///                     initial token only
/// @param modifier     as attention took it. A transform of logits (softcap, a user's own) is
///                     differentiated by calling it with a dual number, so it has to be a template
///                     over its batch type; anything else does not compile
/// @param options      scale, lengths and positions of the forward pass; initial tokens; workspace
/// @param executor     runs groups of query heads; the result is bitwise the same whatever it does
/// Inputs may have any strides and any element types of one accumulator, which sums are kept in.
/// No output may overlap an input or another output. A row whose q, d_out or visible keys are not
/// finite has NaN gradients, and so have the keys that it sees.
/// @throws invalid_argument for what does not fit, std::bad_alloc without memory for the workspace,
///         before anything is written
/// Costs five products of the tile where the forward pass has two. Work is split over batch *
/// num_kv_heads: more threads than that do not help.
template <class Backend, class Q, class K, class V, class O, class Lse, class DO, element DQ,
          element DK, element DV, std::floating_point G, logit_modifier Modifier,
          impl::executor_reference Executor = serial_executor>
  requires(element<impl::plain<Q>>&& element<impl::plain<K>>&&
               std::same_as<impl::plain<K>, impl::plain<V>>&&
                   std::same_as<impl::plain<Lse>, accumulator_t<impl::plain<K>>>)
void attention_backward(
    Backend, const tensor_view<Q, 4>& q, const tensor_view<K, 4>& k, const tensor_view<V, 4>& v,
    const tensor_view<O, 4>& out, const tensor_view<Lse, 3>& lse, const tensor_view<DO, 4>& d_out,
    const tensor_view<DQ, 4>& d_q, const tensor_view<DK, 4>& d_k, const tensor_view<DV, 4>& d_v,
    const tensor_view<G, 2>& d_log_gamma, const Modifier& modifier,
    const attention_backward_options<accumulator_t<impl::plain<K>>>& options = {},
    Executor&& executor = {}) {
  using kv_type = impl::plain<K>;
  using acc = accumulator_t<kv_type>;
  static_assert(impl::accumulate_in<acc, Q, O, DO, DQ, DK, DV>,
                "zerotune: double and float tensors do not mix in one attention");
  static_assert(impl::differentiable<Modifier, acc>,
                "zerotune: this modifier's transform_logit cannot be differentiated; write it as a "
                "template over the batch type, in arithmetic that a dual number has");
  impl::require_kernel<Backend, form::attention, kv_type>();
  constexpr const char* function = "attention_backward";
  const attention_shape shape = impl::check_qkv(function, q, k, v);
  const index_t num_kv_heads = k.extent(1), head_dim = q.extent(3), value_dim = v.extent(3);
  constexpr const char* query_dims[4] = {"batch", "num_heads", "q_len", "head_dim"};
  constexpr const char* output_dims[4] = {"batch", "num_heads", "q_len", "value_dim"};
  constexpr const char* key_dims[4] = {"batch", "num_kv_heads", "kv_len", "head_dim"};
  constexpr const char* value_dims[4] = {"batch", "num_kv_heads", "kv_len", "value_dim"};
  const index_t query_extents[4] = {shape.batch, shape.num_heads, shape.q_len, head_dim};
  const index_t output_extents[4] = {shape.batch, shape.num_heads, shape.q_len, value_dim};
  const index_t key_extents[4] = {shape.batch, num_kv_heads, shape.kv_len, head_dim};
  const index_t value_extents[4] = {shape.batch, num_kv_heads, shape.kv_len, value_dim};
  impl::check_extents(function, "out", out, output_dims, output_extents);
  impl::check_extents(function, "d_out", d_out, output_dims, output_extents);
  impl::check_extents(function, "d_q", d_q, query_dims, query_extents);
  impl::check_extents(function, "d_k", d_k, key_dims, key_extents);
  impl::check_extents(function, "d_v", d_v, value_dims, value_extents);
  for (std::size_t i = 0; i < 3; ++i)
    impl::check_extent(function, "lse", lse, i, query_dims[i], query_extents[i]);
  if (d_log_gamma.data())
    for (std::size_t i = 0; i < 2; ++i)
      impl::check_extent(function, "d_log_gamma", d_log_gamma, i, query_dims[i], query_extents[i]);

  impl::call_tensors tensors(function);
  tensors.read("q", q);
  tensors.read("k", k);
  tensors.read("v", v);
  tensors.read("out", out);
  tensors.read("lse", lse);
  tensors.read("d_out", d_out);
  impl::read_lists(tensors, options.kv_lengths, options.q_starts);
  if (options.initial_positions.data())
    tensors.read("initial_positions", options.initial_positions);
  tensors.written("d_q", d_q);
  tensors.written("d_k", d_k);
  tensors.written("d_v", d_v);
  if (d_log_gamma.data()) tensors.written("d_log_gamma", d_log_gamma);
  if (options.workspace.data()) tensors.scratch("workspace", options.workspace);

  impl::check_scale(function, static_cast<double>(options.softmax_scale));
  impl::check_positions(function, options.initial_positions, shape.batch, shape.kv_len);
  const geometry g =
      impl::resolve(function, shape, sequence_options{options.kv_lengths, options.q_starts});
  check_modifier(modifier, function, shape);

  const index_t groups = shape.batch * num_kv_heads;
  if (groups == 0) return;
  impl::scratch_slots scratch(
      function, options.workspace,
      impl::backward_scratch_bytes<acc>(function, shape, num_kv_heads, head_dim, value_dim),
      impl::attention_tasks_of(executor) == 1 ? 1 : groups);

  const index_t group_size = shape.num_heads / num_kv_heads;
  const acc scale = options.softmax_scale != acc(0)
                        ? options.softmax_scale
                        : static_cast<acc>(1.0 / std::sqrt(static_cast<double>(head_dim)));
  executor.parallel_for(groups, [&](index_t group) {
    const impl::scratch_slot slot(scratch);
    const index_t b = group / num_kv_heads, kv_head = group % num_kv_heads;
    const index_t head = kv_head * group_size;
    const impl::attention_backward_args<acc> args{
        impl::source_of<Backend, acc>(q, b, head),
        impl::source_of<Backend, acc>(k, b, kv_head),
        impl::source_of<Backend, acc>(v, b, kv_head),
        impl::source_of<Backend, acc>(out, b, head),
        impl::source_of<Backend, acc>(d_out, b, head),
        impl::head_pointer(lse, b, head, 0),
        lse.stride(1),
        lse.stride(2),
        impl::sink_of<Backend, acc>(d_q, b, head),
        impl::sink_of<Backend, acc>(d_k, b, kv_head),
        impl::sink_of<Backend, acc>(d_v, b, kv_head),
        d_log_gamma.data() ? impl::head_pointer(d_log_gamma, b, head) : nullptr,
        d_log_gamma.stride(1),
        &impl::store_number<G>,
        options.initial_positions.data() ? options.initial_positions(b) : 0,
        b,
        head,
        group_size,
        head_dim,
        value_dim,
        scale};
    impl::backward_group<Backend, acc, Modifier>(args, g, modifier,
                                                 reinterpret_cast<acc*>(slot.data()))
        .run();
  });
}

/// The same on the scalar back end.
template <class Q, class K, class V, class O, class Lse, class DO, element DQ, element DK,
          element DV, std::floating_point G, logit_modifier Modifier,
          impl::executor_reference Executor = serial_executor>
  requires(element<impl::plain<Q>>&& element<impl::plain<K>>&&
               std::same_as<impl::plain<K>, impl::plain<V>>&&
                   std::same_as<impl::plain<Lse>, accumulator_t<impl::plain<K>>>)
void attention_backward(
    const tensor_view<Q, 4>& q, const tensor_view<K, 4>& k, const tensor_view<V, 4>& v,
    const tensor_view<O, 4>& out, const tensor_view<Lse, 3>& lse, const tensor_view<DO, 4>& d_out,
    const tensor_view<DQ, 4>& d_q, const tensor_view<DK, 4>& d_k, const tensor_view<DV, 4>& d_v,
    const tensor_view<G, 2>& d_log_gamma, const Modifier& modifier,
    const attention_backward_options<accumulator_t<impl::plain<K>>>& options = {},
    Executor&& executor = {}) {
  attention_backward(backend::scalar{}, q, k, v, out, lse, d_out, d_q, d_k, d_v, d_log_gamma,
                     modifier, options, executor);
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
