// SPDX-License-Identifier: Apache-2.0
// The output form (layer: apply): corrects what a black-box kernel has computed, from its output
// and LSE, or from its output and the initial token's weight. docs/mathematics.md, section 2.
#pragma once

#include <cmath>
#include <vector>

#include "zerotune/apply/attention.hpp"
#include "zerotune/kernel/output_row.hpp"

namespace zerotune {

/// Options of correct_output: what the black box did, and when a row is too amplified to correct.
struct output_options {
  /// The scale that the black box used; 0 stands for 1/sqrt(head_dim).
  double softmax_scale = 0;
  /// The softcap that the black box used; 0: none.
  double softcap = 0;
  /// Rows whose D is below are left untouched and listed. An error e of o becomes e / D, one of
  /// t = l_0 - L becomes about |t's error| |v_0 - o'| / D: in float, where logits of about 10 are
  /// off by 1e-6, 1e-3 of the values at D = 1e-3, 1e-4 at 1e-2. Raise it to what you can bear.
  /// Where D is nothing but rounding (64 units in the last place) a row is listed even at 0.
  double min_d = 1e-3;
  /// As in sequence_options.
  tensor_view<const index_t, 1> kv_lengths{};
  tensor_view<const index_t, 1> q_starts{};
};

/// What correct_output did, row by row.
struct output_report {
  index_t num_heads = 0;
  index_t q_len = 0;
  /// [batch, num_heads, q_len] row-major.
  std::vector<row_status> rows;

