// SPDX-License-Identifier: Apache-2.0
// Packing for attention (layer: kernel): queries into lanes, keys and values into rows and columns
// as the register tiles read them, outputs back. Any element type and stride; an infinite query or
// key becomes NaN, so that every logit made of it is NaN whatever its sign would have been.
#pragma once

#include "zerotune/kernel/simd/load.hpp"
#include "zerotune/kernel/simd/panel.hpp"
#include "zerotune/kernel/simd/transpose.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// x, or NaN where x is not finite.
template <class Batch>
ZEROTUNE_ALWAYS_INLINE Batch finite_or_nan(const Batch& x) {
  return multiply_add(x, Batch(typename Batch::value_type(0)), x);
}

/// q[c][i] = factor * query i's coordinate c; zero in the lanes without a query.
template <class Shape, class T>
[[gnu::flatten]] void pack_queries(panel<Shape>& p, const T* q, index_t row_step, index_t stride,
                                   index_t head_dim, typename Shape::real factor) noexcept {
  using Batch = typename Shape::batch;
  const Batch f(factor), zero(typename Shape::real(0));
  for (index_t n = 0; n < p.used; ++n)
    for (index_t c = 0; c < head_dim; c += lanes<Batch>) {
      const index_t columns = head_dim - c < lanes<Batch> ? head_dim - c : lanes<Batch>;
      Batch square[Batch::size];
      for (index_t i = 0; i < lanes<Batch>; ++i) {
        const index_t query = n * lanes<Batch> + i;
        square[i] =
            query < p.queries
                ? finite_or_nan(Batch(
                      load_any<Batch>(q + query * row_step + c * stride, stride, columns) * f))
                : zero;
      }
      transpose_square(square);
      for (index_t i = 0; i < columns; ++i)
        square[i].store_aligned(p.q + (c + i) * p.width + n * lanes<Batch>);
    }
}

/// Rows of keys or values, of which those in `valid` are in memory, the first of them at `data`.
/// What stands beyond is taken for zero and never read.
template <class T>
struct row_view {
  const T* data;
  index_t row_step, stride, columns;
  range valid;

  ZEROTUNE_ALWAYS_INLINE const T* at(index_t row) const {
    return data + (row - valid.begin) * row_step;
  }
};

/// to[j][c] = coordinate c of key j, for rows [rows.begin, rows.end) of a block.
template <class Batch, class T>
[[gnu::flatten]] void pack_keys(const row_view<T>& k, range rows, typename Batch::value_type* to,
                                index_t to_row) noexcept {
  using real = typename Batch::value_type;
  for (index_t j = rows.begin; j < rows.end; ++j)
    for (index_t c = 0; c < k.columns; c += lanes<Batch>) {
      const index_t left = k.columns - c < lanes<Batch> ? k.columns - c : lanes<Batch>;
      const Batch x = k.valid.contains(j) ? load_any<Batch>(k.at(j) + c * k.stride, k.stride, left)
                                          : Batch(real(0));
      finite_or_nan(x).store_aligned(to + j * to_row + c);
    }
}

/// Columns of two consecutive rows of tiles that are Group elements wide. Where a batch reaches
/// into a second tile, at `beyond` or nowhere, it is written in whole lines: those of one row lie
/// far apart and would leave the cache half filled.
template <index_t Group, class Batch, class T>
ZEROTUNE_ALWAYS_INLINE void store_in_tiles(Batch first, Batch second, T* to, T* beyond) {
  static_assert(lanes<Batch> <= 2 * Group);
  if constexpr (lanes<Batch> == 2 * Group) {
    exchange_lanes<static_cast<std::size_t>(Group)>(first, second,
                                                    std::make_index_sequence<Batch::size>{});
    __builtin_memcpy(to, &first, sizeof first);
    if (beyond) __builtin_memcpy(beyond, &second, sizeof second);
  } else {
    __builtin_memcpy(to, &first, sizeof first);
    __builtin_memcpy(to + Group, &second, sizeof second);
  }
}

