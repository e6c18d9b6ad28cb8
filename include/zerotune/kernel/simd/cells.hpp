// SPDX-License-Identifier: Apache-2.0
// Rows of a key-value cache as batches (layer: kernel): every storage type, contiguous or not.
#pragma once

#include "zerotune/kernel/decode_ops.hpp"
#include "zerotune/kernel/simd/fetch_rows.hpp"
#include "zerotune/kernel/simd/load.hpp"
#include "zerotune/kernel/simd/operands.hpp"
#include "zerotune/kernel/simd/unrolled.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// How rows of T are read. Two batches of bfloat16 come from one load: the even elements, shifted,
/// and the odd ones, masked, which costs half of widening them in their order. What is multiplied
/// by them is put into that order once (reorder).
template <class Batch, cache_element T>
struct cells {
  using batch = Batch;
  using real = typename Batch::value_type;
  /// What is loaded: q8_0 and rows with gaps are unpacked to the stack first.
  using type = std::conditional_t<std::is_same_v<T, q8_0>, real, T>;
  static constexpr index_t lanes = impl::lanes<Batch>;
  static constexpr bool is_paired = std::is_same_v<T, bfloat16> && std::is_same_v<real, float>;

  /// Half 0 or 1 of the two batches at p.
  template <int Half>
  ZEROTUNE_ALWAYS_INLINE static Batch load_half(const type* p) {
    if constexpr (is_paired) {
      using words = vector_like<std::uint32_t, Batch>;
      words w;
      __builtin_memcpy(&w, p, sizeof w);
      if constexpr (Half == 0)
        w = w << 16;
      else
        w = w & 0xffff0000u;
      return Batch(__builtin_bit_cast(register_of<Batch>, w));
    } else {
      return load<Batch>(p + Half * lanes);
    }
  }

  /// Rows of keys are multiplied in parts of this many elements; two batches of them have `parts`.
  using operand = number_operand<Batch>;
  static constexpr index_t part = lanes, parts = 2;
  template <int Half>
  ZEROTUNE_ALWAYS_INLINE static operand load_part(const type* p) {
    return {load_half<Half>(p)};
  }
  /// The elements of a part that there are, and zeros.
  ZEROTUNE_ALWAYS_INLINE static operand load_rest(const type* p, index_t count) {
    return {count < lanes ? load_first<Batch>(p, count) : load<Batch>(p)};
  }
  ZEROTUNE_ALWAYS_INLINE static operand load_packed(const real* p) {
    return {Batch::load_aligned(p)};
  }
  template <class Q>
  ZEROTUNE_ALWAYS_INLINE static void pack(const Q* q, index_t stride, index_t dim, real* packed) {
    for (index_t c = 0; c < padded_dim(dim); c += lanes)
      (c < dim ? load_any<Batch>(q + c * stride, stride, dim - c < lanes ? dim - c : lanes)
               : Batch(real(0)))
          .store_aligned(packed + c);
    if (is_paired) reorder<true>(packed, dim);
  }
  ZEROTUNE_ALWAYS_INLINE static void unpack(real* out, index_t dim) {
    if (is_paired) reorder<false>(out, dim);
  }

  /// Keys that a product of weights and values takes, weights of their own, and values of the
  /// columns from c on: Vectors batches, or fewer columns than one has.
  static constexpr index_t keys_together = 1, least_vectors = 1;
  static constexpr index_t weight_row = decode_keys, weights_size = 1;
  using weight = real;
  ZEROTUNE_ALWAYS_INLINE static const weight* weights_of(const real* weights, index_t, index_t,
                                                         weight*) {
    return weights;
  }
  ZEROTUNE_ALWAYS_INLINE static Batch rounded(const Batch& x) { return x; }
  /// The weights of tile t, four queries by four keys: lane 4 i + n is key 4 t + n of query i.
  ZEROTUNE_ALWAYS_INLINE static void store_weights(const Batch& x, weight* weights, index_t t) {
    x.store_aligned(weights + t * lanes);
  }
  ZEROTUNE_ALWAYS_INLINE static operand splat(const weight& w) { return {Batch(w)}; }
  template <index_t Vectors>
  ZEROTUNE_ALWAYS_INLINE static void load_columns(const type* const* rows, index_t, index_t c,
                                                  index_t columns, operand (&x)[Vectors]) {
    if constexpr (Vectors == 1)
      x[0] = {columns < lanes ? load_first<Batch>(*rows + c, columns) : load<Batch>(*rows + c)};
    else
      unrolled<Vectors / 2>([&](auto n) __attribute__((always_inline)) {
        x[2 * n] = {load_half<0>(*rows + c + 2 * n * lanes)};
        x[2 * n + 1] = {load_half<1>(*rows + c + 2 * n * lanes)};
      });
  }

