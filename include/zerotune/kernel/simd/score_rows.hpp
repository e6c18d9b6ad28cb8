// SPDX-License-Identifier: Apache-2.0
// Decode's tiles of queries by keys (layer: kernel): a pair of query and key takes one accumulator.
// A query's scores have the same bits in every tile.
#pragma once

#include "zerotune/kernel/simd/fetch_rows.hpp"
#include "zerotune/kernel/simd/reduction.hpp"
#include "zerotune/kernel/simd/unrolled.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// The rows of a tile: the last one again where there are no more.
template <index_t Width, class Cell>
ZEROTUNE_ALWAYS_INLINE void take_rows(const Cell* const* rows, index_t left,
                                      const Cell* (&tile)[Width]) {
  if (left >= Width)
    for (index_t n = 0; n < Width; ++n) tile[n] = rows[n];
  else
    for (index_t n = 0; n < Width; ++n) tile[n] = rows[n < left ? n : left - 1];
}

/// Stores sums[i][n] of a tile as scores[i][n], for the first `keys` keys.
template <index_t Queries, class Batch>
ZEROTUNE_ALWAYS_INLINE void store_scores(const Batch& sums, index_t keys,
                                         typename Batch::value_type* scores) {
  using real = typename Batch::value_type;
  constexpr index_t width = lanes<Batch> / Queries;
#if defined(__AVX512F__)
  // Not by way of the stack: loads of a part of what was just stored wait.
  if constexpr (is_512_bits<Batch, float> && width == 4)
    if (keys >= width) {
      unrolled<Queries>([&](auto i) __attribute__((always_inline)) {
        _mm_storeu_ps(scores + i * decode_keys, _mm512_extractf32x4_ps(sums, i.value));
      });
      return;
    }
#endif
  alignas(64) real values[Batch::size];
  sums.store_aligned(values);
  for (index_t i = 0; i < Queries; ++i) {
    if (keys >= width)
      __builtin_memcpy(scores + i * decode_keys, values + i * width, width * sizeof(real));
    else
      for (index_t n = 0; n < keys; ++n) scores[i * decode_keys + n] = values[i * width + n];
  }
}

/// factor <q_i, k_n> for Queries queries and the keys of a tile, which are keys j, j + 1, ... of
/// those that are gone over: lane i * width + n.
template <index_t Queries, class Cells, class T, class Acc = typename Cells::real>
ZEROTUNE_ALWAYS_INLINE typename Cells::batch score_tile(
    const Acc* packed, index_t packed_row,
    const typename Cells::type* const (&tile)[lanes<typename Cells::batch> / Queries], index_t j,
    index_t dim, Acc factor, const rows_ahead<T>& ahead) {
  using Batch = typename Cells::batch;
  using operand = typename Cells::operand;
  constexpr index_t lanes = impl::lanes<Batch>, width = lanes / Queries;
  Batch sums[Batch::size];
  unrolled<lanes>([&](auto n) __attribute__((always_inline)) { sums[n] = Batch(Acc(0)); });
  const auto add = [&](const Acc* q, const auto& load) __attribute__((always_inline)) {
    operand along[Queries];
    unrolled<Queries>([&](auto i) __attribute__((always_inline)) {
      along[i] = Cells::load_packed(q + i * packed_row);
    });
    unrolled<width>([&](auto n) __attribute__((always_inline)) {
      const operand x = load(tile[n]);
      unrolled<Queries>([&](auto i) __attribute__((always_inline)) {
        sums[i * width + n] = along[i].multiply(x, sums[i * width + n]);
      });
    });
  };
  constexpr bool in_pieces = fetches_in_pieces<Batch>;
  if constexpr (!in_pieces) fetch_lines<width, 2>(ahead, j, 0, ahead.bytes);
  index_t c = 0;
  const Acc* q = packed;
  for (; c + 2 * lanes <= dim; c += 2 * lanes) {
    if constexpr (in_pieces) fetch_columns<width, 2 * lanes>(ahead, j, c);
    unrolled<Cells::parts>([&](auto part) __attribute__((always_inline)) {
      add(
          q, [&](const auto* row) __attribute__((always_inline)) {
            return Cells::template load_part<part.value>(row + c);
          });
      q += lanes;
    });
  }
  if constexpr (in_pieces) fetch_rest<width>(ahead, j, c);
  for (; c < dim; c += Cells::part, q += lanes)
    add(
        q, [&](const auto* row)
               __attribute__((always_inline)) { return Cells::load_rest(row + c, dim - c); });
  return reduce_rows(sums) * Batch(factor);
}

/// scores[i][j] = factor <q_i, k_j> for Queries queries, decode_keys apart.
template <index_t Queries, class Cells, class T, class Acc = typename Cells::real>
ZEROTUNE_ALWAYS_INLINE void score_rows(const Acc* packed, index_t packed_row,
                                       const typename Cells::type* const* keys, index_t count,
                                       index_t dim, Acc factor, Acc* scores,
                                       const rows_ahead<T>& ahead) {
  constexpr index_t width = lanes<typename Cells::batch> / Queries;
  for (index_t j = 0; j < count; j += width) {
    const typename Cells::type* tile[width];
    take_rows<width>(keys + j, count - j, tile);
    store_scores<Queries>(
        score_tile<Queries, Cells>(packed, packed_row, tile, j, dim, factor, ahead), count - j,
        scores + j);
  }
}

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
