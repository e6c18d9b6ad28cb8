// SPDX-License-Identifier: Apache-2.0
// Attention of few queries to a long key-value cache (layer: apply): all query heads of a key-value
// head go over its keys together, in parts that are merged exactly.
#pragma once

#include <cmath>
#include <cstddef>

#include "zerotune/apply/cache.hpp"
#include "zerotune/apply/rows.hpp"
#include "zerotune/apply/scratch.hpp"
#include "zerotune/kernel/split_decode.hpp"
#include "zerotune/policy/head_gammas.hpp"

namespace zerotune {

/// Options of attention_decode. Acc is float, or double where the tensors are double.
template <class Acc = float>
struct decode_options {
  /// Multiplies q.k; 0 stands for 1/sqrt(head_dim).
  Acc softmax_scale = 0;
  /// Output [batch, num_heads, q_len] if given: log sum exp of the modified logits (natural).
  tensor_view<Acc, 3> lse{};
  /// As in attention_options.
  tensor_view<Acc, 3> sink_mass{};
  tensor_view<const index_t, 1> sink_positions{};
  /// As in sequence_options.
  tensor_view<const index_t, 1> kv_lengths{};
  tensor_view<const index_t, 1> q_starts{};
  /// Scratch memory of attention_decode_workspace_bytes bytes or more, so that the call allocates
  /// nothing. Empty: allocated, before anything is written.
  tensor_view<std::byte, 1> workspace{};
  /// Of a plan only kept_bytes matters here: keys and values of so many bytes are taken to be in a
  /// cache still from the call before. 0, the default, is right for a host that goes through other
  /// memory between two calls, a model's weights say: what is in memory is then read at twice the
  /// speed, what is in a cache a sixth slower. The result is the same.
  attention_plan plan{};
};

inline namespace ZEROTUNE_ABI {
namespace impl {

/// Bytes of the parts of a call, from a cache line on.
template <class Acc>
index_t decode_scratch_bytes(const char* function, const attention_shape& shape,
                             index_t num_kv_heads, index_t head_dim, index_t value_dim) {
  if (num_kv_heads < 1 || shape.num_heads % num_kv_heads != 0)
    fail(function, "num_kv_heads", "a divisor of " + std::to_string(shape.num_heads),
         std::to_string(num_kv_heads));
  if (head_dim < 1 || head_dim > decode_dim || value_dim < 1 || value_dim > decode_dim)
    fail(function, "head_dim and value_dim", "1 to " + std::to_string(decode_dim),
         std::to_string(head_dim) + " and " + std::to_string(value_dim));
  const decode_tasks tasks(shape, num_kv_heads, head_dim, value_dim);
  index_t elements = 0, bytes = 0;
  if (!tasks.workspace_size(&elements) ||
      !multiply(elements, static_cast<index_t>(sizeof(Acc)), &bytes) || bytes > (index_t{1} << 62))
    fail(function, "shape", "a workspace that fits 64 bits", "more");
  return bytes;
}

}  // namespace impl

/// Bytes of scratch memory that attention_decode needs; Acc is double where the tensors are. It
/// grows with kv_len up to 32 parts a key-value head, and holds for all shorter caches too.
/// @throws invalid_argument if num_kv_heads does not divide num_heads, or the size overflows
template <class Acc = float>
index_t attention_decode_workspace_bytes(const attention_shape& shape, index_t num_kv_heads,
                                         index_t head_dim, index_t value_dim) {
  return impl::workspace_bytes(
      impl::decode_scratch_bytes<Acc>("attention_decode_workspace_bytes", shape, num_kv_heads,
                                      head_dim, value_dim),
      1);
}

namespace impl {

/// Checks q, k and v against one another. Returns the shape.
template <class Q, class K, class V>
attention_shape check_decode(const char* function, const tensor_view<Q, 4>& q, const K& k,
                             const V& v) {
  check_memory(function, "q", q);
  const cache_shape keys = cache_access<K>::check(function, "k", k);
  const cache_shape values = cache_access<V>::check(function, "v", v);
  const auto expect = [&](const char* what, index_t expected, index_t got) {
    if (got != expected) fail(function, what, std::to_string(expected), std::to_string(got));
  };
  const auto expect_dim = [&](const char* what, index_t dim) {
    if (dim < 1 || dim > decode_dim)
      fail(function, what, "1 to " + std::to_string(decode_dim), std::to_string(dim));
  };
  expect("k dim 0 (batch)", q.extent(0), keys.batch);
  expect("v dim 0 (batch)", q.extent(0), values.batch);
  expect("v dim 1 (num_kv_heads)", keys.num_kv_heads, values.num_kv_heads);
  expect("v dim 2 (kv_len)", keys.kv_len, values.kv_len);
  expect("k dim 3 (head_dim)", q.extent(3), keys.dim);
  expect_dim("q dim 3 (head_dim)", q.extent(3));
  expect_dim("v dim 3 (value_dim)", values.dim);
  if (keys.num_kv_heads < 1 || q.extent(1) % keys.num_kv_heads != 0)
    fail(function, "q dim 1 (num_heads)",
         "a multiple of num_kv_heads = " + std::to_string(keys.num_kv_heads),
         std::to_string(q.extent(1)));
  return {q.extent(0), q.extent(1), q.extent(2), keys.kv_len};
}

}  // namespace impl

/// attention for few queries and many keys (a step of generation, a speculative draft): the same
/// result within rounding, each row of K and V read once for all query heads of its group. Parts of
/// the keys run apart and are merged exactly; where they end depends on the sequence's length
/// alone, so results depend on neither threads, nor the batch, nor pages.
///
/// @param q         [batch, num_heads, q_len, head_dim]; pays for q_len up to about 4
/// @param k         [batch, num_kv_heads, kv_len, head_dim], or a paged_cache; elements or q8_0
/// @param v         [batch, num_kv_heads, kv_len, value_dim], likewise
/// @param out       [batch, num_heads, q_len, value_dim], overwritten; zeros where nothing is seen
/// @param modifier  any logit_modifier, masks included
/// @param options   as attention's, and a workspace: with it nothing is allocated
/// @param executor  runs the parts; the result does not depend on it
/// Inputs may have any strides; keys and values are fastest with contiguous rows.
/// @throws invalid_argument for what does not fit, before anything is written; std::bad_alloc
///         without a workspace
template <class Backend, class Q, key_value_cache K, key_value_cache V, element Out,
          logit_modifier Modifier, impl::executor_reference Executor = serial_executor>
  requires(element<std::remove_const_t<Q>>&& std::same_as<impl::cache_cell<K>, impl::cache_cell<V>>)
void attention_decode(Backend, const tensor_view<Q, 4>& q, const K& k, const V& v,
                      const tensor_view<Out, 4>& out, const Modifier& modifier,
                      const decode_options<accumulator_t<impl::cache_cell<K>>>& options = {},
                      Executor&& executor = {}) {
  using cell = impl::cache_cell<K>;
  using acc = accumulator_t<cell>;
  static_assert(std::same_as<accumulator_t<std::remove_const_t<Q>>, acc> &&
                    std::same_as<accumulator_t<Out>, acc>,
                "zerotune: double and float tensors do not mix in one attention");
  impl::require_kernel<Backend, form::attention, acc>();
  constexpr const char* function = "attention_decode";
  const attention_shape shape = impl::check_decode(function, q, k, v);
  const index_t head_dim = q.extent(3), value_dim = out.extent(3);
  impl::call_tensors tensors(function);
  tensors.read("q", q);
  impl::cache_access<K>::read(tensors, "k", k);
  impl::cache_access<V>::read(tensors, "v", v);
  impl::read_lists(tensors, options.kv_lengths, options.q_starts);
  if (options.sink_positions.data()) tensors.read("sink_positions", options.sink_positions);
  tensors.written("out", out);
  impl::check_extent(function, "out", out, 0, "batch", shape.batch);
  impl::check_extent(function, "out", out, 1, "num_heads", shape.num_heads);
  impl::check_extent(function, "out", out, 2, "q_len", shape.q_len);
  impl::check_extent(function, "out", out, 3, "value_dim",
                     impl::cache_access<V>::check(function, "v", v).dim);
  if (options.lse.data()) {
    impl::check_row_shape(function, "lse", options.lse, shape);
    tensors.written("lse", options.lse);
  }
  if (options.sink_mass.data()) {
    impl::check_row_shape(function, "sink_mass", options.sink_mass, shape);
    tensors.written("sink_mass", options.sink_mass);
  }
  impl::check_positions(function, options.sink_positions, shape.batch, shape.kv_len);
  if (!impl::is_finite(options.softmax_scale))
    impl::fail(function, "softmax_scale", "a finite value", "NaN or infinity");
  const geometry g =
      impl::resolve(function, shape, sequence_options{options.kv_lengths, options.q_starts});
  impl::cache_access<K>::check_lengths(function, "k", k, g);
  impl::cache_access<V>::check_lengths(function, "v", v, g);
  const index_t num_kv_heads = impl::cache_access<K>::check(function, "k", k).num_kv_heads;
  const index_t scratch_bytes =
      impl::decode_scratch_bytes<acc>(function, shape, num_kv_heads, head_dim, value_dim);
  if (options.workspace.data()) tensors.scratch("workspace", options.workspace);
  check_modifier(modifier, function, shape);
  if (q.empty()) return;

  const acc scale = options.softmax_scale != acc(0)
                        ? options.softmax_scale
                        : static_cast<acc>(1.0 / std::sqrt(static_cast<double>(head_dim)));
  const index_t group_size = shape.num_heads / num_kv_heads;
  const impl::sink_output<acc> sink{options.sink_mass, options.sink_positions};
  const impl::kv_place place = impl::place_of(options.plan, shape.kv_len,
                                              shape.batch * num_kv_heads * (head_dim + value_dim) /
                                                  cell_size<cell> * index_t{sizeof(cell)});
  const auto args = [&](index_t b, index_t kv_head) {
    const index_t head = kv_head * group_size;
    return impl::decode_args<std::remove_const_t<Q>, cell, Out>{
        q.pointer(b, head, 0, 0),
        q.stride(1),
        q.stride(2),
        q.stride(3),
        impl::cache_access<K>::rows(k, b, kv_head),
        impl::cache_access<V>::rows(v, b, kv_head),
        out.pointer(b, head, 0, 0),
        out.stride(1),
        out.stride(2),
        out.stride(3),
        options.lse.data() ? options.lse.pointer(b, head, 0) : nullptr,
        options.lse.stride(1),
        options.lse.stride(2),
        head_dim,
        value_dim,
        head,
        group_size,
        shape.q_len,
        scale,
        sink.pointer(b, head, 0),
        sink.mass.stride(1),
        sink.mass.stride(2),
        sink.position(b),
        place};
  };
  const impl::scratch_slots scratch(function, options.workspace, scratch_bytes, 1);
  impl::run_decode<Backend>(executor, args, g, modifier,
                            impl::decode_tasks(shape, num_kv_heads, head_dim, value_dim),
                            reinterpret_cast<acc*>(scratch.at(0)));
}

/// The same on the scalar back end.
template <class Q, key_value_cache K, key_value_cache V, element Out, logit_modifier Modifier,
          impl::executor_reference Executor = serial_executor>
  requires(element<std::remove_const_t<Q>>&& std::same_as<impl::cache_cell<K>, impl::cache_cell<V>>)
void attention_decode(const tensor_view<Q, 4>& q, const K& k, const V& v,
                      const tensor_view<Out, 4>& out, const Modifier& modifier,
                      const decode_options<accumulator_t<impl::cache_cell<K>>>& options = {},
                      Executor&& executor = {}) {
  attention_decode(backend::scalar{}, q, k, v, out, modifier, options, executor);
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
