// SPDX-License-Identifier: Apache-2.0
// Packing for products of bfloat16 pairs (layer: kernel): two neighbours along
// the sum in one 32-bit word. Nothing is rounded; an infinite query or key
// becomes NaN, as in kernel/simd/pack.hpp.
#pragma once

#include "zerotune/kernel/simd/pack.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// The words of a batch of floats.
template <class Batch>
using word_vector = vector_like<std::uint32_t, Batch>;

template <class Batch>
ZEROTUNE_ALWAYS_INLINE Batch from_words(const word_vector<Batch>& words) {
  return Batch(__builtin_bit_cast(register_of<Batch>, words));
}
template <class Batch>
ZEROTUNE_ALWAYS_INLINE void to_words(const Batch& x, word_vector<Batch>& words) {
  words = __builtin_bit_cast(word_vector<Batch>, static_cast<register_of<Batch>>(x));
}

/// A batch of pairs from a row of bfloat16: elements 2i and 2i + 1 in lane i;
/// zero beyond `count`.
template <class Batch>
ZEROTUNE_ALWAYS_INLINE void load_pairs(const bfloat16* from, index_t stride, index_t count,
                                       word_vector<Batch>& pairs) {
  if (stride == 1 && count >= 2 * lanes<Batch>) {
    __builtin_memcpy(&pairs, from, sizeof pairs);
    return;
  }
  std::uint16_t values[2 * Batch::size] = {};
  const index_t here = count < 2 * lanes<Batch> ? count : 2 * lanes<Batch>;
  for (index_t i = 0; i < here; ++i) values[i] = from[i * stride].bits;
  __builtin_memcpy(&pairs, values, sizeof pairs);
}

/// Where a half of a pair has the greatest exponent, a bit of its significand
/// is set: infinity becomes NaN.
template <class Batch>
ZEROTUNE_ALWAYS_INLINE void pairs_finite_or_nan(word_vector<Batch>& pairs) {
  using words = word_vector<Batch>;
  const words low = (words)((pairs & 0x7f80u) == 0x7f80u);
  const words high = (words)((pairs & 0x7f800000u) == 0x7f800000u);
  pairs |= (low & 0x40u) | (high & 0x400000u);
}

/// q[c / 2][i] = the pair of coordinates c and c + 1 of query i, for c <
/// padded_dim; zero where there is no query or no coordinate.
template <class Shape>
[[gnu::flatten]] void pack_query_pairs(panel<Shape>& p, const row_view<bfloat16>& q,
                                       index_t padded_dim) noexcept {
  using Batch = typename Shape::batch;
  for (index_t n = 0; n < Shape::vectors; ++n)
    for (index_t c = 0; c < padded_dim; c += 2 * lanes<Batch>) {
      Batch square[Batch::size];
      for (index_t i = 0; i < lanes<Batch>; ++i) {
        const index_t query = n * lanes<Batch> + i;
        word_vector<Batch> pairs = {};
        if (query < p.queries && c < q.columns)
          load_pairs<Batch>(q.at(query) + c * q.stride, q.stride, q.columns - c, pairs);
        pairs_finite_or_nan<Batch>(pairs);
        square[i] = from_words<Batch>(pairs);
      }
      transpose_square(square);
      for (index_t i = 0; i < lanes<Batch> && c + 2 * i < padded_dim; ++i)
        square[i].store_aligned(p.q + (c / 2 + i) * p.width + n * lanes<Batch>);
    }
}

/// to[j][c] = coordinate c of key j, for rows [rows.begin, rows.end) of a block
/// and c < padded_dim.
template <class Batch>
[[gnu::flatten]] void pack_key_pairs(const row_view<bfloat16>& k, range rows, index_t padded_dim,
                                     bfloat16* to, index_t to_row) noexcept {
  for (index_t j = rows.begin; j < rows.end; ++j)
    for (index_t c = 0; c < padded_dim; c += 2 * lanes<Batch>) {
      word_vector<Batch> pairs = {};
      if (k.valid.contains(j) && c < k.columns)
        load_pairs<Batch>(k.at(j) + c * k.stride, k.stride, k.columns - c, pairs);
      pairs_finite_or_nan<Batch>(pairs);
      __builtin_memcpy(static_cast<void*>(to + j * to_row + c), &pairs, sizeof pairs);
    }
}

