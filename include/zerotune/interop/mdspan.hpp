// SPDX-License-Identifier: Apache-2.0
// Views of anything that speaks mdspan's language (layer: interop): std::mdspan, the reference
// implementation, or a type of your own. No such library is needed.
#pragma once

#include <concepts>
#include <type_traits>

#include "zerotune/core/tensor_view.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {

namespace impl {
/// Elements are found by pointer and stride alone: no accessor that computes or translates.
template <class Span>
concept plainly_accessed = !requires {
  typename Span::accessor_type;
}
|| requires(const typename Span::accessor_type& accessor, typename Span::element_type* data) {
  { accessor.access(data, 0u) } -> std::same_as<typename Span::element_type&>;
};
}  // namespace impl

/// A strided span of rank 1 or more in mdspan's spelling, over plain memory.
template <class Span>
concept mdspan_like = requires(const Span& span) {
  typename Span::element_type;
  requires(Span::rank() >= 1);
  { span.data_handle() } -> std::convertible_to<typename Span::element_type*>;
  { span.extent(0) } -> std::convertible_to<index_t>;
  { span.stride(0) } -> std::convertible_to<index_t>;
}
&&impl::plainly_accessed<Span>;

/// A view of the elements of a span. Memory is the caller's word for where they are.
/// @param span  of any strided layout; what it refers to must outlive the view
template <class Memory = host_memory, mdspan_like Span>
auto from_mdspan(const Span& span) {
  constexpr std::size_t rank = Span::rank();
  index_t extents[rank], strides[rank];
  for (std::size_t i = 0; i < rank; ++i) {
    extents[i] = static_cast<index_t>(span.extent(i));
    strides[i] = static_cast<index_t>(span.stride(i));
  }
  return tensor_view<typename Span::element_type, rank, Memory>(span.data_handle(), extents,
                                                                strides);
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
