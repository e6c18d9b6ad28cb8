// SPDX-License-Identifier: Apache-2.0
// The SIMD back end's row operations (layer: kernel): kernel/scalar/row_ops.hpp, a batch at a time.
#pragma once

#include "zerotune/kernel/kernel.hpp"
#include "zerotune/kernel/simd/exp.hpp"
#include "zerotune/kernel/simd/load.hpp"
#include "zerotune/kernel/simd/modifier.hpp"
#include "zerotune/kernel/simd/prefetch.hpp"
#include "zerotune/kernel/simd/scale.hpp"
#include "zerotune/kernel/simd/transpose.hpp"
#include "zerotune/kernel/simd/unrolled.hpp"

#if defined(__GNUC__) && !defined(__clang__)  // as in xsimd_compat.hpp
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

namespace zerotune {
inline namespace ZEROTUNE_ABI {

template <class Arch, element T>
struct row_ops<backend::simd<Arch>, T> {
  using acc = accumulator_t<T>;
  using batch = impl::batch<acc, Arch>;
  static constexpr index_t lanes = impl::lanes<batch>;

  static_assert(impl::simd_arch<Arch>::supported(),
                "zerotune: this translation unit is compiled without the instructions of the "
                "architecture of backend::simd<Arch>");

  template <form>
  static constexpr bool supports = true;

  [[gnu::flatten]] static double sum(const T* x, index_t stride, index_t count, index_t first = 0,
                                     index_t row_step = 0) noexcept {
    if (stride == 1) return impl::sum_row<batch>(x, count, first, row_step);
    double total = 0;
    for (index_t i = first; i < count; ++i)
      total += static_cast<double>(static_cast<acc>(x[i * stride]));
    return total;
  }

  [[gnu::flatten]] static void scale(T* x, index_t stride, index_t count, acc factor,
                                     index_t row_step = 0) noexcept {
    if (stride == 1) {
      impl::scale_row<batch>(x, count, factor, row_step);
      return;
    }
    for (index_t i = 0; i < count; ++i)
      x[i * stride] = static_cast<T>(static_cast<acc>(x[i * stride]) * factor);
  }

  template <class U>
  [[gnu::flatten]] static acc dot(const U* q, index_t q_stride, const T* k, index_t k_stride,
                                  index_t count) noexcept {
    batch a(acc(0)), b(acc(0)), c(acc(0)), d(acc(0));
    index_t i = 0;
    if (q_stride == 1 && k_stride == 1) {
      for (; i + 4 * lanes <= count; i += 4 * lanes) {
        a = step(q, k, i, a);
        b = step(q, k, i + lanes, b);
        c = step(q, k, i + 2 * lanes, c);
        d = step(q, k, i + 3 * lanes, d);
      }
      for (; i + lanes <= count; i += lanes) a = step(q, k, i, a);
    }
    for (; i < count; i += lanes) {
      const index_t left = count - i < lanes ? count - i : lanes;
      b = impl::multiply_add(impl::load_any<batch>(q + i * q_stride, q_stride, left),
                             impl::load_any<batch>(k + i * k_stride, k_stride, left), b);
    }
    return impl::sum_of_lanes((a + b) + (c + d));
  }

  [[gnu::flatten]] static void axpy(acc weight, const T* x, index_t stride, acc* y,
                                    index_t count) noexcept {
    const batch w(weight);
    index_t i = 0;
    if (stride == 1)
      for (; i + lanes <= count; i += lanes)
        impl::multiply_add(w, impl::load<batch>(x + i), impl::load<batch>(y + i))
            .store_unaligned(y + i);
    for (; i < count; ++i) y[i] += weight * static_cast<acc>(x[i * stride]);
  }

  [[gnu::flatten]] static void store(const acc* x, acc factor, T* y, index_t stride,
                                     index_t count) noexcept {
    const batch f(factor);
    index_t i = 0;
    if (stride == 1) {
      for (; i + lanes <= count; i += lanes) impl::store(impl::load<batch>(x + i) * f, y + i);
      if (i < count)
        impl::store_first(impl::load_first<batch>(x + i, count - i) * f, y + i, count - i);
      return;
    }
    for (; i < count; ++i) y[i * stride] = static_cast<T>(x[i] * factor);
  }

  template <class U>
  [[gnu::flatten]] static void scale_add(T* y, index_t stride, acc factor, acc weight, const U* x,
                                         index_t x_stride, index_t count,
                                         index_t ahead = 0) noexcept {
    const batch f(factor), w(weight);
    index_t i = 0;
    if (stride == 1 && x_stride == 1) {
      if (ahead != 0)
        for (index_t at = 0; at < count; at += 64 / index_t{sizeof(T)})
          impl::prefetch_for_writing(y, (ahead + at) * index_t{sizeof(T)});
      for (; i + lanes <= count; i += lanes)
        impl::store(impl::multiply_add(w, impl::load<batch>(x + i), impl::load<batch>(y + i) * f),
                    y + i);
      if (i < count)
        impl::store_first(impl::multiply_add(w, impl::load_first<batch>(x + i, count - i),
                                             impl::load_first<batch>(y + i, count - i) * f),
                          y + i, count - i);
      return;
    }
    for (; i < count; ++i)
      y[i * stride] = static_cast<T>(factor * static_cast<acc>(y[i * stride]) +
                                     weight * static_cast<acc>(x[i * x_stride]));
  }

  /// @pre no x is above shift
  [[gnu::flatten]] static acc exp_and_sum(acc* x, acc shift, index_t count) noexcept {
    const batch s(shift);
    batch total(acc(0));
    index_t i = 0;
    for (; i + lanes <= count; i += lanes) {
      const batch e = impl::exp_nonpositive(impl::load<batch>(x + i) - s);
      e.store_unaligned(x + i);
      total += e;
    }
    if (i < count) {
      const batch e = impl::exp_nonpositive(impl::load_first<batch>(x + i, count - i) - s);
      impl::store_first(e, x + i, count - i);
      total += impl::load_first<batch>(x + i, count - i);
    }
    return impl::sum_of_lanes(total);
  }

  /// x = exp(min(x - shift, 0))
  [[gnu::flatten]] static void exp_bounded(acc* x, acc shift, index_t count) noexcept {
    const batch s(shift), zero(acc(0));
    index_t i = 0;
    for (; i + lanes <= count; i += lanes)
      impl::exp_nonpositive(xsimd::min(impl::load<batch>(x + i) - s, zero)).store_unaligned(x + i);
    if (i < count)
      impl::store_first(
          impl::exp_nonpositive(xsimd::min(impl::load_first<batch>(x + i, count - i) - s, zero)),
          x + i, count - i);
  }

  /// x = log x for positive, finite, normal x.
  [[gnu::flatten]] static void logs(double* x, index_t count) noexcept {
    using doubles = impl::batch<double, Arch>;
    index_t i = 0;
    for (; i + impl::lanes<doubles> <= count; i += impl::lanes<doubles>)
      impl::log_positive(impl::load<doubles>(x + i)).store_unaligned(x + i);
    for (; i < count; ++i) x[i] = impl::log_of(x[i]);
  }

  /// Rows that dots takes at a time.
  static constexpr index_t together = lanes < 4 ? lanes : 4;

  /// products[n] = q k_n, lane by lane, for `together` rows.
  template <class U>
  ZEROTUNE_ALWAYS_INLINE static void dots_of_rows(const U* q, const T* k, index_t k_row,
                                                  index_t count, batch* products) {
    batch sums[together];
    impl::unrolled<together>([&](auto n)
                                 __attribute__((always_inline)) { sums[n] = batch(acc(0)); });
    index_t i = 0;
    for (; i + lanes <= count; i += lanes) {
      const batch along = impl::load<batch>(q + i);
      impl::unrolled<together>([&](auto n) __attribute__((always_inline)) {
        sums[n] = impl::multiply_add(along, impl::load<batch>(k + n * k_row + i), sums[n]);
      });
    }
    if (i < count) {
      const batch along = impl::load_first<batch>(q + i, count - i);
      impl::unrolled<together>([&](auto n) __attribute__((always_inline)) {
        sums[n] = impl::multiply_add(along, impl::load_first<batch>(k + n * k_row + i, count - i),
                                     sums[n]);
      });
    }
    impl::unrolled<together>([&](auto n) __attribute__((always_inline)) { products[n] = sums[n]; });
  }

  /// scores[j] = factor * <q, k_j> for `keys` rows of k.
  template <class U>
  [[gnu::flatten]] static void dots(const U* q, index_t q_stride, const T* k, index_t k_row,
                                    index_t k_stride, index_t count, acc factor, acc* scores,
                                    index_t keys) noexcept {
    index_t j = 0;
    if (q_stride == 1 && k_stride == 1) {
      const batch f(factor);
      for (; j + lanes <= keys; j += lanes) {
        batch products[batch::size];
        // In the order in which rows lie in memory, but for a few together: where rows come from
        // beyond the second-level cache, all of them at a time took twice as long (Zen 4).
        for (index_t n = 0; n < lanes; n += together)
          dots_of_rows(q, k + (j + n) * k_row, k_row, count, products + n);
        (impl::sums_of_rows(products) * f).store_unaligned(scores + j);
      }
    }
    for (; j < keys; ++j) scores[j] = factor * dot(q, q_stride, k + j * k_row, k_stride, count);
  }

  /// sums += sum over `keys` rows of weights[j] * v_j.
  [[gnu::flatten]] static void accumulate(const acc* weights, index_t keys, const T* v,
                                          index_t v_row, index_t v_stride, acc* sums,
                                          index_t columns) noexcept {
    index_t c = 0;
    if (v_stride == 1) {
      for (; c + 4 * lanes <= columns; c += 4 * lanes)
        accumulate_columns<4>(weights, keys, v + c, v_row, sums + c);
      for (; c + lanes <= columns; c += lanes)
        accumulate_columns<1>(weights, keys, v + c, v_row, sums + c);
    }
    if (c == columns) return;
    for (index_t j = 0; j < keys; ++j)
      axpy(weights[j], v + j * v_row + c * v_stride, v_stride, sums + c, columns - c);
  }

  /// Raises *maximum to the greatest score; the result is NaN if a score is not finite, else 0.
  [[gnu::flatten]] static acc raise_maximum(const acc* scores, index_t count,
                                            acc* maximum) noexcept {
    batch greatest(*maximum), poison(acc(0));
    index_t i = 0;
    for (; i + lanes <= count; i += lanes) {
      const batch x = impl::load<batch>(scores + i);
      greatest = xsimd::max(x, greatest);
      poison = impl::multiply_add(x, batch(acc(0)), poison);
    }
    *maximum = impl::maximum_of_lanes(greatest);
    acc rest = impl::sum_of_lanes(poison);
    for (; i < count; ++i) {
      *maximum = scores[i] > *maximum ? scores[i] : *maximum;
      rest += scores[i] * acc(0);
    }
    return rest;
  }

  /// to = the transpose of a square of `lanes` rows.
  static void transpose(const acc* from, index_t from_row, acc* to, index_t to_row) noexcept {
    batch square[batch::size];
    for (index_t i = 0; i < lanes; ++i) square[i] = impl::load<batch>(from + i * from_row);
    impl::transpose_square(square);
    for (index_t i = 0; i < lanes; ++i) square[i].store_unaligned(to + i * to_row);
  }

  /// The modifier on whole batches of scores; returns how many keys it took.
  template <class Modifier>
  [[gnu::flatten]] static index_t modify(const Modifier& m, const row& r, range changed,
                                         bool ignore_zero_gamma, acc* scores, index_t* hidden,
                                         acc* poison) noexcept {
    return impl::modify_batches<batch>(m, r, changed, ignore_zero_gamma, scores, hidden, poison);
  }

 private:
  template <class U>
  ZEROTUNE_ALWAYS_INLINE static batch step(const U* q, const T* k, index_t i, const batch& sum) {
    return impl::multiply_add(impl::load<batch>(q + i), impl::load<batch>(k + i), sum);
  }

  template <index_t Batches>
  ZEROTUNE_ALWAYS_INLINE static void accumulate_columns(const acc* weights, index_t keys,
                                                        const T* v, index_t v_row, acc* sums) {
    batch totals[Batches];
    impl::unrolled<Batches>([&](auto n) __attribute__((always_inline)) {
      totals[n] = impl::load<batch>(sums + n * lanes);
    });
    for (index_t j = 0; j < keys; ++j) {
      const batch w(weights[j]);
      impl::unrolled<Batches>([&](auto n) __attribute__((always_inline)) {
        totals[n] = impl::multiply_add(w, impl::load<batch>(v + j * v_row + n * lanes), totals[n]);
      });
    }
    impl::unrolled<Batches>([&](auto n) __attribute__((always_inline)) {
      totals[n].store_unaligned(sums + n * lanes);
    });
  }
};

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
