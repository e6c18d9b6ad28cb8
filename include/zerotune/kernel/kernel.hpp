// SPDX-License-Identifier: Apache-2.0
// What a back end is to the rest of the library (layer: kernel): row operations for an element
// type. The algorithms in this folder are written once, over these operations; a back end that has
// a better whole algorithm specialises it in its own folder.
#pragma once

#include "zerotune/core/backend.hpp"
#include "zerotune/core/types.hpp"

namespace zerotune {

/// The forms that a back end may have a kernel for (docs/mathematics.md, section 2).
enum class form { weights, logits, mask, keys, output, gradient, attention };

inline namespace ZEROTUNE_ABI {

/// Operations on strided rows of T, accumulated in accumulator_t<T>. A back end specialises this
/// with static noexcept functions (kernel/scalar/row_ops.hpp is the model):
///
///   supports<form>                                 does the back end have this form for T
///   double sum(const T* x, index_t stride, index_t count)               may take the number of
///                                       elements to leave out at the start, at most count, and
///                                       the distance to the next row, to fetch it meanwhile
///   void scale(T* x, index_t stride, index_t count, acc factor)         x *= factor; may take the
///                                       distance to the next row, to fetch it meanwhile
///   acc dot(const U* q, index_t q_stride, const T* k, index_t k_stride, index_t count)
///   void axpy(acc weight, const T* x, index_t stride, acc* y, index_t count)   y += weight * x
///   void store(const acc* x, acc factor, T* y, index_t stride, index_t count)  y = x * factor
///   void scale_add(T* y, index_t stride, acc factor, acc weight, const U* x, index_t x_stride,
///                  index_t count)            y = factor * y + weight * x; may take the distance
///                                       to memory that will be written soon, to fetch it meanwhile
///   acc exp_and_sum(acc* x, acc shift, index_t count)   x = exp(x - shift), returns their sum
///   void logs(double* x, index_t count)                 x = log x, x > 0; may be left out
///   void exp_bounded(acc* x, acc shift, index_t count)  x = exp(min(x - shift, 0)); may be left out
///
/// and, if it takes a block of keys better than one at a time (kernel/attention_row.hpp):
///
///   void dots(const U* q, index_t q_stride, const T* k, index_t k_row, index_t k_stride,
///             index_t count, acc factor, acc* scores, index_t keys)   scores_j = factor <q, k_j>
///   acc raise_maximum(const acc* x, index_t count, acc* maximum)   NaN if an x is not finite, or 0
///   void accumulate(const acc* weights, index_t keys, const T* v, index_t v_row,
///                   index_t v_stride, acc* y, index_t count)            y += sum_j weights_j v_j
template <class Backend, class T>
struct row_ops;

namespace impl {

/// Scratch memory begins at a cache line: a vector that lies across two is two loads.
inline constexpr index_t scratch_alignment = 64;

template <class Backend, form Form, class T>
struct missing_kernel;  // never defined: its name in the error names back end, form and type

template <class Backend, form Form, class T>
concept has_kernel = requires {
  requires row_ops<Backend, T>::template supports<Form>;
};

/// Stops the compilation where a back end has no kernel for the form and the element type.
template <class Backend, form Form, class T>
constexpr void require_kernel() {
  if constexpr (!has_kernel<Backend, Form, T>) {
    static_assert(has_kernel<Backend, Form, T>,
                  "zerotune: this back end has no kernel for this form and element type; include "
                  "its header (zerotune/kernel/<back end>/) or choose another back end");
    [[maybe_unused]] const missing_kernel<Backend, Form, T> no_kernel;
  }
}

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
