// SPDX-License-Identifier: Apache-2.0
// Views of Eigen's tensors and tensor maps, and tensor maps of views (layer: interop).
#pragma once

#include <concepts>
#include <string>
#include <type_traits>
#include <unsupported/Eigen/CXX11/Tensor>

#include "zerotune/core/error.hpp"
#include "zerotune/core/tensor_view.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {

namespace impl {
template <class Tensor>
inline constexpr bool is_eigen_tensor = false;
template <class T, int Rank, int Options, class Index>
inline constexpr bool is_eigen_tensor<Eigen::Tensor<T, Rank, Options, Index>> = true;
template <class T, class Dimensions, int Options, class Index>
inline constexpr bool is_eigen_tensor<Eigen::TensorFixedSize<T, Dimensions, Options, Index>> = true;
template <class Plain, int Options, template <class> class MakePointer>
inline constexpr bool is_eigen_tensor<Eigen::TensorMap<Plain, Options, MakePointer>> = true;
template <class Tensor>
inline constexpr bool is_eigen_tensor_map = false;
template <class Plain, int Options, template <class> class MakePointer>
inline constexpr bool is_eigen_tensor_map<Eigen::TensorMap<Plain, Options, MakePointer>> = true;
}  // namespace impl

/// A view of a tensor of Eigen's, with its dimensions in its order, of either storage order.
/// @param tensor  Tensor, TensorFixedSize or TensorMap of rank 1 or more; a temporary that owns its
///                memory is refused. The memory must outlive the view
template <class Tensor>
  requires impl::is_eigen_tensor<std::remove_cvref_t<Tensor>>
auto from_eigen(Tensor&& tensor) {
  using type = std::remove_cvref_t<Tensor>;
  static_assert(std::is_lvalue_reference_v<Tensor> || impl::is_eigen_tensor_map<type>,
                "zerotune: from_eigen of a temporary would be a view of nothing; name the tensor");
  using element_type = std::remove_pointer_t<decltype(tensor.data())>;
  constexpr std::size_t rank = static_cast<std::size_t>(type::NumDimensions);
  constexpr bool row_major = static_cast<int>(type::Layout) == static_cast<int>(Eigen::RowMajor);
  index_t extents[rank], strides[rank];
  index_t step = 1;
  for (std::size_t i = 0; i < rank; ++i) {
    const std::size_t dimension = row_major ? rank - 1 - i : i;
    extents[dimension] = static_cast<index_t>(tensor.dimension(dimension));
    strides[dimension] = step;
    step *= extents[dimension];
  }
  return tensor_view<element_type, rank>(tensor.data(), extents, strides);
}

/// A row-major tensor map over a contiguous view.
/// @throws invalid_argument if the view is not contiguous in row-major order: Eigen's tensors have
///         no strides
template <class T, std::size_t Rank>
auto to_eigen_tensor(const tensor_view<T, Rank>& view) {
  using plain = Eigen::Tensor<std::remove_const_t<T>, static_cast<int>(Rank), Eigen::RowMajor>;
  using mapped = std::conditional_t<std::is_const_v<T>, const plain, plain>;
  Eigen::array<Eigen::Index, Rank> extents;
  index_t step = 1;
  for (std::size_t i = Rank; i-- > 0;) {
    if (view.extent(i) != 1 && !view.empty() && view.stride(i) != step)
      impl::fail("to_eigen_tensor", "view stride " + std::to_string(i), std::to_string(step),
                 std::to_string(view.stride(i)));
    extents[i] = static_cast<Eigen::Index>(view.extent(i));
    step *= view.extent(i);
  }
  return Eigen::TensorMap<mapped>(view.data(), extents);
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
