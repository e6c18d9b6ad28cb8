// SPDX-License-Identifier: Apache-2.0
// The pieces of attention on a tile of queries (layer: kernel). Lanes are queries: S^T = K Q^T and
// O^T = V^T P, so that maximum, exp, sum and the modifier's masks are vertical.
#pragma once

#include "zerotune/kernel/attention_row.hpp"
#include "zerotune/kernel/simd/exp.hpp"
#include "zerotune/kernel/simd/load.hpp"
#include "zerotune/kernel/simd/transpose.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// Widest head_dim and value_dim of a tile, keys of one step of the online softmax, and keys that
/// are converted at a time where K or V are not contiguous rows of the accumulator.
inline constexpr index_t tile_dim = 256;
inline constexpr index_t tile_keys = 64;
inline constexpr index_t converted_keys = 32;

/// Queries of a tile are Vectors batches wide; its memory lives on the caller's stack.
template <class Batch, index_t Vectors>
struct tile {
  using real = typename Batch::value_type;
  static constexpr index_t width = Vectors * lanes<Batch>;
  /// Rows of K, or columns of V, that one product takes: their sums fill most of the registers.
  static constexpr index_t group = Batch::size * sizeof(real) == 64 || Vectors == 1 ? 8 : 4;

  alignas(64) real q[tile_dim * width];        // [head_dim][width]
  alignas(64) real out[tile_dim * width];      // [value_dim][width]
  alignas(64) real scores[tile_keys * width];  // [keys][width], then the weights
  alignas(64) real rows[converted_keys * tile_dim];
  alignas(64) real maximum[width], sum[width], poison[width], count[width];
};

/// q[c][i] = query i's coordinate c; zero in the lanes beyond `queries`.
template <class Batch, index_t Vectors, class T>
ZEROTUNE_ALWAYS_INLINE void pack_queries(tile<Batch, Vectors>& t, const T* q, index_t q_row,
                                         index_t q_stride, index_t queries, index_t head_dim) {
  for (index_t v = 0; v < Vectors; ++v)
    for (index_t c = 0; c < head_dim; c += lanes<Batch>) {
      const index_t columns = head_dim - c < lanes<Batch> ? head_dim - c : lanes<Batch>;
      Batch square[Batch::size];
      for (index_t i = 0; i < lanes<Batch>; ++i) {
        const index_t query = v * lanes<Batch> + i;
        square[i] = query < queries
                        ? load_any<Batch>(q + query * q_row + c * q_stride, q_stride, columns)
                        : Batch(typename Batch::value_type(0));
      }
      transpose_square(square);
      for (index_t i = 0; i < columns; ++i)
        square[i].store_aligned(t.q + (c + i) * t.width + v * lanes<Batch>);
    }
}

/// Rows [first, first + count) of K or V as contiguous rows of the accumulator: as they stand, or
/// converted into the tile; then rows for which skip(i) holds are zero, unread.
template <class T, class Real>
struct tile_rows {
  const Real* data;
  index_t row;
};
template <class Batch, index_t Vectors, class T, class Skip>
ZEROTUNE_ALWAYS_INLINE auto convert_rows(tile<Batch, Vectors>& t, const T* from, index_t row_step,
                                         index_t stride, index_t count, index_t columns, bool skips,
                                         const Skip& skip) {
  using real = typename Batch::value_type;
  using result = tile_rows<T, real>;
  if constexpr (std::is_same_v<T, real>) {
    if (stride == 1 && !skips) return result{from, row_step};
  }
  for (index_t i = 0; i < count; ++i) {
    real* const to = t.rows + i * tile_dim;
    const T* const source = from + i * row_step;
    if (skips && skip(i)) {
      for (index_t c = 0; c < columns; ++c) to[c] = real(0);
      continue;
    }
    for (index_t c = 0; c < columns; c += lanes<Batch>) {
      const index_t left = columns - c < lanes<Batch> ? columns - c : lanes<Batch>;
      load_any<Batch>(source + c * stride, stride, left).store_aligned(to + c);
    }
  }
  return result{t.rows, tile_dim};
}