  /// Puts a row into the order of load_half, or back: of two batches first the even elements.
  template <bool Forth>
  static void reorder(real* row, index_t dim) noexcept {
    real halves[2][Batch::size];
    for (index_t c = 0; c + 2 * lanes <= dim; c += 2 * lanes) {
      if constexpr (Forth) {
        for (index_t i = 0; i < lanes; ++i)
          for (index_t half = 0; half < 2; ++half) halves[half][i] = row[c + 2 * i + half];
        __builtin_memcpy(row + c, halves, sizeof halves);
      } else {
        __builtin_memcpy(halves, row + c, sizeof halves);
        for (index_t i = 0; i < lanes; ++i)
          for (index_t half = 0; half < 2; ++half) row[c + 2 * i + half] = halves[half][i];
      }
    }
  }

  /// Calls body(rows, first, count, ahead) for runs of rows [first, first + count) as contiguous
  /// cells: all at once where they are, else as many as fit on the stack; and with the rows that
  /// are still to be fetched.
  template <class Body>
  ZEROTUNE_ALWAYS_INLINE static void with_rows(const T* const* rows, index_t stride, index_t count,
                                               index_t dim, const rows_ahead<T>& ahead,
                                               const Body& body) {
    if constexpr (!std::is_same_v<T, q8_0>) {
      if (stride == 1) {
        body(rows, index_t{0}, count, ahead);
        return;
      }
    }
    alignas(64) type copies[decode_dim];
    const type* copied[decode_keys];
    // An even number: pair_cells takes two rows at a time.
    const index_t row = padded_dim(dim), fit = row <= decode_dim / 2 ? decode_dim / row / 2 * 2 : 1;
    for (index_t first = 0; first < count; first += fit) {
      const index_t some = count - first < fit ? count - first : fit;
      for (index_t n = 0; n < some; ++n) {
        type* const copy = copies + n * row;
        fetch_lines<1>(ahead, first + n, 0, ahead.bytes);
        unpack_row(rows[first + n], stride, dim, copy);
        copied[n] = copy;
      }
      body(copied, first, some, rows_ahead<T>{});
    }
  }

 private:
  ZEROTUNE_ALWAYS_INLINE static float scale_of(const q8_0& block) {
#if defined(__F16C__)
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(block.scale.bits)));
#else
    return static_cast<float>(block.scale);
#endif
  }
  /// GCC 12 converts vectors of bytes one element at a time.
  ZEROTUNE_ALWAYS_INLINE static Batch load_bytes(const std::int8_t* from) {
#if defined(__AVX512F__)
    if constexpr (lanes == 16)
      return Batch(_mm512_cvtepi32_ps(
          _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))));
#endif
#if defined(__AVX2__)
    if constexpr (lanes == 8)
      return Batch(_mm256_cvtepi32_ps(
          _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)))));
#endif
    using bytes = vector_like<std::int8_t, Batch>;
    using words = vector_like<std::int32_t, Batch>;
    using reals = vector_like<float, Batch>;
    bytes raw;
    __builtin_memcpy(&raw, from, sizeof raw);
    const reals x = __builtin_convertvector(__builtin_convertvector(raw, words), reals);
    return Batch(__builtin_bit_cast(register_of<Batch>, x));
  }
  ZEROTUNE_ALWAYS_INLINE static void unpack_row(const T* from, index_t stride, index_t dim,
                                                type* to) {
    if constexpr (std::is_same_v<T, q8_0>) {
      for (index_t c = 0; c < dim; c += q8_0::size, from += stride) {
        const Batch scale(scale_of(*from));
        for (index_t i = 0; i < q8_0::size; i += lanes)
          (load_bytes(from->values + i) * scale).store_aligned(to + c + i);
      }
    } else {
      for (index_t c = 0; c < dim; ++c) to[c] = from[c * stride];
    }
  }
};

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
