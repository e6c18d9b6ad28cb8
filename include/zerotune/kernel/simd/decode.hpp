// SPDX-License-Identifier: Apache-2.0
// The SIMD back end's operations of decode (layer: kernel): a tile of queries by keys takes one
// accumulator a pair, so that a row of K serves several queries while it is in registers; a tile of
// queries by columns goes over the rows of V.
#pragma once

#include "zerotune/kernel/decode.hpp"
#include "zerotune/kernel/simd/cells.hpp"
#include "zerotune/kernel/simd/reduction.hpp"
#include "zerotune/kernel/simd/row_ops.hpp"

#if defined(__GNUC__) && !defined(__clang__)  // as in xsimd_compat.hpp
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

template <class Arch, cache_element T>
struct decode_ops<backend::simd<Arch>, T> {
  using acc = accumulator_t<T>;
  using batch = impl::batch<acc, Arch>;
  using cells = impl::cells<batch, T>;
  using cell = typename cells::type;
  static constexpr index_t lanes = impl::lanes<batch>;
  /// Accumulators of a tile of queries by columns: half of the registers, or all but those of V.
  static constexpr index_t most_columns = sizeof(acc) * batch::size == 64 ? 4 : 2;

  template <element Q>
  [[gnu::flatten]] static void pack(const Q* q, index_t q_stride, index_t dim,
                                    acc* packed) noexcept {
    for (index_t c = 0; c < padded_dim(dim); c += lanes)
      (c < dim ? load_any<batch>(q + c * q_stride, q_stride, dim - c < lanes ? dim - c : lanes)
               : batch(acc(0)))
          .store_aligned(packed + c);
    if (cells::is_paired) cells::template reorder<true>(packed, dim);
  }
  static void unpack(acc* out, index_t dim) noexcept {
    if (cells::is_paired) cells::template reorder<false>(out, dim);
  }

  [[gnu::flatten]] static acc raise_maximum(acc* scores, index_t count, acc maximum,
                                            acc* poison) noexcept {
    // Behind the scores: what neither raises a maximum nor has a weight.
    for (index_t j = count; j % lanes != 0; ++j) scores[j] = lowest_value<acc>();
    batch greatest(maximum), products = batch::load_unaligned(poison);
    for (index_t j = 0; j < count; j += lanes) {
      const batch x = batch::load_aligned(scores + j);
      greatest = xsimd::max(x, greatest);
      products = multiply_add(x, batch(acc(0)), products);
    }
    products.store_unaligned(poison);
    return greatest_lane(greatest);
  }
  [[gnu::flatten]] static void weigh(acc* scores, index_t count, acc maximum, acc* sum) noexcept {
    for (index_t j = count; j % lanes != 0; ++j) scores[j] = lowest_value<acc>();
    const batch shift(maximum);
    // A sum of its own: small weights that are added one by one to a great one, as gamma makes it,
    // round in the same direction.
    batch total(acc(0));
    for (index_t j = 0; j < count; j += lanes) {
      const batch weight = exp_nonpositive(batch::load_aligned(scores + j) - shift);
      weight.store_aligned(scores + j);
      total += weight;
    }
    (batch::load_unaligned(sum) + total).store_unaligned(sum);
  }

  [[gnu::flatten]] static void scores(const acc* packed, index_t packed_row, index_t rows,
                                      const T* const* keys, index_t stride, index_t count,
                                      index_t dim, acc factor, acc* scores,
                                      rows_ahead<T> ahead) noexcept {
    cells::with_rows(keys, stride, count, dim,
                     [&](const cell* const* k, index_t first, index_t some) {
                       index_t i = 0;
                       const auto tiles = [&](auto width) {
                         constexpr index_t queries = decltype(width)::value;
                         for (; i + queries <= rows; i += queries) {
                           score_rows<queries>(packed + i * packed_row, packed_row, k, some, dim,
                                               factor, scores + i * decode_keys + first, ahead);
                           ahead = {};
                         }
                       };
                       if constexpr (lanes >= 4) tiles(std::integral_constant<index_t, 4>{});
                       tiles(std::integral_constant<index_t, 2>{});
                       tiles(std::integral_constant<index_t, 1>{});
                     });
  }

  [[gnu::flatten]] static void accumulate(const acc* weights, index_t rows, const T* const* values,
                                          index_t stride, index_t count, index_t dim, acc* out,
                                          index_t out_row, rows_ahead<T> ahead) noexcept {
    cells::with_rows(values, stride, count, dim,
                     [&](const cell* const* v, index_t first, index_t some) {
                       index_t i = 0;
                       const auto tiles = [&](auto width) {
                         constexpr index_t queries = decltype(width)::value;
                         for (; i + queries <= rows; i += queries) {
                           add_rows<queries>(weights + i * decode_keys + first, v, some, dim,
                                             out + i * out_row, out_row, ahead);
                           ahead = {};
                         }
                       };
                       tiles(std::integral_constant<index_t, 4>{});
                       tiles(std::integral_constant<index_t, 2>{});
                       tiles(std::integral_constant<index_t, 1>{});
                     });
  }

