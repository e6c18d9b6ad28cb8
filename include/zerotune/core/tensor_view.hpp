// SPDX-License-Identifier: Apache-2.0
// tensor_view: a small strided, non-owning, trivially copyable view in mdspan's spelling (layer:
// core). The memory that it points at is part of its type.
#pragma once

#include <concepts>
#include <cstddef>
#include <type_traits>

#include "zerotune/core/types.hpp"

namespace zerotune {

/// Memory that the host may read.
struct host_memory {};
/// Memory of an accelerator: no host function accepts it.
struct device_memory {};

/// A strided view of Rank dimensions of T in Memory; strides count elements and may be zero or
/// negative. It owns nothing and is cheap to copy. A default-constructed view is empty (data()
/// is null, every extent 0) and stands for "not given" in options.
///
/// @tparam T       element type, const for a view to read from
/// @tparam Rank    number of dimensions, at least 1
/// @tparam Memory  host_memory or device_memory
template <class T, std::size_t Rank, class Memory = host_memory>
class tensor_view {
  static_assert(Rank >= 1, "zerotune: a tensor_view has at least one dimension");

 public:
  using element_type = T;
  using value_type = std::remove_cv_t<T>;
  using memory_type = Memory;

  /// Empty. Not defaulted: a defaulted constructor would be a weak symbol without optimisation.
  ZEROTUNE_ALWAYS_INLINE constexpr tensor_view() {}

  /// A contiguous row-major view.
  ZEROTUNE_ALWAYS_INLINE constexpr tensor_view(T* data, const index_t (&extents)[Rank])
      : data_(data) {
    index_t stride = 1;
    for (std::size_t i = Rank; i-- > 0;) {
      extents_[i] = extents[i];
      strides_[i] = stride;
      stride = static_cast<index_t>(static_cast<std::uint64_t>(stride) *
                                    static_cast<std::uint64_t>(extents[i]));
    }
  }

  /// A view with the given strides, in elements; `data` is the element at index (0, ..., 0).
  ZEROTUNE_ALWAYS_INLINE constexpr tensor_view(T* data, const index_t (&extents)[Rank],
                                               const index_t (&strides)[Rank])
      : data_(data) {
    for (std::size_t i = 0; i < Rank; ++i) {
      extents_[i] = extents[i];
      strides_[i] = strides[i];
    }
  }

  /// A view to write to is a view to read from.
  template <class U>
    requires(std::same_as<const U, T> && !std::same_as<U, T>)
  ZEROTUNE_ALWAYS_INLINE constexpr tensor_view(const tensor_view<U, Rank, Memory>& other)
      : data_(other.data()) {
    for (std::size_t i = 0; i < Rank; ++i) {
      extents_[i] = other.extent(i);
      strides_[i] = other.stride(i);
    }
  }

  ZEROTUNE_ALWAYS_INLINE static constexpr std::size_t rank() { return Rank; }
  ZEROTUNE_ALWAYS_INLINE constexpr T* data() const { return data_; }
  ZEROTUNE_ALWAYS_INLINE constexpr T* data_handle() const { return data_; }
  ZEROTUNE_ALWAYS_INLINE constexpr index_t extent(std::size_t i) const { return extents_[i]; }
  ZEROTUNE_ALWAYS_INLINE constexpr index_t stride(std::size_t i) const { return strides_[i]; }

  /// Number of elements. @pre the product of the extents fits (apply/ checks it).
  ZEROTUNE_ALWAYS_INLINE constexpr index_t size() const {
    index_t product = 1;
    for (std::size_t i = 0; i < Rank; ++i) product *= extents_[i];
    return product;
  }
  ZEROTUNE_ALWAYS_INLINE constexpr bool empty() const {
    for (std::size_t i = 0; i < Rank; ++i)
      if (extents_[i] <= 0) return true;
    return false;
  }

  /// The address of an element; null without memory. @pre every index lies in [0, extent).
  template <class... Indices>
    requires(sizeof...(Indices) == Rank && (std::convertible_to<Indices, index_t> && ...))
  ZEROTUNE_ALWAYS_INLINE constexpr T* pointer(Indices... indices) const {
    return data_ ? data_ + offset(indices...) : nullptr;
  }
  template <class... Indices>
    requires(sizeof...(Indices) == Rank && (std::convertible_to<Indices, index_t> && ...))
  ZEROTUNE_ALWAYS_INLINE constexpr T& operator()(Indices... indices) const {
    return data_[offset(indices...)];
  }

 private:
  template <class... Indices>
  ZEROTUNE_ALWAYS_INLINE constexpr index_t offset(Indices... indices) const {
    const index_t index[Rank] = {static_cast<index_t>(indices)...};
    index_t sum = 0;
    for (std::size_t i = 0; i < Rank; ++i) sum += index[i] * strides_[i];
    return sum;
  }

  T* data_ = nullptr;
  index_t extents_[Rank] = {};
  index_t strides_[Rank] = {};
};

template <class T, std::size_t Rank>
tensor_view(T*, const index_t (&)[Rank]) -> tensor_view<T, Rank>;
template <class T, std::size_t Rank>
tensor_view(T*, const index_t (&)[Rank], const index_t (&)[Rank]) -> tensor_view<T, Rank>;

/// A view of one dimension over anything contiguous with data() and size().
template <class Container>
  requires requires(Container& c) {
    c.data();
    c.size();
  }
ZEROTUNE_ALWAYS_INLINE_HOST auto view_of(Container& container) {
  using pointer = decltype(container.data());
  return tensor_view<std::remove_pointer_t<pointer>, 1>(container.data(),
                                                        {static_cast<index_t>(container.size())});
}

static_assert(std::is_trivially_copyable_v<tensor_view<float, 4>>);

}  // namespace zerotune