  ZEROTUNE_ALWAYS_INLINE_HOST index_t count(row_status status) const {
    index_t total = 0;
    for (const row_status s : rows) total += s == status;
    return total;
  }
  /// A row of the output that the host has to recompute.
  struct row_index {
    index_t batch, head, q;
  };
  ZEROTUNE_ALWAYS_INLINE_HOST std::vector<row_index> amplified() const {
    std::vector<row_index> list;
    for (index_t i = 0; i < static_cast<index_t>(rows.size()); ++i)
      if (rows[static_cast<std::size_t>(i)] == row_status::amplified)
        list.push_back({i / q_len / num_heads, i / q_len % num_heads, i % q_len});
    return list;
  }
};

inline namespace ZEROTUNE_ABI {
namespace impl {

template <class Out>
void check_output_shape(const char* function, const char* name, const tensor_view<Out, 4>& out,
                        const attention_shape& shape, index_t value_dim) {
  check_extent(function, name, out, 0, "batch", shape.batch);
  check_extent(function, name, out, 1, "num_heads", shape.num_heads);
  check_extent(function, name, out, 2, "q_len", shape.q_len);
  check_extent(function, name, out, 3, "value_dim", value_dim);
}

inline void check_min_d(const char* function, double min_d) {
  if (!is_finite(min_d) || min_d < 0) fail(function, "min_d", "a finite value >= 0", number(min_d));
}

inline void check_softcap(const char* function, double softcap) {
  if (!is_finite(softcap) || softcap < 0)
    fail(function, "softcap", "a finite value >= 0", number(softcap));
}

inline double resolve_scale(double softmax_scale, index_t head_dim) {
  return softmax_scale != 0.0 ? softmax_scale : 1.0 / std::sqrt(static_cast<double>(head_dim));
}

/// Corrects the rows of `out` in place and records what became of each.
/// @param weights  weights(b, h, i, rows, j, a): a[n] = a_j of row i + n of head h
/// @param finish   finish(b, h, i, log D) for each corrected row
template <class Backend, element KV, element Out, bias_modifier Modifier, class Executor,
          class Weights, class Finish>
output_report correct_output(const tensor_view<const KV, 4>& v, const tensor_view<Out, 4>& out,
                             const Modifier& modifier, const geometry& g, double min_d,
                             Executor& executor, const Weights& weights, const Finish& finish) {
  const attention_shape& shape = g.shape;
  output_report report{shape.num_heads, shape.q_len, {}};
  report.rows.resize(static_cast<std::size_t>(shape.batch * shape.num_heads * shape.q_len));
  if (report.rows.empty()) return report;
  const index_t group_size = shape.num_heads / v.extent(1);
  row_status* const status = report.rows.data();
  for_row_blocks(executor, shape, [&](index_t b, index_t h, index_t first, index_t last) {
    const corrected_head<KV, Out> head{v.pointer(b, h / group_size, 0, 0),
                                       v.stride(2),
                                       v.stride(3),
                                       out.pointer(b, h, 0, 0),
                                       out.stride(2),
                                       out.stride(3),
                                       v.extent(3),
                                       min_d};
    correct_rows<Backend>(
        head, first, last, g, modifier, g.at(b, h, 0),
        [&](index_t i, index_t rows, index_t j, double* a) { weights(b, h, i, rows, j, a); },
        status + (b * shape.num_heads + h) * shape.q_len + first,
        [&](index_t i, double log_d) { finish(b, h, i, log_d); });
  });
  return report;
}

}  // namespace impl

/// Turns the output and LSE of an attention kernel that knows nothing of the modifier into those of
/// the modified attention, in place: o' = o/D + ((gamma-1) a_0/D) v_0, L' = L + log D.
///
/// @param out       [batch, num_heads, q_len, value_dim], corrected in place
/// @param lse       [batch, num_heads, q_len], natural log, corrected in place
/// @param q         [batch, num_heads, q_len, head_dim] as the kernel saw it
/// @param k         [batch, num_kv_heads, kv_len, head_dim]; only changed keys are read
/// @param v         [batch, num_kv_heads, kv_len, value_dim]; only changed keys are read
/// @param modifier  any bias_modifier; the masks that the kernel applied belong to it (causal{} |
///                  initial_token{...}), they tell which rows see the token
/// @param options   scale and softcap of the kernel, least D
/// @return what became of each row; `amplified` rows are untouched and left to the host
/// @throws invalid_argument for what does not fit, before anything is written
/// Exact in real arithmetic. Costs one product q.k_0 and one row of the output per row.
template <class Backend, class Q, class K, class V, element Out, bias_modifier Modifier,
          impl::executor_reference Executor = serial_executor>
  requires(element<impl::plain<Q>>&& element<impl::plain<K>>&&
               std::same_as<impl::plain<K>, impl::plain<V>>)
output_report correct_output(Backend, const tensor_view<Out, 4>& out,
                             const tensor_view<accumulator_t<Out>, 3>& lse,
                             const tensor_view<Q, 4>& q, const tensor_view<K, 4>& k,
                             const tensor_view<V, 4>& v, const Modifier& modifier,
                             const output_options& options = {}, Executor&& executor = {}) {
  using kv_type = impl::plain<K>;
  static_assert(std::same_as<accumulator_t<impl::plain<Q>>, accumulator_t<kv_type>> &&
                    std::same_as<accumulator_t<Out>, accumulator_t<kv_type>>,
                "zerotune: double and float tensors do not mix in one attention");
  impl::require_kernel<Backend, form::output, kv_type>();
  constexpr const char* function = "correct_output";
  const attention_shape shape = impl::check_qkv(function, q, k, v);
  impl::check_output_shape(function, "out", out, shape, v.extent(3));
  impl::check_row_shape(function, "lse", lse, shape);
  impl::call_tensors tensors(function);
  tensors.read("q", q);
  tensors.read("k", k);
  tensors.read("v", v);
  impl::read_lists(tensors, options.kv_lengths, options.q_starts);
  tensors.written("out", out);
  tensors.written("lse", lse);
  impl::check_scale(function, options.softmax_scale);
  impl::check_softcap(function, options.softcap);
  impl::check_min_d(function, options.min_d);
  const geometry g =
      impl::resolve(function, shape, sequence_options{options.kv_lengths, options.q_starts});
  check_modifier(modifier, function, shape);

  const index_t group_size = shape.num_heads / k.extent(1);
  const double scale = impl::resolve_scale(options.softmax_scale, q.extent(3));
  const tensor_view<const impl::plain<Q>, 4> queries(q);
  const tensor_view<const kv_type, 4> keys(k), values(v);
  return impl::correct_output<Backend>(
      values, out, modifier, g, options.min_d, executor,
      [&](index_t b, index_t h, index_t i, index_t rows, index_t j, double* a) {
        impl::weights_from_lse<Backend>(
            queries.pointer(b, h, i, 0), q.stride(2), q.stride(3),
            keys.pointer(b, h / group_size, j, 0), k.stride(3), q.extent(3), scale, options.softcap,
            [&](index_t n) { return static_cast<double>(lse(b, h, i + n)); }, rows, a);
      },
      [&](index_t b, index_t h, index_t i, double log_d) {
        auto& l = lse(b, h, i);
        l = static_cast<accumulator_t<Out>>(static_cast<double>(l) + log_d);
      });
}
template <class Q, class K, class V, element Out, bias_modifier Modifier,
          impl::executor_reference Executor = serial_executor>
  requires(element<impl::plain<Q>>&& element<impl::plain<K>>&&
               std::same_as<impl::plain<K>, impl::plain<V>>)
output_report correct_output(const tensor_view<Out, 4>& out,
                             const tensor_view<accumulator_t<Out>, 3>& lse,
                             const tensor_view<Q, 4>& q, const tensor_view<K, 4>& k,
                             const tensor_view<V, 4>& v, const Modifier& modifier,
                             const output_options& options = {}, Executor&& executor = {}) {
  return correct_output(backend::scalar{}, out, lse, q, k, v, modifier, options, executor);
}

/// The same for a kernel without LSE whose values carried the value indicator (augment_value): the
/// extra output column is the initial token's weight.
///
/// @param out   [batch, num_heads, q_len, value_dim], corrected in place; without the extra column
/// @param mass  [batch, num_heads, q_len]: the extra column, the weight a_0 of each row
/// @param v     [batch, num_kv_heads, kv_len, value_dim]
/// @param sink  the modifier; its masks belong to it (causal{} | initial_token{...})
/// @throws invalid_argument for what does not fit, before anything is written; also where the
///         modifier changes more than one key of a row
template <class Backend, class Mass, class V, element Out, bias_modifier Modifier,
          impl::executor_reference Executor = serial_executor>
  requires(element<impl::plain<Mass>>&& element<impl::plain<V>>)
output_report correct_output_by_mass(Backend, const tensor_view<Out, 4>& out,
                                     const tensor_view<Mass, 3>& mass, const tensor_view<V, 4>& v,
                                     const Modifier& modifier, const output_options& options = {},
                                     Executor&& executor = {}) {
  using kv_type = impl::plain<V>;
  static_assert(std::same_as<accumulator_t<Out>, accumulator_t<kv_type>>,
                "zerotune: double and float tensors do not mix in one attention");
  impl::require_kernel<Backend, form::output, kv_type>();
  constexpr const char* function = "correct_output_by_mass";
  const attention_shape shape{out.extent(0), out.extent(1), out.extent(2), v.extent(2)};
  impl::check_extent(function, "v", v, 0, "batch", shape.batch);
  if (v.extent(1) < 1 || shape.num_heads % v.extent(1) != 0)
    impl::fail(function, "out dim 1 (num_heads)",
               "a multiple of num_kv_heads = " + std::to_string(v.extent(1)),
               std::to_string(shape.num_heads));
  impl::check_output_shape(function, "out", out, shape, v.extent(3));
  impl::check_row_shape(function, "mass", mass, shape);
  impl::call_tensors tensors(function);
  tensors.read("mass", mass);
  tensors.read("v", v);
  impl::read_lists(tensors, options.kv_lengths, options.q_starts);
  tensors.written("out", out);
  impl::check_min_d(function, options.min_d);
  const geometry g =
      impl::resolve(function, shape, sequence_options{options.kv_lengths, options.q_starts});
  check_modifier(modifier, function, shape);
  impl::check_single_key(function, modifier, g);
  return impl::correct_output<Backend>(
      tensor_view<const kv_type, 4>(v), out, modifier, g, options.min_d, executor,
      [&](index_t b, index_t h, index_t i, index_t rows, index_t, double* a) {
        for (index_t n = 0; n < rows; ++n)
          a[n] =
              static_cast<double>(static_cast<accumulator_t<impl::plain<Mass>>>(mass(b, h, i + n)));
      },
      [](index_t, index_t, index_t, double) {});
}
template <class Mass, class V, element Out, bias_modifier Modifier,
          impl::executor_reference Executor = serial_executor>
  requires(element<impl::plain<Mass>>&& element<impl::plain<V>>)
output_report correct_output_by_mass(const tensor_view<Out, 4>& out,
                                     const tensor_view<Mass, 3>& mass, const tensor_view<V, 4>& v,
                                     const Modifier& modifier, const output_options& options = {},
                                     Executor&& executor = {}) {
  return correct_output_by_mass(backend::scalar{}, out, mass, v, modifier, options, executor);
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
