// SPDX-License-Identifier: Apache-2.0
// The SIMD back end's operations of decode (layer: kernel): a tile of queries by keys takes one
// accumulator a pair, so that a row of K serves several queries while it is in registers; a tile of
// queries by columns goes over the rows of V.
#pragma once

#include "zerotune/kernel/decode.hpp"
#include "zerotune/kernel/simd/cells.hpp"
#include "zerotune/kernel/simd/pair_cells.hpp"
#include "zerotune/kernel/simd/product_kind.hpp"
#include "zerotune/kernel/simd/row_ops.hpp"
#include "zerotune/kernel/simd/weigh_rows.hpp"

#if defined(__GNUC__) && !defined(__clang__)  // as in xsimd_compat.hpp
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// Where the weight of query i and key j stands, or of keys j and j + 1: in a row of its query, or
/// in a tile of four queries by four keys.
struct weight_rows {
  template <class Cells>
  ZEROTUNE_ALWAYS_INLINE static constexpr index_t at(index_t i, index_t j) {
    return i * Cells::weight_row + j / Cells::keys_together;
  }
};
struct weight_tiles {
  template <class Cells>
  ZEROTUNE_ALWAYS_INLINE static constexpr index_t at(index_t i, index_t j) {
    return (j / 4 * 16 + i * 4 + j % 4) / Cells::keys_together;
  }
};

/// Decode's operations on rows that are read by Cells.
template <class Batch, cache_element T, class Cells>
struct decode_tiles {
  using acc = accumulator_t<T>;
  using batch = Batch;
  using cells = Cells;
  using cell = typename cells::type;
  static constexpr index_t lanes = impl::lanes<batch>;
  /// Accumulators of a tile of queries by columns: half of the registers, or all but those of V.
  static constexpr index_t most_columns = sizeof(acc) * batch::size == 64 ? 4 : 2;

  using weight = typename cells::weight;
  static constexpr index_t tile_rows = weighs_late<batch> && std::is_same_v<cell, T> ? 4 : 0;
  static constexpr acc raise_beyond = weighs_late<batch> ? 1 : 0;

  template <element Q>
  [[gnu::flatten]] static void pack(const Q* q, index_t q_stride, index_t dim,
                                    acc* packed) noexcept {
    cells::pack(q, q_stride, dim, packed);
  }
  static void unpack(acc* out, index_t dim) noexcept { cells::unpack(out, dim); }

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
      const batch weight = decode_weight(batch::load_aligned(scores + j), shift);
      cells::rounded(weight).store_aligned(scores + j);
      total += weight;
    }
    (batch::load_unaligned(sum) + total).store_unaligned(sum);
  }

  [[gnu::flatten]] static void scores(const acc* packed, index_t packed_row, index_t rows,
                                      const T* const* keys, index_t stride, index_t count,
                                      index_t dim, acc factor, acc* scores,
                                      const rows_ahead<T>& ahead) noexcept {
    cells::with_rows(keys, stride, count, dim, ahead,
                     [&](const cell* const* k, index_t first, index_t some, rows_ahead<T> rest) {
                       index_t i = 0;
                       const auto tiles = [&](auto width) __attribute__((always_inline)) {
                         constexpr index_t queries = decltype(width)::value;
                         for (; i + queries <= rows; i += queries) {
                           score_rows<queries, cells>(packed + i * packed_row, packed_row, k, some,
                                                      dim, factor, scores + i * decode_keys + first,
                                                      rest);
                           rest = {};
                         }
                       };
                       if constexpr (lanes >= 4) tiles(constant<4>{});
                       tiles(constant<2>{});
                       tiles(constant<1>{});
                     });
  }

  [[gnu::flatten]] static void accumulate(const acc* weights, index_t rows, const T* const* values,
                                          index_t stride, index_t count, index_t dim, acc* out,
                                          index_t out_row, const rows_ahead<T>& ahead) noexcept {
    cells::with_rows(values, stride, count, dim, ahead,
                     [&](const cell* const* v, index_t first, index_t some, rows_ahead<T> rest) {
                       alignas(64) typename cells::weight own[cells::weights_size];
                       const auto* const w = cells::weights_of(weights + first, rows, some, own);
                       index_t i = 0;
                       const auto tiles = [&](auto width) __attribute__((always_inline)) {
                         constexpr index_t queries = decltype(width)::value;
                         for (; i + queries <= rows; i += queries) {
                           add_rows<queries>(w + i * cells::weight_row, v, some, dim,
                                             out + i * out_row, out_row, rest);
                           rest = {};
                         }
                       };
                       tiles(constant<4>{});
                       tiles(constant<2>{});
                       tiles(constant<1>{});
                     });
  }

