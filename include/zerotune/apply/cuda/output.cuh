// SPDX-License-Identifier: Apache-2.0
// The output form, sink mass and gamma gradient on device tensors (layer: apply). As
// apply/output.hpp and analysis/, asynchronous on the caller's stream; what became of each row is
// written to device memory.
#pragma once

#include <cmath>
#include <string>

#include "zerotune/apply/cuda/checks.cuh"
#include "zerotune/kernel/cuda/output.cuh"

namespace zerotune {

/// Options of correct_output and gamma_gradient on the device: what the black box did.
struct device_output_options {
  /// The scale that the black box used; 0 stands for 1/sqrt(head_dim).
  float softmax_scale = 0;
  /// The softcap that the black box used; 0: none.
  float softcap = 0;
  /// Rows whose D is below are left untouched and marked: errors of o grow by 1/D.
  float min_d = 1e-3f;
  device_sequences sequences{};
  /// Paged caches, as in device_attention_options.
  device_pages pages{};
  /// Output [batch, num_heads, q_len] if given: row_status of each row.
  tensor_view<std::uint8_t, 3, device_memory> status{};
};

inline namespace ZEROTUNE_ABI {
namespace impl {

inline void check_device_softcap(const char* function, float softcap) {
  if (!is_finite(softcap) || softcap < 0)
    fail(function, "softcap", "a finite value >= 0", number(softcap));
}
inline void check_device_min_d(const char* function, float min_d) {
  if (!is_finite(min_d) || min_d < 0) fail(function, "min_d", "a finite value >= 0", number(min_d));
}
inline void check_device_heads(const char* function, const char* name, index_t num_heads,
                               index_t num_kv_heads) {
  if (num_kv_heads < 1 || num_heads % num_kv_heads != 0)
    fail(function, std::string(name) + " dim 1 (num_heads)",
         "a multiple of num_kv_heads = " + std::to_string(num_kv_heads), std::to_string(num_heads));
}

/// The leading dimensions of a tensor: batch, num_heads, q_len.
template <class T, std::size_t Rank>
void check_device_rows(const char* function, const char* name,
                       const tensor_view<T, Rank, device_memory>& view,
                       const attention_shape& shape) {
  check_device_extent(function, name, view, 0, "batch", shape.batch);
  check_device_extent(function, name, view, 1, "num_heads", shape.num_heads);
  check_device_extent(function, name, view, 2, "q_len", shape.q_len);
}

/// The status of rows, if it is asked for: apart from all that was named before.
inline void check_device_status(const char* function, call_tensors& tensors,
                                const device_output_options& options,
                                const attention_shape& shape) {
  if (!options.status.data()) return;
  check_device_rows(function, "status", options.status, shape);
  tensors.written("status", layout_of(options.status));
}

/// What a black box read.
template <class Q, class KV>
void read_device_inputs(call_tensors& tensors, const tensor_view<Q, 4, device_memory>& q,
                        const tensor_view<KV, 4, device_memory>& k,
                        const tensor_view<KV, 4, device_memory>& v) {
  tensors.read("q", layout_of(q));
  tensors.read("k", layout_of(k));
  tensors.read("v", layout_of(v));
}

/// The shapes of a black box's tensors and the options that say what it did.
template <class T, class Q, class KV>
attention_shape check_device_output_form(const char* function,
                                         const tensor_view<T, 4, device_memory>& out,
                                         const tensor_view<float, 3, device_memory>& lse,
                                         const tensor_view<Q, 4, device_memory>& q,
                                         const tensor_view<KV, 4, device_memory>& k,
                                         const tensor_view<KV, 4, device_memory>& v,
                                         const device_output_options& options) {
  attention_shape shape{q.extent(0), q.extent(1), q.extent(2), k.extent(2)};
  check_device_rows(function, "out", out, shape);
  check_device_rows(function, "lse", lse, shape);
  if (options.pages.given())
    shape.kv_len = check_pages(function, options.pages, k, shape.batch, options.sequences);
  else
    check_device_extent(function, "k", k, 0, "batch", shape.batch);
  check_device_extent(function, "v", v, 0, "batch", k.extent(0));
  check_device_extent(function, "v", v, 1, "num_kv_heads", k.extent(1));
  check_device_extent(function, "v", v, 2, "kv_len", k.extent(2));
  check_device_extent(function, "k", k, 3, "head_dim", q.extent(3));
  check_device_extent(function, "out", out, 3, "value_dim", v.extent(3));
  if (q.extent(3) < 1) fail(function, "q dim 3 (head_dim)", "at least 1", "0");
  if (v.extent(3) < 1) fail(function, "v dim 3 (value_dim)", "at least 1", "0");
  check_device_heads(function, "q", shape.num_heads, k.extent(1));
  if (!is_finite(options.softmax_scale))
    fail(function, "softmax_scale", "a finite value", "NaN or infinity");
  check_device_softcap(function, options.softcap);
  check_device_min_d(function, options.min_d);
  return shape;
}

inline float resolve_device_scale(float softmax_scale, index_t head_dim) {
  return softmax_scale != 0.0f ? softmax_scale
                               : static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim)));
}

