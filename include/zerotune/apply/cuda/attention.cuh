// SPDX-License-Identifier: Apache-2.0
// Fused attention on device tensors (layer: apply): checks, a plan of kernels and workspace from
// the shape alone, launches. Prefill, chunks and decode differ by lengths only. docs/cuda.md.
#pragma once

#include <cmath>

#include "zerotune/apply/cuda/checks.cuh"
#include "zerotune/kernel/cuda/attention_generic.cuh"
#include "zerotune/kernel/cuda/flash.cuh"
#include "zerotune/kernel/cuda/merge.cuh"

namespace zerotune {

/// Options of attention on the device.
struct device_attention_options {
  /// Multiplies q.k; 0 stands for 1/sqrt(head_dim).
  float softmax_scale = 0;
  /// Output like out without its last dimension, if given: natural LSE of the modified logits.
  tensor_view<float, 3, device_memory> lse{};
  /// Ragged batches: lengths and positions per sequence, and offsets into packed tensors.
  device_sequences sequences{};
  /// Paged caches: k and v are then [num_pages, num_kv_heads, page_size, dim] with page_size a
  /// power of two; needs `sequences`.
  device_pages pages{};
  /// Keys that a block walks before partial results are merged; 0: 512 for decode, no split for
  /// more than 16 rows a group. Rounded up to a multiple of 64. Results depend on it, and on
  /// nothing else that a batch may change.
  index_t keys_per_split = 0;
  /// attention_workspace_bytes(...) or more, 16-byte aligned, if that is not 0. Overwritten.
  tensor_view<std::byte, 1, device_memory> workspace{};
};

/// The head dimensions that tensor-core kernels are compiled for; others take the general kernel.
template <int... Dims>
struct head_dims {};
using all_head_dims = head_dims<64, 80, 96, 128, 256>;

/// What attention will launch.
struct device_attention_plan {
  enum class kernel_type { flash_prefill, flash_decode, generic };
  kernel_type kernel = kernel_type::generic;
  index_t heads_per_tile = 1;
  index_t splits = 1;
  index_t keys_per_split = 0;
  index_t workspace_bytes = 0;
};

inline namespace ZEROTUNE_ABI {
namespace impl {

/// Rows of one group that decode keeps in one tile of 16.
inline constexpr index_t device_decode_rows = 16;
inline constexpr index_t decode_split = 512;

/// The part of a plan that the shape alone decides.
inline device_attention_plan plan_splits(const attention_shape& shape, index_t group_size,
                                         index_t value_dim, index_t keys_per_split) {
  device_attention_plan plan;
  const bool decode = shape.q_len * group_size <= device_decode_rows;
  plan.heads_per_tile = decode ? group_size : 1;
  if (keys_per_split == 0 && decode) keys_per_split = decode_split;
  if (keys_per_split > 0 && shape.kv_len > 0) {
    plan.keys_per_split = (keys_per_split + 63) / 64 * 64;
    plan.splits = (shape.kv_len + plan.keys_per_split - 1) / plan.keys_per_split;
  }
  if (plan.splits > 1)
    plan.workspace_bytes = plan.splits * shape.batch * shape.num_heads * shape.q_len *
                           (value_dim + 1) * static_cast<index_t>(sizeof(float));
  return plan;
}

}  // namespace impl

/// Bytes of workspace that attention needs for this shape: the partial results of splits; 0 without
/// splits.
/// @param shape  batch, num_heads and the longest q_len and kv_len of the call
/// @throws invalid_argument if num_kv_heads < 1 or keys_per_split < 0
inline index_t attention_workspace_bytes(const attention_shape& shape, index_t num_kv_heads,
                                         index_t value_dim, index_t keys_per_split = 0) {
  constexpr const char* function = "attention_workspace_bytes";
  if (num_kv_heads < 1)
    impl::fail(function, "num_kv_heads", "at least 1", std::to_string(num_kv_heads));
  if (keys_per_split < 0)
    impl::fail(function, "keys_per_split", "at least 0", std::to_string(keys_per_split));
  return impl::plan_splits(shape, shape.num_heads / num_kv_heads, value_dim, keys_per_split)
      .workspace_bytes;
}

namespace impl {

/// Checks q, k, v and out against one another; packed and paged tensors included.
template <class Q, class KV, class Out>
attention_shape check_device_attention(const char* function,
                                       const tensor_view<Q, 4, device_memory>& q,
                                       const tensor_view<KV, 4, device_memory>& k,
                                       const tensor_view<KV, 4, device_memory>& v,
                                       const tensor_view<Out, 4, device_memory>& out,
                                       const device_attention_options& options) {
  call_tensors tensors(function);
  tensors.read("q", layout_of(q));
  tensors.read("k", layout_of(k));
  tensors.read("v", layout_of(v));
  tensors.written("out", layout_of(out));
  check_device_extent(function, "v", v, 0, "batch", k.extent(0));
  check_device_extent(function, "v", v, 1, "num_kv_heads", k.extent(1));
  check_device_extent(function, "v", v, 2, "kv_len", k.extent(2));
  check_device_extent(function, "k", k, 3, "head_dim", q.extent(3));
  if (q.extent(3) < 1) fail(function, "q dim 3 (head_dim)", "at least 1", "0");
  if (v.extent(3) < 1) fail(function, "v dim 3 (value_dim)", "at least 1", "0");
  if (k.extent(1) < 1 || q.extent(1) % k.extent(1) != 0)
    fail(function, "q dim 1 (num_heads)",
         "a multiple of num_kv_heads = " + std::to_string(k.extent(1)),
         std::to_string(q.extent(1)));
  check_device_extent(function, "out", out, 0, "batch", q.extent(0));
  check_device_extent(function, "out", out, 1, "num_heads", q.extent(1));
  check_device_extent(function, "out", out, 2, "q_len", q.extent(2));
  check_device_extent(function, "out", out, 3, "value_dim", v.extent(3));
  if (options.lse.data()) {
    tensors.written("lse", layout_of(options.lse));
    check_device_extent(function, "lse", options.lse, 0, "batch", q.extent(0));
    check_device_extent(function, "lse", options.lse, 1, "num_heads", q.extent(1));
    check_device_extent(function, "lse", options.lse, 2, "q_len", q.extent(2));
  }
  if (options.workspace.data()) tensors.scratch("workspace", layout_of(options.workspace));
  if (!is_finite(options.softmax_scale))
    fail(function, "softmax_scale", "a finite value", "NaN or infinity");
  if (options.keys_per_split < 0)
    fail(function, "keys_per_split", "at least 0", std::to_string(options.keys_per_split));

  const device_sequences& sequences = options.sequences;
  attention_shape shape{q.extent(0), q.extent(1), q.extent(2), k.extent(2)};
  if (sequences.given()) shape.batch = sequences.batch();
  const bool packed = sequences.given() && q.extent(0) == 1 && shape.batch > 1;
  if (packed) {
    shape.q_len = sequences.max_q_length();
  } else {
    check_device_extent(function, "q", q, 0, "batch", shape.batch);
  }
  if (sequences.given() && sequences.q_rows() > q.extent(2))
    fail(function, "q dim 2 (q_len)",
         "at least " + std::to_string(sequences.q_rows()) + " rows for the sequences",
         std::to_string(q.extent(2)));
  if (options.pages.given()) {
    shape.kv_len = check_pages(function, options.pages, k, shape.batch, sequences);
  } else if (sequences.given() && k.extent(0) == 1 && shape.batch > 1) {
    shape.kv_len = sequences.max_kv_length();
    if (sequences.kv_rows() > k.extent(2))
      fail(function, "k dim 2 (kv_len)",
           "at least " + std::to_string(sequences.kv_rows()) + " rows for the sequences",
           std::to_string(k.extent(2)));
  } else {
    check_device_extent(function, "k", k, 0, "batch", shape.batch);
    if (sequences.given() && sequences.kv_rows() > k.extent(2))
      fail(function, "sequences kv_length", "at most " + std::to_string(k.extent(2)),
           std::to_string(sequences.kv_rows()));
  }
  return shape;
}

/// Launches the tensor-core kernel of the head dimension; false if there is none.
template <int Warps, class T, class Backend, class Arguments, int... Dims>
bool launch_flash(const Backend& backend, const char* function, const Arguments& a,
                  head_dims<Dims...>) {
  using modifier_type = decltype(a.modifier);
  [[maybe_unused]] const auto attempt = [&]<int Dim>() {
    if (a.head_dim != Dim) return false;
    using kernel = cuda::flash_kernel<T, Dim, Warps, modifier_type>;
    cuda::launch<kernel>(backend, function, cuda::attention_blocks(a, kernel::tile_rows), a);
    return true;
  };
  return (attempt.template operator()<Dims>() || ...);
}

template <int... Dims>
constexpr bool contains(head_dims<Dims...>, index_t dim) {
  return ((dim == Dims) || ...);
}

}  // namespace impl

/// attention on the device (apply/attention.hpp): softmax(modified(scale q k^T)) v, the row of
/// logits never in memory. Query head h reads key-value head h / group_size.
///
/// @param q         [batch, num_heads, q_len, head_dim]; with packed sequences [1, num_heads, rows,
///                  head_dim]
/// @param k, v      [batch, num_kv_heads, kv_len, head_dim or value_dim]; packed, or pages
/// @param out       like q, with value_dim; overwritten; zeros where nothing is seen. Rows beyond a
///                  sequence's q_length are not written
/// @param modifier  any logit_modifier on the device: causal{} | to_device(...)
/// @param options   scale, LSE, sequences, pages, splits, workspace
/// @param dims      head dimensions to compile tensor-core kernels for: fewer compile faster
/// Tensor cores: float16 or bfloat16, head_dim == value_dim in dims, rows contiguous and 16-byte
/// aligned, sm_80 or later. Everything else takes a general kernel in float.
/// @returns the plan that was launched
/// @throws invalid_argument for what does not fit, before anything is launched; device_error
/// Asynchronous on the backend's stream.
template <cuda::device_backend Backend, class Q, class KV, device_element Out,
          logit_modifier Modifier, class Dims = all_head_dims>
  requires(device_element<std::remove_const_t<Q>>&&
               std::same_as<std::remove_const_t<Q>, std::remove_const_t<KV>>)
device_attention_plan attention(const Backend& backend, const tensor_view<Q, 4, device_memory>& q,
                                const tensor_view<KV, 4, device_memory>& k,
                                const tensor_view<KV, 4, device_memory>& v,
                                const tensor_view<Out, 4, device_memory>& out,
                                const Modifier& modifier,
                                const device_attention_options& options = {}, Dims dims = {}) {
  using T = std::remove_const_t<Q>;
  constexpr const char* function = "attention";
  const attention_shape shape = impl::check_device_attention(function, q, k, v, out, options);
  impl::check_device_modifier(modifier, function, shape);
  const cuda::device_geometry g = impl::device_geometry_of(function, shape, options.sequences);

  const index_t group_size = shape.num_heads / k.extent(1), value_dim = v.extent(3);
  device_attention_plan plan =
      impl::plan_splits(shape, group_size, value_dim, options.keys_per_split);
  const auto& workspace = options.workspace;
  if (plan.workspace_bytes > 0) {
    if (workspace.extent(0) < plan.workspace_bytes || workspace.stride(0) != 1)
      impl::fail(function, "workspace dim 0 (bytes)",
                 "at least " + std::to_string(plan.workspace_bytes) + ", contiguous",
                 std::to_string(workspace.extent(0)));
    if (reinterpret_cast<std::uintptr_t>(workspace.data()) % 16 != 0)
      impl::fail(function, "workspace data", "alignment to 16 bytes", "less");
    impl::check_device_memory(function, "workspace", workspace);
  }
  if (shape.batch * shape.num_heads * shape.q_len == 0) return plan;

  using arguments_type = cuda::attention_arguments<T, Out, Modifier>;
  arguments_type a{impl::device_tensor_of(tensor_view<const T, 4, device_memory>(q)),
                   impl::device_tensor_of(tensor_view<const T, 4, device_memory>(k)),
                   impl::device_tensor_of(tensor_view<const T, 4, device_memory>(v)),
                   impl::device_tensor_of(out),
                   impl::device_rows_of(options.lse),
                   impl::page_table_of(options.pages, k.extent(2)),
                   g,
                   q.extent(3),
                   value_dim,
                   group_size,
                   plan.heads_per_tile,
                   options.softmax_scale != 0.0f
                       ? options.softmax_scale
                       : static_cast<float>(1.0 / std::sqrt(static_cast<double>(q.extent(3)))),
                   {nullptr, nullptr, plan.splits, plan.keys_per_split},
                   modifier};
  if (q.extent(0) == 1) a.q.batch = a.out.batch = a.lse.batch = 0;  // packed, or one sequence
  if (k.extent(0) == 1) a.k.batch = a.v.batch = 0;
  if (options.pages.given()) {
    a.k.batch = k.stride(0);
    a.v.batch = v.stride(0);
  }
  if (plan.splits > 1) {
    a.partial.out = reinterpret_cast<float*>(workspace.data());
    a.partial.lse =
        a.partial.out + plan.splits * shape.batch * shape.num_heads * shape.q_len * value_dim;
  }

  const bool packets = impl::has_packet_rows(q) && impl::has_packet_rows(k) &&
                       impl::has_packet_rows(v) && q.extent(3) % cuda::packet<T>::count == 0 &&
                       value_dim % cuda::packet<T>::count == 0;
  bool launched = false;
  if constexpr (cuda::mma_element<T> && std::same_as<T, Out>) {
    if (packets && impl::has_packet_rows(out) && value_dim == q.extent(3) &&
        impl::contains(dims, q.extent(3)) &&
        cuda::launcher<Backend>::has_tensor_cores(backend, function)) {
      const bool decode = plan.heads_per_tile * shape.q_len <= impl::device_decode_rows;
      plan.kernel = decode ? device_attention_plan::kernel_type::flash_decode
                           : device_attention_plan::kernel_type::flash_prefill;
      launched = decode ? impl::launch_flash<1, T>(backend, function, a, dims)
                        : impl::launch_flash<4, T>(backend, function, a, dims);
    }
  }
  if (!launched && packets) {
    using kernel = cuda::generic_attention_kernel<T, Out, Modifier, true>;
    cuda::launch<kernel>(backend, function, cuda::attention_blocks(a, kernel::tile_rows), a);
  } else if (!launched) {
    using kernel = cuda::generic_attention_kernel<T, Out, Modifier, false>;
    cuda::launch<kernel>(backend, function, cuda::attention_blocks(a, kernel::tile_rows), a);
  }
  if (plan.splits > 1) {
    using kernel = cuda::merge_kernel<Out>;
    cuda::launch<kernel>(
        backend, function,
        cuda::blocks_of_rows(shape.batch * shape.num_heads * shape.q_len, kernel::threads),
        {a.out, a.lse, g, a.partial, value_dim});
  }
  return plan;
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