#if defined(__AVX512F__)
  [[gnu::flatten]] static void weigh_tile(const acc* packed, index_t packed_row,
                                          const T* const* keys, index_t dim, acc factor,
                                          acc (&maximum)[4], acc (&totals)[4][16],
                                          acc (*poison)[16], weight* weights,
                                          const rows_ahead<T>& ahead) noexcept {
    weigh_rows<cells>(packed, packed_row, keys, dim, factor, raise_beyond, maximum, totals, poison,
                      weights, ahead);
  }
#endif
  [[gnu::flatten]] static void add_tile(const weight* weights, const T* const* values, index_t dim,
                                        acc* out, index_t out_row,
                                        const rows_ahead<T>& ahead) noexcept {
    add_rows<4, weight_tiles>(weights, values, decode_keys, dim, out, out_row, ahead);
  }

 private:
  /// out_i += sum_j weights[i][j] v_j for Queries queries.
  template <index_t Queries, class Layout = weight_rows>
  ZEROTUNE_ALWAYS_INLINE static void add_rows(const typename cells::weight* weights,
                                              const cell* const* values, index_t count, index_t dim,
                                              acc* out, index_t out_row, rows_ahead<T> ahead) {
    constexpr index_t wide = Queries < 4 ? 2 * most_columns : most_columns;
    index_t c = 0;
    const auto columns = [&](auto width) __attribute__((always_inline)) {
      constexpr index_t vectors = decltype(width)::value;
      for (; c + vectors * lanes <= dim; c += vectors * lanes) {
        add_columns<Queries, vectors, Layout>(weights, values, count, c, vectors * lanes, out + c,
                                              out_row, ahead);
        if constexpr (!fetches_in_pieces<batch>) ahead = {};
      }
    };
    columns(constant<wide>{});
    columns(constant<2>{});
    if constexpr (cells::least_vectors == 1) columns(constant<1>{});
    if (fetches_in_pieces<batch> && c * index_t{sizeof(cell)} < ahead.bytes)
      for (index_t j = 0; j < count; ++j) fetch_rest<1>(ahead, j, c);
    if (c < dim)
      add_columns<Queries, cells::least_vectors, Layout>(
          weights, values, count, c, dim - c, out + c, out_row,
          fetches_in_pieces<batch> ? rows_ahead<T>{} : ahead);
  }

  template <index_t Queries, index_t Vectors, class Layout>
  ZEROTUNE_ALWAYS_INLINE static void add_columns(const typename cells::weight* weights,
                                                 const cell* const* values, index_t count,
                                                 index_t c, index_t columns, acc* out,
                                                 index_t out_row, const rows_ahead<T>& ahead) {
    using operand = typename cells::operand;
    constexpr index_t together = cells::keys_together;
    batch sums[Queries][Vectors];
    unrolled<Queries>([&](auto i) __attribute__((always_inline)) {
      unrolled<Vectors>([&](auto n) __attribute__((always_inline)) {
        sums[i][n] = batch::load_aligned(out + i * out_row + n * lanes);
      });
    });
    for (index_t j = 0; j < count; j += together) {
      if constexpr (fetches_in_pieces<batch>)
        fetch_columns<together, Vectors * lanes>(ahead, j, c);
      else
        fetch_lines<together, 2>(ahead, j, 0, ahead.bytes);
      operand x[Vectors];
      cells::load_columns(values + j, count - j, c, columns, x);
      unrolled<Queries>([&](auto i) __attribute__((always_inline)) {
        const operand w = cells::splat(weights[Layout::template at<cells>(i, j)]);
        unrolled<Vectors>([&](auto n) __attribute__((always_inline)) {
          sums[i][n] = w.multiply(x[n], sums[i][n]);
        });
      });
    }
    unrolled<Queries>([&](auto i) __attribute__((always_inline)) {
      unrolled<Vectors>([&](auto n) __attribute__((always_inline)) {
        sums[i][n].store_aligned(out + i * out_row + n * lanes);
      });
    });
  }
};

template <class Arch, cache_element T>
struct decode_ops<backend::simd<Arch>, T>
    : decode_tiles<batch<accumulator_t<T>, Arch>, T, cells<batch<accumulator_t<T>, Arch>, T>> {};

/// The same by pairs.
template <class Arch>
struct decode_pair_ops
    : decode_tiles<batch<float, Arch>, bfloat16, pair_cells<batch<float, Arch>>> {};

#if defined(__AVX512BF16__)
template <class Arch>
struct decode_choice<backend::simd<Arch>, bfloat16, bfloat16> {
  template <class Body>
  static void with(const Body& body) {
    if constexpr (is_512_bits<batch<float, Arch>, float>)
      if (bfloat16_products() == product_kind::pairs) {
        body(decode_pair_ops<Arch>{});
        return;
      }
    body(decode_ops<backend::simd<Arch>, bfloat16>{});
  }
};
#endif

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
