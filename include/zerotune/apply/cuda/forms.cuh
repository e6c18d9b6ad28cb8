// SPDX-License-Identifier: Apache-2.0
// The weights, logits and mask forms and the fused softmax on device tensors (layer: apply): the
// same functions as on the host, asynchronous on the caller's stream. docs/cuda.md.
#pragma once

#include "zerotune/apply/cuda/checks.cuh"
#include "zerotune/kernel/cuda/elementwise.cuh"
#include "zerotune/kernel/cuda/softmax.cuh"

namespace zerotune {

/// Options of softmax on the device.
struct device_softmax_options {
  device_sequences sequences{};
  /// Output [batch, num_heads, q_len] if given: log sum exp of the modified logits (natural).
  tensor_view<float, 3, device_memory> lse{};
};

inline namespace ZEROTUNE_ABI {
namespace impl {

/// Checks a dense tensor of rows and launches one warp per row.
template <template <class, class> class Kernel, class Backend, class T, std::size_t Rank,
          class Modifier>
void launch_rows(const Backend& backend, const char* function, const char* name,
                 const tensor_view<T, Rank, device_memory>& view, const Modifier& modifier,
                 const device_row_options& options) {
  const auto rows = with_leading_ones(view);
  const attention_shape shape{rows.extent(0), rows.extent(1), rows.extent(2), rows.extent(3)};
  check_device_output(function, name, view);
  check_device_modifier(modifier, function, shape);
  const cuda::device_geometry g = device_geometry_of(function, shape, options.sequences);
  if (rows.empty()) return;
  using kernel = Kernel<T, Modifier>;
  cuda::launch<kernel>(
      backend, function,
      cuda::blocks_of_rows(shape.batch * shape.num_heads * shape.q_len, kernel::threads),
      {device_tensor_of(rows), g, modifier});
}

}  // namespace impl

/// rescale_weights on the device (apply/weights.hpp): weights [batch, num_heads, q_len, kv_len] or
/// fewer leading dimensions, in place.
/// @param modifier  any bias_modifier on the device: causal{} | to_device(...)
/// @throws invalid_argument for what does not fit, device_error if the launch fails
/// Asynchronous. One warp per row; sums in float.
template <cuda::device_backend Backend, device_element T, std::size_t Rank, bias_modifier Modifier>
  requires(Rank >= 2 && Rank <= 4)
void rescale_weights(const Backend& backend, const tensor_view<T, Rank, device_memory>& weights,
                     const Modifier& modifier, const device_row_options& options = {}) {
  impl::launch_rows<cuda::rescale_kernel>(backend, "rescale_weights", "weights", weights, modifier,
                                          options);
}

/// bias_logits on the device (apply/logits.hpp): logits [batch, num_heads, q_len, kv_len] or fewer
/// leading dimensions, in place.
/// @throws invalid_argument for what does not fit, device_error if the launch fails
template <cuda::device_backend Backend, device_element T, std::size_t Rank, logit_modifier Modifier>
  requires(Rank >= 2 && Rank <= 4)
void bias_logits(const Backend& backend, const tensor_view<T, Rank, device_memory>& logits,
                 const Modifier& modifier, const device_row_options& options = {}) {
  impl::launch_rows<cuda::bias_kernel>(backend, "bias_logits", "logits", logits, modifier, options);
}

/// fill_mask on the device (apply/mask.hpp): mask [batch, num_heads, q_len, kv_len] or fewer
/// leading dimensions; every element is overwritten.
/// @throws invalid_argument for what does not fit, device_error if the launch fails
template <cuda::device_backend Backend, device_element T, std::size_t Rank, bias_modifier Modifier>
  requires(Rank >= 2 && Rank <= 4)
void fill_mask(const Backend& backend, const tensor_view<T, Rank, device_memory>& mask,
               const Modifier& modifier, const device_row_options& options = {}) {
  impl::launch_rows<cuda::mask_kernel>(backend, "fill_mask", "mask", mask, modifier, options);
}

/// weights = softmax(modified logits) in one kernel, for hosts that hold logits and want weights.
///
/// @param logits   [batch, num_heads, q_len, kv_len], scaled; -inf or the lowest value: hidden
/// @param weights  the same shape, overwritten; may be the logits themselves
/// @throws invalid_argument for what does not fit, device_error if the launch fails
/// A row that sees nothing gets zeros and LSE -inf. One block per row, which is read twice.
template <cuda::device_backend Backend, class In, device_element T, logit_modifier Modifier>
  requires std::same_as<std::remove_const_t<In>, T>
void softmax(const Backend& backend, const tensor_view<In, 4, device_memory>& logits,
             const tensor_view<T, 4, device_memory>& weights, const Modifier& modifier,
             const device_softmax_options& options = {}) {
  constexpr const char* function = "softmax";
  const attention_shape shape{logits.extent(0), logits.extent(1), logits.extent(2),
                              logits.extent(3)};
  bool same = static_cast<const void*>(logits.data()) == static_cast<const void*>(weights.data());
  constexpr const char* names[4] = {"batch", "num_heads", "q_len", "kv_len"};
  for (std::size_t i = 0; i < 4; ++i) {
    impl::check_device_extent(function, "weights", weights, i, names[i], logits.extent(i));
    same = same && (logits.extent(i) < 2 || logits.stride(i) == weights.stride(i));
  }
  impl::call_tensors tensors(function);
  if (!same) tensors.read("logits", impl::layout_of(logits));
  tensors.written("weights", impl::layout_of(weights));
  if (options.lse.data()) {
    for (std::size_t i = 0; i < 3; ++i)
      impl::check_device_extent(function, "lse", options.lse, i, names[i], logits.extent(i));
    tensors.written("lse", impl::layout_of(options.lse));
  }
  impl::check_device_modifier(modifier, function, shape);
  const cuda::device_geometry g = impl::device_geometry_of(function, shape, options.sequences);
  const index_t rows = shape.batch * shape.num_heads * shape.q_len;
  if (rows == 0) return;
  const cuda::softmax_arguments<T, Modifier> arguments{
      impl::device_tensor_of(tensor_view<const T, 4, device_memory>(logits)),
      impl::device_tensor_of(weights), impl::device_rows_of(options.lse), g, modifier};
  if (impl::has_packet_rows(logits) && impl::has_packet_rows(weights) &&
      shape.kv_len % cuda::packet<T>::count == 0)
    cuda::launch<cuda::softmax_kernel<T, Modifier, true>>(backend, function, rows, arguments);
  else
    cuda::launch<cuda::softmax_kernel<T, Modifier, false>>(backend, function, rows, arguments);
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