/// to[c / group][j][c % group] = column c of value j, for rows [rows.begin, rows.end) of a block,
/// an even number; columns beyond the last are zero. False if one is not finite.
template <class Shape, class T>
[[gnu::flatten]] bool pack_values(const row_view<T>& v, range rows, typename Shape::real* to,
                                  index_t to_tile) noexcept {
  using real = typename Shape::real;
  using Batch = typename Shape::batch;
  constexpr index_t group = Shape::group;
  const index_t padded = round_up(v.columns, group);
  Batch poison(real(0));
  for (index_t j = rows.begin; j < rows.end; j += 2)
    for (index_t c = 0; c < padded; c += lanes<Batch>) {
      const index_t left = v.columns - c < lanes<Batch> ? v.columns - c : lanes<Batch>;
      Batch two[2] = {Batch(real(0)), Batch(real(0))};
      for (index_t i = 0; i < 2; ++i) {
        if (left <= 0 || !v.valid.contains(j + i)) continue;
        two[i] = load_any<Batch>(v.at(j + i) + c * v.stride, v.stride, left);
        poison = multiply_add(two[i], Batch(real(0)), poison);
      }
      real* const tile = to + c / group * to_tile + j * group;
      store_in_tiles<group>(two[0], two[1], tile + c % group,
                            c + group < padded ? tile + to_tile : nullptr);
    }
  return sum_of_lanes(poison) == real(0);
}

/// Writes two batches of columns of vector n, times f, to rows of bfloat16: rounded before they are
/// transposed, two to a word, which halves the work.
template <class Shape>
ZEROTUNE_ALWAYS_INLINE void unpack_column_pairs(const panel<Shape>& p, index_t n, index_t c,
                                                const typename Shape::batch& f, bfloat16* out,
                                                index_t row_step) {
  using Batch = typename Shape::batch;
  using words = vector_like<std::uint32_t, Batch>;
  Batch square[Batch::size];
  for (index_t i = 0; i < lanes<Batch>; ++i) {
    const auto* const at = p.out + (c + 2 * i) * p.width + n * lanes<Batch>;
    words even, odd;
    bfloat16_words<Batch>(Batch::load_aligned(at) * f, even);
    bfloat16_words<Batch>(Batch::load_aligned(at + p.width) * f, odd);
    square[i] = Batch(__builtin_bit_cast(register_of<Batch>, even | (odd << 16)));
  }
  transpose_square(square);
  for (index_t i = 0; i < lanes<Batch> && n * lanes<Batch> + i < p.queries; ++i)
    __builtin_memcpy(static_cast<void*>(out + (n * lanes<Batch> + i) * row_step + c), &square[i],
                     sizeof square[i]);
}

/// Writes out[c][i] * factor[i] to row i, column c.
template <class Shape, class T>
[[gnu::flatten]] void unpack_output(const panel<Shape>& p, const typename Shape::real* factor,
                                    T* out, index_t row_step, index_t stride,
                                    index_t value_dim) noexcept {
  using real = typename Shape::real;
  using Batch = typename Shape::batch;
  for (index_t n = 0; n < p.used; ++n) {
    const Batch f = Batch::load_aligned(factor + n * lanes<Batch>);
    index_t first = 0;
    if constexpr (std::is_same_v<T, bfloat16> && std::is_same_v<real, float>)
      if (stride == 1)
        for (; first + 2 * lanes<Batch> <= value_dim; first += 2 * lanes<Batch>)
          unpack_column_pairs(p, n, first, f, out, row_step);
    for (index_t c = first; c < value_dim; c += lanes<Batch>) {
      const index_t columns = value_dim - c < lanes<Batch> ? value_dim - c : lanes<Batch>;
      Batch square[Batch::size];
      for (index_t i = 0; i < lanes<Batch>; ++i)
        square[i] = i < columns
                        ? Batch::load_aligned(p.out + (c + i) * p.width + n * lanes<Batch>) * f
                        : Batch(real(0));
      transpose_square(square);
      for (index_t i = 0; i < lanes<Batch> && n * lanes<Batch> + i < p.queries; ++i) {
        T* const to = out + (n * lanes<Batch> + i) * row_step + c * stride;
        if (stride == 1 && columns == lanes<Batch>) {
          store(square[i], to);
        } else if (stride == 1) {
          store_first(square[i], to, columns);
        } else {
          real values[Batch::size];
          square[i].store_unaligned(values);
          for (index_t x = 0; x < columns; ++x) to[x * stride] = static_cast<T>(values[x]);
        }
      }
    }
  }
}

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