 private:
  /// scores[i][j] for Queries queries.
  template <index_t Queries>
  ZEROTUNE_ALWAYS_INLINE static void score_rows(const acc* packed, index_t packed_row,
                                                const cell* const* keys, index_t count, index_t dim,
                                                acc factor, acc* scores, rows_ahead<T> ahead) {
    constexpr index_t width = lanes / Queries;
    const batch f(factor);
    for (index_t j = 0; j < count; j += width) {
      const index_t left = count - j;
      const cell* tile[width];
      if (left >= width)
        for (index_t n = 0; n < width; ++n) tile[n] = keys[j + n];
      else
        for (index_t n = 0; n < width; ++n) tile[n] = keys[j + (n < left ? n : left - 1)];
      batch sums[batch::size];
      for (batch& sum : sums) sum = batch(acc(0));
      index_t c = 0, asked = 0;
      for (; c + 2 * lanes <= dim; c += 2 * lanes) {
        if (asked < width) fetch_row(ahead, j + asked++);
        add_products<Queries, 0>(packed + c, packed_row, tile, c, sums);
        add_products<Queries, 1>(packed + c + lanes, packed_row, tile, c, sums);
      }
      while (asked < width) fetch_row(ahead, j + asked++);
      for (; c < dim; c += lanes) {
        const index_t columns = dim - c;
        batch along[Queries];
        for (index_t i = 0; i < Queries; ++i)
          along[i] = batch::load_aligned(packed + i * packed_row + c);
        for (index_t n = 0; n < width; ++n) {
          const batch x =
              columns < lanes ? load_first<batch>(tile[n] + c, columns) : load<batch>(tile[n] + c);
          for (index_t i = 0; i < Queries; ++i)
            sums[i * width + n] = multiply_add(along[i], x, sums[i * width + n]);
        }
      }
      alignas(64) acc values[batch::size];
      (reduce_rows(sums) * f).store_aligned(values);
      for (index_t i = 0; i < Queries; ++i) {
        if (left >= width)
          __builtin_memcpy(scores + i * decode_keys + j, values + i * width, width * sizeof(acc));
        else
          for (index_t n = 0; n < left; ++n)
            scores[i * decode_keys + j + n] = values[i * width + n];
      }
    }
  }

  template <index_t Queries, int Half>
  ZEROTUNE_ALWAYS_INLINE static void add_products(const acc* packed, index_t packed_row,
                                                  const cell* const* tile, index_t c,
                                                  batch (&sums)[batch::size]) {
    constexpr index_t width = lanes / Queries;
    batch along[Queries];
    for (index_t i = 0; i < Queries; ++i) along[i] = batch::load_aligned(packed + i * packed_row);
    for (index_t n = 0; n < width; ++n) {
      const batch x = cells::template load_half<Half>(tile[n] + c);
      for (index_t i = 0; i < Queries; ++i)
        sums[i * width + n] = multiply_add(along[i], x, sums[i * width + n]);
    }
  }

  /// out_i += sum_j weights[i][j] v_j for Queries queries.
  template <index_t Queries>
  ZEROTUNE_ALWAYS_INLINE static void add_rows(const acc* weights, const cell* const* values,
                                              index_t count, index_t dim, acc* out, index_t out_row,
                                              rows_ahead<T> ahead) {
    constexpr index_t wide = Queries < 4 ? 2 * most_columns : most_columns;
    index_t c = 0;
    const auto columns = [&](auto width) {
      constexpr index_t vectors = decltype(width)::value;
      for (; c + vectors * lanes <= dim; c += vectors * lanes) {
        add_columns<Queries, vectors>(weights, values, count, c, lanes, out + c, out_row, ahead);
        ahead = {};
      }
    };
    columns(std::integral_constant<index_t, wide>{});
    columns(std::integral_constant<index_t, 2>{});
    columns(std::integral_constant<index_t, 1>{});
    if (c < dim)
      add_columns<Queries, 1>(weights, values, count, c, dim - c, out + c, out_row, ahead);
  }

  template <index_t Queries, index_t Vectors>
  ZEROTUNE_ALWAYS_INLINE static void add_columns(const acc* weights, const cell* const* values,
                                                 index_t count, index_t c, index_t columns,
                                                 acc* out, index_t out_row, rows_ahead<T> ahead) {
    batch sums[Queries][Vectors];
    for (index_t i = 0; i < Queries; ++i)
      for (index_t n = 0; n < Vectors; ++n)
        sums[i][n] = batch::load_aligned(out + i * out_row + n * lanes);
    for (index_t j = 0; j < count; ++j) {
      fetch_row(ahead, j);
      const cell* const v = values[j] + c;
      batch x[Vectors];
      if constexpr (Vectors == 1) {
        x[0] = columns < lanes ? load_first<batch>(v, columns) : load<batch>(v);
      } else {
        for (index_t n = 0; n < Vectors; n += 2) {
          x[n] = cells::template load_half<0>(v + n * lanes);
          x[n + 1] = cells::template load_half<1>(v + n * lanes);
        }
      }
      for (index_t i = 0; i < Queries; ++i) {
        const batch w(weights[i * decode_keys + j]);
        for (index_t n = 0; n < Vectors; ++n) sums[i][n] = multiply_add(w, x[n], sums[i][n]);
      }
    }
    for (index_t i = 0; i < Queries; ++i)
      for (index_t n = 0; n < Vectors; ++n) sums[i][n].store_aligned(out + i * out_row + n * lanes);
  }

  /// Asks for a row of those ahead, four lines at a time.
  ZEROTUNE_ALWAYS_INLINE static void fetch_row(const rows_ahead<T>& ahead, index_t number) {
    if (number >= ahead.count) return;
    const index_t bytes = ahead.cells * static_cast<index_t>(sizeof(T));
    const char* const row = reinterpret_cast<const char*>(ahead.rows[number]);
    for (index_t at = 0; at < bytes; at += 256)
      for (index_t line = 0; line < 256; line += 64) __builtin_prefetch(row + at + line, 0, 2);
  }
};

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