/// Of rows j and j + 1 of values the pairs of columns at c, made pairs of rows:
/// those of the even columns and of the odd ones. Sets *special where an
/// element is not finite.
template <class Batch>
ZEROTUNE_ALWAYS_INLINE void load_row_pairs(const row_view<bfloat16>& v, index_t j, index_t c,
                                           word_vector<Batch>& even, word_vector<Batch>& odd,
                                           word_vector<Batch>& special) {
  using words = word_vector<Batch>;
  words two[2] = {};
  for (index_t k = 0; k < 2; ++k) {
    if (!v.valid.contains(j + k) || c >= v.columns) continue;
    load_pairs<Batch>(v.at(j + k) + c * v.stride, v.stride, v.columns - c, two[k]);
    special |=
        (words)((two[k] & 0x7f80u) == 0x7f80u) | (words)((two[k] & 0x7f800000u) == 0x7f800000u);
  }
  even = (two[0] & 0xffffu) | (two[1] << 16);
  odd = (two[0] >> 16) | (two[1] & 0xffff0000u);
}

template <class Batch>
ZEROTUNE_ALWAYS_INLINE bool none_set(const word_vector<Batch>& words) {
  std::uint32_t any = 0;
  for (std::size_t i = 0; i < Batch::size; ++i) any |= words[i];
  return any == 0;
}

/// Tiles [key / 2][group] of pairs of keys, for rows [rows.begin, rows.end) of
/// a block, a multiple of four: of each 2 * group columns the even ones, then
/// the odd ones. False if a value is not finite.
template <class Shape>
[[gnu::flatten]] bool pack_value_pairs(const row_view<bfloat16>& v, range rows, index_t padded_dim,
                                       std::uint32_t* to, index_t to_tile) noexcept {
  using Batch = typename Shape::batch;
  constexpr index_t group = Shape::group;
  static_assert(lanes<Batch> % group == 0);
  word_vector<Batch> special = {};
  for (index_t j = rows.begin; j < rows.end; j += 4)
    for (index_t c = 0; c < padded_dim; c += 2 * lanes<Batch>) {
      word_vector<Batch> first[2], second[2];  // even columns, odd columns
      load_row_pairs<Batch>(v, j, c, first[0], first[1], special);
      load_row_pairs<Batch>(v, j + 2, c, second[0], second[1], special);
      std::uint32_t* const tile = to + c / group * to_tile + j / 2 * group;
      unrolled<2>([&](auto odd) __attribute__((always_inline)) {
        store_in_tiles<group>(from_words<Batch>(first[odd]), from_words<Batch>(second[odd]),
                              tile + odd * to_tile,
                              c + 2 * group < padded_dim ? tile + (2 + odd) * to_tile : nullptr);
      });
    }
  return none_set<Batch>(special);
}

/// to[c][j] = column c of value j, transposed, for rows [rows.begin, rows.end)
/// of a block, a multiple of two batches, and c < padded_dim. False if a value
/// is not finite.
template <class Batch>
[[gnu::flatten]] bool pack_value_columns(const row_view<bfloat16>& v, range rows,
                                         index_t padded_dim, bfloat16* to,
                                         index_t to_row) noexcept {
  word_vector<Batch> special = {};
  for (index_t j = rows.begin; j < rows.end; j += 2 * lanes<Batch>)
    for (index_t c = 0; c < padded_dim; c += 2 * lanes<Batch>) {
      Batch squares[2][Batch::size];
      for (index_t i = 0; i < lanes<Batch>; ++i) {
        word_vector<Batch> even, odd;
        load_row_pairs<Batch>(v, j + 2 * i, c, even, odd, special);
        squares[0][i] = from_words<Batch>(even);
        squares[1][i] = from_words<Batch>(odd);
      }
      for (index_t odd = 0; odd < 2; ++odd) {
        transpose_square(squares[odd]);
        for (index_t i = 0; i < lanes<Batch> && c + 2 * i + odd < padded_dim; ++i)
          squares[odd][i].store_unaligned(
              reinterpret_cast<float*>(to + (c + 2 * i + odd) * to_row + j));
      }
    }
  return none_set<Batch>(special);
}

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
