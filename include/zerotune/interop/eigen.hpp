// SPDX-License-Identifier: Apache-2.0
// Views of Eigen's matrices, arrays, maps, blocks and references, and maps of views (layer:
// interop).
#pragma once

#include <Eigen/Core>
#include <concepts>
#include <type_traits>

#include "zerotune/core/tensor_view.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {

namespace impl {
template <class Matrix>
concept eigen_dense = std::derived_from<Matrix, Eigen::DenseBase<Matrix>> &&
    requires(const Matrix& m) {
  m.data();
  m.rowStride();
  m.colStride();
};
template <class Matrix>
concept eigen_owner = std::derived_from<Matrix, Eigen::PlainObjectBase<Matrix>>;
}  // namespace impl

/// A view [rows, cols] of anything of Eigen's that has its elements in memory, of either storage
/// order and any strides. It is const where the matrix is.
/// @param matrix  Matrix, Array, Map, Block, Ref, ...; a temporary that owns its memory is refused.
///                The memory must outlive the view
template <class Matrix>
  requires impl::eigen_dense<std::remove_cvref_t<Matrix>>
auto from_eigen(Matrix&& matrix) {
  static_assert(
      std::is_lvalue_reference_v<Matrix> || !impl::eigen_owner<std::remove_cvref_t<Matrix>>,
      "zerotune: from_eigen of a temporary would be a view of nothing; name the matrix");
  using element_type = std::remove_pointer_t<decltype(matrix.data())>;
  return tensor_view<element_type, 2>(
      matrix.data(), {static_cast<index_t>(matrix.rows()), static_cast<index_t>(matrix.cols())},
      {static_cast<index_t>(matrix.rowStride()), static_cast<index_t>(matrix.colStride())});
}

/// A column vector of Eigen's over a view of one dimension. `.array()` makes it an array.
template <class T>
auto to_eigen(const tensor_view<T, 1>& view) {
  using vector = Eigen::Matrix<std::remove_const_t<T>, Eigen::Dynamic, 1>;
  using mapped = std::conditional_t<std::is_const_v<T>, const vector, vector>;
  return Eigen::Map<mapped, Eigen::Unaligned, Eigen::InnerStride<>>(
      view.data(), static_cast<Eigen::Index>(view.extent(0)),
      Eigen::InnerStride<>(static_cast<Eigen::Index>(view.stride(0))));
}

/// A matrix of Eigen's over a view of two dimensions, whatever its strides.
template <class T>
auto to_eigen(const tensor_view<T, 2>& view) {
  using matrix = Eigen::Matrix<std::remove_const_t<T>, Eigen::Dynamic, Eigen::Dynamic>;
  using mapped = std::conditional_t<std::is_const_v<T>, const matrix, matrix>;
  using strides = Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>;
  return Eigen::Map<mapped, Eigen::Unaligned, strides>(
      view.data(), static_cast<Eigen::Index>(view.extent(0)),
      static_cast<Eigen::Index>(view.extent(1)),
      strides(static_cast<Eigen::Index>(view.stride(1)),
              static_cast<Eigen::Index>(view.stride(0))));
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