template <class T, class Q, class KV>
cuda::weight_arguments<T> weight_arguments_of(const tensor_view<Q, 4, device_memory>& q,
                                              const tensor_view<KV, 4, device_memory>& k,
                                              const tensor_view<float, 3, device_memory>& lse,
                                              const device_output_options& options) {
  return {device_tensor_of(tensor_view<const T, 4, device_memory>(q)),
          device_tensor_of(tensor_view<const T, 4, device_memory>(k)),
          device_rows_of(lse),
          page_table_of(options.pages, k.extent(2)),
          q.extent(3),
          q.extent(1) / k.extent(1),
          resolve_device_scale(options.softmax_scale, q.extent(3)),
          options.softcap};
}

}  // namespace impl

/// correct_output on the device (apply/output.hpp): a black box's out and lse become those of the
/// modified attention, in place.
///
/// @param out       [batch, num_heads, q_len, value_dim]
/// @param lse       [batch, num_heads, q_len], natural
/// @param q, k, v   as the black box took them; only changed keys are read
/// @param modifier  any bias_modifier on the device, the black box's masks included
/// @param options   scale, softcap, least D, sequences, and where to write each row's row_status
/// @throws invalid_argument for what does not fit, device_error if the launch fails
/// One warp per row; one product q.k_0 and one row of the output per row.
template <cuda::device_backend Backend, device_element T, class Q, class KV, bias_modifier Modifier>
  requires(std::same_as<std::remove_const_t<Q>, T>&& std::same_as<std::remove_const_t<KV>, T>)
void correct_output(const Backend& backend, const tensor_view<T, 4, device_memory>& out,
                    const tensor_view<float, 3, device_memory>& lse,
                    const tensor_view<Q, 4, device_memory>& q,
                    const tensor_view<KV, 4, device_memory>& k,
                    const tensor_view<KV, 4, device_memory>& v, const Modifier& modifier,
                    const device_output_options& options = {}) {
  constexpr const char* function = "correct_output";
  impl::call_tensors tensors(function);
  impl::read_device_inputs(tensors, q, k, v);
  tensors.written("out", impl::layout_of(out));
  tensors.written("lse", impl::layout_of(lse));
  const attention_shape shape =
      impl::check_device_output_form(function, out, lse, q, k, v, options);
  impl::check_device_status(function, tensors, options, shape);
  impl::check_device_modifier(modifier, function, shape);
  const cuda::device_geometry g = impl::device_geometry_of(function, shape, options.sequences);
  const index_t rows = shape.batch * shape.num_heads * shape.q_len;
  if (rows == 0) return;
  using kernel = cuda::correct_kernel<T, Modifier>;
  cuda::launch<kernel>(backend, function, cuda::blocks_of_rows(rows, kernel::threads),
                       {impl::device_tensor_of(out),
                        impl::device_tensor_of(tensor_view<const T, 4, device_memory>(v)),
                        {},
                        impl::device_rows_of(options.status),
                        impl::weight_arguments_of<T>(q, k, lse, options),
                        g,
                        v.extent(3),
                        options.min_d,
                        modifier});
}

