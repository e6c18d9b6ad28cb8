// SPDX-License-Identifier: Apache-2.0
// The output form, sink mass and gamma gradient on device tensors (layer: apply). As
// apply/output.hpp and analysis/, asynchronous on the caller's stream; what became of each row is
// written to device memory.
#pragma once

#include <cmath>

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
  /// Output [batch, num_heads, q_len] if given: row_status of each row.
  tensor_view<std::uint8_t, 3, device_memory> status{};
};

inline namespace ZEROTUNE_ABI {
namespace impl {

template <class T, class Q, class KV>
attention_shape check_device_output_form(const char* function,
                                         const tensor_view<T, 4, device_memory>& out,
                                         const tensor_view<float, 3, device_memory>& lse,
                                         const tensor_view<Q, 4, device_memory>& q,
                                         const tensor_view<KV, 4, device_memory>& k,
                                         const tensor_view<KV, 4, device_memory>& v,
                                         const device_output_options& options) {
  const attention_shape shape{q.extent(0), q.extent(1), q.extent(2), k.extent(2)};
  constexpr const char* names[3] = {"batch", "num_heads", "q_len"};
  const index_t rows[3] = {shape.batch, shape.num_heads, shape.q_len};
  const footprint written[2] = {check_device_output(function, "out", out),
                                check_device_output(function, "lse", lse)};
  const footprint inputs[3] = {check_device_memory(function, "q", q),
                               check_device_memory(function, "k", k),
                               check_device_memory(function, "v", v)};
  constexpr const char* input_names[3] = {"q", "k", "v"};
  for (int i = 0; i < 3; ++i) {
    check_disjoint(function, "out", written[0], input_names[i], inputs[i]);
    check_disjoint(function, "lse", written[1], input_names[i], inputs[i]);
  }
  check_disjoint(function, "lse", written[1], "out", written[0]);
  for (std::size_t i = 0; i < 3; ++i) {
    check_device_extent(function, "out", out, i, names[i], rows[i]);
    check_device_extent(function, "lse", lse, i, names[i], rows[i]);
    if (options.status.data())
      check_device_extent(function, "status", options.status, i, names[i], rows[i]);
  }
  if (options.status.data()) {
    const footprint status = check_device_output(function, "status", options.status);
    check_disjoint(function, "status", status, "out", written[0]);
    check_disjoint(function, "status", status, "lse", written[1]);
    for (int i = 0; i < 3; ++i)
      check_disjoint(function, "status", status, input_names[i], inputs[i]);
  }
  check_device_extent(function, "k", k, 0, "batch", shape.batch);
  check_device_extent(function, "v", v, 0, "batch", shape.batch);
  check_device_extent(function, "v", v, 1, "num_kv_heads", k.extent(1));
  check_device_extent(function, "v", v, 2, "kv_len", k.extent(2));
  check_device_extent(function, "k", k, 3, "head_dim", q.extent(3));
  check_device_extent(function, "out", out, 3, "value_dim", v.extent(3));
  if (q.extent(3) < 1) fail(function, "q dim 3 (head_dim)", "at least 1", "0");
  if (v.extent(3) < 1) fail(function, "v dim 3 (value_dim)", "at least 1", "0");
  if (k.extent(1) < 1 || q.extent(1) % k.extent(1) != 0)
    fail(function, "q dim 1 (num_heads)",
         "a multiple of num_kv_heads = " + std::to_string(k.extent(1)),
         std::to_string(q.extent(1)));
  if (!is_finite(options.softmax_scale))
    fail(function, "softmax_scale", "a finite value", "NaN or infinity");
  if (!is_finite(options.softcap) || options.softcap < 0)
    fail(function, "softcap", "a finite value >= 0", std::to_string(options.softcap));
  if (!is_finite(options.min_d) || options.min_d < 0)
    fail(function, "min_d", "a finite value >= 0", std::to_string(options.min_d));
  return shape;
}

inline float resolve_device_scale(float softmax_scale, index_t head_dim) {
  return softmax_scale != 0.0f ? softmax_scale
                               : static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim)));
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
  const attention_shape shape =
      impl::check_device_output_form(function, out, lse, q, k, v, options);
  impl::check_device_modifier(modifier, function, shape);
  const cuda::device_geometry g = impl::device_geometry_of(function, shape, options.sequences);
  const index_t rows = shape.batch * shape.num_heads * shape.q_len;
  if (rows == 0) return;
  using kernel = cuda::correct_kernel<T, Modifier>;
  cuda::launch<kernel>(backend, function, cuda::blocks_of_rows(rows, kernel::threads),
                       {impl::device_tensor_of(out),
                        {},
                        impl::device_rows_of(lse),
                        {},
                        impl::device_rows_of(options.status),
                        impl::device_tensor_of(tensor_view<const T, 4, device_memory>(q)),
                        impl::device_tensor_of(tensor_view<const T, 4, device_memory>(k)),
                        impl::device_tensor_of(tensor_view<const T, 4, device_memory>(v)),
                        {},
                        g,
                        q.extent(3),
                        v.extent(3),
                        shape.num_heads / k.extent(1),
                        impl::resolve_device_scale(options.softmax_scale, q.extent(3)),
                        options.softcap,
                        options.min_d,
                        nullptr,
                        modifier});
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
  const attention_shape shape =
      impl::check_device_output_form(function, out, lse, q, k, v, options);
  impl::check_device_memory(function, "d_out", d_out);
  for (std::size_t i = 0; i < 4; ++i)
    impl::check_device_extent(function, "d_out", d_out, i, "of out", out.extent(i));
  impl::check_device_output(function, "gradient", gradient);
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
                       {impl::device_tensor_of(out),
                        impl::device_tensor_of(d_out),
                        impl::device_rows_of(lse),
                        {},
                        {},
                        impl::device_tensor_of(tensor_view<const T, 4, device_memory>(q)),
                        impl::device_tensor_of(tensor_view<const T, 4, device_memory>(k)),
                        impl::device_tensor_of(tensor_view<const T, 4, device_memory>(v)),
                        {},
                        g,
                        q.extent(3),
                        v.extent(3),
                        shape.num_heads / k.extent(1),
                        impl::resolve_device_scale(options.softmax_scale, q.extent(3)),
                        options.softcap,
                        0.0f,
                        gradient.data(),
                        {sink, masks}});
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
  impl::check_device_memory(function, "weights", weights);
  impl::check_device_output(function, "mass", mass);
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
