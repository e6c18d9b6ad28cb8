// SPDX-License-Identifier: Apache-2.0
// Rows of a bfloat16 cache as pairs (layer: kernel), for bfloat16 queries on processors whose dot
// products of pairs are faster than multiply-adds. Queries and keys are not rounded, weights are,
// once; two keys share a product with their values.
#pragma once

#include "zerotune/kernel/simd/cells.hpp"
#include "zerotune/kernel/simd/operands.hpp"
#include "zerotune/kernel/simd/unrolled.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// The elements of a and b that unpacking takes from each 128 bits of them, in turn: the first four
/// (Half 0) or the last four.
template <int Half, class Vector, std::size_t... I>
ZEROTUNE_ALWAYS_INLINE void interleave(const Vector& a, const Vector& b, Vector& result,
                                       std::index_sequence<I...>) {
  result = __builtin_shufflevector(
      a, b, (I / 8 * 8 + I % 8 / 2 + 4 * Half + (I % 2 != 0 ? sizeof...(I) : 0))...);
}

/// As cells (kernel/simd/cells.hpp).
template <class Batch>
struct pair_cells {
  using batch = Batch;
  using real = float;
  using type = bfloat16;
  using operand = pair_operand<Batch>;
  using words = word_vector<Batch>;
  static constexpr index_t lanes = impl::lanes<Batch>;
  static_assert(std::is_same_v<typename Batch::value_type, float>);

  static constexpr index_t part = 2 * lanes, parts = 1;
  template <int>
  ZEROTUNE_ALWAYS_INLINE static operand load_part(const type* p) {
    return load_words(p);
  }
  ZEROTUNE_ALWAYS_INLINE static operand load_rest(const type* p, index_t count) {
    operand x;
    load_pairs<Batch>(p, 1, count, x.words);
    return x;
  }
  ZEROTUNE_ALWAYS_INLINE static operand load_packed(const real* p) { return load_words(p); }
  static void pack(const type* q, index_t stride, index_t dim, real* packed) {
    for (index_t c = 0; c < padded_dim(dim); c += part) {
      words pairs = {};
      if (c < dim) load_pairs<Batch>(q + c * stride, stride, dim - c, pairs);
      __builtin_memcpy(packed + c / 2, &pairs, sizeof pairs);
    }
  }
  /// Of each two batches of columns the first has columns 0 to 3, 8 to 11 and so on.
  static void unpack(real* out, index_t dim) {
    for (index_t c = 0; c < dim; c += part) {
      real columns[2 * Batch::size];
      for (index_t i = 0; i < lanes; ++i)
        for (index_t half = 0; half < 2; ++half)
          columns[i / 4 * 8 + 4 * half + i % 4] = out[c + half * lanes + i];
      __builtin_memcpy(out + c, columns, sizeof columns);
    }
  }

  static constexpr index_t keys_together = 2, least_vectors = 2;
  using weight = std::uint32_t;
  static constexpr index_t weight_row = decode_keys / 2, weights_size = decode_rows * weight_row;
  /// A weight as it will be multiplied: its upper half.
  ZEROTUNE_ALWAYS_INLINE static Batch rounded(const Batch& x) {
    words bits;
    to_words(x, bits);
    bits = (bits + 0x8000u) & 0xffff0000u;
    return from_words<Batch>(bits);
  }
  /// As cells, two keys in one word.
  ZEROTUNE_ALWAYS_INLINE static void store_weights(const Batch& x, weight* weights, index_t t) {
    using halves = typename compiler_vector<std::uint16_t, Batch::size>::type;
    words bits;
    to_words(x, bits);
    const halves rounded = __builtin_convertvector((bits + 0x8000u) >> 16, halves);
    __builtin_memcpy(weights + t * (lanes / 2), &rounded, sizeof rounded);
  }
  /// Pairs of rounded weights.
  ZEROTUNE_ALWAYS_INLINE static const weight* weights_of(const real* weights, index_t rows,
                                                         index_t count, weight* pairs) {
    using longs = typename compiler_vector<std::uint64_t, Batch::size / 2>::type;
    using halves = typename compiler_vector<std::uint32_t, Batch::size / 2>::type;
    for (index_t i = 0; i < rows; ++i) {
      const real* const from = weights + i * decode_keys;
      weight* const to = pairs + i * weight_row;
      index_t j = 0;
      for (; j + lanes <= count; j += lanes) {
        longs both;
        __builtin_memcpy(&both, from + j, sizeof both);
        const halves some =
            __builtin_convertvector((both >> 16 & 0xffffu) | (both >> 32 & 0xffff0000u), halves);
        __builtin_memcpy(to + j / 2, &some, sizeof some);
      }
      for (; j < count; j += 2) {
        std::uint32_t bits[2] = {};
        __builtin_memcpy(bits, from + j, (count - j < 2 ? 1 : 2) * sizeof(real));
        to[j / 2] = bits[0] >> 16 | bits[1];
      }
    }
    return pairs;
  }
  ZEROTUNE_ALWAYS_INLINE static operand splat(const weight& w) { return operand::splat(w); }
  /// Of two rows of values, or of one and zeros, the pairs of a column.
  template <index_t Vectors>
  ZEROTUNE_ALWAYS_INLINE static void load_columns(const type* const* rows, index_t left, index_t c,
                                                  index_t columns, operand (&x)[Vectors]) {
    using elements = typename compiler_vector<std::uint16_t, 2 * Batch::size>::type;
    constexpr auto all = std::make_index_sequence<2 * Batch::size>{};
    unrolled<Vectors / 2>([&](auto n) __attribute__((always_inline)) {
      const index_t first = c + n * part, some = Vectors > 2 ? part : columns;
      elements row[2] = {}, pairs;
      load_elements(rows[0] + first, some, row[0]);
      if (left > 1) load_elements(rows[1] + first, some, row[1]);
      interleave<0>(row[0], row[1], pairs, all);
      x[2 * n].words = __builtin_bit_cast(words, pairs);
      interleave<1>(row[0], row[1], pairs, all);
      x[2 * n + 1].words = __builtin_bit_cast(words, pairs);
    });
  }

  template <class Body>
  ZEROTUNE_ALWAYS_INLINE static void with_rows(const type* const* rows, index_t stride,
                                               index_t count, index_t dim,
                                               const rows_ahead<type>& ahead, const Body& body) {
    cells<Batch, type>::with_rows(rows, stride, count, dim, ahead, body);
  }

 private:
  template <class From>
  ZEROTUNE_ALWAYS_INLINE static operand load_words(const From* p) {
    operand x;
    __builtin_memcpy(&x.words, p, sizeof x.words);
    return x;
  }
  template <class Elements>
  ZEROTUNE_ALWAYS_INLINE static void load_elements(const type* from, index_t count, Elements& row) {
    if (count >= part) {
      __builtin_memcpy(&row, from, sizeof row);
    } else {
      words pairs = {};
      load_pairs<Batch>(from, 1, count, pairs);
      row = __builtin_bit_cast(Elements, pairs);
    }
  }
};

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
