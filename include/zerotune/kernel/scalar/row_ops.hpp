// SPDX-License-Identifier: Apache-2.0
// The scalar back end (layer: kernel): each operation as its formula reads, for every element type.
#pragma once

#include "zerotune/kernel/kernel.hpp"
#include "zerotune/policy/limits.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {

template <element T>
struct row_ops<backend::scalar, T> {
  using acc = accumulator_t<T>;

  template <form>
  static constexpr bool supports = true;

  static double sum(const T* x, index_t stride, index_t count) noexcept {
    double total = 0;
    for (index_t i = 0; i < count; ++i)
      total += static_cast<double>(static_cast<acc>(x[i * stride]));
    return total;
  }
  static void scale(T* x, index_t stride, index_t count, acc factor) noexcept {
    for (index_t i = 0; i < count; ++i)
      x[i * stride] = static_cast<T>(static_cast<acc>(x[i * stride]) * factor);
  }
  template <class U>
  static acc dot(const U* q, index_t q_stride, const T* k, index_t k_stride,
                 index_t count) noexcept {
    acc total = 0;
    for (index_t i = 0; i < count; ++i)
      total += static_cast<acc>(static_cast<accumulator_t<U>>(q[i * q_stride])) *
               static_cast<acc>(k[i * k_stride]);
    return total;
  }
  static void axpy(acc weight, const T* x, index_t stride, acc* y, index_t count) noexcept {
    for (index_t i = 0; i < count; ++i) y[i] += weight * static_cast<acc>(x[i * stride]);
  }
  static void store(const acc* x, acc factor, T* y, index_t stride, index_t count) noexcept {
    for (index_t i = 0; i < count; ++i) y[i * stride] = static_cast<T>(x[i] * factor);
  }
  template <class U>
  static void scale_add(T* y, index_t stride, acc factor, acc weight, const U* x, index_t x_stride,
                        index_t count) noexcept {
    for (index_t i = 0; i < count; ++i)
      y[i * stride] = static_cast<T>(factor * static_cast<acc>(y[i * stride]) +
                                     weight * static_cast<acc>(x[i * x_stride]));
  }
  static acc exp_and_sum(acc* x, acc shift, index_t count) noexcept {
    acc total = 0;
    for (index_t i = 0; i < count; ++i) {
      x[i] = impl::exp_of(x[i] - shift);
      total += x[i];
    }
    return total;
  }
};

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
