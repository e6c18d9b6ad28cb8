// SPDX-License-Identifier: Apache-2.0
// Checks of device tensors, from shapes and strides alone: device memory is never read here (layer:
// apply). Messages read `function: argument dim (name): expected X, got Y`.
#pragma once

#include "zerotune/apply/checks.hpp"
#include "zerotune/apply/cuda/device_table.cuh"
#include "zerotune/kernel/cuda/arguments.cuh"
#include "zerotune/kernel/cuda/launcher.cuh"

namespace zerotune {

/// Where keys end and queries begin, per sequence, on the device.
struct device_row_options {
  device_sequences sequences{};
};

/// float, float16 or bfloat16: what the CUDA kernels hold.
template <class T>
concept device_element = element<T> && !std::same_as<T, double>;

inline namespace ZEROTUNE_ABI {
namespace impl {

/// The same pointer and strides for the checks that are written for host views; never dereferenced.
template <class T, std::size_t Rank>
tensor_view<T, Rank> layout_of(const tensor_view<T, Rank, device_memory>& view) {
  index_t extents[Rank], strides[Rank];
  for (std::size_t i = 0; i < Rank; ++i) {
    extents[i] = view.extent(i);
    strides[i] = view.stride(i);
  }
  return {view.data(), extents, strides};
}
template <class T, std::size_t Rank>
footprint check_device_memory(const char* function, const char* name,
                              const tensor_view<T, Rank, device_memory>& view) {
  return check_memory(function, name, layout_of(view));
}
template <class T, std::size_t Rank>
footprint check_device_output(const char* function, const char* name,
                              const tensor_view<T, Rank, device_memory>& view) {
  return check_output(function, name, layout_of(view));
}
template <class T, std::size_t Rank>
void check_device_extent(const char* function, const char* name,
                         const tensor_view<T, Rank, device_memory>& view, std::size_t dim,
                         const char* dim_name, index_t expected) {
  check_extent(function, name, layout_of(view), dim, dim_name, expected);
}

/// A modifier as a kernel takes it: tables checked and on the device.
template <class Modifier>
void check_device_modifier(const Modifier& m, const char* function, const attention_shape& shape) {
  static_assert(!cuda::holds_host_views<Modifier>,
                "zerotune: this modifier may hold views of host memory; give it to "
                "zerotune::to_device and compose with what that returns");
  // A kernel holds positions in float.
  if (shape.kv_len > (index_t{1} << 24))
    fail(function, "kv_len", "at most 2^24 keys on a device", std::to_string(shape.kv_len));
  check_modifier(m, function, shape);
}

/// The geometry of a call; a table must have been made for the same batch and fit the lengths.
inline cuda::device_geometry device_geometry_of(const char* function, const attention_shape& shape,
                                                const device_sequences& sequences) {
  if (!sequences.given()) return {shape, nullptr};
  sequences.check(function, shape);
  return {shape, sequences.data()};
}

/// Keys that the pages of a sequence hold; k is [num_pages, num_kv_heads, page_size, dim].
template <class KV>
index_t check_pages(const char* function, const device_pages& pages,
                    const tensor_view<KV, 4, device_memory>& k, index_t batch,
                    const device_sequences& sequences) {
  if (!sequences.given())
    fail(function, "sequences", "a table of lengths beside a table of pages", "none");
  check_device_memory(function, "pages", pages.table());
  check_device_extent(function, "pages", pages.table(), 0, "batch", batch);
  if (pages.table().extent(1) > 1 && pages.table().stride(1) != 1)
    fail(function, "pages stride 1", "1", std::to_string(pages.table().stride(1)));
  if (pages.num_pages() > k.extent(0))
    fail(function, "k dim 0 (num_pages)",
         "at least " + std::to_string(pages.num_pages()) + ", as the table was checked for",
         std::to_string(k.extent(0)));
  const index_t page_size = k.extent(2);
  if (page_size < 1 || (page_size & (page_size - 1)) != 0)
    fail(function, "k dim 2 (page_size)", "a power of two", std::to_string(page_size));
  if (sequences.kv_rows() != sequences.max_kv_length())
    fail(function, "sequences kv_offset", "0 beside a table of pages", "another");
  return pages.table().extent(1) * page_size;
}

/// The table as kernels take it.
inline cuda::page_table page_table_of(const device_pages& pages, index_t page_size) {
  if (!pages.given()) return {};
  cuda::page_table table{pages.table().data(), pages.table().stride(0), 0};
  while ((index_t{1} << table.shift) < page_size) ++table.shift;
  return table;
}

/// Rows (the last dimension) that can be read 16 bytes at a time.
template <class T>
bool has_packet_rows(const tensor_view<T, 4, device_memory>& view) {
  constexpr index_t count = 16 / static_cast<index_t>(sizeof(T));
  if (reinterpret_cast<std::uintptr_t>(view.data()) % 16 != 0) return false;
  for (std::size_t i = 0; i < 3; ++i)
    if (view.extent(i) > 1 && view.stride(i) % count != 0) return false;
  return view.extent(3) < 2 || view.stride(3) == 1;
}

template <class T>
cuda::device_tensor<T> device_tensor_of(const tensor_view<T, 4, device_memory>& view) {
  return {view.data(), view.stride(0), view.stride(1), view.stride(2), view.stride(3)};
}
template <class T>
cuda::device_rows<T> device_rows_of(const tensor_view<T, 3, device_memory>& view) {
  return {view.data(), view.stride(0), view.stride(1), view.stride(2)};
}

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
