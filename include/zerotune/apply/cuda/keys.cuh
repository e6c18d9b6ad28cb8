// SPDX-License-Identifier: Apache-2.0
// The key forms on device tensors (layer: apply): augmented queries, keys and values (exact) and
// the paper's scaled key (not exact). As apply/keys.hpp, asynchronous on the caller's stream.
#pragma once

#include <vector>

#include "zerotune/apply/cuda/checks.cuh"
#include "zerotune/kernel/cuda/keys.cuh"
#include "zerotune/policy/key_scale.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {

/// Columns that augment_query and augment_key add on the device: a high and a low part in 16 bits.
template <device_element T>
inline constexpr index_t device_augmented_columns = sizeof(T) == 2 ? 2 : 1;

namespace impl {

template <class Kernel, class Backend, class From, class T, class Modifier>
void launch_augment(const Backend& backend, const char* function, const char* name,
                    const tensor_view<From, 4, device_memory>& from,
                    const tensor_view<T, 4, device_memory>& to, const cuda::device_geometry& g,
                    index_t extra, float inverse_scale, const Modifier& modifier) {
  call_tensors tensors(function);
  tensors.read(name, layout_of(from));
  tensors.written("out", layout_of(to));
  check_device_extent(function, "out", to, 0, "batch", from.extent(0));
  check_device_extent(function, "out", to, 1, "heads", from.extent(1));
  check_device_extent(function, "out", to, 2, "length", from.extent(2));
  if (from.extent(3) < 1)
    fail(function, std::string(name) + " dim 3 (head_dim)", "at least 1", "0");
  check_device_extent(function, "out", to, 3, "dim + extra columns", from.extent(3) + extra);
  if (from.empty()) return;
  cuda::launch<Kernel>(
      backend, function,
      cuda::blocks_of_rows(from.extent(0) * from.extent(1) * from.extent(2), Kernel::threads),
      {device_tensor_of(tensor_view<const T, 4, device_memory>(from)), device_tensor_of(to), g,
       from.extent(3), inverse_scale, modifier});
}

}  // namespace impl

/// augment_query on the device (apply/keys.hpp): out is q with log gamma / softmax_scale appended.
/// @param q         [batch, num_heads, q_len, head_dim]
/// @param out       [batch, num_heads, q_len, head_dim + device_augmented_columns<T>]
/// @param modifier  a bias on one key per row, with the host's masks (the first changed key counts)
/// @throws invalid_argument for what does not fit, device_error if the launch fails
template <cuda::device_backend Backend, class Q, device_element T, bias_modifier Modifier>
  requires std::same_as<std::remove_const_t<Q>, T>
void augment_query(const Backend& backend, const tensor_view<Q, 4, device_memory>& q,
                   const tensor_view<T, 4, device_memory>& out, const Modifier& modifier,
                   index_t kv_len, double softmax_scale, const device_sequences& sequences = {}) {
  constexpr const char* function = "augment_query";
  static_assert(cuda::support_of<Modifier> != cuda::support_width::wide,
                "zerotune: augment_query takes modifiers that change one key of a row");
  if (kv_len < 0) impl::fail(function, "kv_len", "at least 0", std::to_string(kv_len));
  if (!impl::is_finite(softmax_scale) || !(softmax_scale > 0.0))
    impl::fail(function, "softmax_scale", "a finite value > 0", impl::number(softmax_scale));
  const attention_shape shape{q.extent(0), q.extent(1), q.extent(2), kv_len};
  impl::check_device_modifier(modifier, function, shape);
  const cuda::device_geometry g = impl::device_geometry_of(function, shape, sequences);
  impl::launch_augment<cuda::augment_query_kernel<T, Modifier>>(
      backend, function, "q", q, out, g, device_augmented_columns<T>,
      static_cast<float>(1.0 / softmax_scale), modifier);
}

/// augment_key on the device: out is k with 1 appended at each initial token, 0 elsewhere.
/// @param k     [batch, num_kv_heads, kv_len, head_dim]
/// @param out   [batch, num_kv_heads, kv_len, head_dim + device_augmented_columns<T>]
/// @param sink  to_device(initial_token{...}): tells where the initial tokens are
template <cuda::device_backend Backend, class K, device_element T>
  requires std::same_as<std::remove_const_t<K>, T>
void augment_key(const Backend& backend, const tensor_view<K, 4, device_memory>& k,
                 const tensor_view<T, 4, device_memory>& out,
                 const on_device<initial_token>& sink) {
  constexpr int extra = static_cast<int>(device_augmented_columns<T>);
  const attention_shape shape{k.extent(0), k.extent(1), k.extent(2), k.extent(2)};
  sink.check_positions("augment_key", shape);
  impl::launch_augment<cuda::indicate_kernel<T, on_device<initial_token>, extra>>(
      backend, "augment_key", "k", k, out, {shape, nullptr}, extra, 1.0f, sink);
}