/// correct_output_by_mass on the device (apply/output.hpp): the same for a kernel without LSE whose
/// values carried the value indicator (augment_value).
///
/// @param out       [batch, num_heads, q_len, value_dim], without the extra column
/// @param mass      [batch, num_heads, q_len]: the extra column, the weight a_0 of each row
/// @param v         [batch, num_kv_heads, kv_len, value_dim]
/// @param modifier  a bias on one key per row, with the host's masks
/// @param options   least D, sequences and status; the others have no meaning here
/// @throws invalid_argument for what does not fit, device_error if the launch fails
template <cuda::device_backend Backend, device_element T, class V, bias_modifier Modifier>
  requires std::same_as<std::remove_const_t<V>, T>
void correct_output_by_mass(const Backend& backend, const tensor_view<T, 4, device_memory>& out,
                            const tensor_view<const float, 3, device_memory>& mass,
                            const tensor_view<V, 4, device_memory>& v, const Modifier& modifier,
                            const device_output_options& options = {}) {
  constexpr const char* function = "correct_output_by_mass";
  static_assert(cuda::support_of<Modifier> != cuda::support_width::wide,
                "zerotune: correct_output_by_mass takes modifiers that change one key of a row");
  const attention_shape shape{out.extent(0), out.extent(1), out.extent(2), v.extent(2)};
  impl::call_tensors tensors(function);
  tensors.read("v", impl::layout_of(v));
  tensors.read("mass", impl::layout_of(mass));
  tensors.written("out", impl::layout_of(out));
  impl::check_device_extent(function, "v", v, 0, "batch", shape.batch);
  impl::check_device_extent(function, "v", v, 3, "value_dim", out.extent(3));
  impl::check_device_heads(function, "out", shape.num_heads, v.extent(1));
  impl::check_device_rows(function, "mass", mass, shape);
  impl::check_device_status(function, tensors, options, shape);
  if (options.pages.given()) impl::fail(function, "pages", "none", "a table of pages");
  impl::check_device_min_d(function, options.min_d);
  impl::check_device_modifier(modifier, function, shape);
  const cuda::device_geometry g = impl::device_geometry_of(function, shape, options.sequences);
  const index_t rows = shape.batch * shape.num_heads * shape.q_len;
  if (rows == 0) return;
  cuda::weight_arguments<T> weight{};
  weight.group_size = shape.num_heads / v.extent(1);
  using kernel = cuda::correct_kernel<T, Modifier>;
  cuda::launch<kernel>(backend, function, cuda::blocks_of_rows(rows, kernel::threads),
                       {impl::device_tensor_of(out),
                        impl::device_tensor_of(tensor_view<const T, 4, device_memory>(v)),
                        impl::device_rows_of(mass), impl::device_rows_of(options.status), weight, g,
                        v.extent(3), options.min_d, modifier});
}

/// gamma_gradient on the device (analysis/sensitivity.hpp): dL/d log gamma of each query head.
///
/// @param out, d_out  [batch, num_heads, q_len, value_dim]: the output with `sink`, and dL/do'
/// @param lse         [batch, num_heads, q_len], the LSE with `sink`
/// @param sink        to_device(initial_token{...}): the gammas that the attention used
/// @param masks       the attention's masks (causal{}), or identity{}
/// @param gradient    [batch, num_heads], contiguous, overwritten
/// @throws invalid_argument for what does not fit, device_error if the launch fails
/// One block per head; the same bits in every run.
template <cuda::device_backend Backend, device_element T, class Q, class KV, bias_modifier Masks>
  requires(std::same_as<std::remove_const_t<Q>, T>&& std::same_as<std::remove_const_t<KV>, T>)
