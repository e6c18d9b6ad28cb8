// SPDX-License-Identifier: Apache-2.0
// The Eigen back end's row operations (layer: kernel): kernel/scalar/row_ops.hpp as expressions.
#pragma once

#include <Eigen/Core>
#include <concepts>

#include "zerotune/kernel/kernel.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {

template <element T>
  requires(std::floating_point<T>)
struct row_ops<backend::eigen, T> {
  using acc = T;

  template <form Form>
  static constexpr bool supports = Form != form::attention;

  static double sum(const T* x, index_t stride, index_t count) noexcept {
    return on_row(x, stride, count, [](const auto& row) {
      return static_cast<double>(row.template cast<double>().sum());
    });
  }
  static void scale(T* x, index_t stride, index_t count, acc factor) noexcept {
    on_row(x, stride, count, [factor](auto row) { row *= factor; });
  }
  template <class U>
  static acc dot(const U* q, index_t q_stride, const T* k, index_t k_stride,
                 index_t count) noexcept {
    if constexpr (std::floating_point<U>) {
      return on_row(k, k_stride, count, [&](const auto& key) {
        return on_row(q, q_stride, count,
                      [&](const auto& query) { return (query.template cast<acc>() * key).sum(); });
      });
    } else {  // float16 and bfloat16 are no scalars of Eigen
      acc total = 0;
      for (index_t i = 0; i < count; ++i)
        total += static_cast<acc>(static_cast<float>(q[i * q_stride])) * k[i * k_stride];
      return total;
    }
  }
  static void axpy(acc weight, const T* x, index_t stride, acc* y, index_t count) noexcept {
    on_row(x, stride, count, [&](const auto& row) {
      Eigen::Map<Eigen::Array<acc, Eigen::Dynamic, 1>>(y, count) += weight * row;
    });
  }
  static void store(const acc* x, acc factor, T* y, index_t stride, index_t count) noexcept {
    on_row(y, stride, count, [&](auto row) {
      row = Eigen::Map<const Eigen::Array<acc, Eigen::Dynamic, 1>>(x, count) * factor;
    });
  }
  template <class U>
  static void scale_add(T* y, index_t stride, acc factor, acc weight, const U* x, index_t x_stride,
                        index_t count) noexcept {
    on_row(y, stride, count, [&](auto row) {
      if constexpr (std::floating_point<U>)
        on_row(x, x_stride, count, [&](const auto& other) {
          row = factor * row + weight * other.template cast<acc>();
        });
      else  // no scalar of Eigen
        for (index_t i = 0; i < count; ++i)
          row(i) = factor * row(i) + weight * static_cast<acc>(x[i * x_stride]);
    });
  }

 private:
  /// Calls body with a map of the row: contiguous rows have a type of their own, for packets.
  template <class Element, class Body>
  static decltype(auto) on_row(Element* x, index_t stride, index_t count, const Body& body) {
    using array = Eigen::Array<std::remove_const_t<Element>, Eigen::Dynamic, 1>;
    using mapped = std::conditional_t<std::is_const_v<Element>, const array, array>;
    if (stride == 1) return body(Eigen::Map<mapped>(x, count));
    return body(Eigen::Map<mapped, Eigen::Unaligned, Eigen::InnerStride<>>(
        x, count, Eigen::InnerStride<>(stride)));
  }
};

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