/// scores[j][i] = factor <k_j, q_i> for Group keys; those at or beyond `count` repeat the last one.
template <index_t Group, class Batch, index_t Vectors>
ZEROTUNE_ALWAYS_INLINE void multiply_keys(const tile<Batch, Vectors>& t,
                                          const typename Batch::value_type* k, index_t k_row,
                                          index_t count, index_t head_dim, const Batch& factor,
                                          typename Batch::value_type* scores) {
  using real = typename Batch::value_type;
  const real* key[Group];
  for (index_t j = 0; j < Group; ++j) key[j] = k + (j < count ? j : count - 1) * k_row;
  Batch sums[Group][Vectors];
  for (index_t j = 0; j < Group; ++j)
    for (index_t v = 0; v < Vectors; ++v) sums[j][v] = Batch(real(0));
  for (index_t c = 0; c < head_dim; ++c) {
    Batch q[Vectors];
    for (index_t v = 0; v < Vectors; ++v)
      q[v] = Batch::load_aligned(t.q + c * t.width + v * lanes<Batch>);
    for (index_t j = 0; j < Group; ++j) {
      const Batch x(key[j][c]);
      for (index_t v = 0; v < Vectors; ++v) sums[j][v] = multiply_add(x, q[v], sums[j][v]);
    }
  }
  for (index_t j = 0; j < Group; ++j)
    for (index_t v = 0; v < Vectors; ++v)
      (sums[j][v] * factor).store_aligned(scores + j * t.width + v * lanes<Batch>);
}

/// out[c][i] = shrink[i] out[c][i] + sum_j weights[j][i] v[j][c] for Group columns.
template <index_t Group, class Batch, index_t Vectors>
ZEROTUNE_ALWAYS_INLINE void multiply_values(const typename Batch::value_type* weights,
                                            const typename Batch::value_type* v, index_t v_row,
                                            index_t count, const Batch (&shrink)[Vectors],
                                            typename Batch::value_type* out) {
  constexpr index_t width = Vectors * lanes<Batch>;
  Batch sums[Group][Vectors];
  for (index_t c = 0; c < Group; ++c)
    for (index_t n = 0; n < Vectors; ++n)
      sums[c][n] = Batch::load_aligned(out + c * width + n * lanes<Batch>) * shrink[n];
  for (index_t j = 0; j < count; ++j) {
    Batch w[Vectors];
    for (index_t n = 0; n < Vectors; ++n)
      w[n] = Batch::load_aligned(weights + j * width + n * lanes<Batch>);
    for (index_t c = 0; c < Group; ++c) {
      const Batch x(v[j * v_row + c]);
      for (index_t n = 0; n < Vectors; ++n) sums[c][n] = multiply_add(x, w[n], sums[c][n]);
    }
  }
  for (index_t c = 0; c < Group; ++c)
    for (index_t n = 0; n < Vectors; ++n)
      sums[c][n].store_aligned(out + c * width + n * lanes<Batch>);
}

/// Writes out[c][i] * factor[i] to row i, column c; lanes beyond `queries` are dropped.
template <class Batch, index_t Vectors, class T>
ZEROTUNE_ALWAYS_INLINE void unpack_output(const tile<Batch, Vectors>& t,
                                          const typename Batch::value_type* factor, T* out,
                                          index_t out_row, index_t out_stride, index_t queries,
                                          index_t value_dim) {
  using real = typename Batch::value_type;
  for (index_t n = 0; n < Vectors; ++n) {
    const Batch f = Batch::load_aligned(factor + n * lanes<Batch>);
    for (index_t c = 0; c < value_dim; c += lanes<Batch>) {
      const index_t columns = value_dim - c < lanes<Batch> ? value_dim - c : lanes<Batch>;
      Batch square[Batch::size];
      for (index_t i = 0; i < lanes<Batch>; ++i)
        square[i] = i < columns
                        ? Batch::load_aligned(t.out + (c + i) * t.width + n * lanes<Batch>) * f
                        : Batch(real(0));
      transpose_square(square);
      for (index_t i = 0; i < lanes<Batch> && n * lanes<Batch> + i < queries; ++i) {
        T* const to = out + (n * lanes<Batch> + i) * out_row + c * out_stride;
        if (out_stride == 1 && columns == lanes<Batch>) {
          store(square[i], to);
        } else if (out_stride == 1) {
          store_first(square[i], to, columns);
        } else {
          real values[Batch::size];
          square[i].store_unaligned(values);
          for (index_t x = 0; x < columns; ++x) to[x * out_stride] = static_cast<T>(values[x]);
        }
      }
    }
  }
}

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