void gamma_gradient(const Backend& backend, const tensor_view<T, 4, device_memory>& out,
                    const tensor_view<const T, 4, device_memory>& d_out,
                    const tensor_view<float, 3, device_memory>& lse,
                    const tensor_view<Q, 4, device_memory>& q,
                    const tensor_view<KV, 4, device_memory>& k,
                    const tensor_view<KV, 4, device_memory>& v,
                    const on_device<initial_token>& sink, const Masks& masks,
                    const tensor_view<double, 2, device_memory>& gradient,
                    const device_output_options& options = {}) {
  constexpr const char* function = "gamma_gradient";
  impl::call_tensors tensors(function);
  impl::read_device_inputs(tensors, q, k, v);
  tensors.read("out", impl::layout_of(out));
  tensors.read("lse", impl::layout_of(lse));
  tensors.read("d_out", impl::layout_of(d_out));
  tensors.written("gradient", impl::layout_of(gradient));
  const attention_shape shape =
      impl::check_device_output_form(function, out, lse, q, k, v, options);
  for (std::size_t i = 0; i < 4; ++i)
    impl::check_device_extent(function, "d_out", d_out, i, "of out", out.extent(i));
  impl::check_device_extent(function, "gradient", gradient, 0, "batch", shape.batch);
  impl::check_device_extent(function, "gradient", gradient, 1, "num_heads", shape.num_heads);
  if (gradient.stride(1) != 1 || gradient.stride(0) != shape.num_heads)
    impl::fail(function, "gradient strides", "a contiguous tensor", "another");
  impl::check_device_modifier(sink, function, shape);
  impl::check_device_modifier(masks, function, shape);
  const cuda::device_geometry g = impl::device_geometry_of(function, shape, options.sequences);
  if (shape.batch * shape.num_heads == 0) return;
  using kernel = cuda::gradient_kernel<T, on_device<initial_token>, Masks>;
  cuda::launch<kernel>(backend, function, shape.batch * shape.num_heads,
                       {impl::device_tensor_of(tensor_view<const T, 4, device_memory>(out)),
                        impl::device_tensor_of(d_out),
                        impl::device_tensor_of(tensor_view<const T, 4, device_memory>(v)),
                        impl::weight_arguments_of<T>(q, k, lse, options), g, v.extent(3),
                        gradient.data(), sink, masks});
}

/// sink_mass on the device (analysis/sink_mass.hpp): the mean weight on the initial token per head,
/// over the rows that see more than it.
///
/// @param weights  [batch, num_heads, q_len, kv_len] after softmax
/// @param mass     [batch, num_heads], contiguous, overwritten
/// @throws invalid_argument for what does not fit, device_error if the launch fails
template <cuda::device_backend Backend, class W, bias_modifier Masks>
  requires device_element<std::remove_const_t<W>>
void sink_mass(const Backend& backend, const tensor_view<W, 4, device_memory>& weights,
               const tensor_view<double, 2, device_memory>& mass,
               const on_device<initial_token>& sink, const Masks& masks,
               const device_row_options& options = {}) {
  using T = std::remove_const_t<W>;
  constexpr const char* function = "sink_mass";
  const attention_shape shape{weights.extent(0), weights.extent(1), weights.extent(2),
                              weights.extent(3)};
  impl::call_tensors tensors(function);
  tensors.read("weights", impl::layout_of(weights));
  tensors.written("mass", impl::layout_of(mass));
  impl::check_device_extent(function, "mass", mass, 0, "batch", shape.batch);
  impl::check_device_extent(function, "mass", mass, 1, "num_heads", shape.num_heads);
  if (mass.stride(1) != 1 || mass.stride(0) != shape.num_heads)
    impl::fail(function, "mass strides", "a contiguous tensor", "another");
  sink.check_positions(function, shape);
  impl::check_device_modifier(masks, function, shape);
  const cuda::device_geometry g = impl::device_geometry_of(function, shape, options.sequences);
  if (shape.batch * shape.num_heads == 0) return;
  using kernel = cuda::sink_mass_kernel<T, on_device<initial_token>, Masks>;
  cuda::launch<kernel>(backend, function, shape.batch * shape.num_heads,
                       {impl::device_tensor_of(tensor_view<const T, 4, device_memory>(weights)),
                        mass.data(), g, sink, masks});
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
