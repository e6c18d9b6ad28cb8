// SPDX-License-Identifier: Apache-2.0
// gamma_gradient: the effect of every head's log gamma on a loss, from one forward and one backward
// pass of the host (layer: analysis). docs/mathematics.md, section 5.
#pragma once

#include "zerotune/apply/output.hpp"
#include "zerotune/policy/initial_token.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {

/// dL/d log gamma of each query head: the sum over its rows of a'_0 <dL/do', v_0 - o'>.
///
/// @param out        [batch, num_heads, q_len, value_dim], the output o' of the attention with
/// `sink`
/// @param d_out      the same shape: dL/do'
/// @param lse        [batch, num_heads, q_len], the LSE with `sink`
/// @param q, k, v    as the attention took them; only the initial token's key and value are read
/// @param sink       the initial token and the gammas that the attention used
/// @param masks      the attention's masks (causal{}), or identity{}
/// @param gradient   [batch, num_heads], overwritten
/// @param options    scale, softcap and lengths of the attention (min_d is not used)
/// @throws invalid_argument for what does not fit, before anything is written
/// Costs one product q.k_0 and two rows of the output per row. gamma = 0 has gradient 0.
template <class Backend, class Q, class K, class V, class Out, class DOut, class Lse,
          bias_modifier Masks, impl::executor_reference Executor = serial_executor>
void gamma_gradient(Backend, const tensor_view<Out, 4>& out, const tensor_view<DOut, 4>& d_out,
                    const tensor_view<Lse, 3>& lse, const tensor_view<Q, 4>& q,
                    const tensor_view<K, 4>& k, const tensor_view<V, 4>& v,
                    const initial_token& sink, const Masks& masks,
                    const tensor_view<double, 2>& gradient, const output_options& options = {},
                    Executor&& executor = {}) {
  using kv_type = impl::plain<K>;
  static_assert(std::same_as<impl::plain<Out>, impl::plain<DOut>>);
  impl::require_kernel<Backend, form::gradient, kv_type>();
  constexpr const char* function = "gamma_gradient";
  const attention_shape shape = impl::check_qkv(function, q, k, v);
  impl::check_output_shape(function, "out", out, shape, v.extent(3));
  impl::check_output_shape(function, "d_out", d_out, shape, v.extent(3));
  impl::check_row_shape(function, "lse", lse, shape);
  impl::call_tensors tensors(function);
  tensors.read("out", out);
  tensors.read("d_out", d_out);
  tensors.read("lse", lse);
  tensors.read("q", q);
  tensors.read("k", k);
  tensors.read("v", v);
  impl::read_lists(tensors, options.kv_lengths, options.q_starts);
  tensors.written("gradient", gradient);
  impl::check_extent(function, "gradient", gradient, 0, "batch", shape.batch);
  impl::check_extent(function, "gradient", gradient, 1, "num_heads", shape.num_heads);
  impl::check_scale(function, options.softmax_scale);
  impl::check_softcap(function, options.softcap);
  const geometry g = impl::resolve(function, shape, {options.kv_lengths, options.q_starts});
  check_modifier(sink, function, shape);
  check_modifier(masks, function, shape);

  const index_t group_size = shape.num_heads / k.extent(1);
  const double scale = impl::resolve_scale(options.softmax_scale, q.extent(3));
  executor.parallel_for(shape.batch * shape.num_heads, [&](index_t task) {
    const index_t b = task / shape.num_heads, h = task % shape.num_heads;
    const index_t kv_head = h / group_size, initial = sink.position(b);
    const double log_gamma = impl::log_gamma<double>(sink.gamma(h));
    double sum = 0;
    for (index_t i = 0; i < shape.q_len; ++i) {
      const row r = g.at(b, h, i);
      const range seen = intersect(impl::seen_keys(g, masks, r), visible_keys(sink, r));
      if (!seen.contains(initial) || seen.size() == 1) continue;
      const double a0 = impl::weight_from_lse<Backend>(
          static_cast<const impl::plain<Q>*>(q.pointer(b, h, i, 0)), q.stride(3),
          static_cast<const kv_type*>(k.pointer(b, kv_head, initial, 0)), k.stride(3), q.extent(3),
          scale, static_cast<double>(options.softcap),
          static_cast<double>(lse(b, h, i)) - log_gamma);
      sum += impl::gradient_row<Backend>(
          static_cast<const kv_type*>(v.pointer(b, kv_head, initial, 0)), v.stride(3),
          static_cast<const impl::plain<Out>*>(out.pointer(b, h, i, 0)), out.stride(3),
          static_cast<const impl::plain<Out>*>(d_out.pointer(b, h, i, 0)), d_out.stride(3),
          v.extent(3), a0);
    }
    gradient(b, h) = sum;
  });
}
template <class Q, class K, class V, class Out, class DOut, class Lse, bias_modifier Masks,
          impl::executor_reference Executor = serial_executor>
void gamma_gradient(const tensor_view<Out, 4>& out, const tensor_view<DOut, 4>& d_out,
                    const tensor_view<Lse, 3>& lse, const tensor_view<Q, 4>& q,
                    const tensor_view<K, 4>& k, const tensor_view<V, 4>& v,
                    const initial_token& sink, const Masks& masks,
                    const tensor_view<double, 2>& gradient, const output_options& options = {},
                    Executor&& executor = {}) {
  gamma_gradient(backend::scalar{}, out, d_out, lse, q, k, v, sink, masks, gradient, options,
                 executor);
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