/// augment_value on the device: out is v with a last column, 1 at each initial token.
/// @param v    [batch, num_kv_heads, kv_len, value_dim]
/// @param out  [batch, num_kv_heads, kv_len, value_dim + 1]
template <cuda::device_backend Backend, class V, device_element T>
  requires std::same_as<std::remove_const_t<V>, T>
void augment_value(const Backend& backend, const tensor_view<V, 4, device_memory>& v,
                   const tensor_view<T, 4, device_memory>& out,
                   const on_device<initial_token>& sink) {
  const attention_shape shape{v.extent(0), v.extent(1), v.extent(2), v.extent(2)};
  sink.check_positions("augment_value", shape);
  impl::launch_augment<cuda::indicate_kernel<T, on_device<initial_token>, 1>>(
      backend, "augment_value", "v", v, out, {shape, nullptr}, 1, 1.0f, sink);
}

/// Bytes of storage that scale_keys needs.
constexpr index_t scale_keys_bytes(index_t batch, index_t num_kv_heads) {
  return (num_kv_heads * static_cast<index_t>(sizeof(float)) + 15) / 16 * 16 +
         batch * static_cast<index_t>(sizeof(index_t));
}

/// scale_keys on the device: the initial token's key of each head times its factor, in place. Not
/// exact: see analysis/key_scale.hpp. Scale a cached key once, not at every step.
///
/// @param k        [batch, num_kv_heads, kv_len, head_dim]
/// @param scale    factors per query head and positions, over host memory
/// @param storage  [scale_keys_bytes(batch, num_kv_heads)], for the table; must outlive the kernel
/// @throws invalid_argument for what does not fit; where the heads of a group want different
///         factors, unless their mean was asked for; device_error
template <cuda::device_backend Backend, device_element T>
void scale_keys(const Backend& backend, const tensor_view<T, 4, device_memory>& k,
                const key_scale& scale, index_t num_heads, const device_storage& storage) {
  constexpr const char* function = "scale_keys";
  impl::check_device_output(function, "k", k);
  const index_t batch = k.extent(0), num_kv_heads = k.extent(1);
  if (num_kv_heads < 1 || num_heads < 1 || num_heads % num_kv_heads != 0)
    impl::fail(function, "num_heads",
               "a multiple of num_kv_heads = " + std::to_string(num_kv_heads),
               std::to_string(num_heads));
  if (scale.factors.data())
    impl::check_extent(function, "factors", scale.factors, 0, "num_heads", num_heads);
  impl::check_positions(function, scale.positions, batch, k.extent(2));
  const index_t group_size = num_heads / num_kv_heads;
  std::vector<float> factors;
  for (index_t kv_head = 0; kv_head < num_kv_heads; ++kv_head) {
    double sum = 0;
    for (index_t h = kv_head * group_size; h < (kv_head + 1) * group_size; ++h) {
      if (!impl::is_finite(scale.of(h)))
        impl::fail(function, "factors[" + std::to_string(h) + "]", "a finite value",
                   "NaN or infinity");
      if (scale.groups == mixed_groups::refuse && scale.of(h) != scale.of(kv_head * group_size))
        impl::fail(function, "factors[" + std::to_string(h) + "]",
                   "one factor for all heads of key-value head " + std::to_string(kv_head),
                   "different factors (mixed_groups::mean applies their mean)");
      sum += static_cast<double>(scale.of(h));
    }
    factors.push_back(static_cast<float>(sum / static_cast<double>(group_size)));
  }
  if (k.empty()) return;
  cuda::table_builder::check_storage(function, storage, scale_keys_bytes(batch, num_kv_heads));
  cuda::launcher<Backend>::copy(backend, function, storage.data(), factors.data(),
                                factors.size() * sizeof(float));
  std::vector<index_t> positions;
  for (index_t b = 0; b < batch; ++b) positions.push_back(scale.position(b));
  std::byte* const to = storage.data() + (num_kv_heads * 4 + 15) / 16 * 16;
  cuda::launcher<Backend>::copy(backend, function, to, positions.data(),
                                positions.size() * sizeof(index_t));
  using kernel = cuda::scale_keys_kernel<T>;
  cuda::launch<kernel>(backend, function,
                       cuda::blocks_of_rows(batch * num_kv_heads, kernel::threads),
                       {impl::device_tensor_of(k), reinterpret_cast<const float*>(storage.data()),
                        reinterpret_cast<const index_t*>(to), batch, num_kv_heads, k.extent(3)});
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
