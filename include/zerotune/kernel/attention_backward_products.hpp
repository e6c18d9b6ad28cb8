// SPDX-License-Identifier: Apache-2.0
// The small matrix products of the backward pass (layer: kernel), over the batches of a back end or
// without any.
#pragma once

#include "zerotune/kernel/kernel.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

template <class Backend, class Acc>
concept has_batch = requires {
  typename row_ops<Backend, Acc>::batch;
};

/// Rows of a tile are padded with zeros to a multiple of this, which every vector divides.
inline constexpr index_t backward_padding = 16;

constexpr index_t padded(index_t count) {
  return (count + backward_padding - 1) / backward_padding * backward_padding;
}

/// a * b + c; a back end whose row_ops name a `batch` type defines it.
template <class Batch>
ZEROTUNE_ALWAYS_INLINE Batch multiply_add(const Batch& a, const Batch& b, const Batch& c);

/// c += a b for small matrices: a is [rows, depth] with any strides, b [depth, columns] and c
/// [rows, columns] have unit column stride.
template <class Acc>
struct block_product {
  const Acc* a;
  index_t a_row, a_column;
  const Acc* b;
  index_t b_row;
  Acc* c;
  index_t c_row;
  index_t rows, columns, depth;
};

/// Rows by Vectors batches of c stay in registers while the depth is walked.
template <class Batch, index_t Rows, index_t Vectors, class Acc>
ZEROTUNE_ALWAYS_INLINE void product_tile(const block_product<Acc>& p, index_t row_,
                                         index_t column) {
  constexpr auto lanes = static_cast<index_t>(Batch::size);
  Batch totals[Rows][Vectors];
  Acc* const c = p.c + row_ * p.c_row + column;
  for (index_t i = 0; i < Rows; ++i)
    for (index_t n = 0; n < Vectors; ++n)
      totals[i][n] = Batch::load_unaligned(c + i * p.c_row + n * lanes);
  const Acc* a = p.a + row_ * p.a_row;
  const Acc* b = p.b + column;
  for (index_t t = 0; t < p.depth; ++t, a += p.a_column, b += p.b_row) {
    Batch vectors[Vectors];
    for (index_t n = 0; n < Vectors; ++n) vectors[n] = Batch::load_unaligned(b + n * lanes);
    for (index_t i = 0; i < Rows; ++i) {
      const Batch factor(a[i * p.a_row]);
      for (index_t n = 0; n < Vectors; ++n)
        totals[i][n] = multiply_add(factor, vectors[n], totals[i][n]);
    }
  }
  for (index_t i = 0; i < Rows; ++i)
    for (index_t n = 0; n < Vectors; ++n) totals[i][n].store_unaligned(c + i * p.c_row + n * lanes);
}

template <class Batch, index_t Vectors, class Acc>
ZEROTUNE_ALWAYS_INLINE void product_columns(const block_product<Acc>& p, index_t column) {
  index_t i = 0;
  // Two rows alone would wait for one another's sums: 8 rows are two times 4.
  for (; i + 6 <= p.rows && p.rows - i != 8; i += 6) product_tile<Batch, 6, Vectors>(p, i, column);
  for (; i + 4 <= p.rows; i += 4) product_tile<Batch, 4, Vectors>(p, i, column);
  for (; i < p.rows; ++i) product_tile<Batch, 1, Vectors>(p, i, column);
}

/// @pre columns is a multiple of backward_padding
template <class Backend, class Acc>
[[gnu::flatten]] void multiply_blocks(const block_product<Acc>& p) noexcept {
  if constexpr (has_batch<Backend, Acc>) {
    using batch = typename row_ops<Backend, Acc>::batch;
    constexpr auto lanes = static_cast<index_t>(batch::size);
    static_assert(backward_padding % lanes == 0);
    // 24 totals where there are 32 registers, 12 where there are 16.
    constexpr index_t vectors = sizeof(batch) >= 64 ? 4 : 2;
    index_t column = 0;
    for (; column + vectors * lanes <= p.columns; column += vectors * lanes)
      product_columns<batch, vectors>(p, column);
    for (; column < p.columns; column += lanes) product_columns<batch, 1>(p, column);
  } else {
    for (index_t i = 0; i < p.rows; ++i)
      for (index_t t = 0; t < p.depth; ++t) {
        const Acc factor = p.a[i * p.a_row + t * p.a_column];
        for (index_t n = 0; n < p.columns; ++n)
          p.c[i * p.c_row + n] += factor * p.b[t * p.b_row + n];
      }
  }
}

/// to = the transpose of a matrix whose numbers of rows and columns are multiples of
/// backward_padding.
template <class Backend, class Acc>
[[gnu::flatten]] void transpose_block(const Acc* from, index_t from_row, Acc* to, index_t to_row,
                                      index_t rows, index_t columns) noexcept {
  if constexpr (requires { row_ops<Backend, Acc>::transpose(from, from_row, to, to_row); }) {
    constexpr index_t lanes = row_ops<Backend, Acc>::lanes;
    static_assert(backward_padding % lanes == 0);
    for (index_t c = 0; c < columns; c += lanes)
      for (index_t i = 0; i < rows; i += lanes)
        row_ops<Backend, Acc>::transpose(from + i * from_row + c, from_row, to + c * to_row + i,
                                         to_row);
  } else {
    for (index_t c = 0; c < columns; ++c)
      for (index_t i = 0; i < rows; ++i) to[c * to_row + i] = from[i * from_row + c];
  }
}

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
